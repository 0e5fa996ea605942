"""What a slim checkpoint keeps of another checkpoint: the plan between them, and whether its weights are that one's."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.architecture import Architecture, GroupId
from nmtprune.errors import DataError, PlanError
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Base, Plan

if TYPE_CHECKING:
    from torch import Tensor

_VOCABULARIES = {
    "encoder.embedding.tokens.weight": "source",
    "decoder.embedding.tokens.weight": "target",
    "output.weight": "target",
}
"""Native names of tensors with a row for each symbol -> the side of the vocabulary."""

_SUBLAYERS = {"encoder": "self_attention", "decoder": "self_attention", "cross": "cross_attention"}
_SHOWN = 3


@dataclass(frozen=True)
class Ancestry:
    """How a slim checkpoint descends from a base.

    Attributes:
        plan: for the base: the heads that the slim checkpoint has.
        same_weights: apart from output projections, the slim checkpoint's weights are the base's, bit by bit.
    """

    plan: Plan
    same_weights: bool


def ancestry(base: Checkpoint, slim: Checkpoint, *, other_base: bool = False) -> Ancestry:
    """The plan that makes `slim` of `base`.

    `slim` was cut from `base` if its lineage names it as the root, or if its weights are those of `base`.

    Args:
        base: the unpruned checkpoint, or one that was pruned less.
        slim: cut, masked or uniform, and perhaps trained since.
        other_base: accept a base of the same shape that `slim` was not cut from.

    Raises:
        DataError: vocabularies of other sizes.
        PlanError: `slim` was not cut from `base`; every difference.
    """
    tensors = base.native_tensors(), slim.native_tensors()
    _check_vocabularies(base, slim, tensors)
    where = f"{slim.path} was not cut from {base.path}"
    faults = list(_module_faults(base, slim))
    if faults:
        raise PlanError.of_faults(where, faults)
    keep, faults = _kept(base, slim)
    if not faults:
        faults += _shape_faults(_Comparison(slim.architecture, keep, *tensors))
    if faults:
        raise PlanError.of_faults(where, faults)
    different = next(_Comparison(slim.architecture, keep, *tensors).different(), None)
    of_root = slim.lineage is not None and slim.lineage.root.sha256 == base.sha256
    if different and not of_root and not other_base:
        root = "" if slim.lineage is None else f"its lineage begins with sha256 {slim.lineage.root.sha256[:12]}, "
        raise PlanError(
            f"{where}: {root}{base.path} has sha256 {base.sha256[:12]}, and {different} differs; --other-base takes "
            "another base of the same shape, such as a fine-tuned one"
        )
    return Ancestry(Plan.of(base.base, keep), different is None)


def _check_vocabularies(
    base: Checkpoint, slim: Checkpoint, tensors: "tuple[Mapping[str, Tensor], Mapping[str, Tensor]]"
) -> None:
    for name, side in _VOCABULARIES.items():
        if name in tensors[0] and name in tensors[1]:
            sizes = [len(own[name]) for own in tensors]
            if sizes[0] != sizes[1]:
                raise DataError(
                    f"{slim.path}: has a {side} vocabulary of {sizes[1]} symbols, {base.path} one of {sizes[0]}: a "
                    "model can only follow one that reads and writes the same symbols"
                )


def _module_faults(base: Checkpoint, slim: Checkpoint) -> Iterator[str]:
    """Other attention modules than those of the base, or heads of another width."""
    if base.format != slim.format:
        yield f"it is {slim.a_model}, not {base.a_model}"
        return
    widths = [{module.id: module.head_dim for module in each.architecture} for each in (base, slim)]
    for id in dict.fromkeys([*widths[0], *widths[1]]):
        own, other = (found.get(id) for found in widths)
        if own is None or other is None:
            yield f"only one of the two has {id}"
        elif own != other:
            yield f"heads of {id} are {other} wide, {own} in the base"


def _kept(base: Checkpoint, slim: Checkpoint) -> tuple[dict[GroupId, list[int]], list[str]]:
    """The places in the base of the heads of a slim checkpoint, and what speaks against it."""
    if slim.lineage is None:
        faults = base.base.shape_faults(slim.base)
        return {id: list(range(heads)) for id, heads in base.base.modules.items()}, faults
    root = base.base if base.lineage is None else base.lineage.root
    faults = _root_faults(root, slim.lineage.root)
    if faults:
        return {}, faults
    keep: dict[GroupId, list[int]] = {}
    for id, heads in base.base.modules.items():
        there = list(range(heads)) if base.lineage is None else list(base.lineage.units(id))
        missing = [head for head in slim.lineage.units(id) if head not in there]
        if missing:
            faults.append(f"it has heads {', '.join(map(str, missing))} of {id}, which are not in the base")
        keep[id] = [there.index(head) for head in slim.lineage.units(id) if head in there]
    return keep, faults


def _root_faults(root: Base, other: Base) -> list[str]:
    """What makes the root of a slim checkpoint a model of another shape than the base's."""
    found = []
    for kind, heads in root.heads.items():
        if heads != other.heads[kind]:
            shown = [", ".join(map(str, each)) or "none" for each in (other.heads[kind], heads)]
            found.append(f"it comes from a model with {kind} heads {shown[0]}, the base has {shown[1]}")
    return found


