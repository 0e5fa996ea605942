"""How the heads of a slim checkpoint descend from those of its root."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, model_validator

from nmtprune import strictjson
from nmtprune.architecture import KINDS
from nmtprune.errors import CheckpointError, PlanError
from nmtprune.plan.base_model import FROZEN, Base, HeadLists, JsonObject, faultless
from nmtprune.plan.faults import lineage_faults
from nmtprune.plan.plan import Plan

if TYPE_CHECKING:
    pass


class Lineage(BaseModel):
    """How the heads of a slim checkpoint map to the checkpoint from which its line of cuts started.

    Attributes:
        root: the model that was cut first.
        keep: ``encoder.0`` -> the ids in `root` of the heads that are there now, in their present order.
        refit: how output projections were last fitted (`nmtprune.runs.refit`), any JSON object; None if they were not.

    Raises:
        CheckpointError: on construction, naming every fault (a lineage lives in a checkpoint).
    """

    model_config = FROZEN

    root: Base
    keep: HeadLists
    refit: JsonObject | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        return (
            data
            if isinstance(data, cls)
            else handler(faultless(data, lineage_faults(data), "lineage", CheckpointError))
        )

    @classmethod
    def start(cls, base: Base) -> "Lineage":
        """The lineage of a checkpoint that was never cut."""
        return cls(root=base, keep={str(id): tuple(range(heads)) for id, heads in base.modules.items()})

    @classmethod
    def from_json(cls, text: str, where: str = "lineage") -> "Lineage":
        """Read a lineage from JSON text.

        Raises:
            CheckpointError: broken JSON, or every fault in one line that begins with `where`.
        """
        data = strictjson.loads(text, where, CheckpointError)
        return cls.model_validate(faultless(data, lineage_faults(data), where, CheckpointError))

    def to_json(self) -> str:
        """The lineage as JSON on one line."""
        refit = {} if self.refit is None else {"refit": self.refit}
        return json.dumps({"root": self.root.as_json(), "keep": self.keep, **refit})

    def after(self, plan: Plan) -> "Lineage":
        """The lineage of what `plan` makes of a checkpoint of this lineage.

        Raises:
            PlanError: the plan is for other numbers of heads.
        """
        modules = self.root.modules
        heads = {kind: tuple(len(self.keep[str(id)]) for id in modules if id.kind == kind) for kind in KINDS}
        faults = plan.base.shape_faults(self.root.model_copy(update={"heads": strictjson.freeze(heads)}))
        if faults:
            raise PlanError.of_faults("plan: not made for the checkpoint of this lineage", faults)
        kept = {module: tuple(ids[place] for place in plan.keep[module]) for module, ids in self.keep.items()}
        return self.model_copy(update={"keep": strictjson.freeze(kept)})
