"""One checkpoint of a greedy run: scores that order its units, and the quality of every plan, kept in the state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import UnitId
from nmtprune.budget import Limits
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.over_directions import driving
from nmtprune.evaluate.prices import Prices
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.ablation import QualityDrop
from nmtprune.methods.chance import random_scores
from nmtprune.methods.layer_sweep import Layers, LossesOf, UnitsAndLayers
from nmtprune.methods.priced_sweep import PricedUnits
from nmtprune.methods.scorer import Scorer
from nmtprune.methods.sweep import CountedUnits, Course, Goal, sweep
from nmtprune.plan import Plan
from nmtprune.runs.greedy.auto import Candidate, Decision, decided, shortlisted
from nmtprune.runs.greedy.costs import Costs
from nmtprune.runs.greedy.curve import CurvePoint
from nmtprune.runs.greedy.cut_units import CutUnits, PricesOfCut
from nmtprune.runs.greedy.direction_points import direction_points, driving_difference
from nmtprune.runs.greedy.measured_plans import MeasuredPlans, left_by
from nmtprune.runs.greedy.orders import Curve
from nmtprune.runs.greedy.removal import Removal
from nmtprune.runs.greedy.rounds import Rounds
from nmtprune.runs.quality import DropRule, Quality
from nmtprune.runs.refitted_plans import RefittedPlans
from nmtprune.runs.scorers import BY_LOSS
from nmtprune.runs.state import Arrays, State, pack
from nmtprune.runs.subject import NativeModel, ScoredModel
from nmtprune.runs.subject_directions import AnySubject
from nmtprune.runs.workers import Unit, units

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

_STATISTICS, _SCORES, _LOSS = "statistics", "scores", "loss"


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint with everything that is measured of it.

    Attributes:
        checkpoint: the model.
        quality: the metric under masks.
        subjects: by the name of a scorer, what it scores.
        plans: how good the models of plans are.
        native: its native model.
        refitted: the refitted models of plans; None where nothing is refitted.
    """

    checkpoint: "Checkpoint"
    quality: Quality
    subjects: Mapping[str, AnySubject]
    plans: MeasuredPlans
    native: NativeModel
    refitted: RefittedPlans | None = None


def checkpoint_name(number: int) -> str:
    """What keys of the state call a checkpoint."""
    return f"checkpoint {number + 1}"


def unpruned_key(name: str) -> str:
    """Where the state keeps what a full model gives."""
    return f"{name}/unpruned"


@dataclass(frozen=True)
class Waypoint:
    """A plan on the way of a sweep.

    Attributes:
        level: where it stands among the plans of other orders: units removed, or what the step was meant to reach.
        name: of its file.
        plan: the units that stay.
    """

    level: float
    name: str
    plan: Plan


@dataclass(frozen=True)
class SweepSettings:
    """How curves are swept.

    Attributes:
        kinds: all kinds of groups whose units the run may score.
        rounds: number of times that orders which are measured in rounds are measured.
        refit: units are scored again on refitted models.
        costs: what plans cost; None where steps are numbers of heads.
    """

    kinds: tuple[str, ...]
    rounds: int
    refit: bool
    costs: Costs | None = None


