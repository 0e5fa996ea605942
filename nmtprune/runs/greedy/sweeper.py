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
from nmtprune.methods.ablation import Ablation
from nmtprune.methods.chance import random_scores
from nmtprune.methods.scorer import Scorer
from nmtprune.methods.sweep import sweep
from nmtprune.plan import Plan
from nmtprune.runs.greedy.curve import Step
from nmtprune.runs.greedy.orders import Curve
from nmtprune.runs.quality import DropRule, Quality
from nmtprune.runs.state import Arrays, State, pack
from nmtprune.runs.subject import ScoredModel
from nmtprune.runs.workers import Unit, units

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

_STATISTICS, _SCORES = "statistics", "scores"


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint with everything that is measured of it.

    Attributes:
        checkpoint: the model.
        quality: the metric under masks.
        subjects: by the name of a scorer, what it scores.
    """

    checkpoint: "Checkpoint"
    quality: Quality
    subjects: Mapping[str, ScoredModel]


def checkpoint_name(number: int) -> str:
    """What keys of the state call a checkpoint."""
    return f"checkpoint {number + 1}"


def unpruned_key(name: str) -> str:
    """Where the state keeps what a full model gives."""
    return f"{name}/unpruned"


class Sweeper:
    """Sweeps one checkpoint; whatever the state holds is taken from there, and what is computed goes there."""

    def __init__(self, name: str, opened: OpenCheckpoint, state: State, progress: "Progress") -> None:
        """Prepare to sweep; nothing is computed yet.

        Args:
            name: of the checkpoint, for keys of the state.
            opened: the checkpoint.
            state: of the run.
            progress: watches.
        """
        self._name, self._opened, self._state, self._progress = name, opened, state, progress
        self._computes = False

    def steps(
        self, curve: Curve, numbers: Sequence[int], limits: Limits, test: SignificanceTest, rule: DropRule | None
    ) -> tuple[Step, ...]:
        """The points of a curve, up to the first that breaks the rule.

        Raises:
            NmtpruneError: what only shows when a model computes.
        """
        base, quality = self._opened.checkpoint.base, self._opened.quality
        unpruned = self._unpruned()
        found: list[Step] = []
        scores_of = self._scores_of(curve, limits, test.seed)
        for plan in sweep(base, scores_of, numbers, limits):
            removed = len(plan.removed(curve.kinds))
            scored = quality.scored(self._statistics(curve, plan, removed)) if removed else unpruned
            (difference,) = test.compare(unpruned, [scored])
            relative = scored.score / unpruned.score if unpruned.score else None
            broken = rule is not None and rule.broken_by(difference)
            kept = plan.count_kept(curve.kinds)
            found.append(Step(removed, kept, plan, scored.score, difference, relative, broken))
            self._progress.advance(f"{curve.name}, {removed} heads removed, {quality.name} {scored.score:.2f},")
            if broken:
                break
        return tuple(found)

    def _unpruned(self) -> Scored:
        key = unpruned_key(self._name)
        if key not in self._state:
            self._compute_baseline()
        return self._opened.quality.scored(self._state[key][_STATISTICS])

    def _statistics(self, curve: Curve, plan: Plan, removed: int) -> NDArray[Any]:
        def compute() -> Arrays:
            kept = {module: plan.kept(module) for module in plan.base.modules}
            return {_STATISTICS: self._opened.quality.systems([kept])[0].statistics}

        return self._recall(f"{curve.name}/{removed:03}", compute)[_STATISTICS]

    def _scores_of(self, curve: Curve, limits: Limits, seed: int) -> Callable[[Plan], Mapping[HeadId, float]]:
        """Scores of the heads that a plan leaves, by the order of a curve."""
        order = curve.order
        if order.scorer is not None and not order.scorer.masks:
            scorer = order.scorer
            return lambda plan: self._measured(scorer, curve, limits, plan)
        if order.scores is not None:
            scores: Mapping[HeadId, float] = order.scores.scores_by_head()
        elif isinstance(order.scorer, Ablation):
            scores = self._ablated(order.scorer, curve)
        else:
            scores = random_scores(self._opened.checkpoint.base.modules, seed + (curve.sample or 1) - 1)
        return lambda _plan: scores

    def _measured(self, scorer: Scorer[Any], curve: Curve, limits: Limits, plan: Plan) -> Mapping[HeadId, float]:
        """Scores of a scorer, which are those of the unpruned model unless the order says otherwise."""
        subject, removed = self._opened.subjects[scorer.name], len(plan.removed())
        # What depends on the heads that may go belongs to the curve; what does not serves all curves.
        key = f"{curve.name if scorer.joint else self._name}/{scorer.name}"
        first = self._heads(key, lambda: scorer.scores(subject, None, limits))
        if not curve.order.reestimated or not removed:
            return scorer.ranked(first, first)
        kept = {module: plan.kept(module) for module in plan.base.modules}
        key = f"{curve.name}/{removed:03} {scorer.name}"
        return scorer.ranked(self._heads(key, lambda: scorer.scores(subject, kept, limits)), first)

    def _ablated(self, scorer: Ablation, curve: Curve) -> Mapping[HeadId, float]:
        """What `score` gives, for the kinds of a curve; the state keeps a few heads at a time."""
        checkpoint, subject = self._opened.checkpoint, self._opened.subjects[scorer.name]
        parameters = sum(tensor.numel() for tensor in checkpoint.model_tensors.values())
        together = self._opened.quality.heads_together(checkpoint.architecture, parameters)
        modules = tuple(module for module in checkpoint.architecture if module.id.kind in curve.kinds)
        found: dict[HeadId, float] = {}
        for unit in units(f"{self._name}/{scorer.name}", modules, together):

            def compute(unit: Unit = unit) -> Arrays:
                return {_SCORES: np.array([*scorer.drops(subject, unit.module, unit.heads).values()])}

            scores = self._recall(unit.key, compute)[_SCORES]
            heads = (HeadId(unit.module.id, head) for head in unit.heads)
            found |= dict(zip(heads, scores.tolist(), strict=True))
        return found

    def _heads(self, key: str, measured: Callable[[], Mapping[HeadId, float]]) -> dict[HeadId, float]:
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
