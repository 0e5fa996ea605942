"""Sums of per-sentence statistics over many random weightings of the sentences: one exact matrix product.

Many systems are compared with one baseline under common weights (how often a resample holds each sentence). Only what
differs from the baseline is multiplied, equal columns once: with one reference the lengths of the references drop out,
and the totals of all n-gram orders mostly share one column. All sums are exact, whatever the order of summation, so no
result depends on how the resamples are cut into chunks:

- integer statistics: exact in float32 below 2^24, else in float64 (exact below 2^53);
- losses: rounded once to multiples of a power of two that leaves 2^51 steps for the largest possible sum (for 3 000
  sentences that is 1e-9 nats of a sentence's loss), then as integers.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.evaluate.metrics import Statistics

FLOAT32_EXACT = 2**24
"""Integers up to here, and sums that stay below, are exact in float32."""

_CHUNK_CELLS = 1 << 20
_STEPS = 51

Array = NDArray[Any]


class SummedDifferences:
    """Weighted sums of the statistics of a baseline and of systems that are compared with it."""

    def __init__(self, baseline: Statistics, systems: Sequence[Statistics]) -> None:
        """Collect the columns to multiply; all statistics are [sentences, stats]."""
        largest = np.max([np.abs(each).max(axis=0) for each in (baseline, *systems)], axis=0).astype(np.float64)
        self._step = _steps(baseline, largest * len(baseline))
        bound = float((largest / self._step).max()) * len(baseline)
        self.dtype = np.float32 if bound < FLOAT32_EXACT else np.float64
        base = np.rint(baseline / self._step)
        columns = _UniqueColumns(self.dtype)
        self._base_rows = columns.rows_of(base)
        # [stats, systems]: which row of the product holds that difference.
        self._rows = np.array([columns.rows_of(np.rint(each / self._step) - base) for each in systems]).T
        self._matrix = np.array(columns.vectors)

    def __call__(self, weights: Array) -> tuple[Array, Array]:
        """Sums of the baseline [stats, R] and of the systems' differences [stats, systems, R], float64.

        Args:
            weights: [R, sentences] of this object's dtype, at most `sentences` in each row's sum.
        """
        product = np.matmul(self._matrix, weights.T)
        step = self._step.astype(np.float64)
        return product[self._base_rows] * step[:, None], product[self._rows] * step[:, None, None]


class _UniqueColumns:
    """Distinct columns of several matrices, each kept once."""

    def __init__(self, dtype: Any) -> None:
        self.vectors: list[Array] = []
        self._dtype = dtype
        self._positions: dict[bytes, int] = {}

    def rows_of(self, matrix: Array) -> Array:
        """Positions in `vectors` of every column of a matrix [sentences, stats]."""
        return np.array([self._position(column) for column in matrix.T])

    def _position(self, column: Array) -> int:
        # Adding 0 makes -0.0 a 0.0: one number, one key.
        vector = np.ascontiguousarray(column + 0.0, dtype=self._dtype)
        position = self._positions.setdefault(vector.tobytes(), len(self.vectors))
        if position == len(self.vectors):
            self.vectors.append(vector)
        return position


def _steps(statistics: Statistics, sums: Array) -> Array:
    """The step of each column [stats]: 1 for counts, a power of two for losses whose sums reach `sums`."""
    if np.issubdtype(statistics.dtype, np.integer):
        return np.ones(len(sums))
    steps: Array = np.ldexp(1.0, np.frexp(sums)[1] - _STEPS)
    return steps


class BootstrapDraws:
    """Resamples with replacement (Koehn 2004): sentence indices of one generator, in sacrebleu's order."""

    def __init__(self, seed: int, sentences: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._sentences = sentences

    def next(self, rows: int) -> Array:
        """Sentence indices [rows, sentences]; calls continue one stream, as one call for all rows would give it."""
        return self._generator.integers(0, self._sentences, size=(rows, self._sentences))

    def weights(self, draws: Array, dtype: Any) -> Array:
        """How often each resample holds each sentence [rows, sentences]."""
        rows, sentences = draws.shape
        cells = draws + np.arange(0, rows * sentences, sentences)[:, None]
        return np.bincount(cells.ravel(), minlength=rows * sentences).reshape(rows, sentences).astype(dtype)


def chunk_rows(width: int) -> int:
    """Resamples that are worked on together: about a million cells, `width` for each."""
    return max(1, _CHUNK_CELLS // width)


def for_each_chunk(
    draws: BootstrapDraws, total: int, rows: int, work: Callable[[slice, Array], None], threads: int
) -> None:
    """Call `work(which, raw draws)` for all resamples in chunks of `rows`, on several threads.

    Draws are taken in order, under a lock; what is done with them may overlap, and numpy lets threads run meanwhile.
    """
    lock = threading.Lock()
    starts = iter(range(0, total, rows))
    failed = threading.Event()

    def run() -> None:
        while not failed.is_set():
            with lock:
                start = next(starts, None)
                if start is None:
                    return
                chunk = slice(start, min(start + rows, total))
                drawn = draws.next(chunk.stop - chunk.start)
            work(chunk, drawn)

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(run) for _ in range(threads)]
        try:
            for future in futures:
                future.result()
        finally:
            failed.set()
