"""Directions: several sets of sentences of one model, which a file lists, each with its texts, prefixes and languages.

The file is YAML (or JSON, which is YAML): a list of directions, or an object with that list under ``directions``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN
from nmtprune.errors import DataError, NmtpruneError

MEAN, WORST = "mean", "worst"
ACROSS = (MEAN, WORST)
"""Figures of several directions together."""

_NAME = re.compile(r"[^\W_][\w.+-]{0,59}", re.ASCII)
_PAIR = re.compile(r"([^\W_]\w*)-([^\W_]\w*)", re.ASCII)
_PATHS = ("data-bin", "source", "importance-source", "importance-reference", "calibration-source",
          "calibration-reference")  # fmt: skip
_LISTS = ("reference", "vocabs")
_OWN = (
    "data-bin", "subset", "source", "reference", "vocabs", "source-lang", "target-lang", "source-prefix",
    "target-prefix",
)  # fmt: skip
_IMPORTANCE = ("importance-subset", "importance-source", "importance-reference")
_CALIBRATION = ("calibration-source", "calibration-reference")
KEYS = ("name", *_OWN, *_IMPORTANCE, *_CALIBRATION)
"""What a direction may say; everything else is shared and stands on the command line."""

_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class DirectionEntry:
    """What a file says of one direction.

    Attributes:
        name: of the direction.
        data: values of `DataOptions` by their names.
        importance: ``subset``, ``source`` and ``reference`` of the sentences that importance is measured on.
        calibration: ``source`` and ``reference`` of the text to refit on.
    """

    name: str
    data: Mapping[str, Any]
    importance: Mapping[str, Any]
    calibration: Mapping[str, Any]

    @property
    def given(self) -> tuple[str, ...]:
        """Parameters of the command line that it takes the place of."""
        others = (("importance", self.importance), ("calibration", self.calibration))
        return (*self.data, *(f"{prefix}_{name}" for prefix, own in others for name in own))


@dataclass(frozen=True)
class Direction:
    """One direction.

    Attributes:
        name: unique among those of a run.
        data: its sentences.
        entry: what the file says of it.
    """

    name: str
    data: DataOptions
    entry: DirectionEntry = field(compare=False)


@dataclass(frozen=True)
class Directions:
    """DATA of several directions.

    Attributes:
        file: that lists them.
        each: at least one, in the order of the file.
    """

    file: Path
    each: tuple[Direction, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the directions."""
        return tuple(own.name for own in self.each)

    @property
    def sets(self) -> dict[str, DataOptions]:
        """Sentences by the name of their direction."""
        return {own.name: own.data for own in self.each}

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read, and the file of the directions."""
        return (self.file, *(path for own in self.each for path in own.data.files))

    def with_data(self, other: Callable[[Direction], DataOptions]) -> "Directions":
        """The same directions with other sentences.

        Raises:
            NmtpruneError: what `other` raises, with the name of the direction.
        """
        found = []
        for own in self.each:
            with in_direction(own.name):
                found.append(replace(own, data=other(own)))
        return replace(self, each=tuple(found))


Sets = DataOptions | Directions
"""DATA: one set of sentences, or one for each of several directions."""


@contextmanager
def in_direction(name: str) -> Iterator[None]:
    """A block whose errors are about one direction: their messages begin with its name."""
    try:
        yield
    except NmtpruneError as error:
        raise type(error)(f"direction {name}: {error}", error.faults) from error


def read_directions(path: Path) -> tuple[DirectionEntry, ...]:
    """The directions that a file lists.

    A direction is an object with KEYS, of which only ``name`` is required, or a name alone. A name of two languages
    (``en-de``) also names the languages, where the direction names none. Paths are relative to the folder of the file.

    Raises:
        DataError: the file cannot be read, is no such list, or has directions with faults: all of them.
    """
    faults: list[str] = []
    listed = _listed(path)
    found = [_entry(value, f"direction {number}", path.parent, faults) for number, value in enumerate(listed, start=1)]
    names = [own.name for own in found]
    twice = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    faults += [f"direction {name} is listed {names.count(name)} times" for name in twice]
    if faults:
        raise DataError.of_faults(str(path), faults)
    return tuple(found)


def _listed(path: Path) -> Sequence[Any]:
    """The items of the list in a file; all scalars are text, so that the language ``no`` is none of YAML's booleans."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
        node = yaml.compose(text, Loader=yaml.BaseLoader)
        twice = [] if node is None else list(dict.fromkeys(_repeated(node)))
        value = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506, it makes nothing but text, lists and dicts
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as YAML: {_reason(error)}") from error
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path}: larger than {_MOST_BYTES} bytes: it should be a list of directions")
    if twice:
        raise DataError(f"{path}: given twice: {', '.join(twice)}")
    if isinstance(value, dict) and [*value] == ["directions"]:
        value = value["directions"]
    if not isinstance(value, list) or not value:
        raise DataError(f"{path}: no list of directions, such as [en-de, en-fr] or a list of objects with a name each")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "unreadable"
    return " ".join(str(error).split())


