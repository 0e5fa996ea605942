"""Layers are removed where that costs less than heads and neurons that save as much; each is chosen on what is left."""

from collections.abc import Sequence

import pytest

from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, GroupId, UnitId
from nmtprune.budget import Limits
from nmtprune.errors import BudgetError
from nmtprune.methods.chance import random_scores
from nmtprune.methods.layer_sweep import Layers, LossesOf, UnitsAndLayers, removable_layers, without_layer
from nmtprune.methods.priced_sweep import PricedUnits
from nmtprune.methods.sweep import Goal, sweep
from nmtprune.plan import Plan
from tests.support.bases import UnitCosts, base_of

WITHIN = Limits((*KINDS, *NEURON_KINDS))


def layers(text: str) -> set[UnitId]:
    return {UnitId.parse(name, LAYER_KINDS) for name in text.split()}


def gone_layers(plan: Plan) -> set[UnitId]:
    return set(plan.removed(LAYER_KINDS))


def by_layers(weights: dict[str, float]) -> LossesOf:
    """Losses that add up what every layer is worth."""
    worth = {UnitId.parse(name, LAYER_KINDS): weight for name, weight in weights.items()}

    def losses(_plan: Plan, further: Sequence[Plan]) -> list[float]:
        return [sum(worth[layer] for layer in gone_layers(plan)) for plan in further]

    return losses


def counted(plan: Plan) -> float:
    return len(plan.removed(LAYER_KINDS))


WORTH = {
    "encoder-layers.0": 3.0, "encoder-layers.1": 1.0, "encoder-layers.2": 2.0,
    "decoder-layers.0": 9.0, "decoder-layers.1": 1.5, "decoder-layers.2": 8.0,
}  # fmt: skip


def test_the_layer_of_the_lowest_loss_goes_and_the_last_of_a_stack_stays() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    course = Layers(LAYER_KINDS, counted, by_layers(WORTH))
    goals = [Goal(number, str(number)) for number in range(5)]
    plans = [gone_layers(plan) for _, plan in sweep(base, course, lambda _plan: {}, goals)]
    order = ["encoder-layers.1", "decoder-layers.1", "encoder-layers.2", "decoder-layers.2"]
    assert plans == [layers(" ".join(order[:number])) for number in range(5)]
    with pytest.raises(BudgetError, match="no further layer can be removed: every stack keeps one"):
        course.onwards(Plan.removing(base, layers(" ".join(order))), {}, 5)


def test_layers_that_stay_are_not_tried() -> None:
    plan = Plan.keep_all(base_of())
    first, *others = removable_layers(plan, LAYER_KINDS)
    assert removable_layers(plan, LAYER_KINDS, {first}) == tuple(others)


def test_a_layer_is_chosen_on_the_model_that_is_left() -> None:
    """Two layers that stand in for each other: without one of them the other is worth much."""
    base = base_of((2,) * 3, ())
    asked: list[set[UnitId]] = []

    def losses(plan: Plan, further: Sequence[Plan]) -> list[float]:
        asked.append(gone_layers(plan))
        pair = layers("decoder-layers.0 decoder-layers.1")
        return [9.0 if pair <= gone_layers(each) else float(len(gone_layers(each) - pair)) for each in further]

    course = Layers(("decoder-layers",), counted, losses)
    plan = course.onwards(Plan.keep_all(base), {}, 2)
    assert gone_layers(plan) == layers("decoder-layers.0 decoder-layers.2")
    assert asked == [set(), layers("decoder-layers.0")]
    assert removable_layers(plan, LAYER_KINDS) == tuple(
        sorted(layers("encoder-layers.0 encoder-layers.1 encoder-layers.2"))
    )


def test_layers_go_until_the_model_is_as_cheap_as_asked() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    prices = UnitCosts(base)
    units = PricedUnits(Limits(()), prices)
    course = Layers(LAYER_KINDS, units.reached, by_layers(WORTH))
    full = prices.total({})
    plan = course.onwards(Plan.keep_all(base), {}, -(full - 14))  # an encoder layer: 4 heads, 8 neurons and itself: 13
    assert gone_layers(plan) == layers("encoder-layers.1 decoder-layers.1")
    assert prices.total(plan.kept_units) <= full - 14


