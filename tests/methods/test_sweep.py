"""Sweeps: exact numbers at every step, nested plans, ties as documented."""

from collections.abc import Iterable, Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import KINDS, GroupId, UnitId
from nmtprune.budget import Amount, Limits, lowest
from nmtprune.errors import BudgetError
from nmtprune.methods.chance import random_scores
from nmtprune.methods.sweep import CountedUnits, Goal, ScoresOf, next_plan, numbers_removed, sweep
from nmtprune.plan import Base, Plan


def _base(
    encoder: tuple[int, ...] = (4, 4), decoder: tuple[int, ...] = (4, 4), cross: tuple[int, ...] = (4, 4)
) -> Base:
    return Base(format="fairseq", sha256="0" * 64, heads={"encoder": encoder, "decoder": decoder, "cross": cross})


def _numbers(step: str, until: str, *, base: Base | None = None, limits: Limits | None = None) -> tuple[int, ...]:
    return numbers_removed((base or _base()).modules, Amount.parse(step), Amount.parse(until), limits or Limits())


def _plans(base: Base, scores_of: ScoresOf, numbers: Iterable[int], limits: Limits) -> Iterator[Plan]:
    """The plans of a sweep over numbers of units."""
    for goal, plan in sweep(base, CountedUnits(limits), scores_of, [Goal(number, str(number)) for number in numbers]):
        assert goal.name == str(goal.level)
        yield plan


def test_cumulative_percentages_are_rounded() -> None:
    assert _numbers("10%", "90%") == (0, 2, 5, 7, 10, 12, 14, 17, 19, 22)
    big = _base((8,) * 6, (8,) * 6, (8,) * 6)
    assert _numbers("10%", "90%", base=big) == (0, 14, 29, 43, 58, 72, 86, 101, 115, 130)


@pytest.mark.parametrize(
    ("step", "until", "expected"),
    [
        ("5", "12", (0, 5, 10, 12)),
        ("50%", "100%", (0, 12, 24)),
        ("10%", "0", (0,)),
        ("10", "3", (0, 3)),
        ("40%", "90%", (0, 10, 19, 22)),
        ("1%", "4", (0, 1, 2, 3, 4)),
        ("0.000000001%", "2", (0, 1, 2)),
    ],
)
def test_the_last_step_is_the_end(step: str, until: str, expected: tuple[int, ...]) -> None:
    assert _numbers(step, until) == expected


def test_percentages_are_of_the_selected_kinds() -> None:
    assert _numbers("25%", "100%", limits=Limits(kinds=("cross",))) == (0, 2, 4, 6, 8)


def test_impossible_budgets() -> None:
    with pytest.raises(BudgetError, match=r"22 heads cannot be removed: 0 to 18 of the 24 heads .* at least 1$"):
        _numbers("10%", "90%", limits=Limits(min_heads_per_module=1))
    with pytest.raises(BudgetError, match="25 heads cannot be removed: 0 to 24 of the 24 heads"):
        _numbers("10%", "25")
    with pytest.raises(BudgetError, match="steps of 0% remove nothing: give a percentage or a number above 0"):
        _numbers("0%", "90%")
    with pytest.raises(BudgetError, match=r"there is no head to remove \(cross\)"):
        _numbers("10%", "90%", base=_base(cross=(0, 0)), limits=Limits(kinds=("cross",)))


heads = st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)


@given(
    base=st.builds(_base, heads, heads, heads),
    kinds=st.sampled_from([KINDS, ("encoder",), ("cross",), ("encoder", "cross")]),
    least=st.integers(0, 2),
    data=st.data(),
)
def test_every_number_of_heads_is_met_exactly(
    base: Base, kinds: tuple[str, ...], least: int, data: st.DataObject
) -> None:
    """Whatever the scores are, and however they change from step to step."""
    limits = Limits(kinds, least)
    selected = limits.selected(base.modules)
    most = sum(max(0, count - least) for count in selected.values())
    every = [UnitId(module, head) for module, count in base.modules.items() for head in range(count)]
    values = st.fixed_dictionaries({head: st.sampled_from([-1e300, -1.0, 0.0, 0.5, 1e300]) for head in every})
    before = Plan.keep_all(base)
    for number, plan in enumerate(_plans(base, lambda _plan: data.draw(values), range(most + 1), limits)):
        assert plan.count_kept(kinds) == limits.count(base.modules) - number
        assert plan.count_kept() == plan.count_base() - number
        assert set(plan.removed()) >= set(before.removed())
        assert all(len(plan.kept(module)) >= min(count, least) for module, count in selected.items())
        before = plan


