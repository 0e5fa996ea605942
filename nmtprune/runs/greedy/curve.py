"""What a sweep gives: quality against what was removed, when it dropped too far, and the files that say so."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nmtprune.architecture import KINDS, SORTS
from nmtprune.evaluate.significance import Difference
from nmtprune.plan import Plan
from nmtprune.plots import Line
from nmtprune.runs.greedy.auto import Decision
from nmtprune.runs.greedy.costs import PlanCost
from nmtprune.runs.greedy.direction_points import DirectionPoint, direction_cells, direction_fields
from nmtprune.runs.greedy.orders import Curve, kinds_name
from nmtprune.runs.report import ContenderOf, CurveFile, CurveOf, CurveStep, DecisionOf, MeanOf, MeanStep, quality_of
from nmtprune.runs.tsv import Cell


@dataclass(frozen=True)
class CurvePoint:
    """A point of a curve.

    Attributes:
        removed: units of the selected kinds that are gone.
        kept: those that are left.
        plan: which they are.
        value: the metric.
        difference: from the unpruned model.
        relative: `value` as a share of the unpruned model's; None where that is not above 0.
        broken: it breaks the rule of the run.
        decision: how the plan was chosen, if several orders competed.
        name: of the plan's file.
        level: where the step stands among those of other orders: `removed`, or the cost that it was meant to reach.
        cost: what the model costs; None where steps are numbers of heads.
        directions: what is said of each of several directions; empty for one.
    """

    removed: int
    kept: int
    plan: Plan
    value: float
    difference: Difference
    relative: float | None
    broken: bool
    decision: Decision | None
    name: str
    level: float
    cost: PlanCost | None
    directions: tuple[DirectionPoint, ...] = ()

    @property
    def ci(self) -> tuple[float, float]:
        """95 % interval of the change, around the value of the unpruned model."""
        unpruned = self.value - self.difference.delta
        low, high = self.difference.ci
        return unpruned + low, unpruned + high

    @property
    def file(self) -> str:
        """Name of its plan's file."""
        return f"{self.name}.json"

    def of_sort(self, sort: str) -> int:
        """Units of one of SORTS that are gone, by themselves or with their layers."""
        return len(self.plan.removed(SORTS[sort]))

    @property
    def what_is_gone(self) -> str:
        """For a line of progress."""
        if self.cost is None:
            return f"{self.removed} heads removed"
        counts = [
            f"{number} {sort if number > 1 else sort.removesuffix('s')}"
            for sort in SORTS
            if (number := self.of_sort(sort))
        ]
        return f"{', '.join(counts) or 'nothing'} removed, {self.cost.macs:.1%} of the multiply-accumulates left"


@dataclass(frozen=True)
class Swept:
    """A curve with its points.

    Attributes:
        curve: what was asked for.
        checkpoint: as the user named it.
        steps: from the unpruned model to the end, or to the first step that breaks the rule.
    """

    curve: Curve
    checkpoint: str
    steps: tuple[CurvePoint, ...]

    @property
    def chosen(self) -> CurvePoint:
        """The last step before the first that breaks the rule; the unpruned model breaks none."""
        return [step for step in self.steps if not step.broken][-1]


