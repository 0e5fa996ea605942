"""Budgets: exact numbers of units from percentages and counts, and exactly that many units from scores."""

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import ROUND_FLOOR, Decimal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, SORTS, STACKS, GroupId, UnitId
from nmtprune.budget import Amount, Limits, Modules, Units, lowest, lowest_beyond, reachable, resolve
from nmtprune.errors import BudgetError, UsageError


def modules_of(encoder: list[int], decoder: list[int], cross: list[int]) -> dict[GroupId, int]:
    counts = {"encoder": encoder, "decoder": decoder, "cross": cross}
    return {GroupId(kind, layer): heads for kind in KINDS for layer, heads in enumerate(counts[kind])}


def heads_of(modules: Modules) -> list[UnitId]:
    return [UnitId(module, head) for module, heads in modules.items() for head in range(heads)]


def names(heads: tuple[UnitId, ...]) -> str:
    return " ".join(map(str, heads))


BASE = modules_of([8] * 6, [8] * 6, [8] * 6)
EVEN = Limits(uniform=True)


def shapes(fewest: int = 0) -> st.SearchStrategy[dict[GroupId, int]]:
    counts = st.lists(st.integers(fewest, 4), max_size=3)
    return st.builds(modules_of, counts, counts, counts)


@st.composite
def scored(draw: st.DrawFn, fewest: int = 0) -> tuple[dict[GroupId, int], dict[UnitId, float]]:
    """Modules, and scores of few values so that ties are common, in a random order of keys."""
    modules = draw(shapes(fewest))
    heads = draw(st.permutations(heads_of(modules)))
    values = draw(st.lists(st.sampled_from([-0.5, -0.0, 0.0, 1e-9, 2.0]), min_size=len(heads), max_size=len(heads)))
    return modules, dict(zip(heads, values, strict=True))


# Amounts


@pytest.mark.parametrize(
    ("text", "total", "number"),
    [
        ("29%", 50, 15),
        ("12.5%", 144, 18),
        ("0%", 144, 0),
        ("100%", 144, 144),
        ("50%", 3, 2),
        ("16.6666%", 3, 0),
        ("16.6667%", 3, 1),
        (" 43 ", 144, 43),
        ("007", 144, 7),
        ("0.000000001%", 144, 0),
    ],
)
def test_amounts(text: str, total: int, number: int) -> None:
    assert Amount.parse(text).of(total) == number


@given(st.integers(0, 10_000), st.integers(0, 300))
def test_percentages_are_rounded_in_decimal_arithmetic(hundredths: int, total: int) -> None:
    percent = Decimal(hundredths) / 100
    expected = (percent * total / 100 + Decimal("0.5")).to_integral_value(ROUND_FLOOR)
    assert Amount.parse(f"{percent:f}%").of(total) == expected


@pytest.mark.parametrize(
    "text", ["", "%", "30 percent", "-5", "-5%", "0.5", "1e2", "1e1%", "٣", "nan%", "1,5%", "5%%", ".5%"]
)
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Amount.parse(text)
    assert str(caught.value) == (
        f"'{text}' is no amount of heads: write a percentage such as 30% or a count such as 43"
    )


def test_more_than_everything() -> None:
    with pytest.raises(UsageError, match=r"^'100\.1%' is more than 100%$"):
        Amount.parse("100.1%")


def test_amounts_are_shown_as_written() -> None:
    assert [str(Amount.parse(text)) for text in ("43", "30%", "12.50%")] == ["43", "30%", "12.5%"]


def test_percentages_are_of_the_selected_kinds() -> None:
    assert resolve(Amount.parse("50%"), BASE, Limits()) == 72
    assert resolve(Amount.parse("50%"), BASE, Limits(("cross",))) == 24
    assert resolve(Amount.parse("25%"), BASE, Limits(("encoder", "cross"))) == 24


