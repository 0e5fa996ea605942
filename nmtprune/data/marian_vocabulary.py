"""Marian's vocabularies: a SentencePiece model, or symbols with their ids as YAML."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from nmtprune.data.text import read_text
from nmtprune.data.vocabulary import SymbolTable
from nmtprune.errors import DataError

SENTENCEPIECE = ".spm"
"""Ending of a vocabulary that is a SentencePiece model, by which Marian knows it."""

_EOS, _UNK = "</s>", "<unk>"


@dataclass(frozen=True, eq=False)
class MarianVocabulary(SymbolTable):
    """A vocabulary of Marian's. Batches are padded with an id that no symbol has.

    Attributes:
        path: the file.
        symbols: by id.
        index: id of each symbol.
        sha256: of the file.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        control: ids of control characters, which SentencePiece has as bytes and Marian never writes.
    """

    path: Path
    symbols: tuple[str, ...]
    index: Mapping[str, int]
    sha256: str
    eos: int
    unk: int
    control: tuple[int, ...] = ()

    pad = -1

    @classmethod
    def read(cls, path: Path) -> "MarianVocabulary":
        """Read ``*.spm`` or ``*.yml``.

        Raises:
            DataError: the file cannot be read, is something else, or has no symbols for end and unknown.
        """
        symbols, sha256 = _pieces(path) if path.suffix == SENTENCEPIECE else _entries(path)
        index = {symbol: number for number, symbol in enumerate(symbols)}
        missing = [symbol for symbol in (_EOS, _UNK) if symbol not in index]
        if missing:
            raise DataError(f"{path}: no vocabulary of Marian's: it has no {' and no '.join(missing)}")
        bytes_of_control = (f"<0x{code:02X}>" for code in range(32)) if path.suffix == SENTENCEPIECE else ()
        control = tuple(index[symbol] for symbol in bytes_of_control if symbol in index)
        return cls(path, symbols, index, sha256, index[_EOS], index[_UNK], control)

    @property
    def start(self) -> int:
        """What stands before the first word: an id behind those of the symbols, whose embedding is zero."""
        return len(self.symbols)

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks, the end-of-sentence symbol left out."""
        unknown = "<<unk>>" if escape_unk else _UNK
        kept = (int(token) for token in ids if int(token) not in (self.eos, self.pad))
        return " ".join(unknown if token == self.unk else self.symbols[token] for token in kept)


def _pieces(path: Path) -> tuple[tuple[str, ...], str]:
    from nmtprune.data.subwords import SentencePieceSegmenter

    segmenter = SentencePieceSegmenter(path)
    return segmenter.pieces, segmenter.sha256


def _entries(path: Path) -> tuple[tuple[str, ...], str]:
    text = read_text(path)
    try:
        # Everything as text: `no`, `1_000` and `0x10` are words here, not what YAML takes them for.
        found = yaml.load("\n".join(text.lines), Loader=yaml.BaseLoader)  # noqa: S506  # makes nothing but text
    except yaml.YAMLError as error:
        raise DataError(f"{path}: no vocabulary of Marian's: no YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict) or sorted(map(str, found.values())) != sorted(map(str, range(len(found)))):
        raise DataError(f"{path}: no vocabulary of Marian's: not every symbol has an id of its own from 0 on")
    return tuple(sorted(found, key=lambda symbol: int(found[symbol]))), text.sha256
