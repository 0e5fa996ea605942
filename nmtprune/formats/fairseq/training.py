"""What a checkpoint keeps of its training: how far it is; left out where it speaks of another model."""

from dataclasses import dataclass
from typing import Any

from nmtprune.formats.fairseq import optimizer
from nmtprune.formats.fairseq.containers import State

_EARLY = ("optimizer", "best_loss", "epoch", "batch_offset", "val_loss")
"""Where the first versions of fairseq kept the progress of training, at top level."""


@dataclass(frozen=True)
class Progress:
    """How far the training of a checkpoint is.

    Attributes:
        updates: made so far.
        epochs: complete.
        within_epoch: some batches of another epoch are done.
        validation: what fairseq chose the best checkpoint by, at this one; None where it was not measured.
    """

    updates: int
    epochs: int
    within_epoch: bool
    validation: float | None


def progress(state: State) -> Progress:
    """Read how far training is; what the file does not tell is 0."""
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    extra = state.get("extra_state")
    iterator = extra.get("train_iterator") if isinstance(extra, dict) else None
    validation = extra.get("val_loss") if isinstance(extra, dict) else None
    return Progress(
        updates=_count(last, "num_updates"),
        epochs=max(_count(iterator, "epoch") - 1, 0),
        within_epoch=_count(iterator, "iterations_in_epoch") > 0,
        validation=float(validation) if isinstance(validation, int | float) else None,
    )


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def without_best(state: State) -> dict[str, Any]:
    """The checkpoint without the best validation score so far, which another model reached."""
    extra = state.get("extra_state")
    if not isinstance(extra, dict) or "best" not in extra:
        return dict(state)
    return {**state, "extra_state": {name: value for name, value in extra.items() if name != "best"}}


def at_start(state: State) -> dict[str, Any]:
    """The checkpoint before the first update: no optimizer state, meters, averages or best score; epoch 1 follows."""
    found = {name: value for name, value in optimizer.without_state(state).items() if name not in _EARLY}
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history and isinstance(history[-1], dict) else {}
    names = {name: last.get(name, "") for name in ("criterion_name", "optimizer_name")}
    found["optimizer_history"] = [{**names, "lr_scheduler_state": {"best": None}, "num_updates": 0}]
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    found["extra_state"] = {"train_iterator": iterator}
    return found
