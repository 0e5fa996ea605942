"""One step of beam search: which candidates end their hypotheses, and which continue them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.model.search.hypotheses import Beams
from nmtprune.model.search.options import Search


@dataclass(frozen=True)
class Selection:
    """What becomes of the candidates of P beams. A candidate is a hypothesis, by its place, and a column: a next word.

    Attributes:
        places: [P, C], the hypotheses of the best candidates, in falling order of score.
        columns: [P, C], their columns.
        accepted: [P, C], the candidate ends its hypothesis, and counts.
        scores: [P, C], their scores.
        next_places: [P, beam], the hypotheses that are continued, in the order of their new places.
        next_columns: [P, beam], by which of their columns.
        empty: [P, beam], new places without a hypothesis; None where there are none.
        ignored: [P, beam], new places whose hypothesis cannot end at the next step.
        floor: [P], score of the worst candidate that continues its hypothesis.
    """

    places: Tensor
    columns: Tensor
    accepted: Tensor
    scores: Tensor
    next_places: Tensor
    next_columns: Tensor
    empty: Tensor | None
    ignored: Tensor
    floor: Tensor


class Selector(ABC):
    """The rules of a toolkit for the candidates of a step.

    Scores are [P, beam * width], place by place; the last of the ``width`` columns of each place ends the hypothesis,
    and -inf is impossible.

    Attributes:
        width: columns per place.
    """

    @staticmethod
    def of(options: Search, width: int) -> "Selector":
        """The rules that the options ask for, for `width` candidates per hypothesis."""
        return MarianSelector(width) if options.shrinks else FairseqSelector(width)

    def __init__(self, width: int) -> None:
        self.width = width

    @abstractmethod
    def select(self, scores: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates; `limit` is the number of words to choose from, in the whole beam of a sentence."""


class MarianSelector(Selector):
    """As many candidates are taken as hypotheses are left; those that end leave a smaller beam to the others.

    At the longest length all that are taken end as they are.
    """

    def select(self, scores: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates as Marian's beam search does."""
        beam = beams.token.shape[1]
        best, found = scores.topk(min(beam, limit + 1, scores.shape[1]), dim=1)
        places, columns = found // self.width, found % self.width
        taken = self.taken(best, beams)
        ends = (columns == self.width - 1) | (beams.max_len <= beams.path.shape[2]).unsqueeze(1)
        accepted = taken & ends
        order = (~taken | ends).to(torch.uint8).sort(dim=1, stable=True).indices
        continued = (taken & ~ends).sum(1, keepdim=True)
        return Selection(
            places=places,
            columns=columns,
            accepted=accepted,
            scores=best,
            next_places=_filled(places.gather(1, order), beam),
            next_columns=_filled(columns.gather(1, order), beam),
            empty=torch.arange(beam, device=scores.device) >= continued,
            ignored=beams.ignored,
            floor=best.masked_fill(~taken, torch.inf).amin(1),
        )

    def taken(self, best: Tensor, beams: Beams) -> Tensor:
        """Which candidates [P, C], best first, find a place in the beam."""
        return (torch.arange(best.shape[1], device=best.device) < self.room(beams).unsqueeze(1)) & (best != -torch.inf)

    def room(self, beams: Beams) -> Tensor:
        """Candidates that are taken, [P]: as many as there are hypotheses, and a whole beam at the start."""
        if not beams.path.shape[2]:
            return torch.full_like(beams.search, beams.token.shape[1])
        return (beams.logits != -torch.inf).sum(1)


def _filled(x: Tensor, width: int) -> Tensor:
    """A tensor [P, C] with `width` columns, zeros behind its own."""
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]))


class FairseqSelector(Selector):
    """The beam stays full until as many hypotheses have ended.

    Of the best ``2 * beam`` candidates, those that end count where they are among the first `beam`; the best others
    continue. An ended candidate continues only where there are too few others (vocabularies smaller than two beams),
    and then its place is ignored: the candidate at that place cannot end at the next step.
    """

    def select(self, scores: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates as fairseq's beam search does."""
        ignored, width = beams.ignored, self.width
        beam = ignored.shape[1]
        best, found = scores.topk(min(2 * beam, scores.shape[1], limit), dim=1)
        places, columns = found // width, found % width
        ends = (columns == width - 1) & (best != -torch.inf)
        accepted = ends.clone()
        accepted[:, :beam] &= ~ignored
        accepted[:, beam:] = False
        out = ends
        out[:, :beam] = ignored | accepted[:, :beam]
        out, order = out.to(torch.uint8).sort(dim=1, stable=True)
        order = order[:, :beam]
        return Selection(
            places=places,
            columns=columns,
            accepted=accepted,
            scores=best,
            next_places=places.gather(1, order),
            next_columns=columns.gather(1, order),
            empty=None,
            ignored=out[:, :beam].bool(),
            floor=best.gather(1, order[:, -1:]).squeeze(1),
        )
