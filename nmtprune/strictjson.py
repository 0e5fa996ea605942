"""JSON as nmtprune reads and holds it: duplicate keys and non-finite numbers are faults, values are immutable."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from nmtprune.errors import NmtpruneError
from nmtprune.files.kinds import HEAD, text_of_another_kind

MAX_BYTES = 64 * 1024 * 1024
"""Size beyond which a file is no plan or score file; refusing it early keeps a wrong argument from filling memory."""

MAX_DEPTH = 100
"""Levels of nesting beyond which JSON is refused: recursive code further on would run out of stack."""

_OUTER_LEVELS = 5
"""Levels that a file has around a free JSON value; together they must not go beyond `MAX_DEPTH`."""


class FrozenDict(dict[str, Any]):
    """A dict that cannot be changed and can be hashed; equal to a plain dict of the same items."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("this mapping is frozen")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        """Hash of the items, whatever their order."""
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        """Copy and pickle through the constructor, since items cannot be set."""
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """The same JSON value with every object a `FrozenDict` and every array a tuple."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(freeze(item) for item in value)
    return value


def loads(text: str, where: str, error: type[NmtpruneError]) -> Any:
    """Parse JSON strictly.

    Args:
        text: the JSON text.
        where: file or place that a message names.
        error: class of the error that is raised.

    Raises:
        NmtpruneError: of class `error`: broken JSON (with line and column), duplicate keys (all of them), NaN or
            infinite numbers, integers of thousands of digits, or deeper nesting than `MAX_DEPTH`.
    """
    notes = _Notes()
    try:
        value = json.loads(text, object_pairs_hook=notes.unique, parse_float=notes.finite, parse_constant=notes.finite)
    except json.JSONDecodeError as broken:
        instead = text_of_another_kind(text[:HEAD].encode())
        if instead:
            raise error(f"{where}: {instead}") from None
        raise error(f"{where}: broken JSON at line {broken.lineno} column {broken.colno}: {broken.msg}") from None
    except RecursionError:
        raise error(f"{where}: nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:
        raise error(f"{where}: holds a number of too many digits") from None
    if _deeper_than(value, MAX_DEPTH):
        notes.faults.append(f"nested deeper than {MAX_DEPTH} levels")
    if notes.faults:
        raise error.of_faults(where, notes.faults)
    return value


class _Notes:
    """What the JSON parser calls back, and the faults that come to light there."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def unique(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The object of these pairs; a repeated key is a fault."""
        times = Counter(key for key, _ in pairs)
        self.faults += [f"key '{show_key(key)}' stands {count} times" for key, count in times.items() if count > 1]
        return dict(pairs)

    def finite(self, number: str) -> float:
        """The number; NaN and infinities, also from overflow, are faults."""
        value = float(number)
        if not math.isfinite(value):
            self.faults.append(f"{number} is no finite number")
        return value


def read(path: Path | str, error: type[NmtpruneError]) -> str:
    """Text of a small file, UTF-8 with or without a byte order mark.

    Raises:
        NmtpruneError: of class `error`: the file cannot be read, is larger than `MAX_BYTES` or not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as failure:
        reason = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure)
        raise error(f"{path}: cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise error(f"{path}: larger than {MAX_BYTES // 1024**2} MiB, so not a file of this kind")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as broken:
        raise error(f"{path}: not UTF-8 text (byte {broken.start})") from None


def value_faults(value: Any, where: str) -> list[str]:
    """What keeps a value from being plain JSON: other types, keys that are not strings, NaN and infinities."""
    faults: list[str] = []
    pending: list[tuple[Any, str, int]] = [(value, where, 0)]
    while pending:
        item, name, depth = pending.pop()
        if depth > MAX_DEPTH - _OUTER_LEVELS:
            faults.append(f"{where} is nested deeper than {MAX_DEPTH - _OUTER_LEVELS} levels")
            break
        if isinstance(item, Mapping):
            faults += [f"{name} has a key {show(key)} that is no string" for key in item if not isinstance(key, str)]
            pending += [(inner, f"{name}.{key}", depth + 1) for key, inner in item.items()]
        elif isinstance(item, (list, tuple)):
            pending += [(inner, f"{name}[{position}]", depth + 1) for position, inner in enumerate(item)]
        elif isinstance(item, float) and not math.isfinite(item):
            faults.append(f"{name} is {item}, which is no finite number")
        elif not isinstance(item, (str, int, float, type(None))):
            faults.append(f"{name} is of type {type(item).__name__}, which JSON does not have")
    return sorted(faults)


def key_faults(
    data: Mapping[Any, Any], required: Iterable[str], optional: Iterable[str] = (), prefix: str = ""
) -> list[str]:
    """Keys that are missing from or unknown to an object; `prefix` (``base.``) goes before each name."""
    wanted, known = list(required), {*required, *optional}
    faults = [f"key '{prefix}{key}' is missing" for key in wanted if key not in data]
    return faults + [f"unknown key '{prefix}{show_key(key)}'" for key in data if key not in known]


def is_int(value: object) -> bool:
    """Whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def show(value: object) -> str:
    """A value as JSON for a message, cut to a length that keeps the message on one readable line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def show_key(key: object) -> str:
    """A key for a message: without quotation marks, line breaks escaped, cut like `show`."""
    shown = show(key)
    return shown[1:-1] if isinstance(key, str) and shown.endswith('"') else shown


def _deeper_than(value: Any, levels: int) -> bool:
    containers = [value] if isinstance(value, (dict, list)) else []
    for _ in range(levels):
        containers = [
            inner
            for item in containers
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not containers:
            return False
    return True
