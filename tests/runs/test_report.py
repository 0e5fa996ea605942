"""How results are written: tables that any CSV reader can take apart again, and a result that comes last."""

import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nmtprune.errors import OutputError
from nmtprune.runs.report import Cell, CurveStep, Report, ReportFiles, quality_of, tsv

CELLS = st.one_of(st.none(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8))
STEP = {"removed": 1, "kept": 2, "ci": (0.5, 1.5), "p": 0.25, "relative": None, "within_max_drop": True, "plan": "p"}


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_table_is_read_back_cell_by_cell(rows: list[tuple[Cell, Cell]]) -> None:
    """Tabs, line breaks and quotation marks in a file name move no cell."""
    read = list(csv.reader(io.StringIO(tsv(("a", "b"), rows), newline=""), dialect="excel-tab"))
    assert read == [["a", "b"], *(["" if cell is None else str(cell) for cell in row] for row in rows)]


def test_plain_cells_are_not_quoted() -> None:
    assert tsv(("head", "p"), [("encoder.0.1", 0.1), (None, 1e-12)]) == "head\tp\nencoder.0.1\t0.1\n\t1e-12\n"


def test_a_file_has_the_fields_that_were_given() -> None:
    step = CurveStep.model_validate({**STEP, "bleu": 20.5})
    assert json.loads(step.to_json()) == {**STEP, "ci": [0.5, 1.5], "bleu": 20.5}
    assert "chrf" not in step.as_json() and quality_of("chrf", None) == {}


def test_no_number_is_left_out_or_made_up() -> None:
    with pytest.raises(ValueError, match="JSON"):
        CurveStep.model_validate({**STEP, "bleu": math.nan}).to_json()
    with pytest.raises(ValidationError, match="ter"):
        CurveStep.model_validate({**STEP, "ter": 1.0})


def test_the_result_comes_last(tmp_path: Path) -> None:
    places = ReportFiles.beside(tmp_path / "run.json")
    assert [path.name for path in places] == ["run.json", "run.tsv", "run.png"]
    places.png.mkdir()  # where no picture can be written
    report = Report(json="{}\n", tsv="a\n", png=b"png")
    with pytest.raises(OutputError):
        report.write(places, force=True, inputs=[])
    assert places.tsv.read_text() == "a\n" and not places.json.exists()
    places.png.rmdir()
    report.write(places, force=True, inputs=[])
    assert (places.json.read_text(), places.png.read_bytes()) == ("{}\n", b"png")
