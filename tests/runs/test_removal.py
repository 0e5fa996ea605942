"""Where the steps of a run end: numbers, shares of a cost, budgets."""

from fractions import Fraction

import pytest

from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, GroupId, UnitId
from nmtprune.budget import Amount, Limits
from nmtprune.errors import BudgetError, UsageError
from nmtprune.methods.sweep import Goal
from nmtprune.plan import Base, Plan
from nmtprune.runs.greedy.cut_units import CutUnits, PricesOfCut
from nmtprune.runs.greedy.removal import (
    Removal,
    nothing_left,
    numbers_or_all,
    parse_budgets,
    shares_removed,
)
from nmtprune.runs.sorts import kinds_of, parse_sorts
from tests.support.bases import UnitCosts, base_of

WITHIN = (*KINDS, *NEURON_KINDS)
PERCENT = Amount.parse("25%"), Amount.parse("60%")


def test_sorts() -> None:
    assert parse_sorts("layers, heads") == ("heads", "layers")
    with pytest.raises(
        UsageError, match=r"--group 'heads,head' \(choose among heads, neurons, layers\): unknown group 'head'"
    ):
        parse_sorts("heads,head")
    with pytest.raises(UsageError, match="no group given"):
        parse_sorts(" ,")


def test_kinds_stand_for_all_groups_of_a_stack() -> None:
    base = base_of()
    assert kinds_of(("heads", "neurons", "layers"), base) == EVERY_KIND
    assert kinds_of(("heads", "neurons"), base, "decoder,cross") == ("decoder", "cross", "decoder-ffn")
    assert kinds_of(("layers",), base, "encoder") == ("encoder-layers",)
    with pytest.raises(UsageError, match="the model has no neurons or layers of kind cross"):
        kinds_of(("neurons", "layers"), base, "encoder,cross")
    with pytest.raises(UsageError, match="the model has no feed-forward layers whose neurons can be removed"):
        kinds_of(("heads", "neurons"), base_of(neurons=()))
    with pytest.raises(UsageError, match="unknown kind 'middle'"):
        kinds_of(("neurons",), base, "middle")


def test_shares_are_multiples_of_a_percentage() -> None:
    assert shares_removed(*PERCENT) == (0, 25, 50, 60)
    assert shares_removed(Amount.parse("12.5%"), Amount.parse("25%")) == (0, Fraction(25, 2), 25)
    with pytest.raises(UsageError, match="--step 5 and --until 9: steps over several groups are percentages"):
        shares_removed(Amount.parse("5"), Amount.parse("9"))
    with pytest.raises(BudgetError, match="steps of 0% remove nothing"):
        shares_removed(Amount.parse("0%"), Amount.parse("9%"))


def test_goals_of_shares_are_costs() -> None:
    base, removal = (
        base_of(),
        Removal(Limits(WITHIN), shares=shares_removed(Amount.parse("12.5%"), Amount.parse("25%"))),
    )
    # 24 heads and 32 neurons at 1, of 10 + 4 layers + 56 = 70
    assert removal.goals(base, UnitCosts(base)) == [Goal(-70, "000"), Goal(-63, "012.5"), Goal(-56, "025")]
    assert (removal.cost, removal.steps) == ("macs", 3)
    assert removal.round_levels(removal.goals(base, UnitCosts(base)), 2, base) == (-70, -63)


def test_goals_of_layers_keep_one_of_each_stack() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    assert UnitCosts(base).total(nothing_left(base, EVERY_KIND)) == 10 + 2
    assert UnitCosts(base).total(nothing_left(base, LAYER_KINDS)) == 10 + 13 + 17


def test_goals_of_budgets_go_from_large_to_small() -> None:
    base = base_of()
    removal = Removal(Limits(WITHIN), budgets=parse_budgets(["macs=50%", "macs=90%"]))
    assert removal.goals(base, UnitCosts(base)) == [Goal(-70, "000"), Goal(-63, "macs-90"), Goal(-35, "macs-50")]
    assert (removal.cost, removal.steps) == ("macs", 3)
    assert Removal(Limits(), budgets=parse_budgets(["speed=1.5x"])).goals(base, UnitCosts(base))[1].name == "speed-1.5x"


