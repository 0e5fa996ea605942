"""Checkpoints that were trained with gates: the plan of what is open, and the one that a training is known by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.trainable import TrainableCheckpoint
from nmtprune.plan import Plan
from nmtprune.training.fairseq_train import load_trained


def load_gated(path: Path) -> tuple[TrainableCheckpoint, Plan]:
    """A checkpoint as the model that its gates make at test time, and the plan that keeps its open units.

    Raises:
        CheckpointError: it cannot be read, or has no gates.
        TrainingError: its training diverged.
    """
    checkpoint = load_trained(path)
    if checkpoint.open_units is None:
        raise CheckpointError(f"{path}: there are no gates in it")
    return checkpoint, plan_of_open(checkpoint, checkpoint.open_units)


def plan_of_open(checkpoint: Checkpoint, opened: Mapping[GroupId, Sequence[int]]) -> Plan:
    """The plan that removes the units of groups with gates that are not open."""
    closed = [
        UnitId(group, number)
        for group, own in opened.items()
        for number in sorted(set(checkpoint.architecture.units[group]).difference(own))
    ]
    return Plan.removing(checkpoint.base, closed)


def chosen_checkpoint(last: Path, *, best: bool) -> tuple[TrainableCheckpoint, Plan]:
    """The checkpoint that a training is known by: the last, or of those with its open gates the best one.

    The lowest validation loss of a whole training is normally that of the least pruned model.

    Args:
        last: of the training; the others lie beside it.
        best: choose by validation loss.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    chosen, plan = load_gated(last)
    others = sorted({*last.parent.glob("checkpoint*.pt")} - {last}) if best else ()
    for path in others:
        checkpoint, other = load_gated(path)
        if other.keep == plan.keep and _validation_loss(checkpoint) < _validation_loss(chosen):
            chosen, plan = checkpoint, other
    return chosen, plan


def _validation_loss(checkpoint: TrainableCheckpoint) -> float:
    value = checkpoint.progress.validation
    return math.inf if value is None else value