def mixed(worth: float, unit: float) -> UnitsAndLayers:
    """A layer is worth `worth` more than its number, and a head or neuron `unit`."""
    base = base_of((4,) * 3, (8,) * 3)

    def loss(plan: Plan) -> float:
        gone = gone_layers(plan)
        inside = [
            each
            for each in plan.removed(WITHIN.kinds)
            if UnitId(GroupId.layers_of(each.group.stack), each.group.layer) not in gone
        ]
        return sum(worth + layer.number for layer in gone) + unit * len(inside)

    def losses(_plan: Plan, further: Sequence[Plan]) -> list[float]:
        return [loss(plan) for plan in further]

    return UnitsAndLayers(PricedUnits(WITHIN, UnitCosts(base)), LAYER_KINDS, losses)


def test_units_that_are_worth_less_than_layers_go_alone() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    scores, course = random_scores(base.units, 1), mixed(worth=50.0, unit=1.0)
    plan = course.onwards(Plan.keep_all(base), scores, -60.0)
    assert not gone_layers(plan)
    alone = PricedUnits(WITHIN, UnitCosts(base)).onwards(Plan.keep_all(base), scores, -60.0)
    assert len(plan.removed(WITHIN.kinds)) == len(alone.removed(WITHIN.kinds))
    assert UnitCosts(base).total(plan.kept_units) == 60.0


def test_layers_that_are_worth_less_than_units_go() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    scores, course = random_scores(base.units, 1), mixed(worth=1.0, unit=1.0)
    plan = course.onwards(Plan.keep_all(base), scores, -100.0)
    # 10 + 13 x 3 + 17 x 3 = 100 without anything gone
    assert not plan.removed((*KINDS, *NEURON_KINDS, *LAYER_KINDS))
    plan = course.onwards(Plan.keep_all(base), scores, -83.0)
    assert gone_layers(plan) == layers("decoder-layers.0") and plan.count_kept(WITHIN.kinds) == 84 - 16


def test_a_layer_that_saves_more_than_is_missing_competes_with_what_just_reaches_the_goal() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    scores, start = random_scores(base.units, 1), Plan.keep_all(base)
    plan = mixed(worth=3.0, unit=1.0).onwards(start, scores, -98.0)
    assert not gone_layers(plan) and len(plan.removed(WITHIN.kinds)) == 2
    plan = mixed(worth=1.5, unit=1.0).onwards(start, scores, -98.0)
    assert len(gone_layers(plan)) == 1


def test_where_no_units_are_left_layers_go() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    scores, course = random_scores(base.units, 1), mixed(worth=1000.0, unit=0.1)
    # All units save 12 x 3 + 16 x 3, so that 10 + 6 layers cost 16.
    assert not gone_layers(course.onwards(Plan.keep_all(base), scores, -16.0))
    plan = course.onwards(Plan.keep_all(base), scores, -14.0)
    assert len(gone_layers(plan)) == 2
    with pytest.raises(BudgetError):
        course.onwards(Plan.keep_all(base), scores, -11.0)


def test_missing_scores_are_no_reason_to_take_a_layer() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    scores = random_scores(base.modules, 1)
    with pytest.raises(BudgetError, match=r"no score for encoder-ffn\.0\.0, "):
        mixed(1.0, 1.0).onwards(Plan.keep_all(base), scores, -50.0)


def test_without_takes_all_units_of_the_layer() -> None:
    base = base_of()
    plan = without_layer(Plan.keep_all(base), UnitId(GroupId("decoder-layers"), 1))
    assert {str(unit.group) for unit in plan.removed((*KINDS, *NEURON_KINDS))} == {
        "decoder.1",
        "cross.1",
        "decoder-ffn.1",
    }
