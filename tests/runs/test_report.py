"""How results are written: tables that any CSV reader can take apart again, and a result that comes last."""

import csv
import io
import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from nmtprune.data.corpus import load_corpus
from nmtprune.data.labelled import load_examples
from nmtprune.data.options import DataOptions
from nmtprune.errors import OutputError
from nmtprune.plan import Base, Lineage
from nmtprune.profile import ClassifierProfile, LanguageTokens, ModelProfile
from nmtprune.runs.report import CurveStep, ExportNote, Report, ReportFiles, _Facts, quality_of
from nmtprune.runs.tsv import Cell, tsv
from tests.support.data import write_dictionary
from tests.support.labelled import wordpiece_folder, write_table
from tests.support.subwords import ENGLISH, GERMAN, bpe_codes, pieces, sentencepiece_model, subwords, written

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


@pytest.mark.parametrize("refit", [None, {"sentences": 12}])
def test_an_exported_model_says_all_of_its_lineage(refit: dict[str, int] | None) -> None:
    base = Base.model_validate(
        {"format": "fairseq", "sha256": "0" * 64, "heads": {"encoder": [2], "decoder": [2], "cross": [2]}}
    )
    lineage = Lineage.start(base).model_copy(update={"refit": refit})
    note = ExportNote(
        format="nmtprune-export", version=1, base=base, lineage=lineage, quantization="int8", provenance={}
    )
    found = json.loads(note.to_json())["lineage"]
    assert found == json.loads(lineage.to_json()) and found.get("refit") == refit


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


LEFT_OUT_OF_FACTS = {
    "data_bin", "subset", "reference", "sentencepiece", "bpe_codes", "source_bpe_codes", "target_sentencepiece",
    "vocabs", "join_shards", "skip_invalid", "examples", "gpt2_encoder_json", "gpt2_vocab_bpe",
}  # fmt: skip
"""Options of DATA that name files, or lead to the facts that other options lead to."""


def test_all_that_describes_a_corpus_is_a_field_of_the_results(tmp_path: Path) -> None:
    """Results forbid other fields: a missing one would be noticed when hours of work are written."""
    model, codes = sentencepiece_model(tmp_path / "en.spm", ENGLISH), bpe_codes(tmp_path / "codes.de", GERMAN)
    texts = {"en": [*ENGLISH, *pieces(model, ENGLISH)], "de": [*GERMAN, *subwords(codes, GERMAN)]}
    for language, lines in texts.items():
        write_dictionary(tmp_path / f"dict.{language}.txt", sorted({word for line in lines for word in line.split()}))
    plain: dict[str, Any] = {
        "post_process": "none",
        "data_bin": tmp_path,
        "source": written(tmp_path / "text.en", ENGLISH),
        "reference": (written(tmp_path / "text.de", GERMAN),),
        "source_lang": "en",
        "target_lang": "de",
    }
    changing: dict[str, Any] = {
        "source_sentencepiece": model,
        "target_bpe_codes": codes,
        "post_process": "sentencepiece",
        "tokenizer": "moses",
        "moses_no_dash_splits": True,
        "moses_no_escape": True,
        "lowercase_source": True,
        "lowercase_target": True,
        "crop_source": 5,
        "source_prefix": pieces(model, ENGLISH)[0].split()[0],
        "target_prefix": subwords(codes, GERMAN)[0].split()[0],
    }
    behind = LanguageTokens(("en", "de"), None, ("[{}]",), (), "[{}]", "source", "[{}]", "behind", (), "a task")
    labelled = {"text_column": "text", "label_column": "label", "truncate": True}
    assert {field.name for field in fields(DataOptions)} == {*plain, *changing, *labelled} | LEFT_OUT_OF_FACTS
    measured = {"engine": "native", "search": {}}
    described: set[str] = set()
    for options, tokens in ((plain, None), ({**plain, **changing}, None), (plain, behind)):
        profile = ModelProfile(language_tokens=tokens)
        found = load_corpus(DataOptions(**options), profile, references=True, targets=True).describe()
        _Facts.model_validate({**found, **measured})
        described |= set(found)
    table = write_table(tmp_path / "dev.tsv", [(ENGLISH[0], "no"), (ENGLISH[1], "yes")], ("text", "label"))
    tokenizer = wordpiece_folder(tmp_path / "bert", ENGLISH)
    symbols = len((tokenizer / "vocab.txt").read_text().splitlines())
    classifier = ClassifierProfile(2, symbols, 4, 0, label_names=("no", "yes"), segments=2, tokenizer=tokenizer)
    found = load_examples(DataOptions(examples=table, **labelled), classifier).describe()
    _Facts.model_validate({**found, **measured})
    described |= set(found)
    assert described == set(_Facts.model_fields) - {
        *("batches", "signature", "significance"), *("across", "directions"), *measured,
    }  # fmt: skip
