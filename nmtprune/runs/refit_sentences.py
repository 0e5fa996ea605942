"""The sentences of a refit: which are drawn to fit on and which are held out, and what their target side is."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nmtprune.data.directions import Directions, Sets
from nmtprune.data.examples import Examples
from nmtprune.data.mixture import Mixture, parts_of
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import DataError, UsageError
from nmtprune.methods.measuring import batches, on_translations
from nmtprune.methods.texts import LabelledTexts, Texts
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.run import Computing, Session

if TYPE_CHECKING:
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Model
    from nmtprune.progress import Progress
    from nmtprune.runs.refit import RefitRun

REFERENCES, TRANSLATIONS, TEXT = "references", "translations", "text"
"""Target sides of the calibration text; models that read text alone, language models and classifiers, have none."""

_TABLES = r"decoder\.embedding\.(bands\.\d+\.)?tokens\.weight"
"""Native names of the tables that hold a row for each symbol of a language model."""

_LEAST_SHARE = 4
"""Where sentences are too few for both, one of this many is held out."""

_ONLY = ""
"""Stands for the only direction."""


def calibration_texts(
    corpus: "Corpus | Examples", model: "Model", limits: "BatchLimits | None" = None
) -> tuple[Texts, ...]:
    """The sentences of a corpus with their target side, or texts, batch by batch, where the model is.

    Raises:
        UsageError: a sentence has more tokens than a batch may have.
    """
    return tuple(Texts.of(batch, model) for batch in batches(corpus, limits))


def with_labels(texts: Sequence[Texts], base: "Model") -> list[Texts]:
    """Texts of a classifier, those without labels with the labels that the base gives them; others as they are."""
    return [each.labelled_by(base) if isinstance(each, LabelledTexts) else each for each in texts]


def only_text(base: "Checkpoint") -> bool:
    """Whether a model is fitted on texts without another side: language models and classifiers."""
    return base.classifies or base.network().encoder is None


def counted(data: "Corpus | Examples") -> dict[str, int]:
    """The tokens that losses are means over; none of a classifier, whose losses are means over texts."""
    return {} if isinstance(data, Examples) else {"tokens": int(data.counted.sum())}


def _sides_of(data: "Corpus | Examples") -> "list[Sentences]":
    """The token ids of a calibration text: both sides of a corpus."""
    if isinstance(data, Examples):
        return [data.tokens]
    if data.target is None:
        raise ValueError("a calibration text without target side")
    return [data.source, data.target]


def calibration_record(corpus: "Corpus | Examples", run_facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a lineage says of a calibration text: the SHA-256 of its token ids, sentences, and how it was chosen."""
    digest = hashlib.sha256()
    for side in _sides_of(corpus):
        for sentence in side:
            digest.update(np.asarray(sentence, dtype="<i8").tobytes() + b"|")
    directions = {"directions": [*corpus.parts]} if isinstance(corpus, Mixture) else {}
    return {"sha256": digest.hexdigest(), "sentences": len(corpus), **directions, **run_facts}


def has_targets(data: Sets) -> bool:
    """Whether sentences come with a target side: subsets do, raw text with references.

    Raises:
        UsageError: some of several directions do, and others do not.
    """
    if isinstance(data, DataOptions):
        return data.source is None or bool(data.reference)
    there = {name: has_targets(own) for name, own in data.sets.items()}
    without = [name for name, own in there.items() if not own]
    if without and len(without) < len(there):
        raise UsageError(
            f"{data.file}: no reference for {', '.join(without)}: models are refitted on the references of all "
            "directions, or on the translations of all"
        )
    return not without


def with_translations(corpus: "Corpus", base: "Checkpoint", run: Computing, limits: "BatchLimits") -> "Corpus":
    """A corpus with a checkpoint's own translations, by a run's engine and search, as its target side.

    Raises:
        EngineError: the engine cannot run the checkpoint.
    """
    from nmtprune.engines import open_engine

    engine = open_engine(run.engine, base, run.in_batches(limits))

    def translated(own: "Corpus") -> "Corpus":
        return on_translations(own, [hypotheses[0].tokens for hypotheses in engine.translate(own, {})])

    if isinstance(corpus, Mixture):
        return Mixture.of({name: translated(own) for name, own in corpus.split().items()})
    return translated(corpus)


