"""Greedy search under masks: a recorded translation is verified in one pass, and continued where it differs."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from nmtprune.model.ablation.draft import blocks, draft_words
from nmtprune.model.ablation.record import Found, Positions, RecordedSearch
from nmtprune.model.ablation.shared_prefix import MaskedPasses, UnitMasks, stacked_masks
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search.branches import Branch, Branches, best_words
from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import Tokens
from nmtprune.model.search.sources import SourceCaches
from nmtprune.model.transformer import Transformer

_LOST = -1


class MaskedGreedySearch:
    """Repeats recorded searches with a beam of 1, whose token tree is a chain for each sentence."""

    def __init__(self, model: Transformer, predictor: NextWordPredictor, screen: Screen | None) -> None:
        self._model, self._predictor, self._screen, self._eos = model, predictor, screen, predictor.symbols.eos

    def __call__(
        self, records: Iterable[RecordedSearch], systems: Sequence[UnitMasks]
    ) -> Iterator[tuple[Positions, Found]]:
        """Translations of the recorded sentences under each system of masks, which all change something."""
        branches = Branches(self._model, self._predictor, stacked_masks(systems))
        waiting: list[tuple[Positions, Found, list[tuple[int, Branch]]]] = []
        for recorded in records:
            waiting.append((recorded.positions, *self._verify(recorded, systems, branches)))
        branches.finish()
        for positions, found, begun in waiting:
            for sentence, branch in begun:
                found[branch.system][sentence] = tuple(branch.words)
            yield positions, found

    def _verify(
        self, recorded: RecordedSearch, systems: Sequence[UnitMasks], branches: Branches
    ) -> tuple[Found, list[tuple[int, Branch]]]:
        """The recorded translations that stand, and by sentence what the others begin with."""
        passes = MaskedPasses(self._model, recorded, systems, raw_keys=self._predictor.options.raw_keys)
        draft, size, max_len = _RecordedTexts(recorded), len(recorded.positions), recorded.max_len.tolist()
        found: Found = [list(recorded.baseline) for _ in systems]
        begun: list[tuple[int, Branch]] = []
        for number, features in enumerate(passes.features()):
            for sentence, text in draft.differences(self._words(recorded, features)):
                if text[-1] in (self._eos, _LOST) or len(text) > max_len[sentence]:
                    found[number][sentence] = () if text[-1] == _LOST else text
                    continue
                source = sentence if len(passes.source_caches) == 1 else number * size + sentence
                begun.append((sentence, Branch(source, number, list(text), max_len[sentence])))
        branches.begin([branch for _, branch in begun], SourceCaches(passes.source_caches, size))
        return found, begun

    def _words(self, recorded: RecordedSearch, features: Tensor) -> Tensor:
        """The word [N] that follows each hypothesis, from its features [N, E]."""
        words = [
            best_words(
                draft_words(features[rows], rows, recorded.token_tree, self._predictor, self._screen),
                self._predictor.symbols.eos,
            )
            for rows in blocks(recorded.token_tree.size)
        ]
        return torch.cat(words)


class _RecordedTexts:
    """The recorded translations of some sentences, word by word."""

    def __init__(self, recorded: RecordedSearch) -> None:
        token_tree = recorded.token_tree
        device = token_tree.token.device
        self._depth, self._real = token_tree.depth, token_tree.real
        self._token, self._root = token_tree.token, token_tree.table[:, 0, 0]
        ends = torch.tensor([text[-1] if text else _LOST for text in recorded.baseline], device=device)
        self._sentence = torch.empty_like(token_tree.depth)
        for block in token_tree.blocks:
            numbers = torch.arange(block.sentences.start, block.sentences.stop, device=device)
            self._sentence[block.rows] = numbers.repeat_interleave(block.size)
        self._expected = ends[self._sentence]
        inner = (self._real & (self._depth > 0)).nonzero().squeeze(1)
        self._expected[token_tree.parent[inner]] = token_tree.token[inner]

    def differences(self, words: Tensor) -> Iterator[tuple[int, Tokens]]:
        """Sentences whose next words [N] are not those of the draft: number, and text up to the first other word.

        The last word is the end-of-sentence symbol, or -1 where numbers overflowed, where the search ends there.
        """
        depth = self._depth.masked_fill((words == self._expected) | ~self._real, int(self._depth.max()) + 1)
        first = torch.full_like(self._root, int(self._depth.max()) + 1)
        first.scatter_reduce_(0, self._sentence, depth, "amin")
        sentences = (first <= self._depth.max()).nonzero().squeeze(1)
        rows = self._root[sentences] + first[sentences]
        tokens = self._token.tolist() if len(sentences) else []
        places = zip(
            sentences.tolist(), self._root[sentences].tolist(), rows.tolist(), words[rows].tolist(), strict=True
        )
        for sentence, root, row, word in places:
            yield sentence, (*tokens[root + 1 : row + 1], word)
