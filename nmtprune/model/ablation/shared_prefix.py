"""Passes under many masks that share what masks do not change: all before the first sublayer that they change."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.ablation.record import RecordedSearch, SentenceBlock, TokenTree, TreeLevels
from nmtprune.model.classifier import Classifier
from nmtprune.model.layers import Stopped
from nmtprune.model.length_groups import length_groups
from nmtprune.model.recurrence import CellUpdate
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.search.hypothesis_cache import HypothesisCache
from nmtprune.model.source_cache import EncoderOutput, SourceCache
from nmtprune.model.transformer import Transformer

_PART_TOKENS = 2048
_FEWEST_ROWS = 16

UnitMasks = Mapping[GroupId, Tensor]
"""Masks [H] or [F] by group, of heads or neurons: the same for all sentences."""


def changed(masks: UnitMasks) -> set[GroupId]:
    """The groups that masks change: those with a factor other than 1."""
    return {group for group, mask in masks.items() if bool((mask != 1).any())}


def in_encoder(groups: Collection[GroupId]) -> bool:
    """Whether masks of these groups change the encoder's output."""
    return any(group.stack == "encoder" for group in groups)


@dataclass(frozen=True)
class _Part:
    """Sentences of a batch of about one length, without most of their padding.

    Attributes:
        rows: [b], which they are.
        columns: where their tokens are.
        scope: of their tokens.
        stopped: the pass, where masks first change it.
    """

    rows: Tensor
    columns: slice
    scope: Scope
    stopped: Stopped


class EncoderPass:
    """Encodes a batch under different masks of the encoder; what comes before the first is computed once."""

    def __init__(
        self,
        model: Transformer | Classifier,
        source: Tensor,
        groups: Collection[GroupId],
        segments: Tensor | None = None,
    ) -> None:
        """Compute what masks leave as it is.

        Args:
            model: with an encoder.
            source: [B, S] tokens.
            groups: those that masks change.
            segments: [B, S] of the tokens of a classifier; None: all are in segment 0.
        """
        if model.encoder is None:
            raise ValueError("a language model has no encoder")
        self._encoder, self._stop = model.encoder, model.encoder.first_change(groups)
        self._shape, self._padding = source.shape, model.encoder.embedding.padding_of(source)
        self._parts = [self._part(source, segments, rows) for rows in _sentences_of_like_length(source, self._padding)]

    def masked(self, masks: UnitMasks) -> EncoderOutput:
        """The encoder's output; zeros for padding."""
        like = self._parts[0].stopped.states
        states = like.new_zeros(*self._shape, like.shape[-1])
        for part in self._parts:
            x = self._encoder.after(self._stop, part.stopped, part.scope.under(Probe(masks)))
            states[part.rows, part.columns] = self._encoder.finish(x)
        return EncoderOutput(states, self._padding)

    def _part(self, source: Tensor, segments: Tensor | None, rows: Tensor) -> _Part:
        columns = slice(0, source.shape[1])
        if self._padding is not None:
            used = (~self._padding[rows]).any(0).nonzero()
            columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else columns
        own = None if segments is None else segments[rows, columns]
        x, scope = self._encoder.begin(source[rows, columns], Probe(), own)
        return _Part(rows, columns, scope, self._encoder.until(self._stop, x, scope))


def _sentences_of_like_length(source: Tensor, padding: Tensor | None) -> list[Tensor]:
    """Rows of a batch [B, S] in groups of about one length."""
    count, width = source.shape
    lengths: list[int] = [width] * count if padding is None else (~padding).sum(1).tolist()

    def fits(rows: int, shortest: int, longest: int) -> bool:
        # Attention without padding takes half the time, but small parts pay for every operation.
        most = shortest if rows > _FEWEST_ROWS else 1.1 * shortest + 1
        return rows * longest <= _PART_TOKENS and longest <= most

    return [torch.tensor(rows, device=source.device) for rows in length_groups(lengths, fits)]


@dataclass(frozen=True, kw_only=True)
class _TreeScope(Scope):
    """The scope of hypotheses of a token tree; what layers keep of them goes to rows of a cache, from `row` on."""

    levels: Callable[[], TreeLevels]
    store: HypothesisCache | None
    row: int

    def keep(self, kept: Tensor, position: int) -> None:
        """Keep what a layer has of each hypothesis, if the cache has the layer."""
        if self.store is not None and position in self.store.layers:
            rows = kept.shape[1] * kept.shape[2]
            self.store.store(position, range(self.row, self.row + rows), kept)

    def recur(self, update: CellUpdate, position: int) -> Tensor:
        """Cells [B, n, D] of a recurrent layer, each from that of the hypothesis one token shorter."""
        cells = self.levels().cells(update)
        self.keep(cells[None, :, :, None], position)
        return cells

    def with_first(self, context: Tensor, alone: Tensor) -> Tensor:
        """Contexts [B, n, H, K] in which hypotheses without tokens have those of `alone`."""
        roots = self.levels().roots.view(context.shape[:2])
        return torch.where(roots[:, :, None, None], alone, context)


@dataclass(frozen=True)
class _Prefix:
    """What all masks have in common, for a block of sentences.

    Attributes:
        block: the sentences.
        visible: which of each other hypotheses see.
        levels: gives the order in which hypotheses continue each other; computed if a layer needs it.
        stopped: the pass, where masks first change it.
    """

    block: SentenceBlock
    visible: Visible
    levels: Callable[[], TreeLevels]
    stopped: Stopped