def sentences_of(run: "RefitRun", data: Sets, base: "Checkpoint", session: Session) -> "Corpus | Examples":
    """Sentences of a translation model, lines of a language model, or texts of a classifier."""
    if base.classifies:
        _check_text_alone(run, "a classifier")
        return session.corpora.labelled(data, base.classifier_profile(), labels=False)
    return _lines(run, data, base) if base.network().encoder is None else _bitext(run, data, base, session)


def _bitext(run: "RefitRun", data: Sets, base: "Checkpoint", session: Session) -> "Corpus":
    """Sentences of a translation model.

    Raises:
        UsageError: references are needed, and nobody named them.
    """
    targets = run.target_side(data) == REFERENCES
    if targets and not has_targets(data):
        prefix = "calibration-" if data is run.calibration_data else ""
        raise UsageError(
            f"--calibration-on {REFERENCES}: --{prefix}source needs --{prefix}reference FILE; --calibration-on "
            f"{TRANSLATIONS} takes the base's own translations"
        )
    if isinstance(data, Directions):
        each = session.corpora.read_each(data, base.profile(), references=False, targets=targets)
        return Mixture.of({name: _with_remarks(own) for name, own in each.items()})
    return _with_remarks(session.corpora.read(data, base.profile(), references=False, targets=targets))


def _with_remarks(corpus: "Corpus") -> "Corpus":
    return replace(corpus, notes=(*corpus.notes, *check_direction(corpus)))


def _lines(run: "RefitRun", data: Sets, base: "Checkpoint") -> "Corpus":
    """Lines of a language model.

    Raises:
        UsageError: it is to be fitted on something else than text.
    """
    from nmtprune.data.monolingual import load_lines

    _check_text_alone(run, "a language model")
    if isinstance(data, Directions):
        raise UsageError(f"--directions: {run.base} is a language model, which has none")
    symbols = sum(len(table) for name, table in base.native_tensors().items() if re.fullmatch(_TABLES, name))
    return load_lines(data, symbols, base.network().decoder.max_positions)


def _check_text_alone(run: "RefitRun", model: str) -> None:
    """Refuse a target side for a model that has none.

    Raises:
        UsageError: one is named.
    """
    if run.calibration_on is not None:
        raise UsageError(f"--calibration-on {run.calibration_on}: {run.base} is {model}: it is fitted on text")


def drawn_apart(
    run: "RefitRun", text: "Corpus | Examples", data: "Corpus | Examples", progress: "Progress"
) -> "tuple[Corpus | Examples, Corpus | Examples]":
    """Sentences of a text to fit on, and others of DATA to hold out, in the order of each; of directions equal parts.

    What is held out is not fitted on, wherever the same sentence stands again.

    Raises:
        DataError: too few sentences.
    """
    own, several = text is data, isinstance(data, Mixture)
    pairs = _pairs(text, data)
    wanted = _Wanted.of(run, pairs, own)
    held = {name: wanted.held(len(part), run.seed) for name, (_, part) in pairs.items()}
    known = {content for name, (_, part) in pairs.items() for content in contents_of(part.select(held[name]))}
    fitted = {name: wanted.fitted(part, known, run.seed) for name, (part, _) in pairs.items()}
    # What does not divide by the number of directions is nowhere missing.
    asked = [number - number % len(pairs) for number in (run.calibration_sentences, run.holdout_sentences)]
    if any(sum(map(len, own.values())) < number for own, number in zip((fitted, held), asked, strict=True)):
        for name, (part, other) in pairs.items():
            if own:
                counts = f"{len(fitted[name])} to fit on, {len(held[name])} held out"
                progress.note(f"{other.name}: {len(other)} sentences: {counts}")
            else:
                first = f"{len(fitted[name])} sentences of {part.name} to fit on"
                progress.note(f"{first}, {len(held[name])} of {other.name} held out")
    chosen = {name: part.select(np.sort(fitted[name])) for name, (part, _) in pairs.items()}
    apart = {name: part.select(np.sort(held[name])) for name, (_, part) in pairs.items()}
    if several:
        return Mixture.of(cast("dict[str, Corpus]", chosen)), Mixture.of(cast("dict[str, Corpus]", apart))
    return chosen[_ONLY], apart[_ONLY]


