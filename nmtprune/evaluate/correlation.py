"""How far two score files agree: correlation of the scores of units (Michel et al. 2019, section 3.4)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import SORTS, UnitId
from nmtprune.errors import DataError

_NAMED_UNITS = 5


@dataclass(frozen=True)
class Correlation:
    """Agreement of two rankings of the same units.

    Attributes:
        heads: number of heads, or of neurons or layers.
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


def correlate_sorts(
    first: Mapping[UnitId, float], second: Mapping[UnitId, float], names: tuple[str, str] = ("first", "second")
) -> dict[str, Correlation]:
    """Correlations over heads, over neurons and over layers, of those that there are, each by its word.

    Raises:
        DataError: different units, or as for `correlate`.
    """
    _check_same_units(first, second, names)
    own, other = _by_sort(first), _by_sort(second)
    return {sort: correlate(own[sort], other[sort], names) for sort in SORTS if sort in own}


def correlate(
    first: Mapping[UnitId, float], second: Mapping[UnitId, float], names: tuple[str, str] = ("first", "second")
) -> Correlation:
    """Correlation over units of one sort, matched by id.

    Args:
        first: score of every unit.
        second: score of every unit.
        names: what errors call the two, usually the files.

    Raises:
        DataError: different units, fewer than three, a score that is no number, or scores that are all equal: then a
            correlation is not defined.
    """
    from scipy import stats

    _check_same_units(first, second, names)
    units = sorted(first)
    if len(units) < 3:
        raise DataError(
            f"{names[0]} and {names[1]}: a correlation needs at least 3 {_sort_of(units)}, here are {len(units)}"
        )
    own, other = (_vector(scores, units, name) for scores, name in zip((first, second), names, strict=True))
    pearson = stats.pearsonr(own, other)
    spearman = stats.spearmanr(own, other)
    return Correlation(
        heads=len(units),
        pearson=float(pearson.statistic),
        pearson_p=float(pearson.pvalue),
        spearman=float(spearman.statistic),
        spearman_p=float(spearman.pvalue),
    )


def _by_sort(scores: Mapping[UnitId, float]) -> dict[str, dict[UnitId, float]]:
    found: dict[str, dict[UnitId, float]] = {}
    for unit, score in scores.items():
        found.setdefault(unit.group.sort, {})[unit] = score
    return found


def _vector(scores: Mapping[UnitId, float], units: list[UnitId], name: str) -> NDArray[np.float64]:
    """Scores [units], scaled so that the largest is 1: correlations do not change, and nothing over- or underflows."""
    bad = [unit for unit in units if not math.isfinite(scores[unit])]
    if bad:
        raise DataError(f"{name}: no number as score of {_listed(bad)}")
    values = np.array([scores[unit] for unit in units], dtype=np.float64)
    largest = np.abs(values).max()
    if largest > 0:
        values = values / largest
    # What scipy calls nearly constant: the spread is rounding error of the mean.
    if np.linalg.norm(values - values.mean()) <= 1e-13 * abs(values.mean()) or largest == 0:
        raise DataError(
            f"{name}: all {len(units)} {_sort_of(units)} have the same score, so a correlation is not defined"
        )
    return values


def _check_same_units(first: Mapping[UnitId, float], second: Mapping[UnitId, float], names: tuple[str, str]) -> None:
    only_first, only_second = sorted(first.keys() - second.keys()), sorted(second.keys() - first.keys())
    faults = [
        f"only {name} has {_listed(units)}"
        for name, units in zip(names, (only_first, only_second), strict=True)
        if units
    ]
    if faults:
        what = _sort_of([*first, *second])
        raise DataError.of_faults(f"{names[0]} and {names[1]} score different {what}", faults)


def _sort_of(units: Iterable[UnitId]) -> str:
    """The word for these units: heads, neurons or layers, or units of several sorts."""
    sorts = {unit.group.sort for unit in units}
    return "heads" if not sorts else sorts.pop() if len(sorts) == 1 else "units"


def _listed(units: list[UnitId]) -> str:
    named = ", ".join(map(str, units[:_NAMED_UNITS]))
    rest = len(units) - _NAMED_UNITS
    return f"{named} and {rest} more" if rest > 0 else named
