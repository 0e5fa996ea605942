"""Runs the trainings of a lottery run to their ends; each goes on where a killed run left it.

fairseq counts the validations of ``--patience`` anew when it is started again, so that a resumed training would end
elsewhere. Here a training is called with the end that it has to reach at least, and again with a later one as long as
there was a better validation on the way.
"""

import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.errors import OutputError, TrainingError
from nmtprune.runs import run_folder
from nmtprune.runs.progress import Progress
from nmtprune.runs.steps import StepFailed, run_step
from nmtprune.runs.training import Training
from nmtprune.runs.training_bar import TrainingBar
from nmtprune.runs.training_options import Options

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainingProgress


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
            self._call(training, (("--max-update", str(updates)),), bar, spent)
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
            self._call(training, patience.ends(target.validation), bar, Stopwatch())
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
        run_folder.create(training.folder.parent)
        repaired = training.repair()
        if repaired:
            self._progress.note(repaired)
        return self._progress_of(training.last)

    def _progress_of(self, path: Path) -> "TrainingProgress | None":
        from nmtprune.formats import load

        return load(path, finite=False).trainable().progress if path.exists() else None

    def _check(self, training: Training, at: "TrainingProgress") -> None:
        if at.validation is not None and not math.isfinite(at.validation):
            raise TrainingError(
                f"{training.name}: training diverged: the validation at update {at.updates} is {at.validation}; what "
                f"was trained is in {training.folder}; start over with a lower --lr"
            )

    def _call(self, training: Training, ends: Options, bar: TrainingBar, spent: Stopwatch) -> None:
        log = training.next_log()
        bar.call()
        started = time.monotonic()
        step = replace(training, options=(*training.options, *ends)).step()
        try:
            run_step(step, log, bar, self._environment)
        except StepFailed as failed:
            raise _explained(failed, training, bar, log) from None
        except OSError as error:
            raise OutputError(f"{log}: cannot be written: {error.strerror}; what was trained is kept") from error
        ended = time.monotonic()
        spent.seconds += ended - started
        spent.start_up += (bar.begun or ended) - started


def _explained(failed: StepFailed, training: Training, bar: TrainingBar, log: Path) -> Exception:
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
