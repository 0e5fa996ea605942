"""One step of beam search: which candidates finish, which go on; and whether inexact scores could change that."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Decision:
    """What becomes of the candidates of P sentences.

    Attributes:
        ending: [P, C], slots of the candidates in falling order of score.
        accepted: [P, C], the candidate ends its hypothesis, and counts.
        values: [P, C], their scores.
        slots: [P, beam], the slots that go on, in the order of their new places.
        columns: [P, beam], with which of their slot's candidates.
        ignored: [P, beam], places that hold no hypothesis that may end.
        floor: [P], score of the worst candidate that goes on.
    """

    ending: Tensor
    accepted: Tensor
    values: Tensor
    slots: Tensor
    columns: Tensor
    ignored: Tensor
    floor: Tensor


def decide(values: Tensor, width: int, ignored: Tensor, limit: int) -> Decision:
    """Rank the candidates as fairseq's beam search does.

    Of the best ``2 * beam`` candidates, those that end count where they are among the first `beam`; the best others go
    on. An ended candidate goes on only where there are too few others (vocabularies smaller than two beams), and then
    its place is ignored: what stands at that place among the next candidates cannot end.

    Args:
        values: [P, beam * width], scores by slot; the last column of each slot ends the hypothesis, -inf is impossible.
        width: candidates per slot.
        ignored: [P, beam], of the step before.
        limit: number of words that may be chosen from, in all slots together.
    """
    beam = ignored.shape[1]
    best, found = values.topk(min(2 * beam, values.shape[1], limit), dim=1)
    slots, columns = found // width, found % width
    ends = (columns == width - 1) & (best != -torch.inf)
    accepted = ends.clone()
    accepted[:, :beam] &= ~ignored
    accepted[:, beam:] = False
    out = ends
    out[:, :beam] = ignored | accepted[:, :beam]
    out, order = out.to(torch.uint8).sort(dim=1, stable=True)
    order = order[:, :beam]
    return Decision(
        ending=slots,
        accepted=accepted,
        values=best,
        slots=slots.gather(1, order),
        columns=columns.gather(1, order),
        ignored=out[:, :beam].bool(),
        floor=best.gather(1, order[:, -1:]).squeeze(1),
    )


def doubtful(values: Tensor, half: Tensor, decision: Decision, width: int, room: Tensor) -> Tensor:
    """Where scores within their error bounds could lead to another decision, Boolean [P].

    Which hypotheses end last, when more end than there is room for, does not count unless it could be the best.

    Args:
        values: as for `decide`.
        half: [P, beam], the true scores of a slot's candidates are this much higher or lower at most; what is common to
            all slots of a sentence does not count.
        decision: made on `values`.
        width: candidates per slot.
        room: [P], how many ended hypotheses a sentence can still take.
    """
    beam = half.shape[1]
    error = half.repeat_interleave(width, dim=1)
    low, high = values - error, values + error
    going_on = torch.zeros_like(values, dtype=torch.bool)
    going_on.scatter_(1, decision.slots * width + decision.columns, True)
    ends = torch.zeros_like(going_on).unflatten(1, (beam, width))
    ends[:, :, -1] = True
    ends = ends.flatten(1)
    worst_in = low.masked_fill(~going_on, torch.inf).amin(1)
    best_out = high.masked_fill(going_on | ends, -torch.inf).amax(1)
    unsure = worst_in <= best_out
    unsure |= _rank_unsure(low, high, decision, beam, width)
    unsure |= _best_unsure(half, decision, room)
    return unsure & (half > 0).any(1)


def _rank_unsure(low: Tensor, high: Tensor, decision: Decision, beam: int, width: int) -> Tensor:
    """Whether an ending candidate might be among the first `beam` or not, [P]."""
    ending = torch.arange(width - 1, beam * width, width, device=low.device)
    possible = low[:, ending] != -torch.inf
    above = (high.unsqueeze(1) >= low[:, ending].unsqueeze(2)).sum(2) - 1
    surely_above = (low.unsqueeze(1) > high[:, ending].unsqueeze(2)).sum(2)
    taken = torch.zeros_like(possible, dtype=torch.long).scatter_add_(1, decision.ending, decision.accepted.long()) > 0
    return (possible & torch.where(taken, above >= beam, surely_above < beam)).any(1)


def _best_unsure(half: Tensor, decision: Decision, room: Tensor) -> Tensor:
    """Whether a hypothesis for which there is no room might be better than all that end at the same step, [P]."""
    rank = decision.accepted.cumsum(1)
    error = half.gather(1, decision.ending)
    first = (decision.values - error).masked_fill(~decision.accepted | (rank > 1), torch.inf).amin(1)
    left_out = decision.accepted & (rank > room.unsqueeze(1))
    return first <= (decision.values + error).masked_fill(~left_out, -torch.inf).amax(1)
