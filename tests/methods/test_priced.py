"""Budgets of multiply-accumulates and parameters: met, by what matters least for its price, with nothing in vain."""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import (
    EVERY_KIND,
    KINDS,
    LAYER_KINDS,
    NEURON_KINDS,
    STACKS,
    Architecture,
    AttentionModule,
    GroupId,
    Kept,
    Neurons,
    UnitId,
)
from nmtprune.budget import Limits
from nmtprune.errors import BudgetError, UsageError
from nmtprune.evaluate.prices import MultiplyAccumulates
from nmtprune.methods.priced import Budget, choose

HEADS, NEURONS, LAYERS = 4, 6, 3
BOTH = (*KINDS, *NEURON_KINDS)


def prices(head: float = 8.0, neuron: float = 1.0, layer: float = 3.0, rest: float = 20.0) -> MultiplyAccumulates:
    """Of a model of three layers each; heads of the cross-attention cost half."""
    modules = [AttentionModule(GroupId(kind, layer), HEADS, 4) for kind in KINDS for layer in range(LAYERS)]
    feed_forwards = [Neurons(GroupId(kind, layer), NEURONS) for kind in NEURON_KINDS for layer in range(LAYERS)]
    architecture = Architecture(tuple(modules), tuple(feed_forwards))
    units = {own.id: head / (2 if own.id.kind == "cross" else 1) for own in modules}
    units |= {own.id: neuron for own in feed_forwards}
    layers = {UnitId(GroupId.layers_of(stack), number): layer for stack in STACKS for number in range(LAYERS)}
    return MultiplyAccumulates(architecture, units, layers, rest)


def drawn(data: st.DataObject, kinds: Iterable[str], values: st.SearchStrategy[float]) -> dict[UnitId, float]:
    """A score for every unit of kinds."""
    ids = [UnitId(id, n) for id, own in prices().architecture.units.items() if id.kind in kinds for n in own]
    found = data.draw(st.lists(values, min_size=len(ids), max_size=len(ids)))
    return dict(zip(ids, found, strict=True))


def left(removed: Iterable[UnitId]) -> dict[GroupId, tuple[int, ...]]:
    gone = set(removed)
    units = prices().architecture.units
    return {id: tuple(n for n in own if UnitId(id, n) not in gone) for id, own in units.items()}


POSITIVE = st.floats(0.01, 100)


@given(st.data(), st.sampled_from([BOTH, EVERY_KIND, KINDS, NEURON_KINDS, LAYER_KINDS]), st.floats(0, 1))
def test_a_budget_is_met_with_no_unit_in_vain(data: st.DataObject, kinds: tuple[str, ...], share: float) -> None:
    scores, own = drawn(data, kinds, POSITIVE), prices()
    target = share * own.total({})
    try:
        removed = choose(scores, own, target, own.architecture.units, Limits(kinds))
    except BudgetError:
        everything = [unit for unit in scores if unit.group.kind not in LAYER_KINDS or unit.number]
        assert own.total(left(everything)) > target
        return
    assert own.total(left(removed)) <= target and set(removed) <= set(scores)
    assert list(removed) == sorted(removed)
    layers_left = {id: numbers for id, numbers in left(removed).items() if id.kind in LAYER_KINDS}
    assert all(layers_left.values())
    for unit in removed:
        stack = layers_left[GroupId.layers_of(unit.group.stack)]
        if unit.group.kind in LAYER_KINDS or unit.group.layer in stack:
            assert own.total(left(set(removed) - {unit})) > target


@given(st.data(), st.floats(0.3, 1))
def test_within_a_group_the_lowest_go(data: st.DataObject, share: float) -> None:
    scores, own = drawn(data, BOTH, st.floats(-5, 5)), prices()
    removed = choose(scores, own, share * own.total({}), own.architecture.units, Limits(BOTH))
    for id, kept in left(removed).items():
        gone = [unit for unit in removed if unit.group == id]
        if gone and kept:
            assert max(scores[unit] for unit in gone) <= min(scores[UnitId(id, number)] for number in kept)


