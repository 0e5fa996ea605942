"""Translations under many masks, from one recorded search: what masks leave untouched is verified, not searched.

Most translations survive the loss of a head or a few neurons. The search without masks is recorded as a tree of all
hypotheses that mattered. For each masked model one parallel pass computes all its nodes, from the first masked sublayer
on; the search is then repeated on them, and only hypotheses that the tree does not have are decoded step by step, those
of all systems in the same batches. The results are those of a search from scratch.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.model.ablation.masked_beam import MaskedBeamSearch, best_tokens
from nmtprune.model.ablation.masked_greedy import MaskedGreedySearch
from nmtprune.model.ablation.record import Positions, RecordedSearch, Recorder, lay_out
from nmtprune.model.ablation.shared_prefix import UnitMasks, changed
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search.beam_search import begin_search
from nmtprune.model.search.next_words import NextWordPredictor
from nmtprune.model.search.options import GenerateOptions, Search, Symbols, Tokens
from nmtprune.model.source_cache import EncoderOutput
from nmtprune.model.transformer import Transformer

RECORD_BYTES = 1 << 30
"""Memory for keys, values and features of the systems that are searched together."""


class MaskedSearch:
    """Records searches of a model, and repeats them under masks.

    Attributes:
        model: the model.
    """

    def __init__(self, model: Transformer, options: Search, symbols: Symbols) -> None:
        """Prepare for a model.

        Args:
            model: an encoder-decoder model.
            options: of the search.
            symbols: special words of the target vocabulary.
        """
        self.model, self._options = model, options
        self._predictor = NextWordPredictor(model, options, symbols, scores=False)
        # A screen knows some scores within bounds only, which is too little for rules that compare ended hypotheses.
        compares = isinstance(options, GenerateOptions) and self._predictor.beam > 1
        self._screen = None if compares else Screen.of(self._predictor)
        self._systems = max([1, *(module.heads for module in model.architecture)])
        greedy = self._predictor.beam == 1
        self._search = (
            MaskedGreedySearch(model, self._predictor, self._screen)
            if greedy
            else MaskedBeamSearch(model, options, self._predictor, self._screen)
        )

    @torch.no_grad()
    def record(self, source: Tensor, lengths: Sequence[int], positions: Sequence[int]) -> list[RecordedSearch]:
        """Translate a padded batch [B, S] of the sentences at these places of the corpus, and remember how.

        `lengths` are the tokens of each sentence without padding.

        Raises:
            UsageError: a minimum length above the maximum.
        """
        recorder = Recorder(self._predictor, self._screen)
        start = begin_search(self.model, self._predictor, source, lengths)
        ended = start.search.run(start.beams, recorder)
        texts = best_tokens(ended.ranked(start.tree, self._options), start.tree)
        records = []
        for some in self._ranges(recorder, len(positions)):
            token_tree = lay_out(recorder, start.tree, some, self._predictor)
            order = token_tree.order
            padding = None if start.encoded.padding is None else start.encoded.padding[order]
            records.append(
                RecordedSearch(
                    positions=tuple(positions[place] for place in order.tolist()),
                    source=start.source[order],
                    encoded=EncoderOutput(start.encoded.states[order], padding),
                    max_len=start.beams.max_len[order],
                    token_tree=token_tree,
                    baseline=tuple(texts[place] for place in order.tolist()),
                )
            )
        return records

    @torch.no_grad()
    def translations(
        self, records: Iterable[RecordedSearch], systems: Sequence[UnitMasks]
    ) -> Iterator[tuple[int, Positions, list[Tokens]]]:
        """Translations of the recorded sentences under each of several systems of masks.

        Args:
            records: of `record`, in something that can be gone through several times.
            systems: masks [H] or [F] of zeros and ones by group; best those of one group, which share most.

        Yields:
            For each system and record, in any order: the number of the system, the places of the sentences in the
            corpus, and their translations; empty where a sentence has none.
        """
        masks = [_effective(each) for each in systems]
        changing = [number for number, each in enumerate(masks) if each]
        same = [number for number, each in enumerate(masks) if not each]
        if not changing:
            yield from (
                (number, recorded.positions, list(recorded.baseline)) for recorded in records for number in same
            )
        unmasked: dict[Positions, list[Tokens]] = {}
        for begin in range(0, len(changing), self._systems):
            numbers = changing[begin : begin + self._systems]
            seen = _noting(records, unmasked) if not begin else records
            for positions, found in self._search(seen, [masks[number] for number in numbers]):
                yield from ((number, positions, texts) for number, texts in zip(numbers, found, strict=True))
        yield from ((number, positions, list(texts)) for positions, texts in unmasked.items() for number in same)

    def _ranges(self, recorder: Recorder, searches: int) -> list[range]:
        """Consecutive searches whose nodes, under as many systems as a module has heads, fit into a record."""
        kept = filter(None, (layer.kept_shape() for layer in self.model.decoder.layers))
        floats = sum(map(math.prod, kept)) + self.model.decoder.output_width
        most = max(1, RECORD_BYTES // (self._systems * 4 * (floats + 4 * self._predictor.width)))
        ranges, begin, total = [], 0, 0
        for search, count in enumerate(torch.bincount(recorder.kept()[1], minlength=searches).tolist()):
            if total and total + count > most:
                ranges.append(range(begin, search))
                begin, total = search, 0
            total += count
        return [*ranges, range(begin, searches)]


def _noting(records: Iterable[RecordedSearch], unmasked: dict[Positions, list[Tokens]]) -> Iterator[RecordedSearch]:
    """The records; their translations without masks are noted on the way."""
    for recorded in records:
        unmasked[recorded.positions] = list(recorded.baseline)
        yield recorded


def _effective(masks: UnitMasks) -> dict[GroupId, Tensor]:
    """The masks that change anything."""
    return {group: masks[group] for group in changed(masks)}
