"""How far trainings and translations are: what their logs say, and a training as a stage of a run."""

import pytest

from nmtprune.cli.progress_bar import _Lines
from nmtprune.process import ProgressUpdate
from nmtprune.progress import Silent
from nmtprune.training.bar import TrainingBar, TrainingWatcher, watch_translation


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
        bar.update(ProgressUpdate(fraction, f"at {fraction}"))
    assert (progress.stages[-1], progress.all, bar.text) == (40, pytest.approx(120), "at 0.4")
    bar.call()
    assert progress.stages[-1] == 40 and bar.begun is None
    bar.update(ProgressUpdate(0.41, "on"))
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


INNER = (
    "2026-01-01 00:00:00 | INFO | train_inner | epoch 002:     34 / 366 loss=2.066, nll_loss=0.75, ppl=1.68, "
    "wps=7271, num_updates=400, lr=0.002\n"
)
VALID = (
    "2026-01-01 00:00:00 | INFO | valid | epoch 002 | valid on 'valid' subset | loss 1.682 | nll_loss 0.299 | ppl 1\n"
)


def test_training_by_updates_and_by_epochs() -> None:
    assert TrainingWatcher(updates=1000)(INNER) == ProgressUpdate(0.4, "update 400 of 1,000, loss 2.066")
    by_epochs = TrainingWatcher(epochs=4)(INNER)
    assert by_epochs is not None
    assert by_epochs.fraction == pytest.approx((1 + 34 / 366) / 4)
    assert by_epochs.text == "epoch 2 of 4, update 34 of 366, loss 2.066"
    assert TrainingWatcher()(INNER) == ProgressUpdate(None, "epoch 2, update 34 of 366, loss 2.066")
    assert TrainingWatcher(updates=1000)(VALID) == ProgressUpdate(None, "validation loss 1.682")
    assert TrainingWatcher(updates=1000)("something else\n") is None


def test_translation_by_batches() -> None:
    assert watch_translation("INFO:fairseq.logging.progress_bar::     3 / 12 wps=512\n") == ProgressUpdate(
        0.25, "batch 3 of 12"
    )
    assert watch_translation("INFO:fairseq_cli.generate:loading model(s)\n") is None
