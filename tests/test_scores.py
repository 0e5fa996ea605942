"""The score file: format, faults, fit to a model."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import Architecture, AttentionModule, GroupId, Neurons, UnitId
from nmtprune.errors import DataError
from nmtprune.plan import Base
from nmtprune.scores import HeadScore, HeldOut, Scores, refuse_mix

TEXT = """{"format": "nmtprune-scores", "version": 1,
 "metric": "bleu", "mode": "ablate",
 "baseline": {"bleu": 38.32, "signature": "nrefs:1"},
 "heads": [
  {"head": "encoder.0.1", "score": -0.1, "delta": 0.1, "ci": [-0.2, 0.4], "p": 0.5, "p_sacrebleu": 0.2},
  {"head": "cross.0.0", "score": 1.5}
 ],
 "provenance": {"seed": 0}}
"""
SCORES = Scores(
    metric="bleu",
    mode="ablate",
    baseline={"bleu": 38.32, "signature": "nrefs:1"},
    heads=(
        HeadScore(head="cross.0.0", score=1.5),
        HeadScore(head="encoder.0.1", score=-0.1, delta=0.1, ci=(-0.2, 0.4), p=0.5, p_sacrebleu=0.2),
    ),
    provenance={"seed": 0},
)
BASE = Base(format="fairseq", sha256="a" * 64, heads={"encoder": (2,), "decoder": (), "cross": (1,)})
ARCHITECTURE = Architecture((AttentionModule(GroupId("encoder", 0), 2, 4), AttentionModule(GroupId("cross", 0), 1, 4)))


def edited(**changes: Any) -> str:
    return json.dumps({**json.loads(TEXT), **changes})


def test_text() -> None:
    assert SCORES.to_json() == TEXT
    assert Scores.from_json(TEXT) == SCORES


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), st.sampled_from([None, BASE])
)
def test_round_trip_in_full_precision(values: list[float], base: Base | None) -> None:
    heads = tuple(HeadScore(head=f"decoder.{layer}.0", score=value) for layer, value in enumerate(values))
    scores = Scores(metric="loss", mode="all-but-one", baseline={}, heads=heads, base=base)
    again = Scores.from_json(scores.to_json())
    assert again == scores
    assert [entry.score.hex() for entry in again.heads] == [value.hex() for value in values]


def test_file(tmp_path: Path) -> None:
    SCORES.write(tmp_path / "scores.json")
    assert (tmp_path / "scores.json").read_text() == TEXT
    assert Scores.read(tmp_path / "scores.json") == SCORES
    with pytest.raises(DataError) as caught:
        Scores.read(tmp_path / "none.json")
    assert str(caught.value) == f"{tmp_path}/none.json: cannot be read: No such file or directory"


UNITS = """{"format": "nmtprune-scores", "version": 2,
 "metric": "importance", "mode": "ablate",
 "base": {"format": "fairseq", "sha256": "HASH", "heads": {"encoder": [2], "decoder": [], "cross": [1]}, "neurons": \
{"encoder-ffn": [3]}},
 "baseline": {"sentences": 7},
 "units": {
  "encoder.0": {"units": "0-1", "score": [1.5, 0.25]},
  "encoder-ffn.0": {"units": "0-2", "score": [0.1, -0.0, 3.0], "details": {"diagonal": [1.0, 2.0, 0.5]}},
  "decoder-layers": {"units": "0,2", "score": [1.0, 2.0], "delta": [-1.0, -2.0], "ci": [[-2.0, 0.0], [-3.0, -1.0]], \
"p": [0.5, 0.001], "p_corrected": [0.5, 0.002]}
 },
 "provenance": {"seed": 0}}
