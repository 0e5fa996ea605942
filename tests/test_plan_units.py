"""Plans of neurons and layers: version 2 of the file, its faults, ranges, and lineages over all groups."""

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import assume, given
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
    Neurons,
    UnitId,
)
from nmtprune.errors import CheckpointError, PlanError
from nmtprune.plan import Base, Lineage, Plan, ranges

SHA = "0123456789abcdef" * 4
OTHER_SHA = "f" * 64


def architecture_of(counts: dict[str, dict[int, int]]) -> Architecture:
    """Numbers of heads and neurons by kind and layer."""
    modules = [
        AttentionModule(GroupId(kind, layer), n, 4) for kind in KINDS for layer, n in counts.get(kind, {}).items()
    ]
    others = [Neurons(GroupId(kind, layer), n) for kind in NEURON_KINDS for layer, n in counts.get(kind, {}).items()]
    return Architecture(tuple(modules), tuple(others))


ARCHITECTURE = architecture_of({
    "encoder": {0: 2, 1: 2}, "decoder": {0: 2, 1: 2, 2: 2}, "cross": {0: 2, 1: 2, 2: 2},
    "encoder-ffn": {0: 8, 1: 8}, "decoder-ffn": {0: 6, 1: 6, 2: 6},
})  # fmt: skip
BASE = Base.of("fairseq", SHA, ARCHITECTURE)

TEXT = (
    '{"format": "nmtprune-plan", "version": 2,\n'
    ' "base": {"format": "fairseq", "sha256": "' + SHA + '", "heads": {"encoder": [2, 2], "decoder": [2, 2, 2], '
    '"cross": [2, 2, 2]}, "neurons": {"encoder-ffn": [8, 8], "decoder-ffn": [6, 6, 6]}},\n'
    ' "keep": {\n'
    '  "encoder.0": [0, 1],\n'
    '  "encoder.1": [1],\n'
    '  "decoder.0": [0, 1],\n'
    '  "decoder.2": [],\n'
    '  "cross.0": [0, 1],\n'
    '  "cross.2": [0, 1],\n'
    '  "encoder-ffn.0": "0-2,5,7",\n'
    '  "encoder-ffn.1": "0-7",\n'
    '  "decoder-ffn.0": "",\n'
    '  "decoder-ffn.2": "1-5"\n'
    " },\n"
    ' "layers": {"decoder": [0, 2]},\n'
    ' "provenance": {\n'
    '  "seed": 1\n'
    " }}\n"
)
KEPT = {
    "encoder.0": [0, 1], "encoder.1": [1], "decoder.0": [0, 1], "decoder.1": [], "decoder.2": [], "cross.0": [0, 1],
    "cross.1": [], "cross.2": [0, 1], "encoder-ffn.0": [0, 1, 2, 5, 7], "decoder-ffn.0": [],
    "decoder-ffn.2": [1, 2, 3, 4, 5], "decoder-layers": [0, 2],
}  # fmt: skip
PLAN = Plan.of(BASE, KEPT, {"seed": 1})


@st.composite
def architectures(draw: st.DrawFn) -> Architecture:
    """Stacks of layers with gaps, as tied ones have them, some without neurons that can be cut."""
    counts: dict[str, dict[int, int]] = {}
    for stack, kinds in STACKS.items():
        layers = sorted(draw(st.sets(st.integers(0, 4), max_size=3)))
        own = [*kinds, f"{stack}-ffn"] if draw(st.booleans()) else [*kinds]
        for kind in own:
            counts[kind] = {layer: draw(st.integers(0, 12 if kind in NEURON_KINDS else 3)) for layer in layers}
    return architecture_of(counts)


@st.composite
def plans_of(draw: st.DrawFn, base: Base) -> Plan:
    keep = {
        id: draw(st.sets(st.sampled_from(numbers), min_size=id.kind in LAYER_KINDS)) if numbers else set[int]()
        for id, numbers in base.units.items()
    }
    return Plan.of(base, keep)


def plans() -> st.SearchStrategy[Plan]:
    return architectures().flatmap(lambda found: plans_of(Base.of("fairseq", SHA, found)))


def model_after(plan: Plan) -> Base:
    """The base of the model that a plan leaves."""
    base = plan.base
    counts = {kind: {id.layer: len(plan.kept(id)) for id in base.units if id.kind == kind} for kind in EVERY_KIND[:-2]}
    left = architecture_of(counts).with_layers(plan.kept_layers())
    return Base.of(base.format, OTHER_SHA, left)


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(TEXT), **changes})


def fault_of(text: str) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text, "p.json")
    return str(caught.value).removeprefix("p.json: ")


