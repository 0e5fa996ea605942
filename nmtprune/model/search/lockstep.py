"""Beam search for many sentences and head masks at once, step by step, with or without a recorded search as a draft."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nmtprune.model.search.candidates import Candidates, Logits, Rules, Scorer
from nmtprune.model.search.decision import Beam, Decision
from nmtprune.model.search.extension import Extension, Rows
from nmtprune.model.search.nodes import Nodes
from nmtprune.model.search.slots import Ended, Slots

_WORST = 0.25
"""Of inexact nodes those are made exact first whose error bounds are this much of the largest."""


class Draft(Protocol):
    """Hypotheses whose next words were computed beforehand; they are the first nodes of the search."""

    candidates: Candidates

    def root(self, slots: Slots) -> Tensor:
        """Draft numbers [P] of the hypotheses without tokens."""

    def numbers(self, slots: Slots) -> Tensor:
        """Nodes [P, beam] of the slots' hypotheses; -1 where there are none."""

    def children(self, slots: Slots, parents: Tensor, step: int) -> Tensor:
        """Draft numbers [P, beam] of the slots' hypotheses, from those of the hypotheses one token shorter."""

    def settle(self, nodes: Tensor) -> None:
        """Make the candidates and normalizers of these nodes exact."""


class Recorder(Protocol):
    """Sees all that a search does."""

    def extended(self, features: Tensor) -> Logits:
        """When new nodes [R] were decoded; what it returns sees their logits."""

    def decided(self, slots: Slots, node: Tensor, decision: Decision) -> None:
        """After each step; `node` [P, beam] are the slots' nodes, -1 where there is none."""


@dataclass
class _Frontier:
    """Candidates of the slots at one step.

    Attributes:
        node: [P, beam], the slots' nodes; -1 where a hypothesis cannot matter or there is none.
        tokens: [P, beam, k + 1].
        logits: [P, beam, k + 1]; -inf for slots without a node.
    """

    node: Tensor
    tokens: Tensor
    logits: Tensor


