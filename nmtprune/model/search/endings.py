"""Which hypotheses that have ended a search keeps, and when it stops."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.model.search.hypotheses import Beams, EndedHypotheses
from nmtprune.model.search.options import GenerateOptions, Search
from nmtprune.model.search.selection import Selection


@dataclass(frozen=True)
class LastWords:
    """The words by which the hypotheses of P beams may end; only those of hypotheses that are kept are looked up.

    Attributes:
        node: [P, beam], nodes of the hypotheses.
        tokens: [P, beam, W], words that may follow.
        logits: [P, beam, W], their logits.
        length: tokens of all of them, the last word included.
    """

    node: Tensor
    tokens: Tensor
    logits: Tensor
    length: int

    def of(self, beams: Beams, selection: Selection, row: Tensor, rank: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of selected candidates: nodes before the last word, last words, sums of logits, the last word's included."""
        place, column = selection.places[row, rank], selection.columns[row, rank]
        logits = beams.logits[row, place] + self.logits[row, place, column]
        return self.node[row, place], self.tokens[row, place, column], logits


class Endings(ABC):
    """The rules of a toolkit for hypotheses that have ended."""

    @staticmethod
    def of(options: Search) -> "Endings":
        """The rules that the options ask for."""
        return BestEndings(options) if isinstance(options, GenerateOptions) else FirstEndings()

    @abstractmethod
    def keep(self, beams: Beams, last: LastWords, selection: Selection, ended: EndedHypotheses) -> Tensor:
        """Keep the hypotheses that end now; how many each search has, [P]."""

    @abstractmethod
    def open(self, beams: Beams, ended: EndedHypotheses) -> Tensor:
        """Which searches go on, Boolean [P]; `beams` are those after the step."""


class FirstEndings(Endings):
    """The first that end, up to `beam`: then the search stops (fairseq, Marian)."""

    def keep(self, beams: Beams, last: LastWords, selection: Selection, ended: EndedHypotheses) -> Tensor:
        """Put them behind those that ended before."""
        beam = beams.token.shape[1]
        number = beams.found.unsqueeze(1) + selection.accepted.cumsum(1) - 1
        taken = selection.accepted & (number < beam)
        if not bool(taken.any()):
            return beams.found
        row, rank = taken.nonzero(as_tuple=True)
        node, word, logits = last.of(beams, selection, row, rank)
        ended.add((beams.search[row], number[row, rank]), (node, word), logits, last.length)
        return beams.found + taken.sum(1)

    def open(self, beams: Beams, ended: EndedHypotheses) -> Tensor:
        """Those whose beam is not full."""
        return beams.found < beams.token.shape[1]


class BestEndings(Endings):
    """The best that end, up to `beam`, until the others are no better: ``generate`` of Hugging Face's transformers 5.

    Once a beam is full its worst hypothesis is compared with the best that goes on, whose score is divided by its
    present length (``early_stopping`` false), or by the greatest (never); with true the search stops at once.
    """

    def __init__(self, options: GenerateOptions) -> None:
        self._options = options

    def keep(self, beams: Beams, last: LastWords, selection: Selection, ended: EndedHypotheses) -> Tensor:
        """Put them in the places of those that score worse."""
        scale = self._options.scale(torch.tensor(last.length, device=selection.scores.device))
        scores = (selection.scores / scale).masked_fill(~selection.accepted, -torch.inf)
        rows, beam = beams.search, beams.token.shape[1]
        scores, order = torch.cat([ended.score[rows], scores], dim=1).sort(dim=1, descending=True, stable=True)
        kept = order[:, :beam]
        new, before = kept >= beam, kept.clamp(max=beam - 1)
        row = torch.arange(len(rows), device=rows.device).unsqueeze(1)
        node, word, logits = last.of(beams, selection, row, (kept - beam).clamp(min=0))
        for column, own in ((ended.node, node), (ended.word, word), (ended.logits, logits)):
            column[rows] = torch.where(new, own, column[rows].gather(1, before))
        ended.length[rows] = ended.length[rows].gather(1, before).masked_fill(new, last.length)
        ended.score[rows] = scores[:, : kept.shape[1]]
        empty = ended.score[rows] == -torch.inf
        ended.length[rows] = ended.length[rows].masked_fill(empty, 0)
        return (~empty).sum(1)

    def open(self, beams: Beams, ended: EndedHypotheses) -> Tensor:
        """Those whose beam is not full, or that may still find something better."""
        full = beams.found >= beams.token.shape[1]
        if self._options.early_stopping == "true":
            return ~full
        length = torch.full_like(beams.max_len, beams.path.shape[2])
        if self._options.early_stopping == "never" and self._options.length_penalty > 0:
            length = beams.max_len + 1
        best = beams.scores[:, 0] / self._options.scale(length)
        return ~full | (best > ended.score[beams.search].amin(1))