def test_budgets_of_one_run() -> None:
    with pytest.raises(UsageError, match="--budget macs=50%: given twice"):
        parse_budgets(["macs=50%", "macs=50 %"])
    with pytest.raises(UsageError, match="of one kind, not of macs and params"):
        parse_budgets(["macs=50%", "params=50%"])
    with pytest.raises(UsageError, match="'macs=0.5'"):
        parse_budgets(["macs=0.5"])


def test_a_budget_out_of_reach() -> None:
    base = base_of()
    Removal(Limits(WITHIN), budgets=parse_budgets(["macs=20%"])).check_reach(base, UnitCosts(base))
    for limits in (Limits(WITHIN, 1), Limits(KINDS)):
        with pytest.raises(BudgetError):
            Removal(limits, budgets=parse_budgets(["macs=20%"])).check_reach(base, UnitCosts(base))
    # Layers are part of what can be reached.
    Removal(Limits(EVERY_KIND), budgets=parse_budgets(["macs=18%"])).check_reach(base, UnitCosts(base))
    with pytest.raises(BudgetError):
        Removal(Limits(WITHIN), budgets=parse_budgets(["macs=18%"])).check_reach(base, UnitCosts(base))


def test_numbers_of_one_sort() -> None:
    base, layers, neurons = base_of((4,) * 6, (8,) * 6), Limits(LAYER_KINDS), Limits(NEURON_KINDS)
    assert numbers_or_all(base, Amount.parse("20%"), None, layers) == (0, 2, 5, 7, 10)
    assert numbers_or_all(base, Amount.parse("1"), Amount.parse("3"), layers) == (0, 1, 2, 3)
    assert numbers_or_all(base, Amount.parse("50%"), Amount.parse("100%"), neurons) == (0, 48, 96)
    with pytest.raises(BudgetError, match="11 layers cannot be removed: 0 to 10 of the 12 layers"):
        numbers_or_all(base, Amount.parse("1"), Amount.parse("90%"), layers)


def cut(base: Base, text: str) -> CutUnits:
    return CutUnits(Plan.removing(base, [UnitId.parse(name, EVERY_KIND) for name in text.split()]))


def test_units_of_a_cut_model_have_ids_in_the_unpruned_one() -> None:
    found = cut(base_of((4,) * 3, (8,) * 3), "decoder-layers.1 decoder.2.0 encoder.0.1 encoder-ffn.2.0")
    for there, here in (
        ("decoder.1.0", "decoder.2.1"), ("decoder-ffn.1.3", "decoder-ffn.2.3"), ("encoder.0.1", "encoder.0.2"),
        ("encoder-ffn.2.0", "encoder-ffn.2.1"), ("decoder-layers.1", "decoder-layers.2"),
        ("encoder-layers.1", "encoder-layers.1"), ("cross.0.3", "cross.0.3"),
    ):  # fmt: skip
        assert found.unpruned(UnitId.parse(there, EVERY_KIND)) == UnitId.parse(here, EVERY_KIND)


def test_prices_of_a_cut_model_are_those_of_what_is_left() -> None:
    base = base_of((4,) * 3, (8,) * 3)
    whole = UnitCosts(base, {"decoder-ffn": 2.0})
    found = PricesOfCut(whole, cut(base, "decoder-layers.1 decoder.2.0 encoder.0.1"))
    assert found.total({}) == whole.total(found.cut.plan.kept_units) == 100 + 24 - 25 - 1 - 1
    # The cut model's layer 1 of the decoder has 3 + 4 heads and 8 neurons.
    layer = UnitId(GroupId("decoder-layers"), 1)
    assert found.of_unit(layer, {}) == 1 + 3 + 4 + 16
    kept = {GroupId("decoder", 1): (0,), GroupId("decoder-layers"): (1,)}
    assert found.total(kept) == found.total({}) - 25 - 2
    assert found.of_group(GroupId("decoder-ffn", 1), {}) == 2.0
    assert (found.kind, found.measure, found.together) == ("macs", "multiply-accumulates", ())