@dataclass(frozen=True)
class _Comparison:
    """The tensors of two checkpoints under native names, of the base's only what the slim one keeps."""

    architecture: Architecture
    keep: Mapping[GroupId, Sequence[int]]
    base: "Mapping[str, Tensor]"
    slim: "Mapping[str, Tensor]"

    def different(self) -> Iterator[str]:
        """Names of tensors other than output projections that differ."""
        import torch

        for name, expected, found in self.pairs():
            if not is_output_projection(name) and not torch.equal(expected, found):
                yield name

    def pairs(self) -> "Iterator[tuple[str, Tensor, Tensor]]":
        """Name, the base's tensor without the heads that are gone, the slim checkpoint's without padding heads."""
        axes = {name: (module, axis) for module in self.architecture for name, axis in _axes(module.id)}
        for name in sorted(self.base.keys() & self.slim.keys()):
            expected, found = self.base[name], self.slim[name]
            if name in axes:
                module, axis = axes[name]
                expected = heads_of(expected, axis, module.head_dim, self.keep[module.id])
                found = heads_of(found, axis, module.head_dim, range(module.heads))
            yield name, expected, found


def _shape_faults(comparison: _Comparison) -> list[str]:
    names = sorted(comparison.base.keys() ^ comparison.slim.keys())
    found = [f"only one of the two has {name}" for name in names]
    found += [
        f"{name} has shape {list(there.shape)}, {list(expected.shape)} in the base"
        for name, expected, there in comparison.pairs()
        if expected.shape != there.shape
    ]
    more = len(found) - _SHOWN
    return [*found[:_SHOWN], f"and {more} more such differences"] if more > 0 else found


def is_output_projection(name: str) -> bool:
    """Whether a native tensor belongs to the output projection of a sub-layer."""
    return ".layers." in name and name.rpartition(".")[0].endswith(".output")


def is_refitted(name: str) -> bool:
    """Whether a native tensor may be another one after a refit: of an output projection, or of the norm behind one."""
    return is_output_projection(name) or (".layers." in name and name.rpartition(".")[0].endswith("_post_norm"))


def heads_of(tensor: "Tensor", axis: int, width: int, heads: Iterable[int]) -> "Tensor":
    """Some heads of a tensor in which heads of `width` entries lie along an axis."""
    import torch

    chosen = torch.tensor(list(heads), dtype=torch.long)
    by_head: Tensor = tensor.unflatten(axis, (-1, width))
    return by_head.index_select(axis, chosen).flatten(axis, axis + 1)


def _axes(module: GroupId) -> Iterator[tuple[str, int]]:
    """Native names of the tensors of a module in which its heads lie, each with the axis."""
    stack = "encoder" if module.kind == "encoder" else "decoder"
    prefix = f"{stack}.layers.{module.layer}.{_SUBLAYERS[module.kind]}"
    for part in ("query", "key", "value"):
        yield f"{prefix}.{part}.weight", 0
        yield f"{prefix}.{part}.bias", 0
    yield f"{prefix}.output.weight", 1


def expanded(base: Checkpoint, slim: Checkpoint, plan: Plan) -> Checkpoint:
    """The base with the output projections of a slim checkpoint in their place, zeros for heads that are gone."""
    own, in_file = slim.native_tensors(), base.file_names
    changed = {name: tensor for name, tensor in own.items() if is_output_projection(name) and name in in_file}
    joining = {name: module for module in slim.architecture for name, axis in _axes(module.id) if axis == 1}
    for name, module in joining.items():
        if name in changed:
            real = own[name].unflatten(1, (-1, module.head_dim))[:, : module.heads]
            wide = real.new_zeros(len(real), base.architecture[module.id].stored_heads, module.head_dim)
            wide[:, list(plan.kept(module.id))] = real
            changed[name] = wide.flatten(1)
    return base.with_native_tensors(changed, base.lineage)
