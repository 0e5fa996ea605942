"""One decoder step for hypotheses of any sentences and any masks, all of one length."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.attention import Attention
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.search.hypothesis_cache import Buffers, HypothesisCache
from nmtprune.model.search.sources import ActiveSources, SourceCaches, SourceGroups
from nmtprune.model.transformer import Transformer

_BLOCK_BYTES = 1 << 20
_FEWEST = 8
"""Keys and values are gathered for a few hypotheses at a time: they are then still in the cache when they are used."""


def empty_cache(model: Transformer, layers: range, buffers: Buffers | None = None) -> HypothesisCache:
    """An empty cache for some of the decoder's layers, by position; `buffers` lend it memory."""
    kept = {layer: model.decoder.layers[layer].kept_shape() for layer in layers}
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
        source: [R], which sentence of the source caches each translates; rising.
        system: [R], which masks apply to each.
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
        masks: Mapping[GroupId, Tensor],
        stores: Iterable[HypothesisCache],
        *,
        raw_keys: bool = False,
    ) -> None:
        """Prepare for sentences and masks.

        Args:
            model: the model.
            source_caches: of the sentences.
            masks: of the decoder, [systems, H] or [systems, F]; groups without an entry lose nothing in any system.
            stores: caches; together they have all layers that keep anything.
            raw_keys: as for `Scope`.
        """
        self._model, self._masks, self._raw_keys = model, masks, raw_keys
        self._sources, self._stores = ActiveSources(source_caches), tuple(stores)

    def __call__(self, rows: NewTokens) -> Tensor:
        """Features [R, E] of the next word; what layers keep of the tokens stays for what follows."""
        decoder = self._model.decoder
        x = decoder.embedding(rows.tokens.unsqueeze(1), None, rows.path.shape[1])
        source, groups = self._sources.of(rows.search, rows.source)
        scope = _HypothesisScope(
            probe=Probe({group: mask[rows.system] for group, mask in self._masks.items()}),
            visible=Visible(),
            source=source,
            raw_keys=self._raw_keys,
            groups=groups,
            places=self._places(rows),
        )
        return decoder.finish(decoder.run(x, scope)).squeeze(1)

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


@dataclass(frozen=True, kw_only=True)
class _HypothesisScope(Scope):
    """The scope of the last tokens of hypotheses, which all see the whole of theirs.

    Attributes:
        groups: which hypotheses share a sentence of the source.
        places: by the position of a layer, where what it keeps of the tokens is.
    """

    groups: SourceGroups
    places: Mapping[int, _Places]

    def attend(self, attention: Attention, queries: Tensor, keys_values: Tensor, position: int) -> Tensor:
        """Contexts [R, 1, H, K] of self-attention, for as many hypotheses at a time as the cache has room for."""
        self.keep(keys_values, position)
        places = self.places[position]
        rows, length = places.whole.shape
        size = 2 * length * attention.inner * queries.element_size()
        block = max(_FEWEST, _BLOCK_BYTES // size) if queries.device.type == "cpu" else rows
        contexts = []
        for begin in range(0, rows, block):
            part = slice(begin, begin + block)
            keys_values, visible = self._behind_source(places.store.read(position, places.whole[part]), position, part)
            contexts.append(attention.context(queries[part], keys_values, visible, Probe()))
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [R, 1, H, K]: those of `alone` where the hypotheses have no tokens before."""
        return alone if next(iter(self.places.values())).whole.shape[1] == 1 else context

    def attend_to_source(self, attention: Attention, queries: Tensor, position: int) -> Tensor:
        """Contexts [R, 1, H, K] of cross-attention; hypotheses of one sentence share its keys."""
        keys_values = None if self.source is None else self.source.cross[position]
        if self.source is None or keys_values is None:
            raise ValueError(f"{attention.id} has no source to attend to")
        spread = self.groups.spread(queries)
        return self.groups.gather(attention.context(spread, keys_values, self.source.visible, Probe()))

    def keep(self, kept: Tensor, position: int) -> None:
        """Keep what a layer has of each hypothesis."""
        places = self.places[position]
        places.store.store(position, places.new, kept)

    def cell_before(self, position: int) -> Tensor | None:
        """The cells [R, D] of the hypotheses one token shorter; None for zeros."""
        places = self.places[position]
        if places.whole.shape[1] == 1:
            return None
        return places.store.read(position, places.whole[:, -2:-1]).flatten(0, 3)

    def _behind_source(self, keys_values: Tensor, position: int, rows: slice) -> tuple[Tensor, Visible]:
        """Keys and values of some rows, behind those of the source where attention is joint, and which are seen."""
        joint = None if self.source is None else self.source.joint[position]
        if self.source is None or joint is None:
            return keys_values, Visible()
        owner, bias = self.groups.owner[rows], self.source.visible.bias
        both = torch.cat([joint.index_select(1, owner), keys_values], dim=2)
        if bias is None:
            return both, Visible()
        own = bias.new_zeros(len(owner), 1, 1, keys_values.shape[2])
        return both, Visible(torch.cat([bias.index_select(0, owner), own], dim=-1))
