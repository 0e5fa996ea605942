"""Which of many differences from one baseline are significant: resamples needed, corrections, the verdict."""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nmtprune.errors import DataError, UsageError
from nmtprune.evaluate.mcnemar import mcnemar
from nmtprune.evaluate.metrics import Metric, Scored
from nmtprune.evaluate.over_directions import MeanBootstrap, OverDirections
from nmtprune.evaluate.paired import Bootstrap, Resampled, ResamplingSettings

Correction = Literal["holm", "bh", "none"]

BOOTSTRAP, MCNEMAR = "bootstrap", "mcnemar-exact"

CORRECTIONS: tuple[Correction, ...] = ("holm", "bh", "none")

_UNCORRECTED_RESAMPLES = 10_000
_THREADS = 8
_MEMORY_BYTES = 1 << 31
# A resampled difference and the score by which sacrebleu finds the same.
_BYTES_PER_RESAMPLE = 16


@dataclass(frozen=True)
class Difference:
    """One system compared with the baseline.

    Attributes:
        delta: metric(system) - metric(baseline) as the metric counts: more BLEU and less loss are better.
        ci: 95 % percentile interval of the bootstrapped deltas.
        p: two-sided p-value.
        p_corrected: p after the correction for the number of systems.
        p_sacrebleu: what sacrebleu's paired test reports; None for metrics that it does not have.
        significant: p_corrected < alpha.
        better: share of resamples in which the system beats the baseline.
        worse: share in which it loses; the remaining ones are ties.
    """

    delta: float
    ci: tuple[float, float]
    p: float
    p_corrected: float
    p_sacrebleu: float | None
    significant: bool
    better: float
    worse: float


@dataclass(frozen=True)
class SignificanceTest:
    """How differences are tested.

    Attributes:
        alpha: significant is what has p_corrected < alpha.
        correction: for several tests: `holm` (family-wise error), `bh` (Benjamini and Hochberg: false discovery rate)
            or `none`.
        resamples: n, or `auto`: 10 x tests / alpha with a correction, 10 000 without.
        seed: 0 is a seed.
        threads: None takes the processors that this process may use, at most 8: the matrix product has its own.
    """

    alpha: float = 0.01
    correction: Correction = "holm"
    resamples: int | Literal["auto"] = "auto"
    seed: int = 1
    threads: int | None = None

    @staticmethod
    def method_of(metric: Metric) -> str:
        """Name of the test in files: McNemar's where sentences are right or wrong, else the paired bootstrap."""
        return MCNEMAR if metric.discordant else BOOTSTRAP

    def __post_init__(self) -> None:
        """Refuse values that no test can have."""
        faults = []
        if not 0 < self.alpha < 1:
            faults.append(f"alpha {self.alpha:g} is not between 0 and 1")
        if self.correction not in CORRECTIONS:
            faults.append(f"no correction '{self.correction}': choose one of {', '.join(CORRECTIONS)}")
        if self.resamples != "auto" and (not isinstance(self.resamples, int) or self.resamples < 1):
            faults.append(f"{self.resamples} resamples: give a number from 1 on, or auto")
        if self.seed < 0:
            faults.append(f"seed {self.seed} is negative")
        if self.threads is not None and self.threads < 1:
            faults.append(f"{self.threads} threads: give a number from 1 on")
        if faults:
            raise UsageError.of_faults("significance test", faults)

    def resamples_for(self, tests: int, *, exact: bool = False) -> int:
        """The number of resamples for so many tests.

        Args:
            tests: number of them.
            exact: p-values come from an exact test, and resamples give intervals alone.

        Raises:
            UsageError: the smallest p-value of that many resamples is not below what one test must reach.
        """
        if exact:
            return _UNCORRECTED_RESAMPLES if self.resamples == "auto" else self.resamples
        corrected = tests if self.correction != "none" else 1
        # Exact: 0.01 as written, not the binary number beside it.
        needed = Fraction(max(corrected, 1)) / Fraction(str(float(self.alpha)))
        # The smallest p is 1 / (n + 1), and it must be below 1 / needed.
        smallest = max(1, math.floor(needed))
        if self.resamples == "auto":
            if self.correction != "none":
                return math.ceil(10 * needed)
            return _UNCORRECTED_RESAMPLES if smallest <= _UNCORRECTED_RESAMPLES else math.ceil(10 * needed)
        if self.resamples < smallest:
            raise UsageError(
                f"`resamples` {self.resamples} is too few: the smallest p-value of n resamples is 1/(n+1), and "
                f"{_tests(tests)} at alpha {self.alpha:g} with correction {self.correction} cannot find anything below "
                f"n = {smallest}; give `resamples` {smallest} or more, or auto"
            )
        return self.resamples

    def compare(self, baseline: Scored, systems: Sequence[Scored]) -> tuple[Difference, ...]:
        """Test every system against the baseline under common resamples.

        Raises:
            DataError: a system has other sentences or another metric than the baseline.
            UsageError: too few resamples for that many systems.
        """
        (found,) = self.compare_each([(baseline, systems)])
        return found

    def compare_each(self, sets: Sequence[tuple[Scored, Sequence[Scored]]]) -> tuple[tuple[Difference, ...], ...]:
        """Test systems on several sets of sentences, each against the baseline there; all tests are corrected together.

        Args:
            sets: the baseline and the systems on each set.

        Raises:
            DataError, UsageError: as for `compare`.
        """
        for baseline, systems in sets:
            _check_comparable(baseline, systems)
        exact = all(baseline.metric.discordant for baseline, _ in sets)
        resamples = self.resamples_for(sum(len(systems) for _, systems in sets), exact=exact)
        settings = ResamplingSettings(resamples, self.seed, self.threads or min(_THREADS, len(os.sched_getaffinity(0))))
        tested = [_in_groups(baseline, systems, settings) for baseline, systems in sets]
        corrected = iter(correct([each.p for own in tested for each in own], self.correction))
        return tuple(
            tuple(
                self._difference(baseline, system, result, next(corrected), resamples)
                for system, result in zip(systems, own, strict=True)
            )
            for (baseline, systems), own in zip(sets, tested, strict=True)
        )

    def _difference(
        self, baseline: Scored, system: Scored, result: Resampled, p_corrected: float, resamples: int
    ) -> Difference:
        """What the resamples say of one system."""
        sign = baseline.metric.sign
        return Difference(
            delta=sign * (system.score - baseline.score),
            ci=_signed(result.interval, sign),
            p=result.p,
            p_corrected=p_corrected,
            p_sacrebleu=result.p_sacrebleu,
            significant=p_corrected < self.alpha,
            better=result.better / resamples,
            worse=result.worse / resamples,
        )


