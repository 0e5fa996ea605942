"""fairseq-train as a step: defaults from the checkpoint, what the user's options replace, and where training ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune.errors import UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.runs.training import Training
from nmtprune.runs.training_options import ARCH, as_trained, check_given, with_defaults
from nmtprune.runs.watch import TrainingWatcher

LINE = (
    "2026-01-01 | INFO | train_inner | epoch 002:      3 / 10 loss=3.5, l0_penalty=0.4, open_heads=12.5, num_updates=13"
)


def _training(**changes: Any) -> Training:
    return replace(
        Training("t", "Train", Path("data"), Path("a.pt"), Path("out"), (("--max-epoch", "5"),), (), True), **changes
    )


def test_the_command() -> None:
    argv = _training(given=("--lr", "1")).step().argv
    assert argv[1:3] == ("data", "--user-dir")
    assert argv[4:] == (
        *("--arch", "nmtprune", "--finetune-from-model", "a.pt", "--save-dir", "out", "--log-format", "simple"),
        *("--cpu", "--max-epoch", "5", "--lr", "1"),
    )
    assert "--cpu" not in _training(on_cpu=False).step().argv
    assert _training(given=("--cpu",)).step().argv.count("--cpu") == 1


@pytest.mark.parametrize(
    ("given", "fraction", "text"),
    [
        ((), 0.26, "epoch 2 of 5, update 3 of 10, loss 3.5, open heads 12.5"),
        (("--max-update", "26"), 0.5, "update 13 of 26, loss 3.5, open heads 12.5"),
        (("--max-update=26",), 0.5, "update 13 of 26, loss 3.5, open heads 12.5"),
    ],
)
def test_the_end_is_what_the_options_say(given: tuple[str, ...], fraction: float, text: str) -> None:
    watch = _training(given=given).step(["open_heads"]).watch
    assert isinstance(watch, TrainingWatcher)
    update = watch(LINE)
    assert update is not None and update.fraction == pytest.approx(fraction) and update.text == text


def test_defaults_are_how_the_checkpoint_was_trained(tiny: Path) -> None:
    found = dict((option[0], option[1:]) for option in as_trained(FairseqCheckpoint.load(tiny)))
    assert found["--source-lang"] == ("xx",) and found["--target-lang"] == ("yy",)
    assert found["--optimizer"] == ("adam",) and found["--lr-scheduler"] == ("fixed",)
    assert found["--adam-betas"] == ("(0.9, 0.98)",)
    checkpoint = FairseqCheckpoint.load(tiny)
    assert found["--lr"] == (repr(checkpoint.state["last_optimizer_state"]["param_groups"][0]["lr"]),)
    assert float(as_trained(checkpoint.without_optimizer())[-3][1]) > 0


def test_code_in_a_setting_is_not_passed_on(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fairseq evaluates the betas of Adam."""
    own = FairseqCheckpoint.section

    def section(checkpoint: FairseqCheckpoint, name: str) -> dict[str, Any]:
        found = own(checkpoint, name)
        return {**found, "adam_betas": "__import__('os').system('false')"} if name == "optimizer" else found

    monkeypatch.setattr(FairseqCheckpoint, "section", section)
    found = dict((option[0], option[1:]) for option in as_trained(FairseqCheckpoint.load(tiny)))
    assert found["--adam-betas"] == ("(0.9, 0.999)",)


DEFAULTS = (("--lr", "1"), ("--max-epoch", "5"), ("--max-tokens", "9"), ("--source-lang", "a"), ("--seed", "1"))


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ((), ["--lr", "--max-epoch", "--max-tokens", "--source-lang", "--seed"]),
        (("--lr", "3", "--seed=2"), ["--max-epoch", "--max-tokens", "--source-lang"]),
        (("--max-update", "7", "-s", "b"), ["--lr", "--max-tokens", "--seed"]),
        (("--batch-size", "8"), ["--lr", "--max-epoch", "--source-lang", "--seed"]),
    ],
)
def test_what_the_user_gives_replaces_defaults(given: tuple[str, ...], left: list[str]) -> None:
    assert [option[0] for option in with_defaults(DEFAULTS, given)] == left


def test_options_that_the_command_sets() -> None:
    check_given(("--lr", "1"), ("--task",))
    with pytest.raises(UsageError) as raised:
        check_given(("--task=x", "--save-dir", "y", "-a", "z"), (*ARCH, "--task"))
    assert str(raised.value) == (
        "options of fairseq-train: --save-dir: set by the command itself; -a: set by the command itself; "
        "--task: set by the command itself"
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"max_tokens": None, "batch_size": 32}, [("--batch-size", "32")]),
        ({"max_tokens": 500, "batch_size": 32}, [("--max-tokens", "500"), ("--batch-size", "32")]),
        ({"max_sentences": 16}, [("--batch-size", "16")]),
        ({}, [("--max-tokens", "4096")]),
    ],
)
def test_sizes_of_batches(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    own = FairseqCheckpoint.section
    monkeypatch.setattr(
        FairseqCheckpoint, "section", lambda self, name: sizes if name == "dataset" else own(self, name)
    )
    found = as_trained(FairseqCheckpoint.load(tiny))
    assert [option for option in found if option[0] in ("--max-tokens", "--batch-size")] == expected


def test_a_checkpoint_that_was_being_written_is_dropped(tiny: Path, tmp_path: Path) -> None:
    run = _training(folder=tmp_path)
    assert not run.drop_damaged()
    run.last.write_bytes(tiny.read_bytes())
    assert not run.drop_damaged() and run.last.exists()
    run.last.write_bytes(tiny.read_bytes()[:-100])
    assert run.drop_damaged() and not run.last.exists()
