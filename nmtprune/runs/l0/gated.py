"""Checkpoints with gates: which of a training counts, and the plan that its open gates are."""

import math
from pathlib import Path

from nmtprune.architecture import HeadId
from nmtprune.errors import CheckpointError
from nmtprune.formats.trainable import TrainableCheckpoint
from nmtprune.plan import Plan
from nmtprune.runs.training import load_trained


def load_gated(path: Path) -> tuple[TrainableCheckpoint, Plan]:
    """A checkpoint as the model that its gates make at test time, and the plan that keeps its open heads.

    Raises:
        CheckpointError: it cannot be read, or has no gates.
        TrainingError: its training diverged.
    """
    checkpoint = load_trained(path)
    if checkpoint.open_heads is None:
        raise CheckpointError(f"{path}: there are no gates in it")
    closed = [
        HeadId(module, head)
        for module, opened in checkpoint.open_heads.items()
        for head in range(checkpoint.architecture[module].heads)
        if head not in opened
    ]
    return checkpoint, Plan.removing(checkpoint.base, closed)


def chosen_checkpoint(last: Path, *, best: bool) -> Path:
    """The checkpoint that a training is known by: the last, or of those with its open gates the best one.

    The lowest validation loss of a whole training is normally that of the least pruned model.

    Args:
        last: of the training; the others lie beside it.
        best: choose by validation loss.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    if not best:
        return last
    _, plan = load_gated(last)
    losses = {last: _validation_loss(load_gated(last)[0])}
    for path in sorted(last.parent.glob("checkpoint*.pt")):
        checkpoint, other = load_gated(path)
        if other.keep == plan.keep and path != last:
            losses[path] = _validation_loss(checkpoint)
    return min(losses, key=lambda path: losses[path])


def _validation_loss(checkpoint: TrainableCheckpoint) -> float:
    value = checkpoint.progress.validation
    return math.inf if value is None else value
