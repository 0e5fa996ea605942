"""How far each head's weights moved between two checkpoints (Budhraja et al. 2020, figure 2)."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.architecture import KINDS, GroupId, UnitId
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
class Drift:
    """Change of every head that two checkpoints have in common.

    Attributes:
        modules: number of heads of every module of the root, to whose numbering the heads refer.
        heads: heads that both checkpoints have, in order.
        related: False where a checkpoint was cut from other weights than the other descends from: then only their
            shapes agree. Two checkpoints that were never cut count as related.
    """

    modules: Mapping[GroupId, int]
    heads: tuple[HeadDrift, ...]
    related: bool


def drift(before: Checkpoint, after: Checkpoint) -> Drift:
    """Compare the projections of queries, keys and values head by head.

    Heads are matched by their ids in the root checkpoint, so either may be slim. Biases and W_O are left out, as in the
    paper. Differences are taken in float64.

    Raises:
        CheckpointError: the checkpoints are of different formats, numbers of heads or widths (all differences), or
            hold weights that are no finite numbers.
    """
    roots = [checkpoint.lineage.root if checkpoint.lineage else checkpoint.base for checkpoint in (before, after)]
    _fail(before, after, _shape_faults(*roots))
    tensors = before.native_tensors(), after.native_tensors()
    found: list[HeadDrift] = []
    faults: list[str] = []
    for module, heads in roots[0].modules.items():
        places = [_root_ids(checkpoint, module, heads) for checkpoint in (before, after)]
        common = sorted(set(places[0]).intersection(places[1]))
        weights = [
            _of_heads(side, checkpoint, module, [ids.index(head) for head in common])
            for side, checkpoint, ids in zip(tensors, (before, after), places, strict=True)
        ]
        faults += _width_faults(module, *weights)
        if not faults:
            found += _head_drifts(module, common, *weights)
    _fail(before, after, faults)
    never_cut = before.lineage is None and after.lineage is None
    return Drift(roots[0].modules, tuple(found), never_cut or roots[0].sha256 == roots[1].sha256)


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
            faults.append(f"{kind} heads are {_counts(before, kind)} and {_counts(after, kind)} (before any cut)")
        elif before.layers.get(kind) != after.layers.get(kind):
            faults.append(f"{kind} layers are tied in different ways")
    return faults


def _counts(base: Base, kind: str) -> str:
    return " ".join(map(str, base.heads[kind])) or "none"


def _root_ids(checkpoint: Checkpoint, module: GroupId, heads: int) -> list[int]:
    """Root id of each head that the checkpoint has now, in their order in the file."""
    return list(checkpoint.lineage.units(module) if checkpoint.lineage else range(heads))


def _of_heads(
    tensors: Mapping[str, "Tensor"], checkpoint: Checkpoint, module: GroupId, positions: list[int]
) -> list["Tensor"]:
    """For each of PARTS the rows of these heads, [H, K, D]."""
    stack = "encoder" if module.kind == "encoder" else "decoder"
    attention = "cross_attention" if module.kind == "cross" else "self_attention"
    head_dim = checkpoint.architecture[module].head_dim
    names = (f"{stack}.layers.{module.layer}.{attention}.{part}.weight" for part in PARTS)
    return [tensors[name].detach().reshape(-1, head_dim, tensors[name].shape[1])[positions] for name in names]


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
