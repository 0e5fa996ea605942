"""How the units of a slim checkpoint descend from those of its root."""

import json
from collections.abc import Callable
from typing import Any, Self

from pydantic import BaseModel, model_validator

from nmtprune import strictjson
from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, GroupId
from nmtprune.errors import CheckpointError, PlanError
from nmtprune.plan.base_model import FROZEN, Base, HeadLists, JsonObject, faultless
from nmtprune.plan.faults import folded, lineage_faults
from nmtprune.plan.plan import Plan, kept_json, layers_json


class Lineage(BaseModel):
    """How the units of a slim checkpoint map to the checkpoint from which its line of cuts started.

    Attributes:
        root: the model that was cut first.
        keep: as `Plan.keep`: group of `root` -> the numbers there of the units that are there now, in their present
            order. Layers are numbered anew in a slim checkpoint (`present`).
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

    def __eq__(self, other: object) -> bool:
        """Whether the other is a lineage of the same JSON: numbers of neurons count where neurons or layers went."""
        return isinstance(other, Lineage) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        """Hash of what equality compares."""
        return hash(self.to_json())

    @classmethod
    def start(cls, base: Base) -> "Lineage":
        """The lineage of a checkpoint that was never cut."""
        return cls(root=base, keep=Plan.keep_all(base).keep)

    @classmethod
    def from_json(cls, text: str, where: str = "lineage") -> "Lineage":
        """Read a lineage from JSON text.

        Raises:
            CheckpointError: broken JSON, or every fault in one line that begins with `where`.
        """
        read = strictjson.loads(text, where, CheckpointError)
        data, faults = folded(read, layers=True) if isinstance(read, dict) else (read, [])
        checked = faultless(data, faults + lineage_faults(data), where, CheckpointError)
        base = Base.model_validate(checked["root"])
        return cls(root=base, keep=Plan.of(base, checked["keep"]).keep, refit=checked.get("refit"))

    def to_json(self) -> str:
        """The lineage as JSON on one line."""
        # Where its layers differ, a file cannot say by itself which of its neurons are padding.
        ragged = any(len(set(counts)) > 1 for counts in self.root.neurons.values())
        keep, layers = kept_json(self.root, self.keep, neurons=ragged), layers_json(self.root, self.keep)
        neurons = bool(layers) or any(isinstance(units, str) for units in keep.values())
        found: dict[str, Any] = {"root": self.root.as_json(neurons=neurons), "keep": keep}
        found |= {"layers": layers} if layers else {}
        return json.dumps(found | ({} if self.refit is None else {"refit": self.refit}))

    def layers(self, stack: str) -> tuple[int, ...]:
        """Numbers in the root of the layers that are there now, in order; empty for a stack without groups."""
        return self.keep.get(str(GroupId.layers_of(stack)), ())

    def has(self, group: GroupId) -> bool:
        """Whether the layer of a group of the root is still there."""
        return group.kind in LAYER_KINDS or group.layer in self.layers(group.stack)

    def in_root(self, group: GroupId) -> GroupId:
        """The group of the root that a group of the checkpoint was."""
        if group.kind in LAYER_KINDS or self._all_layers(group.stack):
            return group
        return GroupId(group.kind, self.layers(group.stack)[group.layer])

    def present(self, group: GroupId) -> GroupId:
        """The group of the checkpoint that a group of the root is now, of a layer that is there."""
        if group.kind in LAYER_KINDS or self._all_layers(group.stack):
            return group
        return GroupId(group.kind, self.layers(group.stack).index(group.layer))

    def units(self, group: GroupId) -> tuple[int, ...]:
        """Numbers in the root of the units that a group of the checkpoint has; KeyError where it is not recorded."""
        return self.keep[str(self.in_root(group))]

    def after(self, plan: Plan) -> "Lineage":
        """The lineage of what `plan` makes of a checkpoint of this lineage.

        Raises:
            PlanError: the plan is for other numbers of units.
        """
        if plan.base.neurons and not self.root.neurons:
            return self._with_neurons(plan.base).after(plan)
        faults = plan.base.shape_faults(self._present_base())
        if faults:
            raise PlanError.of_faults("plan: not made for the checkpoint of this lineage", faults)
        kept = dict(self.keep)
        for id, places in plan.kept_units.items():
            root = self.in_root(id)
            there = self.keep[str(root)]
            if id.kind in LAYER_KINDS:
                numbers = plan.base.units[id]
                kept[str(root)] = tuple(there[numbers.index(place)] for place in places)
            else:
                kept[str(root)] = tuple(there[place] for place in places)
        keep = {group: units for group, units in kept.items() if group in self.keep}
        return self.model_copy(update={"keep": Plan.of(self.root, keep).keep})

    def _with_neurons(self, base: Base) -> "Lineage":
        """The lineage with the neurons of a checkpoint that has all neurons and layers of its root."""
        tied = {**self.root.layers, **{kind: base.layers[kind] for kind in NEURON_KINDS if kind in base.layers}}
        root = self.root.model_copy(update={"neurons": base.neurons, "layers": strictjson.freeze(tied)})
        return self.model_copy(update={"root": root, "keep": Plan.of(root, self.keep).keep})

    def _all_layers(self, stack: str) -> bool:
        """Whether no layer of a stack was removed, so that its layers have the root's numbers."""
        group = GroupId.layers_of(stack)
        return self.layers(stack) == self.root.units.get(group, ())

    def _present_base(self) -> Base:
        """The root with the numbers of units that are there now."""
        counts: dict[str, list[int]] = {kind: [] for kind in (*KINDS, *NEURON_KINDS)}
        layers: dict[str, list[int]] = {kind: [] for kind in (*KINDS, *NEURON_KINDS)}
        for id in self.root.units:
            if id.kind in counts and self.has(id):
                counts[id.kind].append(len(self.keep[str(id)]))
                layers[id.kind].append(self.present(id).layer)
        tied = {kind: numbers for kind, numbers in layers.items() if numbers != list(range(len(numbers)))}
        neurons = {kind: counts[kind] for kind in NEURON_KINDS if counts[kind]}
        return self.root.model_copy(
            update={
                "heads": strictjson.freeze({kind: tuple(counts[kind]) for kind in KINDS}),
                "neurons": strictjson.freeze({kind: tuple(found) for kind, found in neurons.items()}),
                "layers": strictjson.freeze({kind: tuple(found) for kind, found in tied.items()}),
            }
        )
