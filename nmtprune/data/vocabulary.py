"""Vocabularies: symbols and their ids. fairseq's ``dict.LANG.txt``, equal to what fairseq makes of the file."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from nmtprune.data.ragged import Ids
from nmtprune.data.text import first_of, read_text
from nmtprune.errors import DataError

_OVERWRITE = "#fairseq:overwrite"
_SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")


class Vocabulary(Protocol):
    """What engines and metrics need of any format's vocabulary."""

    @property
    def path(self) -> Path:
        """The file it was read from."""

    @property
    def symbols(self) -> tuple[str, ...]:
        """By id."""

    @property
    def start(self) -> int:
        """Id that stands before the first word of a target sentence."""

    @property
    def start_symbol(self) -> str | None:
        """The symbol whose embedding stands before the first word; None: zeros do."""

    @property
    def pad(self) -> int:
        """Id of the padding symbol."""

    @property
    def eos(self) -> int:
        """Id of the end-of-sentence symbol."""

    @property
    def unk(self) -> int:
        """Id of the unknown symbol."""

    @property
    def control(self) -> tuple[int, ...]:
        """Ids of words that no search chooses."""

    @property
    def sha256(self) -> str:
        """Of the file."""

    def __len__(self) -> int:
        """Number of symbols, special ones included."""

    def encode(self, line: str, *, append_eos: bool = True) -> Ids:
        """Ids of the blank-separated symbols of a line."""

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks."""


def made_up_names(ids: Iterable[int], index: Mapping[str, int]) -> Iterable[str]:
    """Names for ids without a symbol that no symbol has."""
    tail = ""
    while any(symbol.startswith("no-symbol-") and symbol.endswith(tail) for symbol in index):
        tail += "+"
    return [f"no-symbol-{id}{tail}" for id in ids]


class SymbolTable:
    """What vocabularies have in common that map symbols to ids.

    Attributes:
        symbols: by id.
        index: id of each symbol.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        control: ids of words that no search chooses.
    """

    symbols: tuple[str, ...]
    index: Mapping[str, int]
    eos: int
    unk: int
    control: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the symbols in order: equal for equal vocabularies, whatever their counts and file names."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    def __len__(self) -> int:
        """Number of symbols, special ones included."""
        return len(self.symbols)

    def encode(self, line: str, *, append_eos: bool = True) -> Ids:
        """Ids of the symbols of a line that any white space separates; symbols that are not known become ``<unk>``."""
        ids = [self.index.get(symbol, self.unk) for symbol in line.split()]
        return np.array(ids + [self.eos] * append_eos, dtype=np.int64)


class SpacedSymbolTable(SymbolTable):
    """A table whose symbols may hold any white space but U+0020, and that has no symbol to start a sentence with."""

    @property
    def start(self) -> int:
        """What stands before the first word: an id behind those of the symbols."""
        return len(self.symbols)

    def encode(self, line: str, *, append_eos: bool = True) -> Ids:
        """Ids of the symbols of a line; only U+0020 separates them, and any symbol of the file may be in the text."""
        ids = [self.index.get(symbol, self.unk) for symbol in line.split(" ") if symbol]
        return np.array(ids + [self.eos] * append_eos, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class FairseqVocabulary(SymbolTable):
    """A dictionary of fairseq; ids 0 to 3 are ``<s>``, ``<pad>``, ``</s>`` and ``<unk>``, lines of the file follow.

    Attributes:
        path: the file.
        symbols: by id; a symbol that the file overwrites stands twice.
        index: id of each symbol, the last one where it stands twice.
        sha256: of the file.
        eos: id that ends a sentence: that of ``</s>``, but in some multilingual models.
        start: id that stands before the first word, likewise.
        hidden: ids that `string` leaves out besides.
        counts: by id, how often the symbol occurs in the training text; 0 for ids 0 to 3.
    """

    path: Path
    symbols: tuple[str, ...]
    index: Mapping[str, int]
    sha256: str
    eos: int = 2
    start: int = 2
    hidden: frozenset[int] = frozenset()
    counts: tuple[int, ...] = ()

    bos = 0
    pad = 1
    unk = 3

    @property
    def start_symbol(self) -> str:
        """The symbol that stands before the first word."""
        return self.symbols[self.start]

    def with_symbols(self, names: Iterable[str]) -> "FairseqVocabulary":
        """The dictionary with further symbols behind its own, those that it does not have."""
        added = tuple(dict.fromkeys(name for name in names if name not in self.index))
        first = len(self.symbols)
        index = {**self.index, **{name: first + number for number, name in enumerate(added)}}
        counts = (*self.counts, *[0] * len(added))
        return replace(self, symbols=(*self.symbols, *added), index=index, counts=counts)

    @classmethod
    def read(cls, path: Path) -> "FairseqVocabulary":
        """Read ``SYMBOL COUNT [#fairseq:overwrite]`` per line.

        Raises:
            DataError: the file cannot be read, is not UTF-8, has lines of another form, or repeats a symbol.
        """
        text = read_text(path)
        symbols = list(_SPECIAL_SYMBOLS)
        index = {symbol: number for number, symbol in enumerate(symbols)}
        counts = [0] * len(symbols)
        faults = []
        for number, line in enumerate(text.lines, 1):
            entry = _parse_line(line)
            if entry is None:
                faults.append(f"line {number}: '{line[:40]}' is not 'SYMBOL COUNT'")
            elif entry.symbol in index and not entry.overwrite:
                faults.append(f"line {number}: '{entry.symbol}' is a duplicate (not flagged {_OVERWRITE})")
            else:
                index[entry.symbol] = len(symbols)
                symbols.append(entry.symbol)
                counts.append(entry.count)
        if faults:
            raise DataError.of_faults(f"{path}: no dictionary of fairseq", first_of(faults))
        return cls(path, tuple(symbols), index, text.sha256, counts=tuple(counts))

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks; ``<s>`` and ``</s>`` are left out.

        Args:
            ids: token ids; ids beyond the dictionary read ``<unk>``.
            escape_unk: write ``<<unk>>``, as fairseq-generate does in references, so that an unknown word of the
                reference never matches one of the hypothesis.
        """
        unknown = "<<unk>>" if escape_unk else "<unk>"
        listed = ids.tolist() if isinstance(ids, np.ndarray) else [int(token) for token in ids]
        left_out = {self.bos, type(self).eos, self.eos, *self.hidden}
        kept = (token for token in listed if token not in left_out)
        return " ".join(unknown if token == self.unk else self._symbol(token) for token in kept)

    def _symbol(self, token: int) -> str:
        return self.symbols[token] if token < len(self.symbols) else self.symbols[self.unk]


@dataclass(frozen=True)
class _Entry:
    symbol: str
    count: int
    overwrite: bool


def _parse_line(line: str) -> _Entry | None:
    fields = line.rstrip().rsplit(" ", 1)
    overwrite = fields[-1] == _OVERWRITE
    if overwrite:
        fields = fields[0].rsplit(" ", 1)
    try:
        count = int(fields[-1])
    except ValueError:
        return None
    return _Entry(fields[0], count, overwrite) if len(fields) == 2 else None


def check_size(vocabulary: Vocabulary, symbols: int | None, side: str) -> None:
    """Compare a vocabulary with the rows of the model's embeddings.

    Args:
        vocabulary: of one side.
        symbols: rows of that side's embeddings; None where the model does not tell.
        side: ``source`` or ``target``, for the message.

    Raises:
        DataError: the numbers differ.
    """
    if symbols is not None and len(vocabulary) != symbols:
        raise DataError(
            f"{vocabulary.path}: the dictionary of another model: {len(vocabulary)} symbols (special ones included), "
            f"but the model's {side} embeddings have {symbols}"
        )
