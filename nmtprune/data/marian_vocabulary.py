"""Marian's vocabularies: a SentencePiece model, or symbols with their ids as YAML, JSON or plain text."""

import codecs
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nmtprune.data.sentencepiece_text import SentencePieceText
from nmtprune.data.text import first_of
from nmtprune.data.vocabulary import SpacedSymbolTable, made_up_names
from nmtprune.errors import DataError

SENTENCEPIECE = ".spm"
"""Ending of a vocabulary that is a SentencePiece model, by which Marian knows it."""

_FACTORED = ".fsv"
_EOS, _UNK = "</s>", "<unk>"
_NEMATUS = {_EOS: (0, "eos"), _UNK: (1, "UNK")}
_MOST_GAPS = 1_000_000

_YAML_NAME = re.compile(r"\.(json|yaml|yml)$")
_NULL = ("", "~", "null", "Null", "NULL")
_NUMBER = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)[ \t\n]*")
_ID_END = 1 << 32
_LONGEST = 1000

# One entry per line, as Marian and all common scripts write them; whatever looks otherwise goes to a YAML parser.
_LINE = re.compile(
    r"""(?: "(?P<double>(?:[^"\\]|\\.){1,1000})"
      | '(?P<single>(?:[^']|''){1,1000})'
      | (?P<plain>[^\s\-?:,\[\]{}#&*!|>'"%@`\x00-\x1f][^:#\t\n]{0,1000}(?<!\s)) )
      [ ]?:[ \t]+ (?P<id>0|[1-9][0-9]{0,8}) [ \t]*""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r", "e": "\x1b",
    " ": " ", '"': '"', "'": "'", "\\": "\\", "/": "/", "N": "\udc85", "_": "\udca0", "L": "\u2028", "P": "\u2029",
}  # fmt: skip
"""Those of yaml-cpp, which makes single bytes, no UTF-8, of two of them."""

_HALF_PAIR = re.compile(r"(?<!\\)(?:\\\\)*\\u[dD][89A-Fa-f]")

# PyYAML ends lines at some of these and refuses the others; to yaml-cpp all are characters like any other.
_ORDINARY = re.compile(
    "\r(?!\n)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0\ufdd1\ufeff\ufffe\uffff]"
)  # fmt: skip


# PyYAML takes no tabs before a value.
_TABS = re.compile(r":[ \t]*\t[ \t]*(?=\d+[ \t]*$)", re.MULTILINE)


class _Entry(NamedTuple):
    """A symbol with its id, and the line that it stands in."""

    symbol: str
    id: int
    line: int


@dataclass(frozen=True, eq=False)
class MarianVocabulary(SpacedSymbolTable):
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
    start_symbol = None

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
        symbols = (*model.labels, *made_up_names(range(size, rows or size), index))
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
        special = [_required(symbol, index, named, size, yaml=_is_yaml(path)) for symbol in (_EOS, _UNK)]
        eos, unk = special
        if eos is None or unk is None:
            missing = [symbol for symbol, id in zip((_EOS, _UNK), special, strict=True) if id is None]
            raise DataError(_without(path, stored, missing, first, rows))
        symbols = [_shown(named[id]) if id in named else "" for id in range(max(size, rows or 0))]
        gaps = frozenset(id for id in range(size) if id not in named or not named[id])
        nameless = [id for id, symbol in enumerate(symbols) if not symbol]
        for id, name in zip(nameless, made_up_names(nameless, index), strict=True):
            symbols[id] = name
        remarks = (*_padded(path, size, len(symbols), side), *_cut_off(path, len(first) - len(index), rows, side))
        return cls(
            path, tuple(symbols), index, hashlib.sha256(stored).hexdigest(), eos, unk, size, gaps, remarks=remarks
        )

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


def _entries(path: Path, stored: bytes) -> list[_Entry]:
    try:
        return _read_entries(path, stored)
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
    if not _is_yaml(path) and lines and all(re.fullmatch(r".+: \d+", line.strip()) for line in lines):
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


def _is_yaml(path: Path) -> bool:
    """Whether Marian takes a vocabulary of this name for YAML or JSON; others are plain text, a symbol per line."""
    return _YAML_NAME.search(path.name) is not None


def _read_entries(path: Path, stored: bytes) -> list[_Entry]:
    """All entries in the order of the file; symbols may stand twice in YAML.

    Raises:
        DataError: what Marian refuses, with the line.
    """
    if path.suffix == ".gz":
        try:
            stored = gzip.decompress(stored)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file: {error}") from error
    return _yaml_entries(path, stored) if _is_yaml(path) else _lines(path, stored)


def _lines(path: Path, stored: bytes) -> list[_Entry]:
    lines = stored.decode("utf-8", "surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()
    found: dict[str, _Entry] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        symbol = line.removesuffix("\r")
        if not symbol:
            faults.append(f"line {number} is empty")
        elif symbol in found:
            faults.append(f"line {number}: '{symbol[:40]}' stands in line {found[symbol].line} too")
        else:
            found[symbol] = _Entry(symbol, number - 1, number)
    if faults:
        raise DataError.of_faults(f"{path}: no plain-text vocabulary of Marian's", first_of(faults))
    return list(found.values())


def _yaml_entries(path: Path, stored: bytes) -> list[_Entry]:
    text = _decoded(path, stored).replace("\r\n", "\n")
    found = _regular(text)
    if found is None:
        found = _json(text)
    return _parsed(path, text) if found is None else found


def _decoded(path: Path, stored: bytes) -> str:
    if stored.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return stored.decode("utf-16")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: no vocabulary of Marian's: damaged UTF-16") from error
    return stored.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _regular(text: str) -> list[_Entry] | None:
    """Entries of a file that has one in every line; None for all others."""
    found = []
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        match = _LINE.fullmatch(line)
        symbol = None if match is None else _symbol(match)
        if match is None or symbol is None:
            return None
        found.append(_Entry(symbol, int(match["id"]), number))
    return found


def _symbol(match: "re.Match[str]") -> str | None:
    """What a key says; None where only a YAML parser can tell."""
    plain, single, double = match["plain"], match["single"], match["double"]
    if plain is not None:
        return None if plain in _NULL or plain.startswith("...") else plain
    if single is not None:
        return single.replace("''", "'")
    if "\\" not in double:
        return str(double)
    pieces = [_unescaped(escape) for escape in _ESCAPE.findall(double)]
    if None in pieces:
        return None
    values = iter(pieces)
    return _ESCAPE.sub(lambda _: next(values) or "", double)


def _unescaped(escape: str) -> str | None:
    if len(escape) == 1:
        return _ESCAPES.get(escape)
    code = int(escape[1:], 16)
    return None if 0xD800 <= code <= 0xDFFF or code > 0x10FFFF else chr(code)


def _json(text: str) -> list[_Entry] | None:
    """Entries of a JSON object of numbers without the two halves of a pair, which yaml-cpp refuses; else None."""
    if not text.lstrip().startswith("{") or _HALF_PAIR.search(text):
        return None
    try:
        pairs = json.loads(text, object_pairs_hook=list, parse_int=str, parse_float=str, strict=False)
    except ValueError:
        return None
    found = []
    for symbol, value in pairs:
        number = _number(value) if isinstance(value, str) else None
        if number is None or len(symbol) > _LONGEST:
            return None
        found.append(_Entry(symbol, number, 1))
    return found


def _number(text: str) -> int | None:
    """An id as a C++ stream reads one: decimal, hexadecimal or octal; negative numbers wrap around."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, digits = match.groups()
    octal = len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX"
    value = int(digits, 8) if octal else int(digits, 0)
    return None if value >= _ID_END else -value % _ID_END if sign == "-" else value


_BYTES = {"N": "\ufdd0", "_": "\ufdd1"}


class _Loader(yaml.BaseLoader):
    """PyYAML with the escapes of yaml-cpp; characters that are none stand for single bytes."""

    ESCAPE_REPLACEMENTS = {**yaml.BaseLoader.ESCAPE_REPLACEMENTS, "'": "'", **_BYTES}  # type: ignore[misc]  # noqa: RUF012


def _parsed(path: Path, text: str) -> list[_Entry]:
    """Entries of any YAML: comments, flow style, several lines, anchors, quotes, explicit keys."""
    stand_ins = _stand_ins(text)
    back = {ord(other): char for char, other in stand_ins.items()}
    back |= {ord(other): _ESCAPES[name] for name, other in _BYTES.items()}
    loader = _Loader(_TABS.sub(": ", _ORDINARY.sub(lambda match: stand_ins[match[0]], text)))
    try:
        node = loader.get_node() if loader.check_node() else None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{path}: no vocabulary of Marian's: no YAML: {where}{problem or error}") from None
    except RecursionError:
        raise DataError(f"{path}: no vocabulary of Marian's: YAML of too many levels") from None
    if not isinstance(node, yaml.MappingNode):
        raise DataError(
            f"{path}: no vocabulary of Marian's: it does not map symbols to ids ('SYMBOL: ID' in every line)"
        )
    faults: list[str] = []
    found = list(_of_nodes(node, back, faults))
    if faults:
        raise DataError.of_faults(f"{path}: no vocabulary of Marian's", first_of(faults))
    return found


def _stand_ins(text: str) -> dict[str, str]:
    """A private-use character that the text does not have, for each that PyYAML treats in its own way."""
    used = set(text)
    free = (char for char in map(chr, range(0x10FFFD, 0xF0000, -1)) if char not in used)
    return dict(zip(sorted({match[0] for match in _ORDINARY.finditer(text)}), free, strict=False))


def _of_nodes(node: Any, back: dict[int, str], faults: list[str]) -> Iterator[_Entry]:
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or (key.style is None and key.value in _NULL):
            faults.append(f"line {line}: a symbol that is no text: put it into quotes")
            continue
        symbol = str(key.value)
        shown = symbol.translate(back)[:40]
        number = _number(value.value.translate(back)) if isinstance(value, yaml.ScalarNode) else None
        if number is None:
            found = f"'{value.value[:20]}'" if isinstance(value, yaml.ScalarNode) else "no number"
            faults.append(f"line {line}: the id of '{shown}' is {found}, not a whole number below 2^32")
        elif any("\ud800" <= char <= "\udfff" for char in symbol):
            faults.append(f"line {line}: half of a surrogate pair, which Marian refuses: write the character itself")
        else:
            yield _Entry(symbol.translate(back), number, line)
