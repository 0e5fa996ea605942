"""Trainings with fairseq-train: from a checkpoint or from scratch, to their ends, and on from where they were stopped.

fairseq counts the validations of ``--patience`` anew when it is started again, so that a resumed training would end
elsewhere. Here a training is called with the end that it has to reach at least, and again with a later one as long as
there was a better validation on the way.
"""

import itertools
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import files
from nmtprune.errors import CheckpointError, NotFiniteError, OutputError, TrainingError
from nmtprune.process import Command, CommandFailed, program, run_command, shown
from nmtprune.progress import Progress
from nmtprune.training.bar import TrainingBar, TrainingWatcher
from nmtprune.training.options import Options, value_of
from nmtprune.user_dir import USER_DIR

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint
    from nmtprune.formats.trainable import TrainingProgress as TrainingProgress

_ANEW = ("--reset-dataloader", "--reset-meters")
"""Weights, moments and schedule go on; the order of the data and the best loss so far begin anew."""

_LOG = "train.log"
_Stamp = tuple[int, ...]


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
        return next(path for path in self._logs() if not path.exists())

    def logs(self) -> list[Path]:
        """Its logs so far, in their order."""
        return list(itertools.takewhile(Path.exists, self._logs()))

    def _logs(self) -> Iterator[Path]:
        names = itertools.chain([_LOG], (_LOG.replace(".", f"-{number}.") for number in itertools.count(2)))
        return (self.folder.parent / name for name in names)

    def repair(self, read: Callable[[Path], object] | None = None) -> str | None:
        """Replace a last checkpoint that was being copied when training was killed; says so, None where it is whole.

        fairseq would refuse the file each time. It goes on from the best one, or starts again.

        Args:
            read: reads a checkpoint, or raises CheckpointError; None: `formats.load`.
        """
        if not self.last.exists() or _whole(self.last, read or _read):
            return None
        if self.best.exists() and _whole(self.best, read or _read):
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

    def command(self, watched: Sequence[str] = ()) -> Command:
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
        return Command(self.name, self.title, argv, watch=watch, error=TrainingError)

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
    return converging(_read(path))


def converging(checkpoint: "TrainableCheckpoint") -> "TrainableCheckpoint":
    """The same checkpoint, if a training of ours that wrote it did not diverge.

    Raises:
        TrainingError: weights that are NaN or infinite.
    """
    from nmtprune.formats import check_finite

    try:
        check_finite(checkpoint)
    except NotFiniteError as error:
        raise TrainingError(f"training diverged: {error}; start over with a lower --lr or --clip-norm") from None
    return checkpoint


@dataclass(frozen=True)
class Patience:
    """When a training has converged.

    Attributes:
        validations: so many without a better one end it.
        every: updates between validations; None: they are at the end of epochs.
        first_update: where training begins.
        most_updates: with which it ends in any case; None: patience alone ends it.
        maximizes: a higher value of fairseq's validation is better.
    """

    validations: int
    every: int | None
    first_update: int
    most_updates: int | None
    maximizes: bool

    @property
    def first(self) -> int:
        """Number of the first validation."""
        return 1 if self.every is None else self.first_update // self.every + 1

    @property
    def worst(self) -> float:
        """What every validation is better than."""
        return -math.inf if self.maximizes else math.inf

    def better(self, value: float, than: float) -> bool:
        """Whether a validation is better than another."""
        return value > than if self.maximizes else value < than

    def number(self, at: "TrainingProgress") -> int:
        """Number of the validation at a checkpoint, or of the next."""
        if self.every is None:
            return at.epochs + at.within_epoch
        return math.ceil(at.updates / self.every)

    def reached(self, at: "TrainingProgress | None", validation: int) -> bool:
        """Whether a training is at that validation, or at the most updates."""
        if at is None:
            return False
        if self.most_updates is not None and at.updates >= self.most_updates:
            return True
        if self.every is None:
            return at.epochs >= validation
        return at.updates >= validation * self.every

    def ends(self, validation: int) -> Options:
        """Options that end a training there."""
        if self.every is not None:
            number = validation * self.every
            return (("--max-update", str(min(number, self.most_updates or number))),)
        most = () if self.most_updates is None else (("--max-update", str(self.most_updates)),)
        return (("--max-epoch", str(validation)), *most)


@dataclass(frozen=True)
class Target:
    """How far a convergence must be trained at least.

    Attributes:
        validation: number of the validation.
        better_than: the best one before; training goes on from there only if it was surpassed.
    """

    validation: int
    better_than: float


@dataclass
class Stopwatch:
    """Where the time of trainings went, in this process.

    Attributes:
        seconds: of all calls of fairseq-train.
        start_up: of these, until the first batch.
    """

    seconds: float = 0.0
    start_up: float = 0.0


