"""Apply a plan to a checkpoint: pure slicing of named tensors along named axes, whatever the file format."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import LAYER_KINDS, UNIFORM, Architecture, Group, GroupId, Kept
from nmtprune.errors import UsageError
from nmtprune.formats.base import Checkpoint, UnitAxis
from nmtprune.plan import Lineage, Plan

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("cut", "masked", "uniform")
"""cut: fewer units, ragged. masked: same shapes, output projections zeroed. uniform: cut, then zero units up to the
largest group of a stack."""


def apply(plan: Plan, checkpoint: Checkpoint, mode: str = "cut", *, other_weights: bool = False) -> Checkpoint:
    """The checkpoint with the units that the plan keeps; neither argument is changed and nothing is written.

    Rows of W_q, W_k, W_v (with their biases) and columns of W_O go with a head; a row of the first matrix with its bias
    and a column of the second one go with a neuron; a layer goes with all its tensors, so that its input is its output.
    The order of what is kept, head_dim and the scale of the scores stay: the result computes what the checkpoint
    computes with the other units masked. Tensors that the plan does not touch are passed on as they are, not copied.

    Args:
        plan: made for this checkpoint.
        checkpoint: full or already slim.
        mode: one of MODES. Layers that go are taken out in every mode.
        other_weights: accept a plan made on other weights of the same shape.

    Raises:
        PlanError: the plan is for another model.
        CheckpointError: optimizer state that cannot be cut; widths that the format cannot say.
        UsageError: an unknown mode.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode '{mode}': choose among {', '.join(MODES)}")
    plan.check(checkpoint.base, other_weights=other_weights)
    kept, layers = checkpoint.architecture.full(plan.kept_units), plan.kept_layers()
    before = checkpoint.lineage or Lineage.start(checkpoint.base)
    if layers:
        kept = _renumbered(kept, layers)
        checkpoint = checkpoint.with_layers(layers, before.after(_layers_alone(plan)))
    if mode == "masked":
        return _masked(kept, checkpoint)
    units = {group.id: len(kept[group.id]) for group in checkpoint.architecture.groups}
    architecture = checkpoint.architecture.with_units(units, _padding(kept, checkpoint, mode))
    if architecture == checkpoint.architecture:
        return checkpoint if layers else checkpoint.rewritten(checkpoint.tensors, architecture, checkpoint.lineage)
    padding = {group.id: group.padding for group in architecture.groups}

    def resize(tensor: "Tensor", axis: UnitAxis, group: Group) -> "Tensor":
        return _resized(tensor, axis, group, kept[group.id], padding[group.id])

    return checkpoint.rewritten(_mapped(checkpoint, resize), architecture, before.after(plan))


def uniform_padding(kept: Kept, architecture: Architecture) -> dict[GroupId, int]:
    """Zero units that each group needs to reach the largest count of its stack (at least one unit).

    Attention modules of a stack share one number of heads, its feed-forward layers one number of neurons.
    """
    padding: dict[GroupId, int] = {}
    for kinds in UNIFORM:
        groups = [group.id for group in architecture.groups if group.id.kind in kinds]
        largest = max([1, *(len(kept[id]) for id in groups)])
        padding.update((id, largest - len(kept[id])) for id in groups)
    return padding


def _padding(kept: Kept, checkpoint: Checkpoint, mode: str) -> dict[GroupId, int]:
    """Zero units of every group in the result."""
    if mode == "uniform":
        padding = uniform_padding(kept, checkpoint.architecture)
        fewest = {id: checkpoint.fewest_stored(id) - len(kept[id]) for id in padding}
        return {id: max(count, fewest[id]) for id, count in padding.items()}
    fewest = {group.id: checkpoint.fewest_stored(group.id) for group in checkpoint.architecture.groups}
    return {id: least - len(kept[id]) for id, least in fewest.items() if len(kept[id]) < least}


def _layers_alone(plan: Plan) -> Plan:
    """What a file without the layers that go has lost of a plan: it stores every unit of the layers that stay."""
    return Plan.removing(plan.base, plan.removed(LAYER_KINDS))


def _renumbered(kept: Kept, layers: Mapping[str, Sequence[int]]) -> dict[GroupId, tuple[int, ...]]:
    """What is kept of the layers that stay, in the numbering of a model without the others."""
    found = {}
    for id, numbers in kept.items():
        own = layers.get(id.stack)
        if own is None:
            found[id] = tuple(numbers)
        elif id.kind in LAYER_KINDS:
            found[id] = tuple(range(len(own)))
        elif id.layer in own:
            found[GroupId(id.kind, list(own).index(id.layer))] = tuple(numbers)
    return found


def _masked(kept: Kept, checkpoint: Checkpoint) -> Checkpoint:
    def zero(tensor: "Tensor", axis: UnitAxis, group: Group) -> "Tensor":
        removed = sorted(set(range(group.units)).difference(kept[group.id]))
        if not axis.output or not removed:
            return tensor
        zeroed = tensor.clone()
        _by_unit(zeroed, axis, group).index_fill_(axis.axis + 1, _index(removed, tensor), 0)
        return zeroed

    return checkpoint.rewritten(_mapped(checkpoint, zero), checkpoint.architecture, checkpoint.lineage)


def _mapped(checkpoint: Checkpoint, change: Callable[["Tensor", UnitAxis, Group], "Tensor"]) -> dict[str, "Tensor"]:
    """All tensors of the checkpoint, `change` applied along every axis in which units lie."""
    tensors = dict(checkpoint.tensors)
    for group in checkpoint.architecture.groups:
        for axis in checkpoint.unit_axes[group.id]:
            tensors[axis.tensor] = change(tensors[axis.tensor], axis, group)
    return tensors


def _resized(tensor: "Tensor", axis: UnitAxis, group: Group, kept: Sequence[int], padding: int) -> "Tensor":
    """The kept units' entries along one axis, followed in each block by zeros for the padding units."""
    if len(kept) == group.units and padding == group.padding:
        return tensor
    units = _by_unit(tensor, axis, group).index_select(axis.axis + 1, _index(kept, tensor))
    if padding:
        shape = list(units.shape)
        shape[axis.axis + 1] = padding
        import torch

        units = torch.cat([units, units.new_zeros(shape)], dim=axis.axis + 1)
    return units.flatten(axis.axis, axis.axis + 2)


def _by_unit(tensor: "Tensor", axis: UnitAxis, group: Group) -> "Tensor":
    """View with the axis split into blocks, units and the entries of a unit."""
    shape = (axis.blocks, group.stored, axis.width)
    view: Tensor = tensor.unflatten(axis.axis, shape)
    return view


def _index(units: Sequence[int], tensor: "Tensor") -> "Tensor":
    import torch

    return torch.tensor(list(units), dtype=torch.long, device=tensor.device)
