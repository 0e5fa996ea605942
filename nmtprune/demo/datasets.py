"""The files of a parallel corpus in a folder: ``train|val|test*.LANGUAGE[.gz]``, one sentence a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.text import TextFile, read_text
from nmtprune.errors import DataError, UsageError

GENERATED = ("src", "tgt")
"""Suffixes that name a direction, not languages."""

_TRAIN, _VALIDATION, _TEST = "train", "val", "test"


@dataclass(frozen=True)
class ParallelSet:
    """Two files whose lines translate each other.

    Attributes:
        name: ``train``, ``val``, ``test``, ``test_2016_flickr``, ...
        source: path of the source side.
        target: path of the target side.
    """

    name: str
    source: Path
    target: Path


@dataclass(frozen=True)
class ParallelCorpus:
    """A parallel corpus: languages, training set, validation set and at least one test set in the order of names."""

    languages: tuple[str, str]
    train: ParallelSet
    val: ParallelSet
    tests: tuple[ParallelSet, ...]

    @property
    def sets(self) -> tuple[ParallelSet, ...]:
        """All sets: train, val, tests."""
        return (self.train, self.val, *self.tests)


def find_corpus(folder: Path, languages: tuple[str, str] | None = None) -> ParallelCorpus:
    """Find the files of a corpus; their content is not read.

    Args:
        folder: where they lie; other files in it do not matter.
        languages: source and target suffix; None to detect them: ``src`` and ``tgt``, else the two suffixes that the
            training files have, in the order of the alphabet.

    Raises:
        DataError: the folder is no folder, or files are missing or there twice; all of them are named.
        UsageError: there are more than two languages and `languages` does not say which.
    """
    files = _files(folder)
    source, target = languages or _detected(folder, files)
    tests = sorted({name for name, _ in files if name.startswith(_TEST)}) or [_TEST]
    names = [_TRAIN, _VALIDATION, *tests]
    faults = []
    for name in names:
        for language in (source, target):
            found = files.get((name, language), [])
            if not found:
                faults.append(f"{name}.{language} is missing")
            elif len(found) > 1:
                faults.append(f"{' and '.join(path.name for path in found)} are both there: keep one of them")
    if faults:
        raise DataError.of_faults(f"{folder}: no parallel corpus train|val|test*.{{{source},{target}}}[.gz]", faults)
    sets = [ParallelSet(name, files[name, source][0], files[name, target][0]) for name in names]
    return ParallelCorpus((source, target), sets[0], sets[1], tuple(sets[2:]))


def read_pairs(parallel: ParallelSet) -> tuple[TextFile, TextFile]:
    """Both sides of a set.

    Raises:
        DataError: a file cannot be read, is empty, or the sides differ in length.
    """
    source, target = read_text(parallel.source), read_text(parallel.target)
    empty = [side.name for side in (source, target) if not any(line.strip() for line in side.lines)]
    if empty:
        raise DataError(f"{' and '.join(empty)}: no sentences in it")
    if len(source.lines) != len(target.lines):
        raise DataError(
            f"{source.name} has {len(source.lines):,} lines, {target.name} has {len(target.lines):,}: "
            "line by line they must translate each other"
        )
    return source, target


def parse_languages(text: str) -> tuple[str, str]:
    """Read ``SOURCE-TARGET``.

    Raises:
        UsageError: the text is not of that form.
    """
    source, separator, target = text.partition("-")
    if not separator or not source or not target or "-" in target or source == target:
        raise UsageError(f"languages '{text}': write SOURCE-TARGET as the files are named, for example en-de")
    return source, target


def _files(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """Files of the corpus by set and language; more than one where a compressed file lies beside the plain one."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read as a folder: {error.strerror}") from None
    files: dict[tuple[str, str], list[Path]] = {}
    for path in entries:
        name, _, language = path.name.removesuffix(".gz").rpartition(".")
        if (name in (_TRAIN, _VALIDATION) or name.startswith(_TEST)) and language and path.is_file():
            files.setdefault((name, language), []).append(path)
    return files


def _detected(folder: Path, files: dict[tuple[str, str], list[Path]]) -> tuple[str, str]:
    found: Sequence[str] = sorted({language for name, language in files if name == _TRAIN})
    if set(GENERATED) <= set(found):
        return GENERATED
    if len(found) > 2:
        example = "en-de" if {"en", "de"} <= set(found) else "-".join(found[:2])
        raise UsageError(f"{folder}: training files in {', '.join(found)}: say which two, --languages {example}")
    if len(found) < 2:
        there = f"only train.{found[0]}" if found else "no training files"
        raise DataError(f"{folder}: no parallel corpus train|val|test*.{{src,tgt}}[.gz]: {there}")
    return found[0], found[1]
