"""Importance and confidence of heads, on the native model: what `score` and `greedy` measure without masking heads."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import HeadId
from nmtprune.data.options import DataOptions
from nmtprune.errors import EngineError
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device
from nmtprune.runs.run import MeasureSettings

if TYPE_CHECKING:
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Kept
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.importance import ImportanceSettings
    from nmtprune.model import Transformer

IMPORTANCE, CONFIDENCE = "importance", "confidence"
REFERENCES, TRANSLATIONS = "references", "translations"


@dataclass(frozen=True)
class MeterSettings:
    """How importance and confidence are measured.

    Attributes:
        importance_unit: what the absolute value is taken of, ``sentence`` or ``token``.
        importance_normalize: ``layer`` divides scores by the norm of their module, ``none`` does not.
        importance_sentences: sentences that are drawn for it with the seed; None takes all.
        label_smoothing: of the loss; None: as the checkpoint was trained.
        confidence_on: ``references`` (teacher forced) or ``translations``.
        exclude_eos: confidence leaves out the queries of end-of-sentence symbols.
    """

    importance_unit: str = "sentence"
    importance_normalize: str = "layer"
    importance_sentences: int | None = None
    label_smoothing: float | None = None
    confidence_on: str = REFERENCES
    exclude_eos: bool = False

    @property
    def translates(self) -> bool:
        """Whether confidence takes a search."""
        return self.confidence_on == TRANSLATIONS

    def of(self, name: str) -> dict[str, Any]:
        """What the scores of that name depend on, by the names of the options."""
        if name == CONFIDENCE:
            return {"--confidence-on": self.confidence_on, "--exclude-eos": self.exclude_eos}
        return {
            "--importance-unit": self.importance_unit,
            "--importance-normalize": self.importance_normalize,
            "--importance-sentences": self.importance_sentences,
            "--label-smoothing": self.label_smoothing,
        }


@dataclass(frozen=True)
class Meter:
    """Measures the heads of one checkpoint on one set of sentences.

    Attributes:
        checkpoint: the model.
        corpus: sentences, with token ids of references where they are needed.
        settings: how to measure.
        run: device, threads and batches; the search, where confidence is that on translations.
    """

    checkpoint: "Checkpoint"
    corpus: "Corpus"
    settings: MeterSettings
    run: MeasureSettings

    @cached_property
    def model(self) -> "Transformer":
        """The native model, in single precision at least: sums of derivatives need it."""
        import torch

        from nmtprune.engines import native

        device = choose_device(self.run.device)
        if self.run.threads is not None:
            torch.set_num_threads(self.run.threads)
        model = native.load(self.checkpoint, device)
        return model if model.dtype.itemsize >= 4 else native.load(self.checkpoint, device, torch.float32)

    @cached_property
    def importance_settings(self) -> "ImportanceSettings":
        """Unit, loss and precision: GPUs compute products in float16, derivatives by heads are in single precision."""
        import torch

        from nmtprune.methods.importance import ImportanceSettings

        smoothing = self.settings.label_smoothing
        if smoothing is None:
            smoothing = self.checkpoint.label_smoothing()
        autocast = torch.float16 if choose_device(self.run.device).type == "cuda" else None
        return ImportanceSettings(self.settings.importance_unit, smoothing, autocast)

    def importance(self, kept: "Kept | None" = None) -> dict[HeadId, float]:
        """I_h of every head that is left, not normalized; `kept` as in `Kept`."""
        from nmtprune.engines.native import masks_of
        from nmtprune.methods.importance import importance
        from nmtprune.methods.measuring import batches

        masks = masks_of(self.model, kept or {})
        return importance(self.model, batches(self.corpus, self._limits), self.importance_settings, masks)

    def normalized(
        self, scores: Mapping[HeadId, float], first: Mapping[HeadId, float] | None = None
    ) -> Mapping[HeadId, float]:
        """Importance as `importance_normalize` says, by norms of the pass `first` where `scores` are of a later one."""
        from nmtprune.methods.importance import module_norms, normalized

        if self.settings.importance_normalize == "none":
            return scores
        return normalized(scores, module_norms(scores if first is None else first))

    def confidence(self) -> dict[HeadId, float]:
        """Mean maximum attention weight of every head."""
        from nmtprune.methods.confidence import confidence
        from nmtprune.methods.measuring import batches

        corpus = self._translated() if self.settings.translates else self.corpus
        ends = corpus.source_vocabulary.eos, corpus.target_vocabulary.eos
        left_out = ends if self.settings.exclude_eos else None
        return confidence(self.model, batches(corpus, self._limits), left_out=left_out)

    def facts(self, name: str) -> dict[str, Any]:
        """On what and how scores of that name were measured, for files."""
        facts: dict[str, Any] = {**self.corpus.describe(), "engine": "native"}
        if name == IMPORTANCE:
            own = self.importance_settings
            smoothed = {"label_smoothing": own.label_smoothing}
            return {**facts, "unit": own.unit, "normalize": self.settings.importance_normalize, **smoothed}
        facts |= {"on": self.settings.confidence_on, "exclude_eos": self.settings.exclude_eos}
        return facts | (self.run.described() if self.settings.translates else {})

    @property
    def _limits(self) -> "BatchLimits":
        """No larger than what the way back of importance has memory for."""
        from nmtprune.data.batching import BatchLimits
        from nmtprune.methods.measuring import MAX_TOKENS

        return BatchLimits(min(self.run.limits.max_tokens or MAX_TOKENS, MAX_TOKENS), self.run.limits.max_sentences)

    def _translated(self) -> "Corpus":
        from nmtprune.engines import open_engine
        from nmtprune.methods.measuring import on_translations

        engine = open_engine(self.run.engine, self.checkpoint, self.run.for_engine())
        return on_translations(self.corpus, engine.ablation(self.corpus).best([{}])[0])


def importance_meter(
    checkpoint: "Checkpoint",
    data: DataOptions,
    settings: MeterSettings,
    run: MeasureSettings,
    seed: int,
    corpora: Corpora | None = None,
) -> Meter:
    """Prepare to measure importance on sentences drawn from `data`, whose references are needed as token ids.

    Raises:
        NmtpruneError: bad data, a label smoothing that is none, a model that nmtprune cannot run.
    """
    from nmtprune.methods.measuring import drawn

    checkpoint.check_loss()
    corpus = (corpora or Corpora()).read(data, checkpoint.profile(), references=False, targets=True)
    corpus = replace(corpus, notes=(*corpus.notes, *check_direction(corpus, allowed=run.allow_bad_baseline)))
    if settings.importance_sentences is not None:
        corpus = drawn(corpus, settings.importance_sentences, seed)
    meter = Meter(checkpoint, corpus, settings, run)
    _ = meter.importance_settings, meter.model
    return meter


def confidence_meter(
    checkpoint: "Checkpoint",
    data: DataOptions,
    settings: MeterSettings,
    run: MeasureSettings,
    corpora: Corpora | None = None,
) -> Meter:
    """Prepare to measure confidence; references are needed as token ids unless translations take their place.

    Raises:
        NmtpruneError: bad data, a model that nmtprune cannot run.
    """
    corpus = (corpora or Corpora()).read(data, checkpoint.profile(), references=False, targets=not settings.translates)
    corpus = replace(corpus, notes=(*corpus.notes, *check_direction(corpus, allowed=run.allow_bad_baseline)))
    meter = Meter(checkpoint, corpus, settings, run)
    _ = meter.model
    return meter


def check_native(name: str, run: MeasureSettings, settings: MeterSettings) -> None:
    """Check that the engine is one that these scores can be measured on.

    Raises:
        EngineError: another engine than the native one, with nothing to search.
    """
    if run.engine != "native" and not (name == CONFIDENCE and settings.translates):
        raise EngineError(f"the engine {run.engine} measures no {name}: --metric {name} runs on --engine native")
