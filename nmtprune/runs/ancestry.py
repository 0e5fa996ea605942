"""What a slim checkpoint keeps of another checkpoint: the plan between them, and whether its weights are that one's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nmtprune.architecture import LAYER_KINDS, NEURON_KINDS, Group, GroupId
from nmtprune.errors import DataError, PlanError
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Base, Lineage, Plan, ranges

if TYPE_CHECKING:
    from torch import Tensor

_VOCABULARIES = {
    "encoder.embedding.tokens.weight": "source",
    "decoder.embedding.tokens.weight": "target",
    "output.weight": "target",
}
"""Native names of tensors with a row for each symbol -> the side of the vocabulary."""

_SUBLAYERS = {"encoder": "self_attention", "decoder": "self_attention", "cross": "cross_attention"}
_OF_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.*)")
_LAST_NORM = "feed_forward_post_norm"
_SHOWN = 3


@dataclass(frozen=True)
class Ancestry:
    """How a slim checkpoint descends from a base.

    Attributes:
        plan: for the base: the heads, neurons and layers that the slim checkpoint has.
        same_weights: apart from what a refit changes, the slim checkpoint's weights are the base's, bit by bit.
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
    numbers = _Numbers(base, slim)
    faults = list(_module_faults(base, slim, numbers))
    if faults:
        raise PlanError.of_faults(where, faults)
    keep, faults = _kept(base, slim, numbers)
    if not faults:
        plan = Plan.of(base.base, keep)
        comparison = _Comparison(plan, slim, numbers, *tensors)
        faults += _shape_faults(comparison)
    if faults:
        raise PlanError.of_faults(where, faults)
    different = next(comparison.different(), None)
    of_root = slim.lineage is not None and slim.lineage.root.sha256 == base.sha256
    if different and not of_root and not other_base:
        root = "" if slim.lineage is None else f"its lineage begins with sha256 {slim.lineage.root.sha256[:12]}, "
        raise PlanError(
            f"{where}: {root}{base.path} has sha256 {base.sha256[:12]}, and {different} differs; --other-base takes "
            "another base of the same shape, such as a fine-tuned one"
        )
    return Ancestry(plan, different is None)


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


@dataclass(frozen=True)
class _Numbers:
    """Which layers of a base a slim checkpoint has, as lineages tell: layers are numbered anew when some are removed.

    Without a lineage, or where it speaks of no such layer, the numbers are the same.
    """

    base: Checkpoint
    slim: Checkpoint

    @property
    def lineage(self) -> Lineage | None:
        """Of the slim checkpoint."""
        return self.slim.lineage

    def root(self, id: GroupId) -> GroupId:
        """The group of the root that a group of the base was."""
        return id if self.base.lineage is None else self.base.lineage.in_root(id)

    def is_gone(self, id: GroupId) -> bool:
        """Whether the slim checkpoint lacks the layer of a group of the base, because it was removed."""
        root = self.root(id)
        return self.lineage is not None and root in self.lineage.root.units and not self.lineage.has(root)

    def in_base(self, id: GroupId) -> GroupId | None:
        """The group of the base that a group of the slim checkpoint was; None where the base lacks its layer."""
        if self.lineage is None:
            return id
        root = self.lineage.in_root(id)
        if self.base.lineage is None:
            return root
        if root in self.base.lineage.root.units and not self.base.lineage.has(root):
            return None
        return self.base.lineage.present(root)

    @cached_property
    def layers(self) -> dict[str, dict[int, int]]:
        """By stack, the number in the base of each layer of the slim checkpoint."""
        found: dict[str, dict[int, int]] = {}
        for group in self.slim.architecture.groups:
            id = self.in_base(group.id)
            if id is not None:
                found.setdefault(id.stack, {})[group.id.layer] = id.layer
        return found

    @property
    def left(self) -> dict[str, list[int]]:
        """By stack, the layers of the base that the slim checkpoint has."""
        groups = [group.id for group in self.base.architecture.groups]
        return {
            stack: sorted({id.layer for id in groups if id.stack == stack and not self.is_gone(id)})
            for stack in dict.fromkeys(id.stack for id in groups)
        }

    def tensor(self, name: str) -> str:
        """Native name in the base of a tensor of the slim checkpoint."""
        match = _OF_LAYER.fullmatch(name)
        if match is None:
            return name
        layer = self.layers.get(match[1], {}).get(int(match[2]), int(match[2]))
        return f"{match[1]}.layers.{layer}.{match[3]}"


