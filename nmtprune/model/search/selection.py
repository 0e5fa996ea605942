"""One step of beam search: which candidates end their hypotheses, and which continue them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nmtprune.model.search.hypotheses import Beams
from nmtprune.model.search.options import GenerateOptions, Search


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
    def of(options: Search, width: int, prefix: int = 0) -> "Selector":
        """The rules that the options ask for, for `width` candidates per hypothesis behind `prefix` forced words."""
        if isinstance(options, GenerateOptions):
            return GenerateSelector(width, cuts_off=not options.forced_eos)
        return MarianSelector(width, prefix) if options.shrinks else FairseqSelector(width)

    def __init__(self, width: int) -> None:
        self.width = width

    @abstractmethod
    def select(self, scores: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates; `limit` is the number of words to choose from, in the whole beam of a sentence."""


class MarianSelector(Selector):
    """As many candidates are taken as hypotheses are left; those that end leave a smaller beam to the others.

    At the longest length all that are taken end as they are. There is a whole beam again behind a forced prefix.
    """

    def __init__(self, width: int, prefix: int = 0) -> None:
        super().__init__(width)
        self._prefix = prefix

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
        if beams.path.shape[2] <= self._prefix:
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


class GenerateSelector(FairseqSelector):
    """As fairseq's, but a hypothesis that has ended never continues, and one that is cut off ends as it is.

    The rules of ``generate`` in Hugging Face's transformers 5.
    """

    def __init__(self, width: int, *, cuts_off: bool) -> None:
        super().__init__(width)
        self._cuts_off = cuts_off

    def select(self, scores: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates as the beam search of transformers does."""
        found = super().select(scores, replace(beams, ignored=torch.zeros_like(beams.ignored)), limit)
        ended = found.next_columns == self.width - 1
        if not self._cuts_off:
            return replace(found, empty=ended, ignored=torch.zeros_like(found.ignored))
        cut = (beams.max_len <= beams.path.shape[2]).unsqueeze(1)
        first = torch.arange(found.places.shape[1], device=scores.device) < beams.token.shape[1]
        accepted = found.accepted | (cut & first & (found.scores != -torch.inf))
        return replace(found, accepted=accepted, empty=ended | cut, ignored=torch.zeros_like(found.ignored))
