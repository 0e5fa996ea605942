"""Losses of references under many head masks: what comes before the first masked module is computed once."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.ablation.shared_prefix import EncoderPass, HeadMasks
from nmtprune.model.attention import Probe
from nmtprune.model.decoder_state import Pass
from nmtprune.model.layers import DecoderLayer
from nmtprune.model.source_cache import SourceCache
from nmtprune.model.transformer import Transformer

_PART_TOKENS = {"cpu": 4096}
_MANY_TOKENS = 16384
"""Tokens of a part of a batch: on a CPU its states stay in the cache."""

_BLOCK_BYTES = {"cpu": 4 << 20}
_LARGE_BLOCK_BYTES = 256 << 20
"""Logits that are there at one time; on a CPU they stay in the cache."""


@torch.no_grad()
def reference_losses(
    model: Transformer, source: Tensor, previous: Tensor, target: Tensor, systems: Sequence[HeadMasks]
) -> Tensor:
    """Negative log-likelihood of references, summed over their tokens, under each of several systems of masks.

    Args:
        model: an encoder-decoder model.
        source: [B, S] token ids.
        previous: [B, T] decoder input: the reference shifted right.
        target: [B, T] token ids of the reference.
        systems: masks [H] of zeros and ones by module; best those of one module, which share most.

    Returns:
        [systems, B] in nats, float64.
    """
    source, previous, target = (tokens.to(model.device) for tokens in (source, previous, target))
    real = target != model.network.padding
    losses = torch.zeros(len(systems), len(target), dtype=torch.float64, device=model.device)
    for rows in _parts(real.sum(1), _PART_TOKENS.get(model.device.type, _MANY_TOKENS)):
        columns = _used(real[rows])
        part = _References(model, target[rows, columns], real[rows, columns])
        own = source[rows][:, _used(source[rows] != model.network.padding)]
        for first, numbers in _by_first_module(systems, model):
            teacher = ReferencePass(model, own, previous[rows, columns], first)
            for number in numbers:
                losses[number, rows] = part.losses(teacher.features(systems[number]))
    return losses


class ReferencePass:
    """Runs references through a model under different masks, from the first masked module on."""

    def __init__(self, model: Transformer, source: Tensor, previous: Tensor, first: ModuleId | None) -> None:
        """Compute what comes before the heads of `first` are joined.

        Args:
            model: an encoder-decoder model.
            source: [B, S] token ids.
            previous: [B, T] decoder input.
            first: the first module, as they are computed, that masks change; None for masks that change nothing.
        """
        self._model, self._previous = model, previous
        self._layers = tuple(cast(Iterable[DecoderLayer], model.decoder.layers))
        self._encoder = EncoderPass(model, source, first) if first is not None and first.kind == "encoder" else None
        self._source_cache = None if self._encoder is not None else model.cache_source(model.encode(source))
        # The first self-attention of the decoder, where there is one, sees nothing of the encoder, unless it is joint.
        self._entry = ModuleId("decoder", 0) if first is None or first.kind == "encoder" else first
        self._place = 0 if self._entry is not first else model.decoder.position(first.layer)
        whole = model.network.joint_attention or model.network.decoder.recurrent
        at_start = first is None or (self._encoder is not None and whole)
        self._states: Tensor | None = None
        self._context: Tensor | None = None
        if not at_start:
            self._states, self._context = self._begin()

    def features(self, masks: HeadMasks) -> Tensor:
        """What the output layer takes, [B, T, E]."""
        source_cache = self._source_cache
        if source_cache is None:
            source_cache = self._model.cache_source(cast(EncoderPass, self._encoder).masked(masks))
        if self._states is None:
            return self._model.features(self._previous, source_cache, masks)
        x = self._end_of_layer(self._states, source_cache, Probe(masks))
        return self._model.features(self._previous, source_cache, run=Pass(masks, first=self._place + 1, start=x))

    def _begin(self) -> tuple[Tensor, Tensor | None]:
        """States [B, T, D] before the entry module, and what its heads make of the values, [B, T, H, K]."""
        decoder, source_cache, plain = self._model.decoder, self._source_cache, Probe()
        step, padding = decoder.place(self._previous, source_cache, Pass())
        x = decoder.embedding(self._previous, padding)
        for layer in self._layers[: self._place]:
            x = layer(x, step, source_cache, plain)
        layer = self._layers[self._place]
        if self._entry.kind == "decoder":
            attention = layer.self_attention
            if not attention.heads:
                return x, None
            queries, keys_values = attention.project(layer.around_self.before(x))
            return x, attention.context(queries, layer.behind(keys_values, source_cache), step.visible, plain)
        x = layer.around_self.after(x, layer.attend_to_self(x, step, source_cache, plain))
        cross, around = layer.cross_attention, layer.around_cross
        if cross is None or around is None or source_cache is None:
            raise ValueError(f"the model has no {self._entry}")
        keys_values = cast(Tensor, source_cache.cross[self._place])
        return x, cross.context(cross.queries(around.before(x)), keys_values, source_cache.visible, plain)

    def _end_of_layer(self, x: Tensor, source_cache: SourceCache, probe: Probe) -> Tensor:
        """States [B, T, D] after the layer of the entry module."""
        layer, context = self._layers[self._place], self._context
        cross, around = layer.cross_attention, layer.around_cross
        if self._entry.kind == "cross" and context is not None and cross is not None and around is not None:
            return layer.above_cross(around.after(x, cross.output(context, probe)))
        attention = layer.self_attention
        update = attention.nothing(x) if context is None else attention.output(context, probe)
        return layer.above_self(layer.around_self.after(x, update), source_cache, probe)


class _References:
    """The words that some sentences are scored on."""

    def __init__(self, model: Transformer, target: Tensor, real: Tensor) -> None:
        """Take targets [B, T] and which of them are no padding."""
        self._model, self._real, self._words = model, real, target[real]
        logits_bytes = model.words[1] * max(4, model.dtype.itemsize)
        self._block = max(1, _BLOCK_BYTES.get(model.device.type, _LARGE_BLOCK_BYTES) // logits_bytes)

    def losses(self, features: Tensor) -> Tensor:
        """Loss of each sentence, [B], from features [B, T, E]."""
        found = features[self._real]
        by_word = [
            self._losses(found[begin : begin + self._block], self._words[begin : begin + self._block])
            for begin in range(0, len(found), self._block)
        ]
        by_token = torch.zeros(self._real.shape, dtype=torch.float64, device=features.device)
        by_token[self._real] = torch.cat(by_word).double()
        return by_token.sum(1)

    def _losses(self, features: Tensor, words: Tensor) -> Tensor:
        """Loss of each word [N] from features [N, E]."""
        scores = self._model.output(features)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if self._model.normalized:
            return F.nll_loss(scores, words, reduction="none")
        return F.cross_entropy(scores, words, reduction="none")


def _by_first_module(systems: Sequence[HeadMasks], model: Transformer) -> Iterator[tuple[ModuleId | None, list[int]]]:
    """Numbers of the systems that change the same module first; None: nothing."""
    firsts = [
        min((id for id, mask in masks.items() if bool((mask != 1).any())), key=model.stage, default=None)
        for masks in systems
    ]
    order = sorted(range(len(systems)), key=lambda number: str(firsts[number]))
    for first, numbers in groupby(order, key=lambda number: firsts[number]):
        yield first, list(numbers)


def _parts(lengths: Tensor, tokens: int) -> Iterator[Tensor]:
    """Rows of a batch in groups of about one length [B], padded to no more tokens than that."""
    order = lengths.sort(stable=True).indices
    sizes = lengths[order].tolist()
    begin = 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or (end + 1 - begin) * sizes[end] > tokens or sizes[end] > 1.1 * sizes[begin] + 1:
            yield order[begin:end]
            begin = end


def _used(real: Tensor) -> slice:
    """The columns of a padded batch [B, T] that hold something."""
    places = real.any(0).nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, real.shape[1])
