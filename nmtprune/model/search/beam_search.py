"""Beam search for many sentences and head masks at once, step by step, with or without a recorded search as a draft."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.scope import Masks
from nmtprune.model.search.decoder_step import DecoderStep, NewTokens, caches
from nmtprune.model.search.hypotheses import Beams, Ended, HypothesisTree
from nmtprune.model.search.next_words import EndRules, LogitsObserver, NextWordPredictor, NextWords
from nmtprune.model.search.options import Hypothesis, Search, Symbols, max_lens
from nmtprune.model.search.selection import Selection, Selector
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.transformer import Transformer

_WORST = 0.25
"""Of inexact nodes those are made exact first whose error bounds are this much of the largest."""


class Draft(Protocol):
    """Hypotheses whose next words were computed beforehand; they are the first nodes of the search."""

    next_words: NextWords

    def root(self, beams: Beams) -> Tensor:
        """Draft numbers [P] of the hypotheses without tokens."""

    def numbers(self, beams: Beams) -> Tensor:
        """Nodes [P, beam] of the slots' hypotheses; -1 where there are none."""

    def children(self, beams: Beams, parents: Tensor, step: int) -> Tensor:
        """Draft numbers [P, beam] of the slots' hypotheses, from those of the hypotheses one token shorter."""

    def settle(self, nodes: Tensor) -> None:
        """Make the candidates and normalizers of these nodes exact."""


class SearchObserver(Protocol):
    """Sees all that a search does."""

    def extended(self, features: Tensor) -> LogitsObserver:
        """When new nodes [R] were decoded; what it returns sees their logits."""

    def selected(self, beams: Beams, node: Tensor, selection: Selection) -> None:
        """After each step; `node` [P, beam] are the slots' nodes, -1 where there is none."""


@dataclass
class _Candidates:
    """Candidates of the slots at one step.

    Attributes:
        node: [P, beam], the slots' nodes; -1 where a hypothesis cannot matter or there is none.
        tokens: [P, beam, k + 1].
        logits: [P, beam, k + 1]; -inf for slots without a node.
    """

    node: Tensor
    tokens: Tensor
    logits: Tensor