@dataclass(frozen=True)
class Mean:
    """Random samples together: mean and standard deviation at every step that all of them reached.

    Attributes:
        checkpoint: as the user named it.
        kinds: of the curves.
        samples: their number.
        removed: units that are gone; their mean where the steps of samples differ.
        means: of the metric.
        deviations: of the metric.
        macs: mean share of the multiply-accumulates; None where steps are numbers of heads.
    """

    checkpoint: str
    kinds: tuple[str, ...]
    samples: int
    removed: tuple[int, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    macs: tuple[float, ...] | None


def means(swept: Sequence[Swept]) -> list[Mean]:
    """Mean and sample standard deviation of the random curves of each checkpoint and kinds; 0 for a single sample."""
    groups: dict[tuple[int, tuple[str, ...]], list[Swept]] = {}
    for each in swept:
        if each.curve.sample is not None:
            groups.setdefault((each.curve.checkpoint, each.curve.kinds), []).append(each)
    return [_mean(kinds, group) for (_, kinds), group in groups.items()]


def _mean(kinds: tuple[str, ...], group: Sequence[Swept]) -> Mean:
    by_level = [{step.level: step for step in each.steps} for each in group]
    reached = [level for level in by_level[0] if all(level in own for own in by_level)]
    columns = [[own[level] for own in by_level] for level in reached]
    values = [[step.value for step in column] for column in columns]
    costs = [[step.cost.macs for step in column if step.cost is not None] for column in columns]
    return Mean(
        group[0].checkpoint,
        kinds,
        len(group),
        tuple(round(math.fsum(step.removed for step in column) / len(column)) for column in columns),
        tuple(math.fsum(own) / len(own) for own in values),
        tuple(statistics.stdev(own) if len(own) > 1 else 0.0 for own in values),
        tuple(math.fsum(own) / len(own) for own in costs) if all(costs) else None,
    )


def curve_columns(metric: str, *, costs: bool = False, directions: Sequence[str] = ()) -> tuple[str, ...]:
    """Columns of the table; with `costs` also what was removed of each sort, and what the models cost.

    Several directions add the mean of the metric over them, the one that loses most, and the figures of each.
    """
    between = ("ci_low", "ci_high", "p", "relative")
    costly = (*SORTS, "macs", "parameters", "speed") if costs else ()
    each = [f"{name}_{what}" for name in directions for what in (metric, "ci_low", "ci_high", "p")]
    several = ("mean", "worst", "worst_change", *each) if directions else ()
    return ("checkpoint", "order", "sample", "kinds", "removed", "kept", *costly, metric, *between, *several)


def curve_rows(swept: Sequence[Swept]) -> Iterator[tuple[Cell, ...]]:
    """A row of `curve_columns` for every step, in full precision."""
    for each in swept:
        curve = each.curve
        for step in each.steps:
            yield (
                each.checkpoint, _order_of(curve, step), curve.sample, ",".join(curve.kinds), step.removed, step.kept,
                *_cost_cells(step), step.value, *step.ci, step.difference.p, step.relative,
                *direction_cells(step.directions),
            )  # fmt: skip


def _cost_cells(step: CurvePoint) -> tuple[Cell, ...]:
    if step.cost is None:
        return ()
    return (*map(step.of_sort, SORTS), step.cost.macs, step.cost.parameters, step.cost.speed)


def _order_of(curve: Curve, step: CurvePoint) -> str:
    """The order that chose the plan of a step: ``fisher``, or ``auto:fisher``."""
    return curve.order.name if step.decision is None else f"{curve.order.name}:{step.decision.chosen.order}"


def curve_file(
    metric: str, swept: Sequence[Swept], facts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> CurveFile:
    """The curves as ``curve.json`` has them."""
    costed = any(step.cost is not None for each in swept for step in each.steps)
    return CurveFile(
        format="nmtprune-curve",
        version=2 if costed else 1,
        metric=metric,
        **facts,
        curves=[_curve(metric, each) for each in swept],
        means=[_mean_of(metric, mean) for mean in means(swept)],
        provenance=dict(provenance),
    )


def _curve(metric: str, each: Swept) -> CurveOf:
    curve = each.curve
    steps = [
        CurveStep(
            removed=step.removed,
            kept=step.kept,
            ci=step.ci,
            p=step.difference.p,
            relative=step.relative,
            within_max_drop=not step.broken,
            plan=f"plans/{curve.name}/{step.file}",
            **quality_of(metric, step.value),
            **_decision_fields(metric, step.decision),
            **_cost_fields(step),
            **direction_fields(metric, step.directions),
        )
        for step in each.steps
    ]
    return CurveOf(
        name=curve.name,
        checkpoint=each.checkpoint,
        order=curve.order.name,
        sample=curve.sample,
        kinds=list(curve.kinds),
        steps=steps,
    )


def _cost_fields(step: CurvePoint) -> dict[str, Any]:
    """What a step of version 2 says besides; nothing in version 1."""
    if step.cost is None:
        return {}
    found: dict[str, Any] = {"units": {sort: step.of_sort(sort) for sort in SORTS}}
    found |= {"macs": step.cost.macs, "parameters": step.cost.parameters}
    return found | ({} if step.cost.speed is None else {"speed": step.cost.speed})


def _decision_fields(metric: str, decision: Decision | None) -> dict[str, Any]:
    """The field of a step; none where only one order was swept."""
    if decision is None:
        return {}
    contenders = [
        ContenderOf(
            order=each.order,
            loss=each.loss,
            **quality_of(metric, None if each.scored is None else each.scored.score),
        )
        for each in decision.contenders
    ]
    return {"decision": DecisionOf(order=decision.chosen.order, lead=decision.lead, contenders=contenders)}


def _mean_of(metric: str, mean: Mean) -> MeanOf:
    costs = [{}] * len(mean.means) if mean.macs is None else [{"macs": share} for share in mean.macs]
    steps = [
        MeanStep(removed=removed, sd=deviation, **quality_of(metric, value), **cost)
        for removed, value, deviation, cost in zip(mean.removed, mean.means, mean.deviations, costs, strict=True)
    ]
    return MeanOf(checkpoint=mean.checkpoint, order="random", kinds=list(mean.kinds), samples=mean.samples, steps=steps)


def of_direction(swept: Sequence[Swept], name: str) -> list[Swept]:
    """The curves of one of several directions."""

    def of(step: CurvePoint) -> CurvePoint:
        own = next(each for each in step.directions if each.name == name)
        return replace(step, value=own.value, difference=own.difference, directions=())

    return [replace(each, steps=tuple(map(of, each.steps))) for each in swept]


def lines(swept: Sequence[Swept]) -> list[Line]:
    """What a picture shows: every curve with its interval, random ones together with their spread."""
    several = len({each.curve.checkpoint for each in swept}) > 1
    names = {each.checkpoint: each.checkpoint.rsplit("/", 1)[-1] for each in swept}
    every_kind = {each.curve.kinds for each in swept}
    costed = any(step.cost is not None for each in swept for step in each.steps)
    named = len(every_kind) > 1 if costed else every_kind != {KINDS}

    def label(checkpoint: str, kinds: Sequence[str], order: str) -> str:
        parts = [names[checkpoint]] if several else []
        parts += [kinds_name(kinds)] if named and tuple(kinds) != KINDS else []
        return ", ".join([*parts, order])

    found = [
        Line(
            label(each.checkpoint, each.curve.kinds, each.curve.order.short),
            [step.removed for step in each.steps],
            [step.value for step in each.steps],
            [step.ci[0] for step in each.steps],
            [step.ci[1] for step in each.steps],
            macs=[step.cost.macs for step in each.steps if step.cost is not None] if costed else None,
        )
        for each in swept
        if each.curve.sample is None
    ]
    for mean in means(swept):
        pairs = list(zip(mean.means, mean.deviations, strict=True))
        found.append(
            Line(
                label(mean.checkpoint, mean.kinds, f"random, mean ± sd of {mean.samples}"),
                list(mean.removed),
                list(mean.means),
                [value - deviation for value, deviation in pairs],
                [value + deviation for value, deviation in pairs],
                dashed=True,
                macs=mean.macs,
            )
        )
    return found
