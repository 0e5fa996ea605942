"""A recorded search as the draft of the same searches under several systems of masks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nmtprune.model.ablation.record import TokenTree
from nmtprune.model.ablation.shortlist import Screen
from nmtprune.model.search.hypotheses import Beams, HypothesisTree
from nmtprune.model.search.next_words import NextWordPredictor, NextWords

_BLOCK = 1024


def blocks(size: int) -> Iterator[slice]:
    """Rows of a token tree in pieces whose next words are computed together."""
    for begin in range(0, size, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, size))


def draft_words(
    features: Tensor, rows: slice, token_tree: TokenTree, predictor: NextWordPredictor, screen: Screen | None
) -> NextWords:
    """Next words of some rows of a token tree with new features [n, E]: exact ones where the screen cannot tell."""
    rules, real = token_tree.rules.select(rows), token_tree.real[rows]
    if screen is None or token_tree.known is None:
        found, exact = predictor.none(features, len(features)), real
    else:
        found, holds = screen.next_words(features, token_tree.known.select(rows), rules)
        exact = real & ~holds
    left = exact.nonzero().squeeze(1)
    if len(left):
        own = predictor(features[left], rules.select(left))
        found.tokens[left], found.logits[left], found.normalizer[left] = own.tokens, own.logits, own.normalizer
        if found.spread is not None:
            found.spread[left] = 0.0
    return found


class Draft:
    """The hypotheses of a token tree, once for each system; node ``system * N + row`` is that of a row.

    Attributes:
        tree: the hypotheses.
        next_words: of all nodes.
    """

    next_words: NextWords

    def __init__(
        self, token_tree: TokenTree, systems: int, predictor: NextWordPredictor, screen: Screen | None
    ) -> None:
        """Make nodes for that many systems; they mean nothing before `fill`."""
        self._token_tree, self._predictor = token_tree, predictor
        self._screen = screen
        count, device = systems * token_tree.size, token_tree.token.device
        self.tree = HypothesisTree(device)
        offset = torch.arange(systems, device=device).unsqueeze(1) * token_tree.size
        parent = (token_tree.parent + offset).flatten()
        token = token_tree.token.repeat(systems)
        self.tree.add(token, parent, torch.zeros(count, dtype=torch.float64, device=device))
        none = predictor.none(next(predictor.output.parameters()), count)
        self.next_words = none
        self._features: list[Tensor] = []

    def fill(self, features: Tensor) -> None:
        """Take the features [N, E] of the next system's hypotheses, and find their next words."""
        first = len(self._features) * self._token_tree.size
        self._features.append(features)
        for rows in blocks(self._token_tree.size):
            self._fill(features[rows], rows, first)

    def _fill(self, features: Tensor, rows: slice, first: int) -> None:
        nodes = slice(first + rows.start, first + rows.stop)
        self._write(nodes, draft_words(features, rows, self._token_tree, self._predictor, self._screen))

    def _write(self, nodes: Tensor | slice, found: NextWords) -> None:
        self.next_words.tokens[nodes] = found.tokens
        self.next_words.logits[nodes] = found.logits
        self.tree.normalizer[nodes] = found.normalizer.double()
        self.tree.spread[nodes] = 0.0 if found.spread is None else found.spread.double()

    def settle(self, nodes: Tensor) -> None:
        """Make the next words and normalizers of these nodes exact."""
        if not len(nodes):
            return
        size = self._token_tree.size
        system, row = nodes // size, nodes % size
        features = torch.stack([self._features[s][r] for s, r in zip(system.tolist(), row.tolist(), strict=True)])
        self._write(nodes, self._predictor(features, self._token_tree.rules.select(row)))

    def root(self, beams: Beams) -> Tensor:
        """Rows [P] of the hypotheses without tokens."""
        return self._token_tree.table[self._sentence(beams), 0, 0]

    def nodes(self, rows: Tensor, beams: Beams) -> Tensor:
        """Nodes [P, beam] of the hypotheses in these rows [P, beam] of the token tree, -1 where rows are -1."""
        node = rows + (beams.system * self._token_tree.size).unsqueeze(1)
        return node.masked_fill(rows < 0, -1)

    def children(self, beams: Beams, parents: Tensor, step: int) -> Tensor:
        """Rows [P, beam] of the beams' hypotheses, -1 where there are none; `parents` are those one token shorter."""
        table = self._token_tree.table
        if step >= table.shape[1]:
            return torch.full_like(parents, -1)
        rows = table[self._sentence(beams), step]
        same = (self._token_tree.parent[rows].unsqueeze(1) == parents.unsqueeze(2)) & (rows >= 0).unsqueeze(1)
        same &= self._token_tree.token[rows].unsqueeze(1) == beams.token.unsqueeze(2)
        found = rows.gather(1, same.to(torch.uint8).argmax(2))
        return found.masked_fill(~same.any(2), -1)

    def _sentence(self, beams: Beams) -> Tensor:
        return beams.source % self._token_tree.table.shape[0]
