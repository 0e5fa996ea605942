"""What a checkpoint keeps of its training besides the model: optimizer state, moving averages, progress.

fairseq stores the moments of parameters by position, per parameter or as one flat vector (fp16).
"""

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import containers
from nmtprune.formats.fairseq.containers import State, section
from nmtprune.formats.trainable import TrainingProgress

PREFIX = "optimizer"
"""Names are ``optimizer/MOMENT/PARAMETER``, for example ``optimizer/exp_avg/encoder.layers.0.fc1.weight``."""

Shapes = Mapping[str, tuple[int, ...]]

AVERAGES = {"ema": "ema", "ema_fp32": "ema_fp32_params"}
"""Prefix of names in `Checkpoint.tensors` -> key in ``extra_state``."""

_EARLY = ("optimizer", "best_loss", "epoch", "batch_offset", "val_loss")
"""Where the first versions of fairseq kept the progress of training, at top level."""


@dataclass(frozen=True)
class Optimizer:
    """The optimizer state of a checkpoint, seen as tensors of the parameters' shapes.

    Attributes:
        tensors: moments by prefixed name: the file's tensors, or views of its flat vectors.
        problem: why the state cannot change with the parameters; empty where it can.
        trained: names of the parameters that the state is of, in the order of its list of them.
    """

    tensors: Mapping[str, Tensor]
    problem: str = ""
    trained: tuple[str, ...] = ()


def has_optimizer(state: State) -> bool:
    """Whether the file holds optimizer state, in any of the places where fairseq's versions put it."""
    return any(holder.get(key) for holder, key in _places(state))


def without_optimizer(state: State) -> dict[str, Any]:
    """The checkpoint as fairseq writes it with ``--no-save-optimizer-state``."""
    found = {key: value for key, value in state.items() if key != "last_optimizer_state"}
    if "optimizer" in found:
        found["optimizer"] = None  # files of the first versions are not read without this key
    history = found.get("optimizer_history")
    if isinstance(history, list):
        found["optimizer_history"] = [_without(entry, "optimizer") for entry in history]
    return found


def with_new_moments(state: State) -> dict[str, Any]:
    """The checkpoint with a new optimizer at the same update: no moments, so that the first step makes them."""
    saved = state["last_optimizer_state"]
    return {**state, "last_optimizer_state": {**saved, "state": {}}}


def with_optimizer_of(state: State, other: State) -> dict[str, Any]:
    """The checkpoint with the optimizer state that another one keeps where today's fairseq keeps it."""
    return {**state, "last_optimizer_state": other["last_optimizer_state"]}


def read_moments(state: State, parameters: Shapes, extra: Shapes) -> Optimizer:
    """Find the moments of every parameter.

    Args:
        state: the checkpoint.
        parameters: shapes of the model's parameters in the order in which fairseq registers them.
        extra: shapes of the criterion's parameters, which follow.
    """
    if not has_optimizer(state):
        return Optimizer({})
    optimizer: Any = state.get("last_optimizer_state")
    sharding = section(state, "distributed_training").get("zero_sharding")
    if not _is_torch_state(optimizer) or sharding not in (None, "none"):
        return Optimizer({}, "is not that of a single optimizer (composite, sharded or of an early version)")
    every = {**parameters, **{f"criterion/{name}": shape for name, shape in extra.items()}}
    if not optimizer["state"]:
        # Nothing to compare sizes with: the list of parameters alone tells how many were trained.
        listed = len(_indices(optimizer))
        chosen = next((tuple(names) for names in _trainable(every) if len(names) == listed), ())
        return Optimizer({}, trained=chosen)
    problem = "has other sizes than the parameters"
    layouts = [
        (found, tuple(names)) for names in _trainable(every) if (found := _moments(optimizer, names)) is not None
    ]
    if len(layouts) != 1:
        problem = "fits several choices of trained parameters" if layouts else problem
        return Optimizer({}, problem)
    return Optimizer(layouts[0][0], trained=layouts[0][1])


