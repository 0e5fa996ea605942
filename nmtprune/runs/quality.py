"""The quality of a model without some units: BLEU, chrF or loss on one set of sentences, and how far it may drop."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from nmtprune.architecture import Architecture
from nmtprune.data.corpus import Corpus
from nmtprune.data.directions import MEAN, Sets, in_direction
from nmtprune.data.examples import Examples
from nmtprune.data.mixture import Mixture, parts_of
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.metrics import Bleu, Chrf, Metric, Scored, Statistics, TextMetric, TokenLoss
from nmtprune.evaluate.over_directions import OverDirections
from nmtprune.evaluate.significance import Difference
from nmtprune.runs.baseline import check_loss, check_translations, with_remarks
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.run import LABELS, LOSS, MeasuringRun, QualitySettings
from nmtprune.runs.workers import Unit, heads_together

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.engines.base import Ablation, Engine, Tokens
    from nmtprune.formats.base import Checkpoint

SIGNIFICANT = "significant"


@dataclass(frozen=True)
class DropRule:
    """How far quality may drop below that of the unpruned model.

    Attributes:
        points: so many points of the metric; None: not significantly.
    """

    points: float | None

    @classmethod
    def parse(cls, text: str) -> "DropRule":
        """Read ``significant`` or a number of points.

        Raises:
            UsageError: it is neither.
        """
        if text == SIGNIFICANT:
            return cls(None)
        try:
            points = float(text)
        except ValueError:
            points = math.nan
        if not 0 <= points < math.inf:
            raise UsageError(f"--max-drop '{text}': give a number of points from 0 on, or {SIGNIFICANT}")
        return cls(points)

    def broken_by(self, difference: Difference) -> bool:
        """Whether a step is worse than allowed: by more points, or significantly so."""
        if self.points is None:
            return difference.significant and difference.delta < 0
        return difference.delta < -self.points


def metric_of(corpus: "Corpus", settings: QualitySettings) -> Metric:
    """The metric on the references of a corpus; a loss needs none.

    Raises:
        UsageError: no such tokenizer.
        EngineError: the packages or the model of the tokenizer are not there.
    """
    return TokenLoss() if settings.metric == LOSS else text_metric(corpus, settings)


def text_metric(corpus: "Corpus", settings: QualitySettings) -> TextMetric:
    """BLEU or chrF on the references of a corpus, likewise."""
    references = corpus.references or ()
    if settings.metric == "chrf":
        return Chrf(references, lowercase=settings.lowercase)
    if settings.metric != "bleu":
        raise ValueError(f"{settings.metric} measures no quality of translations: choose bleu, chrf or {LOSS}")
    language = corpus.languages.target
    return Bleu(references, tokenize=settings.bleu_tokenize, language=language, lowercase=settings.lowercase)


def check_metric(checkpoint: "Checkpoint", metric: str) -> None:
    """Refuse metrics of translations for a classifier, and metrics of labels for a model that translates.

    Raises:
        UsageError: a metric of the other kind of models.
        CheckpointError: a model that does neither.
    """
    if not checkpoint.classifies:
        checkpoint.profile()
    if not checkpoint.classifies and metric in LABELS:
        raise UsageError(f"--metric {metric} is of labels, and {checkpoint.path} translates: choose bleu or chrf")
    if checkpoint.classifies and metric not in (*LABELS, LOSS):
        raise UsageError(
            f"--metric {metric} is of translations, and {checkpoint.path} is a classifier: choose "
            f"{', '.join(LABELS[:-1])} or {LABELS[-1]}"
        )


class Quality(ABC):
    """A metric of a model without some of its units, on one set of sentences, or of texts with labels."""

    def __init__(self, corpus: "Corpus | Examples", metric: Metric, settings: MeasuringRun) -> None:
        self.corpus, self._metric, self._settings = corpus, metric, settings

    @abstractmethod
    def baseline(self) -> Scored:
        """The full model; comes before what is masked, and is computed once."""

    @abstractmethod
    def check_baseline(self, model: str) -> list[str]:
        """Remarks on the full model as the baseline of a comparison; `model` is what a message calls it.

        Raises:
            DataError: it means nothing, and nobody asked to go on.
        """

    def unit(self, unit: Unit, *, alone: bool = False) -> list[Scored]:
        """The model without each head or layer of a unit in turn, or with it alone in its group."""
        return self.systems(
            [
                {unit.group: tuple(other for other in unit.every if (other == number) == alone)}
                for number in unit.numbers
            ]
        )

    @abstractmethod
    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        """The model with only these units left, for each of several choices."""

    @abstractmethod
    def lengths(self) -> Lengths:
        """Of the sentences and of what is computed for them with the full model: its translations, or references."""

    def heads_together(self, architecture: Architecture, parameters: int) -> int:
        """How many heads of a module are best computed, and kept, together; one where the engine shares nothing."""
        if self._settings.engine != "native":
            return 1
        return heads_together(architecture, parameters, self.tokens())

    @abstractmethod
    def tokens(self) -> int:
        """Tokens that the model computes for one system, about."""

    def scored(self, statistics: Statistics) -> Scored:
        """A result from its statistics [sentences, stats]."""
        return Scored(self._metric, statistics)

    @property
    def across(self) -> str:
        """What systems are chosen by where there are several directions, of `data.directions.ACROSS`."""
        return MEAN

    @property
    def metric(self) -> Metric:
        """What turns statistics into a score."""
        return self._metric

    @property
    def name(self) -> str:
        """The metric."""
        return self._metric.name

    @property
    def signature(self) -> str:
        """How the metric is computed."""
        return self._metric.signature

    def facts(self) -> dict[str, Any]:
        """On what and how it is measured."""
        return {**self.corpus.describe(), **self._settings.described()}

    def identity(self) -> dict[str, Any]:
        """What makes other sentences other results."""
        return {**self.corpus.describe(), "files": contents(self.corpus)}


class _OneSet(Quality):
    """On one set of sentences, which an engine translates or predicts under masks."""

    corpus: Corpus

    def __init__(self, corpus: "Corpus", metric: Metric, ablation: "Ablation", settings: MeasuringRun) -> None:
        super().__init__(corpus, metric, settings)
        self._ablation = ablation


class _Translations(_OneSet):
    """BLEU or chrF."""

    def baseline(self) -> Scored:
        return self._full[1]

    def check_baseline(self, model: str) -> list[str]:
        metric, settings = cast("TextMetric", self._metric), self._settings
        return check_translations(self.corpus, metric, self._full[0], settings.search, settings, model)

    @cached_property
    def _full(self) -> "tuple[list[Tokens], Scored]":
        (found,) = self._ablation.best([{}])
        return found, self._score(found)

    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        return [self._score(found) for found in self._ablation.best(kept)]

    def lengths(self) -> Lengths:
        targets = [len(tokens) for tokens in self._full[0]]
        return Lengths.of(self.corpus.source.sizes.tolist(), targets, self._settings.search.beam)

    def tokens(self) -> int:
        return int(self.corpus.source.sizes.sum()) * (1 + self._settings.search.beam)

    def _score(self, translations: "Sequence[Tokens]") -> Scored:
        metric = cast("TextMetric", self._metric)
        return metric.scored(self.corpus.texts(translations))


class _Losses(_OneSet):
    """Loss per target token."""

    def baseline(self) -> Scored:
        return self._full

    def check_baseline(self, model: str) -> list[str]:
        return check_loss(self.corpus, self.baseline(), self._settings, model)

    @cached_property
    def _full(self) -> Scored:
        return self.systems([{}])[0]

    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        return [self._score(losses) for losses in self._ablation.losses(kept)]

    def lengths(self) -> Lengths:
        target = self.corpus.target
        return Lengths.of(self.corpus.source.sizes.tolist(), [] if target is None else target.sizes.tolist())

    def tokens(self) -> int:
        return 2 * int(self.corpus.source.sizes.sum())

    def _score(self, losses: Sequence[float]) -> Scored:
        tokens = self.corpus.counted.tolist()
        return cast(TokenLoss, self._metric).scored(losses, tokens)


class _OverDirections(Quality):
    """The same metric in several directions, and their mean."""

    def __init__(self, parts: "Mapping[str, _OneSet]", settings: MeasuringRun, across: str) -> None:
        corpora = {name: part.corpus for name, part in parts.items()}
        self._parts = parts
        self._over = OverDirections(
            {name: part.metric for name, part in parts.items()},
            {name: len(corpus) for name, corpus in corpora.items()},
            across,
        )
        super().__init__(Mixture.of(corpora), self._over, settings)

    @property
    def across(self) -> str:
        """As it was given."""
        return self._over.across

    def baseline(self) -> Scored:
        return self._over.joined({name: part.baseline() for name, part in self._parts.items()})

    def check_baseline(self, model: str) -> list[str]:
        return [remark for part in self._parts.values() for remark in part.check_baseline(model)]

    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        found = {name: part.systems(kept) for name, part in self._parts.items()}
        return [self._over.joined({name: own[place] for name, own in found.items()}) for place in range(len(kept))]

    def lengths(self) -> Lengths:
        return Lengths.together([part.lengths() for part in self._parts.values()])

    def tokens(self) -> int:
        return sum(part.tokens() for part in self._parts.values())

    def facts(self) -> dict[str, Any]:
        """Those of every direction too, by its name."""
        each = {name: {**part.corpus.describe(), "signature": part.signature} for name, part in self._parts.items()}
        return {**super().facts(), "across": self._over.across, "directions": each}

    def identity(self) -> dict[str, Any]:
        """Of every direction, and what systems are chosen by."""
        each = {f"{name}: {key}": value for name, part in self._parts.items() for key, value in part.identity().items()}
        return {**each, "directions": [*self._parts], "across": self._over.across}


def contents(corpus: "Corpus | Examples") -> str:
    """One SHA-256 for all files that a corpus was read from, in the order of what they are: source before target.

    Of several directions it also tells which files are those of which direction.
    """
    parts = parts_of(corpus)
    if parts:
        return hashlib.sha256("".join(map(contents, parts.values())).encode()).hexdigest()
    return hashlib.sha256("".join(corpus.inputs.values()).encode()).hexdigest()


def measure(
    checkpoint: "Checkpoint",
    sets: Mapping[str, Sets],
    settings: MeasuringRun,
    corpora: Corpora | None = None,
    across: str = MEAN,
) -> dict[str, Quality]:
    """The quality of one model on several sets of sentences, with remarks on what can be measured there.

    Args:
        checkpoint: the model.
        sets: by the names that a run gives them.
        settings: metric, engine, search and batches.
        corpora: what the run has read; None reads the sets.
        across: what systems are chosen by where a set has several directions, of `data.directions.ACROSS`.

    Raises:
        UsageError: files of references for a loss on binarized data, which have their own.
        NmtpruneError: bad data, a tokenizer that is not there, an engine that cannot run the model.
    """
    from nmtprune.engines import open_engine

    check_metric(checkpoint, settings.metric)
    if checkpoint.classifies:
        from nmtprune.runs.label_quality import measure_labels

        return measure_labels(checkpoint, sets, settings, corpora or Corpora())
    if settings.metric == LOSS:
        checkpoint.check_loss()
    opener = _Opener(checkpoint, settings, open_engine(settings.engine, checkpoint, settings.for_engine()), corpora)
    found: dict[str, Quality] = {}
    for name, data in sets.items():
        if isinstance(data, DataOptions):
            found[name] = opener.quality(data)
            continue
        parts = {}
        for direction, own in data.sets.items():
            with in_direction(direction):
                parts[direction] = opener.quality(own)
        found[name] = _OverDirections(parts, settings, across)
    return found


class _Opener:
    """Reads sets of sentences for one model and metric; a remark of the engine is made once."""

    def __init__(
        self, checkpoint: "Checkpoint", settings: MeasuringRun, engine: "Engine", corpora: Corpora | None
    ) -> None:
        self._model, self._settings, self._engine = checkpoint.profile(), settings, engine
        self._corpora, self._said = corpora or Corpora(), set[str]()

    def quality(self, data: DataOptions) -> _OneSet:
        """Of one set of sentences."""
        settings, loss = self._settings, self._settings.metric == LOSS
        if loss and data.reference and data.source is None:
            raise UsageError("--reference goes with raw text or a search: a loss is that of the binarized target side")
        corpus = self._corpora.read(data, self._model, references=not loss, targets=loss)
        corpus = with_remarks(corpus, settings)
        remarks = [] if loss else [remark for remark in self._engine.remarks(corpus) if remark not in self._said]
        self._said.update(remarks)
        corpus = replace(corpus, notes=(*corpus.notes, *remarks))
        kind = _Losses if loss else _Translations
        return kind(corpus, metric_of(corpus, settings), self._engine.ablation(corpus), settings)
