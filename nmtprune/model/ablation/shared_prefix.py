"""Passes that share what masks do not change: all that is computed before the first module whose heads are masked."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.ablation.record import RecordedSearch, SentenceBlock, TokenTree, TreeLevels
from nmtprune.model.attention import Probe, Visible
from nmtprune.model.decoder_state import Pass, Step
from nmtprune.model.layers import EncoderLayer
from nmtprune.model.recurrence import Update
from nmtprune.model.search.decoder_step import decoder_layers, finish
from nmtprune.model.search.hypothesis_cache import HypothesisCache
from nmtprune.model.source_cache import EncoderOutput, SourceCache
from nmtprune.model.transformer import Transformer

_PART_TOKENS = 2048
_FEWEST_ROWS = 16

HeadMasks = Mapping[ModuleId, Tensor]
"""Masks [H] by module: the same for all sentences."""


@dataclass(frozen=True)
class _Part:
    """Sentences of a batch of about one length, without most of their padding.

    Attributes:
        rows: [b], which they are.
        columns: where their tokens are.
        source: [b, s] tokens.
        states: [b, s, D], input of the first masked layer.
        context: [b, s, H, K], what the heads of the first masked module make of the values.
    """

    rows: Tensor
    columns: slice
    source: Tensor
    states: Tensor
    context: Tensor


class EncoderPass:
    """Encodes a batch under different masks of encoder modules, from the first one on."""

    def __init__(self, model: Transformer, source: Tensor, first: ModuleId) -> None:
        """Compute what comes before the heads of `first` are joined.

        Args:
            model: with an encoder.
            source: [B, S] tokens.
            first: the first encoder module that masks name.
        """
        if model.encoder is None:
            raise ValueError("a language model has no encoder")
        self._model, self._encoder, self._number = model, model.encoder, first.layer
        self._layers = tuple(cast(Iterable[EncoderLayer], model.encoder.layers))
        self._shape, self._padding = source.shape, model.encoder.embedding.padding_of(source)
        self._parts = [self._part(source, rows) for rows in _by_length(source, self._padding)]

    def masked(self, masks: HeadMasks) -> EncoderOutput:
        """The encoder's output; zeros for padding."""
        layer = self._layers[self._number]
        states = self._parts[0].states.new_zeros(*self._shape, self._parts[0].states.shape[-1])
        for part in self._parts:
            update = layer.self_attention.output(part.context, Probe(masks))
            x = layer.above_self(layer.around_self.after(part.states, update))
            run = Pass(masks, first=self._number + 1, start=x)
            states[part.rows, part.columns] = self._model.encode(part.source, run=run).states
        return EncoderOutput(states, self._padding)

    def _part(self, source: Tensor, rows: Tensor) -> _Part:
        columns = slice(0, source.shape[1])
        if self._padding is not None:
            used = (~self._padding[rows]).any(0).nonzero()
            columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else columns
        tokens = source[rows, columns]
        x, padding = self._encoder.embed(tokens)
        visible = Visible.all_but(padding, x.dtype)
        for layer in self._layers[: self._number]:
            x = layer(x, visible, Probe())
        layer = self._layers[self._number]
        queries, keys_values = layer.self_attention.project(layer.around_self.before(x))
        return _Part(rows, columns, tokens, x, layer.self_attention.context(queries, keys_values, visible, Probe()))


def _by_length(source: Tensor, padding: Tensor | None) -> list[Tensor]:
    """Rows of a batch [B, S] in groups of about one length."""
    count, width = source.shape
    lengths = torch.full((count,), width) if padding is None else (~padding).sum(1).cpu()
    order = lengths.sort(stable=True).indices
    sizes = lengths[order].tolist()
    groups, begin = [], 0
    for end in range(1, count + 1):
        # Attention without padding takes half the time, but small parts pay for every operation.
        most = sizes[begin] if end - begin >= _FEWEST_ROWS else 1.1 * sizes[begin] + 1
        if end == count or (end + 1 - begin) * sizes[end] > _PART_TOKENS or sizes[end] > most:
            groups.append(order[begin:end].to(source.device))
            begin = end
    return groups


