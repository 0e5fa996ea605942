"""Derivatives of the training loss by the masks of heads and neurons, sentence by sentence or query by query.

Only the masks ask for a gradient, the weights do not: a pass costs less than one of training.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nmtprune.architecture import SORTS, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.methods.texts import Texts
from nmtprune.model import Masks, Model, Pass

_BLOCK_BYTES = {"cpu": 4 << 20}
_LARGE_BLOCK_BYTES = 256 << 20
"""Scores of words, or labels, that are there at one time; on a CPU they stay in the cache."""

_SCALES = (2.0**10, 2.0**6, 2.0**2, 2.0**-2, 2.0**-6)
"""Factors of the loss in float16: each is tried where the one before it made derivatives overflow."""


@dataclass(frozen=True)
class MaskGradients:
    """How derivatives are taken.

    Attributes:
        model: an encoder-decoder model or a classifier in single or double precision.
        left: a mask [H] or [F] of zeros and ones for every group whose units are looked at: those that were not
            removed before.
        other: masks of other groups.
        by_query: one derivative for every query position instead of one for every sentence.
        label_smoothing: of the loss.
        autocast: compute products in bfloat16 or float16; None: in the model's type.
    """

    model: Model
    left: Masks
    by_query: bool
    label_smoothing: float
    autocast: torch.dtype | None = None
    other: Masks = field(default_factory=dict)

    def of(self, texts: Texts) -> dict[GroupId, Tensor]:
        """Derivatives of each sentence's loss by the factors of its units, [B, H] or [B, H, T], in the model's type.

        Sentences know nothing of each other, so one pass gives the derivatives of all of them.

        Raises:
            CheckpointError: derivatives that are no finite numbers.
        """
        for scale in _SCALES if self.autocast == torch.float16 else (1.0,):
            found = {id: gradient / scale for id, gradient in self._scaled(texts, scale)}
            faults = [id for id, gradient in found.items() if not bool(gradient.isfinite().all())]
            if not faults:
                return found
        advice = "check the model's weights" if self.autocast is None else "compute without autocast"
        what = " and ".join(sort for sort in SORTS if any(id.sort == sort for id in faults))
        raise CheckpointError(
            f"derivatives by the {what} of {', '.join(map(str, faults))} are no finite numbers: {advice}"
        )

    def _scaled(self, texts: Texts, scale: float) -> Iterator[tuple[GroupId, Tensor]]:
        """The same of `scale` times the loss, module by module."""
        model = self.model
        factors = {id: self._factors(id, texts) for id in self.left}
        masks = {**self.other, **{id: factor * _beside(self.left[id], factor) for id, factor in factors.items()}}
        with torch.autocast(model.device.type, self.autocast, enabled=self.autocast is not None):
            features = texts.features(model, Pass(masks))
            slopes = loss_slopes(model, features, texts.expected, self.label_smoothing, scale)
        if not features.requires_grad:  # no unit is connected to the output
            return ((id, torch.zeros_like(factor)) for id, factor in factors.items())
        found = torch.autograd.grad(
            features, tuple(factors.values()), slopes, allow_unused=True, materialize_grads=True
        )
        return zip(factors, found, strict=True)

    def _factors(self, module: GroupId, texts: Texts) -> Tensor:
        """Ones [B, H] or [B, H, T], for neurons [B, F] or [B, F, T]."""
        rows, length = texts.queries(module).shape
        shape = (rows, len(self.left[module]), *([length] if self.by_query else []))
        return torch.ones(shape, dtype=self.model.dtype, device=self.model.device, requires_grad=True)


def loss_slopes(model: Model, features: Tensor, words: Tensor, label_smoothing: float, scale: float = 1.0) -> Tensor:
    """Derivatives of `scale` times the loss of words (or labels) [N] by their features [N, E], block by block.

    The scores of all words of a batch, with what autograd keeps of them, would be most of the memory of a pass.
    """
    word_bytes = model.outputs * model.dtype.itemsize
    count = max(1, _BLOCK_BYTES.get(model.device.type, _LARGE_BLOCK_BYTES) // word_bytes)
    found: list[Tensor] = []
    for begin in range(0, len(words), count):
        block = features[begin : begin + count].detach().requires_grad_()
        expected = words[begin : begin + count]
        losses = label_smoothed_loss(model.output(block), expected, label_smoothing, model.normalized)
        found += torch.autograd.grad(losses.sum() * scale, block)
    return torch.cat(found)


def label_smoothed_loss(scores: Tensor, words: Tensor, label_smoothing: float, normalized: bool = False) -> Tensor:
    """Loss of each word [N], or of each label, in nats, as fairseq's ``label_smoothed_cross_entropy`` has it.

    The expected distribution gives the word 1 - eps and each other word eps / (V - 1) (Szegedy et al. 2016, section 7,
    where all V words share eps).

    Args:
        scores: [N, V].
        words: [N] ids.
        label_smoothing: eps; 0 gives the negative log-likelihood.
        normalized: the scores are log-probabilities, not logits.
    """
    scores = scores if scores.dtype == torch.float64 else scores.float()
    log_probabilities = scores if normalized else scores.log_softmax(-1)
    of_word = log_probabilities.gather(-1, words.unsqueeze(-1)).squeeze(-1)
    if not label_smoothing:
        return -of_word
    other = label_smoothing / (scores.shape[-1] - 1)
    return -(1 - label_smoothing - other) * of_word - other * log_probabilities.sum(-1)


def _beside(mask: Tensor, factor: Tensor) -> Tensor:
    """A mask [H] so that it multiplies [B, H] or [B, H, T]."""
    return mask if factor.dim() == 2 else mask.unsqueeze(-1)
