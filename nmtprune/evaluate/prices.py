"""What units cost in a model of which some are gone: what a plan saves, and what one more unit would.

A price is of multiply-accumulates, of parameters or of time. It depends on how many units every group keeps, not on
which ones.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from nmtprune.architecture import LAYER_KINDS, Architecture, Group, GroupId, Kept, UnitId
from nmtprune.evaluate.cost import Lengths, works

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Model


class Prices(Protocol):
    """What a model costs, and what each of its units does."""

    @property
    def kind(self) -> str:
        """The budget that it serves: macs, params or speed."""

    @property
    def measure(self) -> str:
        """What is counted, as messages call it."""

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """Kinds whose groups all cost what the largest of them does: to cut one of them alone saves nothing."""

    def total(self, kept: Kept) -> float:
        """The cost of the model that keeps this; of the whole model for ``{}``."""

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """What removing a unit saves, given what is left; of a layer all that is left of it."""

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """What removing any one head or neuron of a group saves, given what is left."""


@dataclass(frozen=True)
class Adapted:
    """Prices that follow from others: of the same kind, for other units or under a rule of their own.

    Attributes:
        prices: the others.
    """

    prices: Prices

    @property
    def kind(self) -> str:
        """As of the others."""
        return self.prices.kind

    @property
    def measure(self) -> str:
        """As of the others."""
        return self.prices.measure

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """As of the others."""
        return self.prices.together


@dataclass(frozen=True)
class Additive:
    """A cost that is a sum over units: each group's by their number, each layer's own, and the rest.

    Attributes:
        architecture: of the whole model.
        units: cost of one unit of every attention module and feed-forward layer.
        layers: cost of every layer besides these.
        rest: of what is in no layer.
        fewest: by group, units with which the file stores it at least, if only as zeros; 0 where none is named.
    """

    architecture: Architecture
    units: Mapping[GroupId, float]
    layers: Mapping[UnitId, float]
    rest: float
    fewest: Mapping[GroupId, int] = field(default_factory=dict)

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """No kinds."""
        return ()

    def total(self, kept: Kept) -> float:
        """The cost of the model that is cut to this."""
        found = self.rest
        for stack, layers in self._stacks.items():
            there = kept.get(stack)
            found += sum(self._of_layer(layer, kept) for layer in layers if there is None or layer.number in there)
        return found

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """What removing a unit saves, given what is left; of a layer all that is left of it."""
        if unit.group.kind not in LAYER_KINDS:
            return self.of_group(unit.group, kept)
        return self._of_layer(unit, kept) if unit.number in kept.get(unit.group, (unit.number,)) else 0.0

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """What removing any one head or neuron of a group saves, given what is left."""
        there = kept.get(GroupId.layers_of(group.stack), (group.layer,))
        left = len(kept[group]) if group in kept else self._sizes[group]
        return self.units[group] if left > self.fewest.get(group, 0) and group.layer in there else 0.0

    def _of_layer(self, layer: UnitId, kept: Kept) -> float:
        found = self.layers[layer]
        for group, size, each in self._groups[layer]:
            own = kept.get(group)
            found += each * max(self.fewest.get(group, 0), size if own is None else len(own))
        return found

    @cached_property
    def _sizes(self) -> dict[GroupId, int]:
        return {group.id: group.units for group in self.architecture.groups}

    @cached_property
    def _stacks(self) -> dict[GroupId, list[UnitId]]:
        """The layers of every stack."""
        return {
            stack: [layer for layer in self.layers if layer.group == stack]
            for stack in dict.fromkeys(layer.group for layer in self.layers)
        }

    @cached_property
    def _groups(self) -> dict[UnitId, list[tuple[GroupId, int, float]]]:
        """The groups of every layer, with their numbers of units and the cost of each."""
        return {
            layer: [(group.id, group.units, self.units[group.id]) for group in _groups_of(layer, self.architecture)]
            for layer in self.layers
        }


class MultiplyAccumulates(Additive):
    """Multiply-accumulates of translations or labels: `cost.multiply_accumulates` of every model that can be cut."""

    kind, measure = "macs", "multiply-accumulates"

    @classmethod
    def of(cls, checkpoint: "Checkpoint", lengths: Lengths, model: "Model | None" = None) -> "MultiplyAccumulates":
        """For a checkpoint.

        Args:
            checkpoint: the whole model.
            lengths: of sentences and translations, and the beam.
            model: the native model of the checkpoint, where there is one already.

        Raises:
            CheckpointError: the native model cannot run the checkpoint.
        """
        from nmtprune.engines import native

        architecture = checkpoint.architecture
        units = dict.fromkeys((group.id for group in architecture.groups), 0.0)
        layers = dict.fromkeys(_all_layers(architecture), 0.0)
        rest = 0.0
        for work in works(model or native.load_model(checkpoint), lengths):
            if work.group in units:
                units[work.group] += work.each
            elif work.layer in layers:
                layers[work.layer] += work.each * work.units
            else:
                rest += work.each * work.units
        return cls(architecture, units, layers, rest, _fewest(checkpoint))


class Parameters(Additive):
    """Trainable parameters of the cut checkpoint, shared tables counted once."""

    kind, measure = "params", "parameters"

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "Parameters":
        """For a checkpoint."""
        architecture, parameters = checkpoint.architecture, checkpoint.parameters
        units = {
            group.id: float(
                sum(
                    axis.blocks * axis.width * _others(parameters[axis.tensor].shape, axis.axis)
                    for axis in checkpoint.unit_axes[group.id]
                    if axis.tensor in parameters
                )
            )
            for group in architecture.groups
        }
        every = sum(tensor.numel() for tensor in parameters.values())
        layers = dict.fromkeys(_all_layers(architecture), 0.0)
        stored = sum(units[group.id] * group.stored for group in architecture.groups)
        for layer in layers:
            own = sum(units[group.id] * group.stored for group in _groups_of(layer, architecture))
            gone = every - _without(checkpoint, layer)
            layers[layer] = gone - own if gone else 0.0
        return cls(architecture, units, layers, every - stored - sum(layers.values()), _fewest(checkpoint))


def _fewest(checkpoint: "Checkpoint") -> dict[GroupId, int]:
    """Units that every group costs at least.

    Heads that a folder of transformers stores as zeros cost nothing after the export of a translation model, which
    leaves them out; those of a classifier are computed wherever it runs.
    """
    groups = [group.id for group in checkpoint.architecture.groups]
    if checkpoint.classifies:
        return {id: checkpoint.fewest_stored(id) for id in groups}
    return dict.fromkeys(groups, checkpoint.fewest_stored_units)


def _groups_of(layer: UnitId, architecture: Architecture) -> list[Group]:
    place = layer.group.stack, layer.number
    return [group for group in architecture.groups if (group.id.stack, group.id.layer) == place]


def _without(checkpoint: "Checkpoint", layer: UnitId) -> int:
    """Parameters of the model without a layer; of the whole one where it is the only layer, which has to stay."""
    stack = layer.group.stack
    others = [number for number in checkpoint.architecture.layers(stack) if number != layer.number]
    left = checkpoint.without_optimizer().with_layers({stack: others}, None) if others else checkpoint
    return sum(tensor.numel() for tensor in left.parameters.values())


def _all_layers(architecture: Architecture) -> Iterable[UnitId]:
    stacks = {id: numbers for id, numbers in architecture.units.items() if id.kind in LAYER_KINDS}
    return [UnitId(id, number) for id, numbers in stacks.items() for number in numbers]


def _others(shape: Iterable[int], axis: int) -> int:
    """Entries of a tensor at each place along an axis."""
    found = 1
    for position, size in enumerate(shape):
        found *= 1 if position == axis else size
    return found