def _module_faults(base: Checkpoint, slim: Checkpoint, numbers: _Numbers) -> Iterator[str]:
    """Other attention modules than those of the base, or heads of another width."""
    if base.format != slim.format:
        yield f"it is {slim.a_model}, not {base.a_model}"
        return
    own = {module.id: module.head_dim for module in base.architecture if not numbers.is_gone(module.id)}
    there: dict[GroupId, int] = {}
    for module in slim.architecture:
        id = numbers.in_base(module.id)
        if id is None:
            yield f"it has {module.id}, of a layer that is not in the base"
        else:
            there[id] = module.head_dim
    for id in dict.fromkeys([*own, *there]):
        if id not in own or id not in there:
            yield f"only one of the two has {id}"
        elif own[id] != there[id]:
            yield f"heads of {id} are {there[id]} wide, {own[id]} in the base"


def _kept(base: Checkpoint, slim: Checkpoint, numbers: _Numbers) -> tuple[dict[GroupId, list[int]], list[str]]:
    """The places in the base of the units of a slim checkpoint, and what speaks against it."""
    if slim.lineage is None:
        faults = base.base.shape_faults(slim.base)
        return {id: list(found) for id, found in base.base.units.items()}, faults
    root = base.base if base.lineage is None else base.lineage.root
    faults = _root_faults(root, slim.lineage.root)
    if faults:
        return {}, faults
    keep: dict[GroupId, list[int]] = {GroupId.layers_of(stack): layers for stack, layers in numbers.left.items()}
    for id, all_units in base.base.units.items():
        if id.kind in LAYER_KINDS or numbers.is_gone(id):
            continue
        there = _units(base.lineage, numbers.root(id)) or all_units
        wanted = _units(slim.lineage, numbers.root(id)) or ()
        if id.kind in NEURON_KINDS and str(numbers.root(id)) not in slim.lineage.keep:
            wanted = there  # a cut that spoke of heads alone
        places = {unit: place for place, unit in enumerate(there)}
        missing = [unit for unit in wanted if unit not in places]
        if missing:
            shown = ranges.as_ranges(missing) if id.kind in NEURON_KINDS else ", ".join(map(str, missing))
            faults.append(f"it has {id.sort} {shown} of {id}, which are not in the base")
        keep[id] = [places[unit] for unit in wanted if unit in places]
    return keep, faults


def _units(lineage: Lineage | None, root: GroupId) -> tuple[int, ...]:
    """Numbers in the root of the units of a group of the root that are there; none where they are not recorded."""
    return () if lineage is None else lineage.keep.get(str(root), ())


def _root_faults(root: Base, other: Base) -> list[str]:
    """What makes the root of a slim checkpoint a model of another shape than the base's."""
    found = []
    counts = [(kind, "heads", root.heads[kind], other.heads[kind]) for kind in root.heads]
    both = root.neurons.keys() & other.neurons.keys()
    counts += [(kind, "neurons", root.neurons[kind], other.neurons[kind]) for kind in NEURON_KINDS if kind in both]
    for kind, sort, here, there in counts:
        if here != there:
            shown = [", ".join(map(str, each)) or "none" for each in (there, here)]
            found.append(f"it comes from a model with {kind} {sort} {shown[0]}, the base has {shown[1]}")
    return found


