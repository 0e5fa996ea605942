"""Greedy search of many batches: the last sentences of each wait, and are finished together.

Most translations of a batch end at about the same length, and a few are much longer. A step takes nearly as long for a
few hypotheses as for many: those that are left of several batches are decoded as one.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nmtprune.model.scope import Masks
from nmtprune.model.search.beam_search import SearchStart, begin_search, decoder_masks
from nmtprune.model.search.branches import Branch, Branches
from nmtprune.model.search.hypotheses import Beams
from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import Hypothesis, Search, Symbols
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.transformer import Transformer

_FEW = 0.2
"""The sentences that are left of a batch wait when they are less than this share of it."""


class BatchedGreedySearch:
    """Translates batch by batch with a beam of 1; all translations are there after `finish`."""

    def __init__(self, model: Transformer, options: Search, symbols: Symbols, masks: Masks) -> None:
        """Prepare to search.

        Args:
            model: an encoder-decoder model.
            options: of the search, with a beam of 1.
            symbols: special words of the target vocabulary.
            masks: [H] or [F] by group, for all sentences.
        """
        self._model, self._options, self._masks = model, options, masks
        self._predictor = NextWordPredictor(model, options, symbols, scores=True)
        self._branches = Branches(model, self._predictor, decoder_masks(masks))
        self._found: dict[int, list[Hypothesis]] = {}
        self._waiting: list[tuple[int, Branch]] = []

    @torch.no_grad()
    def translate(self, source: Tensor, lengths: Sequence[int], places: Sequence[int]) -> None:
        """Translate a padded batch [B, S] of sentences of these lengths and places.

        Raises:
            UsageError: a minimum length above the maximum.
        """
        start = begin_search(self._model, self._predictor, source, lengths, self._masks)
        ended, left = start.search.run_until(start.beams, int(_FEW * len(places)))
        hypotheses = ended.ranked(start.tree, self._options).hypotheses(start.tree, 1)
        self._found.update(zip(places, hypotheses, strict=True))
        self._wait(left, start, places)

    def _wait(self, left: Beams, start: SearchStart, places: Sequence[int]) -> None:
        """Keep the searches that are left for later."""
        if not len(left.search):
            return
        tree, path = start.tree, left.path[:, 0]
        words = torch.cat([tree.token[path[:, 1:]], left.token], dim=1)
        sums = torch.cat([tree.logits[path[:, 1:]], left.logits], dim=1)
        scores = torch.cat([sums[:, :1], sums.diff(dim=1)], dim=1) - tree.normalizer[path]
        begun = []
        rows = zip(left.source.tolist(), words.tolist(), scores.tolist(), left.max_len.tolist(), strict=True)
        for sentence, own, by_word, max_len in rows:
            begun.append(Branch(sentence, 0, own, max_len, scores=by_word))
            self._waiting.append((places[sentence], begun[-1]))
        self._branches.begin(begun, SourceCaches((start.source_cache,), len(places)))

    @torch.no_grad()
    def finish(self) -> dict[int, list[Hypothesis]]:
        """Continue until all have ended: by place the hypothesis of each sentence, none where numbers overflow."""
        self._branches.finish()
        for place, branch in self._waiting:
            self._found[place] = [self._hypothesis(branch)] if branch.words else []
        return self._found

    def _hypothesis(self, branch: Branch) -> Hypothesis:
        length = len(branch.words)
        total = math.fsum(branch.scores) - self._options.word_penalty * length
        score = total / float(self._options.scale(torch.tensor(length)))
        return Hypothesis(tuple(branch.words), score)
