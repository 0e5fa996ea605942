"""What a quality metric is: per-sentence sufficient statistics, and a corpus score of their sums.

A corpus score is a function of sums of per-sentence counts (n-gram matches, lengths, losses). The counts are taken once
per hypothesis; scoring a corpus, or a resample of it, then only adds them up.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.errors import DataError

Statistics = NDArray[np.int64] | NDArray[np.float64]
Floats = NDArray[np.floating[Any]]


class Metric(ABC):
    """What turns summed statistics into a score; higher is always better.

    Attributes:
        name: as `--metric` names it.
        sign: 1, or -1 for a loss: ``sign * score`` is the metric's own value.
        sacrebleu_error: largest difference between `scores` and sacrebleu's own arithmetic on the same sums, in points;
            0 where they agree in every bit, None where sacrebleu does not know this metric.
    """

    name: str
    sign: int = 1
    sacrebleu_error: float | None = None

    @property
    @abstractmethod
    def signature(self) -> str:
        """How the number was computed; sacrebleu's own signature, verbatim, where sacrebleu computes it."""

    @abstractmethod
    def corpus_score(self, statistics: Statistics) -> float:
        """Score of the whole corpus from statistics [sentences, stats]."""

    @abstractmethod
    def scores(self, sums: Floats) -> Floats:
        """Scores [...] of many corpora at once from summed statistics [stats, ...].

        float32 sums are scored in the precision in which sacrebleu's bootstrap works, float64 sums in float64.
        """

    def sacrebleu_scores(self, sums: Floats) -> Floats:
        """What sacrebleu gives in every bit; slower than `scores` where `sacrebleu_error` is not 0."""
        return self.scores(sums)


@dataclass(frozen=True, eq=False)
class Scored:
    """The output of one system as a metric sees it.

    Attributes:
        metric: what the statistics are of.
        statistics: [sentences, stats], read-only; integers for BLEU and chrF, float64 for losses.
    """

    metric: Metric
    statistics: Statistics

    def __post_init__(self) -> None:
        """Freeze the array too."""
        self.statistics.setflags(write=False)

    @cached_property
    def score(self) -> float:
        """The corpus score; higher is better."""
        return self.metric.corpus_score(self.statistics)


class TokenLoss(Metric):
    """Mean loss per target token (nats), negated: statistics of a sentence are its summed loss and its tokens."""

    name = "loss"
    sign = -1

    @property
    def signature(self) -> str:
        """Unit and mean."""
        return "unit:nats|mean:tokens"

    def scored(self, losses: Sequence[float], tokens: Sequence[int]) -> Scored:
        """Statistics of one system.

        Args:
            losses: summed loss of each sentence's target tokens, nats.
            tokens: target tokens of each sentence, the end of sentence included.

        Raises:
            DataError: no sentences, different lengths, a loss that is no number, a sentence without tokens.
        """
        if len(losses) != len(tokens) or len(losses) == 0:
            raise DataError(f"{len(losses)} losses for {len(tokens)} token counts: one each per sentence")
        statistics = np.column_stack([np.asarray(losses, np.float64), np.asarray(tokens, np.float64)])
        bad = np.flatnonzero(~np.isfinite(statistics[:, 0]) | ~(statistics[:, 1] >= 1))
        if bad.size:
            loss, count = statistics[bad[0]]
            raise DataError(f"sentence {bad[0] + 1}: a loss of {loss:g} over {count:g} tokens cannot be averaged")
        return Scored(self, statistics)

    def corpus_score(self, statistics: Statistics) -> float:
        """Negated mean loss per token."""
        return -math.fsum(statistics[:, 0]) / math.fsum(statistics[:, 1])

    def scores(self, sums: Floats) -> Floats:
        """Negated mean losses [...] of sums [2, ...]."""
        means: Floats = sums[0] / sums[1]
        return -means
