"""One step of beam search: which candidates finish, which go on; and whether inexact scores could change that."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.model.search.hypotheses import Beams
from nmtprune.model.search.options import Search


@dataclass(frozen=True)
class Selection:
    """What becomes of the candidates of P sentences.

    Attributes:
        ranked: [P, C], slots of the candidates in falling order of score.
        words: [P, C], which of their slot's candidates they are.
        accepted: [P, C], the candidate ends its hypothesis, and counts.
        values: [P, C], their scores.
        beams: [P, beam], the slots that go on, in the order of their new places.
        columns: [P, beam], with which of their slot's candidates.
        empty: [P, beam], new places that nothing takes; None where all are taken.
        ignored: [P, beam], places that hold no hypothesis that may end.
        floor: [P], score of the worst candidate that goes on.
    """

    ranked: Tensor
    words: Tensor
    accepted: Tensor
    values: Tensor
    beams: Tensor
    columns: Tensor
    empty: Tensor | None
    ignored: Tensor
    floor: Tensor


class Selector(ABC):
    """What a toolkit's beam search makes of the candidates of a step.

    Values are scores [P, beam * width] by slot; the last of the ``width`` columns of each slot ends the hypothesis, and
    -inf is impossible.
    """

    @staticmethod
    def of(options: Search, width: int) -> "Selector":
        """The rule that the options ask for, for `width` candidates per slot."""
        return MarianSelector(width) if options.shrinks else FairseqSelector(width)

    def __init__(self, width: int) -> None:
        self._width = width

    @abstractmethod
    def select_candidates(self, values: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates; `limit` is the number of words to choose from, in all slots of a sentence together."""

    @abstractmethod
    def doubtful(self, values: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Where scores within their error bounds could lead to another decision, Boolean [P].

        Args:
            values: as for `select_candidates`.
            half: [P, beam], the true scores of a slot's candidates are this much higher or lower at most; what is
                common to all slots of a sentence does not count.
            selection: made on `values`.
            beams: as for `select_candidates`.
        """

    @abstractmethod
    def floor(self, values: Tensor, beams: Beams) -> Tensor:
        """Score [P] that a candidate must reach to matter beside these."""


class MarianSelector(Selector):
    """As many candidates are taken as hypotheses are left; those that end leave a smaller beam to the others.

    At the longest length all that are taken end as they are.
    """

    def select_candidates(self, values: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates as Marian's beam search does."""
        count, beam = beams.token.shape
        best, found = values.topk(min(beam, limit + 1, values.shape[1]), dim=1)
        ranked, words = found // self._width, found % self._width
        taken = self._taken(best, beams)
        ends = (words == self._width - 1) | (beams.max_len <= beams.path.shape[2]).unsqueeze(1)
        accepted = taken & ends
        order = (~taken | ends).to(torch.uint8).sort(dim=1, stable=True).indices
        going_on = (taken & ~ends).sum(1, keepdim=True)
        return Selection(
            ranked=ranked,
            words=words,
            accepted=accepted,
            values=best,
            beams=_filled(ranked.gather(1, order), beam),
            columns=_filled(words.gather(1, order), beam),
            empty=torch.arange(beam, device=values.device) >= going_on,
            ignored=beams.ignored,
            floor=best.masked_fill(~taken, torch.inf).amin(1),
        )

    def _taken(self, best: Tensor, beams: Beams) -> Tensor:
        """Which candidates [P, C], best first, find a place in the beam."""
        return (torch.arange(best.shape[1], device=best.device) < _room(beams).unsqueeze(1)) & (best != -torch.inf)

    def doubtful(self, values: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Only which candidates are taken matters, not their order."""
        error = half.repeat_interleave(self._width, dim=1)
        taken = torch.zeros_like(values, dtype=torch.bool)
        taken.scatter_(1, selection.ranked * self._width + selection.words, self._taken(selection.values, beams))
        worst_in = (values - error).masked_fill(~taken, torch.inf).amin(1)
        best_out = (values + error).masked_fill(taken, -torch.inf).amax(1)
        return (worst_in <= best_out) & (half > 0).any(1)

    def floor(self, values: Tensor, beams: Beams) -> Tensor:
        """The worst that is taken for sure."""
        ranked = values.topk(beams.token.shape[1], dim=1).values
        worst: Tensor = ranked.gather(1, (_room(beams) - 1).clamp(min=0).unsqueeze(1))
        return worst[:, 0]


def _room(beams: Beams) -> Tensor:
    """Candidates that Marian takes, [P]: as many as there are hypotheses, and a whole beam at the start."""
    beam = beams.token.shape[1]
    if not beams.path.shape[2]:
        return torch.full_like(beams.search, beam)
    return (beams.logits != -torch.inf).sum(1)


def _filled(x: Tensor, width: int) -> Tensor:
    """A tensor [P, C] with `width` columns, zeros behind its own."""
    return x if x.shape[1] == width else torch.nn.functional.pad(x, (0, width - x.shape[1]))


class FairseqSelector(Selector):
    """The beam stays full until as many hypotheses have ended.

    Of the best ``2 * beam`` candidates, those that end count where they are among the first `beam`; the best others go
    on. An ended candidate goes on only where there are too few others (vocabularies smaller than two beams), and then
    its place is ignored: what stands at that place among the next candidates cannot end.
    """

    def select_candidates(self, values: Tensor, beams: Beams, limit: int) -> Selection:
        """Rank the candidates as fairseq's beam search does."""
        ignored, width = beams.ignored, self._width
        beam = ignored.shape[1]
        best, found = values.topk(min(2 * beam, values.shape[1], limit), dim=1)
        ranked, words = found // width, found % width
        ends = (words == width - 1) & (best != -torch.inf)
        accepted = ends.clone()
        accepted[:, :beam] &= ~ignored
        accepted[:, beam:] = False
        out = ends
        out[:, :beam] = ignored | accepted[:, :beam]
        out, order = out.to(torch.uint8).sort(dim=1, stable=True)
        order = order[:, :beam]
        return Selection(
            ranked=ranked,
            words=words,
            accepted=accepted,
            values=best,
            beams=ranked.gather(1, order),
            columns=words.gather(1, order),
            empty=None,
            ignored=out[:, :beam].bool(),
            floor=best.gather(1, order[:, -1:]).squeeze(1),
        )

    def doubtful(self, values: Tensor, half: Tensor, selection: Selection, beams: Beams) -> Tensor:
        """Which hypotheses end last, when more end than there is room for, counts only if it could be the best."""
        width = self._width
        beam = half.shape[1]
        error = half.repeat_interleave(width, dim=1)
        low, high = values - error, values + error
        going_on = torch.zeros_like(values, dtype=torch.bool)
        going_on.scatter_(1, selection.beams * width + selection.columns, True)
        ends = torch.zeros_like(going_on).unflatten(1, (beam, width))
        ends[:, :, -1] = True
        ends = ends.flatten(1)
        worst_in = low.masked_fill(~going_on, torch.inf).amin(1)
        best_out = high.masked_fill(going_on | ends, -torch.inf).amax(1)
        unsure = worst_in <= best_out
        unsure |= _rank_unsure(low, high, selection, beam, width)
        unsure |= _best_unsure(half, selection, beam - beams.found)
        return unsure & (half > 0).any(1)

    def floor(self, values: Tensor, beams: Beams) -> Tensor:
        """Score that at least `beam` candidates that go on have reached."""
        beam = beams.token.shape[1]
        going_on = values.unflatten(1, (beam, self._width))[:, :, :-1].flatten(1)
        worst: Tensor = going_on.topk(beam, dim=1).values[:, -1]
        return worst


def _rank_unsure(low: Tensor, high: Tensor, selection: Selection, beam: int, width: int) -> Tensor:
    """Whether an ending candidate might be among the first `beam` or not, [P]."""
    ending = torch.arange(width - 1, beam * width, width, device=low.device)
    possible = low[:, ending] != -torch.inf
    above = (high.unsqueeze(1) >= low[:, ending].unsqueeze(2)).sum(2) - 1
    surely_above = (low.unsqueeze(1) > high[:, ending].unsqueeze(2)).sum(2)
    taken = (
        torch.zeros_like(possible, dtype=torch.long).scatter_add_(1, selection.ranked, selection.accepted.long()) > 0
    )
    return (possible & torch.where(taken, above >= beam, surely_above < beam)).any(1)


def _best_unsure(half: Tensor, selection: Selection, room: Tensor) -> Tensor:
    """Whether a hypothesis for which there is no room might be better than all that end at the same step, [P]."""
    rank = selection.accepted.cumsum(1)
    error = half.gather(1, selection.ranked)
    first = (selection.values - error).masked_fill(~selection.accepted | (rank > 1), torch.inf).amin(1)
    left_out = selection.accepted & (rank > room.unsqueeze(1))
    return first <= (selection.values + error).masked_fill(~left_out, -torch.inf).amax(1)
