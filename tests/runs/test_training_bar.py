"""A training as a stage: its percents, those of the run around it, and several calls of fairseq-train."""

import pytest

from nmtprune.cli.progress import _Lines
from nmtprune.runs.progress import Silent
from nmtprune.runs.steps import Update
from nmtprune.runs.training_bar import TrainingBar


class Recorded(Silent):
    """Adds up what it is told."""

    def __init__(self) -> None:
        self.all, self.stages = 0.0, [0]

    def advance_all(self, steps: float) -> None:
        self.all += steps

    def begin(self, what: str, steps: int) -> None:
        self.stages.append(0)

    def advance(self, what: str, steps: int = 1, *, passing: bool = False) -> None:
        self.stages[-1] += steps


def test_calls_of_one_training_add_up() -> None:
    progress = Recorded()
    bar = TrainingBar(progress, "Train", weight=300)
    bar.call()
    for fraction in (None, 0.1, 0.1, 0.4):
        bar.update(Update(fraction, f"at {fraction}"))
    assert (progress.stages[-1], progress.all, bar.text) == (40, pytest.approx(120), "at 0.4")
    bar.call()
    assert progress.stages[-1] == 40 and bar.begun is None
    bar.update(Update(0.41, "on"))
    assert (progress.stages[-1], progress.all) == (41, pytest.approx(123)) and bar.begun is not None
    bar.complete()
    assert progress.all == pytest.approx(300)


def test_a_log_has_no_line_for_every_percent(capsys: pytest.CaptureFixture[str]) -> None:
    lines = _Lines()
    lines.begin_all("lottery", 1000)
    lines.begin("Train", 100)
    for percent in range(100):
        lines.advance_all(1)
        lines.advance(f"update {percent},", 1, passing=True)
    lines.advance("nothing new,", 0, passing=True)
    lines.begin("steps", 2)
    lines.advance("first")
    said = capsys.readouterr().err.splitlines()
    assert [line.split(" done")[0] for line in said] == ["Train ...", "Train: update 99,", "steps ...", "steps: first"]
    assert "; lottery 10%, " in said[1]
