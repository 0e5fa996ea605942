"""The attention modules of a model, the ids of their heads, and every spelling in which a user may name them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import total_ordering

from nmtprune.errors import UsageError

KINDS = ("encoder", "decoder", "cross")
"""Kinds of attention module in the order that plans, ties and tables use."""

STACKS = {"encoder": ("encoder",), "decoder": ("decoder", "cross")}
"""What shares one head count in a uniform model: the encoder; decoder self- and cross-attention together."""

_MICHEL_KINDS = {"E": "encoder", "A": "cross", "D": "decoder"}


@total_ordering
@dataclass(frozen=True)
class ModuleId:
    """One multi-head attention of one layer, ``encoder.0``: kind and layer, counted from 0."""

    kind: str
    layer: int

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"

    def __lt__(self, other: "ModuleId") -> bool:
        return self.sort_key < other.sort_key

    @property
    def sort_key(self) -> tuple[int, int]:
        """Position in the order encoder, decoder, cross and then layer by number."""
        return KINDS.index(self.kind), self.layer

    @classmethod
    def parse(cls, text: str) -> "ModuleId":
        """Read ``kind.layer``.

        Raises:
            UsageError: the text is not of that form.
        """
        match = re.fullmatch(rf"({'|'.join(KINDS)})\.(0|[1-9][0-9]*)", text)
        if match is None:
            raise UsageError(f"'{text}' names no attention module: write KIND.LAYER, for example cross.5")
        return cls(match[1], int(match[2]))


@total_ordering
@dataclass(frozen=True)
class HeadId:
    """One head, ``encoder.0.3``: kind, layer and head, all counted from 0 in the numbering of the base checkpoint."""

    module: ModuleId
    head: int

    def __str__(self) -> str:
        return f"{self.module}.{self.head}"

    def __lt__(self, other: "HeadId") -> bool:
        return (self.module, self.head) < (other.module, other.head)

    @classmethod
    def parse(cls, text: str) -> "HeadId":
        """Read ``kind.layer.head``.

        Raises:
            UsageError: the text is not of that form.
        """
        module, _, head = text.rpartition(".")
        if not re.fullmatch(r"0|[1-9][0-9]*", head):
            raise UsageError(f"'{text}' names no head: write KIND.LAYER.HEAD, for example encoder.0.3")
        return cls(ModuleId.parse(module), int(head))


@dataclass(frozen=True)
class Group:
    """Units of one kind in one layer that can be cut out one by one, as a checkpoint stores them.

    Attributes:
        id: kind and layer.
        units: those that compute something; padding is not among them.
        width: values that one unit computes.
        padding: zero units stored after the real ones (uniform models), counted nowhere.
    """

    id: ModuleId
    units: int
    width: int
    padding: int = 0

    @property
    def stored(self) -> int:
        """Units for which the file has rows and columns."""
        return self.units + self.padding


Kept = Mapping[ModuleId, Sequence[int]]
"""Heads that stay, of a checkpoint's real heads; a module that is not named keeps all of its own."""


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
    """All attention modules of a model, in the order encoder, decoder, cross and then layer by number."""

    modules: tuple[AttentionModule, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", tuple(sorted(self.modules, key=lambda module: module.id)))

    def __iter__(self) -> Iterator[AttentionModule]:
        return iter(self.modules)

    def __contains__(self, module: ModuleId) -> bool:
        return any(own.id == module for own in self.modules)

    def __getitem__(self, module: ModuleId) -> AttentionModule:
        """The module of that id; KeyError where the model has none."""
        for own in self.modules:
            if own.id == module:
                return own
        raise KeyError(str(module))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that this model has, in the order of KINDS."""
        return tuple(kind for kind in KINDS if self.of_kind(kind))

    def of_kind(self, kind: str) -> tuple[AttentionModule, ...]:
        """Modules of one kind, layer by layer."""
        return tuple(module for module in self.modules if module.id.kind == kind)

    def heads_by_kind(self) -> dict[str, list[int]]:
        """Heads per module, listed layer by layer under each of KINDS; an empty list for a kind that is not there."""
        return {kind: [module.heads for module in self.of_kind(kind)] for kind in KINDS}

    def head_ids(self, kinds: Iterable[str] = KINDS) -> tuple[HeadId, ...]:
        """Every head of the selected kinds in order."""
        selected = set(kinds)
        return tuple(
            HeadId(module.id, head)
            for module in self.modules
            if module.id.kind in selected
            for head in range(module.heads)
        )

    def count(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of heads of the selected kinds."""
        selected = set(kinds)
        return sum(module.heads for module in self.modules if module.id.kind in selected)

    def with_heads(
        self, heads: Mapping[ModuleId, int], padding: Mapping[ModuleId, int] | None = None
    ) -> "Architecture":
        """The same modules with other numbers of heads and, where given, of padding heads."""
        pads = padding or {}
        return Architecture(
            tuple(
                AttentionModule(module.id, heads[module.id], module.head_dim, pads.get(module.id, 0))
                for module in self.modules
            )
        )


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


def parse_heads(text: str, architecture: Architecture) -> tuple[HeadId, ...]:
    """Read head names, separated by blanks, into sorted head ids without repetition.

    Spellings: ``encoder.0.3``, ``encoder.0.1-3,5``, ``encoder.0-2.3`` and ``encoder.4`` (all heads of the layer) count
    from 0; Michel's ``E:1:3,4`` and ``A:6`` (E encoder, A cross, D decoder) count from 1.

    Raises:
        UsageError: a name that cannot be read or that the model does not have; every fault is named at once.
    """
    heads: set[HeadId] = set()
    faults: list[str] = []
    for name in text.split():
        try:
            heads.update(_heads_of_name(name, architecture))
        except UsageError as error:
            faults.extend(error.faults)
    if faults:
        raise UsageError.of_faults(f"heads '{text}'", faults)
    return tuple(sorted(heads))


def _heads_of_name(name: str, architecture: Architecture) -> list[HeadId]:
    separator, base = (":", 1) if ":" in name else (".", 0)
    kind_text, *rest = name.split(separator)
    kind = _MICHEL_KINDS.get(kind_text, "") if base else kind_text
    if kind not in KINDS or not 1 <= len(rest) <= 2:
        raise UsageError(f"'{name}' names no head: write encoder.0.3, encoder.4 for a whole layer, or E:1:4")
    found: list[HeadId] = []
    for layer in _numbers(rest[0], base, name):
        module = ModuleId(kind, layer)
        if module not in architecture:
            known = _range_of(_layers(architecture, kind), base)
            raise UsageError(f"'{name}': the model has no {kind} layer {layer + base}{known}")
        available = architecture[module].heads
        wanted = _numbers(rest[1], base, name) if len(rest) == 2 else range(available)
        outside = [head + base for head in wanted if head >= available]
        if outside:
            shown = ", ".join(map(str, outside))
            raise UsageError(f"'{name}': {module} has no head {shown}{_range_of(range(available), base)}")
        found += [HeadId(module, head) for head in wanted]
    return found


def _layers(architecture: Architecture, kind: str) -> list[int]:
    return [module.id.layer for module in architecture.of_kind(kind)]


def _range_of(numbers: Sequence[int], base: int) -> str:
    return f" (it has {numbers[0] + base} to {numbers[-1] + base})" if len(numbers) else " (it has none)"


def _numbers(text: str, base: int, name: str) -> list[int]:
    """Numbers of ``3``, ``1,4`` or ``1-3`` as 0-based integers."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", part)
        if match is None:
            raise UsageError(f"'{name}': '{part}' is neither a number nor a range such as 1-3")
        first, last = int(match[1]), int(match[2] or match[1])
        if first < base or last < first:
            raise UsageError(f"'{name}': '{part}' is no range counted from {base}")
        found += range(first - base, last - base + 1)
    return found
