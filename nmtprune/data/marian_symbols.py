"""Symbols and ids of Marian's YAML, JSON and plain-text vocabularies, as Marian's own parsers read the bytes.

Symbols are bytes there: what is not UTF-8 is held as `os.fsdecode` holds it, as lone surrogates.
"""

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from nmtprune.data.text import first_of
from nmtprune.errors import DataError

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


class Entry(NamedTuple):
    """A symbol with its id, and the line that it stands in."""

    symbol: str
    id: int
    line: int


def is_yaml(path: Path) -> bool:
    """Whether Marian takes a vocabulary of this name for YAML or JSON; others are plain text, a symbol per line."""
    return _YAML_NAME.search(path.name) is not None


def read_entries(path: Path, stored: bytes) -> list[Entry]:
    """All entries in the order of the file; symbols may stand twice in YAML.

    Raises:
        DataError: what Marian refuses, with the line.
    """
    if path.suffix == ".gz":
        try:
            stored = gzip.decompress(stored)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: damaged gzip file: {error}") from error
    return _yaml_entries(path, stored) if is_yaml(path) else _lines(path, stored)


def _lines(path: Path, stored: bytes) -> list[Entry]:
    lines = stored.decode("utf-8", "surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()
    found: dict[str, Entry] = {}
    faults = []
    for number, line in enumerate(lines, 1):
        symbol = line.removesuffix("\r")
        if not symbol:
            faults.append(f"line {number} is empty")
        elif symbol in found:
            faults.append(f"line {number}: '{symbol[:40]}' stands in line {found[symbol].line} too")
        else:
            found[symbol] = Entry(symbol, number - 1, number)
    if faults:
        raise DataError.of_faults(f"{path}: no plain-text vocabulary of Marian's", first_of(faults))
    return list(found.values())


def _yaml_entries(path: Path, stored: bytes) -> list[Entry]:
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


def _regular(text: str) -> list[Entry] | None:
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
        found.append(Entry(symbol, int(match["id"]), number))
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


def _json(text: str) -> list[Entry] | None:
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
        found.append(Entry(symbol, number, 1))
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


def _parsed(path: Path, text: str) -> list[Entry]:
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


def _of_nodes(node: Any, back: dict[int, str], faults: list[str]) -> Iterator[Entry]:
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
            yield Entry(symbol.translate(back), number, line)
