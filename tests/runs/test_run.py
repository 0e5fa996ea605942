"""How a run begins and ends: what is checked first, what an interruption leaves, what is told once."""

import os
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch.distributed

from nmtprune.data.options import DataOptions
from nmtprune.errors import OutputError, UsageError
from nmtprune.progress import Silent
from nmtprune.runs.run import FolderRun, ReportRun, started
from nmtprune.runs.state import NO_SETTING, Interrupted, State, pack
from nmtprune.runs.workers import Joined
from tests.support.notes import Notes

DATA = DataOptions(data_bin=Path("data-bin"))


@dataclass(frozen=True, kw_only=True)
class Measured(ReportRun):
    """A run that writes a report."""

    beam: int = 5
    note: str = field(default="", metadata=NO_SETTING)

    def check(self) -> None:
        super().check()
        if self.beam < 1:
            raise UsageError("--beam: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class Swept(FolderRun):
    """A run that writes a folder."""

    prints = "curves"

    @property
    def written(self) -> list[str]:
        return ["curve.json"]


def measured(tmp_path: Path, **changes: Any) -> Measured:
    return Measured(data=DATA, output=tmp_path / "scores.json", **changes)


def test_sigterm_keeps_finished_work_and_says_how_to_continue(tmp_path: Path) -> None:
    run, before = measured(tmp_path), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised, started(run, Silent()) as session:
        session.open_state({"model": "abc"}).add("encoder.0", pack({"x": np.ones(2)}))
        os.kill(os.getpid(), signal.SIGTERM)
    state = tmp_path / "scores.json.state"
    assert str(raised.value) == (
        f"interrupted: finished work is kept in {state}; run the same command with --resume to continue"
    )
    assert raised.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) is before
    with started(replace(run, resume=True), Silent()) as session:
        assert session.open_state({"model": "abc"}).units == ("encoder.0",)


def test_nothing_to_continue_is_a_plain_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), started(measured(tmp_path), Silent()) as session:
        session.open_state({})
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_any_process_says_how_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmtprune.runs.run.processes", lambda: Joined(torch.distributed.HashStore(), rank=1, size=2))
    run = measured(tmp_path)
    with pytest.raises(KeyboardInterrupt), started(run, Silent(), shared=True):
        raise KeyboardInterrupt
    State.open(run.state_path, {}, resume=False).add("one", pack({}))  # by the process that leads
    with pytest.raises(Interrupted, match="is kept in .*scores.json.state"), started(run, Silent(), shared=True):
        raise KeyboardInterrupt
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(Interrupted, match="is kept in"), started(run, Silent(), shared=True):
        pass  # and waits for the process that leads


def test_the_state_has_the_settings_of_the_run(tmp_path: Path) -> None:
    with started(measured(tmp_path, beam=2, note="a"), Silent()) as session:
        session.open_state({"model": "abc"}).add("one", pack({}))
    other = measured(tmp_path, beam=3, note="b", resume=True)
    with pytest.raises(OutputError) as raised, started(other, Silent()) as session:
        session.open_state({"model": "abd"})
    assert str(raised.value).endswith('): --beam was 2, is 3; model was "abc", is "abd"')


def test_options_are_checked_before_outputs(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("old")
    with pytest.raises(UsageError, match="--beam: give 1 or more"), started(measured(tmp_path, beam=0), Silent()):
        pytest.fail("the block is not reached")
    with pytest.raises(OutputError) as raised, started(measured(tmp_path), Silent()):
        pytest.fail("the block is not reached")
    assert str(raised.value) == f"{tmp_path / 'scores.json'}: exists (`force` replaces it)"
    assert (tmp_path / "scores.json").read_text() == "old"


def test_standard_output_takes_no_report_and_no_folder(tmp_path: Path) -> None:
    report, folder = (kind(data=DATA, output=Path("-")) for kind in (Measured, Swept))
    for run, message in (
        (report, "-o -: a table and a picture are written next to the result: name a file (--format json prints it "
         "too)"),
        (folder, "-o -: a run writes many files: name a folder (--format json prints the curves too)"),
    ):  # fmt: skip
        with pytest.raises(UsageError) as raised, started(run, Silent()):
            pytest.fail("the block is not reached")
        assert str(raised.value) == message


def test_folders_of_other_runs(tmp_path: Path) -> None:
    run = Swept(data=DATA, output=tmp_path / "run")

    def refusal(run: Swept) -> str:
        with pytest.raises(OutputError) as raised:
            run.check_output()
        return str(raised.value).removeprefix(f"{run.output}: ")

    run.check_output()
    run.output.mkdir()
    run.check_output()
    (run.output / "mine").write_text("")
    assert refusal(run) == "is not empty (--force writes into it)"
    State.open(run.state_path, {}, resume=False).add("one", pack({}))
    assert refusal(run) == "holds a run already: --resume continues it, --force starts over"
    replace(run, force=True).check_output()
    replace(run, resume=True).check_output()
    assert refusal(replace(run, output=run.output / "mine")) == "is a file, not a run folder"


def test_remarks_are_told_once(tmp_path: Path) -> None:
    watcher = Notes()
    corpora = [SimpleNamespace(name="valid", notes=("a", "b")), SimpleNamespace(name="valid", notes=("b", "c"))]
    with started(measured(tmp_path), watcher) as session:
        for corpus in corpora:
            session.note(cast(Any, corpus))
    assert watcher.lines == ["valid: a", "valid: b", "valid: c"]