@dataclass(frozen=True)
class _TreeStep(Step):
    """A step over hypotheses of a trellis that leaves what layers keep of them in rows of a cache, from `row` on."""

    store: HypothesisCache | None = None
    row: int = 0
    levels: TreeLevels | None = None

    def keep(self, layer: int, keys_values: Tensor) -> Tensor:
        """Keys and values of the layer, as they are."""
        if self.store is not None and layer in self.store.layers:
            rows = keys_values.shape[1] * keys_values.shape[2]
            self.store.store(layer, range(self.row, self.row + rows), keys_values)
        return keys_values

    def recur(self, layer: int, update: Update) -> Tensor:
        """Cells [B, n, D] of a recurrent layer, each from that of the hypothesis one token shorter."""
        if self.levels is None:
            raise ValueError("hypotheses without parents")
        cells = self.levels.cells(update)
        self.keep(layer, cells[None, :, :, None])
        return cells

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [B, n, H, K] in which hypotheses without tokens have those of `alone`."""
        if self.levels is None:
            raise ValueError("hypotheses without parents")
        roots = self.levels.roots.view(context.shape[:2])
        return torch.where(roots[:, :, None, None], alone, context)


@dataclass(frozen=True)
class _Prefix:
    """What all masks have in common, for a group of sentences.

    Attributes:
        group: the sentences.
        visible: what hypotheses see of each other.
        levels: which continues which; None where only attention asks for that.
        states: [B, n, D], residual input of the first masked module.
        context: [B, n, H, K], what its heads make of the values; None where masks begin in the encoder.
    """

    group: SentenceBlock
    visible: Visible
    levels: TreeLevels | None
    states: Tensor
    context: Tensor | None


class TreePass:
    """Runs the decoder over all hypotheses of a trellis, under different masks.

    Attributes:
        shared: decoder layers whose keys and values are the same under all masks.
    """

    def __init__(
        self, model: Transformer, token_tree: TokenTree, modules: Collection[ModuleId], *, raw_keys: bool = False
    ) -> None:
        """Prepare for masks that change no other modules than these; `raw_keys` as for `DecoderLayer.project`."""
        self._model, self._token_tree, self._raw_keys = model, token_tree, raw_keys
        self._layers = decoder_layers(model.decoder)
        self._first = min(modules, key=model.stage)
        self._entry = 0 if self._first.kind == "encoder" else model.decoder.position(self._first.layer)
        early = model.network.joint_attention or ModuleId("decoder", self._layers[0].layer) in modules
        self._at_start = self._first.kind == "encoder" and early
        self.shared = range(0 if self._at_start else self._entry + 1)
        self._prefixes: list[_Prefix] = []

    def enter(self, source_cache: SourceCache, store: HypothesisCache | None) -> None:
        """Compute what masks do not change; its keys and values go to rows of `store` that are those of the trellis."""
        for group in self._token_tree.groups:
            visible = self._token_tree.visible(group, self._model.dtype)
            asked = self._model.network.decoder.recurrent or self._raw_keys
            levels = self._token_tree.levels(group) if asked else None
            step = self._step(group, visible, levels, source_cache, store, group.rows.start)
            states, context = self._common(group, step, source_cache.narrow(group.sentences))
            self._prefixes.append(_Prefix(group, visible, levels, states, context))

    def masked(self, source_cache: SourceCache, masks: HeadMasks, store: HypothesisCache | None, row: int) -> Tensor:
        """Features [N, E] of all hypotheses; keys and values of the layers above go to `store`, from `row` on."""
        probe = Probe(masks)
        found = []
        for prefix in self._prefixes:
            group = prefix.group
            first = row + group.rows.start
            step = self._step(group, prefix.visible, prefix.levels, source_cache, store, first)
            x = self._leave(prefix, step, source_cache.narrow(group.sentences), probe)
            found.append(finish(self._model.decoder, x).flatten(0, 1))
        return torch.cat(found)

    def _step(
        self,
        group: SentenceBlock,
        visible: Visible,
        levels: TreeLevels | None,
        source_cache: SourceCache,
        store: HypothesisCache | None,
        row: int,
    ) -> _TreeStep:
        step = _TreeStep(visible, 0, group.size, None, self._raw_keys, store, row, levels)
        if any(found is not None for found in source_cache.joint):
            tokens = self._token_tree.token[group.rows].view(group.count, group.size)
            return cast(_TreeStep, step.behind(source_cache.narrow(group.sentences), tokens, self._model.dtype))
        return step

    def _common(self, group: SentenceBlock, step: Step, source_cache: SourceCache) -> tuple[Tensor, Tensor | None]:
        """Residual input [B, n, D] of the first masked module, and what its heads make of the values."""
        tokens, depth = self._token_tree.token[group.rows], self._token_tree.depth[group.rows]
        x = self._model.decoder.embedding(tokens.unsqueeze(1), None, depth.unsqueeze(1))
        x = x.view(group.count, group.size, -1)
        if self._at_start:
            return x, None
        for layer in self._layers[: self._entry]:
            x = layer(x, step, source_cache, Probe())
        layer = self._layers[self._entry]
        if self._first.kind == "decoder":
            queries, own, first = layer.project(x, raw_keys=self._raw_keys)
            own = layer.behind(step.keep(layer.position, own), source_cache)
            context = layer.self_attention.context(queries, own, step.visible, Probe())
            return x, context if first is None else step.with_first(context, first)
        x = layer.around_self.after(x, layer.attend_to_self(x, step, source_cache, Probe()))
        cross, around, keys_values = layer.cross_attention, layer.around_cross, source_cache.cross[layer.position]
        if self._first.kind == "encoder" or cross is None or around is None or keys_values is None:
            return x, None
        return x, cross.context(cross.queries(around.before(x)), keys_values, source_cache.visible, Probe())

    def _leave(self, prefix: _Prefix, step: Step, source_cache: SourceCache, probe: Probe) -> Tensor:
        """States [B, n, D] after the last layer."""
        x, layer = prefix.states, self._layers[self._entry]
        if self._at_start:
            x = layer(x, step, source_cache, probe)
        elif prefix.context is None:
            x = layer.above_self(x, source_cache, probe)
        elif self._first.kind == "decoder":
            x = layer.around_self.after(x, layer.self_attention.output(prefix.context, probe))
            x = layer.above_self(x, source_cache, probe)
        elif layer.around_cross is not None and layer.cross_attention is not None:
            x = layer.around_cross.after(x, layer.cross_attention.output(prefix.context, probe))
            x = layer.above_cross(x)
        for above in self._layers[self._entry + 1 :]:
            x = above(x, step, source_cache, probe)
        return x


class MaskedPasses:
    """Runs a chunk's hypotheses through the decoder under several systems of masks.

    Attributes:
        tree: the pass; says which layers all systems share.
        source_caches: the cache of all systems, or one of each where masks begin in the encoder; complete when all
            features have been taken.
    """

    def __init__(
        self, model: Transformer, recorded: RecordedSearch, systems: Sequence[HeadMasks], *, raw_keys: bool = False
    ) -> None:
        """Prepare for systems that all mask something; `raw_keys` as for `DecoderLayer.project`."""
        self._model, self._recorded, self._systems = model, recorded, systems
        modules = {module for masks in systems for module in masks}
        self.tree = TreePass(model, recorded.token_tree, modules, raw_keys=raw_keys)
        self.source_caches: tuple[SourceCache, ...] = ()

    def features(self, below: HypothesisCache | None = None, above: HypothesisCache | None = None) -> Iterator[Tensor]:
        """Features [N, E] of all hypotheses, system by system.

        Args:
            below: gets what the shared layers keep, in the rows of the trellis.
            above: gets those of the other layers, in rows ``system * N + row``.
        """
        model, recorded = self._model, self._recorded
        plain = model.cache_source(recorded.encoded)
        self.tree.enter(plain, below)
        encoders = [module for masks in self._systems for module in masks if module.kind == "encoder"]
        encoder = EncoderPass(model, recorded.source, min(encoders)) if encoders else None
        self.source_caches = () if encoder else (plain,)
        for number, masks in enumerate(self._systems):
            source_cache = plain if encoder is None else model.cache_source(encoder.masked(masks), by_head=False)
            if encoder:
                self.source_caches += (source_cache,)
            yield self.tree.masked(source_cache, masks, above, number * recorded.token_tree.size)

    def sources(self) -> tuple[Tensor, Tensor]:
        """Which sentence of the memories each system's searches translate, and the systems, both [systems * B].

        Sources rise; the searches of one sentence come together where systems share its memory.
        """
        size, count, device = len(self._recorded.positions), len(self._systems), self._model.device
        sentence, number = torch.arange(size, device=device), torch.arange(count, device=device)
        if len(self.source_caches) == 1:
            return sentence.repeat_interleave(count), number.repeat(size)
        return torch.arange(size * count, device=device), number.repeat_interleave(size)


def stacked_masks(systems: Sequence[HeadMasks]) -> dict[ModuleId, Tensor]:
    """Masks of the decoder's modules, [systems, H]."""
    found: dict[ModuleId, Tensor] = {}
    for masks in systems:
        for module, mask in masks.items():
            if module.kind != "encoder" and module not in found:
                found[module] = torch.stack([other.get(module, torch.ones_like(mask)) for other in systems])
    return found
