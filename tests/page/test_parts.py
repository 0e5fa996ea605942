"""The parts of the page: which files are of one model, marked words, round numbers, a thousand rows."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import KINDS
from nmtprune.errors import DataError
from nmtprune.page import numbers
from nmtprune.page.build import html
from nmtprune.page.claims import Claim, PrunedModel, QualityChange
from nmtprune.page.identity import Reference, changed_paths, same_model
from nmtprune.page.inputs import Source, read_sources
from nmtprune.page.lead import sentence
from nmtprune.page.styles import with_styled_drawings
from nmtprune.page.svg import ticks
from nmtprune.page.translations import is_loop, marked
from nmtprune.plan import Plan
from nmtprune.runs.report import CurveFile, L0File, LotteryFile
from nmtprune.scores import HeadScore, Scores
from tests.support.bases import base_of
from tests.support.pages import well_made

A, B = "a" * 64, "b" * 64
MARKUP = "</script><b>x</b>"


@pytest.mark.parametrize(
    ("metric", "change", "said"),
    [
        ("bleu", -1.5, "loses 1.50 BLEU"), ("bleu", 0.001, "translates as well as the full one (BLEU)"),
        ("accuracy", -1.5, "loses 1.50 points of accuracy"), ("f1", 0.5, "gains 0.50 points of F1"),
        ("accuracy", 0.0, "gives labels as well as the full one (accuracy)"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_metric_measures(metric: str, change: float, said: str) -> None:
    quality = QualityChange(metric, 50 + change, 50, change, None, None, "valid", 100, "curve.json")
    beyond = "" if said.endswith(")") else " (not tested)"
    assert sentence(PrunedModel((Claim((), "m", 1, quality=quality),))) == f"The pruned model {said}{beyond}."


def test_checksums_join_and_paths_only_where_nothing_contradicts() -> None:
    same = [[Reference("m.pt", file=A)], [Reference(tensors=B)], [Reference("./m.pt")], [Reference("x.pt", file=A)]]
    assert same_model(same) == [0, 1, 0, 0]
    assert same_model([[Reference("m.pt", tensors=A)], [Reference("m.pt", tensors=B)], [Reference("m.pt")]]) == [
        0,
        1,
        2,
    ]
    assert changed_paths([Reference("m.pt", tensors=A), Reference("./m.pt", tensors=B)]) == ["m.pt"]
    # A checksum of the file and one of the tensors do not contradict each other.
    assert changed_paths([Reference("m.pt", tensors=A), Reference("m.pt", file=B)]) == []


@given(st.text(alphabet="ab ", max_size=30), st.text(alphabet="ab ", max_size=30))
def test_marked_words_are_those_of_the_sentence(before: str, after: str) -> None:
    for own, runs in zip((before, after), marked(before, after), strict=True):
        assert " ".join(text for text, _ in runs) == " ".join(own.split())
    old, new = marked(before, after)
    assert [text for text, changed in old if not changed] == [text for text, changed in new if not changed]


@pytest.mark.parametrize(
    ("text", "loops"),
    [("a a a a", True), ("a a a", False), ("x a b a b a b a b", True), ("a b a b a b", False), ("", False)],
)
def test_loops(text: str, loops: bool) -> None:
    assert is_loop(text) == loops


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_enclose_what_is_shown(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert found[0] <= low + 1e-6 * max(1, abs(low)) and found[-1] >= high - 1e-6 * max(1, abs(high))
    assert 2 <= len(found) <= 8 and found == sorted({*found})


def _page(*contents: Any) -> str:
    return html([Source(f"file-{number}.json", "file", A, content) for number, content in enumerate(contents)], None)


def test_a_thousand_heads() -> None:
    base = base_of(heads=(32,) * 12)
    names = [f"{module}.{head}" for module, heads in base.modules.items() for head in range(heads)]
    entries = [HeadScore(head=name, score=number / 7 - 50, delta=-1.0, ci=(-2, 0), p=0.1, p_corrected=1.0)
               for number, name in enumerate(names)]  # fmt: skip
    scores = Scores.of(entries, metric="bleu", mode="ablate", baseline={}, base=base)
    found = well_made(_page(scores, Plan.keep_all(base)))
    rows = found.table("unit")
    assert len(rows) == len(names) >= 1000 and {row[1] for row in rows} >= {"encoder self-attention"}


def test_no_p_value_is_zero() -> None:
    base = base_of()
    entries = [HeadScore(head=f"{module}.{head}", score=1.5, delta=-1.5, ci=(-2, -1), p=0.0001, p_corrected=0.012)
               for module, heads in base.modules.items() for head in range(heads)]  # fmt: skip
    scores = Scores.of(entries, metric="bleu", mode="ablate", baseline={}, base=base)
    rows = well_made(_page(scores)).table("unit")
    assert len(rows) == len(entries) and all(row[-2:] == ["< 0.001", "0.012"] for row in rows)


def test_plans_of_neurons_and_layers() -> None:
    base = base_of()
    every = [unit for unit in Plan.keep_all(base).kept_ids(("encoder-ffn", "decoder-layers"))]
    plan = Plan.removing(base, [unit for unit in every if unit.number == 1])
    found = well_made(_page(plan))
    assert "1 of 4 layers" in found.text and "encoder neurons" in found.text
    assert {row[0] for row in found.table("left in each layer")} >= {"encoder neurons", "decoder layers"}


FACTS: dict[str, Any] = {
    "metric": "bleu", "data": "valid", "languages": None, "sentences": 500, "left_out": 0, "post_process": None,
    "tokenizer": None, "engine": "native", "search": {}, "signature": "x",
}  # fmt: skip


def test_lambdas_and_tickets() -> None:
    gates = L0File.model_validate({
        "format": "nmtprune-l0", "version": 1, **FACTS, "unpruned": {"heads": 12, "parameters": 1000, "bleu": 30.0},
        "runs": [
            {"l0_weight": weight, "folder": f"l0-weight-{weight}", "checkpoint": "x.pt", "kept": kept,
             "kept_per_kind": {"encoder": kept, "decoder": 0, "cross": 0}, "gated": {"bleu": 29.5},
             "slim": {"parameters": 900, "bleu": 29.0}, "delta": -1.0, "ci": [-1.5, -0.5], "p": 0.01}
            for weight, kept in ((0.1, 6), (0.2, 3))
        ],
        "provenance": {"command": ["nmtprune", "l0"], "checkpoint": {"path": "m.pt", "sha256": B}},
    })  # fmt: skip
    ticket = {"iteration": 1, "variant": "lottery", "removed": 6, "sparsity": 0.5, "kept_per_layer": {"encoder": [6]},
              "parameters": 900, "updates": 5, "last_update": 5, "validation": 3.0, "bleu": 29.0}  # fmt: skip
    whole = {
        **ticket,
        "model": "whole.pt",
        "iteration": 0,
        "removed": 0,
        "sparsity": 0.0,
        "parameters": 1000,
        "bleu": 30.0,
    }
    lottery = LotteryFile.model_validate({
        "format": "nmtprune-lottery", "version": 1, **FACTS, "heads": 12, "file_bytes": {}, "words_per_second": {},
        "iterations": [{"iteration": 1, "trained_heads": 12, "validation": 3.5, "removed": 6, "kept": 6,
                        "kept_per_layer": {"encoder": [6]}, "folder": "iterations/iteration-01"}],
        "converged": [whole, {**ticket, "model": "m1.pt", "delta": -1.0, "ci": [-2.0, 0.0], "p": 0.04}],
        "times": {}, "provenance": {"command": ["nmtprune", "lottery"], "late_reset": {"sha256": B}},
    })  # fmt: skip
    found = well_made(_page(gates, lottery))
    assert "The files are of" not in found.text and "The pruned model has 50 % fewer heads" in found.text
    assert [row[0] for row in found.table("lambda")] == ["0.1", "0.2"]
    assert [row[1] for row in found.table("updates")] == ["lottery", "lottery"]
    assert len(found.table("predicted")) == 3
    # A model that was not compared has no band.
    untested = LotteryFile.model_validate(lottery.as_json() | {"converged": [whole, {**ticket, "model": "m1.pt"}]})
    assert "lottery, 6: 29.00</title>" in _page(untested)


def _curve(base_sha: str = A) -> dict[str, Any]:
    steps = [
        {"removed": removed, "kept": 24 - removed, "bleu": 30.0 - removed, "ci": [29.0, 31.0], "p": 0.5,
         "relative": 1.0, "within_max_drop": True, "plan": f"plans/importance/{removed:03}.json"}
        for removed in (0, 3)
    ]  # fmt: skip
    curve = {"name": "importance", "checkpoint": "m.pt", "order": "importance", "sample": None, "kinds": [*KINDS]}
    return {
        "format": "nmtprune-curve", "version": 1, **FACTS, "heads": 24, "curves": [{**curve, "steps": steps}],
        "means": [], "provenance": {"checkpoints": [{"path": "m.pt", "sha256": base_sha}]},
    }  # fmt: skip


def _change(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = _curve()
    change(content["curves"][0])
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda curve: curve.update(steps=[]), "a curve of the order importance has no steps"),
        (lambda curve: curve["steps"][1].pop("bleu"), "there are models whose bleu is missing"),
    ],
)
def test_results_without_what_a_page_needs_are_damaged(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    with pytest.raises(DataError, match=f"curve.json: damaged: {fault}$"):
        read_sources([_change(tmp_path / "curve.json", change)])


def test_steps_may_be_of_any_size_and_their_plans_have_any_name(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b", "../curve.json", MARKUP):
        path = _change(tmp_path / "curve.json", lambda curve, name=name: curve["steps"][1].update(plan=name))
        assert name.replace("\0", "\N{REPLACEMENT CHARACTER}") in well_made(html(read_sources([path]), None)).text
    path = _change(tmp_path / "curve.json", lambda curve: curve["steps"][1].update(bleu=1e308, ci=[-1e308, 1e308]))
    assert well_made(html(read_sources([path]), None)).text


def test_one_line_stands_for_all_random_orders() -> None:
    content = _curve()
    steps = content["curves"][0].pop("steps")
    content["curves"] = [
        {**content["curves"][0], "name": name, "order": name.partition("-")[0], "sample": sample, "steps": steps}
        for name, sample in (("importance", None), ("random-1", 1), ("random-2", 2))
    ]
    mean = {"checkpoint": "m.pt", "order": "random", "kinds": [*KINDS], "samples": 2}
    content["means"] = [
        {**mean, "steps": [{"removed": 0, "bleu": 30.0, "sd": 0.0}, {"removed": 3, "bleu": 27.0, "sd": 1.5}]}
    ]
    page = _page(CurveFile.model_validate(content))
    found = well_made(page)
    assert sum(name == "polyline" for name, _ in found.elements) == 2
    assert "random, mean of 2 with standard deviation, 3: 27.00 (25.50 to 28.50)</title>" in page
    assert [row[0] for row in found.table("plan")] == ["importance"] * 2 + ["random-1"] * 2 + ["random-2"] * 2
    content["means"][0]["samples"] = 1
    assert sum(name == "polyline" for name, _ in well_made(_page(CurveFile.model_validate(content))).elements) == 3


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: is no regular file"):
        read_sources([tmp_path / "pipe"])


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (1, "100 %"), (1 / 1000, "0.1 %"), (719 / 720, "99.9 %"), (0.5, "50 %")]
)
def test_a_share_is_nothing_or_all_only_if_it_is(share: float, text: str) -> None:
    assert numbers.rough(share) == text


def test_drawings_have_their_colours_for_programs_that_know_no_variables() -> None:
    """Every mark of a drawing has a rule, every rule a colour, and a removed head does not look like one that stays."""
    base = base_of()
    plan = Plan.removing(base, Plan.keep_all(base).kept_ids(KINDS)[:3])
    page = _page(plan, CurveFile.model_validate(_curve()))
    found = with_styled_drawings(page)
    styles = [own.partition("</style>")[0] for own in found.split("<style>")[2:]]
    assert len(styles) == page.count("<svg ") and not any("var(" in style for style in styles)
    rules = dict(re.findall(r"([^{}]+)\{([^}]*)\}", styles[0]))
    marks = {mark for name, own in well_made(page).elements if name in ("rect", "path", "line", "polyline", "polygon")
             for mark in (own["class"] or "").split()}  # fmt: skip
    assert marks and all(any(f".{mark}" in selector for selector in rules) for mark in marks)
    assert "fill: #" in rules["\nrect.kept, rect.more "] and "fill: none" in rules["\nrect.gone "]


def test_provenance_may_be_anything(tmp_path: Path) -> None:
    made = {"command": 5, "inputs": 7, "checkpoints": [1], "data": [], "versions": "<b>", "seconds": "long"}
    plan = Plan.removing(base_of(), Plan.keep_all(base_of()).kept_ids(KINDS)[:3], made)
    plan.write(tmp_path / "plan.json")
    assert well_made(html(read_sources([tmp_path / "plan.json", tmp_path / "plan.json"]), None)).text
    assert json.loads((tmp_path / "plan.json").read_text())["provenance"]["inputs"] == 7