@given(st.data(), st.floats(0.35, 1))
def test_neighbours_are_not_better(data: st.DataObject, share: float) -> None:
    """All heads, or all neurons, cost the same: then the units of the lowest scores go, which is the best choice."""
    scores = drawn(data, NEURON_KINDS, POSITIVE)
    own = prices(rest=0.0, head=0.0, layer=0.0)
    assert own.total({}) == len(scores)
    target = share * own.total({})
    removed = choose(scores, own, target, own.architecture.units, Limits(NEURON_KINDS))
    assert len(removed) == math.ceil(len(scores) - Fraction(target))
    assert sorted(scores[unit] for unit in removed) == sorted(scores.values())[: len(removed)]


@given(st.data(), st.floats(0.4, 1), st.integers(1, 3), st.booleans(), st.sampled_from([BOTH, EVERY_KIND]))
def test_limits_hold(data: st.DataObject, share: float, multiple: int, uniform: bool, kinds: tuple[str, ...]) -> None:
    scores, own = drawn(data, kinds, POSITIVE), prices()
    limits = Limits(kinds, min_heads_per_module=1, uniform=uniform, multiple_of=multiple)
    removed = choose(scores, own, share * own.total({}), own.architecture.units, limits)
    assert own.total(left(removed)) <= share * own.total({})
    layers = {id.stack: kept for id, kept in left(removed).items() if id.kind in LAYER_KINDS}
    assert all(layers.values())
    there = {id: kept for id, kept in left(removed).items() if id.kind not in LAYER_KINDS}
    sizes = {id: len(kept) for id, kept in there.items() if id.layer in layers[id.stack]}
    assert all(size % multiple == 0 for id, size in sizes.items() if id.kind in NEURON_KINDS)
    assert all(size >= 1 for id, size in sizes.items() if id.kind in KINDS)
    if uniform:
        for kinds in (("encoder",), ("decoder", "cross"), ("encoder-ffn",), ("decoder-ffn",)):
            assert len({size for id, size in sizes.items() if id.kind in kinds}) == 1


@given(st.data(), st.floats(0.4, 0.7), st.floats(0.7, 1))
def test_what_is_gone_stays_gone(data: st.DataObject, share: float, before: float) -> None:
    scores, own = drawn(data, BOTH, POSITIVE), prices()
    units = own.architecture.units
    first = choose(scores, own, before * own.total({}), units, Limits(BOTH))
    unknown = {unit: score for unit, score in scores.items() if unit not in first}
    then = choose(unknown, own, share * own.total({}), units, Limits(BOTH), first)
    assert set(first) <= set(then) and own.total(left(then)) <= share * own.total({})


@given(st.data(), st.floats(0, 1), st.sampled_from([BOTH, EVERY_KIND, KINDS]), st.booleans())
def test_protected_heads_and_their_layers_stay(
    data: st.DataObject, share: float, kinds: tuple[str, ...], by_rank: bool
) -> None:
    """Even if they have the lowest scores; a target out of reach is one that removing everything else misses."""
    scores, own = drawn(data, kinds, POSITIVE), prices()
    heads = [UnitId(id, n) for id, numbers in own.architecture.units.items() if id.kind in KINDS for n in numbers]
    protected = data.draw(st.sets(st.sampled_from(heads), max_size=6))
    limits = Limits(kinds).with_protected(protected)
    scores |= {unit: -1.0 for unit in limits.protected if unit in scores}
    target = share * own.total({})
    try:
        removed = choose(scores, own, target, own.architecture.units, limits, by_rank=by_rank)
    except BudgetError:
        others = [unit for unit in scores if unit not in limits.protected]
        # One layer of each stack stays: the first, if none has to.
        kept = {unit.group for unit in limits.protected}
        others = [unit for unit in others if unit.number or unit.group.kind not in LAYER_KINDS or unit.group in kept]
        assert own.total(left(others)) > target
        return
    assert own.total(left(removed)) <= target
    assert not limits.protected & {*removed} and len(limits.protected) >= len(protected)


