"""What a checkpoint keeps of its training: how far it is; left out where it speaks of another model."""

from collections.abc import Mapping, Sequence
from typing import Any

from nmtprune.formats.fairseq import optimizer
from nmtprune.formats.fairseq.containers import State
from nmtprune.formats.trainable import Progress

_EARLY = ("optimizer", "best_loss", "epoch", "batch_offset", "val_loss")
"""Where the first versions of fairseq kept the progress of training, at top level."""


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


def last_rate(state: State) -> float | None:
    """Learning rate of the last update; None where the file has no optimizer state."""
    saved = state.get("last_optimizer_state")
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    first = groups[0] if isinstance(groups, Sequence) and groups else None
    rate = first.get("lr") if isinstance(first, Mapping) else None
    rate = rate[0] if isinstance(rate, list | tuple) and rate else rate
    return rate if isinstance(rate, int | float) and not isinstance(rate, bool) and rate > 0 else None


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
