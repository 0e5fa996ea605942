"""Apply a plan to a checkpoint: pure slicing of named tensors along named axes, whatever the file format."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import STACKS, Architecture, Group, ModuleId
from nmtprune.errors import UsageError
from nmtprune.formats.base import Checkpoint, HeadAxis
from nmtprune.plan import Lineage, Plan

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("cut", "masked", "uniform")
"""cut: fewer heads, ragged. masked: same shapes, W_O zeroed. uniform: cut, then zero heads up to the largest module."""


def apply(plan: Plan, checkpoint: Checkpoint, mode: str = "cut", *, other_weights: bool = False) -> Checkpoint:
    """The checkpoint with the heads that the plan keeps; neither argument is changed and nothing is written.

    Rows of W_q, W_k, W_v (with their biases) and columns of W_O go with a head; the order of the kept heads, head_dim
    and the scale of the scores stay, so that the result computes what the checkpoint computes with the other heads
    masked. Tensors that the plan does not touch are passed on as they are, not copied.

    Args:
        plan: made for this checkpoint.
        checkpoint: full or already slim.
        mode: one of MODES.
        other_weights: accept a plan made on other weights of the same shape.

    Raises:
        PlanError: the plan is for another model.
        CheckpointError: optimizer state that cannot be cut.
        UsageError: an unknown mode.
    """
    if mode not in MODES:
        raise UsageError(f"unknown mode '{mode}': choose among {', '.join(MODES)}")
    plan.check(checkpoint.base, other_weights=other_weights)
    if mode == "masked":
        return _masked(plan, checkpoint)
    kept = {module.id: plan.kept(module.id) for module in checkpoint.architecture}
    if mode == "uniform":
        padding = uniform_padding(kept, checkpoint.architecture)
    else:
        fewest = checkpoint.fewest_stored_heads
        padding = {module: fewest - len(heads) for module, heads in kept.items() if len(heads) < fewest}
    architecture = checkpoint.architecture.with_heads({module: len(heads) for module, heads in kept.items()}, padding)
    if architecture == checkpoint.architecture:
        return checkpoint.rewritten(checkpoint.tensors, architecture, checkpoint.lineage)

    def resize(tensor: "Tensor", axis: HeadAxis, group: Group) -> "Tensor":
        return _resized(tensor, axis, group, kept[group.id], padding.get(group.id, 0))

    lineage = (checkpoint.lineage or Lineage.start(checkpoint.base)).after(plan)
    return checkpoint.rewritten(_mapped(checkpoint, resize), architecture, lineage)


def uniform_padding(kept: Mapping[ModuleId, Sequence[int]], architecture: Architecture) -> dict[ModuleId, int]:
    """Zero heads that each module needs to reach the largest count of its stack (at least one head)."""
    padding: dict[ModuleId, int] = {}
    for kinds in STACKS.values():
        modules = [module.id for module in architecture if module.id.kind in kinds]
        largest = max([1, *(len(kept[module]) for module in modules)])
        padding.update((module, largest - len(kept[module])) for module in modules)
    return padding


def _masked(plan: Plan, checkpoint: Checkpoint) -> Checkpoint:
    def zero(tensor: "Tensor", axis: HeadAxis, group: Group) -> "Tensor":
        removed = sorted(set(range(group.units)) - set(plan.kept(group.id)))
        if not axis.output or not removed:
            return tensor
        zeroed = tensor.clone()
        _by_unit(zeroed, axis, group).index_fill_(axis.axis + 1, _index(removed, tensor), 0)
        return zeroed

    return checkpoint.rewritten(_mapped(checkpoint, zero), checkpoint.architecture, checkpoint.lineage)


def _mapped(checkpoint: Checkpoint, change: Callable[["Tensor", HeadAxis, Group], "Tensor"]) -> dict[str, "Tensor"]:
    """All tensors of the checkpoint, `change` applied along every axis in which units lie."""
    tensors = dict(checkpoint.tensors)
    for group in checkpoint.architecture:
        for axis in checkpoint.head_axes[group.id]:
            tensors[axis.tensor] = change(tensors[axis.tensor], axis, group)
    return tensors


def _resized(tensor: "Tensor", axis: HeadAxis, group: Group, kept: Sequence[int], padding: int) -> "Tensor":
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


def _by_unit(tensor: "Tensor", axis: HeadAxis, group: Group) -> "Tensor":
    """View with the axis split into blocks, units and the entries of a unit."""
    shape = (axis.blocks, group.stored, axis.width)
    view: Tensor = tensor.unflatten(axis.axis, shape)
    return view


def _index(units: Sequence[int], tensor: "Tensor") -> "Tensor":
    import torch

    return torch.tensor(list(units), dtype=torch.long, device=tensor.device)
