"""Proof that cutting changed nothing else: the slim model against its base without the removed units.

In the base, removed heads and neurons are masked and removed layers are skipped.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint
from nmtprune.model import EncoderOutput, Masks, Transformer
from nmtprune.plan import Plan

LENGTHS = (3, 9, 17, 24)
"""Source lengths of the batch in tokens; target lengths are the same in reverse order."""

_CHUNK = 1 << 24
"""Scores of this many words are compared at once, so that large vocabularies do not fill the memory."""


@dataclass(frozen=True)
class Verification:
    """How far the scores of a slim model are from those of its base without the removed units.

    Attributes:
        max_delta: largest absolute difference of two logits (log-probabilities of an adaptive softmax).
        max_logit: largest absolute logit of the base without them.
        tolerance: what `max_delta` may be: 1e-5 x max(1, max_logit), 1e-9 x that in double precision.
        ok: it is not more; false also where a score is no number.
    """

    max_delta: float
    max_logit: float
    tolerance: float
    ok: bool

    def raise_if_different(self) -> None:
        """Raise CheckpointError unless `ok`."""
        if not self.ok:
            raise CheckpointError(
                f"verification failed: logits of the result differ by up to {self.max_delta:.3g} from those of the "
                f"masked checkpoint (allowed {self.tolerance:.3g}); are there weights that are not finite? Otherwise "
                "this is a bug"
            )


def verify(base: Checkpoint, slim: Checkpoint, plan: Plan, *, seed: int = 1, device: str = "cpu") -> Verification:
    """Compare a slim checkpoint with its base, masked by the plan, on a padded batch of random tokens.

    Layers that the plan removes are the identity. Weights in half precision are compared in single precision.

    Args:
        base: the checkpoint that the plan was made for.
        slim: what became of it: cut, masked or uniform.
        plan: the heads, neurons and layers that stay.
        seed: of the tokens.
        device: where to compute.

    Raises:
        CheckpointError: the native model cannot run one of the two.
    """
    dtype = None if _is_double(base) else torch.float32
    expected, masks = native.with_kept(native.load(base, device, dtype), plan.kept_units)
    return compare(expected, native.load(slim, device, dtype), masks, seed=seed)


def compare(expected: Transformer, found: Transformer, masks: Masks | None = None, *, seed: int = 1) -> Verification:
    """Compare the logits of two models, the first one with `masks`, on a padded batch of random tokens."""
    models = expected, found
    source, target = batch(models[0], seed)
    max_delta = max_logit = 0.0
    with torch.inference_mode():
        features = [
            model.features(target, _encoded(model, source, chosen), chosen)
            for model, chosen in zip(models, (masks, None), strict=True)
        ]
        for rows in _chunks(models[0], target):
            wanted, there = (model.output(own[rows]) for model, own in zip(models, features, strict=True))
            max_delta = _larger(max_delta, (there - wanted).abs().max())
            max_logit = _larger(max_logit, wanted.abs().max())
    tolerance = (1e-9 if models[0].dtype == torch.float64 else 1e-5) * max(1.0, max_logit)
    return Verification(max_delta, max_logit, tolerance, max_delta <= tolerance)


def batch(model: Transformer, seed: int) -> tuple[Tensor | None, Tensor]:
    """Random source [B, S], padded on the left, and target [B, T], padded on the right, of several lengths.

    No sentence is longer than the model allows; a language model has no source.
    """
    generator = torch.Generator().manual_seed(seed)
    eos, (source_limit, target_limit) = model.network.eos, model.max_positions
    source_words, target_words = model.words
    target = [
        torch.cat([torch.tensor([eos]), _words(model, target_words, min(length, target_limit) - 1, generator)])
        for length in reversed(LENGTHS)
    ]
    padding = max(model.network.padding, 0)
    padded = torch.nn.utils.rnn.pad_sequence(target, batch_first=True, padding_value=padding)
    if model.encoder is None:
        return None, padded.to(model.device)
    source = [
        torch.cat([_words(model, source_words, min(length, source_limit) - 1, generator), torch.tensor([eos])])
        for length in LENGTHS
    ]
    flipped = [sentence.flip(0) for sentence in source]
    left = torch.nn.utils.rnn.pad_sequence(flipped, batch_first=True, padding_value=padding).flip(1)
    return left.to(model.device), padded.to(model.device)


def _words(model: Transformer, words: int, count: int, generator: torch.Generator) -> Tensor:
    """Token ids [count] other than padding."""
    padding = model.network.padding
    drawn = torch.randint(words - (padding >= 0), (max(count, 0),), generator=generator)
    return drawn + (drawn >= padding) if padding >= 0 else drawn


def _encoded(model: Transformer, source: Tensor | None, masks: Masks | None) -> EncoderOutput | None:
    return None if source is None else model.encode(source, masks)


def _chunks(model: Transformer, target: Tensor) -> Iterator[slice]:
    size = max(1, _CHUNK // (model.words[1] * target.shape[1]))
    return (slice(start, start + size) for start in range(0, target.shape[0], size))


def _larger(largest: float, found: Tensor) -> float:
    """The larger of two; not a number where one is not."""
    value = float(found)
    return max(largest, value) if not math.isnan(value) and not math.isnan(largest) else math.nan


def _is_double(checkpoint: Checkpoint) -> bool:
    return any(tensor.dtype == torch.float64 for tensor in checkpoint.model_tensors.values())
