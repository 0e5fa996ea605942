"""`nmtprune lottery` as a user meets it: the schedule, the tables, and one line for everything wrong."""

import json
from pathlib import Path

import click
import pytest

from nmtprune.cli.lottery import lottery
from nmtprune.methods.confidence import Confidence
from nmtprune.runs.lottery.schedule import CONTROLS
from nmtprune.runs.scorers import orders
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)
TRAIN = ("--", "--num-workers", 0, "--log-interval", 1, "--max-tokens", 60)
ASKED = ("--prune-updates", 2, "--until", 4, "--heads-per-iteration", 3, "--kinds", "encoder,cross")


def test_controls_are_those_of_the_schedule() -> None:
    (control,) = [option for option in lottery.params if option.name == "controls"]
    assert isinstance(control.type, click.Choice) and sorted(control.type.choices) == sorted(CONTROLS)


def test_orders_are_scorers_of_heads() -> None:
    """Those of `greedy` that one pass over the sentences measures; without an option the paper's."""
    (order,) = [option for option in lottery.params if option.name == "order"]
    assert isinstance(order.type, click.Choice) and order.default == Confidence.name
    assert {"confidence", "importance", "fisher", "reconstruction"} <= {*order.type.choices} <= {*orders()}
    assert not {"random", "loss", "auto", "ablation"} & {*order.type.choices}
    assert {option.name: option.default for option in lottery.params}["min_heads_per_module"] == 1


def test_options_without_effect_are_refused(tiny: Path, tmp_path: Path) -> None:
    base = (
        "lottery", "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", "--late-reset", tiny,
        "--prune-updates", 2,
    )  # fmt: skip
    scorers = "importance, fisher, reconstruction, variance or activation"
    for given, message in (
        (("--importance-sentences", 5), f"--importance-sentences goes with --order {scorers}"),
        (("--importance-subset", "train"), f"--importance-subset goes with --order {scorers}"),
        (("--order", "fisher", "--exclude-eos"), "--exclude-eos goes with --order confidence"),
        (("--order", "fisher", "--importance-unit", "token"), "--importance-unit goes with --order importance"),
        (
            ("--calibration-sentences", 5, "--patience", 2),
            "--calibration-sentences goes with --refit; --patience goes with --converge or --converge-iterations",
        ),
        (
            ("--refit", "--calibration-source", "x", "--post-process", "none", "--importance-subset", "train"),
            f"--importance-subset goes with --order {scorers}",
        ),
    ):
        assert refused(*base, "--until", "25%", *given) == (2, message)
    code, message = refused(*base, "--refit", "--until", "90%")
    assert code == 4 and message.startswith("22 heads cannot be removed: 0 to 18 of the 24 heads")
    assert message.endswith("since every module keeps at least 1: --min-heads-per-module 0 lets modules lose all heads")
    result = nmtprune(*base, "--until", "90%", "--min-heads-per-module", 0, *FAST, "--dry-run", *TRAIN)
    assert (result.code, result.stderr) == (0, "")


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("lottery") / "run"
    data = ("--data-bin", tiny.parent / "data-bin", "--test-subset", "test", "--late-reset", tiny, "-o", folder)
    converge = ("--converge-iterations", "1", "--converge-updates", 5)
    result = nmtprune("lottery", *data, *ASKED, *converge, *FAST, *TRAIN)
    assert result.code == 0, result.stderr
    return folder, result.stdout, result.stderr


def test_the_tables(run: tuple[Path, str, str]) -> None:
    folder, stdout, stderr = run
    content = documented((folder / "lottery.json").read_text())
    lines = [" ".join(line.split()) for line in stdout.splitlines()]
    assert lines[0] == "24 heads; heads kept per layer after each iteration"
    assert lines[2] == "iteration trained validation removed of kinds of all kept encoder decoder cross"
    first, second = content["iterations"]
    layers = [" ".join(map(str, counts)) for counts in second["kept_per_layer"].values()]
    assert lines[5] == f"2 21 {second['validation']:.3f} 4 25.0% 16.7% 20 {' '.join(layers)}"
    assert first["removed"] == 3 and second["kept_per_layer"]["decoder"] == [4, 4]
    assert content["signature"] in lines and "test.xx-yy: 16 sentences" in lines
    (table,) = (number for number, line in enumerate(lines) if line.startswith("model removed of all encoder"))
    assert lines[table].endswith("bleu change 95% interval p parameters file MB words/s updates")
    assert lines[table + 2].startswith("iteration-00 0 0.0% 4 4 4 4 4 4 ") and lines[table + 3].startswith(
        "iteration-01 3 "
    )
    assert lines[-1].startswith("time ") and "; iterations: training " in lines[-1]
    assert "Iteration 1 of 2, 24 heads: update 4 of 4, loss " in stderr and "; lottery " in stderr
    models = ", ".join(f"converged/iteration-{number:02}/model.pt" for number in (0, 1))
    assert stderr.endswith(f"wrote {folder}: plan.json, ticket.pt, {models}\n")


