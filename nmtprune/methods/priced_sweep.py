"""Removing units of several sorts by what they cost: a head and a neuron are not the same thing, what they save is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.budget import Limits, listed
from nmtprune.errors import BudgetError
from nmtprune.evaluate.prices import Prices
from nmtprune.methods.priced import choose
from nmtprune.methods.sweep import Course
from nmtprune.plan import Plan


@dataclass(frozen=True)
class PricedUnits(Course):
    """Units by their scores for what they cost, the lowest first, until the model costs as little as a goal says.

    The level of a plan is what its model costs, with a minus: the more it removes, the higher.

    Attributes:
        limits: which units may be removed.
        prices: what units cost.
        by_rank: scores are places in an order that knows of prices, so that the lowest is next.
    """

    limits: Limits
    prices: Prices
    by_rank: bool = False

    def reached(self, plan: Plan) -> float:
        """Minus the cost of the model."""
        return -self.prices.total(plan.kept_units)

    def onwards(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        """The plan whose model costs at most minus the level, met within one unit."""
        units, gone = plan.base.units, plan.removed(EVERY_KIND)
        removed = choose(scores, self.prices, -level, units, self.limits, gone, by_rank=self.by_rank)
        return Plan.removing(plan.base, removed)


def check_scored(plan: Plan, scores: Mapping[UnitId, float], limits: Limits) -> None:
    """Check that all units that a plan leaves have a finite score.

    Raises:
        BudgetError: they have not.
    """
    kinds = limits.kinds
    missing = [unit for unit in plan.kept_ids(kinds) if unit not in scores]
    if missing:
        raise BudgetError(f"no score for {listed(missing)}")
    broken = [f"{unit} ({scores[unit]})" for unit in plan.kept_ids(kinds) if not math.isfinite(scores[unit])]
    if broken:
        raise BudgetError(f"scores that are no finite numbers: {listed(broken)}")
