"""One checkpoint of a greedy run: scores that order its heads, and the quality of every plan, kept in the state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import UnitId
from nmtprune.budget import Limits
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.ablation import QualityDrop
from nmtprune.methods.chance import random_scores
from nmtprune.methods.scorer import Scorer
from nmtprune.methods.sweep import sweep
from nmtprune.plan import Plan
from nmtprune.runs.greedy.auto import Candidate, Decision, decided, shortlisted
from nmtprune.runs.greedy.curve import CurvePoint
from nmtprune.runs.greedy.measured_plans import MeasuredPlans, RefittedPlans
from nmtprune.runs.greedy.orders import Curve
from nmtprune.runs.greedy.rounds import Rounds, round_starts
from nmtprune.runs.quality import DropRule, Quality
from nmtprune.runs.state import Arrays, State, pack
from nmtprune.runs.subject import ScoredModel
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
        refitted: the refitted models of plans; None where nothing is refitted.
    """

    checkpoint: "Checkpoint"
    quality: Quality
    subjects: Mapping[str, ScoredModel]
    plans: MeasuredPlans
    refitted: RefittedPlans | None = None


def checkpoint_name(number: int) -> str:
    """What keys of the state call a checkpoint."""
    return f"checkpoint {number + 1}"


def unpruned_key(name: str) -> str:
    """Where the state keeps what a full model gives."""
    return f"{name}/unpruned"


