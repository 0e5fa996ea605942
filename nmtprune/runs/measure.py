"""A metric of a model with heads masked, on one set of sentences."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from nmtprune.architecture import Architecture, ModuleId
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.metrics import Metric, Scored, Statistics, TokenLoss
from nmtprune.runs.baseline import check_loss, check_translations, with_remarks
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import LOSS, QualitySettings, metric_of, texts_of
from nmtprune.runs.units import Unit, heads_together

if TYPE_CHECKING:
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Ablation, EngineSettings, Kept, Tokens
    from nmtprune.evaluate.metrics import TextMetric
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.search.options import Search


@dataclass(frozen=True, kw_only=True)
class MeasureSettings(QualitySettings):
    """What is measured, and by which search.

    Attributes:
        engine: what runs the model.
        device: as `--device` names it.
        threads: CPU threads; None leaves the number to torch.
        search: how translations are searched; nothing is for a loss.
        limits: size of batches.
    """

    engine: str
    device: str
    threads: int | None
    search: "Search"
    limits: "BatchLimits"

    def for_engine(self) -> "EngineSettings":
        """What the engine must know."""
        from nmtprune.engines import EngineSettings

        return EngineSettings(self.search, self.limits, choose_device(self.device), self.threads)

    def as_settings(self) -> dict[str, Any]:
        """What results depend on, by the names of the options."""
        settings: dict[str, Any] = {
            "--metric": self.metric,
            "--engine": self.engine,
            "--device": choose_device(self.device).type,
            "--max-tokens": self.limits.max_tokens,
            "--batch-size": self.limits.max_sentences,
        }
        if self.metric != LOSS:
            settings |= {f"--{name.replace('_', '-')}": value for name, value in asdict(self.search).items()}
            settings |= {"--bleu-tokenize": self.bleu_tokenize, "--lowercase": self.lowercase}
        return settings

    def facts(self) -> dict[str, Any]:
        """How it was measured, for the score file."""
        batches = {"max_tokens": self.limits.max_tokens, "batch_size": self.limits.max_sentences}
        search = {} if self.metric == LOSS else {"search": asdict(self.search)}
        return {"engine": self.engine, **search, "batches": batches}


class Measure(ABC):
    """A metric of a model with heads masked, on one set of sentences."""

    def __init__(self, corpus: "Corpus", metric: Metric, ablation: "Ablation", settings: MeasureSettings) -> None:
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

    def masked(self, module: ModuleId, kept: Sequence[Sequence[int]]) -> list[Scored]:
        """The model with only these heads left in a module, for each of several choices."""
        return self.systems([{module: heads} for heads in kept])

    def unit(self, unit: Unit, *, alone: bool = False) -> list[Scored]:
        """The model without each head of a unit in turn, or with it alone in its module."""
        everything = range(unit.module.heads)
        kept = [tuple(other for other in everything if (other == head) == alone) for head in unit.heads]
        return self.masked(unit.module.id, kept)

    @abstractmethod
    def systems(self, kept: "Sequence[Kept]") -> list[Scored]:
        """The model with only these heads left, for each of several choices."""

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
        return {**self.corpus.describe(), **self._settings.facts()}

    def identity(self) -> dict[str, Any]:
        """What makes other sentences other results."""
        return {**self.corpus.describe(), "files": contents(self.corpus)}


class _Translations(Measure):
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

    def _tokens(self) -> int:
        return int(self.corpus.source.sizes.sum()) * (1 + self._settings.search.beam)

    def _score(self, translations: "Sequence[Tokens]") -> Scored:
        metric = cast("TextMetric", self._metric)
        return metric.scored(texts_of(self.corpus, translations))


class _Losses(Measure):
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

    def _tokens(self) -> int:
        return 2 * int(self.corpus.source.sizes.sum())

    def _score(self, losses: Sequence[float]) -> Scored:
        target = self.corpus.target
        tokens = [] if target is None else target.sizes.tolist()
        return cast(TokenLoss, self._metric).scored(losses, tokens)


def contents(corpus: "Corpus") -> str:
    """One SHA-256 for all files that a corpus was read from, in the order of what they are: source before target."""
    return hashlib.sha256("".join(corpus.inputs.values()).encode()).hexdigest()


def check_metric_options(settings: MeasureSettings) -> None:
    """Check what can be checked without a model.

    Raises:
        UsageError: options that mean nothing for the metric, or a device that is not there.
    """
    settings.check()
    choose_device(settings.device)


def measure(checkpoint: "Checkpoint", sets: Mapping[str, DataOptions], settings: MeasureSettings) -> dict[str, Measure]:
    """Measures of one model on several sets of sentences, with remarks on what can be measured there.

    Raises:
        UsageError: files of references for a loss on binarized data, which have their own.
        NmtpruneError: bad data, a tokenizer that is not there, an engine that cannot run the model.
    """
    from nmtprune.data.corpus import load_corpus
    from nmtprune.engines import open_engine

    loss = settings.metric == LOSS
    if loss:
        checkpoint.check_loss()
    if loss and any(data.reference and data.source is None for data in sets.values()):
        raise UsageError("--reference goes with raw text or a search: a loss is that of the binarized target side")
    asked = checkpoint.profile()
    engine = open_engine(settings.engine, checkpoint, settings.for_engine())
    corpora = {
        name: with_remarks(load_corpus(data, asked, references=not loss, targets=loss), settings)
        for name, data in sets.items()
    }
    first = next(iter(corpora))
    corpora[first] = replace(corpora[first], notes=(*corpora[first].notes, *(() if loss else engine.notes)))
    metrics = {name: metric_of(corpus, settings) for name, corpus in corpora.items()}
    kind = _Losses if loss else _Translations
    return {name: kind(corpus, metrics[name], engine.ablation(corpus), settings) for name, corpus in corpora.items()}
