"""One decoder step for hypotheses of any sentences and any head masks, all of one length."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.attention import Probe, Visible
from nmtprune.model.kernels import linear
from nmtprune.model.layers import DecoderLayer, RecurrentDecoderLayer
from nmtprune.model.search.hypothesis_cache import Buffers, HypothesisCache
from nmtprune.model.search.sources import ActiveSources, SourceCaches, SourceGroups
from nmtprune.model.source_cache import SourceCache
from nmtprune.model.transformer import Decoder, Transformer

_BLOCK_BYTES = 1 << 20
_FEWEST = 8
"""Keys and values are gathered for so many hypotheses at a time that they are still in the cache when they are used."""


def decoder_layers(decoder: Decoder) -> tuple[DecoderLayer, ...]:
    """The layers of a decoder."""
    return tuple(cast(Iterable[DecoderLayer], decoder.layers))


def finish(decoder: Decoder, x: Tensor) -> Tensor:
    """Features that the output layer takes, from the states [..., D] after the last layer."""
    if decoder.final_norm is not None:
        x = decoder.final_norm(x)
    return x if decoder.projection is None else linear(x, decoder.projection)


def caches(model: Transformer, layers: range, buffers: Buffers | None = None) -> HypothesisCache:
    """An empty cache for some of the decoder's layers, by position; `buffers` lend it memory."""
    kept = {layer: decoder_layers(model.decoder)[layer].kept_shape() for layer in layers}
    sizes = {layer: shape for layer, shape in kept.items() if shape is not None}
    like = next(model.decoder.parameters())
    return HypothesisCache(sizes, like.new_empty(0, dtype=model.dtype), buffers or Buffers())


@dataclass(frozen=True)
class NewTokens:
    """Hypotheses to extend.

    Attributes:
        tokens: [R], last token of each.
        nodes: [R], their own numbers.
        path: [R, t], nodes before them.
        search: [R], search of each; rising.
        source: [R], which sentence of the memories each translates; rising.
        system: [R], which of the head masks apply to each.
    """

    tokens: Tensor
    nodes: Tensor
    path: Tensor
    search: Tensor
    source: Tensor
    system: Tensor


class DecoderStep:
    """Runs the decoder on the last tokens of hypotheses whose earlier tokens it has seen."""

    def __init__(
        self,
        model: Transformer,
        source_caches: SourceCaches,
        masks: Mapping[ModuleId, Tensor],
        stores: Iterable[HypothesisCache],
        *,
        raw_keys: bool = False,
    ) -> None:
        """Prepare for sentences and masks.

        Args:
            model: the model.
            source_caches: of the sentences.
            masks: of decoder modules, [systems, H]; modules without an entry have no masked heads in any system.
            stores: caches; together they have all layers that keep anything.
            raw_keys: as for `DecoderLayer.project`.
        """
        self._model, self._masks, self._raw_keys = model, masks, raw_keys
        self._sources, self._stores = ActiveSources(source_caches), tuple(stores)

    def __call__(self, rows: NewTokens) -> Tensor:
        """Features [R, E] of the next word; what layers keep of the tokens stays for what follows."""
        decoder = self._model.decoder
        x = decoder.embedding(rows.tokens.unsqueeze(1), None, rows.path.shape[1])
        source_cache, groups = self._sources.of(rows.search, rows.source)
        probe = Probe({module: mask[rows.system] for module, mask in self._masks.items()})
        around = _Surroundings(groups, source_cache, probe, self._raw_keys)
        places = self._places(rows)
        for layer in decoder_layers(decoder):
            own = places.get(layer.position)
            if isinstance(layer, RecurrentDecoderLayer):
                x = _recur(layer, x, own)
            else:
                x = _attend_to_self(layer, x, own, around)
            x = layer.above_cross(_attend_to_source(layer, x, around))
        return finish(decoder, x).squeeze(1)

    def compact(self, nodes: Tensor) -> None:
        """Forget, where it is worth the while, what no path through these nodes needs."""
        for store in self._stores:
            store.compact(nodes)

    def _places(self, rows: NewTokens) -> "dict[int, _Places]":
        """By layer, where what it keeps of the hypotheses' tokens is, with room for the last ones."""
        found: dict[int, _Places] = {}
        for store in self._stores:
            new = store.reserve(rows.nodes.shape[0])
            store.assign(rows.nodes, torch.arange(new.start, new.stop, device=rows.nodes.device))
            whole = store.where(torch.cat([rows.path, rows.nodes.unsqueeze(1)], dim=1))
            found.update((layer, _Places(store, new, whole)) for layer in store.layers)
        return found