class Sweeper:
    """Sweeps one checkpoint; whatever the state holds is taken from there, and what is computed goes there."""

    def __init__(
        self, name: str, opened: OpenCheckpoint, state: State, progress: "Progress", settings: SweepSettings
    ) -> None:
        """Prepare to sweep; nothing is computed yet.

        Args:
            name: of the checkpoint, for keys of the state.
            opened: the checkpoint.
            state: of the run.
            progress: watches.
            settings: how curves are swept.
        """
        self._name, self._opened, self._state, self._progress = name, opened, state, progress
        self._settings, self._costs = settings, settings.costs
        self._computes = False

    def steps(
        self, curve: Curve, removal: Removal, test: SignificanceTest, rule: DropRule | None
    ) -> tuple[CurvePoint, ...]:
        """The points of a curve, up to the first that breaks the rule.

        Raises:
            NmtpruneError: what only shows when a model computes.
        """
        quality, unpruned = self._opened.quality, self._unpruned()
        found: list[CurvePoint] = []
        for place, scored, decision in self._points(curve, removal, test.seed):
            plan = place.plan
            value = driving(scored, unpruned)
            each = direction_points(scored, unpruned, test, rule)
            difference = driving_difference(scored, unpruned, test, each)
            broken = any(own.broken for own in each) if each else rule is not None and rule.broken_by(difference)
            point = CurvePoint(
                removed=len(plan.removed(curve.kinds)),
                kept=plan.count_kept(curve.kinds),
                plan=plan,
                value=value,
                difference=difference,
                relative=value / unpruned.score if unpruned.score > 0 else None,
                broken=broken,
                decision=decision,
                name=place.name,
                level=place.level,
                cost=None if self._costs is None else self._costs.of(plan),
                directions=each,
            )
            found.append(point)
            self._progress.advance(f"{curve.name}, {point.what_is_gone}, {quality.name} {value:.2f},")
            if point.broken:
                break
        return tuple(found)

    def _points(self, curve: Curve, removal: Removal, seed: int) -> Iterator[tuple[Waypoint, Scored, Decision | None]]:
        """Plans with their quality, and how each was chosen if several orders compete."""
        if curve.order.contenders:
            yield from self._decided(curve, removal, seed)
            return
        for place in self._places(curve, removal, seed):
            yield place, self._scored(curve, place.plan), None

    def _places(self, curve: Curve, removal: Removal, seed: int) -> Iterator[Waypoint]:
        """The plans of one order."""
        base, prices = self._opened.checkpoint.base, self._prices(removal)
        course, scores_of = self._course(curve, removal), self._scores_of(curve, removal, seed)
        goals = removal.goals(base, prices)
        if curve.order.in_rounds:
            starts = removal.round_levels(goals, self._settings.rounds, base)
            scores_of = Rounds(starts, course.reached, scores_of)
            known = {goal.level for goal in goals}
            goals = sorted([*goals, *(Goal(start, None) for start in {*starts} - known)], key=lambda goal: goal.level)
        for goal, plan in sweep(base, course, scores_of, goals):
            if goal.name is not None and prices is not None:
                yield Waypoint(goal.level, goal.name, plan)
            elif goal.name is not None:
                # Of widths in steps the sweep may have reached another number.
                removed = len(plan.removed(curve.kinds))
                yield Waypoint(removed, f"{removed:03}", plan)

    def _prices(self, removal: Removal) -> Prices | None:
        """What a step is measured by; None for numbers of units."""
        if removal.cost is None:
            return None
        if self._costs is None:
            raise ValueError("this run was not prepared to count costs")
        return self._costs.prices[removal.cost]

    def _course(self, curve: Curve, removal: Removal) -> Course:
        """How the removal of a curve continues."""
        prices, layers, limits = self._prices(removal), removal.layer_kinds, removal.limits
        by_loss = curve.order.layers_by_loss(curve.kinds)
        if prices is None:
            counted = CountedUnits(limits)
            return Layers(layers, counted.reached, self._losses_of(curve), limits.protected) if by_loss else counted
        if not by_loss:
            return PricedUnits(limits, prices, curve.order.by_rank)
        units = PricedUnits(removal.within_layers, prices, curve.order.by_rank)
        if not units.limits.kinds:
            return Layers(layers, units.reached, self._losses_of(curve), limits.protected)
        return UnitsAndLayers(units, layers, self._losses_of(curve))

    def _losses_of(self, curve: Curve) -> LossesOf:
        """Losses of plans that remove one layer, or as much by other units."""

        def losses(plan: Plan, further: Sequence[Plan]) -> list[float]:
            key = f"{curve.name}/{len(plan.removed(curve.kinds)):03} layers"
            found = self._recall(key, lambda: {_LOSS: np.array(self._opened.plans.losses(further))})
            return [float(loss) for loss in found[_LOSS]]

        return losses

    def _decided(self, curve: Curve, removal: Removal, seed: int) -> Iterator[tuple[Waypoint, Scored, Decision | None]]:
        """At every step the best of the plans of several orders."""
        entrants = {own.order.short: own for own in curve.entrants}
        sweeps = {name: self._places(own, removal, seed) for name, own in entrants.items()}
        places = {name: next(own, None) for name, own in sweeps.items()}
        while there := {name: place for name, place in places.items() if place is not None}:
            lowest = min(place.level for place in there.values())
            # One order may come by other numbers, or go beyond a step, where another one does not.
            level = {name: place for name, place in there.items() if place.level == lowest}
            first = next(iter(level.values()))
            if first.plan.removed(curve.kinds):
                decision = self._decision(entrants, {name: place.plan for name, place in level.items()})
                yield replace(first, plan=decision.chosen.plan), decision.best, decision
            else:
                yield first, self._unpruned(), None
            places |= {name: next(sweeps[name], None) for name in level}

    def _decision(self, entrants: Mapping[str, Curve], plans: Mapping[str, Plan]) -> Decision:
        """What losses and translations say of plans that reach the same goal."""
        # Equal plans of several orders are measured once.
        first = {name: next(one for one in plans if plans[one].keep == plan.keep) for name, plan in plans.items()}
        losses = {name: self._loss(entrants[first[name]], plan) for name, plan in plans.items()}
        short = shortlisted(losses, self._unpruned_loss())
        scored = {name: self._scored(entrants[first[name]], plan) for name, plan in plans.items() if name in short}
        unpruned = self._unpruned()
        values = {name: driving(own, unpruned) for name, own in scored.items()}
        return decided(
            [Candidate(name, plan, losses[name], scored.get(name), values.get(name)) for name, plan in plans.items()]
        )

    def _loss(self, curve: Curve, plan: Plan) -> float:
        """Nats per token of the references."""
        return self._known_loss(f"{curve.name}/{len(plan.removed(curve.kinds)):03} loss", plan)

    def _unpruned_loss(self) -> float:
        return self._known_loss(f"{self._name}/000 loss", Plan.keep_all(self._opened.checkpoint.base))

    def _known_loss(self, key: str, plan: Plan) -> float:
        found = self._recall(key, lambda: {_LOSS: np.array([self._opened.plans.loss(plan)])})
        return float(found[_LOSS][0])

    def _scored(self, curve: Curve, plan: Plan) -> Scored:
        """The quality of the model of a plan."""
        removed = len(plan.removed(curve.kinds))
        if not removed:
            return self._unpruned()
        key = f"{curve.name}/{removed:03}"
        found = self._recall(key, lambda: {_STATISTICS: self._opened.plans.statistics(plan)})
        return self._opened.quality.scored(found[_STATISTICS])

    def _unpruned(self) -> Scored:
        key = unpruned_key(self._name)
        if key not in self._state:
            self._compute_baseline()
        return self._opened.quality.scored(self._state[key][_STATISTICS])

    def _scores_of(self, curve: Curve, removal: Removal, seed: int) -> Callable[[Plan], Mapping[UnitId, float]]:
        """Scores of the units that a plan leaves, by the order of a curve."""
        order = curve.order
        if order.scorer is not None and not isinstance(order.scorer, QualityDrop):
            scorer = order.scorer
            return lambda plan: self._measured(scorer, curve, removal, plan)
        if order.scores is not None:
            scores: Mapping[UnitId, float] = order.scores.scores_by_unit()
        elif isinstance(order.scorer, QualityDrop):
            scores = self._ablated(order.scorer, curve)
        elif order.name == BY_LOSS:
            scores = {}
        else:
            scores = random_scores(self._opened.checkpoint.base.units, seed + (curve.sample or 1) - 1)
        return lambda _plan: scores

    def _measured(self, scorer: Scorer[Any], curve: Curve, removal: Removal, plan: Plan) -> Mapping[UnitId, float]:
        """Scores of a scorer, which are those of the unpruned model unless the order says otherwise."""
        subject, removed = self._opened.subjects[scorer.name], len(plan.removed(curve.kinds))
        prices = self._prices(removal)
        # What depends on the units that may go belongs to the curve; what does not serves all curves.
        limits = removal.within_layers if scorer.joint else Limits(self._settings.kinds)
        key = f"{curve.name if scorer.joint else self._name}/{scorer.name}"
        known = key in self._state
        first = self._units(key, lambda: subject.scores(scorer, None, limits, prices))
        for remark in () if known else scorer.remarks(first):
            self._progress.note(f"{scorer.name}: {remark}")
        if not removed or not (curve.order.reestimated or curve.order.in_rounds):
            return scorer.ranked(first, first)

        def again() -> Mapping[UnitId, float]:
            if self._opened.refitted is not None and (self._settings.refit or curve.order.in_rounds):
                return _on_refitted(scorer, subject, self._opened.refitted, plan, limits, prices)
            return subject.scores(scorer, left_by(plan), limits, prices)

        return scorer.ranked(self._units(f"{curve.name}/{removed:03} {scorer.name}", again), first)

    def _ablated(self, scorer: QualityDrop, curve: Curve) -> Mapping[UnitId, float]:
        """What `score` gives, for the kinds of a curve; the state keeps a few heads at a time."""
        checkpoint, subject = self._opened.checkpoint, self._opened.subjects[scorer.name]
        if not isinstance(subject, ScoredModel):
            raise ValueError(f"{scorer.name} measures quality, which has its own directions")
        parameters = sum(tensor.numel() for tensor in checkpoint.model_tensors.values())
        together = self._opened.quality.heads_together(checkpoint.architecture, parameters)
        modules = {id: numbers for id, numbers in checkpoint.architecture.units.items() if id.kind in curve.kinds}
        found: dict[UnitId, float] = {}
        for unit in units(f"{self._name}/{scorer.name}", modules, together):

            def compute(unit: Unit = unit) -> Arrays:
                return {_SCORES: np.array([*scorer.drops(subject, unit.group, unit.numbers).values()])}

            scores = self._recall(unit.key, compute)[_SCORES]
            heads = (UnitId(unit.group, head) for head in unit.numbers)
            found |= dict(zip(heads, scores.tolist(), strict=True))
        return found

    def _units(self, key: str, measured: Callable[[], Mapping[UnitId, float]]) -> dict[UnitId, float]:
        """Scores of units; those that are gone have none."""
        every = Plan.keep_all(self._opened.checkpoint.base).kept_ids(self._settings.kinds)

        def compute() -> Arrays:
            scores = measured()
            return {_SCORES: np.array([scores.get(unit, np.nan) for unit in every])}

        scores = self._recall(key, compute)[_SCORES]
        return {unit: score for unit, score in zip(every, scores.tolist(), strict=True) if score == score}

    def _recall(self, key: str, compute: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
        if key not in self._state:
            self._compute_baseline()
            self._state.add(key, pack(compute()))
        return self._state[key]

    def _compute_baseline(self) -> None:
        """Translate with the full model before anything else: it fixes the drafts that masked models start from."""
        if not self._computes:
            self._state.keep_same(unpruned_key(self._name), {_STATISTICS: self._opened.quality.baseline().statistics})
            self._computes = True


def _on_refitted(
    scorer: Scorer[Any],
    subject: AnySubject,
    refitted: RefittedPlans,
    plan: Plan,
    limits: Limits,
    prices: Prices | None,
) -> dict[UnitId, float]:
    """Scores of the units that a plan leaves, on the refitted model, by their ids in the unpruned one."""
    cut = CutUnits(plan)
    own_prices = None if prices is None else PricesOfCut(prices, cut)
    found = subject.of(refitted.of(plan).checkpoint).scores(scorer, None, cut.limits(limits), own_prices)
    return {cut.unpruned(unit): score for unit, score in found.items()}
