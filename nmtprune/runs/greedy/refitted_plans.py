"""The refitted models of plans: what `greedy --refit` measures, and what rounds of a joint order start from."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nmtprune.plan import Plan

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.measuring import Texts
    from nmtprune.model import Transformer
    from nmtprune.runs.refit import Refitted


class RefittedPlans:
    """Cuts plans out of one checkpoint and refits what is left; the last result is kept for whoever needs it next."""

    def __init__(
        self,
        checkpoint: "Checkpoint",
        model: "Transformer",
        texts: Callable[[], "Sequence[Texts]"],
        record: Mapping[str, Any],
    ) -> None:
        """Prepare; nothing is cut or read yet.

        Args:
            checkpoint: the unpruned checkpoint.
            model: its native model.
            texts: the calibration text.
            record: what lineages say of it.
        """
        self._checkpoint, self._model, self._texts, self._record = checkpoint.without_optimizer(), model, texts, record
        self._last: tuple[Plan, Refitted] | None = None

    def of(self, plan: Plan) -> "Refitted":
        """The refitted model of a plan.

        Raises:
            CheckpointError: states that are no finite numbers.
        """
        from nmtprune import slim
        from nmtprune.runs.refit import refitted

        if self._last is None or self._last[0].removed() != plan.removed():
            self._last = None
            self._last = (
                plan,
                refitted(self._model, slim.apply(plan, self._checkpoint), self._texts(), record=self._record),
            )
        return self._last[1]
