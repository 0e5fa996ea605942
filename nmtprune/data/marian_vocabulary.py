"""Marian's vocabularies: a SentencePiece model, or symbols with their ids as YAML, JSON or plain text."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmtprune.data.marian_symbols import Entry, is_yaml, read_entries
from nmtprune.data.sentencepiece_text import SentencePieceText
from nmtprune.data.sentences import Ids
from nmtprune.data.vocabulary import SymbolTable
from nmtprune.errors import DataError

SENTENCEPIECE = ".spm"
"""Ending of a vocabulary that is a SentencePiece model, by which Marian knows it."""

_FACTORED = ".fsv"
_EOS, _UNK = "</s>", "<unk>"
_NEMATUS = {_EOS: (0, "eos"), _UNK: (1, "UNK")}
_MOST_GAPS = 1_000_000


@dataclass(frozen=True, eq=False)
class MarianVocabulary(SymbolTable):
    """A vocabulary of Marian's. Batches are padded with an id that no symbol has.

    Attributes:
        path: the file.
        symbols: by id, as many as the model has rows; ids without a symbol of the file have a name made up.
        index: id of each symbol of the file.
        sha256: of the file.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        size: ids up to here have a symbol or are gaps, which Marian writes as nothing; it stops at those behind.
        gaps: ids below `size` without a symbol.
        control: ids of control characters, which SentencePiece has as bytes and Marian never writes.
        sentencepiece: the SentencePiece model that the vocabulary is; None for lists of symbols.
        remarks: how the file differs from the rows of the model.
    """

    path: Path
    symbols: tuple[str, ...]
    index: Mapping[str, int]
    sha256: str
    eos: int
    unk: int
    size: int
    gaps: frozenset[int] = frozenset()
    control: tuple[int, ...] = ()
    sentencepiece: SentencePieceText | None = None
    remarks: tuple[str, ...] = ()

    pad = -1

    @classmethod
    def read(cls, path: Path, rows: int | None = None, side: str = "source") -> "MarianVocabulary":
        """Read a file by the ending of its name, as Marian does: ``.spm``, ``.yml``, ``.yaml``, ``.json``, else text.

        Args:
            path: the file.
            rows: of the model's embeddings, which lists of symbols are cut off at; None cuts nothing off.
            side: ``source`` or ``target``, for messages.

        Raises:
            DataError: the file cannot be read, Marian does not take it, or the model has fewer rows than a
                SentencePiece model has pieces.
        """
        if path.name.endswith(_FACTORED):
            raise DataError(
                f"{path}: a factored vocabulary: nmtprune has no factors, only vocabularies of whole symbols"
            )
        if path.suffix == SENTENCEPIECE:
            return cls._of_pieces(SentencePieceText(path), rows, side)
        try:
            stored = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        return cls._of_entries(path, stored, rows, side)

    @classmethod
    def _of_pieces(cls, model: SentencePieceText, rows: int | None, side: str) -> "MarianVocabulary":
        size = len(model.labels)
        if rows is not None and size > rows:
            raise DataError(
                f"{model.path}: the vocabulary of another model: {size} pieces, but the model's {side} embeddings have "
                f"{rows}"
            )
        index = {label: number for number, label in enumerate(model.labels)}
        symbols = (*model.labels, *_made_up(range(size, rows or size), index))
        remarks = _padded(model.path, size, len(symbols), side)
        return cls(
            model.path, symbols, index, model.sha256, model.eos, model.unk, size,
            control=model.control, sentencepiece=model, remarks=remarks,
        )  # fmt: skip

    @classmethod
    def _of_entries(cls, path: Path, stored: bytes, rows: int | None, side: str) -> "MarianVocabulary":
        first = _first_of_each(path, stored)
        index = {symbol: id for symbol, id in first.items() if rows is None or id < rows}
        if not index:
            raise DataError(f"{path}: no vocabulary of Marian's: it holds no symbols")
        last = max(first.values())
        if last > len(first) + _MOST_GAPS:
            raise DataError(f"{path}: no vocabulary of Marian's: ids up to {last} for {len(first)} symbols")
        size = max(index.values()) + 1
        # Where several symbols have the same id Marian writes the last one in the order of bytes.
        named = {index[symbol]: symbol for symbol in sorted(index, key=_as_bytes)}
        special = [_required(symbol, index, named, size, yaml=is_yaml(path)) for symbol in (_EOS, _UNK)]
        eos, unk = special
        if eos is None or unk is None:
            missing = [symbol for symbol, id in zip((_EOS, _UNK), special, strict=True) if id is None]
            raise DataError(_without(path, stored, missing, first, rows))
        symbols = [_shown(named[id]) if id in named else "" for id in range(max(size, rows or 0))]
        gaps = frozenset(id for id in range(size) if id not in named or not named[id])
        nameless = [id for id, symbol in enumerate(symbols) if not symbol]
        for id, name in zip(nameless, _made_up(nameless, index), strict=True):
            symbols[id] = name
        remarks = (*_padded(path, size, len(symbols), side), *_cut_off(path, len(first) - len(index), rows, side))
        return cls(
            path, tuple(symbols), index, hashlib.sha256(stored).hexdigest(), eos, unk, size, gaps, remarks=remarks
        )

    @property
    def start(self) -> int:
        """What stands before the first word: an id behind those of the symbols, whose embedding is zero."""
        return len(self.symbols)

    def encode(self, line: str, *, append_eos: bool = True) -> Ids:
        """Ids of the symbols of a line; only U+0020 separates them, and any symbol of the file may be in the text."""
        ids = [self.index.get(symbol, self.unk) for symbol in line.split(" ") if symbol]
        return np.array(ids + [self.eos] * append_eos, dtype=np.int64)

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks, the end-of-sentence symbol left out.

        Raises:
            DataError: an id behind the last symbol, at which Marian stops too.
        """
        kept = [int(token) for token in ids if int(token) not in (self.eos, self.pad)]
        for token in kept:
            if token >= self.size:
                raise DataError(
                    f"{self.path}: the model chose id {token}, but the symbols of this vocabulary end at "
                    f"{self.size - 1} (Marian stops there too): is this the model's vocabulary?"
                )
        return " ".join("<<unk>>" if escape_unk and token == self.unk else self._written(token) for token in kept)

    def _written(self, token: int) -> str:
        return "" if token in self.gaps else self.symbols[token]