class Sweeper:
    """Sweeps one checkpoint; whatever the state holds is taken from there, and what is computed goes there."""

    def __init__(
        self, name: str, opened: OpenCheckpoint, state: State, progress: "Progress", *, rounds: int, refit: bool
    ) -> None:
        """Prepare to sweep; nothing is computed yet.

        Args:
            name: of the checkpoint, for keys of the state.
            opened: the checkpoint.
            state: of the run.
            progress: watches.
            rounds: number of times that orders which are measured in rounds are measured.
            refit: heads are scored again on refitted models.
        """
        self._name, self._opened, self._state, self._progress = name, opened, state, progress
        self._rounds, self._refit = rounds, refit
        self._computes = False

    def steps(
        self, curve: Curve, numbers: Sequence[int], limits: Limits, test: SignificanceTest, rule: DropRule | None
    ) -> tuple[CurvePoint, ...]:
        """The points of a curve, up to the first that breaks the rule.

        Raises:
            NmtpruneError: what only shows when a model computes.
        """
        quality, unpruned = self._opened.quality, self._unpruned()
        found: list[CurvePoint] = []
        for plan, scored, decision in self._points(curve, numbers, limits, test.seed):
            removed = len(plan.removed(curve.kinds))
            (difference,) = test.compare(unpruned, [scored])
            relative = scored.score / unpruned.score if unpruned.score else None
            broken = rule is not None and rule.broken_by(difference)
            kept = plan.count_kept(curve.kinds)
            found.append(CurvePoint(removed, kept, plan, scored.score, difference, relative, broken, decision))
            self._progress.advance(f"{curve.name}, {removed} heads removed, {quality.name} {scored.score:.2f},")
            if broken:
                break
        return tuple(found)

    def _points(
        self, curve: Curve, numbers: Sequence[int], limits: Limits, seed: int
    ) -> Iterator[tuple[Plan, Scored, Decision | None]]:
        """Plans with their quality, and how each was chosen if several orders compete."""
        if curve.order.contenders:
            yield from self._decided(curve, numbers, limits, seed)
            return
        for plan in self._plans(curve, numbers, limits, seed):
            yield plan, self._scored(curve, plan), None

    def _plans(self, curve: Curve, numbers: Sequence[int], limits: Limits, seed: int) -> Iterator[Plan]:
        """The plans of one order."""
        scores_of, starts = self._scores_of(curve, limits, seed), tuple[int, ...]()
        if curve.order.in_rounds:
            starts = round_starts(numbers, self._rounds, limits.uniform)
            scores_of = Rounds(starts, curve.kinds, scores_of)
        for plan in sweep(self._opened.checkpoint.base, scores_of, sorted({*numbers, *starts}), limits):
            if limits.uniform or len(plan.removed(curve.kinds)) in numbers:
                yield plan

    def _decided(
        self, curve: Curve, numbers: Sequence[int], limits: Limits, seed: int
    ) -> Iterator[tuple[Plan, Scored, Decision | None]]:
        """At every number of heads the best of the plans of several orders."""
        entrants = {own.order.short: own for own in curve.entrants}
        sweeps = {name: self._plans(own, numbers, limits, seed) for name, own in entrants.items()}
        plans = {name: next(plans, None) for name, plans in sweeps.items()}
        while there := {name: plan for name, plan in plans.items() if plan is not None}:
            removed = min(len(plan.removed(curve.kinds)) for plan in there.values())
            # A uniform sweep of one order may come by other numbers than that of another one.
            level = {name: plan for name, plan in there.items() if len(plan.removed(curve.kinds)) == removed}
            if removed:
                decision = self._decision(entrants, level)
                yield decision.chosen.plan, decision.best, decision
            else:
                yield next(iter(level.values())), self._unpruned(), None
            plans |= {name: next(sweeps[name], None) for name in level}

    def _decision(self, entrants: Mapping[str, Curve], plans: Mapping[str, Plan]) -> Decision:
        """What losses and translations say of plans that remove the same number of heads."""
        # Equal plans of several orders are measured once.
        first = {
            name: next(one for one in plans if plans[one].removed() == plan.removed()) for name, plan in plans.items()
        }
        losses = {name: self._loss(f"{entrants[first[name]].name}/", plan) for name, plan in plans.items()}
        whole = Plan.keep_all(self._opened.checkpoint.base)
        short = shortlisted(losses, self._loss(f"{self._name}/", whole))
        scored = {name: self._scored(entrants[first[name]], plan) for name, plan in plans.items() if name in short}
        return decided([Candidate(name, plan, losses[name], scored.get(name)) for name, plan in plans.items()])

    def _loss(self, prefix: str, plan: Plan) -> float:
        """Nats per token of the references."""
        key = f"{prefix}{len(plan.removed()):03} loss"
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

    def _scores_of(self, curve: Curve, limits: Limits, seed: int) -> Callable[[Plan], Mapping[UnitId, float]]:
        """Scores of the heads that a plan leaves, by the order of a curve."""
        order = curve.order
        if order.scorer is not None and not isinstance(order.scorer, QualityDrop):
            scorer = order.scorer
            return lambda plan: self._measured(scorer, curve, limits, plan)
        if order.scores is not None:
            scores: Mapping[UnitId, float] = order.scores.scores_by_head()
        elif isinstance(order.scorer, QualityDrop):
            scores = self._ablated(order.scorer, curve)
        else:
            scores = random_scores(self._opened.checkpoint.base.modules, seed + (curve.sample or 1) - 1)
        return lambda _plan: scores

    def _measured(self, scorer: Scorer[Any], curve: Curve, limits: Limits, plan: Plan) -> Mapping[UnitId, float]:
        """Scores of a scorer, which are those of the unpruned model unless the order says otherwise."""
        subject, removed = self._opened.subjects[scorer.name], len(plan.removed())
        # What depends on the heads that may go belongs to the curve; what does not serves all curves.
        key = f"{curve.name if scorer.joint else self._name}/{scorer.name}"
        first = self._heads(key, lambda: scorer.scores(subject, None, limits))
        if not removed or not (curve.order.reestimated or curve.order.in_rounds):
            return scorer.ranked(first, first)

        def again() -> Mapping[UnitId, float]:
            if self._opened.refitted is not None and (self._refit or curve.order.in_rounds):
                return _on_refitted(scorer, subject, self._opened.refitted, plan, limits)
            return scorer.scores(subject, {module: plan.kept(module) for module in plan.base.modules}, limits)

        return scorer.ranked(self._heads(f"{curve.name}/{removed:03} {scorer.name}", again), first)

    def _ablated(self, scorer: QualityDrop, curve: Curve) -> Mapping[UnitId, float]:
        """What `score` gives, for the kinds of a curve; the state keeps a few heads at a time."""
        checkpoint, subject = self._opened.checkpoint, self._opened.subjects[scorer.name]
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

    def _heads(self, key: str, measured: Callable[[], Mapping[UnitId, float]]) -> dict[UnitId, float]:
        """Scores of heads; those that are gone have none."""
        heads = self._opened.checkpoint.architecture.head_ids()

        def compute() -> Arrays:
            scores = measured()
            return {_SCORES: np.array([scores.get(head, np.nan) for head in heads])}

        scores = self._recall(key, compute)[_SCORES]
        return {head: score for head, score in zip(heads, scores.tolist(), strict=True) if score == score}

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
    scorer: Scorer[Any], subject: ScoredModel, refitted: RefittedPlans, plan: Plan, limits: Limits
) -> dict[UnitId, float]:
    """Scores of the heads that a plan leaves, on the refitted model, by their ids in the unpruned one."""
    found = scorer.scores(subject.of(refitted.of(plan).checkpoint), None, limits)
    return {UnitId(head.group, plan.kept(head.group)[head.number]): score for head, score in found.items()}