def test_by_rank_the_order_alone_counts() -> None:
    """Neurons come last in the order, though they are cheap."""
    own = prices()
    ids = [UnitId(id, n) for id, numbers in own.architecture.units.items() if id.kind in BOTH for n in numbers]
    ranks = {unit: float(place) for place, unit in enumerate(ids)}
    target = own.total({}) - 3.5 * 8
    assert choose(ranks, own, target, own.architecture.units, Limits(BOTH), by_rank=True) == tuple(ids[:4])


def test_the_last_unit_is_the_one_of_lowest_score_that_fits() -> None:
    """Two neurons would do, and one after the other they come first; but one head of a lower score does, too."""
    own = prices()
    ids = [UnitId(id, n) for id, numbers in own.architecture.units.items() if id.kind in BOTH for n in numbers]
    scores = dict.fromkeys(ids, 100.0)
    scores[UnitId(GroupId("encoder-ffn", 0), 2)] = 1.0
    scores[UnitId(GroupId("encoder", 1), 3)] = 9.0
    removed = choose(scores, own, own.total({}) - 2, own.architecture.units, Limits(BOTH))
    assert removed == (UnitId(GroupId("encoder", 1), 3),)


class Padded(MultiplyAccumulates):
    """All modules of a stack cost what the largest of them does."""

    together = (("encoder",), ("decoder", "cross"))  # type: ignore[assignment]

    def total(self, kept: Kept) -> float:
        """The cost of the padded model."""
        sizes: dict[GroupId, Sequence[int]] = dict(kept)
        for kinds in self.together:
            groups = [id for id in self.architecture.units if id.kind in kinds]
            most = max(len(kept.get(id, self.architecture.units[id])) for id in groups)
            sizes |= {id: range(most) for id in groups}
        return super().total(sizes)


@given(st.data(), st.floats(0.4, 1))
def test_groups_that_cost_what_the_largest_does_shrink_together(data: st.DataObject, share: float) -> None:
    whole = prices()
    own = Padded(whole.architecture, whole.units, whole.layers, whole.rest)
    scores = drawn(data, BOTH, POSITIVE)
    removed = choose(scores, own, share * own.total({}), own.architecture.units, Limits(BOTH))
    assert own.total(left(removed)) <= share * own.total({})
    for kinds in own.together:
        assert len({len(kept) for id, kept in left(removed).items() if id.kind in kinds}) == 1


def test_groups_of_other_sizes_lose_nothing_in_vain() -> None:
    """Where the largest group decides, smaller ones need not shrink; and a budget that is met takes nothing at all."""
    whole = prices()
    own = Padded(whole.architecture, whole.units, whole.layers, whole.rest)
    first = UnitId(GroupId("decoder", 0), 0)
    ids = [UnitId(id, n) for id, numbers in own.architecture.units.items() if id.kind in KINDS for n in numbers]
    scores = dict.fromkeys(ids, 1.0)
    units, limits = own.architecture.units, Limits(KINDS)
    assert choose(scores, own, own.total({}), units, limits, [first]) == (first,)
    removed = choose(scores, own, own.total({}) - 0.5, units, limits, [first])
    sizes = {id: len(kept) for id, kept in left(removed).items() if id.kind in ("decoder", "cross")}
    assert own.total(left(removed)) <= own.total({}) - 0.5 and max(sizes.values()) - min(sizes.values()) <= 1


def test_a_budget_out_of_reach_names_the_smallest() -> None:
    own = prices()
    scores = {UnitId(id, n): 1.0 for id, own_ in own.architecture.units.items() for n in own_ if id.kind in KINDS}
    whole, least = own.total({}), own.total(left(scores))
    with pytest.raises(BudgetError) as refusal:
        choose(scores, own, 0.1 * whole, own.architecture.units, Limits(KINDS))
    share = math.ceil(1000 * least / whole) / 10
    assert f"(macs={share:.1f}%)" in str(refusal.value)
    target = Budget.parse(f"macs={share:.1f}%").target(whole)
    assert choose(scores, own, target, own.architecture.units, Limits(KINDS)) == tuple(sorted(scores))


