"""The models of plans, and how good they are: the checkpoint with heads masked, or cut and refitted."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from nmtprune.architecture import Kept
from nmtprune.data.directions import MEAN, Directions, Sets
from nmtprune.data.options import DataOptions
from nmtprune.evaluate.over_directions import driving
from nmtprune.plan import Plan
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.refitted_plans import RefittedPlans
from nmtprune.runs.run import LOSS, MeasuringRun

if TYPE_CHECKING:
    from nmtprune.evaluate.metrics import Scored, Statistics
    from nmtprune.formats.base import Checkpoint

_DATA = "data"


class MeasuredPlans:
    """How good the models of plans are on the development set."""

    def __init__(
        self,
        quality: Quality,
        checkpoint: "Checkpoint",
        data: Sets,
        settings: MeasuringRun,
        corpora: Corpora,
        refitted: RefittedPlans | None,
    ) -> None:
        """Prepare.

        Args:
            quality: the metric of the checkpoint under masks.
            checkpoint: the unpruned checkpoint.
            data: the development set.
            settings: metric, engine, search and batches.
            corpora: what the run has read.
            refitted: gives the models that are measured; None: the checkpoint with heads masked.
        """
        self._quality, self._checkpoint, self._data, self._settings = quality, checkpoint, data, settings
        self._corpora, self._refitted = corpora, refitted

    def statistics(self, plan: Plan) -> "Statistics":
        """Statistics of the metric [sentences, stats]."""
        if self._refitted is None:
            return self._quality.systems([left_by(plan)])[0].statistics
        return self._measured(self._refitted.of(plan).checkpoint, self._settings).systems([{}])[0].statistics

    def loss(self, plan: Plan) -> float:
        """Nats per token of the references; of the unpruned model for a plan that removes nothing."""
        if self._refitted is None or plan.kept_units == plan.base.units:
            return self.losses([plan])[0]
        (found,) = self._measured(self._refitted.of(plan).checkpoint, self._for_loss).systems([{}])
        return -self._driving(found)

    def losses(self, plans: Sequence[Plan]) -> list[float]:
        """Nats per token of the references under the masks of plans, whether models are refitted or not."""
        return [-self._driving(found) for found in self._losses.systems([left_by(plan) for plan in plans])]

    def _driving(self, found: "Scored") -> float:
        """What losses are compared by, see `driving`; that of one direction needs no baseline."""
        return driving(found, self._losses.baseline()) if self._quality.across != MEAN else found.score

    def prepare_losses(self) -> None:
        """Read what losses take.

        Raises:
            NmtpruneError: a model or data that have no loss.
        """
        _ = self._losses

    @cached_property
    def _losses(self) -> Quality:
        return self._measured(self._checkpoint, self._for_loss)

    @property
    def _for_loss(self) -> MeasuringRun:
        return replace(self._settings, metric=LOSS, engine="native", bleu_tokenize=None, lowercase=False)

    def _measured(self, checkpoint: "Checkpoint", settings: MeasuringRun) -> Quality:
        # A loss is that of the token ids, which binarized data have without files of references.
        if settings.metric != LOSS:
            data = self._data
        elif isinstance(self._data, Directions):
            data = self._data.with_data(lambda own: _without_files(own.data))
        else:
            data = _without_files(self._data)
        return measure(checkpoint, {_DATA: data}, settings, self._corpora, self._quality.across)[_DATA]


def _without_files(data: DataOptions) -> DataOptions:
    """Binarized sentences without files of references."""
    return replace(data, reference=()) if data.source is None else data


def left_by(plan: Plan) -> Kept:
    """What a plan leaves of the groups that lose units or their layer."""
    every = plan.base.units
    return {id: numbers for id, numbers in plan.kept_units.items() if numbers != every[id]}
