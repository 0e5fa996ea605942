"""How far two score files agree: correlation of the heads' scores (Michel et al. 2019, section 3.4)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import UnitId
from nmtprune.errors import DataError

_NAMED_HEADS = 5


@dataclass(frozen=True)
class Correlation:
    """Agreement of two rankings of the same heads.

    Attributes:
        heads: number of heads.
        pearson: Pearson's r.
        pearson_p: its two-sided p-value.
        spearman: Spearman's rho; equal scores share their mean rank.
        spearman_p: its two-sided p-value.
    """

    heads: int
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float


def correlate(
    first: Mapping[UnitId, float], second: Mapping[UnitId, float], names: tuple[str, str] = ("first", "second")
) -> Correlation:
    """Correlation over heads, matched by id.

    Args:
        first: score of every head.
        second: score of every head.
        names: what errors call the two, usually the files.

    Raises:
        DataError: different heads, fewer than three, a score that is no number, or scores that are all equal: then a
            correlation is not defined.
    """
    from scipy import stats

    _check_same_heads(first, second, names)
    heads = sorted(first)
    if len(heads) < 3:
        raise DataError(f"{names[0]} and {names[1]}: a correlation needs at least 3 heads, here are {len(heads)}")
    own, other = (_vector(scores, heads, name) for scores, name in zip((first, second), names, strict=True))
    pearson = stats.pearsonr(own, other)
    spearman = stats.spearmanr(own, other)
    return Correlation(
        heads=len(heads),
        pearson=float(pearson.statistic),
        pearson_p=float(pearson.pvalue),
        spearman=float(spearman.statistic),
        spearman_p=float(spearman.pvalue),
    )


def _vector(scores: Mapping[UnitId, float], heads: list[UnitId], name: str) -> NDArray[np.float64]:
    """Scores [heads], scaled so that the largest is 1: correlations do not change, and nothing over- or underflows."""
    bad = [head for head in heads if not math.isfinite(scores[head])]
    if bad:
        raise DataError(f"{name}: no number as score of {_listed(bad)}")
    values = np.array([scores[head] for head in heads], dtype=np.float64)
    largest = np.abs(values).max()
    if largest > 0:
        values = values / largest
    # What scipy calls nearly constant: the spread is rounding error of the mean.
    if np.linalg.norm(values - values.mean()) <= 1e-13 * abs(values.mean()) or largest == 0:
        raise DataError(f"{name}: all {len(heads)} heads have the same score, so a correlation is not defined")
    return values


def _check_same_heads(first: Mapping[UnitId, float], second: Mapping[UnitId, float], names: tuple[str, str]) -> None:
    only_first, only_second = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    faults = [
        f"only {name} has {_listed(heads)}"
        for name, heads in zip(names, (only_first, only_second), strict=True)
        if heads
    ]
    if faults:
        raise DataError.of_faults(f"{names[0]} and {names[1]} score different heads", faults)


def _listed(heads: list[UnitId]) -> str:
    named = ", ".join(map(str, heads[:_NAMED_HEADS]))
    rest = len(heads) - _NAMED_HEADS
    return f"{named} and {rest} more" if rest > 0 else named
