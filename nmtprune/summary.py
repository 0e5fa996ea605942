"""What a checkpoint consists of: units, lineage, parameters by part, what a unit costs; and what slimming saved."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import NEURON_KINDS, STACKS, Group, GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint, UnitAxis
from nmtprune.plan import Plan, ranges
from nmtprune.slim import apply

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GroupSummary:
    """One attention module or feed-forward layer.

    Attributes:
        group: its id, units and their width.
        root: what it was in the root checkpoint.
        root_units: numbers in the root checkpoint of the heads or neurons that it has.
        root_count: units of the group in the root checkpoint.
        masked: units whose part of the output projection is zero (files of mode `masked`).
        opened: units whose gates are open at test time; None where they have no gates.
        parameters: of one unit: what removing it removes.
        bytes: of those parameters.
    """

    group: Group
    root: GroupId
    root_units: tuple[int, ...]
    root_count: int
    masked: tuple[int, ...]
    opened: tuple[int, ...] | None
    parameters: int
    bytes: int


@dataclass(frozen=True)
class StackSummary:
    """The layers of one stack.

    Attributes:
        stack: encoder or decoder.
        layers: numbers of its layers; tied layers are one.
        root_layers: their numbers in the root checkpoint.
        root_count: layers of the stack in the root checkpoint.
        parameters: of each layer: what removing it removes; None where that cannot be done (a single layer).
        bytes: of those parameters.
    """

    stack: str
    layers: tuple[int, ...]
    root_layers: tuple[int, ...]
    root_count: int
    parameters: tuple[int, ...] | None
    bytes: tuple[int, ...] | None


@dataclass(frozen=True)
class Summary:
    """What `nmtprune inspect` shows.

    Attributes:
        format: name of the file format.
        architecture: the format's name of the architecture.
        sha256: fingerprint of the model's tensors.
        root_sha256: fingerprint of the checkpoint that it was cut from, None where it was never cut.
        modules: one entry per attention module.
        feed_forwards: one entry per feed-forward layer whose neurons can be cut.
        stacks: one entry per stack.
        root: numbers of the units of every group of the root checkpoint.
        parameters: trainable parameters by part of the model, shared tables counted once.
        model_bytes: bytes of these parameters.
        file_bytes: size of the file.
        other_bytes: bytes of tensors that move with the weights: optimizer moments, moving averages.
        not_finite: which weights are NaN or infinite; None for a model that can be run.
        notes: what else a user should know of the file, one line each.
    """

    format: str
    architecture: str
    sha256: str
    root_sha256: str | None
    modules: tuple[GroupSummary, ...]
    feed_forwards: tuple[GroupSummary, ...]
    stacks: tuple[StackSummary, ...]
    root: Mapping[GroupId, Sequence[int]]
    parameters: dict[str, int]
    model_bytes: int
    file_bytes: int
    other_bytes: int
    not_finite: str | None
    notes: tuple[str, ...]

    def count(self, sort: str) -> int:
        """Heads, neurons or layers that the model has."""
        if sort == "layers":
            return sum(len(entry.layers) for entry in self.stacks)
        return sum(entry.group.units for entry in self._groups(sort))

    def root_count(self, sort: str) -> int:
        """Heads, neurons or layers that the root checkpoint had."""
        return sum(len(numbers) for id, numbers in self.root.items() if id.sort == sort)

    @property
    def computing(self) -> dict[GroupId, int]:
        """Heads and neurons that are there and not masked, by group of the root checkpoint whose layer is there."""
        return {entry.root: entry.group.units - len(entry.masked) for entry in (*self.modules, *self.feed_forwards)}

    def masked(self, sort: str) -> int:
        """Heads or neurons that are there but whose output is zero."""
        return sum(len(entry.masked) for entry in self._groups(sort))

    def _groups(self, sort: str) -> tuple[GroupSummary, ...]:
        return {"heads": self.modules, "neurons": self.feed_forwards}[sort]

    def closed(self, sort: str) -> int | None:
        """Heads or neurons whose gates are closed at test time; None where none have gates."""
        gated = [(entry.group.units, entry.opened) for entry in self._groups(sort) if entry.opened is not None]
        return sum(units - len(opened) for units, opened in gated) if gated else None

    @property
    def total_parameters(self) -> int:
        """Trainable parameters of the model."""
        return sum(self.parameters.values())

    def as_json(self) -> dict[str, Any]:
        """All figures as plain values."""
        return {
            "format": self.format,
            "architecture": self.architecture,
            "sha256": self.sha256,
            "root_sha256": self.root_sha256,
            "heads": self.count("heads"),
            "root_heads": self.root_count("heads"),
            "masked_heads": self.masked("heads"),
            "closed_heads": self.closed("heads"),
            "modules": [_module_json(entry) for entry in self.modules],
            "neurons": self.count("neurons"),
            "root_neurons": self.root_count("neurons"),
            "masked_neurons": self.masked("neurons"),
            **({} if self.closed("neurons") is None else {"closed_neurons": self.closed("neurons")}),
            "feed_forwards": [_feed_forward_json(entry) for entry in self.feed_forwards],
            "layers": self.count("layers"),
            "root_layers": self.root_count("layers"),
            "stacks": [_stack_json(entry) for entry in self.stacks],
            "parameters": {**self.parameters, "total": self.total_parameters},
            "bytes": {"model": self.model_bytes, "file": self.file_bytes, "optimizer_and_averages": self.other_bytes},
            "not_finite": self.not_finite,
            "notes": list(self.notes),
        }


def summarize(checkpoint: Checkpoint) -> Summary:
    """Count what a checkpoint consists of."""
    architecture = checkpoint.architecture
    return Summary(
        format=checkpoint.format,
        architecture=checkpoint.architecture_name,
        sha256=checkpoint.sha256,
        root_sha256=checkpoint.lineage.root.sha256 if checkpoint.lineage else None,
        modules=tuple(_group_summary(module, checkpoint) for module in architecture.modules),
        feed_forwards=tuple(_group_summary(group, checkpoint) for group in architecture.feed_forwards),
        stacks=tuple(_stack_summary(stack, checkpoint) for stack in STACKS if architecture.layers(stack)),
        root=_root(checkpoint),
        parameters=parameters_by_part(checkpoint),
        model_bytes=model_bytes(checkpoint),
        file_bytes=checkpoint.file_bytes,
        other_bytes=other_bytes(checkpoint),
        not_finite=checkpoint.not_finite,
        notes=(*checkpoint.notes, *state_notes(checkpoint)),
    )


def state_notes(checkpoint: Checkpoint) -> tuple[str, ...]:
    """A remark on optimizer state and averages that no training can go on with."""
    found = checkpoint.copies_not_finite
    return (f"{found}: no training can go on from here, though the model itself is whole",) if found else ()


def model_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the model's parameters, shared tables counted once."""
    return sum(tensor.nbytes for tensor in checkpoint.parameters.values())


