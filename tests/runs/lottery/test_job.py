"""What cannot be asked of `lottery`: refused in one line before anything is written or trained."""

import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune.data.options import DataOptions
from nmtprune.errors import BudgetError, CheckpointError, DataError, NmtpruneError, OutputError, UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.progress import Silent
from nmtprune.runs.lottery.job import LotteryJob, LotteryRun, prepare
from nmtprune.runs.lottery.stages import iteration, order_seed
from nmtprune.runs.run import started
from tests.support.fairseq_files import Build
from tests.support.runs import FAST, lottery_run

SCRATCH = (*FAST, "--arch", "transformer", "--optimizer", "adam", "--lr", "0.1")


def prepared(run: LotteryRun) -> LotteryJob:
    """A checked run, nothing written."""
    with started(run, Silent()) as session:
        return prepare(run, session.corpora)


def _refused(checkpoint: Path, folder: Path, **changes: Any) -> NmtpruneError:
    with pytest.raises(NmtpruneError) as raised:
        prepared(lottery_run(checkpoint, folder, **changes))
    assert not folder.exists()
    return raised.value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"late_reset": None}, "give one of --late-reset CHECKPOINT and --pretrain-updates N; --pretrain-updates "
         "trains from scratch: name --arch with its settings after --"),
        ({"pretrain_updates": 4}, "give one of --late-reset CHECKPOINT and --pretrain-updates N"),
        ({"until": None}, "nothing ends the loop: give --until AMOUNT, --max-drop X, or both"),
        ({"given": ("--arch", "transformer")}, "--arch: that of --late-reset stays"),
        ({"converge_updates": 9}, "--converge-updates goes with --converge or --converge-iterations"),
        ({"converge": True, "converge_updates": 2}, "--converge-updates 2 counts from the first update of the "
         "pretraining, which has 2: give more"),
        ({"given": ("--seed", "4", "--max-update=5", "--save-dir", "x")}, "options of fairseq-train: --save-dir: set "
         "by the command itself; --seed: set by the command itself; --max-update: set by the command itself"),
        ({"given": ("--no-such-option",)}, "options of fairseq-train: unrecognized arguments: --no-such-option"),
        ({"given": ("--encoder-layers", "7")}, "--arch nmtprune continues from {checkpoint}: --encoder-layers 7: the "
         "checkpoint has 2"),
        ({"given": ("--validate-interval-updates", "3", "--save-interval-updates", "2")}, "options of fairseq-train: "
         "--save-interval-updates 2 is not --validate-interval-updates 3: what is validated is saved, give the second "
         "one alone"),
        ({"max_drop": "a lot"}, "--max-drop 'a lot': give a number of points from 0 on, or significant"),
        ({"kinds": "middle"}, "kinds 'middle' (choose among encoder, decoder, cross): unknown kind 'middle'"),
        ({"output": Path("-")}, "-o -: a run writes many files: name a folder (--format json prints the table too)"),
    ],
)  # fmt: skip
def test_usage(tiny: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "run"
    run = replace(lottery_run(tiny, folder), **changes)
    with pytest.raises(UsageError) as raised:
        prepared(run)
    assert str(raised.value) == message.format(checkpoint=tiny) and not folder.exists()


def test_heads(tiny: Path, tmp_path: Path) -> None:
    error = _refused(tiny, tmp_path / "run", heads_per_iteration=8)
    assert isinstance(error, BudgetError)
    assert str(error) == "--heads-per-iteration 8 is more than the 6 that --until removes in all"
    error = _refused(tiny, tmp_path / "run", min_heads_per_module=1, until="90%")
    assert str(error).startswith("22 heads cannot be removed: 0 to 18 of the 24 heads")


def test_checkpoints(tiny: Path, tiny_lm: Path, tmp_path: Path) -> None:
    folder, bare = tmp_path / "run", tmp_path / "bare.pt"
    FairseqCheckpoint.load(tiny).without_optimizer().save(bare)
    error = _refused(tiny, folder, late_reset=bare)
    assert isinstance(error, CheckpointError)
    assert str(error) == (
        f"{bare}: has no optimizer state, so its training cannot go on at its update: save it without "
        "--no-save-optimizer-state"
    )
    assert isinstance(_refused(tiny, folder, late_reset=tiny_lm), NmtpruneError)
    assert (
        str(_refused(tiny, folder, late_reset=tmp_path / "none.pt")) == f"{tmp_path / 'none.pt'}: there is no such file"
    )
    error = _refused(tiny, folder, late_reset=None, pretrain_updates=3, given=(*SCRATCH[:-6], "--arch", "fconv"))
    assert isinstance(error, UsageError)
    assert str(error).startswith("options of fairseq-train: unsupported: architecture 'fconv'")


def test_a_training_that_only_the_user_can_name(build: Build, tmp_path: Path) -> None:
    path = build(updates=1, optimizer="nag", lr_scheduler="fixed")
    error = _refused(path, tmp_path / "run")
    assert str(error) == f"{path}: its training: --optimizer is 'nag': name it with its settings after --"
    assert prepared(lottery_run(path, tmp_path / "run", given=(*FAST, "--optimizer", "nag"))).schedule.late_reset == 1


def test_data(tiny: Path, tmp_path: Path) -> None:
    folder, data_bin = tmp_path / "run", tmp_path / "data-bin"
    shutil.copytree(tiny.parent / "data-bin", data_bin)
    for path in data_bin.glob("valid*"):
        path.unlink()
    data = DataOptions(data_bin=data_bin, subset="test")
    error = _refused(tiny, folder, data=data)
    assert isinstance(error, DataError)
    assert str(error) == f"{data_bin}: no subset 'valid'; there are test, train"
    assert (
        prepared(lottery_run(tiny, folder, data=data, given=(*FAST, "--valid-subset", "test"))).schedule.iterations == 2
    )
    assert isinstance(
        _refused(tiny, folder, data=DataOptions(data_bin=tiny.parent / "data-bin", subset="dev")), DataError
    )


def test_disk(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Usage = namedtuple("Usage", "total used free")
    parameters = sum(tensor.numel() for tensor in FairseqCheckpoint.load(tiny).parameters.values())
    needed = 4 * parameters * (3 * 7 + 4)
    free = needed
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2 * free, free, free))
    asked = {"converge": True, "controls": ("random", "reinit")}
    prepared(lottery_run(tiny, tmp_path / "run", **asked))
    free -= 1
    error = _refused(tiny, tmp_path / "run", **asked)
    assert isinstance(error, OutputError)
    assert str(error) == (
        f"{tmp_path / 'run'}: the run takes up to {needed / 1e6:.1f} MB and its disk has {needed / 1e6:.1f} MB left: "
        "free some, or name a folder on another disk"
    )


