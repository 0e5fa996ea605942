"""The translations that pruning changed most, and how many of them are no translations."""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.text import TextFile, read_text
from nmtprune.errors import DataError, UsageError
from nmtprune.page import numbers
from nmtprune.page.blocks import Block, Changed, ChangedSentences, Row, Section, Table, Text
from nmtprune.page.inputs import Source

MOST = 10
_REPEATS = 4
"""A word or a short phrase that stands so often in a row is a loop."""

_LONGEST_PHRASE = 4


@dataclass(frozen=True)
class BeforeAndAfter:
    """Translations of the same sentences, line by line.

    Attributes:
        before: of the full model.
        after: of the pruned model.
        source: what was translated; None where it is not known.
        reference: likewise.
    """

    before: TextFile
    after: TextFile
    source: TextFile | None
    reference: TextFile | None

    @classmethod
    def read(
        cls, translations: tuple[Path, Path] | None, source: Path | None, reference: Path | None
    ) -> "BeforeAndAfter | None":
        """Read the files; None where there are no translations.

        Raises:
            UsageError: sources or references without translations.
            DataError: a file cannot be read, or has another number of lines.
        """
        if translations is None:
            if source is not None or reference is not None:
                raise UsageError("--source and --reference go with --translations BEFORE AFTER")
            return None
        before, after = map(read_text, translations)
        others = [None if path is None else read_text(path) for path in (source, reference)]
        for other in (after, *others):
            if other is not None and len(other.lines) != len(before.lines):
                raise DataError(
                    f"{other.name}: has {len(other.lines)} lines, {before.name} has {len(before.lines)}: "
                    "all must be of the same sentences"
                )
        if not before.lines:
            raise DataError(f"{before.name}: is empty")
        return cls(before, after, *others)

    @property
    def files(self) -> list[TextFile]:
        """Every file that was read."""
        return [text for text in (self.source, self.reference, self.before, self.after) if text is not None]

    @property
    def sources(self) -> list[Source]:
        """The files as the list of files shows them."""
        names = {"source": "source sentences", "reference": "references",
                 "before": "translations before", "after": "translations after"}  # fmt: skip
        return [
            Source(text.name, what, text.sha256)
            for name, what in names.items()
            if (text := getattr(self, name)) is not None
        ]


def changed_translations(texts: BeforeAndAfter) -> Section:
    """The most changed translations, and a table of what went wrong before and after."""
    return Section.of("Translations that changed most", _blocks(texts))


def _blocks(texts: BeforeAndAfter) -> Iterator[Block]:
    found = most_changed(texts)
    total = len(texts.before.lines)
    same = sum(before == after for before, after in zip(texts.before.lines, texts.after.lines, strict=True))
    yield Text(
        f"{numbers.count(same)} of {numbers.count(total)} translations ({numbers.percent(same / total)}) are the same "
        "before and after."
    )
    if found:
        by = "by chrF of one translation against the other"
        yield ChangedSentences(f"The {len(found)} translations that changed most, {by}", found)
    yield _degeneration(texts)


def most_changed(texts: BeforeAndAfter) -> list[Changed]:
    """At most `MOST` sentences whose two translations are least alike, ties in the order of the text."""
    chrf = _chrf()
    likeness = {
        place: chrf(after, before)
        for place, (before, after) in enumerate(zip(texts.before.lines, texts.after.lines, strict=True))
        if before != after
    }
    places = sorted(likeness, key=lambda place: (likeness[place], place))[:MOST]
    return [_changed(texts, place, likeness[place]) for place in places]


def _changed(texts: BeforeAndAfter, place: int, likeness: float) -> Changed:
    before, after = texts.before.lines[place], texts.after.lines[place]
    source, reference = (None if text is None else text.lines[place] for text in (texts.source, texts.reference))
    old, new = marked(before, after)
    chrf = _chrf()
    quality = None if reference is None else (chrf(before, reference), chrf(after, reference))
    return Changed(place + 1, source, reference, old, new, likeness, quality)


def marked(before: str, after: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Runs of words of two sentences, and whether the other sentence lacks them there."""
    old, new = before.split(), after.split()
    found: tuple[list[tuple[str, bool]], list[tuple[str, bool]]] = ([], [])
    for kind, i, j, k, m in difflib.SequenceMatcher(a=old, b=new, autojunk=False).get_opcodes():
        for runs, words in zip(found, (old[i:j], new[k:m]), strict=True):
            if words:
                runs.append((" ".join(words), kind != "equal"))
    return found


def is_loop(text: str) -> bool:
    """Whether a word, or a phrase of up to four words, stands four times or more in a row."""
    words = text.split()
    for length in range(1, _LONGEST_PHRASE + 1):
        run = 0
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= length * (_REPEATS - 1):
                return True
    return False


def _degeneration(texts: BeforeAndAfter) -> Table:
    rows: list[Row] = []
    both = (texts.before.lines, texts.after.lines)
    rows.append(["empty", *(numbers.cell(sum(not line.strip() for line in lines)) for lines in both)])
    rows.append(
        [f"a phrase {_REPEATS} times or more in a row", *(numbers.cell(sum(map(is_loop, lines))) for lines in both)]
    )
    if texts.source is not None:
        copies = [sum(line == own for line, own in zip(lines, texts.source.lines, strict=True)) for lines in both]
        rows.append(["repeat the source", *map(numbers.cell, copies)])
    words = [sum(len(line.split()) for line in lines) for lines in both]
    rows.append(["words in all", *map(numbers.cell, words)])
    return Table("Degenerate translations", ("what", "before", "after"), rows)


def _chrf() -> Callable[[str, str], float]:
    """Sentence chrF of a translation against a reference."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()

    def score(hypothesis: str, reference: str) -> float:
        return float(metric.sentence_score(hypothesis, [reference]).score)

    return score
