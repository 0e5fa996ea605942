"""Where a format has one width per stack, neurons cost what the widest layer has, and are removed from all layers."""

from nmtprune.architecture import KINDS, NEURON_KINDS, Architecture, AttentionModule, GroupId, Neurons, UnitId
from nmtprune.budget import Limits
from nmtprune.methods.chance import random_scores
from nmtprune.methods.priced_sweep import PricedUnits
from nmtprune.plan import Plan
from nmtprune.runs.greedy.one_width import OneWidth
from tests.support.bases import UnitCosts, base_of

BASE = base_of((4, 4), (8, 8))
MODEL = Architecture(
    tuple(AttentionModule(id, count, 4) for id, count in BASE.modules.items()),
    tuple(Neurons(id, count) for id, count in BASE.feed_forwards.items()),
)
PRICES = OneWidth(UnitCosts(BASE), MODEL)
FIRST, SECOND = GroupId("encoder-ffn", 0), GroupId("encoder-ffn", 1)


def test_neurons_cost_what_the_widest_layer_has() -> None:
    full = PRICES.total({})
    assert full == UnitCosts(BASE).total({}) == 70
    assert PRICES.total({FIRST: range(3)}) == full and PRICES.total({FIRST: range(3), SECOND: range(5)}) == full - 6
    assert PRICES.of_group(FIRST, {}) == PRICES.of_unit(UnitId(FIRST, 0), {}) == 1
    assert PRICES.of_group(FIRST, {FIRST: range(7)}) == 0 and PRICES.of_group(SECOND, {FIRST: range(7)}) == 1
    assert PRICES.of_unit(UnitId(GroupId("encoder", 0), 1), {}) == 1
    layers = GroupId("encoder-layers")
    # The wide layer is gone, so the narrow one is the widest; it and its heads go with 1 each.
    assert PRICES.total({FIRST: range(3), layers: (0,), SECOND: ()}) == full - 1 - 4 - 8 - 5
    assert PRICES.of_unit(UnitId(layers, 1), {}) == 1 + 4 + 8
    assert (PRICES.kind, PRICES.measure) == ("macs", "multiply-accumulates")
    assert PRICES.together == (("encoder-ffn",), ("decoder-ffn",))


def test_neurons_go_from_all_layers_and_heads_by_themselves() -> None:
    limits = Limits((*KINDS, *NEURON_KINDS))
    for seed in range(8):
        plan = PricedUnits(limits, PRICES).onwards(Plan.keep_all(BASE), random_scores(BASE.units, seed), -45.0)
        for kind in NEURON_KINDS:
            assert len({len(plan.kept(id)) for id in BASE.units if id.kind == kind}) == 1
        assert 43 < PRICES.total(plan.kept_units) == UnitCosts(BASE).total(plan.kept_units) <= 45
    counts = {len(plan.kept(id)) for id in BASE.modules}
    assert len(counts) > 1
