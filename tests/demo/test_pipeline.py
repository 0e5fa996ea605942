"""The whole demo: its folder, its options, its commands, and (slow) one small run from corpus to table."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nmtprune.demo.commands import MODELS, TESTED, DemoSettings, all_steps, generated_corpus
from nmtprune.demo.pipeline import ModelFigures, fresh_folder, sentences_per_second, table_rows
from nmtprune.demo.recipe import GENERATED, REAL
from nmtprune.errors import EngineError, OutputError

FORM = "write SOURCE-TARGET as the files are named, for example en-de"
DEMO = [sys.executable, "-m", "nmtprune.demo"]

UNTRAINED = {
    **{f"NMTPRUNE_{command}_ALLOW_BAD_BASELINE": "1" for command in ("SCORE", "GREEDY", "BENCH")},
    "NMTPRUNE_REFIT_FORCE_WORSE": "1",
}
"""Environment in which the model of a few updates may be compared with others and fitted."""


def _settings(folder: Path, **changes: object) -> DemoSettings:
    given = {"recipe": GENERATED, "sentences": 100, "remove": "50%", "seed": 1, "beam": 5, "max_minutes": None}
    return DemoSettings(folder=folder, corpus=generated_corpus(folder), **(given | changes))  # type: ignore[arg-type]


def _option(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name) + 1]


def test_every_run_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [fresh_folder(None) for _ in range(3)] == [Path("demo-run/1"), Path("demo-run/2"), Path("demo-run/3")]
    (tmp_path / "demo-run" / "2").rmdir()
    assert fresh_folder(None) == Path("demo-run/2")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    assert fresh_folder(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    assert fresh_folder(tmp_path / "new" / "run") == tmp_path / "new" / "run"
    (tmp_path / "new" / "run" / "mine").write_text("mine")
    with pytest.raises(OutputError) as caught:
        fresh_folder(tmp_path / "new" / "run")
    assert str(caught.value) == (
        f"{tmp_path}/new/run: holds files already; name a new folder (without --run: demo-run/NUMBER)"
    )
    with pytest.raises(OutputError, match="cannot be made: Not a directory"):
        fresh_folder(tmp_path / "new" / "run" / "mine" / "below")
    with pytest.raises(OutputError, match="cannot be made: File exists"):
        fresh_folder(tmp_path / "new" / "run" / "mine")


def test_the_steps_are_in_order_and_have_logs_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("fairseq")
    names = [step.name for step in all_steps(_settings(tmp_path))]
    assert names[:6] == ["corpus", "vocabulary", "pieces", "binarize", "train", "inspect-before"]
    assert (
        names.index("train")
        < names.index("greedy")
        < names.index("slim")
        < names.index("refit")
        < names.index("fine-tune")
    )
    assert names[-2:] == ["score", "bench"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in names)


def test_options_reach_the_commands(tmp_path: Path) -> None:
    pytest.importorskip("fairseq")
    settings = _settings(tmp_path, remove="18", seed=7, beam=2, max_minutes=6.0)
    steps = {step.name: step.argv for step in all_steps(settings)}
    assert _option(steps["greedy"], "--until") == "18"
    assert (
        _option(steps["greedy"], "--seed")
        == _option(steps["refit"], "--seed")
        == _option(steps["train"], "--seed")
        == _option(steps["corpus"], "--seed")
        == "7"
    )
    assert _option(steps["translate-slim-test"], "--beam") == "2"
    assert float(_option(steps["train"], "--stop-time-hours")) == pytest.approx(0.1)
    assert float(_option(steps["fine-tune"], "--stop-time-hours")) == pytest.approx(0.125)
    assert _option(steps["fine-tune"], "--finetune-from-model") == str(tmp_path / "refitted.pt")
    assert _option(steps["fine-tune"], "--arch") == "nmtprune"
    for name in ("translate-before-test", "train", "fine-tune"):
        assert _option(steps[name], "--user-dir").endswith("nmtprune/user_dir/nmtprune_fairseq")
        assert _option(steps[name], "--required-batch-size-multiple") == "1"


def test_the_schedule_fits_what_ends_the_training() -> None:
    generated = tuple(GENERATED.training_options())
    assert _option(generated, "--max-update") == _option(generated, "--total-num-update") == "800"
    assert _option(generated, "--lr-scheduler") == "polynomial_decay"
    real = tuple(REAL.training_options())
    assert _option(real, "--max-epoch") == "15"
    assert _option(real, "--lr-scheduler") == "inverse_sqrt"
    assert "--max-update" not in real
    assert GENERATED.total_heads == 36


def test_the_table_has_a_row_per_model_and_columns_per_test_set() -> None:
    rows = [
        ModelFigures(
            model, 36, 589_056, 2_356_224, 7_200_000, {"test": 81.26, "test2": 7.0}, {"test": 120.4, "test2": 99}
        )
        for model in MODELS
    ]
    columns, cells = table_rows(rows)
    assert columns[:5] == ["model", "heads", "parameters", "model MB", "file MB"]
    assert columns[5:] == ["BLEU test", "sentences/s test", "BLEU test2", "sentences/s test2"]
    assert cells[3] == ["slim + refit + fine-tuned", "36", "589,056", "2.36", "7.20", "81.3", "120", "7.0", "99"]
    one = [ModelFigures(model, 1, 1, 1, 1, {"test": 1.0}, {"test": 1.0}) for model in MODELS]
    assert table_rows(one)[0][5:] == ["BLEU", "sentences/s"]


def test_speed_is_what_fairseq_generate_says(tmp_path: Path) -> None:
    line = "INFO:x:Translated 1,000 sentences (17,294 tokens) in 7.1s (140.56 sentences/s, 2430.91 tokens/s)"
    (tmp_path / "log").write_text(f"before\n{line}\nafter\n")
    assert sentences_per_second(tmp_path / "log") == 140.56
    (tmp_path / "log").write_text("nothing\n")
    with pytest.raises(EngineError, match="does not say how fast it was"):
        sentences_per_second(tmp_path / "log")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--languages", "en-de"], 2, "--languages goes with --data: the generated corpus is src-tgt"),
        (["--data", ".", "--sentences", "5"], 2, "--sentences is for the generated corpus: --data has its own"),
        (["--remove", "half"], 2, "--remove 'half': write a share such as 50% or a number of heads such as 18"),
        (["--remove", "37"], 2, "--remove 37: the model has 36 heads"),
        (["--remove", "101%"], 2, "--remove 101%: the model has 36 heads"),
        (["--data", "nowhere"], 5, "nowhere: cannot be read as a folder: No such file or directory"),
        (["--data", "."], 5, ".: no parallel corpus train|val|test*.{src,tgt}[.gz]: no training files"),
        (["--data", ".", "--languages", "ende"], 2, f"languages 'ende': {FORM}"),
        (["--run", "occupied"], 8, "occupied: holds files already; name a new folder (without --run: demo-run/NUMBER)"),
        (["--beam", "0"], 2, "Invalid value for '--beam': 0 is not in the range x>=1."),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line_and_nothing_is_written(
    tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "mine").write_text("mine")
    done = subprocess.run([*DEMO, *options], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (code, f"Error: {message}\n", "")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "occupied"]


def test_a_failing_step_is_one_line_with_its_log(tmp_path: Path) -> None:
    """A vocabulary smaller than the alphabet: the second step fails after the first has run."""
    pytest.importorskip("fairseq")
    command = [*DEMO, "--run", "run", "--sentences", "20", "--vocabulary", "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | UNTRAINED)
    assert done.returncode == 5
    *_, shown_command, error = [line for line in done.stderr.splitlines() if line.strip()]
    assert shown_command.endswith("-o run/spm.model")
    assert re.fullmatch(
        r"Error: vocabulary failed \(exit status 5\): run/corpus: no vocabulary of 10 pieces: .*"
        r" \(full log: run/logs/02-vocabulary\.log\)",
        error,
    )
    assert (tmp_path / "run" / "logs" / "02-vocabulary.log").read_text().startswith("$ ")
    assert (tmp_path / "run" / "corpus" / "train.src").exists()


@pytest.mark.slow
def test_a_small_run_from_corpus_to_table(tmp_path: Path) -> None:
    pytest.importorskip("fairseq")
    small = ["--sentences", "600", "--vocabulary", "300", "--updates", "30", "--fine-tune-updates", "4", "--beam", "1"]
    command = [*DEMO, "--run", "run", *small, "--threads", "1", "--remove", "10"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | UNTRAINED)
    assert done.returncode == 0, done.stderr
    rows = [re.split(r"\s{2,}", line.strip()) for line in done.stdout.splitlines() if line.strip()]
    assert rows[0] == ["model", "heads", "parameters", "model MB", "file MB", "BLEU", "sentences/s"]
    assert [row[:2] for row in rows[2:6]] == [
        [name, heads] for name, heads in zip(MODELS.values(), ("36", "26", "26", "26"), strict=True)
    ]
    assert any(row[:2] == ["model", "batch"] for row in rows[6:])
    folder = tmp_path / "run"
    assert all((folder / name).exists() for name in ("scores.json", "scores.png", "greedy/plan.json", "bench.png"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    before, slim, refitted, finetuned = (results["models"][name] for name in MODELS)
    assert before["parameters"] - slim["parameters"] == 10 * (4 * 24 * 96 + 3 * 24)
    assert slim["parameters"] == refitted["parameters"] == finetuned["parameters"]
    assert slim["model_bytes"] == 4 * slim["parameters"]
    assert all(row["sentences_per_s"]["test"] > 0 for row in (before, slim, refitted, finetuned))
    assert results["bleu_signature"]["test"].startswith("nrefs:1")
    for step in results["commands"]:
        assert list((tmp_path / "run" / "logs").glob(f"*-{step}.log"))
    assert len((tmp_path / "run" / "slim.test.hypotheses").read_text().splitlines()) == TESTED


@pytest.mark.slow
def test_a_small_run_on_given_files(tmp_path: Path) -> None:
    """Two compressed test sets, a chosen direction, training that a time limit ends."""
    pytest.importorskip("fairseq")
    made = [sys.executable, "-m", "nmtprune.demo.corpus", "made", "--train", "600", "--val", "20", "--test", "20"]
    subprocess.run(made, check=True, cwd=tmp_path, capture_output=True)
    data = tmp_path / "data"
    data.mkdir()
    for name, renamed in (("train", "train"), ("val", "val"), ("test", "test_a"), ("test", "test_b")):
        for language, suffix in (("src", "de"), ("tgt", "en"), ("tgt", "fr")):
            (data / f"{renamed}.{suffix}").write_bytes((tmp_path / "made" / f"{name}.{language}").read_bytes())
    subprocess.run(["gzip", *map(str, data.glob("t*"))], check=True)
    command = [*DEMO, "--data", "data", "--run", "run", "--beam", "1", "--threads", "1", "--vocabulary", "300"]
    ambiguous = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ambiguous.returncode == 2
    assert ambiguous.stderr == "Error: data: training files in de, en, fr: say which two, --languages en-de\n"
    command += ["--languages", "en-de", "--max-minutes", "0.05", "--epochs", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | UNTRAINED)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(results["models"]["slim"]["bleu"]) == ["test_a", "test_b"]
    assert results["models"]["slim"]["bleu"]["test_a"] == results["models"]["slim"]["bleu"]["test_b"]
    assert results["settings"]["languages"] == "en-de"
