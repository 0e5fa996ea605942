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
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.metrics import Bleu, Chrf, Metric, Scored, Statistics, TextMetric, TokenLoss
from nmtprune.evaluate.significance import Difference
from nmtprune.runs.baseline import check_loss, check_translations, with_remarks
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.run import LOSS, MeasuringRun, QualitySettings
from nmtprune.runs.workers import Unit, heads_together

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.engines.base import Ablation, Tokens
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


class Quality(ABC):
    """A metric of a model without some of its units, on one set of sentences."""

    def __init__(self, corpus: "Corpus", metric: Metric, ablation: "Ablation", settings: MeasuringRun) -> None:
        self.corpus, self._metric, self._ablation, self._settings = corpus, metric, ablation, settings

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
        return heads_together(architecture, parameters, self._tokens())

    @abstractmethod
    def _tokens(self) -> int:
        """Tokens that the model computes for one system, about."""

    def scored(self, statistics: Statistics) -> Scored:
        """A result from its statistics [sentences, stats]."""
        return Scored(self._metric, statistics)

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


class _Translations(Quality):
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

    def _tokens(self) -> int:
        return int(self.corpus.source.sizes.sum()) * (1 + self._settings.search.beam)

    def _score(self, translations: "Sequence[Tokens]") -> Scored:
        metric = cast("TextMetric", self._metric)
        return metric.scored(self.corpus.texts(translations))


class _Losses(Quality):
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

    def _tokens(self) -> int:
        return 2 * int(self.corpus.source.sizes.sum())

    def _score(self, losses: Sequence[float]) -> Scored:
        tokens = self.corpus.counted.tolist()
        return cast(TokenLoss, self._metric).scored(losses, tokens)


def contents(corpus: "Corpus") -> str:
    """One SHA-256 for all files that a corpus was read from, in the order of what they are: source before target."""
    return hashlib.sha256("".join(corpus.inputs.values()).encode()).hexdigest()


def measure(
    checkpoint: "Checkpoint",
    sets: Mapping[str, DataOptions],
    settings: MeasuringRun,
    corpora: Corpora | None = None,
) -> dict[str, Quality]:
    """The quality of one model on several sets of sentences, with remarks on what can be measured there.

    Args:
        checkpoint: the model.
        sets: by the names that a run gives them.
        settings: metric, engine, search and batches.
        corpora: what the run has read; None reads the sets.

    Raises:
        UsageError: files of references for a loss on binarized data, which have their own.
        NmtpruneError: bad data, a tokenizer that is not there, an engine that cannot run the model.
    """
    from nmtprune.engines import open_engine

    loss = settings.metric == LOSS
    if loss:
        checkpoint.check_loss()
    if loss and any(data.reference and data.source is None for data in sets.values()):
        raise UsageError("--reference goes with raw text or a search: a loss is that of the binarized target side")
    model, read = checkpoint.profile(), (corpora or Corpora()).read
    engine = open_engine(settings.engine, checkpoint, settings.for_engine())
    found = {
        name: with_remarks(read(data, model, references=not loss, targets=loss), settings)
        for name, data in sets.items()
    }
    said: set[str] = set()
    for name, corpus in found.items():
        remarks = [] if loss else [remark for remark in engine.remarks(corpus) if remark not in said]
        found[name] = replace(corpus, notes=(*corpus.notes, *remarks))
        said.update(remarks)
    metrics = {name: metric_of(corpus, settings) for name, corpus in found.items()}
    kind = _Losses if loss else _Translations
    return {name: kind(corpus, metrics[name], engine.ablation(corpus), settings) for name, corpus in found.items()}
