"""Whether a baseline means anything: a metric that nothing can fall below, or translations that are none.

A comparison with such a baseline passes whatever is compared with it, since there is nothing left to lose.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nmtprune.data.marks import subwords_against_words
from nmtprune.evaluate.label_metrics import without_reading
from nmtprune.evaluate.metrics import Bleu, Chrf, Scored

FLOORS = {Bleu.name: 1.0, Chrf.name: 5.0}
"""Points of a metric below which it says that the translations have nothing to do with the references."""

_ROUNDING = 1e-9
"""How far a value must be from chance."""

MOST, SUSPICIOUS = 0.5, 0.1
"""Shares of translations that are none from which on they are a fault, and a remark."""

_RIGHT_CHARACTERS = 20.0
"""chrF from which on the right characters are there, so that a BLEU near 0 is a matter of how words are cut."""


@dataclass(frozen=True)
class Translations:
    """What a model made of its sentences, in their order.

    Attributes:
        texts: translations; empty for none.
        sources: source sentences, as text too.
        references: streams of references; empty where there are none.
        cut: which translations reached the limit of length.
    """

    texts: Sequence[str]
    sources: Sequence[str]
    references: Sequence[Sequence[str]]
    cut: Sequence[bool]


@dataclass(frozen=True)
class Findings:
    """What is wrong with a baseline.

    Attributes:
        faults: reasons not to compare anything with it.
        remarks: what looks suspicious.
    """

    faults: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def __add__(self, other: "Findings") -> "Findings":
        """Both."""
        return Findings(self.faults + other.faults, self.remarks + other.remarks)


def of_loss(baseline: Scored, words: int) -> Findings:
    """Look at a loss: a model that has learned anything does better than choosing among all words of its vocabulary."""
    value, chance = baseline.metric.sign * baseline.score, math.log(max(words, 2))
    if math.isfinite(value) and value < chance:
        return Findings()
    worse = f"is not below {chance:.2f}, that of choosing among {words} words at random"
    fault = f"a loss of {value:.2f} {worse if math.isfinite(value) else 'is no number'}"
    causes = (
        "the subword model or vocabulary, the direction (`source_lang`, `target_lang`) or the reference file is "
        "probably another one's"
    )
    return Findings((f"{fault}: {causes}",))


def of_labels(baseline: Scored, labels: NDArray[np.int64], names: Sequence[str]) -> Findings:
    """Look at a metric of labels: a model that has learned anything does better than any label that is always said.

    Args:
        baseline: the model.
        labels: [N] of the data.
        names: of the labels, by number.
    """
    metric, there = baseline.metric, np.unique(labels)
    if len(there) == 1:
        only = names[int(there[0])]
        return Findings((f"all {len(labels)} texts have the label {only}, so {metric.name} says nothing",))
    value, (chance, label) = metric.sign * baseline.score, without_reading(labels, len(names), metric.name)
    if math.isfinite(value) and baseline.score > metric.sign * chance + _ROUNDING:
        return Findings()
    said = f"{metric.name} {value:.2f} is not {'above' if metric.sign > 0 else 'below'} {chance:.2f}"
    known = f"always saying {names[label]}" if metric.sign > 0 else "knowing only how frequent each label is"
    causes = "the columns of texts, their order, or the names of the labels are probably those of another task"
    return Findings((f"{said}, that of {known}: {causes}",))


def of_score(baseline: Scored, output: Translations) -> Findings:
    """Look at BLEU or chrF, and name the probable cause where it is below its floor."""
    name, value = baseline.metric.name, baseline.score
    if value >= FLOORS[name]:
        return Findings()
    return Findings((f"{name} {value:.2f} is below {FLOORS[name]:g}: {_cause(name, output)}",))


def of_kind(output: Translations) -> Findings:
    """Look whether translations and references are text of one kind: words, or subwords."""
    reason = subwords_against_words(output.texts, [line for stream in output.references for line in stream])
    return Findings() if reason is None else Findings((reason,))


def of_translations(output: Translations) -> Findings:
    """Count translations that are empty, that repeat the source, and that reached the limit of length.

    A copy counts where no reference equals the source, and an empty line where neither the source nor every reference
    is empty: to correct or to paraphrase text is a translation too.
    """
    kinds: dict[str, int] = {}
    for place, text in enumerate(output.texts):
        kind = _kind(output, place, text)
        if kind is not None:
            kinds[kind] = kinds.get(kind, 0) + 1
    total, bad = len(output.texts), sum(kinds.values())
    if bad <= SUSPICIOUS * total:
        return Findings()
    listed = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    said = f"of {total} translations {listed}"
    return Findings((f"{said}",)) if bad > MOST * total else Findings(remarks=(said,))


def _kind(output: Translations, place: int, text: str) -> str | None:
    references = [stream[place] for stream in output.references]
    source = output.sources[place]
    if not text.strip():
        meant = not source.strip() or (references and not any(map(str.strip, references)))
        return None if meant else "are empty"
    if output.cut[place]:
        return "end at the limit of length"
    own = _bare(source)
    if references and _bare(text) == own and all(_bare(reference) != own for reference in references):
        return "repeat the source"
    return None


def _cause(name: str, output: Translations) -> str:
    repeats = sum(_bare(source) == _bare(own) for source, own in zip(output.sources, output.references[0], strict=True))
    if repeats > MOST * len(output.sources):
        return "the references are the source sentences"
    if name == Bleu.name and Chrf(output.references).scored(output.texts).score >= _RIGHT_CHARACTERS:
        return (
            "the characters are right, so words are probably cut in the wrong places: the tokenizer (`bleu_tokenize`, "
            "or `target_lang`), or the segmentation (`post_process`, `tokenizer`)"
        )
    return (
        "the direction (`source_lang`, `target_lang`), the subword model or segmentation (`post_process`), or the "
        "reference file is probably wrong"
    )


def _bare(text: str) -> str:
    """Text without blanks and case, which two ways of cutting words may treat differently."""
    return "".join(text.split()).casefold()