class TreePass:
    """Runs the decoder over all hypotheses of a token tree, under different masks.

    Attributes:
        shared: decoder layers whose keys and values are the same under all masks.
    """

    def __init__(
        self, model: Transformer, token_tree: TokenTree, groups: Collection[GroupId], *, raw_keys: bool = False
    ) -> None:
        """Prepare for masks that change no other groups than these; `raw_keys` as for `Scope`."""
        self._decoder, self._token_tree, self._raw_keys = model.decoder, token_tree, raw_keys
        self._stop = model.decoder.first_change(groups, of_source=in_encoder(groups))
        self.shared = model.decoder.layers_kept(self._stop)
        self._prefixes: list[_Prefix] = []

    def enter(self, source_cache: SourceCache, store: HypothesisCache | None) -> None:
        """Compute what masks do not change; what its layers keep goes to rows of `store` that are those of the tree."""
        for block in self._token_tree.blocks:
            visible = self._token_tree.visible(block, self._decoder.dtype)
            levels = cache(partial(self._token_tree.levels, block))
            tokens, depth = self._token_tree.token[block.rows], self._token_tree.depth[block.rows]
            x = self._decoder.embedding(tokens.unsqueeze(1), None, depth.unsqueeze(1))
            scope = self._scope(block, visible, levels, source_cache, store, 0)
            stopped = self._decoder.until(self._stop, x.view(block.count, block.size, -1), scope)
            self._prefixes.append(_Prefix(block, visible, levels, stopped))

    def masked(self, source_cache: SourceCache, masks: UnitMasks, store: HypothesisCache | None, row: int) -> Tensor:
        """Features [N, E] of all hypotheses; what the other layers keep goes to `store`, from `row` on."""
        probe, found = Probe(masks), []
        for prefix in self._prefixes:
            scope = self._scope(prefix.block, prefix.visible, prefix.levels, source_cache, store, row).under(probe)
            x = self._decoder.after(self._stop, prefix.stopped, scope)
            found.append(self._decoder.finish(x).flatten(0, 1))
        return torch.cat(found)

    def _scope(
        self,
        block: SentenceBlock,
        visible: Visible,
        levels: Callable[[], TreeLevels],
        source_cache: SourceCache,
        store: HypothesisCache | None,
        row: int,
    ) -> _TreeScope:
        source = source_cache.narrow(block.sentences)
        if source.is_joint:
            tokens = self._token_tree.token[block.rows].view(block.count, block.size)
            visible = visible.behind(source.visible, source.length, tokens, block.size, self._decoder.dtype)
        return _TreeScope(
            probe=Probe(),
            visible=visible,
            source=source,
            raw_keys=self._raw_keys,
            levels=levels,
            store=store,
            row=row + block.rows.start,
        )


class MaskedPasses:
    """Runs recorded hypotheses through the decoder under several systems of masks.

    Attributes:
        tree: the pass; says which layers all systems share.
        source_caches: the cache of all systems, or one of each where masks begin in the encoder; complete when all
            features have been taken.
    """

    def __init__(
        self, model: Transformer, recorded: RecordedSearch, systems: Sequence[UnitMasks], *, raw_keys: bool = False
    ) -> None:
        """Prepare for systems that all mask something; `raw_keys` as for `Scope`."""
        self._model, self._recorded, self._systems = model, recorded, systems
        self._groups = {group for masks in systems for group in masks}
        self.tree = TreePass(model, recorded.token_tree, self._groups, raw_keys=raw_keys)
        self.source_caches: tuple[SourceCache, ...] = ()

    def features(self, below: HypothesisCache | None = None, above: HypothesisCache | None = None) -> Iterator[Tensor]:
        """Features [N, E] of all hypotheses, system by system.

        Args:
            below: gets what the shared layers keep, in the rows of the token tree.
            above: gets those of the other layers, in rows ``system * N + row``.
        """
        model, recorded = self._model, self._recorded
        plain = model.cache_source(recorded.encoded)
        self.tree.enter(plain, below)
        encoder = EncoderPass(model, recorded.source, self._groups) if in_encoder(self._groups) else None
        self.source_caches = () if encoder else (plain,)
        for number, masks in enumerate(self._systems):
            source_cache = plain if encoder is None else model.cache_source(encoder.masked(masks), by_head=False)
            if encoder:
                self.source_caches += (source_cache,)
            yield self.tree.masked(source_cache, masks, above, number * recorded.token_tree.size)

    def sources(self) -> tuple[Tensor, Tensor]:
        """Which sentence of the source caches each system's searches translate, and the systems, both [systems * B].

        Sources rise; the searches of one sentence come together where systems share its cache.
        """
        size, count, device = len(self._recorded.positions), len(self._systems), self._model.device
        sentence, number = torch.arange(size, device=device), torch.arange(count, device=device)
        if len(self.source_caches) == 1:
            return sentence.repeat_interleave(count), number.repeat(size)
        return torch.arange(size * count, device=device), number.repeat_interleave(size)


def stacked_masks(systems: Sequence[UnitMasks]) -> dict[GroupId, Tensor]:
    """Masks of the decoder's groups, [systems, H] or [systems, F]."""
    found: dict[GroupId, Tensor] = {}
    for masks in systems:
        for group, mask in masks.items():
            if group.stack == "decoder" and group not in found:
                found[group] = torch.stack([other.get(group, torch.ones_like(mask)) for other in systems])
    return found