@dataclass(frozen=True)
class _Comparison:
    """The tensors of two checkpoints under the base's native names, of the base's only what the slim one keeps."""

    plan: Plan
    checkpoint: Checkpoint
    numbers: _Numbers
    base: "Mapping[str, Tensor]"
    slim: "Mapping[str, Tensor]"

    def different(self) -> Iterator[str]:
        """Names of tensors that differ, other than those that a refit changes."""
        import torch

        lineage = self.checkpoint.lineage
        norms = norms_before_gaps(self.plan) if lineage is not None and lineage.refit is not None else ()
        for name, expected, found in self.pairs():
            refitted = is_output_projection(name) or name.rpartition(".")[0] in norms
            if not refitted and not torch.equal(expected, found):
                yield name

    @property
    def names(self) -> tuple[set[str], set[str]]:
        """The names of each, without those of layers that are gone."""
        left = self.numbers.left
        matches = {name: _OF_LAYER.fullmatch(name) for name in self.base}
        own = {name for name, match in matches.items() if match is None or int(match[2]) in left.get(match[1], ())}
        return own, {self.numbers.tensor(name) for name in self.slim}

    def pairs(self) -> "Iterator[tuple[str, Tensor, Tensor]]":
        """Name, the base's tensor without the units that are gone, the slim checkpoint's without padding units."""
        axes = {name: (group, axis) for group in self.checkpoint.architecture.groups for name, axis in _axes(group.id)}
        for own in sorted(self.slim, key=self.numbers.tensor):
            name = self.numbers.tensor(own)
            if name not in self.base:
                continue
            expected, found = self.base[name], self.slim[own]
            id = self.numbers.in_base(axes[own][0].id) if own in axes else None
            if id is not None:
                group, axis = axes[own]
                expected = _units_of(expected, axis, group, self.plan.kept(id))
                found = _units_of(found, axis, group, range(group.units))
            yield name, expected, found


def _shape_faults(comparison: _Comparison) -> list[str]:
    names = comparison.names
    found = [f"only one of the two has {name}" for name in sorted(names[0] ^ names[1])]
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


def norms_before_gaps(plan: Plan) -> frozenset[str]:
    """Native names in the base, without ``.weight``, of the last norms of layers that stay before one that goes."""
    found = set()
    for stack, kept in plan.kept_layers().items():
        layers = plan.base.units[GroupId.layers_of(stack)]
        following = zip(layers, (*layers[1:], None), strict=True)
        found |= {f"{stack}.layers.{own}.{_LAST_NORM}" for own, after in following if own in kept and after not in kept}
    return frozenset(found)


def _units_of(tensor: "Tensor", axis: int, group: Group, units: Iterable[int]) -> "Tensor":
    """Some units of a tensor in which those of a group lie along an axis; the tensor itself where they do not fit."""
    import torch

    chosen = torch.tensor(list(units), dtype=torch.long)
    if tensor.dim() <= axis or tensor.shape[axis] % group.width or tensor.shape[axis] <= int(max([-1, *units])):
        return tensor
    by_unit: Tensor = tensor.unflatten(axis, (-1, group.width))
    return by_unit.index_select(axis, chosen).flatten(axis, axis + 1)


def _axes(group: GroupId) -> Iterator[tuple[str, int]]:
    """Native names of the tensors of a group in which its units lie, each with the axis."""
    if group.kind in NEURON_KINDS:
        prefix = f"{group.stack}.layers.{group.layer}.feed_forward"
    else:
        prefix = f"{group.stack}.layers.{group.layer}.{_SUBLAYERS[group.kind]}"
    for part in ("input",) if group.kind in NEURON_KINDS else ("query", "key", "value"):
        yield f"{prefix}.{part}.weight", 0
        yield f"{prefix}.{part}.bias", 0
    yield f"{prefix}.output.weight", 1


def expanded(base: Checkpoint, slim: Checkpoint, plan: Plan) -> Checkpoint:
    """The base with what a refit of a slim checkpoint changed in its place, zeros for units that are gone.

    Layers that are gone stay as they are in the base.
    """
    numbers, in_file, norms = _Numbers(base, slim), base.file_names, norms_before_gaps(plan)
    joining = {name: group for group in slim.architecture.groups for name, axis in _axes(group.id) if axis == 1}
    changed = {}
    for name, tensor in slim.native_tensors().items():
        own = numbers.tensor(name)
        if own in in_file and (is_output_projection(name) or own.rpartition(".")[0] in norms):
            id = numbers.in_base(joining[name].id) if name in joining else None
            changed[own] = tensor if id is None else _wide(tensor, joining[name], base.architecture.group(id), plan)
    return base.with_native_tensors(changed, base.lineage)


def _wide(tensor: "Tensor", group: Group, own: Group, plan: Plan) -> "Tensor":
    """The columns of the units of a group at their places in the base, zeros in the others."""
    real = tensor.unflatten(1, (-1, group.width))[:, : group.units]
    wide = real.new_zeros(len(real), own.stored, group.width)
    wide[:, list(plan.kept(own.id))] = real
    columns: Tensor = wide.flatten(1)
    return columns
