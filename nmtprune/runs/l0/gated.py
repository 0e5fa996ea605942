"""Checkpoints with gates: which of a training counts, and the plan that its open gates are."""

import math
from pathlib import Path
from typing import Any

from nmtprune.architecture import HeadId
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from nmtprune.runs.training import load_trained


def load_gated(path: Path) -> tuple[FairseqCheckpoint, Plan]:
    """A checkpoint as the model that its gates make at test time, and the plan that keeps its open heads.

    Raises:
        CheckpointError: it cannot be read, or has no gates.
        TrainingError: its training diverged.
    """
    checkpoint = load_trained(path)
    if not isinstance(checkpoint, FairseqCheckpoint) or checkpoint.gates is None:
        raise CheckpointError(f"{path}: there are no gates in it")
    closed = [
        HeadId(module, head)
        for module, opened in checkpoint.gates.open.items()
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


def _validation_loss(checkpoint: FairseqCheckpoint) -> float:
    extra: Any = checkpoint.state.get("extra_state")
    value = extra.get("val_loss") if isinstance(extra, dict) else None
    return float(value) if isinstance(value, int | float) else math.inf
