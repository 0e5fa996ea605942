"""Plans from patterns, chance and scores: exact, within the limits, the same for the same seed."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import KINDS, STACKS, Architecture, AttentionModule, GroupId, UnitId
from nmtprune.budget import Amount, Limits
from nmtprune.errors import BudgetError, PlanError, UsageError
from nmtprune.methods.chance import random_scores, same_counts
from nmtprune.methods.plans import SCOPES, empty_layers, keep_heads, remove_heads, remove_lowest
from nmtprune.plan import Base, Plan


def architecture_of(**heads: list[int]) -> Architecture:
    modules = [AttentionModule(GroupId(kind, layer), n, 4) for kind in heads for layer, n in enumerate(heads[kind])]
    return Architecture(tuple(modules))


def base_of(**heads: list[int]) -> Base:
    return Base.of("fairseq", "a" * 64, architecture_of(**heads))


FULL = base_of(encoder=[8] * 6, decoder=[8] * 6, cross=[8] * 6)
LANGUAGE_MODEL = base_of(decoder=[12] * 3)
SLIM = base_of(encoder=[3, 0, 8], decoder=[1], cross=[8])


def shapes() -> st.SearchStrategy[Base]:
    counts = st.lists(st.integers(0, 5), max_size=4)
    return st.builds(
        lambda encoder, decoder, cross: base_of(encoder=encoder, decoder=decoder, cross=cross), *[counts] * 3
    )


def random_plan(base: Base, amount: str, seed: int = 1, limits: Limits = Limits(), per: str = "model") -> Plan:  # noqa: B008
    return remove_lowest(base, random_scores(base.modules, seed), Amount.parse(amount), limits, per)


def message_of(error: type[PlanError] | type[UsageError], *arguments: object) -> str:
    action, *rest = arguments
    assert callable(action)
    with pytest.raises(error) as caught:
        action(*rest)
    return str(caught.value)


# Patterns


def test_heads_per_layer() -> None:
    plan = keep_heads(FULL, "encoder=777322 cross=233777 decoder=777332", 1, Limits())
    assert plan.heads_by_kind() == {
        "encoder": (7, 7, 7, 3, 2, 2),
        "decoder": (7, 7, 7, 3, 3, 2),
        "cross": (2, 3, 3, 7, 7, 7),
    }
    assert keep_heads(FULL, " cross=2,3,3,7,7,7  encoder=7,7,7,3,2,2 decoder=777332 ", 1, Limits()) == plan


def test_kinds_that_are_not_named_stay_full() -> None:
    plan = keep_heads(FULL, "decoder=610000", 1, Limits())
    assert plan.heads_by_kind() == {"encoder": (8,) * 6, "decoder": (6, 1, 0, 0, 0, 0), "cross": (8,) * 6}


def test_more_than_nine_heads() -> None:
    assert keep_heads(LANGUAGE_MODEL, "decoder=12,10,8", 1, Limits()).heads_by_kind()["decoder"] == (12, 10, 8)
    one_layer = base_of(decoder=[16])
    assert keep_heads(one_layer, "decoder=12,", 1, Limits()).heads_by_kind()["decoder"] == (12,)


def test_slim_models() -> None:
    assert keep_heads(SLIM, "encoder=205", 1, Limits()).heads_by_kind() == {
        "encoder": (2, 0, 5),
        "decoder": (1,),
        "cross": (8,),
    }


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("", "it is empty; write encoder=777322 or 14/31/30"),
        ("777322", "'777322' is not KIND=HEADS, such as cross=233777 (kinds: encoder, decoder, cross)"),
        ("self=777322", "'self=777322' is not KIND=HEADS, such as cross=233777 (kinds: encoder, decoder, cross)"),
        ("encoder=", "encoder: '' is neither digits (777322) nor numbers with commas (12,10,8)"),
        ("encoder=-1", "encoder: '-1' is neither digits (777322) nor numbers with commas (12,10,8)"),
        ("encoder=7,,7", "encoder: '7,,7' is neither digits (777322) nor numbers with commas (12,10,8)"),
        ("encoder=٣٣٣٣٣٣", "encoder: '٣٣٣٣٣٣' is neither digits (777322) nor numbers with commas (12,10,8)"),
        ("encoder=7773", "encoder layers: the model has 6, the pattern 4"),
        ("encoder=7,7", "encoder layers: the model has 6, the pattern 2"),
        (
            "encoder=977779 cross=8 encoder=111111 decoder=7,8,9,10,0,0 x",
            "encoder.0 has 8 heads, fewer than 9; encoder.5 has 8 heads, fewer than 9; cross layers: the model has 6, "
            "the pattern 1; encoder stands twice; decoder.2 has 8 heads, fewer than 9; decoder.3 has 8 heads, fewer "
            "than 10; 'x' is not KIND=HEADS, such as cross=233777 (kinds: encoder, decoder, cross)",
        ),
    ],
)
def test_faults_of_patterns(pattern: str, message: str) -> None:
    assert message_of(UsageError, keep_heads, FULL, pattern, 1, Limits()) == f"pattern '{pattern}': {message}"


def test_faults_that_depend_on_the_model() -> None:
    assert message_of(UsageError, keep_heads, LANGUAGE_MODEL, "encoder=111 decoder=111", 1, Limits()) == (
        "pattern 'encoder=111 decoder=111': the model has no encoder attention"
    )
    assert message_of(UsageError, keep_heads, base_of(decoder=[16]), "decoder=12", 1, Limits()) == (
        "pattern 'decoder=12': decoder layers: the model has 1, the pattern 2 (for one layer of 12 heads write '12,')"
    )


def test_heads_per_kind() -> None:
    plan = keep_heads(FULL, "14/31/30", 1, Limits())
    assert [plan.count_kept([kind]) for kind in KINDS] == [14, 31, 30]
    assert keep_heads(LANGUAGE_MODEL, "0/7/0", 1, Limits()).count_kept() == 7
    one_each = keep_heads(FULL, "6/6/6", 1, Limits(min_heads_per_module=1))
    assert set().union(*one_each.heads_by_kind().values()) == {1}


@pytest.mark.parametrize(
    ("base", "pattern", "message"),
    [
        (FULL, "14/31", "is not three numbers ENCODER/DECODER/CROSS of heads to keep, such as 14/31/30"),
        (FULL, "14/31/30/2", "is not three numbers ENCODER/DECODER/CROSS of heads to keep, such as 14/31/30"),
        (FULL, "14/-1/x", "is not three numbers ENCODER/DECODER/CROSS of heads to keep, such as 14/31/30"),
        (FULL, "49/31/99", "(heads kept in encoder/decoder/cross): encoder has 48 heads, fewer than 49; cross has 48 "
         "heads, fewer than 99"),
        (LANGUAGE_MODEL, "14/31/30", "(heads kept in encoder/decoder/cross): the model has no encoder attention: "
         "write 0 for it; the model has no cross attention: write 0 for it"),
    ],
)  # fmt: skip
def test_faults_of_totals(base: Base, pattern: str, message: str) -> None:
    assert message_of(UsageError, keep_heads, base, pattern, 1, Limits()) == f"pattern '{pattern}' {message}"


def test_totals_and_limits() -> None:
    assert message_of(BudgetError, keep_heads, FULL, "5/48/3", 1, Limits(min_heads_per_module=1)) == (
        "encoder cannot keep 5: each module keeps at least 1; cross cannot keep 3: each module keeps at least 1"
    )
    even = Limits(uniform=True)
    assert keep_heads(FULL, "12/18/18", 1, even).heads_by_kind() == {
        "encoder": (2,) * 6,
        "decoder": (3,) * 6,
        "cross": (3,) * 6,
    }
    assert message_of(BudgetError, keep_heads, FULL, "14/31/30", 1, even) == (
        "encoder cannot keep 14 in 6 equal layers: 12 or 18 can be kept; decoder cannot keep 31 in 6 equal layers: "
        "30 or 36 can be kept"
    )
    assert message_of(BudgetError, keep_heads, FULL, "12/18/24", 1, even) == (
        "the plan does not keep to the limits: layers of the decoder stack keep 3, 4 heads, not the same number"
    )


def test_limits_are_checked_whatever_the_form() -> None:
    assert message_of(BudgetError, keep_heads, FULL, "decoder=610000", 1, Limits(min_heads_per_module=1)) == (
        "the plan does not keep to the limits: decoder.2 keeps 0, fewer than 1; decoder.3 keeps 0, fewer than 1; "
        "decoder.4 keeps 0, fewer than 1; decoder.5 keeps 0, fewer than 1"
    )
    assert message_of(BudgetError, empty_layers, FULL, "top:6", Limits(("encoder",), uniform=True)) == (
        "the plan does not keep to the limits: the encoder stack keeps no head, a uniform one needs at least one in "
        "every layer"
    )
    # A module that has fewer heads than the minimum, and a stack that the plan leaves alone, are no faults.
    keep_heads(SLIM, "cross=7", 1, Limits(min_heads_per_module=2))
    keep_heads(base_of(encoder=[3, 1], decoder=[2], cross=[2]), "decoder=1 cross=1", 1, Limits(uniform=True))


# Names


def test_removing_by_name() -> None:
    architecture = architecture_of(encoder=[8] * 6, decoder=[8] * 6, cross=[8] * 6)
    plan = remove_heads(FULL, "E:1:3,4 decoder.0.5 encoder.4 A:6:8", architecture, Limits())
    removed = ["encoder.0.2", "encoder.0.3", *(f"encoder.4.{i}" for i in range(8)), "decoder.0.5", "cross.5.7"]
    assert list(map(str, plan.removed())) == removed
    assert message_of(UsageError, remove_heads, FULL, "encoder.9 E:0:1", architecture, Limits()).startswith(
        "heads 'encoder.9 E:0:1': 'encoder.9': "
    )
    assert message_of(UsageError, remove_heads, FULL, " ", architecture, Limits()) == (
        "no heads named: write encoder.0.3, encoder.4 for a whole layer, or E:1:4"
    )


# Chance and scores


@given(shapes(), st.integers(0, 100), st.integers(0, 2**70))
def test_random_plans_are_exact(base: Base, percent: int, seed: int) -> None:
    plan = random_plan(base, f"{percent}%", seed)
    assert len(plan.removed()) == Amount.parse(f"{percent}%").of(plan.count_base())
    assert random_plan(base, f"{percent}%", seed) == plan


@given(shapes(), st.integers(0, 100), st.sampled_from([1, 2]))
def test_amounts_per_kind_and_module_are_rounded_each(base: Base, percent: int, seed: int) -> None:
    amount = Amount.parse(f"{percent}%")
    by_kind = random_plan(base, str(amount), seed, per="kind")
    for kind in KINDS:
        assert len(by_kind.removed([kind])) == amount.of(by_kind.count_base([kind]))
    by_module = random_plan(base, str(amount), seed, per="module")
    gone = Counter(head.group for head in by_module.removed())
    assert all(gone[module] == amount.of(heads) for module, heads in base.modules.items())


def test_kinds_that_are_not_selected_stay_full() -> None:
    for per in SCOPES:
        plan = random_plan(FULL, "50%", 1, Limits(("encoder", "cross")), per)
        assert [plan.count_kept([kind]) for kind in KINDS] == ([24, 48, 24] if per != "model" else
            [plan.count_kept(["encoder"]), 48, 48 - plan.count_kept(["encoder"])])  # fmt: skip


def test_every_fault_of_a_count_per_module_is_named() -> None:
    assert message_of(BudgetError, random_plan, SLIM, "2", 1, Limits(), "module") == (
        "encoder.1: 2 heads cannot be removed: 0 to 0 of the 0 heads (encoder, decoder, cross) can; decoder.0: 2 heads "
        "cannot be removed: 0 to 1 of the 1 heads (encoder, decoder, cross) can"
    )


def test_uniform_random_plans() -> None:
    for amount, removed in (("50%", 72), ("27%", 36), ("42", 42)):
        plan = random_plan(FULL, amount, 3, Limits(uniform=True))
        assert len(plan.removed()) == removed
        kept = plan.heads_by_kind()
        for kinds in STACKS.values():
            assert len({count for kind in kinds for count in kept[kind]}) == 1
    assert message_of(UsageError, random_plan, FULL, "50%", 1, Limits(uniform=True), "kind") == (
        "a uniform plan divides an amount among stacks: it cannot be per kind"
    )
    assert message_of(UsageError, random_plan, FULL, "50%", 1, Limits(), "layer") == (
        "unknown scope 'layer': choose among model, kind, module"
    )


def test_seeds() -> None:
    plans = {random_plan(FULL, "25%", seed) for seed in range(20)}
    assert len(plans) == 20
    assert random_plan(FULL, "25%", 0) == random_plan(FULL, "25%", 0)
    patterns = {keep_heads(FULL, "encoder=444444", seed, Limits()) for seed in range(20)}
    assert len(patterns) == 20


def test_draws_do_not_depend_on_the_order_of_modules_or_on_other_modules() -> None:
    modules = list(FULL.modules.items())
    random.Random(1).shuffle(modules)
    assert random_scores(dict(modules), 1) == random_scores(FULL.modules, 1)
    encoder = base_of(encoder=[8] * 6)
    whole, alone = random_scores(FULL.modules, 1), random_scores(encoder.modules, 1)
    assert {head: whole[head] for head in alone} == alone


def test_draws_are_what_they_were() -> None:
    """The plans of a seed must not change from release to release."""
    plan = keep_heads(base_of(encoder=[8, 8], cross=[8]), "encoder=43 cross=2", 1, Limits())
    assert plan.as_json()["keep"] == {"encoder.0": [0, 1, 3, 6], "encoder.1": [0, 2, 6], "cross.0": [4, 7]}


def test_random_choice_is_fair() -> None:
    """Of 600 plans that remove 25 %, every head is in about 150; 4.5 standard deviations are allowed."""
    base = base_of(encoder=[4, 2], cross=[6])
    removed = Counter(head for seed in range(600) for head in random_plan(base, "25%", seed).removed())
    assert set(removed) == {UnitId(module, head) for module, heads in base.modules.items() for head in range(heads)}
    assert all(abs(count - 150) < 4.5 * (600 * 0.25 * 0.75) ** 0.5 for count in removed.values())


def test_more_removed_keeps_fewer_of_the_same() -> None:
    quarter, half = random_plan(FULL, "25%"), random_plan(FULL, "50%")
    assert set(half.kept_ids()) < set(quarter.kept_ids())


def test_lowest_scores_go() -> None:
    scores = {head: float(index % 10) for index, head in enumerate(Plan.keep_all(FULL).kept_ids())}
    plan = remove_lowest(FULL, scores, Amount.parse("10%"), Limits())
    assert all(scores[head] == 0.0 for head in plan.removed())
    assert len(plan.removed()) == 14


# Layers


@pytest.mark.parametrize(
    ("selection", "layers"),
    [
        ("top:2", [4, 5]),
        ("bottom:2", [0, 1]),
        ("middle:2", [2, 3]),
        ("middle:3", [1, 2, 3]),
        ("middle:1", [2]),
        ("even", [0, 2, 4]),
        ("odd", [1, 3, 5]),
        ("top:1,bottom:1", [0, 5]),
        ("top:2 odd", [1, 3, 4, 5]),
        ("top:6", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_empty_layers(selection: str, layers: list[int]) -> None:
    plan = empty_layers(FULL, selection, Limits())
    expected = tuple(0 if layer in layers else 8 for layer in range(6))
    assert plan.heads_by_kind() == dict.fromkeys(KINDS, expected)
    encoder_only = empty_layers(FULL, selection, Limits(("encoder",)))
    assert encoder_only.heads_by_kind() == {"encoder": expected, "decoder": (8,) * 6, "cross": (8,) * 6}


def test_random_layers_are_those_of_the_seed_in_every_kind_of_a_stack() -> None:
    plans = [empty_layers(FULL, "random:2", Limits(), seed) for seed in range(1, 9)]
    counts = [plan.heads_by_kind() for plan in plans]
    assert counts[0] == empty_layers(FULL, "random:2", Limits(), 1).heads_by_kind()
    assert all(each["encoder"].count(0) == 2 and each["decoder"] == each["cross"] for each in counts)
    assert len({each["encoder"] for each in counts}) > 4
    smaller = [empty_layers(FULL, "random:1", Limits(), seed).removed() for seed in range(1, 9)]
    assert all(set(less) < set(more.removed()) for less, more in zip(smaller, plans, strict=True))


def test_every_kind_has_its_own_depth() -> None:
    base = base_of(encoder=[2] * 4, decoder=[2] * 2, cross=[2] * 2)
    assert empty_layers(base, "top:1", Limits()).heads_by_kind() == {
        "encoder": (2, 2, 2, 0),
        "decoder": (2, 0),
        "cross": (2, 0),
    }


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("top", "'top' is none of top:N, bottom:N, middle:N, even, odd, random:N"),
        ("", "'' is none of top:N, bottom:N, middle:N, even, odd, random:N"),
        ("top:x,upper:2", "'top:x' is none of top:N, bottom:N, middle:N, even, odd, random:N; 'upper:2' is none of "
         "top:N, bottom:N, middle:N, even, odd, random:N"),
        ("top:0", "'top:0': encoder layers: the model has 4; "
         "'top:0': decoder layers: the model has 2; 'top:0': cross layers: the model has 2"),
        ("middle:3", "'middle:3': decoder layers: the model has 2; 'middle:3': cross layers: the model has 2"),
    ],
)  # fmt: skip
def test_faults_of_layers(selection: str, message: str) -> None:
    base = base_of(encoder=[2] * 4, decoder=[2] * 2, cross=[2] * 2)
    assert message_of(UsageError, empty_layers, base, selection, Limits()) == f"layers '{selection}': {message}"


def test_plans_are_for_the_base() -> None:
    for plan in (
        keep_heads(SLIM, "cross=1", 1, Limits()),
        random_plan(SLIM, "50%"),
        empty_layers(SLIM, "even", Limits()),
    ):
        plan.check(SLIM)


def test_same_counts_keep_as_many_heads_in_each_module() -> None:
    plan = keep_heads(FULL, "encoder=730812 cross=012345", 3, Limits())
    drawn = [same_counts(plan, seed) for seed in (1, 2)]
    for other in drawn:
        assert all(len(other.kept(module)) == len(plan.kept(module)) for module in FULL.modules)
    assert drawn[0].keep != drawn[1].keep and drawn[0] == same_counts(plan, 1)
