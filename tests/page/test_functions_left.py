"""Functions of the heads that stay: the figure and its tables count what plans and `functions` files say."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from nmtprune.architecture import KINDS
from nmtprune.page.build import html
from nmtprune.page.inputs import read_sources
from nmtprune.plan import Base, Plan
from nmtprune.runs.functions_file import FUNCTIONS_OF_KIND, FunctionsFile, HeadOf
from tests.support.bases import base_of
from tests.support.pages import Page, well_made

SHA = "b" * 64
MARKUP = "<b>x</b></script>"
FACTS: dict[str, Any] = {
    "metric": "bleu", "data": "valid", "languages": None, "sentences": 500, "left_out": 0, "post_process": None,
    "tokenizer": None, "engine": "native", "search": {}, "signature": "x", "provenance": {},
}  # fmt: skip


def functions_of(base: Base, kinds: tuple[str, ...] = KINDS, path: str = "m.pt") -> FunctionsFile:
    """Random functions, of some heads none and of some several."""
    rng = random.Random(3)
    heads = tuple(
        HeadOf(
            head=str(head),
            functions=tuple(name for name in FUNCTIONS_OF_KIND[head.group.kind] if rng.random() < 0.4),
            positional=None, rare=None, rare_p_corrected=None, outside=0.0,
        )
        for head in Plan.keep_all(base).kept_ids(kinds)
    )  # fmt: skip
    return FunctionsFile(
        format="nmtprune-functions", version=1, data={"data": MARKUP, "sentences": 40}, frequencies="sentences",
        measured=("positional", "rare", "syntactic", "alignment"), criteria={}, base=base, heads=heads,
        provenance={"checkpoint": path},
    )  # fmt: skip


def curve_of(folder: Path, base: Base, name: str, removed: tuple[int, ...], *, seed: int = 1) -> dict[str, Any]:
    """A curve of `greedy` with its plans in a run folder."""
    heads = list(Plan.keep_all(base).kept_ids())
    random.Random(seed).shuffle(heads)
    steps = []
    for number in removed:
        path = f"plans/{name}/{number:03}.json"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Plan.removing(base, heads[:number]).write(folder / path, force=True)
        steps.append({"removed": number, "kept": len(heads) - number, "bleu": 30.0, "ci": [29.0, 31.0], "p": 1.0,
                      "relative": 1.0, "within_max_drop": True, "plan": path})  # fmt: skip
    return {"name": name, "checkpoint": "m.pt", "order": name, "sample": None, "kinds": [*KINDS], "steps": steps}


def written(folder: Path, *curves: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    content = {"format": "nmtprune-curve", "version": 1, **FACTS, "heads": 24, "curves": curves, "means": []}
    content["provenance"] = {"checkpoints": [{"path": "m.pt", "sha256": base_of().sha256}]}
    (folder / "curve.json").write_text(json.dumps(content))
    return folder


def page_of(*paths: Path) -> Page:
    return well_made(html(read_sources(paths), None))


def counted(found: FunctionsFile, plan: Plan, kind: str) -> list[int]:
    """All heads that a plan keeps, those of a kind, and of these those with each function, several and none."""
    own = {head.id: head.functions for head in found.heads}
    left = [own[head] for head in plan.kept_ids() if head.group.kind == kind]
    names = [name for name in ("positional", "syntactic", "alignment", "rare") if name in FUNCTIONS_OF_KIND[kind]]
    of_each = [sum(name in functions for functions in left) for name in names]
    several = sum(len(functions) > 1 for functions in left)
    return [len(plan.kept_ids()), len(left), *of_each, several, left.count(())]


def tables(found: Page) -> list[list[list[str]]]:
    return [rows for headings, rows in found.tables if "none found" in headings]


def test_every_plan_of_every_order_is_counted(tmp_path: Path) -> None:
    base, run = base_of(), tmp_path / "run"
    found = functions_of(base)
    (tmp_path / "functions.json").write_text(found.to_json())
    total = len(Plan.keep_all(base).kept_ids())
    written(run, curve_of(run, base, "importance", (0, 3, total)), curve_of(run, base, "fisher", (0, 5), seed=2))
    page = page_of(tmp_path / "functions.json", run)
    assert "of different models" not in page.text and MARKUP in page.text and not {"b"} & {n for n, _ in page.elements}
    for kind, rows in zip(KINDS, tables(page), strict=True):
        assert [(row[0], row[-1]) for row in rows] == [
            ("importance", "full model"), ("importance", "plans/importance/003.json"),
            ("importance", f"plans/importance/{total:03}.json"), ("fisher", "full model"),
            ("fisher", "plans/fisher/005.json"),
        ]  # fmt: skip
        for row in rows:
            plan = Plan.keep_all(base) if row[-1] == "full model" else Plan.read(run / row[-1])
            assert list(map(int, row[1:-1])) == counted(found, plan, kind)
    drawn = [attributes["aria-label"] or "" for name, attributes in page.elements if name == "svg"]
    assert sum("heads by function" in label for label in drawn) == 2 * len(KINDS)
    assert any("0 heads left: none of this kind" in label for label in drawn)
    assert "functions of heads were measured on 40 sentences" in page.text


def test_columns_are_as_high_as_the_heads_that_are_left(tmp_path: Path) -> None:
    base, run = base_of(), tmp_path / "run"
    (tmp_path / "functions.json").write_text(functions_of(base).to_json())
    written(run, curve_of(run, base, "random-1", (0, 4, 8)))
    page = page_of(tmp_path / "functions.json", run)
    stripes = [own for name, own in page.elements if name == "rect" and "part" in (own["class"] or "")]
    area = sum(float(own["width"] or 0) * float(own["height"] or 0) for own in stripes)
    kept = [len(Plan.read(path).kept_ids()) for path in run.glob("plans/*/*.json")]
    # Columns are 22 pixels wide, and each kind has 8 heads on an axis of 180 pixels.
    assert area == pytest.approx(22 * 180 / 8 * sum(kept), rel=1e-3)


def test_plans_that_are_gone_and_files_of_other_models(tmp_path: Path) -> None:
    base, run = base_of(), tmp_path / "run"
    (tmp_path / "functions.json").write_text(functions_of(base, ("encoder",)).to_json())
    other = Base.model_validate(base.as_json() | {"sha256": SHA})
    (tmp_path / "other.json").write_text(functions_of(other, path="o.pt").to_json())
    written(run, curve_of(run, base, "importance", (0, 3, 5)))
    (run / "plans/importance/003.json").unlink()
    page = page_of(tmp_path / "functions.json", run, tmp_path / "other.json")
    assert "The files are of 2 different models" in page.text
    assert "Not there any more: 1 plans of importance" in page.text
    assert "No plan among these files is for this model" in page.text
    # Of the first model the encoder alone was examined; of the other one there is only the full model to count.
    assert [[row[-1] for row in rows] for rows in tables(page)] == [
        ["full model", "plans/importance/005.json"], *[["full model"]] * 3,
    ]  # fmt: skip


def test_lambdas_iterations_and_single_plans(tmp_path: Path) -> None:
    base, heads = base_of(), list(Plan.keep_all(base_of()).kept_ids())
    (tmp_path / "functions.json").write_text(functions_of(base).to_json())
    gates, lottery = tmp_path / "gates", tmp_path / "lottery"
    runs = []
    for weight, gone in ((0.1, 2), (0.2, 6)):
        folder = gates / f"l0-weight-{weight:g}"
        folder.mkdir(parents=True)
        Plan.removing(base, heads[:gone]).write(folder / "plan.json")
        name = f"l0-weight-{weight:g}"
        runs.append({"l0_weight": weight, "folder": f"/moved/{name}", "checkpoint": "x.pt",
                     "kept": len(heads) - gone, "kept_per_kind": {"encoder": 1}, "gated": {"bleu": 29.5},
                     "slim": {"parameters": 900, "bleu": 29.0}, "delta": -1.0, "ci": [-1.5, -0.5],
                     "p": 0.01})  # fmt: skip
    made = {"provenance": {"checkpoint": {"path": "m.pt", "sha256": base.sha256}}}
    (gates / "l0.json").write_text(json.dumps({
        "format": "nmtprune-l0", "version": 1, **FACTS, **made,
        "unpruned": {"heads": len(heads), "parameters": 1000, "bleu": 30.0}, "runs": runs,
    }))  # fmt: skip
    (lottery / "iterations/iteration-01").mkdir(parents=True)
    Plan.removing(base, heads[:4]).write(lottery / "iterations/iteration-01/plan.json")
    (lottery / "lottery.json").write_text(json.dumps({
        "format": "nmtprune-lottery", "version": 1, **FACTS, **made, "heads": len(heads), "file_bytes": {},
        "iterations": [{"iteration": 1, "trained_heads": len(heads), "validation": 3.5, "removed": 4,
                        "kept": len(heads) - 4, "kept_per_layer": {}, "folder": "iterations/iteration-01"}],
        "converged": [], "words_per_second": {}, "times": {},
    }))  # fmt: skip
    Plan.removing(base, heads[:1]).write(tmp_path / "plan.json")
    page = page_of(tmp_path / "functions.json", gates, lottery, tmp_path / "plan.json")
    for rows in tables(page):
        assert [(row[0], int(row[1])) for row in rows] == [
            (str(gates), len(heads)), (str(gates), len(heads) - 2), (str(gates), len(heads) - 6),
            (str(lottery), len(heads)), (str(lottery), len(heads) - 4),
            ("single plans and checkpoints", len(heads)), ("single plans and checkpoints", len(heads) - 1),
        ]  # fmt: skip


def test_a_thousand_plans_have_a_table_and_few_columns(tmp_path: Path) -> None:
    base, run = base_of(heads=(16,) * 6), tmp_path / "run"
    (tmp_path / "functions.json").write_text(functions_of(base).to_json())
    total = len(Plan.keep_all(base).kept_ids())
    curves = [curve_of(run, base, f"random-{number}", tuple(range(0, total, 6))) for number in range(1, 4)]
    written(run, *curves)
    page = page_of(tmp_path / "functions.json", run)
    assert all(len(rows) == 3 * (total // 6) for rows in tables(page))
    assert "16 plans of each series, evenly spaced" in page.text
