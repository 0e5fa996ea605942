"""Plans: the file format, its faults, checks against a model, lineage."""

import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nmtprune.architecture import KINDS, Architecture, AttentionModule, GroupId, UnitId
from nmtprune.errors import CheckpointError, OutputError, PlanError
from nmtprune.plan import Base, Lineage, Plan

SHA = "0123456789abcdef" * 4
OTHER_SHA = "f" * 64


def base_of(encoder: list[int], decoder: list[int], cross: list[int], sha256: str = SHA) -> Base:
    return Base.model_validate(
        {"format": "fairseq", "sha256": sha256, "heads": {"encoder": encoder, "decoder": decoder, "cross": cross}}
    )


BASE = base_of([4, 3], [2], [4])

TEXT = (
    '{"format": "nmtprune-plan", "version": 1,\n'
    ' "base": {"format": "fairseq", "sha256": "' + SHA + '",'
    ' "heads": {"encoder": [4, 3], "decoder": [2], "cross": [4]}},\n'
    ' "keep": {\n'
    '  "encoder.0": [0, 2, 3],\n'
    '  "encoder.1": [],\n'
    '  "decoder.0": [0, 1],\n'
    '  "cross.0": [1]\n'
    " },\n"
    ' "provenance": {\n'
    '  "command": ["nmtprune", "plan"],\n'
    '  "seed": 0\n'
    " }}\n"
)
PLAN = Plan.of(
    BASE,
    {"cross.0": [1], "encoder.0": [3, 0, 2], "decoder.0": [0, 1], "encoder.1": []},
    {"command": ["nmtprune", "plan"], "seed": 0},
)


def head(text: str) -> UnitId:
    return UnitId.parse(text)


def bases() -> st.SearchStrategy[Base]:
    counts = st.lists(st.integers(0, 4), max_size=3)
    return st.builds(base_of, counts, counts, counts)


def plans_of(base: Base) -> st.SearchStrategy[Plan]:
    keep = {
        str(id): st.sets(st.integers(0, heads - 1)) if heads else st.just(set()) for id, heads in base.modules.items()
    }
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    provenance = st.dictionaries(st.text(), json_values, max_size=3)
    return st.builds(lambda kept, record: Plan.of(base, kept, record), st.fixed_dictionaries(keep), provenance)


def plans() -> st.SearchStrategy[Plan]:
    return bases().flatmap(plans_of)


# The file


def test_text_is_one_module_a_line_in_order() -> None:
    assert PLAN.to_json() == TEXT
    assert Plan.from_json(TEXT) == PLAN


def test_plan_without_modules_or_provenance_reads_back() -> None:
    plan = Plan.of(base_of([], [], []), {})
    assert plan.to_json().endswith(' "keep": {},\n "provenance": {}}\n')
    assert Plan.from_json(plan.to_json()) == plan