def test_other_formats_are_the_files(tiny: Path, run: tuple[Path, str, str]) -> None:
    folder = run[0]
    data = ("--data-bin", tiny.parent / "data-bin", "--test-subset", "test", "--late-reset", tiny, "-o", folder)
    options = ("--converge-iterations", "1", "--converge-updates", 5, "--resume", "-q")
    for form in ("tsv", "json"):
        result = nmtprune("lottery", *data, *ASKED, *FAST, *options, "--format", form, *TRAIN)
        assert (result.code, result.stderr) == (0, "")
        assert result.stdout == (folder / f"lottery.{form}").read_text()


def test_the_converged_model_runs_everywhere(tiny: Path, run: tuple[Path, str, str], tmp_path: Path) -> None:
    """The slim model translates in the native engine and in stock fairseq-generate, to the same text."""
    model, data = (
        run[0] / "converged/iteration-01/model.pt",
        ("--data-bin", tiny.parent / "data-bin", "--subset", "test"),
    )
    search = ("--beam", 2, "--max-len-b", 6, "--device", "cpu", "--threads", 1, "-q")
    native, fairseq = (nmtprune("translate", model, *data, *search, "--engine", name) for name in ("native", "fairseq"))
    assert native.code == fairseq.code == 0 and native.stdout == fairseq.stdout and native.stdout.count("\n") == 16
    shown = nmtprune("inspect", model)
    assert shown.code == 0 and "fairseq transformer: 21 heads" in shown.stdout


def test_dry_run(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    data = ("--data-bin", tiny.parent / "data-bin", "--late-reset", tiny, "-o", folder, "--dry-run")
    converge = ("--converge", "--converge-updates", 9, "--control", "reinit")
    result = nmtprune("lottery", *data, *ASKED, *converge, *FAST, *TRAIN)
    assert (result.code, result.stderr) == (0, "") and not folder.exists()
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[1] == "training heads from update to update updates removes removed of kinds of all"
    assert lines[3:8] == [
        "iteration-01 24 2 4 2 3 3 18.8% 12.5%",
        "iteration-02 21 2 4 2 1 4 25.0% 16.7%",
        "converge iteration-00 24 2 9 7 0 0.0% 0.0%",
        "converge iteration-02 20 2 9 7 4 25.0% 16.7%",
        "converge iteration-02-reinit 20 0 9 9 4 25.0% 16.7%",
    ]
    assert lines[-1] == (
        "updates: pretraining 0, pruning 2 x 2 = 4, convergence 23 at most, in total 27 at most"
    )  # fmt: skip
    found = json.loads(nmtprune("lottery", *data, *ASKED, *converge, *FAST, "--format", "json", *TRAIN).stdout)
    assert found["updates"] == 27 and [each["removes"] for each in found["trainings"]] == [3, 1, None, None, None]
    endless = nmtprune("lottery", *data, *ASKED, "--converge", *FAST, *TRAIN)
    assert "convergence until --patience ends it, in total until --patience ends it" in endless.stdout


def test_exit_codes(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start = ("lottery", "--data-bin", tiny.parent / "data-bin", "-o", folder, "--until", "25%")
    base = (*start, "--late-reset", tiny)
    assert refused(*base)[0] == 2
    base = (*base, "--prune-updates", 2)
    assert refused(*base, "--converge-iterations", "1,x")[0] == 2
    assert refused(*base, "--patience", 3) == (2, "--patience goes with --converge or --converge-iterations")
    assert refused(*base, "--heads-per-iteration", 7) == (
        4, "--heads-per-iteration 7 is more than the 6 that --until removes in all"
    )  # fmt: skip
    assert refused(*base, "--subset", "dev")[0] == 5
    assert refused(*base, "--", "--restore-file", "x") == (
        2, "options of fairseq-train: --restore-file: set by the command itself"
    )  # fmt: skip
    missing = tmp_path / "none.pt"
    assert refused(*start, "--prune-updates", 2, "--late-reset", missing) == (3, f"{missing}: there is no such file")
    folder.mkdir()
    (folder / "mine").write_text("")
    assert refused(*base) == (8, f"{folder}: is not empty (--force writes into it)")


def test_help() -> None:
    result = nmtprune("lottery", "--help")
    assert result.code == 0
    assert result.stdout.startswith("Usage: nmtprune lottery [OPTIONS] [-- FAIRSEQ-TRAIN OPTIONS]")