class Lockstep:
    """Searches that advance together until the last has ended."""

    def __init__(self, scorer: Scorer, extension: Extension, nodes: Nodes, draft: Draft | None = None) -> None:
        """Prepare the search.

        Args:
            scorer: chooses candidates.
            extension: runs the decoder.
            nodes: gets what is found; holds the draft's nodes, where there is a draft.
            draft: a recorded search.
        """
        self._scorer, self._extension, self._nodes, self._draft = scorer, extension, nodes, draft
        self._beam = Beam.of(scorer.options, scorer.width + 1)
        self._recorder: Recorder | None = None

    def run(self, slots: Slots, recorder: Recorder | None = None) -> Ended:
        """Search until all have ended, beginning with `Slots.begin`."""
        self._recorder = recorder
        return self.run_until(slots, 0)[0]

    def run_until(self, slots: Slots, few: int) -> tuple[Ended, Slots]:
        """Search until that few searches or fewer go on, and give back those too; after one step at least."""
        ended = Ended(slots.search.shape[0], slots.token.shape[1], slots.token.device)
        if self._draft is not None:
            draft = slots.draft.clone()
            draft[:, 0] = self._draft.root(slots)
            slots = replace(slots, draft=draft)
        step = 0
        while slots.search.shape[0] and (slots.search.shape[0] > few or not step):
            slots = self._step(slots, step, ended)
            self._extension.compact(slots.path)
            step += 1
        return ended, slots

    def _step(self, slots: Slots, step: int, ended: Ended) -> Slots:
        """Make one token more; the searches that go on."""
        frontier = self._frontier(slots, step)
        slots, decision = self._decide(slots, frontier, step)
        if self._recorder is not None:
            self._recorder.decided(slots, frontier.node, decision)
        found = self._end(slots, frontier, decision, ended)
        after = self._advance(replace(slots, found=found), frontier, decision)
        beam = slots.token.shape[1]
        going_on = (found < beam) & (slots.max_len > step) & (after.logits != -torch.inf).any(1)
        if bool(going_on.all()):
            rows = None
        else:
            rows = going_on.nonzero().squeeze(1)
            after, slots = after.select(rows), slots.select(rows)
        if self._draft is None or not after.search.shape[0]:
            return after
        order = decision.slots if rows is None else decision.slots[rows]
        return replace(after, draft=self._draft.children(after, slots.draft.gather(1, order), step + 1))

    def _frontier(self, slots: Slots, step: int) -> _Frontier:
        """Candidates of all slots that can matter; decodes those that the draft does not have."""
        count, beam = slots.token.shape
        width = self._scorer.width + 1
        shape = (count, beam, width)
        tokens = torch.full(shape, self._scorer.symbols.eos, dtype=torch.long, device=slots.token.device)
        logits = torch.full(shape, -torch.inf, dtype=torch.float64, device=slots.token.device)
        node = torch.full_like(slots.token, -1)
        frontier = _Frontier(node, tokens, logits)
        needed = slots.logits != -torch.inf
        if self._draft is not None:
            frontier.node = self._draft.numbers(slots).masked_fill(~needed, -1)
            known = frontier.node >= 0
            self._take_draft(frontier, known)
            needed &= ~known
            if bool(needed.any()):
                best = slots.scores + self._doubt(slots, frontier) + max(0.0, -self._scorer.options.unkpen)
                needed &= best > self._floor(slots, frontier).unsqueeze(1)
        new = needed.nonzero()
        if new.shape[0]:
            self._extend(slots, frontier, new, step)
        return frontier

    def _take_draft(self, frontier: _Frontier, known: Tensor) -> None:
        if self._draft is None:
            return
        nodes = frontier.node[known]
        frontier.tokens[known] = self._draft.candidates.tokens[nodes]
        frontier.logits[known] = self._draft.candidates.logits[nodes].double()

    def _floor(self, slots: Slots, frontier: _Frontier) -> Tensor:
        """Score that a candidate must reach to matter, [P]."""
        values = self._values(slots, frontier) - self._doubt(slots, frontier).unsqueeze(-1)
        return self._beam.floor(values.flatten(1), slots)

    def _values(self, slots: Slots, frontier: _Frontier) -> Tensor:
        """Scores of all candidates, [P, beam, k + 1]."""
        normalizer = slots.normalizer + self._nodes.normalizer[frontier.node.clamp(min=0)]
        return (slots.logits - normalizer).unsqueeze(-1) + frontier.logits

    def _doubt(self, slots: Slots, frontier: _Frontier) -> Tensor:
        """Error bound of a slot's candidates against those of other slots of the sentence, [P, beam]."""
        if self._draft is None:
            return torch.zeros_like(slots.logits)
        return self._own_spread(slots, frontier)[1].sum(-1)

    def _own_spread(self, slots: Slots, frontier: _Frontier) -> tuple[Tensor, Tensor]:
        """Nodes on each slot's path, its own included, and their error bounds, both [P, beam, t + 1].

        Nodes that are on the paths of all slots of a search do not count: their errors are the same for all.
        """
        path = torch.cat([slots.path, frontier.node.clamp(min=0).unsqueeze(-1)], dim=2)
        empty = (slots.logits == -torch.inf).unsqueeze(-1)
        shared = ((path == path[:, :1]) | empty).all(1, keepdim=True)
        own = self._nodes.spread[path].masked_fill(shared | empty, 0.0)
        own[:, :, -1].masked_fill_(frontier.node < 0, 0.0)
        return path, own

    def _extend(self, slots: Slots, frontier: _Frontier, new: Tensor, step: int) -> None:
        """Decode the hypotheses at places `new` [R, 2] (search, slot)."""
        search, slot = new.unbind(1)
        path = slots.path[search, slot]
        parent = path[:, -1] if step else None
        node = self._nodes.add(slots.token[search, slot], parent, slots.logits[search, slot])
        frontier.node[search, slot] = node
        belongs = slots.search[search], slots.source[search], slots.system[search]
        rows = Rows(slots.token[search, slot], node, path, *belongs)
        last = (slots.max_len[search] <= step) & self._scorer.options.must_end
        early = torch.ones_like(last) if step < self._scorer.options.min_len else None
        features = self._extension(rows)
        see = None if self._recorder is None else self._recorder.extended(features)
        found = self._scorer(features, Rules(early, last if bool(last.any()) else None), see)
        frontier.tokens[search, slot] = found.tokens
        frontier.logits[search, slot] = found.logits.double()
        self._nodes.normalizer[node] = found.normalizer.double()

    def _decide(self, slots: Slots, frontier: _Frontier, step: int) -> tuple[Slots, Decision]:
        """Choose among the candidates; where inexact normalizers leave doubt, they are made exact first."""
        words = self._scorer.output.words * (slots.token.shape[1] if step else 1)
        while True:
            values = self._values(slots, frontier).flatten(1)
            decision = self._beam.decide(values, slots, words - 1)
            if self._draft is None:
                return slots, decision
            unsure = self._beam.doubtful(values, self._doubt(slots, frontier), decision, slots)
            if not bool(unsure.any()):
                return slots, decision
            slots = self._settle(slots, frontier, unsure)

    def _settle(self, slots: Slots, frontier: _Frontier, searches: Tensor) -> Slots:
        """Make exact the worst of what the scores of some searches [P] (Boolean) rest on."""
        if self._draft is None:
            return slots
        path, own = self._own_spread(slots, frontier)
        path, own = path[searches], own[searches]
        worst = own.flatten(1).amax(1)[:, None, None]
        self._draft.settle(path[own >= _WORST * worst].unique())
        self._take_draft(frontier, (frontier.node >= 0) & (frontier.node < self._draft.candidates.tokens.shape[0]))
        return replace(slots, normalizer=self._nodes.normalizer[slots.path].sum(-1))

    def _end(self, slots: Slots, frontier: _Frontier, decision: Decision, ended: Ended) -> Tensor:
        """Keep the hypotheses that end now; how many each search has, [P]."""
        beam = slots.token.shape[1]
        place = slots.found.unsqueeze(1) + decision.accepted.cumsum(1) - 1
        taken = decision.accepted & (place < beam)
        if not bool(taken.any()):
            return slots.found
        row, column = taken.nonzero(as_tuple=True)
        slot, word = decision.ranked[row, column], decision.words[row, column]
        logits = slots.logits[row, slot] + frontier.logits[row, slot, word]
        where, last = (
            (slots.search[row], place[row, column]),
            (frontier.node[row, slot], frontier.tokens[row, slot, word]),
        )
        ended.add(where, last, logits, slots.path.shape[2] + 1)
        return slots.found + taken.sum(1)

    def _advance(self, slots: Slots, frontier: _Frontier, decision: Decision) -> Slots:
        """The slots after the choice."""
        order, columns = decision.slots, decision.columns
        node = frontier.node.gather(1, order)
        chosen = torch.arange(order.shape[0], device=order.device).unsqueeze(1), order, columns
        logits = slots.logits.gather(1, order) + frontier.logits[chosen]
        if decision.empty is not None:
            logits = logits.masked_fill(decision.empty, -torch.inf)
        path = slots.path.gather(1, order.unsqueeze(-1).expand(-1, -1, slots.path.shape[2]))
        return replace(
            slots,
            token=frontier.tokens[chosen],
            logits=logits,
            normalizer=slots.normalizer.gather(1, order) + self._nodes.normalizer[node.clamp(min=0)],
            path=torch.cat([path, node.clamp(min=0).unsqueeze(-1)], dim=2),
            ignored=decision.ignored,
        )
