"""fairseq-train as a step: defaults from the checkpoint, what the user's options replace, and where training ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune.errors import CheckpointError, UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.training.bar import TrainingWatcher
from nmtprune.training.fairseq_train import Training
from nmtprune.training.options import (
    ARCH,
    as_it_goes_on,
    as_trained,
    check_given,
    names,
    value_of,
    with_defaults,
    without,
)
from tests.support.fairseq_files import Build

LINE = (
    "2026-01-01 | INFO | train_inner | epoch 002:      3 / 10 loss=3.5, l0_penalty=0.4, open_heads=12.5, num_updates=13"
)


def _training(**changes: Any) -> Training:
    return replace(
        Training("t", "Train", Path("data"), Path("a.pt"), Path("out"), (("--max-epoch", "5"),), (), True), **changes
    )


def test_the_command() -> None:
    argv = _training(given=("--lr", "1")).command().argv
    assert argv[1:3] == ("data", "--user-dir")
    assert argv[4:] == (
        *("--arch", "nmtprune", "--finetune-from-model", "a.pt", "--save-dir", "out", "--log-format", "simple"),
        *("--cpu", "--max-epoch", "5", "--lr", "1"),
    )
    assert "--cpu" not in _training(on_cpu=False).command().argv
    assert _training(given=("--cpu",)).command().argv.count("--cpu") == 1


@pytest.mark.parametrize(
    ("given", "fraction", "text"),
    [
        ((), 0.26, "epoch 2 of 5, update 3 of 10, loss 3.5, open heads 12.5"),
        (("--max-update", "26"), 0.5, "update 13 of 26, loss 3.5, open heads 12.5"),
        (("--max-update=26",), 0.5, "update 13 of 26, loss 3.5, open heads 12.5"),
    ],
)
def test_the_end_is_what_the_options_say(given: tuple[str, ...], fraction: float, text: str) -> None:
    watch = _training(given=given).command(["open_heads"]).watch
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
        (("--optimizer", "sgd"), ["--lr", "--max-epoch", "--max-tokens", "--source-lang", "--seed"]),
        (("--batch-size", "8"), ["--lr", "--max-epoch", "--source-lang", "--seed"]),
    ],
)
def test_what_the_user_gives_replaces_defaults(given: tuple[str, ...], left: list[str]) -> None:
    assert [option[0] for option in with_defaults(DEFAULTS, given)] == left


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (
            ("--optimizer", "adam"),
            {"--adam-eps", "--lr-scheduler", "--warmup-updates", "--criterion", "--label-smoothing"},
        ),
        (("--optimizer=sgd",), {"--lr-scheduler", "--warmup-updates", "--criterion", "--label-smoothing"}),
        (("--lr-scheduler", "fixed"), {"--optimizer", "--adam-eps", "--criterion", "--label-smoothing"}),
        (("--criterion", "cross_entropy"), {"--optimizer", "--adam-eps", "--lr-scheduler", "--warmup-updates"}),
    ],
)
def test_settings_of_what_is_replaced_go_too(given: tuple[str, ...], left: set[str]) -> None:
    defaults = (
        *(
            ("--optimizer", "adam"),
            ("--adam-eps", "1e-8"),
            ("--lr-scheduler", "inverse_sqrt"),
            ("--warmup-updates", "4"),
        ),
        *(("--criterion", "label_smoothed_cross_entropy"), ("--label-smoothing", "0.1")),
    )
    assert {option[0] for option in with_defaults(defaults, given)} == left


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


def test_a_checkpoint_that_was_being_copied_is_repaired(tiny: Path, tmp_path: Path) -> None:
    run, whole = _training(folder=tmp_path / "checkpoints"), tiny.read_bytes()
    assert run.repair() is None
    run.folder.mkdir()
    run.last.write_bytes(whole)
    assert run.repair() is None and run.last.read_bytes() == whole
    run.last.write_bytes(whole[:-100])
    run.best.write_bytes(whole)
    assert run.repair() == f"{run.last}: cut off when the run was ended: training goes on from checkpoint_best.pt"
    assert run.last.read_bytes() == run.best.read_bytes() == whole
    run.last.write_bytes(whole[:-100])
    run.best.write_bytes(whole[:-100])
    assert run.repair() == f"{run.last}: cut off when the run was ended: its training starts again"
    assert not run.folder.exists()


def test_where_a_training_begins() -> None:
    rewound = _training(rewinds=True, first_update=20, options=(("--max-update", "60"),))
    assert rewound.command().argv[4:10] == (
        *("--arch", "nmtprune", "--restore-file", "a.pt", "--reset-dataloader", "--reset-meters"),
    )  # fmt: skip
    watch = rewound.command().watch
    assert isinstance(watch, TrainingWatcher)
    update = watch(LINE.replace("num_updates=13", "num_updates=30"))
    assert update is not None and update.fraction == 0.25
    scratch = _training(start=None, given=("--arch", "transformer")).command().argv
    assert "--restore-file" not in scratch and "--finetune-from-model" not in scratch and scratch.count("--arch") == 1


def test_a_rewound_training_goes_on_where_it_was_stopped(tiny: Path, tmp_path: Path) -> None:
    run = _training(rewinds=True, folder=tmp_path)
    run.last.write_bytes(tiny.read_bytes())
    argv = run.command().argv
    assert "--restore-file" not in argv and "--reset-dataloader" not in argv and argv[4:6] == ("--arch", "nmtprune")


def test_words_of_options() -> None:
    given = ("--lr", "1", "-a", "x", "--lr=2", "--fp16")
    assert names(given) == {"--lr", "--arch", "--fp16"}
    assert (
        value_of(given, "--lr") == "2" and value_of(given, "--arch") == "x" and value_of(given, "--clip-norm") is None
    )
    assert value_of(given, "--fp16") is None
    assert without(given, "--arch") == ("--lr", "1", "--lr=2", "--fp16")
    assert without(("--arch=x", "--lr", "1"), "--arch") == ("--lr", "1")


def test_a_training_goes_on_with_its_schedule_and_criterion(build: Build) -> None:
    checkpoint = FairseqCheckpoint.load(
        build(
            updates=1,
            criterion="label_smoothed_cross_entropy",
            label_smoothing=0.2,
            weight_decay=0.01,
            sentence_avg=True,
        )
    )
    found = dict((option[0], option[1:]) for option in as_it_goes_on(checkpoint, ("--clip-norm", "3")))
    assert found["--criterion"] == ("label_smoothed_cross_entropy",) and found["--label-smoothing"] == ("0.2",)
    assert found["--lr-scheduler"] == ("inverse_sqrt",) and found["--warmup-updates"] == ("4",)
    assert found["--weight-decay"] == ("0.01",) and found["--sentence-avg"] == () and found["--lr"] == ("0.01",)
    assert "--clip-norm" not in found and "--fp16" not in found


def test_a_training_that_cannot_be_named_from_the_file(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = FairseqCheckpoint.section
    other = {"criterion": {"_name": "ctc"}, "lr_scheduler": {"_name": "tri_stage"}}
    monkeypatch.setattr(FairseqCheckpoint, "section", lambda self, name: other.get(name) or own(self, name))
    checkpoint = FairseqCheckpoint.load(tiny)
    with pytest.raises(CheckpointError) as raised:
        as_it_goes_on(checkpoint, ())
    assert str(raised.value) == (
        f"{tiny}: its training: --criterion is 'ctc': name it with its settings after --; --lr-scheduler is 'tri_stage'"
        ": name it with its settings after --"
    )
    given = ("--criterion", "cross_entropy", "--lr-scheduler", "fixed")
    assert not {"--criterion", "--lr-scheduler"} & {option[0] for option in as_it_goes_on(checkpoint, given)}
