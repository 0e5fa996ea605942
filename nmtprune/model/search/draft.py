"""A recorded search as the draft of the same searches under several systems of head masks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from nmtprune.model.search.candidates import Candidates, Scorer
from nmtprune.model.search.nodes import Nodes
from nmtprune.model.search.shortlist import Screen
from nmtprune.model.search.slots import Slots
from nmtprune.model.search.trellis import Trellis

_BLOCK = 1024


def blocks(size: int) -> Iterator[slice]:
    """Rows of a trellis in pieces whose candidates are computed together."""
    for begin in range(0, size, _BLOCK):
        yield slice(begin, min(begin + _BLOCK, size))


def next_words(features: Tensor, rows: slice, trellis: Trellis, scorer: Scorer, screen: Screen | None) -> Candidates:
    """Candidates of some rows of a trellis with new features [n, E]: by the screen where it holds, else exactly."""
    rules, real = trellis.rules.select(rows), trellis.real[rows]
    if screen is None or trellis.known is None:
        found, exact = scorer.none(features, len(features)), real
    else:
        found, holds = screen.candidates(features, trellis.known.select(rows), rules)
        exact = real & ~holds
    left = exact.nonzero().squeeze(1)
    if len(left):
        own = scorer(features[left], rules.select(left))
        found.tokens[left], found.logits[left], found.normalizer[left] = own.tokens, own.logits, own.normalizer
        if found.spread is not None:
            found.spread[left] = 0.0
    return found


class TrellisDraft:
    """The hypotheses of a trellis, once for each system; node ``system * N + row`` is that of a row.

    Attributes:
        candidates: of all nodes.
    """

    candidates: Candidates

    def __init__(self, trellis: Trellis, systems: int, scorer: Scorer, screen: Screen | None) -> None:
        """Make nodes for that many systems; they mean nothing before `fill`."""
        self._trellis, self._scorer = trellis, scorer
        self._screen = screen
        count, device = systems * trellis.size, trellis.token.device
        self.nodes = Nodes(device)
        offset = torch.arange(systems, device=device).unsqueeze(1) * trellis.size
        parent = (trellis.parent + offset).flatten()
        token = trellis.token.repeat(systems)
        self.nodes.add(token, parent, torch.zeros(count, dtype=torch.float64, device=device))
        none = scorer.none(next(scorer.output.parameters()), count)
        self.candidates = none
        self._features: list[Tensor] = []

    def fill(self, features: Tensor) -> None:
        """Take the features [N, E] of the next system's hypotheses, and find their candidates."""
        first = len(self._features) * self._trellis.size
        self._features.append(features)
        for rows in blocks(self._trellis.size):
            self._fill(features[rows], rows, first)

    def _fill(self, features: Tensor, rows: slice, first: int) -> None:
        nodes = slice(first + rows.start, first + rows.stop)
        self._write(nodes, next_words(features, rows, self._trellis, self._scorer, self._screen))

    def _write(self, nodes: Tensor | slice, found: Candidates) -> None:
        self.candidates.tokens[nodes] = found.tokens
        self.candidates.logits[nodes] = found.logits
        self.nodes.normalizer[nodes] = found.normalizer.double()
        self.nodes.spread[nodes] = 0.0 if found.spread is None else found.spread.double()

    def settle(self, nodes: Tensor) -> None:
        """Make the candidates and normalizers of these nodes exact."""
        if not len(nodes):
            return
        size = self._trellis.size
        system, row = nodes // size, nodes % size
        features = torch.stack([self._features[s][r] for s, r in zip(system.tolist(), row.tolist(), strict=True)])
        self._write(nodes, self._scorer(features, self._trellis.rules.select(row)))

    def root(self, slots: Slots) -> Tensor:
        """Rows [P] of the hypotheses without tokens."""
        return self._trellis.table[self._sentence(slots), 0, 0]

    def numbers(self, slots: Slots) -> Tensor:
        """Nodes [P, beam] of the slots' hypotheses; -1 where the trellis does not have them."""
        node = slots.draft + (slots.system * self._trellis.size).unsqueeze(1)
        return node.masked_fill(slots.draft < 0, -1)

    def children(self, slots: Slots, parents: Tensor, step: int) -> Tensor:
        """Rows [P, beam] of the slots' hypotheses, -1 where there are none; `parents` are those one token shorter."""
        table = self._trellis.table
        if step >= table.shape[1]:
            return torch.full_like(parents, -1)
        rows = table[self._sentence(slots), step]
        same = (self._trellis.parent[rows].unsqueeze(1) == parents.unsqueeze(2)) & (rows >= 0).unsqueeze(1)
        same &= self._trellis.token[rows].unsqueeze(1) == slots.token.unsqueeze(2)
        found = rows.gather(1, same.to(torch.uint8).argmax(2))
        return found.masked_fill(~same.any(2), -1)

    def _sentence(self, slots: Slots) -> Tensor:
        return slots.source % self._trellis.table.shape[0]
