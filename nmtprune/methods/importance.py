"""Importance of heads and neurons: how much the loss answers to their masks (Michel et al. 2019, section 4.1, eq. 2).

I_h = E_x |dL(x) / dxi_h|, where xi_h is the factor of head h's output, at 1, and L(x) the training loss of sentence x,
summed over its tokens; of a classifier the loss of the label of text x. By the chain rule that is
|Att_h(x)^T dL(x)/dAtt_h(x)|. For a neuron xi is the factor of its value, so that both are measured in the same unit and
compare.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args

from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import DataError, UsageError
from nmtprune.methods.scorer import Needs, Scorer, Subject, setting, sorts_of

if TYPE_CHECKING:
    import torch

    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples, LabelledBatch
    from nmtprune.methods.joint_order import UnitPrices
    from nmtprune.model import Masks, Model

Unit = Literal["sentence", "token"]
UNITS: tuple[str, ...] = get_args(Unit)
"""What the absolute value is taken of: a sentence's derivative by one factor for each head (the paper's formula), or by
one for each head and query position (its authors' code). Without it derivatives of both signs would cancel."""

Normalization = Literal["layer", "none"]
"""Whether scores are divided by the norm of their module, see `normalized`."""

_AUTOCAST = ("float16", "bfloat16")


@dataclass(frozen=True)
class ImportanceSettings:
    """How importance is measured.

    Attributes:
        unit: one of UNITS.
        label_smoothing: of the training loss, fairseq's ``--label-smoothing``; see `Checkpoint.label_smoothing`.
        autocast: compute products in bfloat16 or float16, which is meant for GPUs; derivatives by the factors of heads
            are in single precision all the same. None computes everything in the type of the model.
    """

    unit: str = "sentence"
    label_smoothing: float = 0.0
    autocast: "torch.dtype | None" = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: naming every value that is not allowed.
        """
        faults = []
        if self.unit not in UNITS:
            faults.append(f"unknown unit '{self.unit}' (choose among {', '.join(UNITS)})")
        if not 0 <= self.label_smoothing < 1:
            faults.append(f"label smoothing {self.label_smoothing} is not a number from 0 to below 1")
        if self.autocast is not None and str(self.autocast).removeprefix("torch.") not in _AUTOCAST:
            faults.append(f"cannot compute in {self.autocast} (choose among {', '.join(_AUTOCAST)})")
        if faults:
            raise UsageError.of_faults("importance", faults)


def importance(
    model: "Model",
    batches: "Iterable[Batch | LabelledBatch]",
    settings: ImportanceSettings,
    masks: "Masks | None" = None,
    sorts: Sequence[str] = ("heads",),
) -> dict[UnitId, float]:
    """I_h of every head or neuron, not normalized; which sentences share a batch makes no difference.

    The unit ``sentence`` has one factor per sentence and head and gives the mean of |dL/dxi| over sentences. ``token``
    has one per query position and gives the mean over query tokens: those of the source for the encoder, of the target
    for the decoder. Padding is left out, the end-of-sentence symbol counts, dropout is off; sums are taken in
    double precision.

    Args:
        model: an encoder-decoder model or a classifier in single or double precision.
        batches: sentences with their references, or texts with their labels; memory is needed for one at a time.
        settings: how to measure.
        masks: [H] or [F] of zeros and ones for groups that lost units; the importance is that in the model without
            them.
        sorts: heads, neurons or both.

    Returns:
        Nats per sentence or per query token, for every unit that the masks leave, in order; nothing for the others.

    Raises:
        DataError: no sentences.
        CheckpointError: derivatives that are no finite numbers.
        ValueError: a model in half precision, batches without references or labels, masks of other shapes or values.
    """
    import torch

    from nmtprune.methods.gradients import MaskGradients
    from nmtprune.methods.measuring import by_unit, units_left
    from nmtprune.methods.texts import Texts

    if model.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"importance in {model.dtype}: build the model in single precision and use autocast")
    by_query = settings.unit == "token"
    with torch.inference_mode(False), torch.enable_grad():
        left = units_left(model, masks, sorts)
        smoothing, autocast = settings.label_smoothing, settings.autocast
        gradients = MaskGradients(model, left, by_query, smoothing, autocast, masks or {})
        sums = {id: torch.zeros_like(mask, dtype=torch.float64) for id, mask in left.items()}
        counts = dict.fromkeys(left, 0)
        for batch in batches:
            texts = Texts.of(batch, model)
            for id, gradient in gradients.of(texts).items():
                sums[id] += gradient.abs().transpose(0, 1).flatten(1).sum(1, dtype=torch.float64)
                counts[id] += int(texts.queries(id).sum()) if by_query else len(gradient)
    if not all(counts.values()):
        raise DataError("importance: there are no sentences to measure it on")
    return by_unit(left, {id: own / counts[id] for id, own in sums.items()})


def module_norms(scores: Mapping[UnitId, float]) -> dict[GroupId, float]:
    """l2 norm of the scores of each group: per layer and kind."""
    by_module: dict[GroupId, list[float]] = {}
    for head, score in scores.items():
        by_module.setdefault(head.group, []).append(score)
    return {module: math.hypot(*own) for module, own in by_module.items()}


def normalized(scores: Mapping[UnitId, float], norms: Mapping[GroupId, float] | None = None) -> dict[UnitId, float]:
    """Scores divided by the l2 norm of their module; zeros where the norm is zero.

    Args:
        scores: importance of heads.
        norms: of every module in `scores`, from the first pass where this is a later one on a model that lost heads: by
            its own norm the last head of a module would always score 1, and never be removed. None: those of `scores`.
    """
    chosen = module_norms(scores) if norms is None else norms
    return {head: score / chosen[head.group] if chosen[head.group] else 0.0 for head, score in scores.items()}


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options of scorers that need not read all sentences.

    Attributes:
        importance_sentences: sentences that are drawn with the seed; None takes all.
    """

    importance_sentences: int | None = setting(
        None,
        "Measure importance (or fisher, reconstruction, variance, activation) on N sentences, chosen at random with "
        "--seed.",
        metavar="N",
        minimum=1,
        shown="all",
        in_greedy=5000,
    )


@dataclass(frozen=True, kw_only=True)
class GradientOptions(SampleOptions):
    """Options of all scorers by derivatives of the loss.

    Attributes:
        label_smoothing: of the loss; None: as the checkpoint was trained.
    """

    label_smoothing: float | None = setting(
        None,
        "Label smoothing of the loss that is differentiated.",
        metavar="X",
        shown="the value in training",
    )


@dataclass(frozen=True, kw_only=True)
class ImportanceOptions(GradientOptions):
    """Options of importance.

    Attributes:
        importance_unit: one of UNITS.
        importance_normalize: ``layer`` divides scores by the norm of their module, ``none`` does not.
    """

    importance_unit: Unit = setting(
        "sentence",
        "Take the absolute value of one derivative per sentence (the formula in the paper), or of one per query token "
        "(the code of its authors).",
    )
    importance_normalize: Normalization = setting(
        "none",
        "Divide importance by its l2 norm within each module (layer, as in the paper), or use it as it is (none).",
    )


P = TypeVar("P", bound=SampleOptions)
G = TypeVar("G", bound=GradientOptions)


class SampledScorer(Scorer[P]):
    """What scorers of heads and neurons have in common that read training text: sentences that are drawn."""

    panel = "Importance"
    sorts: ClassVar[tuple[str, ...]] = ("heads", "neurons")
    draws = True
    on_training_text = True

    @property
    def uses_seed(self) -> bool:
        """Whether a number of sentences is drawn."""
        return self.options.importance_sentences is not None

    def sentences(self, subject: Subject) -> "Corpus | Examples":
        """The sentences that are drawn."""
        from nmtprune.methods.measuring import drawn

        number = self.options.importance_sentences
        return subject.corpus if number is None else drawn(subject.corpus, number, subject.seed)


class GradientScorer(SampledScorer[G]):
    """What scorers by derivatives of the loss have in common: references."""

    unscored = {"layers": "a layer has no mask to differentiate by: score layers by bleu, chrf or loss"}

    @property
    def needs(self) -> Needs:
        """References as token ids, and the loss of whole references."""
        return Needs(targets=True, loss=True)

    def check_options(self) -> None:
        """Check the label smoothing, where it is given."""
        if self.options.label_smoothing is not None:
            ImportanceSettings(label_smoothing=self.options.label_smoothing)

    def check(self, subject: Subject) -> None:
        """Check the label smoothing, and that the model can be run."""
        super().check(subject)
        self.measured_by(subject)

    def measured_by(self, subject: Subject) -> ImportanceSettings:
        """How derivatives are taken: label smoothing and precision.

        Raises:
            UsageError: a label smoothing that is none.
        """
        smoothing = self.options.label_smoothing
        if smoothing is None:
            smoothing = subject.checkpoint.label_smoothing()
        return ImportanceSettings(label_smoothing=smoothing, autocast=subject.autocast)

    def facts(self, subject: Subject) -> dict[str, Any]:
        """The label smoothing of the loss."""
        return {"label_smoothing": self.measured_by(subject).label_smoothing}


class Importance(GradientScorer[ImportanceOptions]):
    """I_h, divided by the norm of its module if the options say so."""

    name = "importance"
    summary = "sensitivity of the loss to the head's mask (Michel et al. 2019, section 4)."
    settings = ImportanceOptions
    reestimates = True

    def scores(
        self,
        subject: Subject,
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> Mapping[UnitId, float]:
        """I_h, not normalized."""
        model, masks = subject.under(kept)
        batches = subject.batches(self.sentences(subject))
        return importance(model, batches, self.measured_by(subject), masks, sorts_of(limits))

    def measured_by(self, subject: Subject) -> ImportanceSettings:
        """The unit too."""
        return replace(super().measured_by(subject), unit=self.options.importance_unit)

    def ranked(self, scores: Mapping[UnitId, float], first: Mapping[UnitId, float]) -> Mapping[UnitId, float]:
        """Divided by the norms of the first pass: by its own norm the last head of a module would always score 1."""
        if self.options.importance_normalize == "none":
            return scores
        return normalized(scores, module_norms(first))

    def facts(self, subject: Subject) -> dict[str, Any]:
        """Unit, normalization, and the label smoothing of the loss."""
        normalize = self.options.importance_normalize
        return {"unit": self.options.importance_unit, "normalize": normalize, **super().facts(subject)}