""".replace("HASH", "a" * 64)


def test_units_of_groups(tmp_path: Path) -> None:
    scores = Scores.from_json(UNITS)
    assert scores.to_json() == UNITS
    assert scores.sorts == ("heads", "neurons", "layers") and scores.heads == ()
    assert scores.scores_by_head() == {UnitId.parse("encoder.0.0"): 1.5, UnitId.parse("encoder.0.1"): 0.25}
    layer = UnitId(GroupId.layers_of("decoder"), 2)
    assert scores.scores_by_unit()[layer] == 2.0 and len(scores.scores_by_unit()) == 7
    by_id = {entry.id: entry for entry in scores.entries}
    assert list(by_id) == sorted(scores.scores_by_unit())
    assert (by_id[layer].ci, by_id[layer].p_corrected, by_id[layer].p_sacrebleu) == ((-3.0, -1.0), 0.002, None)
    assert by_id[UnitId(GroupId("encoder-ffn", 0), 2)].details == {"diagonal": 0.5}
    facts = {"metric": "importance", "mode": "ablate", "baseline": {"sentences": 7}, "base": scores.base}
    again = Scores.of(scores.entries, **facts, provenance={"seed": 0})
    assert again == scores and again.to_json() == UNITS
    only_heads = [entry for entry in scores.entries if entry.id.group.sort == "heads"]
    first = Scores.of(only_heads, **facts)
    assert first.version == 1 and '"neurons"' not in first.to_json()
    first.write(tmp_path / "heads.json")
    assert Scores.read(tmp_path / "heads.json") == first


def test_a_group_of_a_number_that_no_model_has() -> None:
    text = json.loads(UNITS) | {"units": {"encoder." + "9" * 5000: {"units": "0", "score": [1.0]}}}
    with pytest.raises(DataError, match="units: 'encoder.9+' names no attention module"):
        Scores.from_json(json.dumps(text), "s.json")


def test_every_fault_of_units_is_named_at_once() -> None:
    text = json.loads(UNITS)
    text["mode"] = "all-but-one"
    text["heads"] = []
    text["units"] = {
        "encoder.0": {"units": "0-1", "score": [1.5]},
        "encoder": {"units": "0", "score": [1]},
        "encoder-ffn.0": {"units": "3-1", "score": []},
        "encoder-ffn.1": {"units": "0-7", "score": [None] * 8, "p": [2, *[0.5] * 7], "ci": [[1, 0], *[[0, 1]] * 7]},
        "decoder-layers": 7,
        "cross.0": {"units": 3, "score": [1], "note": 1},
        "cross.1": {"units": "0", "score": 1, "details": {"x": ["y"]}},
        "cross.2": {"units": "0", "score": [1], "details": 3},
    }
    with pytest.raises(DataError) as caught:
        Scores.from_json(json.dumps(text), "s.json")
    assert caught.value.faults == (
        "unknown key 'heads'",
        'mode is "all-but-one", not ablate',
        "units.encoder.0.score has 1 entries for 2 units",
        "units: 'encoder' names no attention module, feed-forward layer or stack: write KIND.LAYER, for example "
        "cross.5, encoder-ffn.0 or decoder-layers",
        "units.encoder-ffn.0.units: '3-1' runs backwards",
        *(f"units.encoder-ffn.1.score[{place}] is null, not a finite number" for place in range(5)),
        "units.encoder-ffn.1.score: 3 more like this",
        "units.encoder-ffn.1.ci[0] is [1, 0], not a list of two numbers in ascending order",
        "units.encoder-ffn.1.p[0] is 2, not a number from 0 to 1",
        "units.decoder-layers is 7, not an object",
        "unknown key 'units.cross.0.note'",
        "units.cross.0.units is 3, not numbers as ranges such as 0-255",
        "units.cross.1.score is 1, not a list of 1 numbers",
        'units.cross.1.details.x[0] is "y", not a finite number',
        "units.cross.2.details is 3, not an object",
    )
    for instead, fault in (({}, "units is {}, not an object of scored groups"), ([1], "units is [1], not an object")):
        with pytest.raises(DataError, match=re.escape(fault)):
            Scores.from_json(json.dumps({**json.loads(UNITS), "units": instead}))


def test_units_are_checked_against_a_model() -> None:
    architecture = Architecture(
        (
            *ARCHITECTURE.modules,
            AttentionModule(GroupId("decoder", 0), 0, 4),
            AttentionModule(GroupId("decoder", 2), 0, 4),
        ),
        (Neurons(GroupId("encoder-ffn", 0), 3), Neurons(GroupId("decoder-ffn", 0), 1)),
    )
    scores = Scores.from_json(UNITS)
    scores.check(architecture, ["encoder", "encoder-ffn", "decoder-layers"])
    with pytest.raises(DataError) as caught:
        scores.check(architecture, ["cross", "decoder-ffn"])
    assert str(caught.value) == (
        "scores: made for another model or other kinds: no score for cross.0.0, decoder-ffn.0.0 (select the kinds that "
        "were scored)"
    )
    fewer = Architecture(architecture.modules, (Neurons(GroupId("encoder-ffn", 0), 2),))
    with pytest.raises(DataError, match="the model has no neuron encoder-ffn.0.2$"):
        scores.check(fewer, [])


def test_files_of_many_neurons_are_small_and_fast() -> None:
    entries = [
        HeadScore(head=f"encoder-ffn.{layer}.{neuron}", score=neuron / 7)
        for layer in range(12)
        for neuron in range(2048)
    ]
    begin = time.process_time()
    text = Scores.of(entries, metric="variance", mode="ablate", baseline={}).to_json()
    assert len(text) < 24 * len(entries)
    scores = Scores.from_json(text)
    assert len(scores.scores_by_unit()) == len(entries) == 24576
    assert time.process_time() - begin < 5


def test_scores_by_head() -> None:
    assert SCORES.scores_by_head() == {UnitId.parse("encoder.0.1"): -0.1, UnitId.parse("cross.0.0"): 1.5}


def test_further_numbers_of_heads(tmp_path: Path) -> None:
    head = HeadScore(head="encoder.0.1", score=3, details={"diagonal": 0.25})
    scores = Scores(metric="fisher", mode="ablate", baseline={}, heads=(head,))
    text = scores.to_json()
    assert '{"head": "encoder.0.1", "score": 3.0, "details": {"diagonal": 0.25}}' in text
    assert Scores.from_json(text) == scores
    with pytest.raises(DataError, match=r"encoder.0.1: details.diagonal is \"x\", not a finite number"):
        Scores.from_json(text.replace("0.25", '"x"'))
    with pytest.raises(DataError, match="encoder.0.1: details is 7, not an object"):
        Scores.from_json(text.replace('{"diagonal": 0.25}', "7"))


def test_all_faults_are_named_at_once() -> None:
    text = edited(
        version=3,
        metric="",
        mode="both",
        baseline=1,
        extra={},
        heads=[
            {"head": "encoder.0.1", "score": True, "p": 1.5, "ci": [2, 1]},
            {"head": "encoder.0", "score": 1},
            {"head": "encoder.0.1", "score": 1, "delta": None, "note": ""},
            {"score": "1"},
            7,
        ],
    )
    with pytest.raises(DataError) as caught:
        Scores.from_json(text, "s.json")
    assert str(caught.value) == (
        "s.json: unknown key 'extra'; version is 3, this nmtprune reads versions 1 and 2; metric is \"\", not a name; "
        'mode is "both", not one of ablate, all-but-one; baseline is 1, not an object; '
        "encoder.0.1: score is true, not a finite number; encoder.0.1: p is 1.5, not a number from 0 to 1; "
        "encoder.0.1: ci is [2, 1], not a list of two numbers in ascending order; "
        'heads[1].head is "encoder.0", not the name of a head (KIND.LAYER.HEAD); '
        "unknown key 'encoder.0.1.note'; encoder.0.1: delta is null, not a finite number; encoder.0.1 is scored twice; "
        "key 'heads[3].head' is missing; heads[3]: score is \"1\", not a finite number; heads[4] is 7, not an object"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "key 'metric' is missing; key 'mode' is missing; key 'baseline' is missing; key 'heads' is missing; "
         "key 'format' is missing; key 'version' is missing; key 'provenance' is missing"),
        ("3", "is 3, not a score file (a JSON object)"),
        ("{", "broken JSON at line 1 column 2: Expecting property name enclosed in double quotes"),
        (edited(heads=[]), "heads is [], not a list of scored heads"),
        (edited(format="nmtprune-plan"), 'format is "nmtprune-plan", not "nmtprune-scores"'),
        (edited(version=True), "version is true, this nmtprune reads versions 1 and 2"),
        (edited(base=None), "base is null, not an object"),
        (edited(base={"format": "fairseq", "sha256": "b" * 64, "heads": {"encoder": [], "decoder": []}}),
         "key 'base.heads.cross' is missing"),
        (TEXT.replace("1.5", "NaN"), "NaN is no finite number"),
        (TEXT.replace("1.5", "1e400"), "1e400 is no finite number"),
        (TEXT.replace("1.5", "1" + "0" * 400), "cross.0.0: score is 1" + "0" * 56 + "..., not a finite number"),
    ],
)  # fmt: skip
def test_faults(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Scores.from_json(text, "s.json")
    assert str(caught.value) == f"s.json: {message}"


def test_check_against_a_model() -> None:
    SCORES.check(ARCHITECTURE, ["cross"])
    with pytest.raises(DataError) as caught:
        SCORES.check(ARCHITECTURE, where="s.json")
    assert str(caught.value) == (
        "s.json: made for another model or other kinds: no score for encoder.0.0 (select the kinds that were scored)"
    )
    with pytest.raises(DataError) as caught:
        SCORES.check(Architecture((AttentionModule(GroupId("encoder", 0), 1, 4),)), ["encoder"])
    assert str(caught.value) == (
        "scores: made for another model or other kinds: the model has no head encoder.0.1, cross.0.0; no score for "
        "encoder.0.0 (select the kinds that were scored)"
    )


def test_construction_in_code_is_checked_too() -> None:
    with pytest.raises(DataError, match=r"^scores: encoder\.0\.1 is scored twice$"):
        Scores(metric="bleu", mode="ablate", baseline={}, heads=(SCORES.heads[0],) * 2)
    with pytest.raises(DataError, match=r"^scores: cross\.0\.0: score is NaN, not a finite number$"):
        entry = HeadScore(head="cross.0.0", score=float("nan"))
        Scores(metric="bleu", mode="ablate", baseline={}, heads=(entry,))


def test_modes_do_not_mix() -> None:
    other = SCORES.model_copy(update={"mode": "all-but-one"})
    refuse_mix((SCORES, SCORES), ("a.json", "b.json"))
    refuse_mix((other, other), ("a.json", "b.json"))
    with pytest.raises(DataError) as caught:
        refuse_mix((SCORES, other), ("a.json", "b.json"))
    assert str(caught.value) == (
        "scores of different modes do not compare: a.json is of mode ablate, b.json is of mode all-but-one"
    )


def test_scores_on_test_data() -> None:
    test = HeldOut(baseline={"value": 37.5}, heads=(HeadScore(head="encoder.0.1", score=0.25, delta=0.25),))
    scores = SCORES.model_copy(update={"test": test})
    text = scores.to_json()
    assert Scores.from_json(text) == scores
    assert json.loads(text)["test"] == {
        "baseline": {"value": 37.5},
        "heads": [{"head": "encoder.0.1", "score": 0.25, "delta": 0.25}],
    }
    wrong = {"baseline": 1, "heads": [{"head": "encoder.0.1"}], "more": 2}
    with pytest.raises(DataError) as caught:
        Scores.from_json(edited(test=wrong), "a.json")
    assert str(caught.value) == (
        "a.json: unknown key 'test.more'; test.baseline is 1, not an object; key 'encoder.0.1.score' is missing"
    )
    with pytest.raises(DataError, match="^a.json: test is null, not an object$"):
        Scores.from_json(edited(test=None), "a.json")