def _first_of_each(path: Path, stored: bytes) -> dict[str, int]:
    """Ids by symbol; Marian keeps the first where a symbol stands twice."""
    found: dict[str, int] = {}
    for entry in _entries(path, stored):
        found.setdefault(entry.symbol, entry.id)
    return found


def _entries(path: Path, stored: bytes) -> list[Entry]:
    try:
        return read_entries(path, stored)
    except DataError as error:
        raise DataError(f"{error}{_hint(path, stored)}") from None


def _required(symbol: str, index: Mapping[str, int], named: Mapping[int, str], size: int, *, yaml: bool) -> int | None:
    """The id of a symbol that must be there; in YAML ids 0 and 1, if they are free or have Nematus' names."""
    place, nematus = _NEMATUS[symbol]
    if yaml and place < size and named.get(place, "") in ("", nematus):
        return place
    return index.get(symbol)


def _without(path: Path, stored: bytes, missing: list[str], first: Mapping[str, int], rows: int | None) -> str:
    cut = [symbol for symbol in missing if symbol in first]
    if cut:
        return (
            f"{path}: {cut[0]} has id {first[cut[0]]}, but the model has {rows} rows: the vocabulary of another model"
        )
    names = " and no ".join(missing)
    return f"{path}: no vocabulary of Marian's: it has no {names}{_hint(path, stored)}"


def _hint(path: Path, stored: bytes) -> str:
    """What a file is that Marian does not take."""
    if _is_sentencepiece(stored):
        return f" (it is a SentencePiece model: Marian knows one by its ending, copy it to {path.stem}{SENTENCEPIECE})"
    lines = stored[:4000].decode("utf-8", "replace").split("\n")[:-1][:10]
    if lines and all(re.fullmatch(r".+\t-?[\d.e+-]+", line) for line in lines):
        return " (it is the list of pieces that SentencePiece writes beside a model: name the model, as *.spm)"
    if not is_yaml(path) and lines and all(re.fullmatch(r".+: \d+", line.strip()) for line in lines):
        return " (it looks like YAML, which Marian knows by the endings .yml, .yaml and .json)"
    if lines and all(re.fullmatch(r"\S+ \d+", line) for line in lines):
        return " (it looks like a dictionary of fairseq's)"
    return ""


def _is_sentencepiece(stored: bytes) -> bool:
    import sentencepiece

    try:
        return bool(stored.startswith(b"\n") and sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(stored))
    except RuntimeError:
        return False


def _as_bytes(symbol: str) -> bytes:
    return symbol.encode("utf-8", "surrogateescape")


def _shown(symbol: str) -> str:
    """A symbol as text; bytes that are no UTF-8 become U+FFFD."""
    return _as_bytes(symbol).decode("utf-8", "replace")


def _made_up(ids: Iterable[int], index: Mapping[str, int]) -> Iterable[str]:
    """Names for ids without a symbol that no symbol has."""
    tail = ""
    while any(symbol.startswith("no-symbol-") and symbol.endswith(tail) for symbol in index):
        tail += "+"
    return [f"no-symbol-{id}{tail}" for id in ids]


def _padded(path: Path, size: int, rows: int, side: str) -> tuple[str, ...]:
    if rows <= size:
        return ()
    return (f"{path}: symbols with ids up to {size - 1}, but {rows} rows of {side} embeddings: the others have none",)


def _cut_off(path: Path, count: int, rows: int | None, side: str) -> tuple[str, ...]:
    if not count:
        return ()
    return (
        f"{path}: cut off at id {rows}, the number of {side} embeddings, as Marian does: {count} symbols are left out",
    )
