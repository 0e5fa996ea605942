"""The paired bootstrap test of systems against one baseline: what each resample gives, and the p-values of it.

Two-sided p (Koehn 2004): of n resampled differences d*_i, c are at least as far from their mean as the observed
difference d is from 0; p = (c + 1) / (n + 1).

sacrebleu's own number counts, strictly, |d*_i| - mean(|d*|) > |d|, from float32 sums and precisions. Its draws, sums
and precisions are those here; where rounding of the last bits could decide a comparison, the draws are repeated and
scored in sacrebleu's own arithmetic, slowly.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.resampling import (
    FLOAT32_EXACT,
    Array,
    BootstrapDraws,
    SummedDifferences,
    chunk_rows,
    for_each_chunk,
)

TIE = 1e-10
"""Differences of scores (points, or nats per token) closer than this are equal: rounding reaches 1e-12 points."""

_PERCENTILES = (0.025, 0.975)


@dataclass(frozen=True)
class ResamplingSettings:
    """How a test is run.

    Attributes:
        resamples: n.
        seed: of the one generator that all draws come from; 0 is a seed.
        threads: what works on chunks of resamples at once.
        chunk: resamples in a chunk; None chooses. Results do not depend on it.
    """

    resamples: int
    seed: int
    threads: int = 1
    chunk: int | None = None


@dataclass(frozen=True)
class Resampled:
    """What the resamples say of one system.

    Attributes:
        p: two-sided p-value, uncorrected.
        interval: 2.5 % and 97.5 % percentile of the resampled differences, linear between resamples.
        better: resamples in which the system beats the baseline; the rest are ties.
        worse: resamples in which it loses.
        p_sacrebleu: sacrebleu's p-value; None for metrics that it does not have.
    """

    p: float
    interval: tuple[float, float]
    better: int
    worse: int
    p_sacrebleu: float | None


class Bootstrap:
    """Paired bootstrap resampling over sentences (Koehn 2004), as `sacrebleu --paired-bs` draws it.

    Some systems are compared with one baseline under common draws.
    """

    def __init__(
        self, baseline: Scored, systems: Sequence[Scored], settings: ResamplingSettings, *, exact: bool = False
    ) -> None:
        """Prepare a test; `exact` makes sacrebleu's differences equal to its own in every bit."""
        self._baseline, self._systems, self._settings = baseline, systems, settings
        self._metric = baseline.metric
        self._sacrebleu_scores = self._metric.sacrebleu_scores if exact else self._metric.scores
        self._sums = SummedDifferences(baseline.statistics, [system.statistics for system in systems])
        self._deltas: Array = np.empty((len(systems), settings.resamples))
        self._observed = [system.score - baseline.score for system in systems]
        self._scored: Array | None = None
        if self._metric.sacrebleu_error is not None:
            corpus = baseline.statistics.sum(axis=0, dtype=np.float32)
            precision = self._metric.scores(corpus[:, None]).dtype
            self._scored = np.empty((1 + len(systems), settings.resamples), precision)

    def run(self) -> tuple[Resampled, ...]:
        """Resample and summarise every system, in their order."""
        self._resample()
        doubtful = [number for number in range(len(self._systems)) if self._is_doubtful(number)]
        settled = self._settled(doubtful)
        with ThreadPoolExecutor(self._settings.threads) as pool:
            summaries = pool.map(self._summary, range(len(self._systems)))
            return tuple(
                replace(each, p_sacrebleu=settled.get(number, each.p_sacrebleu))
                for number, each in enumerate(summaries)
            )

    def _resample(self) -> None:
        settings, sentences = self._settings, len(self._baseline.statistics)
        draws = BootstrapDraws(settings.seed, sentences)
        widest = max(sentences, self._baseline.statistics.shape[1] * len(self._systems))

        def work(chunk: slice, drawn: Array) -> None:
            self._score(chunk, drawn, draws.weights(drawn, self._sums.dtype))

        for_each_chunk(draws, settings.resamples, settings.chunk or chunk_rows(widest), work, settings.threads)

    def _score(self, chunk: slice, drawn: Array, weights: Array) -> None:
        """Store the differences of one chunk, and the scores that sacrebleu would compare."""
        base, differences = self._sums(weights)
        # Exact sums [stats, 1 or systems, R] of the baseline and of each system.
        first, second = base[:, None], base[:, None] + differences
        self._deltas[:, chunk] = self._metric.scores(second) - self._metric.scores(first)
        if self._scored is not None:
            self._scored[:1, chunk] = self._sacrebleu_scores(self._as_sacrebleu(first, [self._baseline], drawn))
            self._scored[1:, chunk] = self._sacrebleu_scores(self._as_sacrebleu(second, self._systems, drawn))

    def _as_sacrebleu(self, sums: Array, sources: Sequence[Scored], drawn: Array) -> Array:
        """Sums in float32; where they leave the exact range, added one sentence after the other as sacrebleu does.

        That is as slow as sacrebleu, and needs more than 2^24 words (BLEU) or characters (chrF) in a resample.
        """
        rounded = sums.astype(np.float32)
        if self._sums.dtype == np.float32:
            return rounded
        for system, row in np.argwhere((sums > FLOAT32_EXACT).any(axis=0)):
            rounded[:, system, row] = sources[system].statistics[drawn[row]].astype(np.float32).sum(axis=0)
        return rounded

    def _sacrebleu_differences(self, system: int) -> Array:
        """|d*| [n] as sacrebleu has them, up to the metric's `sacrebleu_error`."""
        if self._scored is None:
            raise ValueError(f"{self._metric.name} is no metric of sacrebleu")
        first, second = (_as_array_of_scores(self._scored[row]) for row in (0, 1 + system))
        differences: Array = np.abs(second - first)
        return differences

    def deltas(self) -> Array:
        """Resampled differences [systems, n] of each system from the baseline, and no more."""
        self._scored = None
        self._resample()
        return self._deltas

    def _summary(self, system: int) -> Resampled:
        found = summarized(self._deltas[system], self._observed[system])
        return replace(found, p_sacrebleu=self._p_sacrebleu(system))

    def _p_sacrebleu(self, system: int) -> float | None:
        if self._metric.sacrebleu_error is None:
            return None
        if self._is_identical(system):
            return _add_one(0, self._settings.resamples)
        beyond = np.count_nonzero(self._sacrebleu_distances(system) > abs(self._observed[system]))
        return _add_one(int(beyond), self._settings.resamples)

    def _sacrebleu_distances(self, system: int) -> Array:
        """What sacrebleu compares with |d|: [n]."""
        differences = self._sacrebleu_differences(system)
        distances: Array = differences - differences.mean()
        return distances

    def _is_identical(self, system: int) -> bool:
        return np.array_equal(self._systems[system].statistics, self._baseline.statistics)

    def _is_doubtful(self, system: int) -> bool:
        """Whether rounding might turn one of sacrebleu's comparisons."""
        error = self._metric.sacrebleu_error
        if not error or self._is_identical(system):
            return False
        return bool(np.any(np.abs(self._sacrebleu_distances(system) - abs(self._observed[system])) <= error))

    def _settled(self, doubtful: Sequence[int]) -> dict[int, float | None]:
        """P-values of some systems in sacrebleu's own arithmetic."""
        if not doubtful:
            return {}
        again = Bootstrap(self._baseline, [self._systems[number] for number in doubtful], self._settings, exact=True)
        again._resample()
        return {number: again._p_sacrebleu(position) for position, number in enumerate(doubtful)}


def summarized(deltas: Array, observed: float) -> Resampled:
    """What resampled differences [n] say of a system, without sacrebleu's p-value.

    Args:
        deltas: resampled differences.
        observed: the difference on all sentences.
    """
    reached = np.count_nonzero(np.abs(deltas - deltas.mean()) >= abs(observed) - TIE)
    low, high = np.quantile(deltas, _PERCENTILES)
    return Resampled(
        p=_add_one(int(reached), len(deltas)),
        interval=(float(low), float(high)),
        better=int(np.count_nonzero(deltas > TIE)),
        worse=int(np.count_nonzero(deltas < -TIE)),
        p_sacrebleu=None,
    )


def _add_one(reached: int, resamples: int) -> float:
    return (reached + 1) / (resamples + 1)


def _as_array_of_scores(scores: Array) -> Array:
    # sacrebleu's chrF returns a float32, but a Python float where nothing matches: numpy makes the array float64 then.
    return scores if scores.all() else scores.astype(np.float64)