# The file


def test_text_of_version_2() -> None:
    assert PLAN.to_json() == TEXT
    assert Plan.from_json(TEXT) == PLAN
    assert PLAN.version == 2


@given(plans())
def test_round_trip(plan: Plan) -> None:
    again = Plan.from_json(plan.to_json())
    assert again == plan and hash(again) == hash(plan)
    assert again.to_json() == plan.to_json()
    assert json.loads(plan.to_json()) == json.loads(json.dumps(plan.as_json()))
    if plan.version == 2:
        assert (again.keep, again.base) == (plan.keep, plan.base)


@given(plans())
def test_without_cut_neurons_and_layers_the_file_is_version_1(plan: Plan) -> None:
    """Byte for byte what a plan of a base that records no neurons is, and of version 1 the keys are."""
    heads = {id: plan.kept(id) for id in plan.base.modules}
    alone = Plan.of(plan.base, heads)
    plain = Plan.of(plan.base.without_neurons(), heads)
    assert alone.version == 1
    assert alone.to_json() == plain.to_json()
    data = json.loads(alone.to_json())
    assert list(data) == ["format", "version", "base", "keep", "provenance"]
    assert set(data["base"]) <= {"format", "sha256", "heads", "layers"}
    assert all(name.partition(".")[0] in KINDS for name in data["keep"])


@given(plans())
def test_kept_and_removed_are_all_units(plan: Plan) -> None:
    every = [UnitId(id, number) for id, numbers in plan.base.units.items() for number in numbers]
    assert sorted([*plan.kept_ids(EVERY_KIND), *plan.removed(EVERY_KIND)]) == sorted(every)
    assert plan.count_kept(EVERY_KIND) + len(plan.removed(EVERY_KIND)) == plan.count_base(EVERY_KIND) == len(every)
    assert Plan.removing(plan.base, plan.removed(EVERY_KIND)) == plan


def test_a_layer_takes_its_heads_and_neurons_along() -> None:
    plan = Plan.removing(BASE, [UnitId(GroupId("decoder-layers"), 1)])
    assert plan.kept_layers() == {"decoder": (0, 2)}
    assert [plan.kept(GroupId(kind, 1)) for kind in ("decoder", "cross", "decoder-ffn", "encoder-ffn")] == [
        (), (), (), tuple(range(8)),
    ]  # fmt: skip
    assert len(plan.removed()) == 4 and len(plan.removed(NEURON_KINDS)) == 6


def test_the_schema_describes_files_of_both_versions() -> None:
    schema = Plan.model_json_schema()
    for plan in (PLAN, Plan.keep_all(BASE)):
        data = json.loads(plan.to_json())
        assert set(data) <= set(schema["properties"]) and set(schema["required"]) <= set(data)
        assert data["version"] in schema["properties"]["version"]["enum"]
        assert set(data["base"]) <= set(schema["$defs"]["Base"]["properties"])
        listed, written = schema["properties"]["keep"]["additionalProperties"]["anyOf"]
        for kept in data["keep"].values():
            assert re.search(written["pattern"], kept) if isinstance(kept, str) else listed["type"] == "array"
        assert Plan.model_validate(data) == plan


def test_any_way_to_write_the_same_ranges_is_read() -> None:
    assert Plan.from_json(TEXT.replace('"0-2,5,7"', '"0,1,2-2,5-5,7"')) == PLAN


def test_ranges_of_a_whole_stack_need_no_list_of_layers() -> None:
    """Layers that all stay are not listed, and may be."""
    plan = Plan.of(BASE, {**KEPT, "decoder-layers": [0, 1, 2], "decoder.1": [0], "cross.1": [0]})
    assert "layers" not in json.loads(plan.to_json())
    listed = json.dumps({**json.loads(plan.to_json()), "layers": {"decoder": [0, 1, 2], "encoder": [0, 1]}})
    assert Plan.from_json(listed) == plan


# Faults


