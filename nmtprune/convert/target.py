"""What a toolkit must offer to be converted to, and the toolkits that do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from nmtprune.convert.portable import Portable
from nmtprune.data.codec import SIDES
from nmtprune.data.marian_vocabulary import SENTENCEPIECE
from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN


class ConversionTarget(ABC):
    """Writes models as the files of one toolkit, into a folder."""

    format: ClassVar[str]
    """As `Checkpoint.format`."""
    marker: ClassVar[str]
    """Name of the file by which such a folder is known."""

    @abstractmethod
    def faults(self, model: Portable) -> Iterator[str]:
        """Why the toolkit cannot say a model; nothing where it can."""

    @abstractmethod
    def write(self, model: Portable, folder: Path, provenance: Mapping[str, Any]) -> tuple[str, ...]:
        """Write the files of a model without faults; what a user must know of them, one line each.

        Args:
            model: the model.
            folder: an empty folder.
            provenance: how the files are made.

        Raises:
            OSError: the disk is full, or the like.
        """

    @abstractmethod
    def model(self, folder: Path) -> Path:
        """The checkpoint in a folder that `write` has filled."""

    @abstractmethod
    def data(self, folder: Path, given: DataOptions) -> DataOptions:
        """How text is read for that checkpoint.

        Args:
            folder: that `write` has filled.
            given: how it was read for the model that was converted.
        """


def read_with(given: DataOptions, pieces: Iterable[Path], **files: Any) -> DataOptions:
    """Options of text with other vocabularies.

    Args:
        given: the options.
        pieces: SentencePiece models of source and target that split it, if they are there.
        files: `vocabs` or `data_bin`.
    """
    own = {f"{side}_sentencepiece": path for side, path in zip(SIDES, pieces, strict=True) if path.exists()}
    own = own if given.bpe_codes is None else {}
    none = {"data_bin": None, "vocabs": None, "sentencepiece": None, "subset": None}
    found = {field.name: getattr(given, field.name) for field in fields(given)} | none
    found |= {f"{side}_sentencepiece": None for side in SIDES} | {"source": given.source or STDIN} | files | own
    split = own or given.bpe_codes or given.source_bpe_codes or given.post_process
    vocabs = found["vocabs"]
    if not split and not (vocabs and vocabs[0].suffix == SENTENCEPIECE):
        found["post_process"] = "none"
    return DataOptions(**found)


_TARGETS: Mapping[str, str] = {
    "fairseq": "nmtprune.convert.to_fairseq:FairseqTarget",
    "marian": "nmtprune.convert.to_marian:MarianTarget",
    "huggingface": "nmtprune.convert.to_huggingface:HuggingFaceTarget",
}
TARGETS = tuple(_TARGETS)
"""Values of ``--to``."""


def target_of(name: str) -> ConversionTarget:
    """The target of that name."""
    module, _, kind = _TARGETS[name].partition(":")
    found: ConversionTarget = getattr(import_module(module), kind)()
    return found
