"""One checkpoint of a greedy run: scores that order its heads, and the quality of every plan, kept in the state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import HeadId
from nmtprune.budget import Limits
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.chance import random_scores
from nmtprune.methods.sweep import sweep
from nmtprune.plan import Plan
from nmtprune.runs.greedy import orders
from nmtprune.runs.greedy.curve import Step
from nmtprune.runs.greedy.orders import Curve
from nmtprune.runs.meters import Meter
from nmtprune.runs.quality import DropRule, Quality
from nmtprune.runs.results import ABLATE, Measured
from nmtprune.runs.state import Arrays, State, pack
from nmtprune.runs.workers import Unit, units

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

_STATISTICS, _SCORES = "statistics", "scores"


@dataclass(frozen=True)
class Subject:
    """A checkpoint with everything that is measured of it.

    Attributes:
        checkpoint: the model.
        measure: quality under masks.
        importance: measures it; None where no order asks for it.
        confidence: likewise.
    """

    checkpoint: "Checkpoint"
    measure: Quality
    importance: Meter | None
    confidence: Meter | None


def checkpoint_name(number: int) -> str:
    """What keys of the state call a checkpoint."""
    return f"checkpoint {number + 1}"


def unpruned_key(name: str) -> str:
    """Where the state keeps what a full model gives."""
    return f"{name}/unpruned"


class Sweeper:
    """Sweeps one checkpoint; whatever the state holds is taken from there, and what is computed goes there."""

    def __init__(self, name: str, subject: Subject, state: State, progress: "Progress") -> None:
        """Prepare to sweep; nothing is computed yet.

        Args:
            name: of the checkpoint, for keys of the state.
            subject: the checkpoint.
            state: of the run.
            progress: watches.
        """
        self._name, self._subject, self._state, self._progress = name, subject, state, progress
        self._computes = False

    def steps(
        self, curve: Curve, numbers: Sequence[int], limits: Limits, test: SignificanceTest, rule: DropRule | None
    ) -> tuple[Step, ...]:
        """The points of a curve, up to the first that breaks the rule.

        Raises:
            NmtpruneError: what only shows when a model computes.
        """
        base, measure = self._subject.checkpoint.base, self._subject.measure
        unpruned = self._unpruned()
        found: list[Step] = []
        scores_of = self._scores_of(curve, test.seed)
        for plan in sweep(base, scores_of, numbers, limits):
            removed = len(plan.removed(curve.kinds))
            scored = measure.scored(self._statistics(curve, plan, removed)) if removed else unpruned
            (difference,) = test.compare(unpruned, [scored])
            relative = scored.score / unpruned.score if unpruned.score else None
            broken = rule is not None and rule.broken_by(difference)
            kept = plan.count_kept(curve.kinds)
            found.append(Step(removed, kept, plan, scored.score, difference, relative, broken))
            self._progress.advance(f"{curve.name}, {removed} heads removed, {measure.name} {scored.score:.2f},")
            if broken:
                break
        return tuple(found)

    def _unpruned(self) -> Scored:
        key = unpruned_key(self._name)
        if key not in self._state:
            self._compute_baseline()
        return self._subject.measure.scored(self._state[key][_STATISTICS])

    def _statistics(self, curve: Curve, plan: Plan, removed: int) -> NDArray[Any]:
        def compute() -> Arrays:
            kept = {module: plan.kept(module) for module in plan.base.modules}
            return {_STATISTICS: self._subject.measure.systems([kept])[0].statistics}

        return self._recall(f"{curve.name}/{removed:03}", compute)[_STATISTICS]

    def _scores_of(self, curve: Curve, seed: int) -> Callable[[Plan], Mapping[HeadId, float]]:
        """Scores of the heads that a plan leaves, by the order of a curve."""
        order = curve.order
        if order.scores is not None:
            scores: Mapping[HeadId, float] = order.scores.scores_by_head()
        elif order.name == orders.RANDOM:
            scores = random_scores(self._subject.checkpoint.base.modules, seed + (curve.sample or 1) - 1)
        elif order.name == orders.ABLATION:
            scores = self._ablation(curve)
        elif order.name == orders.CONFIDENCE:
            scores = self._heads(f"{self._name}/confidence", lambda: _meter(self._subject.confidence).confidence())
        else:
            return lambda plan: self._importance(curve, plan)
        return lambda _plan: scores

    def _importance(self, curve: Curve, plan: Plan) -> Mapping[HeadId, float]:
        meter, removed = _meter(self._subject.importance), len(plan.removed())
        first = self._heads(f"{self._name}/importance", meter.importance)
        if curve.order.name == orders.IMPORTANCE or not removed:
            return meter.normalized(first)
        kept = {module: plan.kept(module) for module in plan.base.modules}
        later = self._heads(f"{curve.name}/{removed:03} importance", lambda: meter.importance(kept))
        return meter.normalized(later, first)

    def _ablation(self, curve: Curve) -> Mapping[HeadId, float]:
        """What `score` gives, for the kinds of a curve."""
        checkpoint, measure, unpruned = self._subject.checkpoint, self._subject.measure, self._unpruned()
        parameters = sum(tensor.numel() for tensor in checkpoint.model_tensors.values())
        together = measure.heads_together(checkpoint.architecture, parameters)
        modules = tuple(module for module in checkpoint.architecture if module.id.kind in curve.kinds)
        found: dict[HeadId, float] = {}
        for unit in units(f"{self._name}/ablation", modules, together):
            heads = [HeadId(unit.module.id, head) for head in unit.heads]

            def compute(unit: Unit = unit, heads: list[HeadId] = heads) -> Arrays:
                masked = dict(zip(heads, measure.unit(unit), strict=True))
                return {_SCORES: np.array([*Measured(unpruned, masked, {}).values(ABLATE).values()])}

            scores = self._recall(unit.key, compute)[_SCORES]
            found.update(zip(heads, scores.tolist(), strict=True))
        return found

    def _heads(self, key: str, measured: Callable[[], Mapping[HeadId, float]]) -> dict[HeadId, float]:
        """Scores of heads; those that are gone have none."""
        heads = self._subject.checkpoint.architecture.head_ids()

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
            self._state.keep_same(unpruned_key(self._name), {_STATISTICS: self._subject.measure.baseline().statistics})
            self._computes = True


def _meter(meter: Meter | None) -> Meter:
    if meter is None:
        raise ValueError("this order was not prepared")
    return meter
