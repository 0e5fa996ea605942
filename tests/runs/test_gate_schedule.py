"""When gates learn and freeze: defaults, refusals with their figures, and how many updates a training has."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nmtprune.errors import DataError, UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint, loading
from nmtprune.gates import GateSettings
from nmtprune.runs.l0.gate_schedule import gate_schedule
from nmtprune.training.fairseq_train import Training
from nmtprune.training.planned import planned_updates
from tests.support.fairseq_commands import train


def test_defaults_follow_the_number_of_updates() -> None:
    found = gate_schedule((), (), lambda: 300)
    expected = (("--gate-step", "0.15"), ("--gate-freeze-updates", "60"), ("--gate-only-updates", "30"))
    assert (found.options, found.remarks) == (expected, ())
    found = gate_schedule((("--gate-step", "0.5"),), ("--gate-freeze-updates=40",), lambda: 50)
    assert found.options == (("--gate-only-updates", "20"),)


def test_gates_that_learn_with_the_weights_have_no_schedule() -> None:
    def never() -> int:
        raise AssertionError("nobody asks how many updates there are")

    assert gate_schedule((("--gate-lr-scale", "10"),), (), never).options == ()
    assert gate_schedule((), (), never, GateSettings()).options == ()


LEARNED = GateSettings(step=0.1, lr_scale=1.0, freeze_updates=60, only_updates=30)
"""Of a checkpoint whose gates were trained before."""


@pytest.mark.parametrize(
    ("learned", "given", "message"),
    [
        (None, "--gate-freeze-updates 301", "gates: --gate-freeze-updates 301: training ends after 100 updates"),
        (
            None,
            "--gate-freeze-updates 0",
            "gates: --gate-freeze-updates 0: gates are constants from the start, and none would close",
        ),
        (
            None,
            "--gate-freeze-updates 4 --gate-only-updates 5",
            "gates: --gate-only-updates 5: gates are constants from update 4 on, and nothing would learn",
        ),
        (None, "--gate-only-updates 101", "gates: --gate-only-updates 101: training ends after 100 updates"),
        (
            replace(LEARNED, freeze_updates=400),
            "",
            "gates (--gate-freeze-updates and --gate-only-updates as in the checkpoint): --gate-freeze-updates 400: "
            "training ends after 100 updates",
        ),
        (
            LEARNED,
            "--gate-freeze-updates 0",
            "gates (--gate-only-updates as in the checkpoint): --gate-only-updates 30: gates are constants from update "
            "0 on, and nothing would learn",
        ),
        (LEARNED, "--gate-step 0", "gates: --gate-step 0: give a number above 0"),
        (LEARNED, "--gate-freeze-updates x", "--gate-freeze-updates x: give a whole number from 0 on"),
    ],
)
def test_other_gates_are_checked_as_they_are(learned: GateSettings | None, given: str, message: str) -> None:
    """Those that learn with the weights, and those that have learned before: without defaults."""
    gates = (("--gate-lr-scale", "10"),) if learned is None else ()
    with pytest.raises(UsageError) as raised:
        gate_schedule(gates, given.split(), lambda: 100, learned)
    assert str(raised.value) == message
    fits = "--gate-freeze-updates 50 --gate-only-updates 0"
    assert gate_schedule(gates, fits.split(), lambda: 100, learned).options == ()
    constant = "--gate-freeze-updates 0 --gate-only-updates 0"  # the weights train on with what the gates decided
    assert learned is None or gate_schedule(gates, constant.split(), lambda: 100, learned).remarks == ()


def test_gates_that_travel_too_little_are_remarked() -> None:
    (remark,) = gate_schedule((), (), lambda: 100).remarks
    assert remark == (
        "gates move by 0.15 per update and are constants from update 20 of 100 on: they can travel 3, less than 6: "
        "many will not decide; give a larger --gate-step, a later --gate-freeze-updates, or more updates"
    )


@pytest.mark.parametrize(
    ("gates", "updates", "message"),
    [
        (
            (),
            60,
            "gates: gates move by 0.15 per update and are constants from update 12 of 60 on: they can travel 1.8, and "
            "close only after 2: give a larger --gate-step, a later --gate-freeze-updates, or more updates",
        ),
        (
            (("--gate-freeze-updates", "0"), ("--gate-init", "-1")),
            300,
            "gates: --gate-freeze-updates 0: gates are constants from the start, and none would close",
        ),
        ((("--gate-step", "0"),), 300, "gates: --gate-step 0: give a number above 0"),
        ((("--gate-step", "x"),), 300, "--gate-step x: give a number"),
        (
            (("--gate-freeze-updates", "301"), ("--gate-only-updates", "400")),
            300,
            "gates: --gate-freeze-updates 301: training ends after 300 updates; --gate-only-updates 400: gates are "
            "constants from update 301 on, and nothing would learn",
        ),
        (
            (("--gate-step", "1"), ("--gate-lr-scale", "2")),
            300,
            "--gate-step and --gate-lr-scale: gates move by one of them",
        ),
        (
            (),
            None,
            "the options of fairseq-train do not tell how many updates there will be: give --max-update, or "
            "--gate-freeze-updates",
        ),
    ],
)
def test_schedules_that_cannot_work(gates: tuple[tuple[str, str], ...], updates: int | None, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        gate_schedule(gates, (), lambda: updates)
    assert str(raised.value) == message


@pytest.mark.parametrize("update_freq", ["2", "1,3"])
def test_updates_are_those_that_fairseq_makes(tiny: Path, tmp_path: Path, update_freq: str) -> None:
    data = tiny.parent / "data-bin"
    options = ("--max-tokens", "60", "--update-freq", update_freq, "--required-batch-size-multiple", "1")
    train(data, tmp_path, "--arch", "nmtprune", "--finetune-from-model", tiny, *options, "--max-epoch", 3)
    made = loading.read_state(tmp_path / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    start = FairseqCheckpoint.load(tiny)

    def planned(*ends: str) -> int | None:
        common = ("--optimizer", "adam", "--lr", "0.01")
        words = (*options, *common, *ends)
        training = Training("l0", "Train", data, tiny, tmp_path, (words,), (), on_cpu=True)
        return planned_updates(training, start)

    assert planned("--max-epoch", "3") == made > 3
    assert planned("--max-epoch", "3", "--max-update", "2") == planned("--max-update", "2") == 2
    assert planned() is None


def test_shards_of_the_training_set_count_and_other_checkpoints_do_not(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards train1, ... are joined, as fairseq-train does, whatever lies in the folder that it saves to by default."""
    data = tmp_path / "data-bin"
    shutil.copytree(tiny.parent / "data-bin", data)
    for part in data.glob("train.*"):
        shutil.copyfile(part, data / part.name.replace("train.", "train1."))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "checkpoint_last.pt").write_text("of another training")
    monkeypatch.chdir(tmp_path)
    options = ("--max-tokens", "60", "--required-batch-size-multiple", "1", "--upsample-primary", "1")
    train(data, tmp_path / "made", "--arch", "nmtprune", "--finetune-from-model", tiny, *options, "--max-epoch", 1)
    made = loading.read_state(tmp_path / "made" / "checkpoint_last.pt")["optimizer_history"][-1]["num_updates"]
    start = FairseqCheckpoint.load(tiny)

    def planned(folder: Path, processes: int = 1) -> int | None:
        words = (*options, "--optimizer", "adam", "--lr", "0.01", "--max-epoch", "1")
        return planned_updates(Training("l0", "", folder, tiny, tmp_path, (words,), (), on_cpu=True), start, processes)

    alone = planned(tiny.parent / "data-bin")
    assert alone is not None and planned(data) == made > alone
    assert planned(data, processes=2) == (made + 1) // 2
    next(data.glob("train.*.bin")).unlink()
    with pytest.raises(DataError, match=f"fairseq-train cannot make batches of {data}: "):
        planned(data)
