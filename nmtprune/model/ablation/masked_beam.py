"""Beam search under head masks, replayed on a recorded search: only hypotheses that it does not have are decoded."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from nmtprune.model.ablation.draft import RecordedDraft
from nmtprune.model.ablation.record import Found, Positions, RecordedSearch
from nmtprune.model.ablation.shared_prefix import HeadMasks, MaskedPasses, stacked_masks
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search.beam_search import BeamSearch
from nmtprune.model.search.branches import Tokens
from nmtprune.model.search.decoder_step import DecoderStep, caches
from nmtprune.model.search.hypotheses import Beams, Ended, HypothesisTree, Ranking
from nmtprune.model.search.hypothesis_cache import Buffers, HypothesisCache
from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import Search
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.transformer import Transformer


class MaskedBeamSearch:
    """Searches with any beam."""

    def __init__(
        self, model: Transformer, options: Search, predictor: NextWordPredictor, screen: Screen | None
    ) -> None:
        self._model, self._options, self._predictor, self._screen = model, options, predictor, screen
        self._buffers = Buffers()

    def __call__(
        self, records: Iterable[RecordedSearch], systems: Sequence[HeadMasks]
    ) -> Iterator[tuple[Positions, Found]]:
        """Translations of each chunk's sentences under each system of masks, which all change something."""
        for recorded in records:
            yield recorded.positions, self._search(recorded, systems)

    def _search(self, recorded: RecordedSearch, systems: Sequence[HeadMasks]) -> Found:
        token_tree = recorded.token_tree
        passes = MaskedPasses(self._model, recorded, systems, raw_keys=self._options.raw_keys)
        draft = RecordedDraft(token_tree, len(systems), self._predictor, self._screen)
        below, above = self._stores(passes.tree.shared, token_tree.size, len(systems))
        for features in passes.features(below, above):
            draft.fill(features)
        source_caches = SourceCaches(passes.source_caches, len(recorded.positions))
        masks, raw_keys = stacked_masks(systems), self._options.raw_keys
        decoder_step = DecoderStep(self._model, source_caches, masks, [below, above], raw_keys=raw_keys)
        source, system = passes.sources()
        max_len = recorded.max_len[source % len(recorded.positions)]
        beams = Beams.begin(source, system, max_len, self._predictor)
        ended = BeamSearch(self._predictor, decoder_step, draft.nodes, draft).run(beams)
        by_system: Found = [[] for _ in systems]
        texts = best_tokens(self._ranked(ended, draft), draft.nodes)
        for place, text in zip(system.tolist(), texts, strict=True):
            by_system[place].append(text)
        return by_system

    def _ranked(self, ended: Ended, draft: RecordedDraft) -> Ranking:
        """Ended hypotheses, best first; where error bounds leave that open, scores are made exact."""
        ranking = ended.ranked(draft.nodes, self._options)
        unsure = ranking.doubtful()
        if bool(unsure.any()):
            nodes = ranking.path[unsure].unique()
            draft.settle(nodes[draft.nodes.spread[nodes] > 0])
            ranking = ended.ranked(draft.nodes, self._options)
        return ranking

    def _stores(self, shared: range, size: int, systems: int) -> tuple[HypothesisCache, HypothesisCache]:
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


def best_tokens(ranking: Ranking, nodes: HypothesisTree) -> list[Tokens]:
    """The best hypothesis of each search; empty where there is none."""
    return [texts[0] if texts else () for texts in ranking.tokens(nodes, 1)]
