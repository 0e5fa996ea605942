"""The order in which heads go: cheapest next, exactly as limits allow, rounds for uniform models."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest

from nmtprune.architecture import GroupId, UnitId
from nmtprune.budget import Limits, lowest, reachable
from nmtprune.errors import UsageError
from nmtprune.methods.joint_order import RemovalCosts, ranks, removal_order

ENCODER, DECODER, CROSS = (GroupId(kind, 0) for kind in ("encoder", "decoder", "cross"))
MODULES = {ENCODER: 3, DECODER: 2, CROSS: 2}


def head(text: str) -> UnitId:
    return UnitId.parse(text)


def heads(*texts: str) -> tuple[UnitId, ...]:
    return tuple(map(head, texts))


@dataclass(frozen=True)
class Together(RemovalCosts):
    """Costs of their own, and more for a head whose partners are gone."""

    own: Mapping[UnitId, float]
    together: Mapping[frozenset[UnitId], float]
    gone: frozenset[UnitId] = frozenset()

    def costs(self) -> dict[UnitId, float]:
        return {
            head: own + sum(self.together.get(frozenset({head, other}), 0.0) for other in self.gone)
            for head, own in self.own.items()
            if head not in self.gone
        }

    def without(self, head: UnitId) -> "Together":
        return Together(self.own, self.together, self.gone | {head})


def costs(*together: tuple[str, str, float], modules: Mapping[GroupId, int] = MODULES) -> Together:
    """Costs that grow in the order of the heads."""
    every = [UnitId(id, number) for id, count in modules.items() for number in range(count)]
    pairs = {frozenset({head(one), head(other)}): cost for one, other, cost in together}
    return Together({each: float(place) for place, each in enumerate(every)}, pairs)


def test_the_cheapest_head_goes_next() -> None:
    order = removal_order(costs(), MODULES, Limits())
    assert order == tuple(costs().own)
    # The second and third head of the encoder stand in for the first one.
    order = removal_order(
        costs(("encoder.0.0", "encoder.0.1", 5.5), ("encoder.0.0", "cross.0.1", -5)), MODULES, Limits()
    )
    assert order == heads("encoder.0.0", "cross.0.1", "encoder.0.2", "decoder.0.0", "decoder.0.1", "cross.0.0",
                          "encoder.0.1")  # fmt: skip


def test_equal_costs_are_decided_by_kind_layer_and_head() -> None:
    equal = Together(dict.fromkeys(reversed(list(costs().own)), 1.0), {})
    assert removal_order(equal, MODULES, Limits()) == tuple(sorted(costs().own))


def test_protected_heads_come_last_and_raise_no_cost() -> None:
    # Without the minimum encoder.0.2 would go early and make the decoder's heads dear.
    pairs = [("encoder.0.2", other, 50.0) for other in ("decoder.0.0", "decoder.0.1", "cross.0.0", "cross.0.1")]
    order = removal_order(costs(*pairs), MODULES, Limits(min_heads_per_module=1))
    assert order[:4] == heads("encoder.0.0", "encoder.0.1", "decoder.0.0", "cross.0.0")
    assert sorted(order) == sorted(costs().own)
    assert lowest(ranks(order), 4, MODULES, Limits(min_heads_per_module=1)) == tuple(sorted(order[:4]))


def test_heads_that_stay_are_not_among_those_that_go() -> None:
    """The order of the others is the one in which the cheapest of them goes, as if no other head could."""
    stays = frozenset(heads("encoder.0.0", "cross.0.0", "cross.0.1"))
    # With encoder.0.0 gone, which is the cheapest, encoder.0.1 would be the dearest head.
    own = costs(("encoder.0.0", "encoder.0.1", 50.0), ("encoder.0.1", "decoder.0.0", 50.0))
    order = removal_order(own, MODULES, Limits(protected=stays))
    assert order[:4] == heads("encoder.0.1", "encoder.0.2", "decoder.0.1", "decoder.0.0")
    assert {*order[4:]} == stays
    assert set(lowest(ranks(order), 4, MODULES, Limits(protected=stays))) == {*order[:4]}


def test_only_selected_kinds_go() -> None:
    limits = Limits(("encoder", "cross"))
    order = removal_order(costs(), MODULES, limits)
    assert order == heads("encoder.0.0", "encoder.0.1", "encoder.0.2", "cross.0.0", "cross.0.1")


def test_an_order_goes_on_from_heads_that_are_gone() -> None:
    start = costs(("encoder.0.2", "decoder.0.0", 10.0)).without(head("encoder.0.2")).without(head("cross.0.1"))
    gone = heads("encoder.0.2", "cross.0.1")
    order = removal_order(start, MODULES, Limits(min_heads_per_module=1), gone)
    # cross.0 has one head left, which is protected; so is the last one of every other module.
    assert order == heads("encoder.0.0", "decoder.0.1", "encoder.0.1", "cross.0.0", "decoder.0.0")
    with pytest.raises(ValueError, match="costs of 3 heads in encoder.0, which has 2"):
        removal_order(costs(), MODULES, Limits(), gone)


def test_uniform_orders_are_made_of_rounds() -> None:
    modules = {GroupId(kind, layer): 3 for kind in ("encoder", "decoder", "cross") for layer in range(2)}
    pairs = [("encoder.0.0", "encoder.1.0", 100.0), ("encoder.1.1", "encoder.0.0", -1.5)]
    own = costs(*pairs, modules=modules)
    limits = Limits(uniform=True)
    order = removal_order(own, modules, limits)
    assert order[:2] == heads("encoder.0.0", "encoder.1.1")
    assert sorted(order) == sorted(own.own)
    sizes = [len(order[:count]) for count in range(len(order))
             if all(len({modules[id] - sum(each.group == id for each in order[:count]) for id in stack}) == 1
                    for stack in ([*modules][:2], [*modules][2:]))]  # fmt: skip
    assert sizes[:3] == [0, 2, 4] and sizes[-1] == 12
    for count in reachable(modules, limits):
        removed = lowest(ranks(order), count, modules, limits)
        assert len(removed) == count
        if count in sizes:
            assert removed == tuple(sorted(order[:count]))


def test_uniform_orders_begin_with_modules_of_other_sizes() -> None:
    modules = {GroupId("encoder", 0): 4, GroupId("encoder", 1): 2}
    order = removal_order(costs(modules=modules), modules, Limits(("encoder",), uniform=True))
    assert order[:2] == heads("encoder.0.0", "encoder.0.1")
    with pytest.raises(UsageError, match="decoder and cross as one stack"):
        removal_order(costs(), MODULES, Limits(("decoder",), uniform=True))


def test_a_greedy_prefix_is_the_cheapest_next_set_of_every_pair() -> None:
    own = costs(("encoder.0.0", "encoder.0.1", 0.5), ("encoder.0.0", "decoder.0.0", -2.5))
    first, second, *_ = removal_order(own, MODULES, Limits())
    totals = {
        (one, other): own.own[one] + own.own[other] + own.together.get(frozenset({one, other}), 0.0)
        for one, other in itertools.permutations(own.own, 2)
        if one == first
    }
    assert min(totals, key=lambda pair: totals[pair]) == (first, second)


def test_ranks_are_scores() -> None:
    assert ranks(heads("cross.0.1", "encoder.0.0")) == {head("cross.0.1"): 0.0, head("encoder.0.0"): 1.0}


@dataclass(frozen=True)
class ByCount:
    """Prices that depend on what is left of the group: the last units of some save nothing."""

    free: Mapping[GroupId, int]

    def of_unit(self, unit: UnitId, kept: Mapping[GroupId, Sequence[int]]) -> float:
        left = len(kept[unit.group])
        assert left > 0
        return 0.0 if left <= self.free.get(unit.group, 0) else 1.0 + left * len(kept[CROSS])


def test_with_prices_the_lowest_cost_per_price_goes_next() -> None:
    pairs = [("encoder.0.0", "encoder.0.1", 5.5), ("encoder.0.0", "cross.0.1", -5), ("decoder.0.0", "cross.0.0", 2.5)]
    prices, now = ByCount({ENCODER: 1}), costs(*pairs)
    order = removal_order(now, MODULES, Limits(), (), prices)
    assert sorted(order) == sorted(now.own)
    left = {group: list(range(count)) for group, count in MODULES.items()}
    for unit in order:
        known = {each: prices.of_unit(each, left) for each in now.costs()}
        ratios = {
            each: (cost / known[each], 0.0, each) if known[each] else (float("inf"), cost, each)
            for each, cost in now.costs().items()
        }
        assert ratios[unit] == min(ratios.values())
        now = now.without(unit)
        left[unit.group].remove(unit.number)
    assert order != removal_order(costs(*pairs), MODULES, Limits())


def test_prices_see_what_was_gone_before() -> None:
    class Recorded:
        def __init__(self) -> None:
            self.kept: list[dict[GroupId, Sequence[int]]] = []

        def of_unit(self, unit: UnitId, kept: Mapping[GroupId, Sequence[int]]) -> float:
            self.kept.append(dict(kept))
            return 1.0

    prices, ffn = Recorded(), GroupId("encoder-ffn", 0)
    gone = (*heads("encoder.0.2"), UnitId(GroupId.layers_of("decoder"), 0))
    start = costs().without(head("encoder.0.2"))
    removal_order(start, {**MODULES, ffn: 5}, Limits(("encoder",)), gone, prices)
    first, last = prices.kept[0], prices.kept[-1]
    assert {group: len(units) for group, units in first.items()} == {
        ENCODER: 2, DECODER: 2, CROSS: 2, ffn: 5, GroupId.layers_of("decoder"): 0,
    }  # fmt: skip
    assert len(last[ENCODER]) == 1
    for wrong in (-1.0, float("nan"), float("inf")):
        bad = type("Bad", (), {"of_unit": lambda *_, wrong=wrong: wrong})()
        with pytest.raises(ValueError, match="the price of encoder.0.0 is .*, not a number from 0"):
            removal_order(start, MODULES, Limits(("encoder",)), gone, bad)


def test_neurons_have_limits_of_their_own() -> None:
    ffn, other = GroupId("encoder-ffn", 0), GroupId("decoder-ffn", 0)
    modules = {ENCODER: 2, ffn: 6, other: 6}
    limits = Limits(("encoder", "encoder-ffn", "decoder-ffn"), min_heads_per_module=1, multiple_of=4)
    order = removal_order(costs(modules=modules), modules, limits)
    assert order[:5] == (UnitId(ENCODER, 0), UnitId(ffn, 0), UnitId(ffn, 1), UnitId(other, 0), UnitId(other, 1))
    assert len(order) == 14


def test_uniform_orders_of_neurons_and_prices() -> None:
    modules = {GroupId("encoder-ffn", layer): 4 for layer in range(2)} | {GroupId("decoder-ffn", 0): 4}
    limits = Limits(("encoder-ffn", "decoder-ffn"), uniform=True)
    own = costs(modules=modules)
    order = removal_order(own, modules, limits)
    assert order[:6] == tuple(UnitId(GroupId("encoder-ffn", layer), n) for n in range(3) for layer in range(2))

    class Dear:
        def of_unit(self, unit: UnitId, kept: Mapping[GroupId, Sequence[int]]) -> float:
            return 100.0 if unit.group.kind == "decoder-ffn" else 1.0

    order = removal_order(own, modules, limits, (), Dear())
    assert order[:3] == tuple(UnitId(GroupId("decoder-ffn", 0), number) for number in range(3))
