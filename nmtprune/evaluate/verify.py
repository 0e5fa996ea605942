"""Proof that cutting changed nothing else: the slim model against its base without the removed units.

In the base, removed heads and neurons are masked and removed layers are skipped. Logits do not tell of neurons that are
silent on the batch, with ReLU often more than a third: feed-forward layers are also compared one by one, on inputs so
large that every neuron fires.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint
from nmtprune.model import Classifier, EncoderOutput, MaskedWords, Masks, Transformer
from nmtprune.model.layers import LayerStack
from nmtprune.model.output import AdaptiveOutput, LinearOutput
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.sublayers import FeedForward
from nmtprune.plan import Plan

LENGTHS = (3, 9, 17, 24)
"""Source lengths of the batch in tokens; target lengths are the same in reverse order."""

_INPUTS = 128
"""Random inputs of each feed-forward layer. A neuron fires on each with a probability of at least 0.16."""

_Encoder = Classifier | MaskedWords
_Model = Transformer | _Encoder

_CHUNK = 1 << 24
"""Scores of this many words are compared at once, so that large vocabularies do not fill the memory."""


@dataclass(frozen=True)
class Verification:
    """How far the scores of a slim model are from those of its base without the removed units.

    Attributes:
        max_delta: largest absolute difference of two logits (log-probabilities of an adaptive softmax), or of two
            outputs of a feed-forward layer on random inputs, scaled as if its largest output were `max_logit`.
        max_logit: largest absolute logit of the base without them.
        tolerance: what `max_delta` may be: 1e-5 x max(1, max_logit), 1e-9 x that in double precision.
        ok: it is not more; false also where a score is no number or the numbers of layers differ.
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
    if base.encoder_only:
        encoder, masks = native.with_kept(native.load_encoder(base, device, dtype), plan.kept_units)
        base.release()
        read = _texts_outcome(encoder, masks, seed)
        del encoder
        base.release()  # only one of the two models is in memory at a time
        return _compared_texts(read, _texts_outcome(native.load_encoder(slim, device, dtype), {}, seed, read))
    expected, masks = native.with_kept(native.load(base, device, dtype), plan.kept_units)
    base.release()
    wanted = _outcome(expected, masks, seed)
    del expected
    base.release()  # only one of the two models is in memory at a time
    return _compared(wanted, _outcome(native.load(slim, device, dtype), {}, seed, wanted))


def compare(expected: _Model, found: _Model, masks: Masks | None = None, *, seed: int = 1) -> Verification:
    """Compare two models of one kind, the first with `masks`: logits on random tokens; feed-forward layers."""
    if isinstance(expected, Transformer) and isinstance(found, Transformer):
        wanted = _outcome(expected, masks or {}, seed)
        return _compared(wanted, _outcome(found, {}, seed, wanted))
    if isinstance(expected, Transformer) or isinstance(found, Transformer):
        raise ValueError("a translation model and an encoder alone")
    read = _texts_outcome(expected, masks or {}, seed)
    return _compared_texts(read, _texts_outcome(found, {}, seed, read))


@dataclass(frozen=True)
class _Inner:
    """What the feed-forward layers of a model make of loud inputs.

    Attributes:
        inputs: [1, N, D], by feed-forward layer of each stack.
        outputs: [1, N, D], likewise.
    """

    inputs: list[list[Tensor]]
    outputs: list[list[Tensor]]


def _inner(model: _Model, masks: Masks, seed: int, like: _Inner | None) -> _Inner:
    """Run feed-forward layers one by one, on the inputs of those of another model if there is one."""
    layers = [list(_feed_forwards(stack)) for stack in model.stacks.values()]
    inputs = [[_loud_inputs(each, seed) for each in own] for own in layers] if like is None else like.inputs
    outputs = [
        [_outputs(each, loud, masks) for each, loud in zip(own, given, strict=False)]
        for own, given in zip(layers, inputs, strict=True)
    ]
    whole = [[*own, *[torch.zeros(())] * (len(there) - len(own))] for own, there in zip(outputs, layers, strict=True)]
    return _Inner(inputs, whole)


@dataclass(frozen=True)
class _Outcome:
    """What a model makes of the batch, and its feed-forward layers of loud inputs.

    Attributes:
        tokens: source [B, S] and target [B, T] of the batch.
        features: [B, T, E], which the output layer takes.
        output: that layer.
        inner: of the feed-forward layers.
    """

    tokens: tuple[Tensor | None, Tensor]
    features: Tensor
    output: LinearOutput | AdaptiveOutput
    inner: _Inner


def _outcome(model: Transformer, masks: Masks, seed: int, like: _Outcome | None = None) -> _Outcome:
    """Run a model with masks, on the inputs of another one if there is one."""
    source, target = tokens = batch(model, seed) if like is None else like.tokens
    with torch.inference_mode():
        features = model.features(target, _encoded(model, source, masks), masks)
    return _Outcome(tokens, features, model.output, _inner(model, masks, seed, like.inner if like else None))


def _compared(wanted: _Outcome, found: _Outcome) -> Verification:
    max_delta = max_logit = 0.0
    with torch.inference_mode():
        for rows in _chunks(wanted):
            own, there = (each.output(each.features[rows]) for each in (wanted, found))
            max_delta = _larger(max_delta, (there - own).abs().max())
            max_logit = _larger(max_logit, own.abs().max())
    return _verified(max_delta, max_logit, _feed_forward_delta(wanted.inner, found.inner), wanted.features.dtype)


