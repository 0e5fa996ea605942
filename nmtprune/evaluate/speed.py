"""Decoding speed of several models on the same sentences, measured in turns: what slows one down slows all down."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Engine

T = TypeVar("T")

_COVERAGE = 0.95


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and an interval for it.

    The interval has ends that are measurements themselves and covers the true median with 95 %, whatever the
    distribution; of five or fewer measurements it is their range (five: 94 %).
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """From at least one measurement."""
        ordered = sorted(values)
        outside = _outside(len(ordered))
        return cls(statistics.median(ordered), ordered[outside], ordered[-1 - outside])

    @property
    def certain(self) -> bool:
        """For a ratio: whether it is above 1 or below 1, and not just noise."""
        return not self.low <= 1 <= self.high


def _outside(count: int) -> int:
    """How many measurements lie outside the interval on either side."""
    from scipy.stats import binom

    found = 0
    while found + 1 < count - 1 - found and 1 - 2 * binom.cdf(found, count, 0.5) >= _COVERAGE:
        found += 1
    return found


def ratio(first: Sequence[float], other: Sequence[float]) -> Spread:
    """By how much less time the other took, from the seconds of both round by round: above 1 it is faster."""
    return Spread.of([before / after for before, after in zip(first, other, strict=True)])


def in_turns(
    jobs: Sequence[Callable[[], T]], rounds: int, after: Callable[[int, float], None] = lambda _job, _seconds: None
) -> tuple[list[list[float]], list[T]]:
    """Seconds of every job in every round, each round one job after the other, and what each gave in the warm-up.

    Args:
        jobs: what is timed.
        rounds: how often, after one round that is not counted.
        after: is told of every run that ended, warm-up included: which job, and its seconds.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    results: list[T] = []
    for number in range(rounds + 1):
        for job, run in enumerate(jobs):
            started = time.perf_counter()
            result = run()
            took = time.perf_counter() - started
            if number:
                seconds[job].append(took)
            else:
                results.append(result)
            after(job, took)
    return seconds, results


def words_per_second(engines: "Sequence[Engine]", corpus: "Corpus", rounds: int) -> list[float]:
    """Words of translations per second, the median over rounds; each round has every engine once, after a warm-up.

    Words are those of the detokenized text.

    Args:
        engines: the models, ready to run.
        corpus: what they translate.
        rounds: how often; at least once.
    """
    jobs = [lambda engine=engine: engine.translate(corpus, {}) for engine in engines]
    seconds, translations = in_turns(jobs, rounds)
    words = [sum(len(corpus.decode(best[0].tokens).split()) for best in found if best) for found in translations]
    return [Spread.of([count / took for took in own]).median for count, own in zip(words, seconds, strict=True)]
