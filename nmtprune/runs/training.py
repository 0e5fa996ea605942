"""fairseq-train as a step of a run: it starts from a checkpoint or from scratch, and goes on where it was stopped."""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import files
from nmtprune.errors import CheckpointError, NotFiniteError, TrainingError
from nmtprune.runs.steps import Step, program, shown
from nmtprune.runs.training_options import Options, value_of

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint
from nmtprune.runs.watch import TrainingWatcher
from nmtprune.user_dir import USER_DIR

_ANEW = ("--reset-dataloader", "--reset-meters")
"""Weights, moments and schedule go on; the order of the data and the best loss so far begin anew."""

_LOG = "train.log"


@dataclass(frozen=True)
class Training:
    """One training with fairseq-train, which goes on in the folder where it was stopped.

    Attributes:
        name: of the step, and of its log.
        title: what it trains, for people.
        data_bin: binarized data.
        start: the checkpoint from which the first call starts; None trains from scratch.
        folder: fairseq's ``--save-dir``: where `folder` has a last checkpoint, the call goes on from there.
        options: what is trained and how.
        given: further options of the user, as typed; they come last.
        on_cpu: train without a GPU.
        rewinds: the first call takes moments and schedule from `start` too, and counts updates from there; else it has
            a new optimizer and schedule.
        first_update: updates that `start` counts then, for the bar.
    """

    name: str
    title: str
    data_bin: Path
    start: Path | None
    folder: Path
    options: Options
    given: tuple[str, ...]
    on_cpu: bool
    rewinds: bool = False
    first_update: int = 0

    @property
    def last(self) -> Path:
        """The checkpoint with which training ends."""
        return self.folder / "checkpoint_last.pt"

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation so far."""
        return self.folder / "checkpoint_best.pt"

    def next_log(self) -> Path:
        """A name for its output beside `folder`: each call after an interruption has its own."""
        names = itertools.chain([_LOG], (_LOG.replace(".", f"-{number}.") for number in itertools.count(2)))
        return next(path for name in names if not (path := self.folder.parent / name).exists())

    def repair(self) -> str | None:
        """Replace a last checkpoint that was being copied when training was killed; says so, None where it is whole.

        fairseq would refuse the file each time. It goes on from the best one, or starts again.
        """
        if not self.last.exists() or _whole(self.last):
            return None
        if self.best.exists() and _whole(self.best):
            # fairseq writes the best one whole before it copies it.
            with files.atomic_output(self.last, force=True) as file, self.best.open("rb") as best:
                shutil.copyfileobj(best, file)
            return f"{self.last}: cut off when the run was ended: training goes on from {self.best.name}"
        shutil.rmtree(self.folder)
        return f"{self.last}: cut off when the run was ended: its training starts again"

    @property
    def words(self) -> tuple[str, ...]:
        """What is trained and how, wherever its files lie."""
        cpu = ("--cpu",) if self.on_cpu and "--cpu" not in self.given else ()
        return (*cpu, *(word for option in self.options for word in option), *self.given)

    def step(self, watched: Sequence[str] = ()) -> Step:
        """The command; `watched` names figures of fairseq's log to show beside the loss.

        Raises:
            EngineError: fairseq is not installed.
        """
        argv = (
            *(program("fairseq-train"), shown(self.data_bin), "--user-dir", shown(USER_DIR)),
            *(*self._beginning(), "--save-dir", shown(self.folder)),
            *("--log-format", "simple", *self.words),
        )
        updates, epochs = _end(argv)
        watch = TrainingWatcher(updates, epochs, tuple(watched), self.first_update)
        return Step(self.name, self.title, argv, watch=watch, error=TrainingError)

    def _beginning(self) -> tuple[str, ...]:
        if self.start is None:
            return ()
        if not self.rewinds:
            # fairseq itself looks for a last checkpoint first.
            return "--arch", "nmtprune", "--finetune-from-model", shown(self.start)
        restored = () if self.last.exists() else ("--restore-file", shown(self.start), *_ANEW)
        return "--arch", "nmtprune", *restored


def load_trained(path: Path) -> "TrainableCheckpoint":
    """A checkpoint that a training of ours wrote.

    Raises:
        TrainingError: weights that are NaN or infinite: the training diverged.
        CheckpointError: it cannot be read.
    """
    from nmtprune.formats import load

    try:
        return load(path).trainable()
    except NotFiniteError as error:
        raise TrainingError(f"training diverged: {error}; start over with a lower --lr or --clip-norm") from None


def _whole(path: Path) -> bool:
    from nmtprune.formats import load

    try:
        load(path, finite=False)
    except CheckpointError:
        return False
    return True


def _end(argv: Sequence[str]) -> tuple[int | None, int | None]:
    """Updates or epochs with which training ends, for the bar."""
    updates, epochs = (
        int(text) if text is not None and text.isdecimal() else None
        for text in (value_of(argv, "--max-update"), value_of(argv, "--max-epoch"))
    )
    return (updates, None) if updates else (None, epochs)