def test_all_faults_of_version_2_at_once() -> None:
    keep = {
        **json.loads(TEXT)["keep"],
        "encoder-ffn.0": "0-2,2-3,1,5-4,x,7-9",
        "encoder-ffn.1": [0, 1],
        "encoder-ffn.5": "0",
        "decoder-ffn.2": "0,0",
        "decoder-ffn.1": "0",
        "decoder-layers": [0],
    }
    found = fault_of(edited(keep=keep, layers={"decoder": [2, 0, 0, 7], "cross": [0]}))
    assert found == (
        "encoder-ffn.0: '2-3' overlaps a part before it; encoder-ffn.0: '1' overlaps a part before it; "
        "encoder-ffn.0: '5-4' runs backwards; encoder-ffn.0: 'x' is no number and no range such as 0-99; "
        'encoder-ffn.1 is [0, 1], not text such as "0-99,130"; '
        "decoder-ffn.2: '0' overlaps a part before it; "
        "keep names decoder-layers: which layers stay is said under the key 'layers'; "
        "unknown key 'layers.cross'; "
        "encoder-ffn.0: no neuron 8, 9 in the base, which has neurons 0 to 7; "
        "keep names encoder-ffn.5, which the base does not have; "
        "keep names decoder-ffn.1, the layer of which does not stay; "
        "decoder-layers: no layer 7 in the base, which has layers 0 to 2; decoder-layers: layer 0 is repeated; "
        "decoder-layers: layers [2, 0, 0, 7] are not in ascending order; keep has no entry for encoder-ffn.1"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"decoder": []}}, "decoder-layers: no layer of the decoder would be left"),
        ({"layers": {"encoder": [0, 1, 2]}},
         "encoder-layers: no layer 2 in the base, which has layers 0 to 1"),
        ({"layers": {}}, "layers is {}, not an object with the layers that stay by stack"),
        ({"layers": [0]}, "layers is [0], not an object with the layers that stay by stack"),
        ({"layers": {"decoder": "0-2"}}, 'decoder-layers is "0-2", not a list of layers'),
        ({"layers": {"decoder": [True, 2]}}, "decoder-layers: true is no layer number"),
        ({"version": 3}, "version is 3, this nmtprune reads versions 1 and 2"),
    ],
)  # fmt: skip
def test_faults(changes: dict[str, Any], message: str) -> None:
    assert message in fault_of(edited(**changes))


def test_neurons_and_layers_in_a_file_of_version_1() -> None:
    found = fault_of(edited(version=1))
    assert "unknown key 'layers'" in found
    assert "keep names encoder-ffn.0, of which only plans of version 2 speak" in found


@pytest.mark.parametrize(
    ("neurons", "message"),
    [
        ({}, "base.neurons is {}, not an object with numbers of neurons by kind"),
        ({"encoder": [8]}, "unknown key 'base.neurons.encoder'"),
        ({"encoder-ffn": [8, -1]}, "base.neurons.encoder-ffn is [8, -1]: a number of neurons is an integer from 0 to"),
        ({"decoder-ffn": "6"}, 'base.neurons.decoder-ffn is "6", not a list of numbers of neurons'),
    ],
)
def test_faults_of_widths(neurons: dict[str, Any], message: str) -> None:
    assert message in fault_of(edited(base={**json.loads(TEXT)["base"], "neurons": neurons}))


def test_a_stack_keeps_a_layer() -> None:
    layers = GroupId("decoder-layers")
    with pytest.raises(PlanError, match="^plan: decoder-layers: no layer of the decoder would be left$"):
        Plan.removing(BASE, [UnitId(layers, number) for number in range(3)])
    with pytest.raises(PlanError) as caught:
        Plan.removing(BASE, [UnitId(layers, 3), UnitId(GroupId("encoder-ffn", 1), 8), UnitId(GroupId("cross", 0), 2)])
    assert str(caught.value) == (
        "plan: the base has no head cross.0.2; the base has no neuron encoder-ffn.1.8; "
        "the base has no layer decoder-layers.3"
    )


def test_plans_for_other_widths_are_refused() -> None:
    other = Base.of("fairseq", SHA, ARCHITECTURE.with_units({GroupId("decoder-ffn", 1): 5}))
    with pytest.raises(PlanError) as caught:
        PLAN.check(other)
    assert str(caught.value) == (
        "plan: made for another model: decoder-ffn neurons of the model are [6, 5, 6], of the plan's base [6, 6, 6]"
    )
    # A plan of version 1 says nothing of neurons, which all stay.
    Plan.from_json(Plan.keep_all(BASE).to_json()).check(other)


# Ranges


@given(st.sets(st.integers(0, 300)))
def test_ranges_are_read_as_they_are_written(numbers: set[int]) -> None:
    text = ranges.as_ranges(sorted(numbers))
    assert ranges.numbers_in(text) == (tuple(sorted(numbers)), [])
    parts = text.split(",") if text else []
    assert len(parts) == sum(number - 1 not in numbers for number in numbers)


