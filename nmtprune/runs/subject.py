"""A checkpoint and sentences as scorers see them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from nmtprune.architecture import UnitId
from nmtprune.data.options import DataOptions
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.evaluate.over_directions import driving
from nmtprune.methods.scorer import Scorer
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import Quality
from nmtprune.runs.run import MeasuringRun

if TYPE_CHECKING:
    import torch

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples, LabelledBatch
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.joint_order import UnitPrices
    from nmtprune.model import Masks, Model, Transformer

T = TypeVar("T")


@dataclass(frozen=True)
class NativeModel:
    """The native model of a checkpoint, built when it is needed, for all scorers together.

    Attributes:
        checkpoint: the model's file.
        run: device and threads.
    """

    checkpoint: "Checkpoint"
    run: MeasuringRun

    @cached_property
    def model(self) -> "Model":
        """In single precision at least: sums of derivatives need it."""
        import torch

        from nmtprune.engines import native

        device = choose_device(self.run.device)
        if self.run.threads is not None:
            torch.set_num_threads(self.run.threads)
        model = native.load_model(self.checkpoint, device)
        return model if model.dtype.itemsize >= 4 else native.load_model(self.checkpoint, device, torch.float32)

    @property
    def translator(self) -> "Transformer":
        """The model of a checkpoint that translates.

        Raises:
            CheckpointError: a classifier.
        """
        from nmtprune.model import Classifier

        if isinstance(self.model, Classifier):
            raise CheckpointError(f"{self.checkpoint.path}: a classifier, which translates nothing")
        return self.model


@dataclass(frozen=True)
class ScoredModel:
    """A checkpoint with the sentences that its units are scored on: a `methods.scorer.Subject`.

    Attributes:
        native: the checkpoint, and its model.
        corpus: the sentences; of a classifier texts, with their labels.
        seed: of everything that is drawn.
        run: device, threads, batches, and the search of translations.
        quality: the metric of the run under masks; None where no scorer asks for it.
    """

    native: NativeModel
    corpus: "Corpus | Examples"
    seed: int
    run: MeasuringRun
    quality: Quality | None = None
    _values: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> "Checkpoint":
        """The model's file."""
        return self.native.checkpoint

    @property
    def model(self) -> "Model":
        """The native model."""
        return self.native.model

    @property
    def autocast(self) -> "torch.dtype | None":
        """GPUs compute products in float16; derivatives by heads are in single precision all the same."""
        import torch

        return torch.float16 if choose_device(self.run.device).type == "cuda" else None

    def of(self, checkpoint: "Checkpoint") -> "ScoredModel":
        """The same sentences for another checkpoint with the same vocabularies."""
        return replace(self, native=NativeModel(checkpoint, self.run), quality=None, _values={})

    def batches(self, corpus: "Corpus | Examples | None" = None) -> "Iterator[Batch | LabelledBatch]":
        """Padded tensors, no larger than what the backward pass has memory for."""
        from nmtprune.methods.measuring import batches, no_larger

        return batches(self.corpus if corpus is None else corpus, no_larger(self.run.limits))

    def under(self, kept: "Kept | None") -> "tuple[Model, Masks]":
        """The native model without the layers that go, and zeros and ones for the units of groups that lose some."""
        from nmtprune.engines.native import with_kept

        return with_kept(self.model, kept or {})

    def translated(self) -> "Corpus":
        """The sentences with the translations of the run's engine in the place of references."""
        from nmtprune.data.examples import Examples
        from nmtprune.engines import open_engine
        from nmtprune.methods.measuring import on_translations

        if isinstance(self.corpus, Examples):
            raise UsageError(f"{self.checkpoint.path}: a classifier translates nothing: its texts have labels")
        engine = open_engine(self.run.engine, self.checkpoint, self.run.for_engine())
        return on_translations(self.corpus, engine.ablation(self.corpus).best([{}])[0])

    def qualities(self, systems: "Sequence[Kept]") -> list[float]:
        """The metric of the run; the full model comes first, since masked models start from its translations."""
        if self.quality is None:
            raise ValueError("this run was prepared without a metric")
        full = self.quality.baseline()
        masked = iter(self.quality.systems([kept for kept in systems if kept]))
        return [driving(next(masked), full) if kept else full.score for kept in systems]

    def search_facts(self) -> dict[str, Any]:
        """Engine, search and batches."""
        return self.run.described()

    def once(self, name: str, compute: Callable[[], T]) -> T:
        """The value of `compute`, which is called once for a name."""
        if name not in self._values:
            self._values[name] = compute()
        return cast(T, self._values[name])

    def scores(
        self,
        scorer: Scorer[Any],
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """Scores of units, see `Scorer.scores`."""
        return scorer.scores(self, kept, limits, prices)

    def details(self, scorer: Scorer[Any], limits: "Limits | None" = None) -> Mapping[str, Mapping[UnitId, float]]:
        """Further numbers of units, see `Scorer.details`."""
        return scorer.details(self, limits)

    def facts(self, scorer: Scorer[Any]) -> dict[str, Any]:
        """On what and how a scorer measured, for result files."""
        return {**scorer.sentences(self).describe(), "engine": "native", **scorer.facts(self)}


def open_subject(
    scorer: Scorer[Any],
    native: NativeModel,
    data: DataOptions,
    seed: int,
    corpora: Corpora,
    quality: Quality | None = None,
) -> ScoredModel:
    """Read the sentences of a scorer, and check that it can score the model on them.

    Raises:
        NmtpruneError: bad data, settings of the scorer that cannot be, a model that cannot be run.
    """
    needs = scorer.needs
    if needs.loss:
        native.checkpoint.check_loss()
    corpus = corpora.of_model(data, native.checkpoint, references=False, targets=needs.targets)
    allowed = native.run.allow_bad_baseline
    corpus = replace(corpus, notes=(*corpus.notes, *check_direction(corpus, allowed=allowed)))
    subject = ScoredModel(native, corpus, seed, native.run, quality)
    scorer.check(subject)
    return subject
