"""Sweeps by costs: goals are met within one unit, plans are nested, limits hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import KINDS, NEURON_KINDS
from nmtprune.budget import Limits
from nmtprune.errors import BudgetError
from nmtprune.methods.chance import random_scores
from nmtprune.methods.priced_sweep import PricedUnits, check_scored
from nmtprune.methods.sweep import Goal, sweep
from nmtprune.plan import Plan
from tests.support.bases import UnitCosts, base_of

WITHIN = (*KINDS, *NEURON_KINDS)


@given(
    seed=st.integers(0, 99),
    head=st.sampled_from([1.0, 3.0, 40.0]),
    uniform=st.booleans(),
    multiple=st.sampled_from([1, 4]),
    by_rank=st.booleans(),
)
def test_goals_are_met_within_one_step_and_plans_are_nested(
    seed: int, head: float, uniform: bool, multiple: int, by_rank: bool
) -> None:
    base = base_of((4, 4), (8, 8))
    prices = UnitCosts(base, dict.fromkeys(KINDS, head))
    limits = Limits(WITHIN, 0, uniform, multiple)
    full, scores = prices.total({}), random_scores(base.units, seed)
    course = PricedUnits(limits, prices, by_rank)
    goals = [Goal(-share * full, str(share)) for share in (1.0, 0.9, 0.75, 0.6)]
    # What one step may save: a unit, with multiples as many neurons, of uniform stacks one of each layer.
    largest = max(head, multiple) * (4 if uniform else 1)
    before: set[object] = set()
    for goal, plan in sweep(base, course, lambda _plan: scores, goals):
        cost = prices.total(plan.kept_units)
        assert -goal.level - largest < cost <= -goal.level or not plan.removed(WITHIN)
        assert before <= set(plan.removed(WITHIN)) and -course.reached(plan) == cost
        before = set(plan.removed(WITHIN))
        for kinds in (("encoder",), ("decoder", "cross"), *((kind,) for kind in NEURON_KINDS)):
            counts = {len(plan.kept(id)) for id in base.units if id.kind in kinds}
            assert len(counts) == 1 or not uniform
            assert kinds[0] not in NEURON_KINDS or all(count % multiple == 0 for count in counts)


def test_the_cheap_and_unimportant_go_first() -> None:
    """A head that matters twice as much goes first if it costs four times as much."""
    base = base_of((1,), (1,))
    prices = UnitCosts(base, {"encoder": 4.0})
    scores = dict.fromkeys(random_scores(base.units, 1), 1.0)
    head = next(unit for unit in scores if str(unit) == "encoder.0.0")
    plan = PricedUnits(Limits(WITHIN), prices).onwards(
        Plan.keep_all(base), {**scores, head: 2.0}, -prices.total({}) + 4
    )
    assert plan.removed(WITHIN) == (head,)
    # Places are not divided by what units cost.
    ranks = {**scores, head: 2.0}
    plan = PricedUnits(Limits(WITHIN), prices, by_rank=True).onwards(Plan.keep_all(base), ranks, -prices.total({}) + 4)
    assert head not in plan.removed(WITHIN) and len(plan.removed(WITHIN)) == 4


def test_what_cannot_be() -> None:
    base = base_of()
    course = PricedUnits(Limits(WITHIN, 1), UnitCosts(base))
    scores = random_scores(base.units, 1)
    with pytest.raises(BudgetError):
        course.onwards(Plan.keep_all(base), scores, -12.0)
    with pytest.raises(BudgetError, match=r"no score for encoder-ffn\.0\.0, .* and 22 more"):
        check_scored(Plan.keep_all(base), random_scores(base.modules, 1), Limits(WITHIN))
    broken = {**scores, next(iter(scores)): float("nan")}
    with pytest.raises(BudgetError, match="scores that are no finite numbers"):
        check_scored(Plan.keep_all(base), broken, Limits(WITHIN))