class BeamSearch:
    """Searches that advance together until the last has ended."""

    def __init__(
        self, predictor: NextWordPredictor, decoder_step: DecoderStep, nodes: HypothesisTree, draft: Draft | None = None
    ) -> None:
        """Prepare the search.

        Args:
            predictor: chooses candidates.
            decoder_step: runs the decoder.
            nodes: gets what is found; holds the draft's nodes, where there is a draft.
            draft: a recorded search.
        """
        self._predictor, self._decoder_step, self._nodes, self._draft = predictor, decoder_step, nodes, draft
        self._beam = Selector.of(predictor.options, predictor.width + 1)
        self._observer: SearchObserver | None = None

    def run(self, beams: Beams, observer: SearchObserver | None = None) -> Ended:
        """Search until all have ended, beginning with `Beams.begin`."""
        self._observer = observer
        return self.run_until(beams, 0)[0]

    def run_until(self, beams: Beams, few: int) -> tuple[Ended, Beams]:
        """Search until that few searches or fewer go on, and give back those too; after one step at least."""
        ended = Ended(beams.search.shape[0], beams.token.shape[1], beams.token.device)
        if self._draft is not None:
            draft = beams.draft.clone()
            draft[:, 0] = self._draft.root(beams)
            beams = replace(beams, draft=draft)
        step = 0
        while beams.search.shape[0] and (beams.search.shape[0] > few or not step):
            beams = self._step(beams, step, ended)
            self._decoder_step.compact(beams.path)
            step += 1
        return ended, beams

    def _step(self, beams: Beams, step: int, ended: Ended) -> Beams:
        """Make one token more; the searches that go on."""
        candidates = self._candidates(beams, step)
        beams, selection = self._select(beams, candidates, step)
        if self._observer is not None:
            self._observer.selected(beams, candidates.node, selection)
        found = self._end(beams, candidates, selection, ended)
        after = self._advance(replace(beams, found=found), candidates, selection)
        beam = beams.token.shape[1]
        going_on = (found < beam) & (beams.max_len > step) & (after.logits != -torch.inf).any(1)
        if bool(going_on.all()):
            rows = None
        else:
            rows = going_on.nonzero().squeeze(1)
            after, beams = after.select(rows), beams.select(rows)
        if self._draft is None or not after.search.shape[0]:
            return after
        order = selection.beams if rows is None else selection.beams[rows]
        return replace(after, draft=self._draft.children(after, beams.draft.gather(1, order), step + 1))

    def _candidates(self, beams: Beams, step: int) -> _Candidates:
        """Candidates of all slots that can matter; decodes those that the draft does not have."""
        count, beam = beams.token.shape
        width = self._predictor.width + 1
        shape = (count, beam, width)
        tokens = torch.full(shape, self._predictor.symbols.eos, dtype=torch.long, device=beams.token.device)
        logits = torch.full(shape, -torch.inf, dtype=torch.float64, device=beams.token.device)
        node = torch.full_like(beams.token, -1)
        candidates = _Candidates(node, tokens, logits)
        needed = beams.logits != -torch.inf
        if self._draft is not None:
            candidates.node = self._draft.numbers(beams).masked_fill(~needed, -1)
            known = candidates.node >= 0
            self._take_draft(candidates, known)
            needed &= ~known
            if bool(needed.any()):
                best = beams.scores + self._doubt(beams, candidates) + max(0.0, -self._predictor.options.unkpen)
                needed &= best > self._floor(beams, candidates).unsqueeze(1)
        new = needed.nonzero()
        if new.shape[0]:
            self._extend(beams, candidates, new, step)
        return candidates

    def _take_draft(self, candidates: _Candidates, known: Tensor) -> None:
        if self._draft is None:
            return
        nodes = candidates.node[known]
        candidates.tokens[known] = self._draft.next_words.tokens[nodes]
        candidates.logits[known] = self._draft.next_words.logits[nodes].double()

    def _floor(self, beams: Beams, candidates: _Candidates) -> Tensor:
        """Score that a candidate must reach to matter, [P]."""
        values = self._values(beams, candidates) - self._doubt(beams, candidates).unsqueeze(-1)
        return self._beam.floor(values.flatten(1), beams)

    def _values(self, beams: Beams, candidates: _Candidates) -> Tensor:
        """Scores of all candidates, [P, beam, k + 1]."""
        normalizer = beams.normalizer + self._nodes.normalizer[candidates.node.clamp(min=0)]
        return (beams.logits - normalizer).unsqueeze(-1) + candidates.logits

    def _doubt(self, beams: Beams, candidates: _Candidates) -> Tensor:
        """Error bound of a slot's candidates against those of other slots of the sentence, [P, beam]."""
        if self._draft is None:
            return torch.zeros_like(beams.logits)
        return self._own_spread(beams, candidates)[1].sum(-1)

    def _own_spread(self, beams: Beams, candidates: _Candidates) -> tuple[Tensor, Tensor]:
        """Nodes on each slot's path, its own included, and their error bounds, both [P, beam, t + 1].

        Nodes that are on the paths of all slots of a search do not count: their errors are the same for all.
        """
        path = torch.cat([beams.path, candidates.node.clamp(min=0).unsqueeze(-1)], dim=2)
        empty = (beams.logits == -torch.inf).unsqueeze(-1)
        shared = ((path == path[:, :1]) | empty).all(1, keepdim=True)
        own = self._nodes.spread[path].masked_fill(shared | empty, 0.0)
        own[:, :, -1].masked_fill_(candidates.node < 0, 0.0)
        return path, own

    def _extend(self, beams: Beams, candidates: _Candidates, new: Tensor, step: int) -> None:
        """Decode the hypotheses at places `new` [R, 2] (search, slot)."""
        search, slot = new.unbind(1)
        path = beams.path[search, slot]
        parent = path[:, -1] if step else None
        node = self._nodes.add(beams.token[search, slot], parent, beams.logits[search, slot])
        candidates.node[search, slot] = node
        belongs = beams.search[search], beams.source[search], beams.system[search]
        rows = NewTokens(beams.token[search, slot], node, path, *belongs)
        last = (beams.max_len[search] <= step) & self._predictor.options.must_end
        early = torch.ones_like(last) if step < self._predictor.options.min_len else None
        features = self._decoder_step(rows)
        see = None if self._observer is None else self._observer.extended(features)
        found = self._predictor(features, EndRules(early, last if bool(last.any()) else None), see)
        candidates.tokens[search, slot] = found.tokens
        candidates.logits[search, slot] = found.logits.double()
        self._nodes.normalizer[node] = found.normalizer.double()

    def _select(self, beams: Beams, candidates: _Candidates, step: int) -> tuple[Beams, Selection]:
        """Choose among the candidates; where inexact normalizers leave doubt, they are made exact first."""
        words = self._predictor.output.words * (beams.token.shape[1] if step else 1)
        while True:
            values = self._values(beams, candidates).flatten(1)
            selection = self._beam.select_candidates(values, beams, words - 1)
            if self._draft is None:
                return beams, selection
            unsure = self._beam.doubtful(values, self._doubt(beams, candidates), selection, beams)
            if not bool(unsure.any()):
                return beams, selection
            beams = self._settle(beams, candidates, unsure)

    def _settle(self, beams: Beams, candidates: _Candidates, searches: Tensor) -> Beams:
        """Make exact the worst of what the scores of some searches [P] (Boolean) rest on."""
        if self._draft is None:
            return beams
        path, own = self._own_spread(beams, candidates)
        path, own = path[searches], own[searches]
        worst = own.flatten(1).amax(1)[:, None, None]
        self._draft.settle(path[own >= _WORST * worst].unique())
        self._take_draft(
            candidates, (candidates.node >= 0) & (candidates.node < self._draft.next_words.tokens.shape[0])
        )
        return replace(beams, normalizer=self._nodes.normalizer[beams.path].sum(-1))

    def _end(self, beams: Beams, candidates: _Candidates, selection: Selection, ended: Ended) -> Tensor:
        """Keep the hypotheses that end now; how many each search has, [P]."""
        beam = beams.token.shape[1]
        place = beams.found.unsqueeze(1) + selection.accepted.cumsum(1) - 1
        taken = selection.accepted & (place < beam)
        if not bool(taken.any()):
            return beams.found
        row, column = taken.nonzero(as_tuple=True)
        slot, word = selection.ranked[row, column], selection.words[row, column]
        logits = beams.logits[row, slot] + candidates.logits[row, slot, word]
        where, last = (
            (beams.search[row], place[row, column]),
            (candidates.node[row, slot], candidates.tokens[row, slot, word]),
        )
        ended.add(where, last, logits, beams.path.shape[2] + 1)
        return beams.found + taken.sum(1)

    def _advance(self, beams: Beams, candidates: _Candidates, selection: Selection) -> Beams:
        """The slots after the choice."""
        order, columns = selection.beams, selection.columns
        node = candidates.node.gather(1, order)
        chosen = torch.arange(order.shape[0], device=order.device).unsqueeze(1), order, columns
        logits = beams.logits.gather(1, order) + candidates.logits[chosen]
        if selection.empty is not None:
            logits = logits.masked_fill(selection.empty, -torch.inf)
        path = beams.path.gather(1, order.unsqueeze(-1).expand(-1, -1, beams.path.shape[2]))
        return replace(
            beams,
            token=candidates.tokens[chosen],
            logits=logits,
            normalizer=beams.normalizer.gather(1, order) + self._nodes.normalizer[node.clamp(min=0)],
            path=torch.cat([path, node.clamp(min=0).unsqueeze(-1)], dim=2),
            ignored=selection.ignored,
        )


