"""`nmtprune l0` as a user meets it: what it prints, what goes to fairseq-train, and one line for everything wrong."""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from nmtprune.cli.l0 import _GATES
from nmtprune.fairseq_plugin import gate_options
from nmtprune.gates import DISTRIBUTIONS, STEP, TEST_GATES
from nmtprune.plan import Plan
from tests.support.cli import documented, nmtprune, refused
from tests.support.marian_files import marian_model
from tests.support.marian_program import random_texts, vocabulary_file

FAST = ("--gate-lr-scale", 10, "--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)
TRAIN = ("--", "--max-update", 3, "--num-workers", 0, "--log-interval", 1, "--lr=0.02")


def test_choices_are_those_of_the_gates() -> None:
    """Copied, because ``--help`` imports no torch."""
    choices = {name: tuple(kind.choices) for name, (kind, _) in _GATES.items() if isinstance(kind, click.Choice)}
    assert (choices["gate"], choices["test_gate"]) == (DISTRIBUTIONS, TEST_GATES)
    assert f"Default: {STEP}." in _GATES["gate_step"][1]
    parser = argparse.ArgumentParser()
    gate_options.add_args(parser)
    of_fairseq = {action.dest for action in parser._actions}
    assert {*_GATES, "gate_stretch", "output_scaling"} - of_fairseq == {"l0_warmup_updates", "freeze"}


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("l0") / "run"
    data = ("--data-bin", tiny.parent / "data-bin", "--l0-weight", 0.1, "-o", folder)
    gates = ("--gate", "binconcrete", "--gate-stretch", -0.2, 1.2, "--gate-init", 0.03, "--output-scaling")
    result = nmtprune("l0", tiny, *data, *FAST, *gates, "--kinds", "cross", "--freeze", "decoder", *TRAIN)
    assert result.code == 0, result.stderr
    return folder, result.stdout, result.stderr


def test_the_table(run: tuple[Path, str, str]) -> None:
    folder, stdout, stderr = run
    content = documented((folder / "l0.json").read_text())
    lines = [" ".join(line.split()) for line in stdout.splitlines()]
    value = content["unpruned"]["bleu"]
    assert lines[:2] == [f"valid.xx-yy: 16 sentences, 24 heads, unpruned bleu {value:.2f}", content["signature"]]
    columns = "lambda kept encoder decoder cross bleu gated bleu slim change 95% interval p parameters"
    (found,) = content["runs"]
    row = lines[lines.index(columns) + 2]
    kept = found["kept_per_kind"]
    assert row.startswith(f"0.1 {found['kept']} {kept['encoder']} {kept['decoder']} {kept['cross']} ")
    assert row.endswith(f"{found['slim']['parameters']:,}")
    assert "Train gates with lambda 0.1: update 3 of 3, loss " in stderr and ", open heads " in stderr
    assert stderr.endswith(f"wrote {folder}: {folder / 'slim.pt'}\n")


def test_options_reach_the_training(run: tuple[Path, str, str]) -> None:
    folder, _, _ = run
    (argv,) = json.loads((folder / "l0.json").read_text())["provenance"]["fairseq_train"].values()
    text = " ".join(argv)
    for words in (
        "--task translation_l0 --criterion label_smoothed_cross_entropy_l0 --l0-weight 0.1 --l0-kinds cross",
        "--gate binconcrete --gate-init 0.03 --gate-lr-scale 10.0 --freeze decoder",
        "--gate-stretch -0.2 1.2 --output-scaling",
        "--max-update 3 --num-workers 0 --log-interval 1 --lr=0.02",
    ):
        assert words in text
    assert "--max-epoch" not in text and "--lr " not in text
    log = (folder / "train.log").read_text()
    assert "gate='binconcrete'" not in log  # the options have become the one setting of the model
    assert "nmtprune_gates" in log


def test_other_formats_are_the_files(tiny: Path, run: tuple[Path, str, str]) -> None:
    folder = run[0]
    data = ("--data-bin", tiny.parent / "data-bin", "--l0-weight", 0.1, "-o", folder)
    gates = ("--gate", "binconcrete", "--gate-stretch", -0.2, 1.2, "--gate-init", 0.03, "--output-scaling")
    options = (*FAST, *gates, "--kinds", "cross", "--freeze", "decoder", "--resume", "-q")
    for form in ("tsv", "json"):
        result = nmtprune("l0", tiny, *data, *options, "--format", form, *TRAIN)
        assert (result.code, result.stderr) == (0, "")
        assert result.stdout == (folder / f"l0.{form}").read_text()


def test_exit_codes(tiny: Path, tmp_path: Path) -> None:
    base = ("l0", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run")
    assert refused(*base)[0] == 2
    assert refused(*base, "--l0-weight", -1) == (2, "--l0-weight -1: give a number from 0 on")
    assert refused(*base, "--l0-weight", 1, "--", "--task", "x") == (
        2,
        "options of fairseq-train: --task: set by the command itself",
    )
    missing = tmp_path / "none.pt"
    assert refused("l0", missing, *base[2:], "--l0-weight", 1) == (3, f"{missing}: there is no such file")
    assert refused(*base, "--l0-weight", 1, "--subset", "dev")[0] == 5
    source: tuple[Any, ...] = ("--source", "x", "--reference", "y", "--sentencepiece", "z")
    assert refused("l0", tiny, *source, "-o", tmp_path / "run", "--l0-weight", 1)[0] == 2
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("")
    assert refused(*base, "--l0-weight", 1) == (8, f"{tmp_path / 'run'}: is not empty (--force writes into it)")


def test_search_only_writes_a_plan_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    base = ("l0", tiny, "--data-bin", tiny.parent / "data-bin", "-o", folder, "--l0-weight", 0.02, "--search-only")
    options = ("--target-heads", 9, "--gate-step", 0.5, "--search-updates", 12, "--device", "cpu", "--threads", 1)
    result = nmtprune(*base, *options, "--format", "json", "-q")
    assert result.code == 0, result.stderr
    (found,) = json.loads(result.stdout)
    assert found["kept"] == 9 and [path.name for path in folder.iterdir()] == ["plan.json"]
    applied = nmtprune("slim", tiny, "--plan", folder / "plan.json", "-o", tmp_path / "slim.pt")
    assert applied.code == 0, applied.stderr
    other = (*base[:4], "-o", tmp_path / "other", *base[6:])
    assert refused(*other, "--freeze", "encoder", "--", "--lr", 1) == (
        2,
        "--search-only: --freeze goes with a training; options of fairseq-train go with a training",
    )
    assert refused(*other, "--subset", "valid", "--beam", 3, "--metric", "chrf") == (
        2,
        "; ".join(f"{name} does not go with --search-only, which measures nothing"
                  for name in ("--subset", "--metric", "--beam")),
    )  # fmt: skip
    assert refused(*other[:-1], "--search-updates", 9) == (2, "--search-updates goes with --search-only")
    assert refused(*other, "--target-heads", 25) == (2, "gates: --target-heads 25: 24 heads have gates")
    assert refused(*other, "--search-updates", 5)[1].startswith(
        "gates: gates move by 0.15 per update for 5 updates: they can travel 0.75, and close only after 2: give a "
        "larger --gate-step or more --search-updates"
    )
    alone = ("--l0-groups", "neurons", "--target-heads", 3, "--min-heads-per-module", 1)
    assert refused(*other, *alone) == (
        2,
        "gates: --target-heads 3: no head has a gate; --min-heads-per-module 1: no head has a gate",
    )
    assert not (tmp_path / "other").exists()


def test_searches_say_what_trainings_say(tiny: Path, tmp_path: Path) -> None:
    base = ("l0", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", "--search-only")
    options = ("--search-updates", 4, "--gate-step", 0.6, "--device", "cpu", "--threads", 1)
    result = nmtprune(*base, *options, "--l0-weight", 0, "--target-heads", 9)
    assert result.code == 0, result.stderr
    lines = result.stderr.splitlines()
    assert any(
        line.startswith("gates move by 0.6 per update for 4 updates: they can travel 2.4, less") for line in lines
    )
    assert "--l0-weight 0: nothing closes gates, whatever --target-heads 9 asks for" in lines
    assert any(line.startswith("l0-weight-0: 9 heads were to be open, 2") for line in lines)
    neurons = nmtprune(*base, *options, "--l0-weight", 1, "--l0-groups", "neurons", "--force", "--format", "json", "-q")
    assert (neurons.code, neurons.stderr) == (0, "")
    (found,) = json.loads(neurons.stdout)
    assert "expected_heads" not in found and found["kept"] == 24


def test_a_search_starts_over_in_the_folder_of_a_training(
    tiny: Path, run: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run[0], folder)
    base = ("--data-bin", tiny.parent / "data-bin", "-o", folder, "--l0-weight", 0.1, "--search-only")
    options = ("--gate-step", 0.6, "--search-updates", 4, "--device", "cpu", "--threads", 1, "--force")
    slim = folder / "slim.pt"
    assert refused("l0", slim, *base, *options) == (
        8,
        f"{slim}: read by this run, and removed by --force: name another folder",
    )
    result = nmtprune("l0", tiny, *base, *options)
    assert result.code == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["plan.json"]


def test_marian_models_are_searched(tmp_path: Path) -> None:
    """With neurons, of which Marian has one number for all layers of a stack."""
    model, words = marian_model(tmp_path / "model.npz"), vocabulary_file(tmp_path)
    source, target = random_texts(tmp_path)
    data = ("--vocabs", words, words, "--source", source, "--reference", target, "--post-process", "none")
    gates = ("--l0-groups", "heads,neurons", "--gate-step", 0.6, "--search-updates", 8)
    base = ("l0", model, *data, *gates, "--l0-weight", 0.3, "--search-only", "-o", tmp_path / "run")
    result = nmtprune(*base, "--device", "cpu", "--threads", 1)
    assert result.code == 0, result.stderr
    plan = tmp_path / "run" / "plan.json"
    note = "Marian has one number of neurons for all layers of a stack: slim with --mode uniform or masked"
    assert (f"l0-weight-0.3: {note}" in result.stderr) == Plan.read(plan).ragged_neurons
    assert Plan.read(plan).ragged_neurons
    slim = nmtprune("slim", model, "--plan", plan, "--mode", "uniform", "-o", tmp_path / "slim.npz")
    assert slim.code == 0, slim.stderr


def test_training_that_fails(tiny: Path, tmp_path: Path) -> None:
    base = ("l0", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", "--l0-weight", 1, *FAST)
    code, line = refused(*base, "--freeze", "encoder", "--", "--optimizer", "none")
    assert code == 9 and line.startswith("l0-weight-1 failed (exit status ")


def test_help() -> None:
    result = nmtprune("l0", "--help")
    assert result.code == 0
    assert result.stdout.startswith("Usage: nmtprune l0 [OPTIONS] CHECKPOINT [-- FAIRSEQ-TRAIN OPTIONS]")