@dataclass(frozen=True)
class _Places:
    """Rows of a cache: those for the new tokens, and those of all tokens of each hypothesis, [R, t + 1]."""

    store: HypothesisCache
    new: range
    whole: Tensor


@dataclass(frozen=True)
class _Surroundings:
    """What all layers of a step have in common."""

    groups: SourceGroups
    source_cache: SourceCache
    probe: Probe
    raw_keys: bool

    def behind(self, layer: int, keys_values: Tensor, rows: slice) -> tuple[Tensor, Visible]:
        """Keys and values of some rows, behind those of the source where attention is joint, and what is seen."""
        joint, owner, bias = self.source_cache.joint[layer], self.groups.owner[rows], self.source_cache.visible.bias
        if joint is None:
            return keys_values, Visible()
        both = torch.cat([joint.index_select(1, owner), keys_values], dim=2)
        if bias is None:
            return both, Visible()
        own = bias.new_zeros(len(owner), 1, 1, keys_values.shape[2])
        return both, Visible(torch.cat([bias.index_select(0, owner), own], dim=-1))


def _attend_to_self(layer: DecoderLayer, x: Tensor, places: _Places | None, around: _Surroundings) -> Tensor:
    """States after self-attention."""
    attention = layer.self_attention
    if places is None:
        return layer.around_self.after(x, attention.nothing(x))
    queries, keys_values, first = layer.project(x, raw_keys=around.raw_keys)
    places.store.store(layer.position, places.new, keys_values)
    rows, length = places.whole.shape
    size = 2 * length * attention.inner * x.element_size()
    block = max(_FEWEST, _BLOCK_BYTES // size) if x.device.type == "cpu" else rows
    contexts = []
    for begin in range(0, rows, block):
        part = slice(begin, begin + block)
        keys_values = places.store.read(layer.position, places.whole[part])
        keys_values, visible = around.behind(layer.position, keys_values, part)
        contexts.append(attention.context(queries[part], keys_values, visible, Probe()))
    context = contexts[0] if len(contexts) == 1 else torch.cat(contexts)
    if first is not None and length == 1:
        context = first
    return layer.around_self.after(x, attention.output(context, around.probe))


def _recur(layer: RecurrentDecoderLayer, x: Tensor, places: _Places | None) -> Tensor:
    """States after a recurrence."""
    if places is None:
        raise ValueError(f"no cache for the cells of decoder layer {layer.position}")
    before = None
    if places.whole.shape[1] > 1:
        before = places.store.read(layer.position, places.whole[:, -2:-1]).flatten(0, 3)
    update = layer.recurrence.project(layer.around_self.before(x))
    cells = update.after(before)
    places.store.store(layer.position, places.new, cells[None, :, :, None])
    return layer.around_self.after(x, layer.recurrence.output(cells))


def _attend_to_source(layer: DecoderLayer, x: Tensor, around: _Surroundings) -> Tensor:
    """States after cross-attention; rows of one sentence share its keys."""
    attention, residual, keys_values = (
        layer.cross_attention,
        layer.around_cross,
        around.source_cache.cross[layer.position],
    )
    if attention is None or residual is None:
        return x
    if not attention.heads or keys_values is None:
        return residual.after(x, attention.nothing(x))
    queries = around.groups.spread(attention.queries(residual.before(x)))
    context = around.groups.gather(attention.context(queries, keys_values, around.source_cache.visible, Probe()))
    return residual.after(x, attention.output(context, around.probe))