@pytest.mark.parametrize(
    ("text", "numbers", "faults"),
    [
        ("5-9,1-3", range(5, 10), ["'1-3' is out of order"]),
        ("5-9,7", range(5, 10), ["'7' overlaps a part before it"]),
        ("5-9,3-6", range(5, 10), ["'3-6' overlaps a part before it"]),
        ("9-5", [], ["'9-5' runs backwards"]),
        ("1,,2", [1, 2], ["'' is no number and no range such as 0-99"]),
        ("01", [], ["'01' is no number and no range such as 0-99"]),
        ("٣", [], ["'٣' is no number and no range such as 0-99"]),
        ("-1", [], ["'-1' is no number and no range such as 0-99"]),
        ("0-999999999", [], ["'0-999999999' is beyond every feed-forward layer"]),
        (" 1", [], ["' 1' is no number and no range such as 0-99"]),
    ],
)
def test_faults_of_ranges(text: str, numbers: Sequence[int], faults: list[str]) -> None:
    assert ranges.numbers_in(text) == (tuple(numbers), faults)


# Lineage


@given(plans(), st.data())
def test_lineages_compose_over_all_groups(first: Plan, data: st.DataObject) -> None:
    second = data.draw(plans_of(model_after(first)))
    lineage = Lineage.start(first.base).after(first)
    both = lineage.after(second)
    assert both.root == first.base
    for stack in STACKS:
        layers = GroupId.layers_of(stack)
        if layers not in first.base.units:
            continue
        there, numbers = first.kept(layers), second.base.units[layers]
        assert both.layers(stack) == tuple(there[numbers.index(n)] for n in second.kept(layers))
    left = model_after(second)
    for id, numbers in left.units.items():
        if id.kind in LAYER_KINDS:
            continue
        middle = Lineage.start(second.base).after(second).in_root(id)
        root = lineage.in_root(middle)
        assert both.in_root(id) == root and both.present(root) == id and both.has(root)
        assert both.units(id) == tuple(first.kept(root)[n] for n in second.kept(middle))
        assert len(both.units(id)) == len(numbers)
    assert Lineage.from_json(both.to_json()) == both
    assert both.after(Plan.keep_all(left)) == both


@given(plans())
def test_the_units_that_a_plan_keeps_are_those_of_the_lineage(plan: Plan) -> None:
    lineage = Lineage.start(plan.base).after(plan)
    assert lineage.keep == plan.keep
    assert {id for id in plan.base.units if not lineage.has(id)} == {
        id for id in plan.base.units
        if id.kind not in LAYER_KINDS and id.layer not in plan.kept(GroupId.layers_of(id.stack))
    }  # fmt: skip


@given(plans(), st.data())
def test_a_root_without_recorded_neurons_gains_them(plan: Plan, data: st.DataObject) -> None:
    """Files that an older version cut have a lineage of heads alone."""
    base = plan.base
    assume(base.neurons)
    heads = Plan.of(base, {id: plan.kept(id) for id in base.modules})
    # What neither heads nor neurons are known of cannot be told apart from what is not there.
    assume({id.stack for id in base.modules} == {id.stack for id in base.units})
    bare = base.without_neurons()
    cut = Lineage.start(bare).after(Plan.of(bare, {id: plan.kept(id) for id in bare.modules}))
    old = Lineage.from_json(cut.to_json())
    assert not old.root.neurons
    second = data.draw(plans_of(model_after(heads)))
    assert old.after(second) == Lineage.start(base).after(heads).after(second)


def test_lineage_refuses_a_plan_of_another_width_and_damaged_ranges() -> None:
    lineage = Lineage.start(BASE).after(PLAN)
    with pytest.raises(PlanError, match="^plan: not made for the checkpoint of this lineage: .*decoder-ffn neurons of"):
        lineage.after(PLAN)
    with pytest.raises(CheckpointError) as caught:
        Lineage.from_json(lineage.to_json().replace('"0-2,5,7"', '"0-2,1,8"'), "model.pt")
    assert str(caught.value) == (
        "model.pt: encoder-ffn.0: '1' overlaps a part before it; "
        "encoder-ffn.0: no neuron 8 in the base, which has neurons 0 to 7"
    )


def test_what_is_left_without_some_layers_keeps_its_numbers() -> None:
    left = BASE.with_layers({"decoder": (0, 2)})
    assert left.layers == {"decoder": (0, 2), "cross": (0, 2), "decoder-ffn": (0, 2)}
    assert list(map(str, left.units)) == [
        "encoder.0", "encoder.1", "decoder.0", "decoder.2", "cross.0", "cross.2", "encoder-ffn.0", "encoder-ffn.1",
        "decoder-ffn.0", "decoder-ffn.2", "encoder-layers", "decoder-layers",
    ]  # fmt: skip
    assert BASE.with_layers({}) == BASE