def _repeated(node: yaml.Node, depth: int = 0) -> Iterator[str]:
    """Keys that an object has twice, anywhere."""
    if depth > 3:
        return
    if isinstance(node, yaml.MappingNode):
        keys = [str(key.value) for key, _ in node.value]
        yield from (key for key in keys if keys.count(key) > 1)
        for _, value in node.value:
            yield from _repeated(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _repeated(value, depth + 1)


def _entry(value: Any, place: str, folder: Path, faults: list[str]) -> DirectionEntry:
    """One direction; adds what is wrong with it to `faults`."""
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        faults.append(f"{place} is neither a name nor an object with keys: {', '.join(KEYS)}")
        return DirectionEntry("", {}, {}, {})
    name = given.get("name")
    if not isinstance(name, str) or not name:
        faults.append(f"{place} has no name")
    elif name in ACROSS or not _NAME.fullmatch(name):
        reserved = ", and neither mean nor worst" if name in ACROSS else ""
        faults.append(
            f"{place}: the name '{name}' is not made of letters, digits and . _ + -, a letter or digit first{reserved}"
        )
    where = f"direction {name}" if isinstance(name, str) and name else place
    unknown = [str(key) for key in given if key not in KEYS]
    if unknown:
        faults.append(f"{where}: unknown {', '.join(unknown)} (known: {', '.join(KEYS)})")
    values = {key: _value(key, given[key], folder, where, faults) for key in KEYS[1:] if key in given}
    pair = _PAIR.fullmatch(name) if isinstance(name, str) else None
    if pair and not {"source-lang", "target-lang"} & {*given}:
        values |= {"source-lang": pair[1], "target-lang": pair[2]}

    def of(keys: Sequence[str], prefix: str = "") -> dict[str, Any]:
        return {key.removeprefix(prefix).replace("-", "_"): values[key] for key in keys if key in values}

    return DirectionEntry(
        name if isinstance(name, str) else "",
        of(_OWN),
        of(_IMPORTANCE, "importance-"),
        of(_CALIBRATION, "calibration-"),
    )


def _value(key: str, value: Any, folder: Path, where: str, faults: list[str]) -> Any:
    """A value as `DataOptions` has it."""
    texts = value if isinstance(value, list) and key in _LISTS else [value]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        faults.append(f"{where}: {key} is {'no text or list of texts' if key in _LISTS else 'no text'}")
        return None
    if key == "vocabs" and len(texts) != 2:
        faults.append(f"{where}: vocabs names two files, of the source and the target")
        return None
    if key not in (*_PATHS, *_LISTS):
        return value
    if STDIN in map(Path, texts):
        faults.append(f"{where}: {key} cannot be standard input: name a file")
    paths = tuple(folder / text for text in texts)
    return paths if key in _LISTS else paths[0]