class Trainer:
    """Calls fairseq-train until a training is where it must be."""

    def __init__(self, progress: Progress, environment: Mapping[str, str]) -> None:
        """Show trainings in `progress`; `environment` is that of fairseq-train."""
        self._progress, self._environment = progress, environment
        self._held: dict[_Stamp, TrainableCheckpoint] = {}

    def read(self, path: Path) -> "TrainableCheckpoint":
        """A checkpoint, diverged or not; read again only if the file has changed, or after `forget`.

        Raises:
            CheckpointError: it cannot be read.
        """
        stamp = _stamp(path)
        if stamp not in self._held:
            self._held[stamp] = _read(path)
        held = self._held[stamp]
        return held if held.path == path else replace(held, path=path)

    def forget(self) -> None:
        """Hold no checkpoint any longer: its files will change, or go."""
        self._held.clear()

    def complete(self, training: Training, watched: Sequence[str] = ()) -> None:
        """Train to the end that the options of the training say.

        Args:
            training: what to train.
            watched: figures of fairseq's log to show beside the loss.

        Raises:
            TrainingError: training failed or diverged.
            OutputError: the disk is full.
        """
        bar = TrainingBar(self._progress, training.title)
        self._begin(training)
        self._call(training, (), bar, watched)

    def reach(self, training: Training, updates: int, weight: float) -> Stopwatch:
        """Train to an update; nothing is done where the last checkpoint is there already.

        Args:
            training: what to train.
            updates: of the end.
            weight: steps of the whole run that it is.

        Raises:
            TrainingError: training failed or diverged.
            OutputError: the disk is full.
        """
        spent, bar = Stopwatch(), TrainingBar(self._progress, training.title, weight)
        at = self._begin(training)
        if at is None or at.updates < updates:
            spent = self._call(training, (("--max-update", str(updates)),), bar)
            at = self._progress_of(training.last)
        if at is None or at.updates != updates:
            raise TrainingError(
                f"{training.name}: fairseq-train ended at update {at.updates if at else 0}, not {updates}"
            )
        self._check(training, at)
        bar.complete()
        return spent

    def converge(self, training: Training, patience: Patience, target: Target, bar: TrainingBar) -> Target | None:
        """Train to a target, shown in `bar`.

        Returns:
            The next target; None where training has converged.

        Raises:
            TrainingError, OutputError: as for `reach`.
        """
        at = self._begin(training)
        if not patience.reached(at, target.validation):
            self._call(training, patience.ends(target.validation), bar)
            at = self._progress_of(training.last)
        best = self._progress_of(training.best)
        if at is None or best is None or best.validation is None:
            raise TrainingError(f"{training.name}: no checkpoint has a validation: {training.folder}")
        self._check(training, best)
        if not patience.reached(at, target.validation):
            raise TrainingError(f"{training.name}: fairseq-train ended at update {at.updates}, too early")
        at_most = patience.most_updates is not None and at.updates >= patience.most_updates
        following = Target(patience.number(best) + patience.validations, best.validation)
        better = patience.better(best.validation, target.better_than)
        if better and not at_most and not patience.reached(at, following.validation):
            return following
        bar.complete()
        return None

    def _begin(self, training: Training) -> "TrainingProgress | None":
        """Where a training is; its folder is made, and a last checkpoint that is cut off goes."""
        files.make_folder(training.folder.parent)
        repaired = training.repair(self.read)
        if repaired:
            self._progress.note(repaired)
        return self._progress_of(training.last)

    def _progress_of(self, path: Path) -> "TrainingProgress | None":
        return self.read(path).progress if path.exists() else None

    def _check(self, training: Training, at: "TrainingProgress") -> None:
        if at.validation is not None and not math.isfinite(at.validation):
            raise TrainingError(
                f"{training.name}: training diverged: the validation at update {at.updates} is {at.validation}; what "
                f"was trained is in {training.folder}; start over with a lower --lr"
            )

    def _call(self, training: Training, ends: Options, bar: TrainingBar, watched: Sequence[str] = ()) -> Stopwatch:
        log = training.next_log()
        bar.call()
        started = time.monotonic()
        command = replace(training, options=(*training.options, *ends)).command(watched)
        try:
            run_command(command, log, bar.update, self._environment)
        except CommandFailed as failed:
            raise _explained(failed, training, bar, log) from None
        except OSError as error:
            raise OutputError(f"{log}: cannot be written: {error.strerror}; what was trained is kept") from error
        ended = time.monotonic()
        # fairseq has written over files whose tensors are mapped.
        self._held = {stamp: held for stamp, held in self._held.items() if stamp == _stamp(held.path)}
        return Stopwatch(ended - started, (bar.begun or ended) - started)


def _stamp(path: Path) -> _Stamp:
    """Equal for a file that has not changed, or was renamed; nothing where there is none, which cannot be read."""
    if not path.exists():
        return ()
    there = path.stat()
    return there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size


def _read(path: Path) -> "TrainableCheckpoint":
    from nmtprune.formats import load

    return load(path, finite=False).trainable()


def _whole(path: Path, read: Callable[[Path], object]) -> bool:
    try:
        read(path)
    except CheckpointError:
        return False
    return True


def _explained(failed: CommandFailed, training: Training, bar: TrainingBar, log: Path) -> Exception:
    """Why a training failed, where, and what to do."""
    where = f"{failed.reason}" + (f", at {bar.text}" if bar.text else "")
    kept = f"what was trained is kept, all that fairseq-train said is in {log}"
    size = max((path.stat().st_size for path in (training.start, training.last) if path and path.exists()), default=0)
    free = shutil.disk_usage(log.parent).free
    if free < size or "No space left" in str(failed.reason):
        return OutputError(
            f"{training.folder}: the disk is full ({free / 1e6:.0f} MB free): free some and go on with --resume; "
            f"{where}; {kept}"
        )
    if "FloatingPointError" in str(failed.reason):
        return TrainingError(f"{where}: training diverged: start over with a lower --lr or --clip-norm; {kept}")
    return type(failed.reason)(f"{where}; {kept}")


def _end(argv: Sequence[str]) -> tuple[int | None, int | None]:
    """Updates or epochs with which training ends, for the bar."""
    updates, epochs = (
        int(text) if text is not None and text.isdecimal() else None
        for text in (value_of(argv, "--max-update"), value_of(argv, "--max-epoch"))
    )
    return (updates, None) if updates else (None, epochs)
