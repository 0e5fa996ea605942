"""A recorded beam search: the hypotheses that mattered, laid out so that one parallel pass can run over all of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.model.ablation.shortlist import Screen, Shortlists
from nmtprune.model.length_groups import length_groups
from nmtprune.model.recurrence import CellUpdate
from nmtprune.model.scope import Visible
from nmtprune.model.search.hypotheses import Beams, HypothesisTree
from nmtprune.model.search.next_words import EndRules, LogitsObserver, NextWordPredictor
from nmtprune.model.search.options import Tokens
from nmtprune.model.search.selection import Selection
from nmtprune.model.source_cache import EncoderOutput

_MARGIN = 0.25
"""Hypotheses are kept that came this close, in log-probability, to a continued one: masks may promote them."""

_BLOCK_NODES = 2048


Positions = tuple[int, ...]
"""Places of sentences in the corpus."""

Found = list[list[Tokens]]
"""For each system of masks the translations of the recorded sentences; empty for a sentence that has none."""


class Recorder:
    """Remembers which hypotheses a search decoded, and what a screen must know of them."""

    def __init__(self, predictor: NextWordPredictor, screen: Screen | None) -> None:
        self._predictor, self._screen = predictor, screen
        self._kept: list[Tensor] = []
        self._known: list[Shortlists] = []

    def extended(self, features: Tensor) -> LogitsObserver:
        """Take the features [R, E] of new nodes, and their shortlists from what the returned function sees."""
        screen = self._screen

        def see(rows: slice, logits: Tensor, normalizer: Tensor) -> None:
            if screen is not None:
                self._known.append(screen.shortlists(features[rows], logits, normalizer))

        return see

    def selected(self, beams: Beams, node: Tensor, selection: Selection) -> None:
        """Note which of the nodes [P, beam] were continued or nearly were, and where they belong."""
        keep = node >= 0
        if self._predictor.normalize:
            gain = max(0.0, -self._predictor.options.unkpen)
            keep &= beams.scores + gain + _MARGIN > selection.floor.unsqueeze(1)
        row, place = keep.nonzero(as_tuple=True)
        depth = torch.full_like(row, beams.path.shape[2])
        last = ((beams.max_len[row] <= depth) & self._predictor.options.must_end).long()
        self._kept.append(torch.stack([node[row, place], beams.search[row], depth, last]))

    def kept(self) -> Tensor:
        """Columns (node, search, depth, whether it must end) of the nodes to keep, [4, N], by search and depth."""
        found = torch.cat(self._kept, dim=1)
        order = found[2].sort(stable=True).indices
        order = order[found[1][order].sort(stable=True).indices]
        return found[:, order]

    def known(self) -> Shortlists | None:
        """Shortlists of all nodes, kept or not; None without a screen."""
        return Shortlists.joined(self._known) if self._known else None


@dataclass(frozen=True)
class SentenceBlock:
    """Consecutive sentences with about as many nodes, padded to the same number.

    Attributes:
        sentences: numbers in the token tree, B of them.
        rows: rows of their nodes in the token tree, B * n.
        size: n.
    """

    sentences: slice
    rows: slice
    size: int

    @property
    def count(self) -> int:
        """B."""
        return int(self.sentences.stop - self.sentences.start)


@dataclass(frozen=True)
class TreeLevels:
    """How the hypotheses of a block continue each other, for layers whose state is handed on from token to token.

    Attributes:
        roots: [B * n], hypotheses without tokens, and padding.
        levels: for each length from 1 on, places among B * n of the hypotheses and of those one token shorter.
    """

    roots: Tensor
    levels: tuple[tuple[Tensor, Tensor], ...]

    def cells(self, update: CellUpdate) -> Tensor:
        """Cells [B, n, D] of a recurrence."""
        kept, cells = update.kept.flatten(0, 1), update.added.flatten(0, 1).clone()
        for places, parents in self.levels:
            cells[places] += kept[places] * cells[parents]
        return cells.view(update.kept.shape)


@dataclass(frozen=True)
class TokenTree:
    """Recorded hypotheses of B sentences, by blocks of sentences of equal size, each sentence in order of length.

    Attributes:
        token: [N], last token of each hypothesis.
        parent: [N], row of the hypothesis one token shorter; a row of its own for roots and padding.
        depth: [N], tokens of each hypothesis.
        real: [N], false for padding.
        rules: which may end or must.
        table: [B, T, J], rows of the hypotheses of a sentence by length; -1 where there are fewer than J.
        order: [B], the recorded searches that the sentences stand for.
        blocks: of sentences.
        known: shortlists; None where the output layer cannot be screened.
    """

    token: Tensor
    parent: Tensor
    depth: Tensor
    real: Tensor
    rules: EndRules
    table: Tensor
    order: Tensor
    blocks: tuple[SentenceBlock, ...]
    known: Shortlists | None

    @property
    def size(self) -> int:
        """N."""
        return len(self.token)

    def levels(self, block: SentenceBlock) -> TreeLevels:
        """Which hypotheses of a block continue which."""
        depth, parent = self.depth[block.rows], self.parent[block.rows] - block.rows.start
        lengths = range(1, int(depth.max()) + 1)
        places = [(depth == length).nonzero().squeeze(1) for length in lengths]
        return TreeLevels(depth == 0, tuple((own, parent[own]) for own in places))

    def visible(self, block: SentenceBlock, dtype: torch.dtype) -> Visible:
        """In self-attention each hypothesis sees itself and those that it continues."""
        first, count = block.rows.start, block.count
        parent = (self.parent[block.rows] - first).view(count, block.size)
        parent = parent - torch.arange(count, device=parent.device).unsqueeze(1) * block.size
        depth = self.depth[block.rows].view(count, block.size)
        before = torch.arange(-1, block.size - 1, device=parent.device)
        if bool(((parent == before) | (depth == 0)).all()):
            return Visible(causal=True)
        seen = torch.eye(block.size, dtype=torch.bool, device=parent.device).repeat(count, 1, 1)
        for length in range(1, int(depth.max()) + 1):
            sentence, node = (depth == length).nonzero(as_tuple=True)
            seen[sentence, node] |= seen[sentence, parent[sentence, node]]
        return Visible.where(seen, dtype)


@dataclass(frozen=True)
class RecordedSearch:
    """Some sentences of a batch and their recorded search.

    Attributes:
        positions: places of the sentences in the corpus.
        source: [B, S] token ids.
        encoded: the encoder's output without masks.
        max_len: [B], tokens that each translation may have before its last one.
        token_tree: the recorded search.
        baseline: translations without masks, the last word included; empty for none.
    """

    positions: Positions
    source: Tensor
    encoded: EncoderOutput
    max_len: Tensor
    token_tree: TokenTree
    baseline: tuple[Tokens, ...]


def lay_out(recorder: Recorder, nodes: HypothesisTree, searches: range, predictor: NextWordPredictor) -> TokenTree:
    """The recorded hypotheses of consecutive searches, those with the fewest nodes first."""
    kept = recorder.kept()
    kept = kept[:, (kept[1] >= searches.start) & (kept[1] < searches.stop)]
    counts = torch.bincount(kept[1] - searches.start, minlength=len(searches))
    order = counts.sort(stable=True).indices
    number, depth, last = kept[0], kept[2], kept[3].bool()
    sentence = order.argsort()[kept[1] - searches.start]
    blocks, first = _blocks(counts[order].tolist())
    inside = torch.arange(len(sentence), device=number.device) - (counts.cumsum(0) - counts)[order][sentence]
    row = torch.tensor(first, device=number.device)[sentence] + inside
    total = blocks[-1].rows.stop

    def laid(values: Tensor, empty: Tensor) -> Tensor:
        empty[row] = values
        return empty

    row_of = torch.full((nodes.count,), -1, dtype=torch.long, device=number.device)
    row_of[number] = row
    source = laid(number, row.new_zeros(total))
    depths = laid(depth, row.new_zeros(total))
    real = laid(torch.ones_like(last), last.new_zeros(total))
    ending = laid(last, last.new_zeros(total))
    known = recorder.known()
    return TokenTree(
        token=nodes.token[source],
        parent=laid(torch.where(depth > 0, row_of[nodes.parent[number]], row), torch.arange(total, device=row.device)),
        depth=depths,
        real=real,
        rules=EndRules(
            real & (depths < predictor.options.min_len),
            ending if bool(ending.any()) else None,
            predictor.forced(depths),
        ),
        table=_table(sentence, depth, row, len(searches)),
        order=order + searches.start,
        blocks=blocks,
        known=None if known is None else known.select(source),
    )


def _blocks(sizes: list[int]) -> tuple[tuple[SentenceBlock, ...], list[int]]:
    """Blocks of sentences with these numbers of nodes, which rise; and the first row of each sentence."""

    def fits(count: int, shortest: int, longest: int) -> bool:
        return count * longest <= _BLOCK_NODES and longest <= 1.25 * shortest

    blocks: list[SentenceBlock] = []
    first: list[int] = []
    total = 0
    for group in length_groups(sizes, fits):
        size = sizes[group[-1]]
        first += [total + size * place for place in range(len(group))]
        rows = slice(total, total + size * len(group))
        blocks.append(SentenceBlock(slice(group[0], group[-1] + 1), rows, size))
        total = rows.stop
    return tuple(blocks), first


def _table(sentence: Tensor, depth: Tensor, row: Tensor, sentences: int) -> Tensor:
    """Rows by sentence and depth, [B, T, J]; nodes of one sentence and depth follow each other."""
    cell = sentence * (int(depth.max()) + 1) + depth
    _, counts = cell.unique_consecutive(return_counts=True)
    place = torch.arange(len(cell), device=cell.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    table = torch.full((sentences, int(depth.max()) + 1, int(counts.max())), -1, dtype=torch.long, device=cell.device)
    table[sentence, depth, place] = row
    return table