@torch.no_grad()
def translate(
    model: Transformer,
    source: Tensor,
    lengths: Sequence[int],
    options: Search,
    symbols: Symbols,
    masks: Masks | None = None,
) -> list[list[Hypothesis]]:
    """Translate a padded batch.

    Args:
        model: an encoder-decoder model.
        source: [B, S] token ids.
        lengths: [B], tokens of each sentence without padding.
        options: of the search.
        symbols: special words of the target vocabulary.
        masks: [H] by module, for all sentences.

    Returns:
        For each sentence up to `beam` hypotheses, best first; none for a sentence whose numbers overflow.

    Raises:
        UsageError: a minimum length above the maximum.
    """
    source = source.to(model.device)
    masks = masks or {}
    predictor = NextWordPredictor(model, options, symbols, scores=True)
    source_cache = model.cache_source(model.encode(source, masks))
    nodes = HypothesisTree(source.device)
    stores = [caches(model, range(len(model.decoder.layers)))]
    decoder_step = DecoderStep(
        model, SourceCaches((source_cache,), source.shape[0]), decoder_masks(masks), stores, raw_keys=options.raw_keys
    )
    max_len = torch.tensor(max_lens(options, lengths, model.max_positions[1]), device=source.device)
    sentences = torch.arange(source.shape[0], device=source.device)
    slots = Beams.begin(sentences, torch.zeros_like(sentences), max_len, predictor)
    ended = BeamSearch(predictor, decoder_step, nodes).run(slots)
    return ended.ranked(nodes, options).hypotheses(nodes, ended, predictor.beam)


def decoder_masks(masks: Mapping[ModuleId, Tensor]) -> dict[ModuleId, Tensor]:
    """Masks of decoder modules as those of a single system, [1, H]."""
    return {module: mask.unsqueeze(0) for module, mask in masks.items() if module.kind != "encoder"}
