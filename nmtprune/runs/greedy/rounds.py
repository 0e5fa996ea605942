"""Removal in rounds: a joint order that is measured again after each share of the removal, on the pruned model."""

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

from nmtprune.architecture import UnitId
from nmtprune.plan import Plan


def round_starts(numbers: Sequence[int], rounds: int, uniform: bool) -> tuple[int, ...]:
    """Units removed when each round begins: 0, then equal shares of the last of `numbers`, rounded once each.

    Shares below one unit give fewer rounds. Of a uniform sweep they are the nearest of its numbers, since no others can
    be reached.

    Args:
        numbers: units removed after each step of a sweep, ascending from 0.
        rounds: at least 1.
        uniform: as for the sweep.
    """
    shares = [Fraction(numbers[-1] * place, rounds) for place in range(rounds)]
    if uniform:
        starts = {_nearest(numbers, share) for share in shares}
    else:
        starts = {math.floor(share + Fraction(1, 2)) for share in shares}
    return tuple(sorted(start for start in starts if start < numbers[-1] or not start))


class Rounds:
    """Scores for a sweep: those that were measured when the round began that a plan belongs to."""

    def __init__(
        self,
        starts: Sequence[float],
        reached: Callable[[Plan], float],
        measured: Callable[[Plan], Mapping[UnitId, float]],
    ) -> None:
        """Prepare; nothing is measured yet.

        Args:
            starts: levels at which rounds begin; the sweep must come by each of them.
            reached: the level of a plan, see `Course.reached`.
            measured: scores of the units that a plan leaves, on the model of this plan.
        """
        self._starts, self._reached, self._measured = starts, reached, measured
        self._round = 0
        self._scores: Mapping[UnitId, float] = {}

    def __call__(self, plan: Plan) -> Mapping[UnitId, float]:
        """Scores of the units that a plan leaves; plans must come in the order of the sweep."""
        level = self._reached(plan)
        begun = sum(start <= level for start in self._starts)
        if begun > self._round:
            self._round, self._scores = begun, self._measured(plan)
        return self._scores


def _nearest(numbers: Sequence[int], share: Fraction) -> int:
    return min(numbers, key=lambda number: (abs(number - share), number))
