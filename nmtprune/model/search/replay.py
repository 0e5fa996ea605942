"""Beam search under head masks, replayed on a recorded search: only hypotheses that it does not have are decoded."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from nmtprune.model.search.candidates import Scorer
from nmtprune.model.search.chunk import Chunk, Found, MaskedPasses, Positions, Tokens, stacked_masks
from nmtprune.model.search.draft import TrellisDraft
from nmtprune.model.search.extension import Extension, caches
from nmtprune.model.search.lockstep import Lockstep
from nmtprune.model.search.nodes import Buffers, NodeCache, Nodes
from nmtprune.model.search.options import Search
from nmtprune.model.search.passes import HeadMasks
from nmtprune.model.search.shortlist import Screen
from nmtprune.model.search.slots import Ended, Ranking, Slots
from nmtprune.model.search.sources import Memories
from nmtprune.model.transformer import Transformer


class Replay:
    """Searches with any beam."""

    def __init__(self, model: Transformer, options: Search, scorer: Scorer, screen: Screen | None) -> None:
        self._model, self._options, self._scorer, self._screen = model, options, scorer, screen
        self._buffers = Buffers()

    def __call__(self, chunks: Iterable[Chunk], systems: Sequence[HeadMasks]) -> Iterator[tuple[Positions, Found]]:
        """Translations of each chunk's sentences under each system of masks, which all change something."""
        for chunk in chunks:
            yield chunk.positions, self._search(chunk, systems)

    def _search(self, chunk: Chunk, systems: Sequence[HeadMasks]) -> Found:
        trellis = chunk.trellis
        passes = MaskedPasses(self._model, chunk, systems, raw_keys=self._options.raw_keys)
        draft = TrellisDraft(trellis, len(systems), self._scorer, self._screen)
        below, above = self._stores(passes.tree.shared, trellis.size, len(systems))
        for features in passes.features(below, above):
            draft.fill(features)
        memories = Memories(passes.memories, len(chunk.positions))
        masks, raw_keys = stacked_masks(systems), self._options.raw_keys
        extension = Extension(self._model, memories, masks, [below, above], raw_keys=raw_keys)
        source, system = passes.sources()
        max_len = chunk.max_len[source % len(chunk.positions)]
        slots = Slots.begin(source, system, max_len, self._scorer)
        ended = Lockstep(self._scorer, extension, draft.nodes, draft).run(slots)
        by_system: Found = [[] for _ in systems]
        texts = best_tokens(self._ranked(ended, draft), draft.nodes)
        for place, text in zip(system.tolist(), texts, strict=True):
            by_system[place].append(text)
        return by_system

    def _ranked(self, ended: Ended, draft: TrellisDraft) -> Ranking:
        """Ended hypotheses, best first; where error bounds leave that open, scores are made exact."""
        ranking = ended.ranked(draft.nodes, self._options)
        unsure = ranking.doubtful()
        if bool(unsure.any()):
            nodes = ranking.path[unsure].unique()
            draft.settle(nodes[draft.nodes.spread[nodes] > 0])
            ranking = ended.ranked(draft.nodes, self._options)
        return ranking

    def _stores(self, shared: range, size: int, systems: int) -> tuple[NodeCache, NodeCache]:
        """Caches for layers that masks leave as they are, and for the others, with rows for the nodes of a draft."""
        model = self._model
        below = caches(model, shared, self._buffers)
        above = caches(model, range(shared.stop, len(model.decoder.layers)), self._buffers)
        nodes = torch.arange(size * systems, device=model.device)
        below.reserve(size)
        below.assign(nodes, nodes % size)
        above.reserve(size * systems)
        above.assign(nodes, nodes)
        below.pin()
        above.pin()
        return below, above


def best_tokens(ranking: Ranking, nodes: Nodes) -> list[Tokens]:
    """The best hypothesis of each search; empty where there is none."""
    return [texts[0] if texts else () for texts in ranking.tokens(nodes, 1)]