def test_what_cannot_be_removed() -> None:
    for amount, limits, message in (
        ("145", Limits(), "145 heads cannot be removed: 0 to 144 of the 144 heads (encoder, decoder, cross) can"),
        (
            "95%",
            Limits(("encoder", "cross"), 1),
            "91 heads cannot be removed: 0 to 84 of the 96 heads (encoder, cross) can, since every module keeps at "
            "least 1",
        ),
    ):
        with pytest.raises(BudgetError) as caught:
            resolve(Amount.parse(amount), BASE, limits)
        assert str(caught.value) == message
    with pytest.raises(BudgetError, match="^1 head cannot be removed: 0 to 0 of the 0 heads"):
        lowest({}, 1, {}, Limits())
    with pytest.raises(BudgetError, match="^-1 heads cannot be removed"):
        lowest(dict.fromkeys(heads_of(BASE), 0.0), -1, BASE, Limits())
    with pytest.raises(UsageError):
        Limits(min_heads_per_module=-1)


# Lowest heads


@given(scored())
def test_exactly_as_many_as_asked_for(drawn: tuple[dict[GroupId, int], dict[UnitId, float]]) -> None:
    modules, scores = drawn
    before: set[UnitId] = set()
    for number in range(len(scores) + 1):
        removed = lowest(scores, number, modules, Limits())
        assert len(set(removed)) == number
        assert list(removed) == sorted(removed)
        assert before < set(removed) or number == 0
        before = set(removed)


@given(scored())
def test_the_lowest_go_and_ties_are_broken_by_id(drawn: tuple[dict[GroupId, int], dict[UnitId, float]]) -> None:
    modules, scores = drawn
    order = sorted(scores, key=lambda head: (scores[head], head.group.sort_key, head.number))
    for number in range(len(scores) + 1):
        assert set(lowest(scores, number, modules, Limits())) == set(order[:number])


def test_ties_go_encoder_decoder_cross() -> None:
    modules = modules_of([2], [2], [2])
    scores = dict.fromkeys(reversed(heads_of(modules)), 0.0)
    assert names(lowest(scores, 5, modules, Limits())) == "encoder.0.0 encoder.0.1 decoder.0.0 decoder.0.1 cross.0.0"


@given(scored(), st.integers(0, 4), st.sets(st.sampled_from(KINDS)))
def test_limits_hold(drawn: tuple[dict[GroupId, int], dict[UnitId, float]], fewest: int, kinds: set[str]) -> None:
    modules, scores = drawn
    limits = Limits(tuple(kind for kind in KINDS if kind in kinds), fewest)
    possible = reachable(modules, limits)
    assert list(possible) == list(range(len(possible)))
    for number in possible:
        removed = lowest(scores, number, modules, limits)
        assert len(removed) == number
        assert {head.group.kind for head in removed} <= kinds
        gone = Counter(head.group for head in removed)
        assert all(modules[module] - count >= fewest for module, count in gone.items())
    with pytest.raises(BudgetError):
        lowest(scores, len(possible), modules, limits)


