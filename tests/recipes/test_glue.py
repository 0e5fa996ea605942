"""Tables of GLUE become lines of pieces and labels; what cannot be used is counted or named."""

import zipfile
from pathlib import Path

import pytest
from fairseq.data.encoders.gpt2_bpe_utils import get_encoder

from tests.support.recipes import run_python

MNLI = {
    "train.tsv": 'index\tsentence1\tsentence2\tgold_label\n0\tA dog "runs\tIt moves .\tentailment\n'
    "1\tA cat\tA dog\t-\n2\tA cat\tcontradiction\n3\tTwo  cats\tNo cats\tcontradiction\n",
    "dev_matched.tsv": "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tNo\tYes\tneutral\tneutral\n",
    "dev_mismatched.tsv": "index\tsentence1\tsentence2\tgold_label\n0\tYes\tYes\tentailment\n",
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Merges learned on generated sentences, as the smoke learns them, beside its tables."""
    folder = tmp_path_factory.mktemp("pieces")
    (folder / "made").mkdir()
    for name in ("train", "val", "test"):
        for side in ("src", "tgt"):
            (folder / f"made/{name}.{side}").write_text("".join(f"the dog {n} runs\n" for n in range(9)))
    result = run_python("made_glue.py", folder / "made", folder, "--vocabulary", 280)
    assert result.returncode == 0, result.stderr
    return folder


def split(folder: Path, output: Path, pieces: Path, *options: object) -> str:
    result = run_python(
        "glue.py", folder, output, *options, "--encoder", pieces / "encoder.json", "--merges", pieces / "vocab.bpe"
    )
    return result.stdout if result.returncode == 0 else result.stderr


def test_an_archive_becomes_pieces_of_gpt2_and_labels(tmp_path: Path, pieces: Path) -> None:
    with zipfile.ZipFile(tmp_path / "MNLI.zip", "w") as archive:
        for name, text in MNLI.items():
            archive.writestr(f"__MACOSX/MNLI/._{name}", "")
            archive.writestr(f"MNLI/{name}", text)
    said = split(tmp_path, tmp_path / "out", pieces, "MNLI", "--calibration", 1)
    assert "MNLI train: 2 rows, 2 left out" in said
    folder = tmp_path / "out/MNLI"
    assert (folder / "train.label").read_text().split() == ["entailment", "contradiction"]
    assert (folder / "valid.label").read_text() == "neutral\n" and (folder / "test.label").read_text() == "entailment\n"
    fairseq = get_encoder(str(pieces / "encoder.json"), str(pieces / "vocab.bpe"))
    expected = [" ".join(map(str, fairseq.encode(text))) for text in ('A dog "runs', "Two  cats")]
    lines = (folder / "train.input0").read_text().splitlines()
    assert lines == expected
    (drawn,) = (folder / "test1.input0").read_text().splitlines()
    assert drawn in lines


@pytest.mark.parametrize(("task", "inputs"), [("MNLI", 2), ("QQP", 2), ("QNLI", 2), ("SST-2", 1)])
def test_what_a_smoke_makes_is_read_as_the_real_tables_are(
    tmp_path: Path, pieces: Path, task: str, inputs: int
) -> None:
    assert f"{task} train: 9 rows, 0 left out" in split(pieces, tmp_path / "out", pieces, task)
    written = sorted(path.name for path in (tmp_path / f"out/{task}").glob("train.*"))
    assert written == [*(f"train.input{number}" for number in range(inputs)), "train.label"]


def test_a_limit_draws_rows_in_their_order(tmp_path: Path, pieces: Path) -> None:
    split(pieces, tmp_path / "all", pieces, "SST-2")
    split(pieces, tmp_path / "some", pieces, "SST-2", "--limit", 4)
    every, some = ((tmp_path / f"{name}/SST-2/train.input0").read_text().splitlines() for name in ("all", "some"))
    assert len(some) == 4 and [line for line in every if line in some] == some


def test_a_table_without_its_column_and_no_archive_are_named(tmp_path: Path, pieces: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    (tmp_path / "SST-2/train.tsv").write_text("sentence\tscore\nfine\t1\n")
    assert split(tmp_path, tmp_path / "out", pieces, "SST-2") == "Error: SST-2/train.tsv: no column label\n"
    assert "neither QQP/train.tsv nor an archive QQP*.zip" in split(tmp_path, tmp_path / "other", pieces, "QQP")