def other_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of tensors that move with the weights: optimizer moments, moving averages."""
    own = checkpoint.model_tensors
    return sum(tensor.nbytes for name, tensor in checkpoint.tensors.items() if name not in own)


def parameters_by_part(checkpoint: Checkpoint) -> dict[str, int]:
    """Trainable parameters by part of the model (`Checkpoint.part_of`), shared tables counted once."""
    parameters: Counter[str] = Counter()
    for name, tensor in checkpoint.parameters.items():
        parameters[checkpoint.part_of(name)] += tensor.numel()
    return dict(sorted(parameters.items()))


def parameter_count(checkpoint: Checkpoint) -> int:
    """Trainable parameters of the model, shared tables counted once."""
    return sum(tensor.numel() for tensor in checkpoint.parameters.values())


def _root(checkpoint: Checkpoint) -> dict[GroupId, tuple[int, ...]]:
    """Units of the root checkpoint; where its lineage says nothing of neurons, none were removed."""
    present = checkpoint.architecture.units
    root = checkpoint.lineage.root.units if checkpoint.lineage else present
    return root | {id: numbers for id, numbers in present.items() if id.kind in NEURON_KINDS and not _records(root)}


def _records(units: Mapping[GroupId, Sequence[int]]) -> bool:
    """Whether a base says how many neurons there are."""
    return any(id.kind in NEURON_KINDS for id in units)


def _group_summary(group: Group, checkpoint: Checkpoint) -> GroupSummary:
    sliced = [
        (checkpoint.parameters[axis.tensor], axis)
        for axis in checkpoint.unit_axes[group.id]
        if axis.tensor in checkpoint.parameters
    ]
    of_a_unit = [(_entries_of_a_unit(tensor, axis), tensor.element_size()) for tensor, axis in sliced]
    root, root_units, root_count = _root_units(group, checkpoint)
    return GroupSummary(
        group=group,
        root=root,
        root_units=root_units,
        root_count=root_count,
        masked=_masked(group, [(tensor, axis) for tensor, axis in sliced if axis.output]),
        opened=None if checkpoint.open_units is None else checkpoint.open_units.get(group.id),
        parameters=sum(count for count, _ in of_a_unit),
        bytes=sum(count * size for count, size in of_a_unit),
    )


def _entries_of_a_unit(tensor: "Tensor", axis: UnitAxis) -> int:
    """Entries that one unit has in a tensor; also known where no unit is left."""
    others = [size for position, size in enumerate(tensor.shape) if position != axis.axis]
    return axis.blocks * axis.width * math.prod(others)


def _root_units(group: Group, checkpoint: Checkpoint) -> tuple[GroupId, tuple[int, ...], int]:
    """The group in the root checkpoint, the numbers there of its units, and how many there were."""
    lineage = checkpoint.lineage
    root = lineage.in_root(group.id) if lineage else group.id
    if lineage is None or root not in lineage.root.units:
        return root, tuple(range(group.units)), group.units
    return root, tuple(lineage.units(group.id)), len(lineage.root.units[root])


def _masked(group: Group, outputs: list[tuple["Tensor", UnitAxis]]) -> tuple[int, ...]:
    masked: set[int] = set(range(group.units)) if outputs else set()
    for tensor, axis in outputs:
        by_unit = tensor.movedim(axis.axis, 0).unflatten(0, (group.stored, axis.width)).flatten(1)
        there = (by_unit != 0).any(dim=1)[: group.units]
        masked -= {unit for unit, computes in enumerate(there.tolist()) if computes}
    return tuple(sorted(masked))


def _stack_summary(stack: str, checkpoint: Checkpoint) -> StackSummary:
    layers, lineage = checkpoint.architecture.layers(stack), checkpoint.lineage
    root = (lineage.root.units[GroupId.layers_of(stack)], lineage.layers(stack)) if lineage else (layers, layers)
    costs = _costs_of_layers(stack, layers, checkpoint)
    return StackSummary(
        stack=stack,
        layers=layers,
        root_layers=root[1],
        root_count=len(root[0]),
        parameters=None if costs is None else tuple(parameters for parameters, _ in costs),
        bytes=None if costs is None else tuple(size for _, size in costs),
    )


def _costs_of_layers(stack: str, layers: Sequence[int], checkpoint: Checkpoint) -> list[tuple[int, int]] | None:
    """Parameters and bytes that go with each layer; None where layers cannot be taken out."""
    if len(layers) == 1:
        return None
    # Optimizer state that cannot be cut makes no difference here.
    model = checkpoint.without_optimizer()
    whole, costs = (parameter_count(model), model_bytes(model)), list[tuple[int, int]]()
    for layer in layers:
        plan = Plan.removing(model.base, [UnitId(GroupId.layers_of(stack), layer)])
        try:
            without = apply(plan, model, "masked")
        except CheckpointError:
            return None
        costs.append((whole[0] - parameter_count(without), whole[1] - model_bytes(without)))
    return costs


def _module_json(entry: GroupSummary) -> dict[str, Any]:
    return {
        "module": str(entry.group.id),
        "heads": entry.group.units,
        "root_heads": entry.root_count,
        "padding_heads": entry.group.padding,
        "head_dim": entry.group.width,
        "root_module": str(entry.root),
        "root_head_ids": list(entry.root_units),
        "masked_heads": list(entry.masked),
        "open_heads": None if entry.opened is None else list(entry.opened),
        "parameters_per_head": entry.parameters,
        "bytes_per_head": entry.bytes,
    }


def _feed_forward_json(entry: GroupSummary) -> dict[str, Any]:
    return {
        "feed_forward": str(entry.group.id),
        "neurons": entry.group.units,
        "root_neurons": entry.root_count,
        "padding_neurons": entry.group.padding,
        "root_feed_forward": str(entry.root),
        "root_neuron_ids": ranges.as_ranges(entry.root_units),
        "masked_neurons": ranges.as_ranges(entry.masked),
        **({} if entry.opened is None else {"open_neurons": ranges.as_ranges(entry.opened)}),
        "parameters_per_neuron": entry.parameters,
        "bytes_per_neuron": entry.bytes,
    }


def _stack_json(entry: StackSummary) -> dict[str, Any]:
    return {
        "stack": entry.stack,
        "layers": len(entry.layers),
        "root_layers": entry.root_count,
        "root_layer_ids": list(entry.root_layers),
        "parameters_of_layers": None if entry.parameters is None else list(entry.parameters),
        "bytes_of_layers": None if entry.bytes is None else list(entry.bytes),
    }