@given(scored(), st.randoms(use_true_random=False))
def test_protected_heads_stay_and_the_lowest_others_go(
    drawn: tuple[dict[GroupId, int], dict[UnitId, float]], rng: random.Random
) -> None:
    modules, scores = drawn
    protected = frozenset(head for head in heads_of(modules) if rng.random() < 0.4)
    free = sorted((head for head in heads_of(modules) if head not in protected), key=lambda head: (scores[head], head))
    limits = Limits(protected=protected)
    assert list(reachable(modules, limits)) == list(range(len(free) + 1))
    for number in (0, len(free) // 2, len(free)):
        assert set(lowest(scores, number, modules, limits)) == set(free[:number])
    with pytest.raises(BudgetError):
        lowest(scores, len(free) + 1, modules, limits)


def test_the_minimum_gives_way_to_other_modules() -> None:
    modules = modules_of([2, 2], [], [])
    scores = dict(zip(heads_of(modules), [0.0, 0.1, 0.2, 0.3], strict=True))
    assert names(lowest(scores, 2, modules, Limits(("encoder",), 1))) == "encoder.0.0 encoder.1.0"


def test_scores_must_be_there_and_finite() -> None:
    modules = modules_of([2], [], [1])
    scores = {head: 0.0 for head in heads_of(modules)}
    with pytest.raises(BudgetError, match=r"^scores that are no finite numbers: encoder\.0\.1 \(nan\)$"):
        lowest({**scores, UnitId.parse("encoder.0.1"): math.nan}, 1, modules, Limits())
    with pytest.raises(BudgetError, match=r"^no score for encoder\.0\.0, encoder\.0\.1$"):
        lowest({UnitId.parse("cross.0.0"): 1.0}, 1, modules, Limits())
    assert names(lowest({UnitId.parse("cross.0.0"): 1.0}, 1, modules, Limits(("cross",)))) == "cross.0.0"
    with pytest.raises(BudgetError, match=r"^no score for encoder\.0\.0, .*encoder\.1\.1 and 134 more$"):
        lowest({}, 1, BASE, Limits())


# Uniform


def _reachable_by_hand(modules: Modules, fewest: int) -> set[int]:
    """Numbers of heads removed over every choice of one number per stack."""
    stacks = [[heads for module, heads in modules.items() if module.kind in kinds] for kinds in STACKS.values()]
    choices = [
        [sum(stack) - keep * len(stack) for keep in range(max(1, fewest), min(stack) + 1)] for stack in stacks if stack
    ]
    return {sum(choice) for choice in itertools.product(*choices)}


@given(shapes(1), st.integers(0, 1))
def test_reachable_uniform_numbers(modules: dict[GroupId, int], fewest: int) -> None:
    assert set(reachable(modules, Limits(min_heads_per_module=fewest, uniform=True))) == _reachable_by_hand(
        modules, fewest
    )


@given(scored(1))
def test_uniform_plans_are_uniform_exact_and_cheapest(drawn: tuple[dict[GroupId, int], dict[UnitId, float]]) -> None:
    modules, scores = drawn
    for number in reachable(modules, EVEN):
        removed = lowest(scores, number, modules, EVEN)
        assert len(set(removed)) == number
        assert _is_uniform(modules, removed)
        cost = math.fsum(scores[head] for head in removed)
        if len(scores) <= 8:
            others = (plan for plan in itertools.combinations(scores, number) if _is_uniform(modules, plan))
            assert cost == min(math.fsum(scores[head] for head in plan) for plan in others)


def _is_uniform(modules: Modules, removed: tuple[UnitId, ...]) -> bool:
    gone = Counter(head.group for head in removed)
    for kinds in STACKS.values():
        kept = {heads - gone[module] for module, heads in modules.items() if module.kind in kinds}
        if len(kept) > 1 or 0 in kept:
            return False
    return True


def test_uniform_percentages_are_the_nearest_reachable_number() -> None:
    assert list(reachable(BASE, EVEN))[:3] == [0, 6, 12]
    for text, number in (("0%", 0), ("5%", 6), ("6.25%", 6), ("6.26%", 12), ("50%", 72), ("100%", 126)):
        assert resolve(Amount.parse(text), BASE, EVEN) == number
    modules = modules_of([8] * 6, [], [])
    # 12.5 % of 48 heads are 6, 18.75 % are 9: half way between 6 and 12, so fewer are removed.
    assert resolve(Amount.parse("18.75%"), modules, EVEN) == 6
    assert resolve(Amount.parse("18.76%"), modules, EVEN) == 12


def test_uniform_counts_are_reached_or_refused() -> None:
    assert resolve(Amount.parse("18"), BASE, EVEN) == 18
    for number, message in (
        ("17", "17 heads cannot be removed with the same number left in every layer of a stack: 12 or 18 can"),
        ("127", "127 heads cannot be removed with the same number left in every layer of a stack: 126 can"),
    ):
        with pytest.raises(BudgetError) as caught:
            resolve(Amount.parse(number), BASE, EVEN)
        assert str(caught.value) == message
    with pytest.raises(BudgetError, match="12 or 18 can"):
        lowest(dict.fromkeys(heads_of(BASE), 0.0), 17, BASE, EVEN)


def test_uniform_stacks_are_selected_as_a_whole() -> None:
    assert list(reachable(BASE, Limits(("encoder",), uniform=True))) == [0, 6, 12, 18, 24, 30, 36, 42]
    assert list(reachable(BASE, Limits(("decoder", "cross"), uniform=True)))[-1] == 84
    with pytest.raises(UsageError, match="^a uniform plan treats decoder and cross as one stack: select both or none"):
        reachable(BASE, Limits(("encoder", "cross"), uniform=True))
    language_model = modules_of([], [4] * 2, [])
    assert list(reachable(language_model, Limits(("decoder",), uniform=True))) == [0, 2, 4, 6]


def test_uneven_models_are_made_uniform() -> None:
    modules = modules_of([4, 2, 3], [], [])
    assert list(reachable(modules, EVEN)) == [3, 6]
    scores = {head: float(head.number) for head in heads_of(modules)}
    assert names(lowest(scores, 3, modules, EVEN)) == "encoder.0.0 encoder.0.1 encoder.2.0"
    with pytest.raises(BudgetError) as caught:
        reachable(modules_of([4, 0], [], []), EVEN)
    assert str(caught.value) == (
        "no uniform plan is possible: encoder.1 has 0 heads, and every layer of its stack would have to keep the same "
        "number, at least 1"
    )


def test_of_equal_sums_the_encoder_loses_most() -> None:
    modules = modules_of([3, 3], [3], [3])
    scores = dict.fromkeys(heads_of(modules), 1.0)
    assert names(lowest(scores, 4, modules, EVEN)) == "encoder.0.0 encoder.0.1 encoder.1.0 encoder.1.1"


def test_large_models_are_fast() -> None:
    modules = modules_of([16] * 24, [16] * 24, [16] * 24)
    rng = random.Random(1)
    scores = {head: rng.random() for head in heads_of(modules)}
    for limits in (Limits(), EVEN):
        assert len(lowest(scores, 576, modules, limits)) == 576


# Neurons and layers

NEURONS = Limits(NEURON_KINDS)
LAYERS = Limits(LAYER_KINDS)


def numbers_of(units: Units) -> dict[GroupId, Sequence[int]]:
    return {group: range(own) if isinstance(own, int) else own for group, own in units.items()}


def every_unit(units: Units, kinds: Sequence[str] = EVERY_KIND) -> list[UnitId]:
    return [UnitId(id, n) for id, own in sorted(numbers_of(units).items()) if id.kind in kinds for n in own]


@st.composite
def scored_units(draw: st.DrawFn, least: int = 0) -> tuple[dict[GroupId, Sequence[int]], dict[UnitId, float]]:
    """Groups of every sort, layers with gaps as tied ones have them, and scores of few values."""
    units: dict[GroupId, Sequence[int]] = {}
    for kind in (*KINDS, *NEURON_KINDS):
        for layer, count in enumerate(draw(st.lists(st.integers(least, 4), max_size=2))):
            units[GroupId(kind, layer)] = range(count)
    for kind in LAYER_KINDS:
        layers = draw(st.sets(st.integers(0, 5), max_size=3))
        if layers:
            units[GroupId(kind)] = sorted(layers)
    every = draw(st.permutations(every_unit(units)))
    values = draw(st.lists(st.sampled_from([-0.5, -0.0, 0.0, 1e-9, 2.0]), min_size=len(every), max_size=len(every)))
    return units, dict(zip(every, values, strict=True))


def allowed(units: Units, limits: Limits, removed: Iterable[UnitId]) -> bool:
    """Whether what is left keeps to the limits, said in another way than by `budget`."""
    gone = Counter(unit.group for unit in removed)
    kept = {group: len(own) - gone[group] for group, own in numbers_of(units).items()}
    for group, count in kept.items():
        if group.kind in limits.kinds:
            if group.sort == "layers" and count < 1:
                return False
            if group.sort == "heads" and count < limits.min_heads_per_module and (gone[group] or limits.uniform):
                return False
            if group.sort == "neurons" and limits.multiple_of > 1 and (count % limits.multiple_of or not count):
                return False
    if limits.uniform:
        for kinds in (*STACKS.values(), *((kind,) for kind in NEURON_KINDS)):
            counts = {count for group, count in kept.items() if group.kind in kinds and group.kind in limits.kinds}
            if len(counts) > 1 or 0 in counts:
                return False
    return True


def cheapest_by_hand(units: Units, limits: Limits, scores: dict[UnitId, float]) -> dict[int, float]:
    """The lowest sum of scores of every number of units that can go, over all sets of units."""
    found: dict[int, float] = {}
    every = every_unit(units, limits.kinds)
    for chosen in itertools.product([False, True], repeat=len(every)):
        removed = list(itertools.compress(every, chosen))
        if allowed(units, limits, removed):
            cost = math.fsum(scores[unit] for unit in removed)
            found[len(removed)] = min(cost, found.get(len(removed), math.inf))
    return found


@settings(deadline=None)
@given(
    scored_units(1),
    st.sampled_from([("heads", "neurons"), ("neurons",), ("layers",), ("heads", "neurons", "layers")]),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.integers(0, 2),
)
def test_every_reachable_number_is_met_as_cheaply_as_can_be(
    drawn: tuple[dict[GroupId, Sequence[int]], dict[UnitId, float]],
    sorts: tuple[str, ...],
    multiple: int,
    uniform: bool,
    fewest: int,
) -> None:
    units, scores = drawn
    limits = Limits(tuple(kind for sort in sorts for kind in SORTS[sort]), fewest, uniform, multiple)
    assume({"decoder", "cross"} <= {group.kind for group in units} or not uniform)
    assume(len(every_unit(units, limits.kinds)) <= 12)
    expected = cheapest_by_hand(units, limits, scores)
    if not expected:
        with pytest.raises(BudgetError):
            reachable(units, limits)
        return
    assert list(reachable(units, limits)) == sorted(expected)
    for number, cost in expected.items():
        removed = lowest(scores, number, units, limits)
        assert list(removed) == sorted(set(removed)) and len(removed) == number
        assert allowed(units, limits, removed)
        assert math.fsum(scores[unit] for unit in removed) == cost


@given(scored_units())
def test_ties_of_all_sorts_are_broken_by_kind_layer_and_number(
    drawn: tuple[dict[GroupId, Sequence[int]], dict[UnitId, float]],
) -> None:
    units, scores = drawn
    limits = Limits(EVERY_KIND[:-2])
    order = sorted(every_unit(units, limits.kinds), key=lambda unit: (scores[unit], *unit.group.sort_key, unit.number))
    for number in range(len(order) + 1):
        assert set(lowest(scores, number, units, limits)) == set(order[:number])


@settings(deadline=None)
@given(scored_units(1), st.sampled_from([1, 2]), st.booleans(), st.data())
def test_a_sweep_in_steps_goes_on_from_what_is_gone(
    drawn: tuple[dict[GroupId, Sequence[int]], dict[UnitId, float]], multiple: int, uniform: bool, data: st.DataObject
) -> None:
    units, scores = drawn
    limits = Limits(NEURON_KINDS, uniform=uniform, multiple_of=multiple)
    assume(multiple > 1 or uniform)
    assume(all(len(own) >= multiple for group, own in units.items() if group.kind in NEURON_KINDS))
    numbers = list(reachable(units, limits))
    gone = lowest(dict.fromkeys(scores, 0.0), data.draw(st.sampled_from(numbers)), units, limits)
    wanted = data.draw(st.integers(0, numbers[-1]))
    removed = lowest_beyond(gone, scores, wanted, units, limits)
    assert set(gone) <= set(removed) and allowed(units, limits, removed)
    if wanted > len(gone):
        assert len(removed) > len(gone) or len(gone) == numbers[-1]


def test_widths_that_are_multiples() -> None:
    units = {GroupId("encoder-ffn", 0): 20, GroupId("encoder-ffn", 1): 16}
    limits = Limits(NEURON_KINDS, multiple_of=8)
    assert list(reachable(units, limits)) == [4, 12, 20]
    assert [resolve(Amount.parse(text), units, limits) for text in ("0%", "22%", "23%", "100%")] == [4, 4, 12, 20]
    # A block costs what its neurons cost together: 8 times 2 in the one layer, 1 + 7 times 3 in the other.
    scores = {
        UnitId(id, n): 2.0 if id.layer == 0 else 1.0 if n == 0 else 3.0 for id, own in units.items() for n in range(own)
    }
    assert Counter(unit.group.layer for unit in lowest(scores, 12, units, limits)) == {0: 12}
    for number, message in (
        ("5", "5 neurons cannot be removed with widths that are multiples of 8: 4 or 12 can"),
        ("36", "36 neurons cannot be removed with widths that are multiples of 8: 20 can"),
    ):
        with pytest.raises(BudgetError) as caught:
            resolve(Amount.parse(number), units, limits)
        assert str(caught.value) == message
    with pytest.raises(BudgetError) as caught:
        reachable(units, Limits(NEURON_KINDS, multiple_of=18))
    assert str(caught.value) == "multiples of 18 leave nothing of encoder-ffn.1 (16 neurons)"
    with pytest.raises(BudgetError) as caught:
        resolve(Amount.parse("3"), units, Limits(NEURON_KINDS, uniform=True, multiple_of=4))
    assert str(caught.value) == (
        "3 neurons cannot be removed with the same number left in every layer of a stack and widths that are multiples "
        "of 4: 4 can"
    )
    with pytest.raises(UsageError, match="^widths that are multiples of 0 make no sense: give 1 or more$"):
        Limits(multiple_of=0)


def test_a_layer_always_stays() -> None:
    units = {GroupId("encoder-layers"): [0, 1, 2], GroupId("decoder-layers"): [0, 3]}
    assert list(reachable(units, LAYERS)) == [0, 1, 2, 3]
    scores = {unit: float(unit.number) for unit in every_unit(units)}
    assert names(lowest(scores, 3, units, LAYERS)) == "encoder-layers.0 encoder-layers.1 decoder-layers.0"
    with pytest.raises(BudgetError) as caught:
        resolve(Amount.parse("80%"), units, LAYERS)
    assert str(caught.value) == (
        "4 layers cannot be removed: 0 to 3 of the 5 layers (encoder-layers, decoder-layers) can, since every stack "
        "keeps at least one layer"
    )


def test_percentages_are_of_one_sort() -> None:
    units: Units = {
        **BASE,
        GroupId("encoder-ffn", 0): 100,
        GroupId("decoder-ffn", 0): 60,
        GroupId("encoder-layers"): [0, 1],
    }
    limits = Limits(EVERY_KIND)
    assert limits.sorts == ("heads", "neurons", "layers")
    assert [resolve(Amount.parse("50%"), units, limits.of_sort(sort)) for sort in limits.sorts] == [72, 80, 1]
    with pytest.raises(UsageError, match="^'x' is no amount of neurons: write a percentage"):
        Amount.parse("x", "neurons")


@pytest.mark.parametrize("limits", [NEURONS, Limits(NEURON_KINDS, uniform=True)])
def test_wide_layers_are_fast(limits: Limits) -> None:
    """Of two stacks of 12 layers with 4096 neurons there are 16 million uniform plans."""
    units = {GroupId(kind, layer): 4096 for kind in NEURON_KINDS for layer in range(12)}
    rng = random.Random(1)
    scores = {unit: rng.random() for unit in every_unit(units)}
    start = time.process_time()
    number = resolve(Amount.parse("50%"), units, limits)
    assert number == len(lowest(scores, number, units, limits)) == 12 * 4096
    assert time.process_time() - start < 20