@given(plans())
def test_round_trip(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()
    assert json.loads(plan.to_json()) == json.loads(json.dumps(plan.as_json()))


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a JSON value can be edited: every key and every position below it."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, inner in items for found in [(*path, key), *_paths(inner, (*path, key))]]


def _edits(old: Any) -> list[Any]:
    """Other values of the same or of another type; 1 and 1.0 and true are different."""
    values: list[Any] = [None, True, False, 0, 1, 2, 7, -1, 1.0, 0.5, "", "x", "2", [], [0], [1, 0], {}, {"a": 1}]
    if isinstance(old, list):
        values += [[*old, 1], [*old, True], old[:-1], old[::-1], [*old, *old]]
    if isinstance(old, str):
        values += [old + "0", old.upper(), old[:-1], f" {old}"]
    return [value for value in values if json.dumps(value) != json.dumps(old)]


def _container(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data


@given(plans(), st.data())
def test_any_single_edit_is_refused_or_changes_equality(plan: Plan, data: st.DataObject) -> None:
    content = json.loads(plan.to_json())
    # Version 2 may say what version 1 says.
    path = data.draw(st.sampled_from([path for path in _paths(content) if path != ("version",)]))
    container, key = _container(content, path), path[-1]
    edit = data.draw(st.sampled_from(["change", "remove", "add"]))
    if edit == "change":
        container[key] = data.draw(st.sampled_from(_edits(container[key])))
    elif edit == "remove":
        del container[key]
    elif isinstance(container, dict):
        container[data.draw(st.sampled_from(["", "x", "encoder.9", "layers", "cross.00", "Encoder.0"]))] = {}
        if json.dumps(content) == json.dumps(json.loads(plan.to_json())):
            return
    else:
        container.insert(key, container[key])
    try:
        assert Plan.from_json(json.dumps(content)) != plan
    except PlanError as error:
        assert "\n" not in str(error)
        assert str(error).startswith("plan: ")


def test_order_of_keys_means_nothing() -> None:
    def reverse(value: Any) -> Any:
        return {key: reverse(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    again = Plan.from_json(json.dumps(reverse(json.loads(TEXT))))
    assert again == PLAN
    stacks = ["encoder-layers", "decoder-layers"]
    assert list(again.keep) == ["encoder.0", "encoder.1", "decoder.0", "cross.0", *stacks]


def test_file(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    PLAN.write(path)
    assert path.read_text() == TEXT
    assert Plan.read(path) == PLAN
    with pytest.raises(OutputError, match="exists"):
        PLAN.write(path)
    Plan.keep_all(BASE).write(path, force=True)
    assert Plan.read(path) == Plan.keep_all(BASE)


def test_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(TEXT, encoding="utf-8-sig")
    assert Plan.read(tmp_path / "plan.json") == PLAN


def test_strings_that_are_no_unicode_are_kept(tmp_path: Path) -> None:
    plan = PLAN.with_provenance({"argv": ["\udcff.pt", "ü"]})
    plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == plan


# Faults


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(TEXT), **changes})


def test_all_faults_are_named_at_once() -> None:
    text = edited(
        version=0,
        base={
            "format": "fairseq",
            "sha256": SHA,
            "heads": {"encoder": [4, 3], "decoder": [2], "cross": [4]},
            "name": 1,
        },
        keep={"encoder.0": [2, 0, 0], "encoder.1": [3, -1, True, 1.0, "1"], "encoder.2": [], "cross.0": "0", "x\n": []},
        extra=None,
    )
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text, "some/plan.json")
    assert str(caught.value) == (
        "some/plan.json: version is 0, this nmtprune reads versions 1 and 2; unknown key 'extra'; "
        "unknown key 'base.name'; "
        "encoder.0: head 0 is repeated; encoder.0: heads [2, 0, 0] are not in ascending order; "
        "encoder.1: -1 is no head number; encoder.1: true is no head number; encoder.1: 1.0 is no head number; "
        'encoder.1: "1" is no head number; encoder.1: no head 3 in the base, which has heads 0 to 2; '
        'keep names encoder.2, which the base does not have; cross.0 is "0", not a list of heads; '
        "keep names 'x\\n', which is no attention module (KIND.LAYER, such as cross.5); keep has no entry for decoder.0"
    )
    assert len(caught.value.faults) == 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "broken JSON at line 1 column 1: Expecting value"),
        ('{"format": "nmtprune-plan",\n "version" 1}', "broken JSON at line 2 column 12: Expecting ':' delimiter"),
        (TEXT + "x", "broken JSON at line 13 column 1: Extra data"),
        ('{"a": 1, "a": 2, "b": {"c": 1, "c": 1}}', "key 'c' stands 2 times; key 'a' stands 2 times"),
        ('{"a": NaN, "b": -Infinity, "c": 1e999}', "NaN is no finite number; -Infinity is no finite number; "
         "1e999 is no finite number"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 100 levels"),
        ('{"a":' * 200 + "1" + "}" * 200, "nested deeper than 100 levels"),
        (f'{{"version": {"9" * 10_000}}}', "holds a number of too many digits"),
        ("[1, 2]", "is [1, 2], not a plan (a JSON object)"),
        ("null", "is null, not a plan (a JSON object)"),
        ("{}", "key 'format' is missing; key 'version' is missing; key 'base' is missing; key 'keep' is missing; "
         "key 'provenance' is missing"),
    ],
)  # fmt: skip
def test_broken_json(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text, "p.json")
    assert str(caught.value) == f"p.json: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "nmtprune-scores"}, 'format is "nmtprune-scores", not "nmtprune-plan"'),
        ({"version": "1"}, 'version is "1", this nmtprune reads versions 1 and 2'),
        ({"version": 1.0}, "version is 1.0, this nmtprune reads versions 1 and 2"),
        ({"version": True}, "version is true, this nmtprune reads versions 1 and 2"),
        ({"provenance": []}, "provenance is [], not an object"),
        ({"keep": []}, "keep is [], not an object"),
        ({"base": "fairseq"}, 'base is "fairseq", not an object'),
        (
            {"base": {"format": "Fair\nseq", "sha256": SHA.upper(), "heads": {"encoder": [1.5], "self": []}}},
            'base.format is "Fair\\nseq", not the name of a checkpoint format; base.sha256 is '
            f"\"{SHA.upper()[:56]}..., not 64 hexadecimal digits; key 'base.heads.decoder' is missing; "
            "key 'base.heads.cross' is missing; unknown key 'base.heads.self'; base.heads.encoder is [1.5]: "
            "a number of heads is an integer from 0 to 65536",
        ),
        (
            {
                "base": {
                    "format": "fairseq",
                    "sha256": SHA,
                    "heads": {"encoder": [10**9, 3], "decoder": [2], "cross": [4]},
                }
            },
            "base.heads.encoder is [1000000000, 3]: a number of heads is an integer from 0 to 65536",
        ),
    ],
)
def test_faults(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(edited(**changes), "p.json")
    assert str(caught.value) == f"p.json: {message}"


def test_faults_of_one_kind_do_not_hide_those_of_another() -> None:
    base = {"format": "fairseq", "sha256": SHA, "heads": {"encoder": "4", "decoder": [2], "cross": [4]}}
    with pytest.raises(PlanError) as caught:
        Plan.from_json(edited(base=base, keep={"encoder.0": [1, 1], "decoder.0": [5]}), "p.json")
    assert str(caught.value) == (
        'p.json: base.heads.encoder is "4", not a list of numbers of heads; encoder.0: head 1 is repeated; '
        "decoder.0: no head 5 in the base, which has heads 0 to 1; keep has no entry for cross.0"
    )


def test_unreadable_files(tmp_path: Path) -> None:
    missing, binary, huge = tmp_path / "none.json", tmp_path / "model.pt", tmp_path / "huge.json"
    binary.write_bytes(b"PK\x03\x04\xff\xfe")
    with huge.open("wb") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    for path, message in (
        (missing, "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (binary, "not UTF-8 text (byte 4)"),
        (huge, "larger than 64 MiB, so not a file of this kind"),
    ):
        with pytest.raises(PlanError) as caught:
            Plan.read(path)
        assert str(caught.value) == f"{path}: {message}"


def test_construction_in_code_is_checked_too() -> None:
    with pytest.raises(PlanError) as caught:
        Plan.of(BASE, {"encoder.0": [9], "encoder.1": [1, 1], "decoder.0": []})
    assert str(caught.value) == (
        "plan: encoder.0: no head 9 in the base, which has heads 0 to 3; encoder.1: head 1 is repeated; "
        "keep has no entry for cross.0"
    )
    with pytest.raises(PlanError, match=r"^plan: provenance\.path is of type PosixPath, which JSON does not have$"):
        Plan.of(BASE, PLAN.keep, {"path": Path("x")})
    with pytest.raises(PlanError, match=r"^plan: provenance\.x\[1\] is nan, which is no finite number$"):
        Plan.of(BASE, PLAN.keep, {"x": [1, float("nan")]})
    with pytest.raises(PlanError, match=r'^base: sha256 is "1", not 64 hexadecimal digits$'):
        Base(format="fairseq", sha256="1", heads=BASE.heads)


def test_plans_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PLAN.version = 2  # type: ignore[assignment]
    for mapping in (PLAN.keep, PLAN.provenance, PLAN.base.heads):
        with pytest.raises(TypeError, match="frozen"):
            mapping["encoder.0"] = ()  # type: ignore[index]
    assert PLAN.provenance["command"] == ("nmtprune", "plan")


def test_plans_are_values() -> None:
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN
    assert copy.deepcopy(PLAN) == PLAN
    assert len({PLAN, Plan.from_json(TEXT), Plan.keep_all(BASE)}) == 2
    assert PLAN.with_provenance({}) != PLAN
    assert PLAN != "plan"


# What a plan says


def test_kept_and_removed() -> None:
    removed = [
        head("encoder.0.1"),
        *(head(f"encoder.1.{i}") for i in range(3)),
        *(head(f"cross.0.{i}") for i in (0, 2, 3)),
    ]
    assert PLAN.kept(GroupId("encoder", 0)) == (0, 2, 3)
    assert PLAN.removed() == tuple(removed)
    assert PLAN.removed(["cross"]) == tuple(removed[-3:])
    assert (PLAN.count_kept(), PLAN.count_kept(["encoder"]), PLAN.count_base(), PLAN.count_base(["cross"])) == (
        6,
        3,
        13,
        4,
    )
    assert PLAN.heads_by_kind() == {"encoder": (3, 0), "decoder": (2,), "cross": (1,)}
    assert Plan.removing(BASE, removed, PLAN.provenance) == PLAN
    with pytest.raises(KeyError):
        PLAN.kept(GroupId("decoder", 5))


def test_removing_heads_that_are_not_there() -> None:
    with pytest.raises(PlanError) as caught:
        Plan.removing(BASE, [head("encoder.1.3"), head("decoder.7.0"), head("encoder.1.2")])
    assert str(caught.value) == "plan: the base has no head encoder.1.3; the base has no head decoder.7.0"


@given(plans())
def test_kept_and_removed_are_all_heads(plan: Plan) -> None:
    every = [UnitId(id, number) for id, heads in plan.base.modules.items() for number in range(heads)]
    assert sorted([*plan.kept_ids(), *plan.removed()]) == every
    assert plan.count_kept() + len(plan.removed()) == plan.count_base()
    assert Plan.removing(plan.base, plan.removed(), plan.provenance) == plan


# Fit


def test_check_names_what_differs() -> None:
    PLAN.check(BASE)
    PLAN.check(base_of([4, 3], [2], [4], OTHER_SHA), other_weights=True)
    with pytest.raises(PlanError) as caught:
        PLAN.check(base_of([4, 3], [2], [4], OTHER_SHA), where="plan.json")
    assert str(caught.value) == (
        "plan.json: made for another model: weights differ (sha256 ffffffffffff, the plan's base 0123456789ab); "
        "`other_weights` applies it to other weights of the same shape all the same"
    )
    marian = Base(format="marian", sha256=OTHER_SHA, heads={"encoder": (4, 3), "decoder": (), "cross": (4, 4)})
    with pytest.raises(PlanError) as caught:
        PLAN.check(marian)
    assert str(caught.value) == (
        "plan: made for another model: the model is a marian checkpoint, the plan is for fairseq; decoder heads of the "
        "model are [], of the plan's base [2]; cross heads of the model are [4, 4], of the plan's base [4]; weights "
        "differ (sha256 ffffffffffff, the plan's base 0123456789ab)"
    )
    with pytest.raises(PlanError, match="decoder heads"):
        PLAN.check(marian, other_weights=True)


# Tied layers


def architecture(layers: dict[str, list[int]], heads: int = 2) -> Architecture:
    modules = [AttentionModule(GroupId(kind, layer), heads, 4) for kind in layers for layer in layers[kind]]
    return Architecture(tuple(modules))


def test_of_a_later_version_nothing_else_is_said() -> None:
    later = json.loads(TEXT) | {"version": 3, "widths": {}}
    with pytest.raises(PlanError) as error:
        Plan.from_json(json.dumps(later), "p.json")
    assert str(error.value) == "p.json: version is 3, this nmtprune reads versions 1 and 2"


def test_tied_layers_keep_their_numbers() -> None:
    base = Base.of("marian", SHA, architecture({"encoder": [0, 1], "decoder": [0, 2], "cross": [0, 2]}))
    assert base.heads == {"encoder": (2, 2), "decoder": (2, 2), "cross": (2, 2)}
    assert base.layers == {"decoder": (0, 2), "cross": (0, 2)}
    plan = Plan.keep_all(base)
    assert list(plan.keep)[:6] == ["encoder.0", "encoder.1", "decoder.0", "decoder.2", "cross.0", "cross.2"]
    assert Plan.from_json(plan.to_json()) == plan
    with pytest.raises(PlanError, match="decoder layers of the model are tied in another way"):
        plan.check(Base.of("marian", SHA, architecture({"encoder": [0, 1], "decoder": [0, 1], "cross": [0, 2]})))


def test_untied_layers_are_not_listed() -> None:
    base = Base.of("fairseq", SHA, architecture({kind: [0, 1] for kind in KINDS}))
    assert base.layers == {}
    assert "layers" not in base.as_json()


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "base.layers is {}, not an object with layers by kind (leave it out where none are tied)"),
        ({"encoder": [0, 1]}, "base.layers.encoder is [0, 1]: layers must ascend, and leave some out or not be listed"),
        ({"encoder": [2, 0]}, "base.layers.encoder is [2, 0]: layers must ascend, and leave some out or not be listed"),
        ({"encoder": [0, 2, 4]}, "base.layers.encoder lists 3 layers, heads.encoder 2"),
        ({"self": [0]}, "unknown key 'base.layers.self'"),
        ({"decoder": [True]}, "base.layers.decoder is [true], not a list of layers"),
    ],
)
def test_faults_of_layers(layers: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(edited(base={**json.loads(TEXT)["base"], "layers": layers}), "p.json")
    assert str(caught.value) == f"p.json: {message}"


# Lineage


def result_of(plan: Plan, sha256: str = OTHER_SHA) -> Base:
    return Base(format=plan.base.format, sha256=sha256, heads=plan.heads_by_kind())


def two_plans() -> st.SearchStrategy[tuple[Plan, Plan]]:
    return plans().flatmap(lambda first: st.tuples(st.just(first), plans_of(result_of(first))))


@given(plans())
def test_keeping_all_changes_no_lineage(plan: Plan) -> None:
    lineage = Lineage.start(plan.base).after(plan)
    assert lineage.after(Plan.keep_all(result_of(plan))) == lineage
    assert Lineage.start(plan.base).after(Plan.keep_all(plan.base)).after(plan) == lineage


@given(two_plans())
def test_lineage_has_the_heads_that_both_plans_keep_by_their_root_ids(both: tuple[Plan, Plan]) -> None:
    first, second = both
    lineage = Lineage.start(first.base).after(first).after(second)
    assert lineage.root == first.base
    for id in first.base.modules:
        assert lineage.keep[str(id)] == tuple(first.kept(id)[position] for position in second.kept(id))
    assert Lineage.from_json(lineage.to_json()) == lineage
    assert "\n" not in lineage.to_json()


def test_lineage_refuses_a_plan_of_another_shape() -> None:
    lineage = Lineage.start(BASE).after(PLAN)
    with pytest.raises(PlanError, match="^plan: not made for the checkpoint of this lineage: encoder heads"):
        lineage.after(PLAN)


def test_damaged_lineages_are_damaged_checkpoints() -> None:
    for text, message in (
        ("{", "model.pt: broken JSON at line 1 column 2: Expecting property name enclosed in double quotes"),
        ("[]", "model.pt: is [], not a lineage (a JSON object)"),
        ("{}", "model.pt: key 'root' is missing; key 'keep' is missing"),
        (
            Lineage.start(BASE).to_json().replace("[0, 1, 2, 3]", "[0, 1, 2, 4]", 1),
            "model.pt: encoder.0: no head 4 in the base, which has heads 0 to 3",
        ),
    ):
        with pytest.raises(CheckpointError) as caught:
            Lineage.from_json(text, "model.pt")
        assert str(caught.value) == message


def test_every_pair_of_small_plans_leaves_a_subset() -> None:
    base = base_of([2], [], [])
    choices = [subset for size in range(3) for subset in itertools.combinations(range(2), size)]
    for kept in choices:
        first = Plan.of(base, {"encoder.0": kept})
        for again in (
            subset for size in range(len(kept) + 1) for subset in itertools.combinations(range(len(kept)), size)
        ):
            second = Plan.of(result_of(first), {"encoder.0": again})
            lineage = Lineage.start(base).after(first).after(second)
            assert set(lineage.keep["encoder.0"]) == {kept[i] for i in again}
