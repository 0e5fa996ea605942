"""What every kind of ``config.json`` offers: settings, and what they say of the tensors beside them."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune.strictjson import show

if TYPE_CHECKING:
    from nmtprune.architecture import Architecture, GroupId
    from nmtprune.formats.base import UnitAxis
    from nmtprune.formats.huggingface.entries import Entry

FILE = "config.json"
NOTE = "nmtprune"
"""Setting in which nmtprune writes lineage and padding; transformers keeps it."""


@dataclass(frozen=True)
class FolderConfig(ABC):
    """The settings of a model.

    Attributes:
        values: all of them, as the file has them.
        settings: those that are read, with transformers' values where the file does not say.
    """

    values: Mapping[str, Any]
    settings: Mapping[str, Any]

    known: ClassVar[Collection[str]]
    """Settings that are read, or without effect."""

    @property
    @abstractmethod
    def model_class(self) -> str:
        """The class in transformers."""

    @property
    @abstractmethod
    def same(self) -> Mapping[str, str]:
        """Other names that transformers has for settings -> their own."""

    @abstractmethod
    def heads(self, stack: str) -> int:
        """Heads of every module of a stack."""

    @abstractmethod
    def stored_architecture(self) -> "Architecture":
        """The groups for which the file has rows and columns."""

    @abstractmethod
    def unit_axes(self, architecture: "Architecture") -> "Mapping[GroupId, tuple[UnitAxis, ...]]":
        """Every axis in which heads and neurons lie."""

    @abstractmethod
    def entries(self, names: Iterable[str]) -> "dict[str, Entry]":
        """What is known of the tensors of a model; of shared tables the first name that is there, or else the first."""

    @abstractmethod
    def table_aliases(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> the first name of the same table, for tables that a file stores several times."""

    @abstractmethod
    def table_faults(self, names: Container[str]) -> Iterator[str]:
        """Tables that a file lacks although transformers takes no other in their place."""

    @abstractmethod
    def is_buffer(self, name: str) -> bool:
        """Whether transformers computes a tensor anew, or leaves it out."""

    @abstractmethod
    def without_layers(self, names: Iterable[str], kept: Mapping[str, Sequence[int]]) -> dict[str, str]:
        """Name of each tensor that stays -> its name in the model without the other layers.

        Args:
            names: of all tensors.
            kept: numbers of the layers that stay, ascending, by stack; a stack that is not named keeps all.
        """

    @abstractmethod
    def width_setting(self, stack: str) -> str:
        """The setting of the number of neurons of every layer of a stack."""

    @abstractmethod
    def depth_setting(self, stack: str) -> str:
        """The setting of the number of layers of a stack."""

    @abstractmethod
    def native_of(self, name: str) -> str | None:
        """Native name of a tensor that the native model takes as it is; None for others."""

    def with_sizes(self, sizes: Mapping[str, int], note: Mapping[str, Any] | None) -> dict[str, Any]:
        """The values of a model with other layers or widths.

        Args:
            sizes: settings that change.
            note: what `NOTE` says; None leaves it out.
        """
        found = {name: value for name, value in self.values.items() if name != NOTE}
        found |= {name: size for name, size in sizes.items() if self.settings[name] != size or name in found}
        found |= {other: found[name] for other, name in self.same.items() if other in found and name in found}
        return found if note is None else {**found, NOTE: dict(note)}

    @property
    def unknown(self) -> list[str]:
        """Settings that are neither read nor known to be without effect, with their values."""
        return [f"{name} = {show(value)}" for name, value in self.values.items() if name not in self.known and value]


def foreign_faults(values: Mapping[str, Any]) -> Iterator[str]:
    """Settings of models whose tensors are not those of their class."""
    if values.get("quantization_config"):
        kind = values["quantization_config"]
        method = kind.get("quant_method") if isinstance(kind, dict) else None
        yield f"quantization_config ({method or 'quantized weights'}): slim the model that it was made from"
    if values.get("pruned_heads"):
        yield f"pruned_heads {show(values['pruned_heads'])} (heads that transformers took out)"
    if values.get("auto_map"):
        yield "auto_map (code of its own, which nmtprune does not run)"
