"""A recorded search as the draft of the same searches under several systems of head masks."""

import torch
from torch import Tensor

from nmtprune.model.search.candidates import Candidates, Scorer
from nmtprune.model.search.nodes import Nodes
from nmtprune.model.search.shortlist import Screen
from nmtprune.model.search.slots import Slots
from nmtprune.model.search.trellis import Trellis

_BLOCK = 1024


class TrellisDraft:
    """The hypotheses of a trellis, once for each system; node ``system * N + row`` is that of a row.

    Attributes:
        candidates: of all nodes.
    """

    candidates: Candidates

    def __init__(self, trellis: Trellis, systems: int, scorer: Scorer, screen: Screen | None) -> None:
        """Make nodes for that many systems; they mean nothing before `fill`."""
        self._trellis, self._scorer = trellis, scorer
        self._screen = screen if trellis.known is not None else None
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
        for begin in range(0, self._trellis.size, _BLOCK):
            rows = slice(begin, min(begin + _BLOCK, self._trellis.size))
            self._fill(features[rows], rows, first)

    def _fill(self, features: Tensor, rows: slice, first: int) -> None:
        rules, real = self._trellis.rules.select(rows), self._trellis.real[rows]
        nodes = slice(first + rows.start, first + rows.stop)
        known = self._trellis.known
        if self._screen is None or known is None:
            exact = real
        else:
            found, holds = self._screen.candidates(features, known.select(rows), rules)
            self._write(nodes, found)
            exact = real & ~holds
        left = exact.nonzero().squeeze(1)
        if len(left):
            self._write(left + nodes.start, self._scorer(features[left], rules.select(left)))

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
