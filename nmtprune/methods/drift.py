"""How far each head's weights moved between two checkpoints (Budhraja et al. 2020, figure 2), and each neuron's."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.architecture import KINDS, NEURON_KINDS, GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Base

if TYPE_CHECKING:
    from torch import Tensor

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class HeadDrift:
    """Mean absolute change of one head's projection weights.

    Attributes:
        head: the head, in the numbering of the root checkpoint.
        query: mean |after - before| over the entries of W_q that belong to the head.
        key: the same of W_k.
        value: the same of W_v.
        mean: the same over the entries of all three.
    """

    head: UnitId
    query: float
    key: float
    value: float
    mean: float


@dataclass(frozen=True)
class NeuronDrift:
    """Mean absolute change of the weights of the neurons of one feed-forward layer.

    A neuron's weights are its row of the first matrix, with its bias, and its column of the second one.

    Attributes:
        group: the feed-forward layer of the root checkpoint.
        neurons: numbers in the root of the neurons that both checkpoints have.
        changes: of each of them mean |after - before| over its weights.
    """

    group: GroupId
    neurons: tuple[int, ...]
    changes: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """Change of every head and neuron that two checkpoints have in common.

    Attributes:
        modules: number of heads of every module of the root, to whose numbering the heads refer.
        heads: heads that both checkpoints have, in order.
        neurons: feed-forward layers that both checkpoints have, in order, as far as their neurons are known.
        related: False where a checkpoint was cut from other weights than the other descends from: then only their
            shapes agree. Two checkpoints that were never cut count as related.
    """

    modules: Mapping[GroupId, int]
    heads: tuple[HeadDrift, ...]
    neurons: tuple[NeuronDrift, ...]
    related: bool


def drift(before: Checkpoint, after: Checkpoint) -> Drift:
    """Compare the projections of queries, keys and values head by head, and feed-forward layers neuron by neuron.

    Heads, neurons and layers are matched by their ids in the root checkpoint, so either may be slim; what one of the
    two lacks is left out. Biases of heads and W_O are left out, as in the paper. Differences are taken in float64.

    Raises:
        CheckpointError: the checkpoints are of different formats, numbers of heads, neurons or layers, or widths (all
            differences), or hold weights that are no finite numbers.
    """
    roots = [checkpoint.lineage.root if checkpoint.lineage else checkpoint.base for checkpoint in (before, after)]
    _fail(before, after, _shape_faults(*roots))
    sides = [_Side(checkpoint, checkpoint.native_tensors()) for checkpoint in (before, after)]
    heads: list[HeadDrift] = []
    neurons: list[NeuronDrift] = []
    faults: list[str] = []
    for module in roots[0].modules:
        common = _common(sides, module)
        weights = [side.of_heads(module, common) for side in sides] if common is not None else []
        faults += _width_faults(module, *weights) if weights else []
        if weights and not faults:
            heads += _head_drifts(module, common or [], *weights)
    for group in _feed_forwards(before, after):
        common = _common(sides, group)
        if common is None or faults:
            continue
        old, new = (side.of_neurons(group, common) for side in sides)
        if old.shape != new.shape:
            faults.append(f"weights of a neuron of {group} are {old.shape[1]} and {new.shape[1]}")
        else:
            neurons.append(_neuron_drift(group, common, old, new))
    _fail(before, after, faults)
    never_cut = before.lineage is None and after.lineage is None
    related = never_cut or roots[0].sha256 == roots[1].sha256
    return Drift(roots[0].modules, tuple(heads), tuple(neurons), related)


@dataclass(frozen=True)
class _Side:
    """One of the two checkpoints."""

    checkpoint: Checkpoint
    tensors: Mapping[str, "Tensor"]

    def root_ids(self, group: GroupId) -> list[int] | None:
        """Root ids of the units that a group of the root has now, in their order in the file; None where it is gone."""
        lineage = self.checkpoint.lineage
        if lineage is not None and not lineage.has(group):
            return None
        own = self.present(group)
        if lineage is not None and str(group) in lineage.keep:
            return list(lineage.units(own))
        return list(range(self.checkpoint.architecture.group(own).units))

    def present(self, group: GroupId) -> GroupId:
        """What a group of the root is called now."""
        lineage = self.checkpoint.lineage
        return group if lineage is None else lineage.present(group)

    def of_heads(self, module: GroupId, heads: list[int]) -> list["Tensor"]:
        """For each of PARTS the rows [H, K, D] of these heads of the root."""
        own, ids = self.present(module), self.root_ids(module) or []
        attention = "cross_attention" if module.kind == "cross" else "self_attention"
        head_dim, positions = self.checkpoint.architecture[own].head_dim, [ids.index(head) for head in heads]
        names = (f"{own.stack}.layers.{own.layer}.{attention}.{part}.weight" for part in PARTS)
        weights = (self.tensors[name].detach() for name in names)
        return [weight.reshape(-1, head_dim, weight.shape[1])[positions] for weight in weights]

    def of_neurons(self, group: GroupId, neurons: list[int]) -> "Tensor":
        """Weights [F, 2 D + 1] of these neurons of the root: row, bias and column."""
        import torch

        own = self.present(group)
        place = {id: position for position, id in enumerate(self.root_ids(group) or [])}
        prefix, positions = f"{own.stack}.layers.{own.layer}.feed_forward", [place[neuron] for neuron in neurons]
        names = ("input.weight", "input.bias", "output.weight")
        first, bias, second = (self.tensors[f"{prefix}.{name}"].detach() for name in names)
        return torch.cat([first[positions], bias[positions, None], second.T[positions]], dim=1)


def _common(sides: Sequence[_Side], group: GroupId) -> list[int] | None:
    """Root ids of the units of a group that both sides have; None where one has no such layer any more."""
    ids = [side.root_ids(group) for side in sides]
    return None if ids[0] is None or ids[1] is None else sorted(set(ids[0]).intersection(ids[1]))


def _feed_forwards(*checkpoints: Checkpoint) -> list[GroupId]:
    """Feed-forward layers, by their ids in the root, whose neurons both checkpoints know one by one."""
    known = []
    for checkpoint in checkpoints:
        lineage, own = checkpoint.lineage, [group.id for group in checkpoint.architecture.feed_forwards]
        known.append({id if lineage is None else lineage.in_root(id) for id in own})
    return sorted(set[GroupId].intersection(*known))


def _fail(before: Checkpoint, after: Checkpoint, faults: Iterable[str]) -> None:
    listed = list(faults)
    if listed:
        raise CheckpointError.of_faults(f"{before.path} and {after.path} cannot be compared", listed)


def _shape_faults(before: Base, after: Base) -> list[str]:
    faults = []
    if before.format != after.format:
        faults.append(f"one is a {before.format} checkpoint, the other a {after.format} checkpoint")
    for kind in KINDS:
        if before.heads[kind] != after.heads[kind]:
            counts = _counts(before.heads[kind]), _counts(after.heads[kind])
            faults.append(f"{kind} heads are {counts[0]} and {counts[1]} (before any cut)")
        elif before.layers.get(kind) != after.layers.get(kind):
            faults.append(f"{kind} layers are tied in different ways")
    for kind in NEURON_KINDS:
        old, new = before.neurons.get(kind, ()), after.neurons.get(kind, ())
        if old != new and len(old) == len(new):  # heads tell of other numbers of layers
            faults.append(f"{kind} neurons are {_counts(old)} and {_counts(new)} (before any cut)")
    return faults


def _counts(units: Sequence[int]) -> str:
    return " ".join(map(str, units)) or "none"


def _width_faults(module: GroupId, before: list["Tensor"], after: list["Tensor"]) -> list[str]:
    return [
        f"{part} weights of a head of {module} are {_size(old)} and {_size(new)}"
        for part, old, new in zip(PARTS, before, after, strict=True)
        if old.shape != new.shape
    ]


def _size(weights: "Tensor") -> str:
    return f"{weights.shape[1]} x {weights.shape[2]}"


def _head_drifts(
    module: GroupId, heads: list[int], before: list["Tensor"], after: list["Tensor"]
) -> Iterable[HeadDrift]:
    """Drift of each head from weights [H, K, D] per part."""
    changes = [(new.double() - old.double()).abs() for old, new in zip(before, after, strict=True)]
    sizes = [change.shape[1] * change.shape[2] for change in changes]
    for position, head in enumerate(heads):
        query, key, value = (float(change[position].mean()) for change in changes)
        mean = sum(part * size for part, size in zip((query, key, value), sizes, strict=True)) / sum(sizes)
        if not math.isfinite(mean):
            raise CheckpointError(f"weights of head {module}.{head} (root id) are no finite numbers")
        yield HeadDrift(UnitId(module, head), query, key, value, mean)


def _neuron_drift(group: GroupId, neurons: list[int], before: "Tensor", after: "Tensor") -> NeuronDrift:
    """Drift of the neurons of a feed-forward layer from weights [F, 2 D + 1]."""
    changes = (after.double() - before.double()).abs().mean(1).tolist()
    for neuron, change in zip(neurons, changes, strict=True):
        if not math.isfinite(change):
            raise CheckpointError(f"weights of neuron {group}.{neuron} (root id) are no finite numbers")
    return NeuronDrift(group, tuple(neurons), tuple(changes))
