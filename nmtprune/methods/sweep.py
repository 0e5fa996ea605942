"""Removing heads step by step in the order of their scores (Michel et al. 2019, section 4; Budhraja et al. 2020)."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from nmtprune.architecture import UnitId
from nmtprune.budget import Amount, Limits, Units, in_steps, lowest, lowest_beyond, reachable, resolve
from nmtprune.errors import BudgetError
from nmtprune.plan import Base, Plan

ScoresOf = Callable[[Plan], Mapping[UnitId, float]]
"""Scores of the heads that a plan leaves; others may be there and make no difference."""


def numbers_removed(modules: Units, step: Amount, until: Amount, limits: Limits) -> tuple[int, ...]:
    """How many heads are gone after each step, from 0 to `until`, exactly; every step removes at least one.

    Multiples of a percentage are rounded, not percentages of what the step before left: 10 % of 24 heads are 2, then
    20 % are 5. The last step removes fewer where `until` is no multiple of `step`. With `Limits.uniform` the numbers
    are the nearest that can be reached at all; which of them a sweep reaches depends on the steps before.

    Raises:
        BudgetError: a step of nothing, no heads of the selected kinds, or more heads than may go.
    """
    total = limits.count(modules)
    if not total:
        raise BudgetError(f"there is no head to remove ({', '.join(limits.kinds) or 'no kind selected'})")
    if not step.value:
        raise BudgetError(f"steps of {step} remove nothing: give a percentage or a number above 0")
    last = resolve(until, modules, limits)
    if in_steps(modules, limits):
        return _uniform_numbers([number for number in reachable(modules, limits) if number <= last], step, total)
    if step.exact(total) <= 1:
        return tuple(range(last + 1))
    multiples = (Amount(step.value * factor, step.percent).of(total) for factor in itertools.count())
    return (*itertools.takewhile(lambda number: number < last, multiples), last)


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
    """The plan that removes `number` heads: those that `plan` removes, and of the others the lowest-scored.

    With `Limits.uniform` the number is the nearest that can be reached from `plan`.

    Ties are broken by kind (encoder, decoder, cross), layer and head, as everywhere.

    Args:
        plan: the step before.
        scores: of all heads of the selected kinds that `plan` keeps.
        number: heads of the selected kinds to remove, at least as many as `plan` does.
        limits: which heads may go.

    Raises:
        BudgetError: scores are missing or not finite, or that many heads cannot be removed.
        ValueError: `plan` removes more.
    """
    gone = plan.removed(limits.kinds)
    if number < len(gone):
        raise ValueError(f"the step before removes {len(gone)} heads, more than {number}")
    if in_steps(plan.base.units, limits):
        return Plan.removing(plan.base, lowest_beyond(gone, scores, number, plan.base.units, limits))
    there = {head: scores[head] for head in plan.kept_ids(limits.kinds) if head in scores}
    # Below all others, what is gone goes first again: one rule counts heads, minima and ties.
    below = math.nextafter(min((score for score in there.values() if math.isfinite(score)), default=0.0), -math.inf)
    removed = lowest({**there, **dict.fromkeys(gone, below)}, number, plan.base.units, limits)
    return Plan.removing(plan.base, removed)


def sweep(base: Base, scores_of: ScoresOf, numbers: Sequence[int], limits: Limits) -> Iterator[Plan]:
    """One plan for each of the ascending numbers; the heads of a step are chosen by the scores after the step before.

    Uniform numbers that a step went beyond have none.

    Raises:
        BudgetError: as for `next_plan`, when the step is reached.
    """
    plan, last = Plan.keep_all(base), -1
    for number in numbers:
        # What removes nothing more needs no scores: measuring them may take long.
        if number > len(plan.removed(limits.kinds)):
            plan = next_plan(plan, scores_of(plan), number, limits)
        removed = len(plan.removed(limits.kinds))
        # A uniform step may have gone beyond the next number, or be the last that can be made.
        if removed > last or not in_steps(base.units, limits):
            yield plan
        last = removed