@given(base=st.builds(_base, heads, heads, heads), seed=st.integers(0, 99), least=st.integers(0, 1))
def test_scores_that_stay_give_the_lowest_heads(base: Base, seed: int, least: int) -> None:
    scores, limits = random_scores(base.modules, seed), Limits(min_heads_per_module=least)
    numbers = range(sum(max(0, count - least) for count in base.modules.values()) + 1)
    for number, plan in zip(numbers, _plans(base, lambda _plan: scores, numbers, limits), strict=True):
        assert plan.removed() == lowest(scores, number, base.modules, limits)


def test_ties_go_by_kind_layer_and_head() -> None:
    base = _base((2,), (2,), (2,))
    scores = dict.fromkeys(random_scores(base.modules, 1), 0.5)
    plans = _plans(base, lambda _plan: scores, (1, 3, 5), Limits())
    assert [[str(head) for head in plan.removed()][-1] for plan in plans] == ["encoder.0.0", "decoder.0.0", "cross.0.0"]


def test_scores_are_of_the_model_after_the_step_before() -> None:
    base = _base((3,), (0,), (0,))
    asked: list[tuple[int, ...]] = []

    def scores_of(plan: Plan) -> Mapping[UnitId, float]:
        module = GroupId("encoder", 0)
        asked.append(plan.kept(module))
        return {UnitId(module, head): -float(head) for head in plan.kept(module)}

    plans = list(_plans(base, scores_of, (0, 1, 1, 3), Limits()))
    assert [plan.kept(GroupId("encoder", 0)) for plan in plans] == [(0, 1, 2), (0, 1), ()]
    assert asked == [(0, 1, 2), (0, 1)]


def test_a_step_takes_nothing_back() -> None:
    base = _base((3,), (0,), (0,))
    plan = Plan.removing(base, [UnitId(GroupId("encoder", 0), 1)])
    with pytest.raises(ValueError, match="the step before removes 1 units, more than 0"):
        next_plan(plan, random_scores(base.modules, 1), 0, Limits())
    with pytest.raises(BudgetError, match=r"no score for encoder\.0\.0, encoder\.0\.2"):
        next_plan(plan, {}, 2, Limits())


UNIFORM = Limits(uniform=True)


def _uniform(plan: Plan) -> tuple[set[int], set[int]]:
    """Heads kept per module, of the encoder and of the decoder with cross-attention."""
    kept = {module: len(plan.kept(module)) for module in plan.base.modules}
    encoder = {count for module, count in kept.items() if module.kind == "encoder"}
    return encoder, {count for module, count in kept.items() if module.kind != "encoder"}


def test_uniform_numbers_are_those_that_can_be_reached() -> None:
    """2 encoder layers and 4 other modules of 4 heads: steps of 2 and 4, at least one head stays in each."""
    assert _numbers("1", "18", limits=UNIFORM) == (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)
    assert _numbers("10%", "50%", limits=UNIFORM) == (0, 2, 4, 8, 10, 12)
    assert _numbers("25%", "75%", limits=UNIFORM) == (0, 6, 12, 18)
    with pytest.raises(BudgetError, match="18 can"):
        _numbers("1", "20", limits=UNIFORM)


@given(
    heads=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    layers=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
    step=st.sampled_from(["1", "3", "10%", "30%"]),
)
def test_uniform_sweeps_are_nested_and_uniform(
    heads: tuple[int, int], layers: tuple[int, int], seed: int, step: str
) -> None:
    base = _base((heads[0],) * layers[0], (heads[1],) * layers[1], (heads[1],) * layers[1])
    most = layers[0] * (heads[0] - 1) + 2 * layers[1] * (heads[1] - 1)
    scores = random_scores(base.modules, seed)
    numbers = _numbers(step, str(most), base=base, limits=UNIFORM)
    assert numbers[-1] == most
    plans = list(_plans(base, lambda _: scores, numbers, UNIFORM))
    gone: set[UnitId] = set()
    for before, plan in zip([None, *plans], plans, strict=False):
        encoder, decoder = _uniform(plan)
        assert len(encoder) == len(decoder) == 1 and min(encoder | decoder) >= 1
        assert before is None or len(plan.removed()) > len(before.removed())
        assert gone <= set(plan.removed())
        gone = set(plan.removed())
        for module in base.modules:  # within a module the lowest go first
            kept = [scores[UnitId(module, head)] for head in plan.kept(module)]
            assert all(scores[head] <= min(kept) for head in gone if head.group == module)
    assert len(gone) == most
