"""What a step of a sweep says of each of several directions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nmtprune.data.directions import WORST
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.over_directions import OverDirections, split
from nmtprune.evaluate.significance import Difference, SignificanceTest
from nmtprune.runs.quality import DropRule
from nmtprune.runs.report import DirectionStep, WorstOf, quality_of
from nmtprune.runs.tsv import Cell


@dataclass(frozen=True)
class DirectionPoint:
    """One direction at a point of a curve.

    Attributes:
        name: of the direction.
        value: the metric.
        difference: from the unpruned model.
        broken: it breaks the rule of the run.
    """

    name: str
    value: float
    difference: Difference
    broken: bool

    @property
    def ci(self) -> tuple[float, float]:
        """95 % interval of the change, around the value of the unpruned model."""
        unpruned = self.value - self.difference.delta
        low, high = self.difference.ci
        return unpruned + low, unpruned + high


def direction_points(
    scored: Scored, unpruned: Scored, test: SignificanceTest, rule: DropRule | None
) -> tuple[DirectionPoint, ...]:
    """Every direction of a model compared with the unpruned one, each by a test of its own; empty for one direction.

    A rule must hold in every direction: a drop in one is not made up for by the others.
    """
    before = split(unpruned)
    found = []
    for name, own in split(scored).items():
        (difference,) = test.compare(before[name], [own])
        broken = rule is not None and rule.broken_by(difference)
        found.append(DirectionPoint(name, own.score, difference, broken))
    return tuple(found)


def driving_difference(
    scored: Scored, unpruned: Scored, test: SignificanceTest, each: Sequence[DirectionPoint]
) -> Difference:
    """The change of what plans are chosen by: of the mean, or of the direction that loses most."""
    metric = scored.metric
    if isinstance(metric, OverDirections) and metric.across == WORST:
        return worst_of(each).difference
    (difference,) = test.compare(unpruned, [scored])
    return difference


def worst_of(each: Sequence[DirectionPoint]) -> DirectionPoint:
    """The direction that loses most, the first of equals."""
    return min(each, key=lambda own: own.difference.delta)


def mean_of(each: Sequence[DirectionPoint]) -> float:
    """The mean of the metric."""
    return math.fsum(own.value for own in each) / len(each)


def direction_cells(each: Sequence[DirectionPoint]) -> tuple[Cell, ...]:
    """Further cells of a row of the table; none of one direction."""
    if not each:
        return ()
    lowest = worst_of(each)
    figures = [cell for own in each for cell in (own.value, *own.ci, own.difference.p)]
    return (mean_of(each), lowest.name, lowest.difference.delta, *figures)


def direction_fields(metric: str, each: Sequence[DirectionPoint]) -> dict[str, Any]:
    """The fields of a step; none of one direction."""
    if not each:
        return {}
    steps = {
        own.name: DirectionStep(
            change=own.difference.delta,
            ci=own.ci,
            p=own.difference.p,
            within_max_drop=not own.broken,
            **quality_of(metric, own.value),
        )
        for own in each
    }
    lowest = worst_of(each)
    found = WorstOf(direction=lowest.name, change=lowest.difference.delta)
    return {"mean": mean_of(each), "worst": found, "directions": steps}
