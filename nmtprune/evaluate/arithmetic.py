"""Multiply-accumulates of a translation, from head counts and real lengths: what a smaller model can gain at most."""

from collections.abc import Iterable, Sequence
from typing import cast

from nmtprune.model import Transformer
from nmtprune.model.layers import DecoderLayer, EncoderLayer, RecurrentDecoderLayer

PARTS = ("encoder attention", "decoder attention", "cross attention", "recurrence", "feed-forward", "output")


def multiply_accumulates(
    model: Transformer, sources: Sequence[int], targets: Sequence[int], beam: int
) -> dict[str, float]:
    """Multiply-accumulates by part of the model: projections, attention, feed-forward and output layer.

    Every sentence counts with its own lengths, without padding; every step of its translation has `beam` hypotheses.

    Args:
        model: with an encoder.
        sources: S of each sentence, the end-of-sentence symbol included.
        targets: T of each translation, likewise.
        beam: hypotheses per sentence.
    """
    found = dict.fromkeys(PARTS, 0.0)
    source, target = float(sum(sources)), float(sum(targets))
    square = float(sum(length * length for length in sources))
    so_far = sum(length * (length + 1) / 2 for length in targets)
    crossed = float(sum(a * b for a, b in zip(sources, targets, strict=True)))
    if model.encoder is not None:
        width = model.encoder.embedding.width
        for layer in cast(Iterable[EncoderLayer], model.encoder.layers):
            inner = layer.self_attention.inner
            found["encoder attention"] += 4 * width * inner * source + 2 * inner * square
            found["feed-forward"] += 2 * layer.feed_forward.input_weight.numel() * source
    for decoder_layer in cast(Iterable[DecoderLayer], model.decoder.layers):
        _add_decoder_layer(found, decoder_layer, (source, beam * target, beam * so_far, beam * crossed))
    found["output"] += float(sum(weight.numel() for weight in model.output.parameters() if weight.dim() == 2)) * (
        beam * target
    )
    return found


def _add_decoder_layer(
    found: dict[str, float], layer: DecoderLayer, lengths: tuple[float, float, float, float]
) -> None:
    """Add a layer's: `lengths` are source tokens, steps, words seen by steps, source tokens seen by steps."""
    source, steps, so_far, crossed = lengths
    if isinstance(layer, RecurrentDecoderLayer):
        matrices = 2 + (layer.recurrence.output_weight is not None)
        found["recurrence"] += matrices * layer.recurrence.weight.numel() * steps
    else:
        attention = layer.self_attention
        weights = attention.input_weight.numel() + attention.output_weight.numel()
        found["decoder attention"] += weights * steps + 2 * attention.inner * so_far
    cross = layer.cross_attention
    if cross is not None:
        per_step = cross.query_weight.numel() + cross.output_weight.numel()
        found["cross attention"] += cross.source_weight.numel() * source + per_step * steps + 2 * cross.inner * crossed
    found["feed-forward"] += 2 * layer.feed_forward.input_weight.numel() * steps
