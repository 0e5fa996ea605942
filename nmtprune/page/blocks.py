"""What a page is made of; the template knows how each of them looks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    Attributes:
        text: what is shown; markup, if it is any, is kept.
        value: what a column is sorted by; None where that is the text.
        mark: class of the cell in the style sheet: ``good``, ``bad``, ``code``, or nothing.
    """

    text: str
    value: float | None = None
    mark: str = ""


Row = Sequence[TableCell | str]
"""Cells, or what stands in them as text."""


@dataclass(frozen=True)
class Table:
    """A table whose rows a script can sort.

    Attributes:
        caption: what it shows.
        columns: headings.
        rows: each with a cell per column.
        fold: shown only when it is opened.
    """

    block: ClassVar[str] = "table"

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    fold: bool = False

    @cached_property
    def cells(self) -> list[list[TableCell]]:
        """Every row, every entry a cell."""
        return [[cell if isinstance(cell, TableCell) else TableCell(cell) for cell in row] for row in self.rows]

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether all filled cells of a column are numbers."""
        return [
            any(cell.value is not None for cell in column)
            and all(cell.value is not None or not cell.text for cell in column)
            for column in zip(*self.cells, strict=True)
        ] or [False] * len(self.columns)


@dataclass(frozen=True)
class Picture:
    """Drawings side by side.

    Attributes:
        caption: what they show.
        drawings: SVG.
        legend: class of a mark in the style sheet and what it stands for.
    """

    block: ClassVar[str] = "picture"

    caption: str
    drawings: Sequence[Markup]
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Choice:
    """Pictures of which a script shows one at a time.

    Attributes:
        caption: what is chosen.
        options: the name of each picture, and the picture.
        chosen: number of the one that is shown first.
    """

    block: ClassVar[str] = "choice"

    caption: str
    options: Sequence[tuple[str, Picture]]
    chosen: int = 0


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    block: ClassVar[str] = "text"

    text: str


@dataclass(frozen=True)
class Listing:
    """Lines that belong together.

    Attributes:
        items: text of each, and the class of its mark: ``good``, ``bad``, ``note``.
    """

    block: ClassVar[str] = "listing"

    items: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """A command for copying.

    Attributes:
        caption: what it made.
        words: of the command, quoted for a shell; lines break between them.
        facts: names and values below it.
    """

    block: ClassVar[str] = "code"

    caption: str
    words: Sequence[str]
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Changed:
    """A sentence before and after pruning.

    Attributes:
        number: its line, counted from 1.
        source: source sentence; None where it is not known.
        reference: likewise.
        before: words of the translation before, and whether each is missing after.
        after: words after, and whether each is new.
        likeness: chrF of one translation against the other.
        quality: sentence chrF against the reference, before and after; None without one.
    """

    number: int
    source: str | None
    reference: str | None
    before: Sequence[tuple[str, bool]]
    after: Sequence[tuple[str, bool]]
    likeness: float
    quality: tuple[float, float] | None


@dataclass(frozen=True)
class ChangedSentences:
    """ChangedSentences before and after."""

    block: ClassVar[str] = "sentences"

    caption: str
    changed: Sequence[Changed]


Block = Table | Picture | Choice | Text | Listing | Code | ChangedSentences


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; one without blocks is left out."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    @classmethod
    def of(cls, title: str, blocks: Iterable[Block | None]) -> "Section":
        """A section of the blocks that there are."""
        return cls(title, tuple(block for block in blocks if block is not None))


@dataclass(frozen=True)
class Card:
    """One of the four numbers at the top.

    Attributes:
        label: what it is of.
        value: the number.
        detail: interval, p, or the command that measures it.
        mark: ``good``, ``bad`` or nothing.
    """

    label: str
    value: str
    detail: str
    mark: str = ""


@dataclass(frozen=True)
class ModelPart:
    """All that the page says of one model and those that were cut from it.

    Attributes:
        title: the model.
        facts: names and values that say which model it is.
        answer: one sentence.
        cards: the four numbers.
        sections: the rest.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    answer: str
    cards: Sequence[Card]
    sections: Sequence[Section]