@pytest.mark.parametrize("score", [math.nan, math.inf, None])
def test_every_unit_needs_a_score(score: float | None) -> None:
    own = prices()
    scores = {UnitId(id, n): 1.0 for id, own_ in own.architecture.units.items() for n in own_ if id.kind in KINDS}
    if score is None:
        del scores[UnitId(GroupId("cross", 1), 2)]
    else:
        scores[UnitId(GroupId("cross", 1), 2)] = score
    with pytest.raises(BudgetError, match=r"no score that is a finite number: cross\.1\.2$"):
        choose(scores, own, own.total({}), own.architecture.units, Limits(KINDS))


def test_the_largest_models_take_a_moment() -> None:
    modules = [AttentionModule(GroupId(kind, layer), 16, 64) for kind in KINDS for layer in range(6)]
    feed_forwards = [Neurons(GroupId(kind, layer), 4096) for kind in NEURON_KINDS for layer in range(6)]
    architecture = Architecture(tuple(modules), tuple(feed_forwards))
    units = {own.id: 4.0 * 1024 * 64 for own in modules} | {own.id: 2.0 * 1024 for own in feed_forwards}
    layers = {UnitId(GroupId.layers_of(stack), number): 0.0 for stack in STACKS for number in range(6)}
    own = MultiplyAccumulates(architecture, units, layers, 1e6)
    asked: list[int] = []

    class Counted(MultiplyAccumulates):
        def total(self, kept: Kept) -> float:
            asked.append(1)
            return super().total(kept)

    counted = Counted(architecture, units, layers, 1e6)
    scores = {
        UnitId(id, n): units[id] * (1 + 7919 * (n + id.layer) % 1009)
        for id, numbers in architecture.units.items() if id.kind in BOTH
        for n in numbers
    }  # fmt: skip
    removed = choose(scores, counted, 0.5 * own.total({}), architecture.units, Limits(BOTH))
    assert len(removed) > 20_000 and len(asked) < 2000


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("macs=60%", "macs", 600),
        (" params = 12.5% ", "params", 125),
        ("params=1.2M", "params", 1_200_000),
        ("params=300K", "params", 300_000),
        ("params=77", "params", 77),
        ("speed=1.25x", "speed", 800),
        ("macs=100%", "macs", 1000),
    ],
)
def test_budgets(text: str, kind: str, target: float) -> None:
    found = Budget.parse(text)
    assert found.kind == kind and found.target(1000.0) == target
    assert Budget.parse(str(found)) == found and str(found) == text.replace(" ", "")


def test_percentages_are_exact() -> None:
    assert Budget.parse("macs=33.3%").value == Fraction(333, 10)
    assert Budget.parse("macs=29%").target(50) == 14.5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("60%", "write macs=60%"),
        ("flops=60%", "write macs=60%"),
        ("macs=60", "'macs=60' is no budget of this kind: write macs=60%"),
        ("macs=2G", "no budget of this kind"),
        ("macs=101%", "more than 100%"),
        ("macs=-5%", "is no budget"),
        ("speed=1.5", "write speed=1.5x"),
        ("speed=50%", "write speed=1.5x"),
        ("speed=0.9x", "slower"),
        ("params=2x", "write params=60% or params=1.2M"),
        ("params=1.2T", "is no budget"),
        ("", "is no budget"),
    ],
)
def test_what_is_no_budget(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Budget.parse(text)
    assert reason in str(refusal.value)


def test_scores_of_other_kinds_do_not_matter() -> None:
    own = prices()
    scores = {
        UnitId(id, n): 1.0 if id.kind in KINDS else math.nan
        for id, numbers in own.architecture.units.items()
        for n in numbers
    }
    removed = choose(scores, own, 0.8 * own.total({}), own.architecture.units, Limits(KINDS))
    assert {unit.group.kind for unit in removed} <= set(KINDS)
