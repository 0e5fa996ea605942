"""The marks that subword segmenters leave on their symbols, by which text that is segmented is known from text."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """What symbols of a kind of segmenter look like.

    Attributes:
        name: in the words of a message.
        pattern: finds a marked symbol in a line.
        method: the ``--post-process`` that joins such symbols; None where there is none.
        sure: words of natural text, programs and mark-up included, do not look like that.
    """

    name: str
    pattern: re.Pattern[str]
    method: str | None
    sure: bool = True


MARKS = (
    Mark("'▁' of SentencePiece", re.compile(r"(?:^|\s)▁\w"), "sentencepiece"),
    Mark("'@@' of BPE", re.compile(r"\w@@(?=\s|\w|$)"), "subword_nmt"),
    Mark("'_EOW'", re.compile(r"(?:^|\s|\w)_EOW(?=\s|$)"), "_EOW"),
    Mark("'##' of BERT's word pieces", re.compile(r"(?:^|\s)##\w"), None),
    Mark("'Ġ' of byte-level BPE", re.compile(r"(?:^|\s)Ġ\w"), None),
    Mark("'￭' of OpenNMT's tokenizer", re.compile("￭"), None),
    Mark("'_' of word pieces", re.compile(r"(?:^|\s)_\w"), "wordpiece", sure=False),
    Mark("'|' between words", re.compile(r"\s\|(?=\s|$)"), "letter", sure=False),
)

# A vocabulary of 32,000 subwords leaves most words whole, so that only some of the lines show a mark.
_SEGMENTED = 0.1
_SEGMENTED_IF_UNSURE = 0.5
_CONTRAST = 4


def share_of_marked(lines: Iterable[str], mark: Mark) -> float:
    """The share of the lines, empty ones aside, that carry a mark."""
    filled = [line for line in lines if line.strip()]
    return sum(mark.pattern.search(line) is not None for line in filled) / max(len(filled), 1)


def mark_of_text(lines: Sequence[str]) -> Mark | None:
    """The mark that the symbols of a text carry; None for text of words."""
    shares = [(share_of_marked(lines, mark), mark) for mark in MARKS if mark.sure]
    share, mark = max(shares, key=lambda found: found[0])
    return mark if share >= _SEGMENTED else None


def subwords_against_words(hypotheses: Sequence[str], references: Sequence[str]) -> str | None:
    """Why a metric of these texts means nothing: one side consists of subwords and the other of words.

    Args:
        hypotheses: translations as they are scored.
        references: as they are scored.

    Returns:
        A sentence for an error, or None where both sides are of a kind.
    """
    if not all(any(line.strip() for line in lines) for lines in (hypotheses, references)):
        return None
    for mark in MARKS:
        ours, theirs = share_of_marked(hypotheses, mark), share_of_marked(references, mark)
        enough = _SEGMENTED if mark.sure else _SEGMENTED_IF_UNSURE
        if max(ours, theirs) < enough or min(ours, theirs) * _CONTRAST > max(ours, theirs):
            continue
        marked = f"{ours:.0%} of the translations carry the mark {mark.name}, and {theirs:.0%} of the references"
        joining = f"join subwords with `post_process` {mark.method}" if mark.method else "no `post_process` joins these"
        remedy = joining if ours > theirs else "give references that consist of words"
        return f"subwords measured against words: {marked}: {remedy}"
    return None
