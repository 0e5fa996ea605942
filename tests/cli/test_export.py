"""`nmtprune export` as a user meets it."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.cli import search_options
from nmtprune.ctranslate2_model import QUANTIZATIONS
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.runs import export as runs_export
from tests.support.cli import documented, nmtprune, refused
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import vocabulary_file


def _data(tiny: Path) -> tuple[object, ...]:
    return ("--to", "ctranslate2", "--data-bin", tiny.parent / "data-bin", "--threads", 1)


def test_a_model_is_exported_and_compared(tiny: Path, tmp_path: Path) -> None:
    import ctranslate2

    output = tmp_path / "served"
    found = nmtprune("export", tiny, *_data(tiny), "-o", output, "--sentences", 5, "--format", "json")
    assert found.code == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["compared"] == 5 and result["differences"] == [] and result["padding"] == 0
    assert f"ctranslate2.Translator('{output}')" in found.stderr
    note = documented((output / "nmtprune.json").read_text())
    assert note["format"] == "nmtprune-export" and note["base"]["heads"]["encoder"] == [4, 4]
    translator = ctranslate2.Translator(str(output))
    assert translator.translate_batch([["w3", "w4"]], max_decoding_length=5)[0].hypotheses
    assert refused("export", tiny, *_data(tiny), "-o", output) == (8, f"{output}: exists (--force replaces it)")
    forced = nmtprune("export", tiny, *_data(tiny), "-o", output, "--force", "--quantization", "int8", "--no-verify")
    assert forced.code == 0 and sorted(tmp_path.iterdir()) == [output]
    assert json.loads((output / "nmtprune.json").read_text())["quantization"] == "int8"


@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_a_model_without_neurons_and_layers_is_exported(tiny: Path, tmp_path: Path, mode: str) -> None:
    base = load(tiny)
    names = [f"decoder-ffn.1.{number}" for number in range(5)] + ["encoder-ffn.0.3", "encoder-layers.1", "cross.0.2"]
    plan = Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND) for name in names])
    slim.apply(plan, base, mode).save(tmp_path / "slim.pt")
    output = tmp_path / "served"
    found = nmtprune("export", tmp_path / "slim.pt", *_data(tiny), "-o", output, "--sentences", 8, "--format", "json")
    assert found.code == 0, found.stderr
    result = json.loads(found.stdout)
    assert result["compared"] == 8 and result["differences"] == [] and result["padding"] == 1
    lineage = documented((output / "nmtprune.json").read_text())["lineage"]
    assert lineage["root"]["sha256"] == base.sha256
    assert lineage["root"]["neurons"] == {"encoder-ffn": [24, 24], "decoder-ffn": [24, 24]}
    assert lineage["layers"] == {"encoder": [0]} and lineage["keep"]["decoder-ffn.1"] == "5-23"
    assert lineage["keep"]["encoder-ffn.0"] == "0-2,4-23" and lineage["keep"]["cross.0"] == [0, 1, 3]


def test_sentences_of_a_subset_are_compared(tiny: Path, tmp_path: Path) -> None:
    found = nmtprune("export", tiny, *_data(tiny), "--subset", "test", "-o", tmp_path / "served", "--format", "tsv")
    lines = dict(line.split("\t") for line in found.stdout.splitlines())
    assert int(lines["sentences compared"]) > 5 and lines["sentences that differ"] == "0"


def test_what_is_refused(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert QUANTIZATIONS == search_options.QUANTIZATIONS
    other = tmp_path / "folder"
    other.mkdir()
    (other / "file").touch()
    assert refused("export", tiny, *_data(tiny), "-o", other, "--force") == (
        8, f"{other}: is not empty and holds no exported model: name another folder"
    )  # fmt: skip
    assert refused("export", tiny, *_data(tiny), "-o", other / "file")[0] == 8
    ssru = marian_model(tmp_path / "ssru.npz", **VARIANTS["SSRU decoder of tied layers"])
    vocabulary = vocabulary_file(tmp_path)
    to = ("--to", "ctranslate2", "-o", tmp_path / "s")
    code, line = refused("export", ssru, *to, "--vocabs", vocabulary, vocabulary)
    assert (code, line) == (6, f"{ssru}: CTranslate2 cannot run this model: an SSRU decoder")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(runs_export, "EQUAL", 2.0)  # more sentences must be equal than there are
    code, line = refused("export", tiny, *_data(tiny), "-o", tmp_path / "served", "--sentences", 3)
    assert code == 6 and "nothing was written" in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_that_is_ended_leaves_nothing(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs_export, "_compared", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert nmtprune("export", tiny, *_data(tiny), "-o", tmp_path / "served").code == 130
    assert not any(tmp_path.iterdir())


def test_a_folder_with_what_splits_the_text_is_not_replaced(tiny: Path, tmp_path: Path) -> None:
    codes = tmp_path / "served" / "codes"
    codes.parent.mkdir()
    (codes.parent / "model.bin").touch()
    codes.write_text("#version: 0.2\nt h\n")
    data = ("--data-bin", tiny.parent / "data-bin", "--bpe-codes", codes)
    assert refused("export", tiny, "--to", "ctranslate2", *data, "-o", codes.parent, "--force") == (
        8, f"{codes.parent}: holds the input {codes}; nothing is changed in place, choose another output"
    )  # fmt: skip


def test_an_exported_model_stays_where_the_new_one_cannot_take_its_place(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "served"
    assert nmtprune("export", tiny, *_data(tiny), "-o", output, "--no-verify").code == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    really = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target) == output and not str(source).endswith(".old"):
            raise OSError(28, "No space left on device")
        really(source, target)

    monkeypatch.setattr(os, "replace", replace)
    forced = ("-o", output, "--no-verify", "--quantization", "int8", "--force")
    assert refused("export", tiny, *_data(tiny), *forced) == (
        8,
        f"{output}: cannot be written: No space left on device",
    )
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before
    assert list(tmp_path.iterdir()) == [output]
