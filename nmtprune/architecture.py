"""What can be cut out of a model: groups of units (heads, neurons, layers), their ids, and every spelling of a head."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import total_ordering
from typing import TypeVar

from nmtprune.errors import UsageError

KINDS = ("encoder", "decoder", "cross")
"""Kinds of attention module in the order that plans, ties and tables use."""

STACKS = {"encoder": ("encoder",), "decoder": ("decoder", "cross")}
"""What shares one head count in a uniform model: the encoder; decoder self- and cross-attention together."""

NEURON_KINDS = ("encoder-ffn", "decoder-ffn")
"""Kinds of feed-forward layer, whose neurons are units; all layers of a kind share one width in a uniform model."""

LAYER_KINDS = ("encoder-layers", "decoder-layers")
"""Stacks as groups, whose units are layers."""

SORTS = {"heads": KINDS, "neurons": NEURON_KINDS, "layers": LAYER_KINDS}
"""What can be cut, by the word that users write, and the kinds of its groups."""

EVERY_KIND = (*KINDS, *NEURON_KINDS, *LAYER_KINDS)
"""All kinds of group in the order that plans, ties and tables use."""

UNIFORM = (*STACKS.values(), *((kind,) for kind in NEURON_KINDS))
"""Kinds whose groups all have the same number of units in a uniform model."""

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"
"""A number of a layer or unit; longer ones are taken as damage."""

_MICHEL_KINDS = {"E": "encoder", "A": "cross", "D": "decoder"}


@total_ordering
@dataclass(frozen=True)
class GroupId:
    """A group of units that can be cut out one by one.

    An attention module of one layer, ``cross.5`` (its units are heads), a feed-forward layer, ``encoder-ffn.0``
    (neurons), or a stack, ``decoder-layers`` (layers). Layers are counted from 0.
    """

    kind: str
    layer: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind in LAYER_KINDS else f"{self.kind}.{self.layer}"

    def __lt__(self, other: "GroupId") -> bool:
        return self.sort_key < other.sort_key

    @property
    def sort_key(self) -> tuple[int, int]:
        """Position in the order of EVERY_KIND and then layer by number."""
        return EVERY_KIND.index(self.kind), self.layer

    @property
    def sort(self) -> str:
        """What its units are, one of SORTS."""
        return next(sort for sort, kinds in SORTS.items() if self.kind in kinds)

    @property
    def stack(self) -> str:
        """The stack that it belongs to: encoder or decoder."""
        return "encoder" if self.kind.startswith("encoder") else "decoder"

    @classmethod
    def layers_of(cls, stack: str) -> "GroupId":
        """The group whose units are the layers of a stack."""
        return cls(f"{stack}-layers")

    @classmethod
    def parse(cls, text: str, kinds: Sequence[str] = KINDS) -> "GroupId":
        """Read ``kind.layer``, and ``kind`` for a stack.

        Args:
            text: what names the group.
            kinds: those that are allowed.

        Raises:
            UsageError: the text is not of that form.
        """
        match = re.fullmatch(rf"([a-z-]+)(?:\.({_NUMBER}))?", text)
        if match is None or match[1] not in kinds or (match[2] is None) != (match[1] in LAYER_KINDS):
            if tuple(kinds) == KINDS:
                raise UsageError(f"'{text}' names no attention module: write KIND.LAYER, for example cross.5")
            raise UsageError(
                f"'{text}' names no attention module, feed-forward layer or stack: write KIND.LAYER, for example "
                "cross.5, encoder-ffn.0 or decoder-layers"
            )
        return cls(match[1], int(match[2] or 0))


@total_ordering
@dataclass(frozen=True)
class UnitId:
    """A unit of a group: the head ``encoder.0.3``, the neuron ``encoder-ffn.0.117``, the layer ``decoder-layers.2``.

    Numbers count from 0 in the numbering of the base checkpoint.
    """

    group: GroupId
    number: int

    def __str__(self) -> str:
        return f"{self.group}.{self.number}"

    def __lt__(self, other: "UnitId") -> bool:
        return (self.group, self.number) < (other.group, other.number)

    @classmethod
    def parse(cls, text: str, kinds: Sequence[str] = KINDS) -> "UnitId":
        """Read ``kind.layer.number``, and ``kind.number`` for a layer of a stack.

        Args:
            text: what names the unit.
            kinds: those of groups that are allowed.

        Raises:
            UsageError: the text is not of that form.
        """
        group, _, number = text.rpartition(".")
        if not re.fullmatch(_NUMBER, number):
            if tuple(kinds) == KINDS:
                raise UsageError(f"'{text}' names no head: write KIND.LAYER.HEAD, for example encoder.0.3")
            raise UsageError(
                f"'{text}' names no head, neuron or layer: write GROUP.NUMBER, for example encoder.0.3, "
                "encoder-ffn.0.117 or decoder-layers.2"
            )
        return cls(GroupId.parse(group, kinds), int(number))


@dataclass(frozen=True)
class Group:
    """Units of one kind in one layer that can be cut out one by one, as a checkpoint stores them.

    Attributes:
        id: kind and layer.
        units: those that compute something; padding is not among them.
        width: values that one unit computes.
        padding: zero units stored after the real ones (uniform models), counted nowhere.
    """

    id: GroupId
    units: int
    width: int
    padding: int = 0

    @property
    def stored(self) -> int:
        """Units for which the file has rows and columns."""
        return self.units + self.padding


@dataclass(frozen=True)
class Neurons(Group):
    """The group of the neurons of one feed-forward layer: F units, each one row and one column."""

    width: int = 1


G = TypeVar("G", bound=Group)

Kept = Mapping[GroupId, Sequence[int]]
"""Units that stay, of a checkpoint's real units; a group that is not named keeps all of its own, a group of a layer
that goes has none."""


@dataclass(frozen=True)
class AttentionModule(Group):
    """The group of the heads of one attention module: H units of width K."""

    @property
    def heads(self) -> int:
        """H, heads that compute something; padding heads are not among them."""
        return self.units

    @property
    def head_dim(self) -> int:
        """K, width of one head; the scale of the scores is ``head_dim ** -0.5``."""
        return self.width

    @property
    def padding_heads(self) -> int:
        """Zero heads stored after the real ones (uniform models), counted nowhere."""
        return self.padding

    @property
    def stored_heads(self) -> int:
        """Heads for which the file has rows and columns."""
        return self.stored


@dataclass(frozen=True)
class Architecture:
    """What of a model can be cut, in the order of EVERY_KIND and then layer by number.

    Iterating gives the attention modules.

    Attributes:
        modules: the attention modules.
        feed_forwards: the feed-forward layers whose neurons can be cut out one by one.
    """

    modules: tuple[AttentionModule, ...]
    feed_forwards: tuple[Neurons, ...] = ()

    def __post_init__(self) -> None:
        for name in ("modules", "feed_forwards"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name), key=lambda group: group.id)))

    def __iter__(self) -> Iterator[AttentionModule]:
        return iter(self.modules)

    def __contains__(self, module: GroupId) -> bool:
        return any(own.id == module for own in self.modules)

    def __getitem__(self, module: GroupId) -> AttentionModule:
        """The module of that id; KeyError where the model has none."""
        for own in self.modules:
            if own.id == module:
                return own
        raise KeyError(str(module))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Attention modules and feed-forward layers, whose units lie along axes of tensors."""
        return (*self.modules, *self.feed_forwards)

    def group(self, id: GroupId) -> Group:
        """The attention module or feed-forward layer of that id; KeyError where the model has none."""
        for own in self.groups:
            if own.id == id:
                return own
        raise KeyError(str(id))

    def layers(self, stack: str) -> tuple[int, ...]:
        """Numbers of the layers of a stack; tied layers, which share parameters, are one."""
        return tuple(sorted({group.id.layer for group in self.groups if group.id.stack == stack}))

    @property
    def units(self) -> dict[GroupId, tuple[int, ...]]:
        """Numbers of the units of every group: heads, neurons and layers."""
        found = {group.id: tuple(range(group.units)) for group in self.groups}
        return found | {GroupId.layers_of(stack): self.layers(stack) for stack in STACKS if self.layers(stack)}

    def full(self, kept: Kept) -> dict[GroupId, tuple[int, ...]]:
        """The units that stay in every group, named or not; none in the groups of layers that go."""
        found = {id: tuple(kept.get(id, numbers)) for id, numbers in self.units.items()}
        return {
            id: numbers if id.kind in LAYER_KINDS or id.layer in found[GroupId.layers_of(id.stack)] else ()
            for id, numbers in found.items()
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of attention that this model has, in the order of KINDS."""
        return tuple(kind for kind in KINDS if self.of_kind(kind))

    def of_kind(self, kind: str) -> tuple[AttentionModule, ...]:
        """Modules of one kind, layer by layer."""
        return tuple(module for module in self.modules if module.id.kind == kind)

    def heads_by_kind(self) -> dict[str, list[int]]:
        """Heads per module, listed layer by layer under each of KINDS; an empty list for a kind that is not there."""
        return {kind: [module.heads for module in self.of_kind(kind)] for kind in KINDS}

    def neurons_by_kind(self) -> dict[str, tuple[int, ...]]:
        """Neurons per feed-forward layer, layer by layer under each kind that is there."""
        counts = {
            kind: tuple(group.units for group in self.feed_forwards if group.id.kind == kind) for kind in NEURON_KINDS
        }
        return {kind: found for kind, found in counts.items() if found}

    def head_ids(self, kinds: Iterable[str] = KINDS) -> tuple[UnitId, ...]:
        """Every head of the selected kinds in order."""
        selected = set(kinds)
        return tuple(
            UnitId(module.id, head)
            for module in self.modules
            if module.id.kind in selected
            for head in range(module.heads)
        )

    def count(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of heads of the selected kinds."""
        selected = set(kinds)
        return sum(module.heads for module in self.modules if module.id.kind in selected)

    def with_units(self, units: Mapping[GroupId, int], padding: Mapping[GroupId, int] | None = None) -> "Architecture":
        """The same groups with other numbers of units and of padding units.

        Args:
            units: of attention modules and feed-forward layers; those that are not named stay as they are.
            padding: zero units stored behind them; none in groups that `units` names and this does not.
        """
        pads = padding or {}

        def resized(group: G) -> G:
            if group.id not in units:
                return group
            return replace(group, units=units[group.id], padding=pads.get(group.id, 0))

        return Architecture(tuple(map(resized, self.modules)), tuple(map(resized, self.feed_forwards)))

    def with_layers(self, kept: Mapping[str, Sequence[int]]) -> "Architecture":
        """The architecture of the model with these layers only, which are numbered anew from 0.

        Args:
            kept: numbers of layers by stack; a stack that is not named keeps its layers and their numbers.
        """

        def renumbered(groups: tuple[G, ...]) -> tuple[G, ...]:
            left = []
            for group in groups:
                layers = kept.get(group.id.stack)
                if layers is None:
                    left.append(group)
                elif group.id.layer in layers:
                    id = GroupId(group.id.kind, sorted(layers).index(group.id.layer))
                    left.append(replace(group, id=id))
            return tuple(left)

        return Architecture(renumbered(self.modules), renumbered(self.feed_forwards))


def parse_kinds(text: str, architecture: Architecture | None = None) -> tuple[str, ...]:
    """Read a comma-separated list of kinds into the order of KINDS.

    Raises:
        UsageError: an unknown kind, an empty list, or a kind that `architecture` does not have.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    faults = [f"unknown kind '{name}'" for name in names if name not in KINDS]
    if architecture is not None:
        absent = [name for name in names if name in KINDS and name not in architecture.kinds]
        faults += [f"the model has no {name} attention" for name in absent]
    if not names:
        faults.append("no kind given")
    if faults:
        raise UsageError.of_faults(f"kinds '{text}' (choose among {', '.join(KINDS)})", faults)
    return tuple(kind for kind in KINDS if kind in names)


def parse_heads(text: str, architecture: Architecture) -> tuple[UnitId, ...]:
    """Read head names, separated by blanks, into sorted head ids without repetition.

    Spellings: ``encoder.0.3``, ``encoder.0.1-3,5``, ``encoder.0-2.3`` and ``encoder.4`` (all heads of the layer) count
    from 0; Michel's ``E:1:3,4`` and ``A:6`` (E encoder, A cross, D decoder) count from 1.

    Raises:
        UsageError: a name that cannot be read or that the model does not have; every fault is named at once.
    """
    heads: set[UnitId] = set()
    faults: list[str] = []
    for name in text.split():
        try:
            heads.update(_heads_of_name(name, architecture))
        except UsageError as error:
            faults.extend(error.faults)
    if faults:
        raise UsageError.of_faults(f"heads '{text}'", faults)
    return tuple(sorted(heads))


def _heads_of_name(name: str, architecture: Architecture) -> list[UnitId]:
    separator, base = (":", 1) if ":" in name else (".", 0)
    kind_text, *rest = name.split(separator)
    kind = _MICHEL_KINDS.get(kind_text, "") if base else kind_text
    if kind not in KINDS or not 1 <= len(rest) <= 2:
        raise UsageError(f"'{name}' names no head: write encoder.0.3, encoder.4 for a whole layer, or E:1:4")
    found: list[UnitId] = []
    for layer in _numbers(rest[0], base, name):
        module = GroupId(kind, layer)
        if module not in architecture:
            known = _range_of(_layers(architecture, kind), base)
            raise UsageError(f"'{name}': the model has no {kind} layer {layer + base}{known}")
        available = architecture[module].heads
        wanted = _numbers(rest[1], base, name) if len(rest) == 2 else range(available)
        outside = [head + base for head in wanted if head >= available]
        if outside:
            shown = ", ".join(map(str, outside))
            raise UsageError(f"'{name}': {module} has no head {shown}{_range_of(range(available), base)}")
        found += [UnitId(module, head) for head in wanted]
    return found


def _layers(architecture: Architecture, kind: str) -> list[int]:
    return [module.id.layer for module in architecture.of_kind(kind)]


def _range_of(numbers: Sequence[int], base: int) -> str:
    return f" (it has {numbers[0] + base} to {numbers[-1] + base})" if len(numbers) else " (it has none)"


def _numbers(text: str, base: int, name: str) -> list[int]:
    """Numbers of ``3``, ``1,4`` or ``1-3`` as 0-based integers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if match is None:
            raise UsageError(f"'{name}': '{part}' is neither a number nor a range such as 1-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < base or last < first:
            raise UsageError(f"'{name}': '{part}' is no range counted from {base}")
        found += range(first - base, last - base + 1)
    return found
