"""The page of results is what its committed files make, and says nothing that they do not."""

import importlib.util
import json
import re
from types import ModuleType

import pytest

from tests.support.recipes import RECIPES, ROOT


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", RECIPES / "multi30k/results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_from_the_files_of_the_run(results: ModuleType) -> None:
    assert (ROOT / "docs/results.md").read_text(encoding="utf-8") == results.text()


def test_no_table_is_left_open(results: ModuleType) -> None:
    assert "<!-- table" not in results.text()


def test_every_method_has_its_row_at_half_of_the_heads(results: ModuleType) -> None:
    table = results.quality(50)
    for method in (*results.METHODS, "unpruned"):
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {method}")]
        cells = [cell.strip() for cell in row.split("|")[1:-1]]
        assert cells[1] == ("72" if method == "unpruned" else "36")
        assert re.fullmatch(r"\d\d\.\d\d \((sd \d\.\d\d|\d\d\.\d to \d\d\.\d)\)", cells[3]), row


def test_heads_removed_are_the_share_that_a_row_names(results: ModuleType) -> None:
    for percent, heads in ((25, 54), (50, 36), (72, 20)):
        samples = [sample for method in results.METHODS for sample in results.samples_of(f"{method}-{percent}")]
        assert {sum(results.heads_of(sample).values()) for sample in samples} == {heads}


def test_the_run_was_of_all_sentences_and_says_where_it_ran(results: ModuleType) -> None:
    run = results.load("run.json")
    assert any("29,000 kept" in line for line in (RECIPES / "multi30k/results/clean.log").read_text().splitlines())
    assert run["versions"]["torch"] and run["machine"]["cores"] and len(run["sha256"]["models/base.pt"]) == 64
    assert run["commands"]["train-base"][0].startswith("'fairseq-train'")


def test_nothing_in_the_files_is_of_a_machine() -> None:
    paths = [*(RECIPES / "multi30k/results").rglob("*.json")]
    assert len(paths) > 10
    for path in paths:
        assert not re.search(r'"/(tmp|home|root|work)/', json.dumps(json.loads(path.read_text()))), path
