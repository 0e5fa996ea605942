"""What a checkpoint keeps of its training: left out where it speaks of another model."""

from typing import Any

from nmtprune.formats.fairseq import optimizer
from nmtprune.formats.fairseq.containers import State

_EARLY = ("optimizer", "best_loss", "epoch", "batch_offset", "val_loss")
"""Where the first versions of fairseq kept the progress of training, at top level."""


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