def _pairs(
    text: "Corpus | Examples", data: "Corpus | Examples"
) -> "dict[str, tuple[Corpus | Examples, Corpus | Examples]]":
    """Text to fit on and DATA of every direction by its name, or of the only one."""
    texts, sets = parts_of(text), parts_of(data)
    return {name: (texts[name], own) for name, own in sets.items()} or {_ONLY: (text, data)}


@dataclass(frozen=True)
class _Wanted:
    """Numbers of sentences of every direction.

    Attributes:
        fit: to fit on.
        hold: to hold out.
        own: both are drawn from DATA.
    """

    fit: int
    hold: int
    own: bool

    @classmethod
    def of(cls, run: "RefitRun", pairs: "Mapping[str, tuple[Any, Any]]", own: bool) -> "_Wanted":
        """As many as the run asks for, in equal parts, and as the smallest direction has."""
        text, data = (min((own[side] for own in pairs.values()), key=len) for side in (0, 1))
        total, count = len(data), len(pairs)
        if total < 2 and own:
            raise DataError(f"{data.name}: {total} sentences: one is needed to fit on, and another one to hold out")
        hold, fit = min(max(1, run.holdout_sentences // count), total), max(1, run.calibration_sentences // count)
        fit = min(fit, len(text))
        if own:
            fit = min(fit, total - min(hold, max(1, total // _LEAST_SHARE)))
            hold = min(hold, total - fit)
        return cls(fit, hold, own)

    def held(self, total: int, seed: int) -> Ids:
        """Places of DATA that are held out."""
        order = np.random.default_rng(seed).permutation(total)
        held: Ids = order[self.fit : self.fit + self.hold] if self.own else order[: self.hold]
        return held

    def fitted(self, text: "Corpus | Examples", known: Set[bytes], seed: int) -> Ids:
        """Places of the text that is fitted on; none of what is held out."""
        order = np.random.default_rng(seed).permutation(len(text))
        fresh = np.array([content not in known for content in contents_of(text)])
        found: Ids = order[fresh[order]][: self.fit]
        if not len(found):
            raise DataError(f"{text.name}: every sentence is held out too: other sentences are needed to fit on")
        return found


def contents_of(corpus: "Corpus | Examples") -> Iterator[bytes]:
    """What tells sentences apart: the tokens of the source, of the text of a language model or a classifier."""
    if isinstance(corpus, Examples):
        side = corpus.tokens
    else:
        side = corpus.target if corpus.target is not None and not corpus.source.sizes.any() else corpus.source
    return (np.asarray(sentence, dtype="<i8").tobytes() for sentence in side)


def on_target_side(
    run: "RefitRun",
    base: "Checkpoint",
    parts: "Sequence[Corpus | Examples]",
    sides: Sequence[str],
    progress: "Progress",
) -> "tuple[Corpus | Examples, Corpus | Examples]":
    """Texts with the base's translations as their target side, where that is wanted."""
    if TRANSLATIONS not in sides:
        return parts[0], parts[1]
    progress.begin("translating", sides.count(TRANSLATIONS))
    found = []
    for part, side in zip(parts, sides, strict=True):
        if side == TRANSLATIONS and not isinstance(part, Examples):
            part = with_translations(part, base, run, run.limits)
            progress.advance(f"{len(part)} sentences")
        found.append(part)
    return found[0], found[1]