def correct(p_values: Sequence[float], correction: Correction) -> list[float]:
    """Corrected p-values in the order given: `holm` (Holm 1979), `bh` (Benjamini and Hochberg 1995) or `none`."""
    values = np.asarray(p_values, dtype=np.float64)
    if correction == "none" or values.size == 0:
        return [float(value) for value in values]
    order = np.argsort(values, kind="stable")
    ranks = np.arange(1, len(values) + 1)
    if correction == "holm":
        ordered: NDArray[np.float64] = np.maximum.accumulate(values[order] * ranks[::-1])
    else:
        ordered = np.minimum.accumulate((values[order] * len(values) / ranks)[::-1])[::-1]
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(ordered, 1.0)
    return [float(value) for value in corrected]


def _in_groups(baseline: Scored, systems: Sequence[Scored], settings: ResamplingSettings) -> list[Resampled]:
    """Results of every system; equal outputs are tested once, and no more systems at a time than memory holds."""
    keys = [system.statistics.tobytes() for system in systems]
    distinct = dict(zip(keys, systems, strict=True))
    results: dict[bytes, Resampled] = {}
    kind = MeanBootstrap if isinstance(baseline.metric, OverDirections) else Bootstrap
    for group in _groups(list(distinct), settings.resamples):
        try:
            systems_of_group = [distinct[key] for key in group]
            resampled = _tested_exactly(baseline, systems_of_group, kind(baseline, systems_of_group, settings).run())
        except MemoryError as error:
            size = settings.resamples * _BYTES_PER_RESAMPLE * len(group) / 2**30
            raise UsageError(
                f"`resamples` {settings.resamples}: {size:.1f} GiB are not free in memory; ask for fewer"
            ) from error
        results.update(zip(group, resampled, strict=True))
    return [results[key] for key in keys]


def _tested_exactly(baseline: Scored, systems: Sequence[Scored], resampled: Sequence[Resampled]) -> Sequence[Resampled]:
    """Results with p-values of McNemar's test, where the metric has one; the intervals stay those of the resamples."""
    if not baseline.metric.discordant:
        return resampled
    pairs = zip(resampled, systems, strict=True)
    return [replace(each, p=mcnemar(baseline.statistics, system.statistics)) for each, system in pairs]


def _groups(keys: list[bytes], resamples: int) -> Iterator[list[bytes]]:
    size = max(1, _MEMORY_BYTES // (_BYTES_PER_RESAMPLE * resamples))
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _check_comparable(baseline: Scored, systems: Sequence[Scored]) -> None:
    faults = []
    for number, system in enumerate(systems, start=1):
        if system.metric.name != baseline.metric.name or system.metric.signature != baseline.metric.signature:
            faults.append(f"system {number} is scored by {system.metric.signature}")
        elif system.statistics.shape != baseline.statistics.shape:
            faults.append(f"system {number} has {len(system.statistics)} sentences")
    if faults:
        described = f"baseline of {len(baseline.statistics)} sentences scored by {baseline.metric.signature}"
        raise DataError.of_faults(described, faults)


def _signed(interval: tuple[float, float], sign: int) -> tuple[float, float]:
    low, high = interval
    return (low, high) if sign > 0 else (-high, -low)


def _tests(number: int) -> str:
    return "1 test" if number == 1 else f"{number} tests"
