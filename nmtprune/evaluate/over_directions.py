"""One figure of several directions: the mean of a metric over them, or the change in the direction that loses most.

Every direction counts the same, however many sentences it has. Statistics of a system are those of its directions, one
after the other; a resample of the mean draws the sentences of every direction anew (Koehn 2004, by strata). Directions
with the same number of sentences share their draws: right where the same sentences stand in several languages, and
without effect where they have nothing to do with each other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from nmtprune.data.directions import MEAN
from nmtprune.evaluate.metrics import Floats, Metric, Scored, Statistics
from nmtprune.evaluate.paired import Bootstrap, Resampled, ResamplingSettings, summarized


class OverDirections(Metric):
    """The mean of one metric over several directions.

    Attributes:
        metrics: that of each direction by its name, all of one kind.
        sizes: sentences of each.
        across: MEAN or WORST: what systems are chosen by, see `driving`.
    """

    def __init__(self, metrics: Mapping[str, Metric], sizes: Mapping[str, int], across: str = MEAN) -> None:
        first = next(iter(metrics.values()))
        self.name, self.sign = first.name, first.sign
        self.metrics, self.sizes, self.across = metrics, sizes, across

    @property
    def signature(self) -> str:
        """That of all directions, or those of each."""
        signatures = {name: metric.signature for name, metric in self.metrics.items()}
        if len({*signatures.values()}) == 1:
            return next(iter(signatures.values()))
        return "; ".join(f"{name}: {signature}" for name, signature in signatures.items())

    def joined(self, parts: Mapping[str, Scored]) -> Scored:
        """A system from what it gives in each direction."""
        statistics = np.concatenate([parts[name].statistics for name in self.metrics])
        return Scored(self, cast(Statistics, statistics))

    def split(self, statistics: Statistics) -> dict[str, Scored]:
        """What a system gives in each direction."""
        ends = np.cumsum([*self.sizes.values()])[:-1]
        parts = cast(list[Statistics], np.split(statistics, ends))
        return {name: Scored(own, part) for (name, own), part in zip(self.metrics.items(), parts, strict=True)}

    def corpus_score(self, statistics: Statistics) -> float:
        """The mean of the directions' scores."""
        return math.fsum(part.score for part in self.split(statistics).values()) / len(self.metrics)

    def scores(self, sums: Floats) -> Floats:
        """Sums over sentences of several directions have no score: ValueError."""
        raise ValueError("sums of statistics over several directions have no score: split them")


def split(scored: Scored) -> dict[str, Scored]:
    """What a system gives in each direction by its name; nothing for a metric of one direction."""
    metric = scored.metric
    return metric.split(scored.statistics) if isinstance(metric, OverDirections) else {}


def worst(changes: Mapping[str, float]) -> str:
    """The direction with the lowest change, the first of equals."""
    return min(changes, key=lambda name: changes[name])


def changes(scored: Scored, baseline: Scored) -> dict[str, float]:
    """The change of each direction's score."""
    before = split(baseline)
    return {name: own.score - before[name].score for name, own in split(scored).items()}


def driving(scored: Scored, baseline: Scored) -> float:
    """What a system is chosen by; higher is better.

    With MEAN, and for a metric of one direction, its score. With WORST the baseline's mean and the change in the
    direction that loses most: the score that would be left if every direction lost as much.
    """
    metric = scored.metric
    if not isinstance(metric, OverDirections) or metric.across == MEAN:
        return scored.score
    return baseline.score + min(changes(scored, baseline).values())


class MeanBootstrap:
    """Paired bootstrap resampling of the mean over directions: the sentences of each direction are drawn anew."""

    def __init__(self, baseline: Scored, systems: Sequence[Scored], settings: ResamplingSettings) -> None:
        """Prepare a test of systems scored by `OverDirections`."""
        self._baseline, self._systems, self._settings = baseline, systems, settings

    def run(self) -> tuple[Resampled, ...]:
        """Resample and summarise every system, in their order."""
        before, after = split(self._baseline), [split(system) for system in self._systems]
        deltas = np.zeros((len(self._systems), self._settings.resamples))
        for name, own in before.items():
            deltas += Bootstrap(own, [system[name] for system in after], self._settings).deltas()
        deltas /= len(before)
        observed = (system.score - self._baseline.score for system in self._systems)
        return tuple(summarized(own, each) for own, each in zip(deltas, observed, strict=True))
