"""Annotations of sentences that users bring: dependency parses (CoNLL-U) and word alignments (Pharaoh)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.text import TextFile, first_of, read_text
from nmtprune.errors import DataError

_COLUMNS = 10
_LINK = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
_ROOT = -1


@dataclass(frozen=True)
class Parse:
    """The dependency tree of a sentence.

    Attributes:
        line: of the file, where the sentence begins, counted from 1.
        forms: what is written, in order: words, or tokens of several words (``don't``).
        first: for each of `forms` the number of its first word, counted from 0.
        heads: for each word the number of its head, -1 for the root.
        relations: for each word its relation to its head.
    """

    line: int
    forms: tuple[str, ...]
    first: tuple[int, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]


@dataclass(frozen=True)
class Parses:
    """The sentences of a file of parses, with its SHA-256."""

    name: str
    sentences: tuple[Parse, ...]
    sha256: str


@dataclass(frozen=True)
class Alignments:
    """The links (source word, target word) of each sentence, counted from 0, with the SHA-256 of the file."""

    name: str
    sentences: tuple[tuple[tuple[int, int], ...], ...]
    sha256: str


def read_parses(path: Path) -> Parses:
    """Read dependency parses in CoNLL-U, plain or gzipped.

    Raises:
        DataError: the file cannot be read, or lines are no CoNLL-U; the first of them by number.
    """
    text = read_text(path)
    faults: list[str] = []
    parses = tuple(_parse(first, lines, faults) for first, lines in _blocks(text))
    if faults:
        raise DataError.of_faults(f"{text.name}: no CoNLL-U", first_of(faults))
    return Parses(text.name, parses, text.sha256)


def read_alignments(path: Path) -> Alignments:
    """Read word alignments in Pharaoh's format, a line per sentence: ``0-0 1-2``, source word first.

    Raises:
        DataError: the file cannot be read, or lines are of another form; the first of them by number.
    """
    text = read_text(path)
    faults: list[str] = []
    sentences = []
    for number, line in enumerate(text.lines, 1):
        matches = [(entry, _LINK.fullmatch(entry)) for entry in line.split()]
        wrong = next((entry for entry, match in matches if match is None), None)
        if wrong is not None:
            faults.append(f"line {number}: '{wrong[:40]}' is not SOURCE-TARGET, such as 0-2")
        sentences.append(tuple((int(match[1]), int(match[2])) for _, match in matches if match))
    if faults:
        raise DataError.of_faults(f"{text.name}: no alignments in Pharaoh's format", first_of(faults))
    return Alignments(text.name, tuple(sentences), text.sha256)


def _blocks(text: TextFile) -> Iterator[tuple[int, list[str]]]:
    """The lines of each sentence, and the number of the first one."""
    lines: list[str] = []
    for number, line in enumerate((*text.lines, ""), 1):
        if line.strip():
            lines.append(line)
        elif lines:
            yield number - len(lines), lines
            lines = []


def _parse(first: int, lines: list[str], faults: list[str]) -> Parse:
    """The tree of the lines of a sentence; what is wrong with them is added to the faults."""
    forms: list[str] = []
    numbers: list[int] = []
    heads: list[tuple[int, int]] = []
    relations: list[str] = []
    covered = 0
    for number, line in enumerate(lines, first):
        if line.startswith("#"):
            continue
        columns = line.split("\t")
        if len(columns) != _COLUMNS:
            faults.append(f"line {number}: {len(columns)} columns between tabs, not {_COLUMNS}")
            continue
        if re.fullmatch(r"[0-9]+\.[0-9]+", columns[0]):
            continue  # an empty node, of which nothing is written
        span = re.fullmatch(r"([0-9]{1,6})-([0-9]{1,6})", columns[0])
        if span:
            if int(span[1]) != len(heads) + 1 or int(span[2]) < int(span[1]):
                faults.append(f"line {number}: the token {columns[0]} is not followed by its words")
            forms.append(columns[1])
            numbers.append(len(heads))
            covered = int(span[2])
            continue
        if columns[0] != str(len(heads) + 1):
            faults.append(f"line {number}: word '{columns[0][:40]}' where word {len(heads) + 1} should stand")
        if not re.fullmatch(r"[0-9]{1,6}", columns[6]) or int(columns[6]) == len(heads) + 1:
            faults.append(f"line {number}: head '{columns[6][:40]}' is no number of another word")
        if len(heads) >= covered:
            forms.append(columns[1])
            numbers.append(len(heads))
        heads.append((int(columns[6]) - 1 if columns[6].isdecimal() else _ROOT, number))
        relations.append(columns[7])
    faults += [
        f"line {number}: head {head + 1} of a sentence of {len(heads)} words"
        for head, number in heads
        if head >= len(heads)
    ]
    return Parse(first, tuple(forms), tuple(numbers), tuple(head for head, _ in heads), tuple(relations))
