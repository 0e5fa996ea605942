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
    """The candidates of P beams by which hypotheses end, C of each in falling order of score.

    Attributes:
        node: [P, C], nodes before the last word.
        word: [P, C], the last word.
        logits: [P, C], sums of logits, the last word's included.
        length: tokens of all of them, the last word included.
    """

    node: Tensor
    word: Tensor
    logits: Tensor
    length: int


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
        chosen = last.node[row, rank], last.word[row, rank]
        ended.add((beams.search[row], number[row, rank]), chosen, last.logits[row, rank], last.length)
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
        scale = self._options.scale(torch.tensor(last.length, device=last.logits.device))
        scores = (selection.scores / scale).masked_fill(~selection.accepted, -torch.inf)
        rows = beams.search
        own = torch.full_like(last.word, last.length)
        scores, order = torch.cat([ended.score[rows], scores], dim=1).sort(dim=1, descending=True, stable=True)
        kept = order[:, : beams.token.shape[1]]
        for column, new in (
            (ended.node, last.node),
            (ended.word, last.word),
            (ended.logits, last.logits),
            (ended.length, own),
        ):
            column[rows] = torch.cat([column[rows], new], dim=1).gather(1, kept)
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
