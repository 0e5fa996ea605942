"""Draws are one stream, sums are exact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.evaluate import resampling


def test_draws_in_chunks_continue_one_stream() -> None:
    whole, stream = resampling.BootstrapDraws(0, 13).next(5), resampling.BootstrapDraws(0, 13)
    assert np.array_equal(np.concatenate([stream.next(rows) for rows in (1, 3, 1)]), whole)
    drawn = resampling.BootstrapDraws(1, 13).next(4)
    assert np.array_equal(drawn, np.random.default_rng(1).choice(13, size=(4, 13), replace=True))
    weights = resampling.BootstrapDraws(1, 13).weights(drawn, np.float32)
    assert weights.tolist() == [[float(np.sum(row == sentence)) for sentence in range(13)] for row in drawn]


def test_an_error_in_one_thread_ends_the_others() -> None:
    done = []

    def work(chunk: slice, drawn: Any) -> None:
        done.append(chunk)
        raise FloatingPointError("once")

    with pytest.raises(FloatingPointError, match="once"):
        resampling.for_each_chunk(resampling.BootstrapDraws(1, 5), 10_000, 1, work, threads=2)
    assert len(done) < 100


counts = st.integers(1, 6).flatmap(
    lambda sentences: st.lists(
        st.lists(st.lists(st.integers(0, 2**22), min_size=3, max_size=3), min_size=sentences, max_size=sentences),
        min_size=2,
        max_size=4,
    )
)


@given(counts, st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_sums_of_counts_are_exact(statistics: list[list[list[int]]], seed: int) -> None:
    baseline, *systems = (np.array(each) for each in statistics)
    sums = resampling.SummedDifferences(baseline, systems)
    weights = np.random.default_rng(seed).multinomial(len(baseline), [1 / len(baseline)] * len(baseline), size=5)
    largest = max(int(each.max()) for each in (baseline, *systems))
    assert sums.dtype == (np.float32 if largest * len(baseline) < 2**24 else np.float64)
    base, differences = sums(weights.astype(sums.dtype))
    assert np.array_equal(base, (weights @ baseline).T)
    for number, system in enumerate(systems):
        assert np.array_equal(base + differences[:, number], (weights @ system).T)


def test_what_equals_the_baseline_is_not_multiplied() -> None:
    generator = np.random.default_rng(1)
    baseline = generator.integers(0, 9, (40, 3))
    changed = baseline.copy()
    changed[5] += [1, 0, 1]
    sums = resampling.SummedDifferences(baseline, [baseline, changed, changed])
    # Three columns of the baseline, one of nothing, one of the change that two columns of two systems share.
    assert len(sums._matrix) == 5


def test_losses_are_summed_as_multiples_of_a_power_of_two() -> None:
    generator = np.random.default_rng(2)
    baseline, system = generator.gamma(2, 30, (2, 500, 2))
    sums = resampling.SummedDifferences(baseline, [system])
    weights = resampling.BootstrapDraws(1, 500).weights(resampling.BootstrapDraws(1, 500).next(20), sums.dtype)
    base, differences = sums(weights)
    assert np.abs(base - (weights @ baseline).T).max() < 1e-7
    shuffled = generator.permutation(500)
    again = resampling.SummedDifferences(baseline[shuffled], [system[shuffled]])(weights[:, shuffled])
    assert np.array_equal(again[0], base)
    assert np.array_equal(again[1], differences)


@pytest.mark.parametrize(("width", "rows"), [(3000, 349), (10**7, 1), (1, 2**20)])
def test_a_chunk_has_about_a_million_cells(width: int, rows: int) -> None:
    assert resampling.chunk_rows(width) == rows