def with_moments(state: State, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The checkpoint with other moments; a flat vector is put together again.

    Args:
        state: the checkpoint.
        tensors: by the names that `read_moments` gave, in that order.
    """
    moments: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        moments.setdefault(name.split("/")[1], []).append(tensor)
    optimizer = state["last_optimizer_state"]
    indices = _indices(optimizer)
    flat = len(indices) == 1 and any(len(found) > 1 for found in moments.values())
    entries: dict[Any, Any] = {index: dict(entry) for index, entry in optimizer["state"].items()}
    for moment, found in moments.items():
        if flat:
            entries[indices[0]][moment] = torch.cat([tensor.reshape(-1) for tensor in found])
            continue
        owners = [index for index in indices if moment in dict(_arrays(entries.get(index, {})))]
        for index, tensor in zip(owners, found, strict=True):
            entries[index][moment] = tensor
    return {**state, "last_optimizer_state": {**optimizer, "state": entries}}


def without_parameters(state: State, optimizer: Optimizer, gone: Container[str]) -> dict[str, Any]:
    """The checkpoint whose optimizer knows some parameters no longer.

    Args:
        state: the checkpoint.
        optimizer: as `read_moments` gave it, without a problem.
        gone: names of the parameters.

    Raises:
        CheckpointError: it has made no step, and the number of its parameters does not tell which they are.
    """
    saved = state["last_optimizer_state"]
    indices = _indices(saved)
    if len(indices) == 1 and not saved["state"]:
        return dict(state)
    if not optimizer.trained:
        raise CheckpointError(
            f"the optimizer state lists {len(indices)} parameters, which are not those of the model: leave it out "
            "with `drop_optimizer`"
        )
    if len(indices) == 1 and len(optimizer.trained) > 1:
        return with_moments(state, {n: t for n, t in optimizer.tensors.items() if n.split("/", 2)[2] not in gone})
    left = [index for index, name in zip(indices, optimizer.trained, strict=True) if name not in gone]
    entries = {place: saved["state"][index] for place, index in enumerate(left) if index in saved["state"]}
    group = {**saved["param_groups"][0], "params": list(range(len(left)))}
    return {**state, "last_optimizer_state": {**saved, "param_groups": [group], "state": entries}}


def _places(state: State) -> Iterator[tuple[Mapping[str, Any], str]]:
    yield state, "last_optimizer_state"
    yield state, "optimizer"
    for entry in state.get("optimizer_history") or ():
        if isinstance(entry, dict):
            yield entry, "optimizer"


def _without(entry: Any, key: str) -> Any:
    return {name: value for name, value in entry.items() if name != key} if isinstance(entry, dict) else entry


def _is_torch_state(optimizer: Any) -> bool:
    return (
        isinstance(optimizer, dict)
        and isinstance(optimizer.get("state"), dict)
        and isinstance(optimizer.get("param_groups"), list)
        and len(optimizer["param_groups"]) == 1
        and isinstance(optimizer["param_groups"][0].get("params"), list)
        and all(isinstance(entry, dict) for entry in optimizer["state"].values())
    )


def _indices(optimizer: Mapping[str, Any]) -> list[Any]:
    indices: list[Any] = optimizer["param_groups"][0]["params"]
    return indices


def _trainable(parameters: Shapes) -> Iterator[Shapes]:
    """All parameters, then what is left when tables, encoder or decoder are frozen; no choice twice."""
    tables = {name for name in parameters if ".embed_" in name}
    groups = [tables, *({n for n in parameters if n.startswith(stack)} - tables for stack in ("encoder.", "decoder."))]
    seen: list[set[str]] = []
    for frozen in (set().union(*some) for count in range(len(groups)) for some in combinations(groups, count)):
        if frozen not in seen and len(frozen) < len(parameters):
            seen.append(frozen)
            yield {name: shape for name, shape in parameters.items() if name not in frozen}


def _moments(optimizer: Mapping[str, Any], trainable: Shapes) -> dict[str, Tensor] | None:
    """The moments if the state is one of these parameters; None if it cannot be."""
    indices = _indices(optimizer)
    if len(indices) == 1 and len(trainable) > 1:
        return _flat_moments(optimizer["state"].get(indices[0], {}), trainable)
    if len(indices) != len(trainable) or not set(optimizer["state"]) <= set(indices):
        return None
    found: dict[str, Tensor] = {}
    for index, (name, shape) in zip(indices, trainable.items(), strict=True):
        for moment, tensor in _arrays(optimizer["state"].get(index, {})):
            if tuple(tensor.shape) != shape:
                return None
            found[f"{PREFIX}/{moment}/{name}"] = tensor
    return found


def _flat_moments(entry: Mapping[str, Any], trainable: Shapes) -> dict[str, Tensor] | None:
    sizes = [math.prod(shape) for shape in trainable.values()]
    found: dict[str, Tensor] = {}
    for moment, vector in _arrays(entry):
        if tuple(vector.shape) != (sum(sizes),):
            return None
        parts: Iterable[Tensor] = vector.split(sizes)
        for (name, shape), part in zip(trainable.items(), parts, strict=True):
            found[f"{PREFIX}/{moment}/{name}"] = part.view(shape)
    return found


def _arrays(entry: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a parameter's state; a step counter is none."""
    for moment, value in entry.items():
        if isinstance(value, Tensor) and value.dim() > 0:
            yield str(moment), value


def stored_averages(state: State) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The moving averages of the weights that a file holds, each with its prefix."""
    extra = state.get("extra_state")
    for prefix, key in AVERAGES.items():
        if isinstance(extra, dict) and isinstance(extra.get(key), dict):
            yield prefix, extra[key]


def average_faults(state: State) -> Iterator[str]:
    """What is wrong with the averages."""
    for prefix, copies in stored_averages(state):
        for name, copy in copies.items():
            own = state["model"].get(name)
            if not isinstance(copy, Tensor):
                yield f"{AVERAGES[prefix]} entry {name} is no tensor"
            elif own is not None and copy.shape != own.shape:
                yield f"{AVERAGES[prefix]} entry {name} has shape {list(copy.shape)}, not {list(own.shape)}"


def with_averages(extra: Mapping[str, Any], changed: Mapping[str, Tensor]) -> dict[str, Any]:
    """The extra state with other tensors in the averages: those of `changed` whose names have their prefixes."""
    found = dict(extra)
    for prefix, key in AVERAGES.items():
        own = {name.removeprefix(f"{prefix}/"): t for name, t in changed.items() if name.startswith(f"{prefix}/")}
        if own:
            found[key] = containers.with_entries(extra[key], own)
    return found


def without_copies(state: State) -> dict[str, Any]:
    """The checkpoint without what belongs to its weights of before: optimizer state and moving averages."""
    found, extra = without_optimizer(state), state.get("extra_state")
    if isinstance(extra, dict):
        found["extra_state"] = {name: value for name, value in extra.items() if name not in AVERAGES.values()}
    return found


def training_progress(state: State) -> TrainingProgress:
    """Read how far training is; what the file does not tell is 0."""
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    extra = state.get("extra_state")
    iterator = extra.get("train_iterator") if isinstance(extra, dict) else None
    validation = extra.get("val_loss") if isinstance(extra, dict) else None
    return TrainingProgress(
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
    found = {name: value for name, value in without_optimizer(state).items() if name not in _EARLY}
    history = state.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history and isinstance(history[-1], dict) else {}
    names = {name: last.get(name, "") for name in ("criterion_name", "optimizer_name")}
    found["optimizer_history"] = [{**names, "lr_scheduler_state": {"best": None}, "num_updates": 0}]
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    found["extra_state"] = {"train_iterator": iterator}
    return found
