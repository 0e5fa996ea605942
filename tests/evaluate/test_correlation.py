"""Correlations over heads against their definitions, and score files that cannot be compared."""

import math

import numpy as np
import pytest

from nmtprune.architecture import UnitId
from nmtprune.errors import DataError
from nmtprune.evaluate.correlation import correlate


def heads(*scores: float) -> dict[UnitId, float]:
    return {UnitId.parse(f"encoder.{number // 4}.{number % 4}"): score for number, score in enumerate(scores)}


def test_pearson_and_spearman_are_those_of_their_definitions() -> None:
    generator = np.random.default_rng(1)
    first = generator.normal(size=40)
    second = first + generator.normal(size=40)
    result = correlate(heads(*first), heads(*second))
    centred = first - first.mean(), second - second.mean()
    pearson = centred[0] @ centred[1] / np.linalg.norm(centred[0]) / np.linalg.norm(centred[1])
    ranks = [each.argsort().argsort().astype(float) - 19.5 for each in (first, second)]
    assert result.heads == 40
    assert result.pearson == pytest.approx(pearson, abs=1e-12)
    assert result.spearman == pytest.approx(ranks[0] @ ranks[1] / (ranks[0] @ ranks[0]), abs=1e-12)
    # p of Pearson's r: how often a random pairing of the heads correlates as strongly.
    shuffled = np.array([centred[0] @ generator.permutation(centred[1]) for _ in range(4000)])
    expected = np.mean(np.abs(shuffled) >= abs(centred[0] @ centred[1]))
    assert result.pearson_p == pytest.approx(expected, abs=0.01)
    assert result.spearman_p < 0.01


def test_p_of_uncorrelated_scores_agrees_with_all_pairings() -> None:
    import itertools

    first, second = [1.0, 2.0, 3.5, 4.0, 7.0, 7.5], [3.0, 1.0, 4.0, 2.5, 2.0, 5.0]
    result = correlate(heads(*first), heads(*second))
    every = [np.corrcoef(first, order)[0, 1] for order in itertools.permutations(second)]
    assert result.pearson_p == pytest.approx(np.mean(np.abs(every) >= abs(result.pearson) - 1e-12), abs=0.05)


def test_order_of_the_heads_and_scale_of_the_scores_do_not_matter() -> None:
    first, second = heads(1, 2, 4, 3, 9), heads(2, 1, 5, 4, 6)
    result = correlate(first, second)
    assert correlate(dict(reversed(first.items())), second) == result
    scaled = correlate({head: -1e300 * score for head, score in first.items()}, second)
    assert scaled.pearson == pytest.approx(-result.pearson)
    tiny = correlate({head: 1e-300 * score for head, score in first.items()}, second)
    assert tiny.pearson == pytest.approx(result.pearson)
    assert correlate(first, first).pearson == pytest.approx(1.0)
    assert correlate(first, second) == correlate(first, second)


def test_equal_scores_share_their_rank() -> None:
    assert correlate(heads(1, 1, 2, 3), heads(5, 5, 6, 7)).spearman == pytest.approx(1.0)


@pytest.mark.parametrize("score", [0.0, -3.25, 0.1])
def test_constant_scores_are_refused(score: float) -> None:
    with pytest.raises(DataError) as error:
        correlate(heads(1, 2, 3, 4), heads(*[score] * 4), names=("a.json", "b.json"))
    assert str(error.value) == "b.json: all 4 heads have the same score, so a correlation is not defined"


def test_scores_that_differ_by_rounding_only_are_constant() -> None:
    with pytest.raises(DataError, match=r"^first: all 3 heads have the same score"):
        correlate(heads(0.3, 0.1 + 0.2, 0.3), heads(1, 2, 3))


def test_different_heads_are_refused_and_named() -> None:
    first = heads(*range(9))
    second = heads(*range(3)) | {UnitId.parse("cross.0.1"): 4.0}
    with pytest.raises(DataError) as error:
        correlate(first, second, names=("a.json", "b.json"))
    assert str(error.value) == (
        "a.json and b.json score different heads: only a.json has encoder.0.3, encoder.1.0, encoder.1.1, encoder.1.2, "
        "encoder.1.3 and 1 more; only b.json has cross.0.1"
    )


def test_too_few_heads_and_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match=r"^first and second: a correlation needs at least 3 heads, here are 2$"):
        correlate(heads(1, 2), heads(1, 2))
    with pytest.raises(DataError, match=r"^second: no number as score of encoder\.0\.1$"):
        correlate(heads(1, 2, 3), heads(1, math.nan, 3))
