"""The folder of a lottery run: what lies where, what goes when it is no longer needed, and the disk that it takes."""

import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.errors import OutputError
from nmtprune.runs.lottery.schedule import Schedule, Ticket, iteration_name
from nmtprune.runs.report import ReportFiles
from nmtprune.training.options import count_parameters

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint

DATA, TEST = "data", "test data"
SCORED, CALIBRATION = "sentences to score heads on", "calibration text"
"""Sentences besides DATA, which not every run has."""

ITERATIONS = "iterations"
PLAN, TICKET, LATE_RESET = "plan.json", "ticket.pt", "late-reset.pt"

START, MODEL, CHECKPOINTS = "start.pt", "model.pt", "checkpoints"

_PRETRAINING, _CONVERGED = "pretraining", "converged"
_FP32_BYTES = 4
_COPIES = 3
"""Of every weight in a checkpoint: itself and two moments of Adam."""
_AT_ONCE = 6
"""Checkpoints with moments that lie in a run folder at the same time: the late-resetting one, the start of a training,
its last, its best, one inside an epoch, and one that is being written."""


def report_files(run: Path) -> ReportFiles:
    """Result, tables and picture."""
    return replace(ReportFiles.beside(run / "lottery.json"), tables={ITERATIONS: run / f"{ITERATIONS}.tsv"})


def outputs(run: Path) -> list[Path]:
    """What a run writes beside its state and its folders."""
    return [*report_files(run), *(run / name for name in (PLAN, TICKET, LATE_RESET))]


def pretraining_folder(run: Path) -> Path:
    """Of the late-resetting checkpoint's training."""
    return run / _PRETRAINING


def iteration_folder(run: Path, number: int) -> Path:
    """Of an iteration."""
    return run / ITERATIONS / iteration_name(number)


def converged_folder(run: Path, ticket: Ticket) -> Path:
    """Of a convergence."""
    return run / _CONVERGED / ticket.name


def start_over(run: Path) -> None:
    """Remove what an earlier run left: fairseq would go on from its checkpoints."""
    for name in (_PRETRAINING, ITERATIONS, _CONVERGED):
        shutil.rmtree(run / name, ignore_errors=True)
    for path in outputs(run):
        path.unlink(missing_ok=True)


def drop_checkpoints(stage: Path) -> None:
    """Remove what a finished stage needs no more; plans, scores, logs and models stay."""
    shutil.rmtree(stage / CHECKPOINTS, ignore_errors=True)
    (stage / START).unlink(missing_ok=True)


def bytes_needed(args: Namespace, checkpoint: "TrainableCheckpoint | None", schedule: Schedule) -> int:
    """Disk that a run takes at the most, about."""
    if checkpoint is not None:
        weights = sum(tensor.numel() for tensor in checkpoint.parameters.values())
    else:
        weights = count_parameters(args)
    model = weights * _FP32_BYTES
    return model * (_COPIES * (_AT_ONCE + 1) + len(schedule.tickets))


def check_space(run: Path, needed: int) -> None:
    """Check that the disk of a run folder has room for it, beside what the run has written already.

    Raises:
        OutputError: it has not.
    """
    there = next(path for path in (run, *run.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    needed -= sum(path.stat().st_size for path in run.rglob("*.pt"))
    if free < needed:
        raise OutputError(
            f"{run}: the run takes up to {_size(needed)} and its disk has {_size(free)} left: free some, or name a "
            "folder on another disk"
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
