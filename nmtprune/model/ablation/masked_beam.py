"""Beam search under masks, repeated on a recorded search: only hypotheses that it does not have are decoded."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nmtprune.model.ablation.draft import Draft
from nmtprune.model.ablation.record import Found, Positions, RecordedSearch
from nmtprune.model.ablation.shared_prefix import MaskedPasses, UnitMasks, stacked_masks
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search.beam_search import BeamSearch, Candidates
from nmtprune.model.search.decoder_step import DecoderStep, empty_cache
from nmtprune.model.search.hypotheses import Beams, EndedHypotheses, HypothesisTree, Ranking
from nmtprune.model.search.hypothesis_cache import Buffers, HypothesisCache
from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import Search, Tokens
from nmtprune.model.search.selection import MarianSelector, Selection, Selector
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.transformer import Transformer

_WORST = 0.25
"""Of inexact nodes those are made exact first whose error bounds are this much of the largest."""


class MaskedBeamSearch:
    """Repeats recorded searches with any beam."""

    def __init__(
        self, model: Transformer, options: Search, predictor: NextWordPredictor, screen: Screen | None
    ) -> None:
        self._model, self._options, self._predictor, self._screen = model, options, predictor, screen
        self._buffers = Buffers()

    def __call__(
        self, records: Iterable[RecordedSearch], systems: Sequence[UnitMasks]
    ) -> Iterator[tuple[Positions, Found]]:
        """Translations of the recorded sentences under each system of masks, which all change something."""
        for recorded in records:
            yield recorded.positions, self._search(recorded, systems)

    def _search(self, recorded: RecordedSearch, systems: Sequence[UnitMasks]) -> Found:
        token_tree = recorded.token_tree
        passes = MaskedPasses(self._model, recorded, systems, raw_keys=self._options.raw_keys)
        draft = Draft(token_tree, len(systems), self._predictor, self._screen)
        below, above = self._caches(passes.tree.shared, token_tree.size, len(systems))
        for features in passes.features(below, above):
            draft.fill(features)
        source_caches = SourceCaches(passes.source_caches, len(recorded.positions))
        masks, raw_keys = stacked_masks(systems), self._options.raw_keys
        decoder_step = DecoderStep(self._model, source_caches, masks, [below, above], raw_keys=raw_keys)
        source, system = passes.sources()
        max_len = recorded.max_len[source % len(recorded.positions)]
        beams = Beams.begin(source, system, max_len, self._predictor)
        ended = DraftedSearch(self._predictor, decoder_step, draft).run(beams)
        by_system: Found = [[] for _ in systems]
        texts = best_tokens(self._ranked(ended, draft), draft.tree)
        for place, text in zip(system.tolist(), texts, strict=True):
            by_system[place].append(text)
        return by_system

    def _ranked(self, ended: EndedHypotheses, draft: Draft) -> Ranking:
        """Ended hypotheses, best first; where error bounds leave that open, scores are made exact."""
        ranking = ended.ranked(draft.tree, self._options)
        unsure = _best_unsure(ranking)
        if bool(unsure.any()):
            nodes = ranking.path[unsure].unique()
            draft.settle(nodes[draft.tree.spread[nodes] > 0])
            ranking = ended.ranked(draft.tree, self._options)
        return ranking

    def _caches(self, shared: range, size: int, systems: int) -> tuple[HypothesisCache, HypothesisCache]:
        """Caches for layers that masks leave as they are, and for the others, with rows for the nodes of a draft."""
        model = self._model
        below = empty_cache(model, shared, self._buffers)
        above = empty_cache(model, range(shared.stop, len(model.decoder.layers)), self._buffers)
        nodes = torch.arange(size * systems, device=model.device)
        below.reserve(size)
        below.assign(nodes, nodes % size)
        above.reserve(size * systems)
        above.assign(nodes, nodes)
        below.pin()
        above.pin()
        return below, above


def _best_unsure(ranking: Ranking) -> Tensor:
    """Where another hypothesis than the first might be the best, Boolean [P]."""
    if ranking.scores.shape[1] == 1:
        return torch.zeros_like(ranking.scores[:, 0], dtype=torch.bool)
    low, high = ranking.scores[:, 0] - ranking.bounds[:, 0], (ranking.scores + ranking.bounds)[:, 1:].amax(1)
    return (low <= high) & (ranking.bounds > 0).any(1)


def best_tokens(ranking: Ranking, nodes: HypothesisTree) -> list[Tokens]:
    """The best hypothesis of each search; empty where there is none."""
    return [texts[0] if texts else () for texts in ranking.tokens(nodes, 1)]


class DraftedSearch(BeamSearch):
    """A beam search that knows the hypotheses of a draft, whose normalizers may be inexact.

    Scores that rest on inexact normalizers have error bounds; where these leave a choice open, normalizers are made
    exact first. The result is that of a search without a draft.
    """

    def __init__(self, predictor: NextWordPredictor, decoder_step: DecoderStep, draft: Draft) -> None:
        """Prepare the search; the nodes of the draft are the first of its tree."""
        super().__init__(predictor, decoder_step, draft.tree)
        self._draft, self._bounds = draft, Bounds.of(self._selector)
        self._rows = torch.empty(0, dtype=torch.long)
        """[P, beam], rows of the beams' hypotheses in the draft; -1 where it does not have them."""

    def run_until(self, beams: Beams, few: int) -> tuple[EndedHypotheses, Beams]:
        """As for `BeamSearch`."""
        self._rows = torch.full_like(beams.token, -1)
        self._rows[:, 0] = self._draft.root(beams)
        return super().run_until(beams, few)

    def _step(self, beams: Beams, step: int, ended: EndedHypotheses) -> Beams:
        after = super()._step(beams, step, ended)
        if after.search.shape[0]:
            left = torch.searchsorted(beams.search, after.search)
            self._rows = self._draft.children(after, self._rows[left], step + 1)
        return after

    def _advance(self, beams: Beams, candidates: Candidates, selection: Selection) -> Beams:
        self._rows = self._rows.gather(1, selection.next_places)
        return super()._advance(beams, candidates, selection)

    def _unknown(self, beams: Beams, candidates: Candidates) -> Tensor:
        """Hypotheses [P, beam] that the draft does not have, and that can reach the beam."""
        needed = super()._unknown(beams, candidates)
        candidates.node = self._draft.nodes(self._rows, beams).masked_fill(~needed, -1)
        known = candidates.node >= 0
        self._take_draft(candidates, known)
        needed &= ~known
        if bool(needed.any()):
            doubt = self._doubt(beams, candidates)
            floor = self._bounds.floor((self._scores(beams, candidates) - doubt.unsqueeze(-1)).flatten(1), beams)
            needed &= beams.scores + doubt + max(0.0, -self._predictor.options.unkpen) > floor.unsqueeze(1)
        return needed

    def _take_draft(self, candidates: Candidates, known: Tensor) -> None:
        """Take the next words of the hypotheses `known` [P, beam] (Boolean) from the draft."""
        nodes = candidates.node[known]
        candidates.tokens[known] = self._draft.next_words.tokens[nodes]
        candidates.logits[known] = self._draft.next_words.logits[nodes].double()

    def _doubt(self, beams: Beams, candidates: Candidates) -> Tensor:
        """Error bound of the candidates of a hypothesis against those of others of the sentence, [P, beam]."""
        return self._own_spread(beams, candidates)[1].sum(-1)

    def _own_spread(self, beams: Beams, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Nodes on the path of each hypothesis, its own included, and their error bounds, both [P, beam, t + 1].

        Nodes that are on all paths of a beam do not count: their errors are the same for all.
        """
        path = torch.cat([beams.path, candidates.node.clamp(min=0).unsqueeze(-1)], dim=2)
        empty = (beams.logits == -torch.inf).unsqueeze(-1)
        shared = ((path == path[:, :1]) | empty).all(1, keepdim=True)
        own = self._tree.spread[path].masked_fill(shared | empty, 0.0)
        own[:, :, -1].masked_fill_(candidates.node < 0, 0.0)
        return path, own

    def _select(self, beams: Beams, candidates: Candidates, step: int) -> tuple[Beams, Selection]:
        """Choose among the candidates; where inexact normalizers leave doubt, they are made exact first."""
        while True:
            scores = self._scores(beams, candidates).flatten(1)
            selection = self._selector.select(scores, beams, self._words(beams, step))
            unsure = self._bounds.doubtful(scores, self._doubt(beams, candidates), selection, beams)
            if not bool(unsure.any()):
                return beams, selection
            beams = self._settle(beams, candidates, unsure)

    def _settle(self, beams: Beams, candidates: Candidates, searches: Tensor) -> Beams:
        """Make exact the worst nodes on which the scores of some searches [P] (Boolean) rest."""
        path, own = self._own_spread(beams, candidates)
        path, own = path[searches], own[searches]
        worst = own.flatten(1).amax(1)[:, None, None]
        self._draft.settle(path[own >= _WORST * worst].unique())
        self._take_draft(candidates, (candidates.node >= 0) & (candidates.node < len(self._draft.next_words.tokens)))
        return replace(beams, normalizer=self._tree.normalizer[beams.path].sum(-1))


class Bounds(ABC):
    """Whether scores within error bounds could lead a selector to another choice."""

    @staticmethod
    def of(selector: Selector) -> "Bounds":
        """For the rules of that selector."""
        return MarianBounds(selector) if isinstance(selector, MarianSelector) else FairseqBounds(selector)

    @abstractmethod
    def doubtful(self, scores: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Where scores within their error bounds could lead to another selection, Boolean [P].

        Args:
            scores: [P, beam * width], as for `Selector`.
            half: [P, beam], the true scores of the candidates of a hypothesis are at most this much higher or lower;
                errors common to all hypotheses of a sentence do not count.
            selection: made on `scores`.
            beams: as for `Selector.select`.
        """

    @abstractmethod
    def floor(self, scores: Tensor, beams: Beams) -> Tensor:
        """Score [P] that a candidate must reach to matter next to these."""


class MarianBounds(Bounds):
    """For `MarianSelector`."""

    def __init__(self, selector: MarianSelector) -> None:
        self._selector = selector

    def doubtful(self, scores: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Only which candidates are taken matters, not their order."""
        error = half.repeat_interleave(self._selector.width, dim=1)
        taken = torch.zeros_like(scores, dtype=torch.bool)
        taken.scatter_(
            1,
            selection.places * self._selector.width + selection.columns,
            self._selector.taken(selection.scores, beams),
        )
        worst_in = (scores - error).masked_fill(~taken, torch.inf).amin(1)
        best_out = (scores + error).masked_fill(taken, -torch.inf).amax(1)
        return (worst_in <= best_out) & (half > 0).any(1)

    def floor(self, scores: Tensor, beams: Beams) -> Tensor:
        """The worst that is taken for sure."""
        ranked = scores.topk(beams.token.shape[1], dim=1).values
        worst: Tensor = ranked.gather(1, (self._selector.room(beams) - 1).clamp(min=0).unsqueeze(1))
        return worst[:, 0]


class FairseqBounds(Bounds):
    """For `FairseqSelector`."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector

    def doubtful(self, scores: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Which hypotheses end last, when more end than there is room for, counts only if it could be the best."""
        width = self._selector.width
        beam = half.shape[1]
        error = half.repeat_interleave(width, dim=1)
        low, high = scores - error, scores + error
        continued = torch.zeros_like(scores, dtype=torch.bool)
        continued.scatter_(1, selection.next_places * width + selection.next_columns, True)
        ends = torch.zeros_like(continued).unflatten(1, (beam, width))
        ends[:, :, -1] = True
        ends = ends.flatten(1)
        worst_in = low.masked_fill(~continued, torch.inf).amin(1)
        best_out = high.masked_fill(continued | ends, -torch.inf).amax(1)
        unsure = worst_in <= best_out
        unsure |= _rank_unsure(low, high, selection, beam, width)
        unsure |= _ended_unsure(half, selection, beam - beams.found)
        return unsure & (half > 0).any(1)

    def floor(self, scores: Tensor, beams: Beams) -> Tensor:
        """Score that at least `beam` candidates have reached that continue their hypotheses."""
        beam = beams.token.shape[1]
        continued = scores.unflatten(1, (beam, self._selector.width))[:, :, :-1].flatten(1)
        worst: Tensor = continued.topk(beam, dim=1).values[:, -1]
        return worst


def _rank_unsure(low: Tensor, high: Tensor, selection: Selection, beam: int, width: int) -> Tensor:
    """Whether an ending candidate might be among the first `beam` or not, [P]."""
    ending = torch.arange(width - 1, beam * width, width, device=low.device)
    possible = low[:, ending] != -torch.inf
    above = (high.unsqueeze(1) >= low[:, ending].unsqueeze(2)).sum(2) - 1
    surely_above = (low.unsqueeze(1) > high[:, ending].unsqueeze(2)).sum(2)
    taken = (
        torch.zeros_like(possible, dtype=torch.long).scatter_add_(1, selection.places, selection.accepted.long()) > 0
    )
    return (possible & torch.where(taken, above >= beam, surely_above < beam)).any(1)


def _ended_unsure(half: Tensor, selection: Selection, room: Tensor) -> Tensor:
    """Whether a hypothesis for which there is no room might be better than all that end at the same step, [P]."""
    rank = selection.accepted.cumsum(1)
    error = half.gather(1, selection.places)
    first = (selection.scores - error).masked_fill(~selection.accepted | (rank > 1), torch.inf).amin(1)
    left_out = selection.accepted & (rank > room.unsqueeze(1))
    return first <= (selection.scores + error).masked_fill(~left_out, -torch.inf).amax(1)
