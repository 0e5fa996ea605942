"""Removing units step by step, those of the lowest scores first (Michel et al. 2019, section 4; Budhraja et al. 2020).

A sweep goes from goal to goal. A `Course` says what goals count, and which units are removed on the way: heads or
neurons by their number (`CountedUnits`), both by what they cost (`priced_sweep.py`), layers (`layer_sweep.py`).
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nmtprune.architecture import UnitId
from nmtprune.budget import Amount, Limits, Units, in_steps, lowest, lowest_beyond, reachable, resolve
from nmtprune.errors import BudgetError
from nmtprune.plan import Base, Plan

ScoresOf = Callable[[Plan], Mapping[UnitId, float]]
"""Scores of the units that a plan leaves; others may be there and make no difference."""


@dataclass(frozen=True)
class Goal:
    """Where a step of a sweep ends: with the first plan that has reached a level.

    Attributes:
        level: see `Course.reached`.
        name: of the plan's file; None for a place that a sweep only comes by.
    """

    level: float
    name: str | None


class Course(ABC):
    """How a removal continues from a plan: what goals count, and which units are next."""

    @abstractmethod
    def reached(self, plan: Plan) -> float:
        """The level of a plan: the more it removes, the higher."""

    @abstractmethod
    def onwards(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        """The plan that removes what `plan` removes, and further units until the level is reached.

        Args:
            plan: the step before.
            scores: of all units of the selected kinds that `plan` leaves.
            level: above the one that `plan` has reached.

        Raises:
            BudgetError: scores are missing or not finite, or the level cannot be reached.
        """


def sweep(base: Base, course: Course, scores_of: ScoresOf, goals: Sequence[Goal]) -> Iterator[tuple[Goal, Plan]]:
    """One plan for each goal, by ascending levels; the units of a step are chosen by the scores after the step before.

    A goal that the step before went beyond has no plan, nor has one towards which nothing more can be removed.

    Raises:
        BudgetError: as for `Course.onwards`, when the step is reached.
    """
    plan, last = Plan.keep_all(base), -math.inf
    for goal in goals:
        # What removes nothing more needs no scores: measuring them may take long.
        if goal.level > course.reached(plan):
            plan = course.onwards(plan, scores_of(plan), goal.level)
        reached = course.reached(plan)
        if reached > last:
            yield goal, plan
        last = reached


@dataclass(frozen=True)
class CountedUnits(Course):
    """Heads or neurons by their number: the lowest-scored first, exactly as many as a goal says.

    Attributes:
        limits: which of them may be removed. In steps (`budget.in_steps`) the number is the nearest possible one.
    """

    limits: Limits

    def reached(self, plan: Plan) -> int:
        """Removed units of the selected kinds."""
        return len(plan.removed(self.limits.kinds))

    def onwards(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        """As many units more as are missing."""
        return next_plan(plan, scores, round(level), self.limits)


def numbers_removed(units: Units, step: Amount, until: Amount, limits: Limits) -> tuple[int, ...]:
    """How many units are gone after each step, from 0 to `until`, exactly; every step removes at least one.

    Multiples of a percentage are rounded, not percentages of what the step before left: 10 % of 24 heads are 2, then
    20 % are 5. The last step removes fewer where `until` is no multiple of `step`. In steps (`in_steps`) the numbers
    are the nearest that can be reached at all; which of them a sweep reaches depends on the steps before.

    Raises:
        BudgetError: a step of nothing, no units of the selected kinds, or more units than may go.
    """
    total = limits.count(units)
    if not total:
        what = "head" if limits.sorts in ((), ("heads",)) else "unit"
        raise BudgetError(f"there is no {what} to remove ({', '.join(limits.kinds) or 'no kind selected'})")
    check_step(step)
    last = resolve(until, units, limits)
    if in_steps(units, limits):
        return _uniform_numbers([number for number in reachable(units, limits) if number <= last], step, total)
    if step.exact(total) <= 1:
        return tuple(range(last + 1))
    multiples = (Amount(step.value * factor, step.percent).of(total) for factor in itertools.count())
    return (*itertools.takewhile(lambda number: number < last, multiples), last)


def check_step(step: Amount) -> None:
    """Refuse steps that remove nothing.

    Raises:
        BudgetError: the amount is 0.
    """
    if not step.value:
        raise BudgetError(f"steps of {step} remove nothing: give a percentage or a number above 0")


def _uniform_numbers(there: Sequence[int], step: Amount, total: int) -> tuple[int, ...]:
    """Of the numbers that can be reached the nearest to each multiple of a step, each larger than the one before."""
    found, larger = [0], [number for number in there if number]
    for factor in itertools.count(1):
        if not larger:
            break
        target = step.exact(total) * factor
        if target > found[-1]:
            found.append(min(larger, key=lambda number: (abs(number - target), number)))
            larger = [number for number in larger if number > found[-1]]
    return tuple(found)


def next_plan(plan: Plan, scores: Mapping[UnitId, float], number: int, limits: Limits) -> Plan:
    """The plan that removes `number` units: those that `plan` removes, and of the others the lowest-scored.

    In steps (`budget.in_steps`) the number is the nearest that can be reached from `plan`.

    Ties are broken by kind, layer and number, as everywhere.

    Args:
        plan: the step before.
        scores: of all units of the selected kinds that `plan` keeps.
        number: units of the selected kinds to remove, at least as many as `plan` does.
        limits: which units may be removed.

    Raises:
        BudgetError: scores are missing or not finite, or that many units cannot be removed.
        ValueError: `plan` removes more.
    """
    gone, units = plan.removed(limits.kinds), plan.base.units
    if number < len(gone):
        raise ValueError(f"the step before removes {len(gone)} units, more than {number}")
    if in_steps(units, limits):
        return Plan.removing(plan.base, lowest_beyond(gone, scores, number, units, limits))
    there = {unit: scores[unit] for unit in plan.kept_ids(limits.kinds) if unit in scores}
    # Below all others, what is gone goes first again: one rule counts units, minima and ties.
    below = math.nextafter(min((score for score in there.values() if math.isfinite(score)), default=0.0), -math.inf)
    removed = lowest({**there, **dict.fromkeys(gone, below)}, number, units, limits)
    return Plan.removing(plan.base, removed)