@dataclass(frozen=True)
class _TextsOutcome:
    """What an encoder alone makes of random texts, and its feed-forward layers of loud inputs.

    Attributes:
        texts: tokens [B, S] and their segments [B, S].
        logits: [B, C] of the labels, or [B, S, V] of the words at every place.
        inner: of the feed-forward layers.
    """

    texts: tuple[Tensor, Tensor | None]
    logits: Tensor
    inner: _Inner


def _texts_outcome(model: _Encoder, masks: Masks, seed: int, like: _TextsOutcome | None = None) -> _TextsOutcome:
    """Run an encoder with masks, on the inputs of another one if there is one."""
    tokens, segments = own = texts(model, seed) if like is None else like.texts
    with torch.inference_mode():
        logits = model(tokens, segments, masks)
    return _TextsOutcome(own, logits, _inner(model, masks, seed, like.inner if like else None))


def _compared_texts(wanted: _TextsOutcome, found: _TextsOutcome) -> Verification:
    delta, largest = (_larger(0.0, each.abs().max()) for each in (found.logits - wanted.logits, wanted.logits))
    return _verified(delta, largest, _feed_forward_delta(wanted.inner, found.inner), wanted.logits.dtype)


def _verified(max_delta: float, max_logit: float, inner_delta: Tensor, dtype: torch.dtype) -> Verification:
    """The verdict on differences of logits, and of feed-forward layers as a share of their outputs."""
    max_delta = _larger(max_delta, inner_delta * max(1.0, max_logit))
    tolerance = (1e-9 if dtype == torch.float64 else 1e-5) * max(1.0, max_logit)
    return Verification(max_delta, max_logit, tolerance, max_delta <= tolerance)


def _feed_forward_delta(wanted: _Inner, found: _Inner) -> Tensor:
    """Largest difference of outputs of feed-forward layers in the same place, as a share of the largest output."""
    worst = torch.zeros(())
    for own, there in zip(wanted.outputs, found.outputs, strict=True):
        if len(own) != len(there):
            return torch.tensor(math.inf)
        for expected, other in zip(own, there, strict=True):
            delta = (other - expected).abs().max() / expected.abs().max().clamp_min(1.0)
            worst = torch.where(delta.isnan(), delta, torch.maximum(worst.to(delta), delta))
            if worst.isnan():
                return worst
    return worst


def _feed_forwards(stack: LayerStack) -> Iterator[FeedForward]:
    """The feed-forward layers of a stack; tied ones at each of their places."""
    for layer in stack.layers:
        yield from (sub.body for sub in layer.sublayers if isinstance(sub.body, FeedForward))


def _loud_inputs(body: FeedForward, seed: int) -> Tensor:
    """Normal inputs [1, N, D], scaled so that no bias keeps a neuron from firing on some of them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(1, _INPUTS, body.input_weight.shape[1], generator=generator).to(body.input_weight)
    norms, biases = body.input_weight.norm(dim=1), body.input_bias.abs()
    ratios = biases[norms > 0] / norms[norms > 0]
    return drawn * (ratios.max().clamp_min(1.0) if len(ratios) else 1.0)


def _outputs(body: FeedForward, inputs: Tensor, masks: Masks) -> Tensor:
    """Outputs [1, N, D] of a feed-forward layer by itself."""
    with torch.inference_mode():
        scope = Scope(probe=Probe(masks), visible=Visible())
        return body.output(body.inner_values(inputs, inputs, scope, 0), scope.probe)


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


def texts(model: _Encoder, seed: int) -> tuple[Tensor, Tensor | None]:
    """Random tokens [B, S] of several lengths, padded on the right, and their segments [B, S], if the model has any.

    The second half of a text is in another segment than the first one.
    """
    generator = torch.Generator().manual_seed(seed)
    padding, stack = model.network.padding, model.network.encoder
    drawn = [_words(model, model.words, min(length, stack.max_positions), generator) for length in LENGTHS]
    tokens = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True, padding_value=padding)
    second = torch.arange(tokens.shape[1]) >= torch.tensor([len(own) for own in drawn]).unsqueeze(1) // 2
    segments = second.long() * min(1, stack.segments - 1)
    return tokens.to(model.device), segments.to(model.device) if stack.segments else None


def _words(model: _Model, words: int, count: int, generator: torch.Generator) -> Tensor:
    """Token ids [count] other than padding."""
    padding = model.network.padding
    drawn = torch.randint(words - (padding >= 0), (max(count, 0),), generator=generator)
    return drawn + (drawn >= padding) if padding >= 0 else drawn


def _encoded(model: Transformer, source: Tensor | None, masks: Masks) -> EncoderOutput | None:
    return None if source is None else model.encode(source, masks)


def _chunks(outcome: _Outcome) -> Iterator[slice]:
    rows, length = outcome.features.shape[:2]
    size = max(1, _CHUNK // (outcome.output.words * length))
    return (slice(start, start + size) for start in range(0, rows, size))


def _larger(largest: float, found: Tensor) -> float:
    """The larger of two; not a number where one is not."""
    value = float(found)
    return max(largest, value) if not math.isnan(value) and not math.isnan(largest) else math.nan


def _is_double(checkpoint: Checkpoint) -> bool:
    return any(tensor.dtype == torch.float64 for tensor in checkpoint.model_tensors.values())