def test_a_pretraining_is_sized_like_the_checkpoint_that_it_makes(tiny: Path, tmp_path: Path) -> None:
    """Heads and disk are known before there is a model."""
    sizes = ("--encoder-layers", "3", "--decoder-layers", "2", "--encoder-attention-heads", "2")
    widths = ("--encoder-embed-dim", "32", "--decoder-embed-dim", "32", "--decoder-attention-heads", "8")
    run = lottery_run(
        tiny, tmp_path / "run", late_reset=None, pretrain_updates=5, given=(*SCRATCH, *sizes, *widths), until="50%"
    )
    job = prepared(run)
    assert (job.schedule.of_all, job.schedule.late_reset, job.schedule.pretrains) == (3 * 2 + 2 * 2 * 8, 5, True)
    assert job.schedule.removed[-1] == 19 and "--arch" not in job.given


def test_trainings_differ_in_their_order_of_the_data(tiny: Path, tmp_path: Path) -> None:
    job = prepared(lottery_run(tiny, tmp_path / "run"))
    first, second = (iteration(job, number, 24).command().argv for number in (1, 2))
    assert [first[first.index("--seed") + 1], second[second.index("--seed") + 1]] == [
        str(order_seed(1, "iteration-01")), str(order_seed(1, "iteration-02"))
    ]  # fmt: skip
    seeds = [order_seed(seed, name) for seed in (0, 1) for name in ("iteration-01", "iteration-02", "convergence")]
    assert len(set(seeds)) == 6 and all(0 <= seed < 2**31 for seed in seeds)
    assert order_seed(1, "iteration-01") == order_seed(1, "iteration-01")


def test_defaults_continue_the_training_of_the_checkpoint(tiny: Path, tmp_path: Path) -> None:
    words = prepared(lottery_run(tiny, tmp_path / "run")).given
    for name, value in (
        ("--lr", "0.01"), ("--lr-scheduler", "inverse_sqrt"), ("--warmup-updates", "4"),
        ("--criterion", "cross_entropy"), ("--adam-betas", "(0.9, 0.98)"), ("--optimizer", "adam"),
        ("--source-lang", "xx"),
    ):  # fmt: skip
        assert words[words.index(name) + 1] == value
    assert words.count("--max-tokens") == 1 and words[words.index("--max-tokens") + 1] == "60"
