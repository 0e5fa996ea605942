"""Beam search for many sentences at once, step by step, with any masks, as fairseq, Marian or transformers searches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.scope import Masks
from nmtprune.model.search.decoder_step import DecoderStep, NewTokens, empty_cache
from nmtprune.model.search.endings import Endings, LastWords
from nmtprune.model.search.hypotheses import Beams, EndedHypotheses, HypothesisTree
from nmtprune.model.search.next_words import EndRules, LogitsObserver, NextWordPredictor
from nmtprune.model.search.options import Hypothesis, Search, Symbols, max_lens
from nmtprune.model.search.selection import Selection, Selector
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.source_cache import EncoderOutput, SourceCache
from nmtprune.model.transformer import Transformer


class SearchObserver(Protocol):
    """Sees all that a search does."""

    def extended(self, features: Tensor) -> LogitsObserver:
        """After new nodes [R] were decoded; the observer that it returns sees their logits."""

    def selected(self, beams: Beams, node: Tensor, selection: Selection) -> None:
        """After each step; `node` [P, beam] are the nodes of the hypotheses, -1 where there is none."""


@dataclass
class Candidates:
    """Hypotheses of P beams with the words that may follow them.

    Attributes:
        node: [P, beam], nodes of the hypotheses; -1 where a hypothesis cannot matter or there is none.
        tokens: [P, beam, k + 1], words.
        logits: [P, beam, k + 1]; -inf for hypotheses without a node.
    """

    node: Tensor
    tokens: Tensor
    logits: Tensor


class BeamSearch:
    """Searches that advance together until the last has ended."""

    def __init__(self, predictor: NextWordPredictor, decoder_step: DecoderStep, tree: HypothesisTree) -> None:
        """Prepare the search.

        Args:
            predictor: finds the words that may follow.
            decoder_step: runs the decoder.
            tree: gets all hypotheses.
        """
        self._predictor, self._decoder_step, self._tree = predictor, decoder_step, tree
        self._selector = Selector.of(predictor.options, predictor.width + 1, len(predictor.symbols.prefix))
        self._endings = Endings.of(predictor.options)
        self._observer: SearchObserver | None = None

    def run(self, beams: Beams, observer: SearchObserver | None = None) -> EndedHypotheses:
        """Search until all have ended, beginning with `Beams.begin`."""
        self._observer = observer
        return self.run_until(beams, 0)[0]

    def run_until(self, beams: Beams, few: int) -> tuple[EndedHypotheses, Beams]:
        """Search, for one step at least, until at most `few` searches are left, and give back those too."""
        ended = EndedHypotheses(beams.search.shape[0], beams.token.shape[1], beams.token.device)
        step = 0
        while beams.search.shape[0] and (beams.search.shape[0] > few or not step):
            beams = self._step(beams, step, ended)
            self._decoder_step.compact(beams.path)
            step += 1
        return ended, beams

    def _step(self, beams: Beams, step: int, ended: EndedHypotheses) -> Beams:
        """Make one token more; the searches that continue."""
        candidates = self._candidates(beams, step)
        beams, selection = self._select(beams, candidates, step)
        if self._observer is not None:
            self._observer.selected(beams, candidates.node, selection)
        found = self._end(beams, candidates, selection, ended)
        after = self._advance(replace(beams, found=found), candidates, selection)
        going_on = self._endings.open(after, ended) & (beams.max_len > step) & (after.logits != -torch.inf).any(1)
        rows = None if bool(going_on.all()) else going_on.nonzero().squeeze(1)
        return after if rows is None else after.select(rows)

    def _candidates(self, beams: Beams, step: int) -> Candidates:
        """Candidates of all hypotheses that can matter."""
        shape = (*beams.token.shape, self._predictor.width + 1)
        tokens = torch.full(shape, self._predictor.symbols.eos, dtype=torch.long, device=beams.token.device)
        logits = torch.full(shape, -torch.inf, dtype=torch.float64, device=beams.token.device)
        candidates = Candidates(torch.full_like(beams.token, -1), tokens, logits)
        new = self._unknown(beams, candidates).nonzero()
        if new.shape[0]:
            self._extend(beams, candidates, new, step)
        return candidates

    def _unknown(self, beams: Beams, candidates: Candidates) -> Tensor:
        """Which hypotheses [P, beam] (Boolean) have to be decoded."""
        return beams.logits != -torch.inf

    def _scores(self, beams: Beams, candidates: Candidates) -> Tensor:
        """Scores of all candidates, [P, beam, k + 1]."""
        normalizer = beams.normalizer + self._tree.normalizer[candidates.node.clamp(min=0)]
        return (beams.logits - normalizer).unsqueeze(-1) + candidates.logits

    def _extend(self, beams: Beams, candidates: Candidates, new: Tensor, step: int) -> None:
        """Decode the hypotheses `new` [R, 2] (beam, place in it)."""
        row, place = new.unbind(1)
        path = beams.path[row, place]
        parent = path[:, -1] if step else None
        node = self._tree.add(beams.token[row, place], parent, beams.logits[row, place])
        candidates.node[row, place] = node
        belongs = beams.search[row], beams.source[row], beams.system[row]
        tokens = NewTokens(beams.token[row, place], node, path, *belongs)
        last = (beams.max_len[row] <= step) & self._predictor.options.must_end
        early = torch.ones_like(last) if step < self._predictor.options.min_len else None
        features = self._decoder_step(tokens)
        see = None if self._observer is None else self._observer.extended(features)
        forced = self._predictor.forced(torch.full_like(node, step))
        found = self._predictor(features, EndRules(early, last if bool(last.any()) else None, forced), see)
        candidates.tokens[row, place] = found.tokens
        candidates.logits[row, place] = found.logits.double()
        self._tree.normalizer[node] = found.normalizer.double()

    def _select(self, beams: Beams, candidates: Candidates, step: int) -> tuple[Beams, Selection]:
        """Choose among the candidates."""
        return beams, self._selector.select(self._scores(beams, candidates).flatten(1), beams, self._words(beams, step))

    def _words(self, beams: Beams, step: int) -> int:
        """Number of words to choose from, in the whole beam of a sentence."""
        return self._predictor.output.words * (beams.token.shape[1] if step else 1) - 1

    def _end(self, beams: Beams, candidates: Candidates, selection: Selection, ended: EndedHypotheses) -> Tensor:
        """Keep the hypotheses that end now; how many each search has, [P]."""
        if not bool(selection.accepted.any()):
            return beams.found
        last = LastWords(candidates.node, candidates.tokens, candidates.logits, beams.path.shape[2] + 1)
        return self._endings.keep(beams, last, selection, ended)

    def _advance(self, beams: Beams, candidates: Candidates, selection: Selection) -> Beams:
        """The beams after the choice."""
        order, columns = selection.next_places, selection.next_columns
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
            normalizer=beams.normalizer.gather(1, order) + self._tree.normalizer[node.clamp(min=0)],
            path=torch.cat([path, node.clamp(min=0).unsqueeze(-1)], dim=2),
            ignored=selection.ignored,
        )


@dataclass(frozen=True)
class SearchStart:
    """A batch of sentences whose search is about to make its first step.

    Attributes:
        source: [B, S] token ids, on the model's device.
        encoded: the encoder's output.
        source_cache: keys and values of the encoder's output.
        tree: gets all hypotheses.
        beams: a hypothesis without tokens for each sentence.
        search: takes `beams`.
    """

    source: Tensor
    encoded: EncoderOutput
    source_cache: SourceCache
    tree: HypothesisTree
    beams: Beams
    search: BeamSearch


def begin_search(
    model: Transformer,
    predictor: NextWordPredictor,
    source: Tensor,
    lengths: Sequence[int],
    masks: Masks | None = None,
) -> SearchStart:
    """Encode a padded batch and set up its search.

    Args:
        model: an encoder-decoder model.
        predictor: finds the words that may follow a hypothesis; has the options of the search.
        source: [B, S] token ids.
        lengths: [B], tokens of each sentence without padding.
        masks: [H] or [F] by group, for all sentences.

    Raises:
        UsageError: a minimum length above the maximum.
    """
    options, source = predictor.options, source.to(model.device)
    encoded = model.encode(source, masks)
    source_cache = model.cache_source(encoded)
    cache = empty_cache(model, range(len(model.decoder.layers)))
    sources = SourceCaches((source_cache,), len(lengths))
    decoder_step = DecoderStep(model, sources, decoder_masks(masks or {}), [cache], raw_keys=options.raw_keys)
    max_len = torch.tensor(max_lens(options, lengths, model.max_positions[1]), device=source.device)
    sentences = torch.arange(len(lengths), device=source.device)
    beams = Beams.begin(sentences, torch.zeros_like(sentences), max_len, predictor)
    tree = HypothesisTree(source.device)
    return SearchStart(source, encoded, source_cache, tree, beams, BeamSearch(predictor, decoder_step, tree))


@torch.no_grad()
def translate_batch(
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
        masks: [H] or [F] by group, for all sentences.

    Returns:
        For each sentence up to `beam` hypotheses, best first; none for a sentence whose numbers overflow.

    Raises:
        UsageError: a minimum length above the maximum.
    """
    predictor = NextWordPredictor(model, options, symbols, scores=True)
    start = begin_search(model, predictor, source, lengths, masks)
    ended = start.search.run(start.beams)
    return ended.ranked(start.tree, options).hypotheses(start.tree, predictor.beam)


def decoder_masks(masks: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """Masks of the decoder's groups as those of a single system, [1, H] or [1, F]."""
    return {group: mask.unsqueeze(0) for group, mask in masks.items() if group.stack == "decoder"}
