"""Moving averages of the weights, which a checkpoint keeps beside them."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nmtprune.formats.fairseq import containers
from nmtprune.formats.fairseq.containers import State

if TYPE_CHECKING:
    from torch import Tensor

KEYS = {"ema": "ema", "ema_fp32": "ema_fp32_params"}
"""Prefix of names in `Checkpoint.tensors` -> key in ``extra_state``."""


def stored(state: State) -> Iterator[tuple[str, "Mapping[str, Tensor]"]]:
    """The averages that a file holds, each with its prefix."""
    extra = state.get("extra_state")
    for prefix, key in KEYS.items():
        if isinstance(extra, dict) and isinstance(extra.get(key), dict):
            yield prefix, extra[key]


def faults(state: State) -> Iterator[str]:
    """What is wrong with them."""
    from torch import Tensor

    for prefix, copies in stored(state):
        for name, copy in copies.items():
            own = state["model"].get(name)
            if not isinstance(copy, Tensor):
                yield f"{KEYS[prefix]} entry {name} is no tensor"
            elif own is not None and copy.shape != own.shape:
                yield f"{KEYS[prefix]} entry {name} has shape {list(copy.shape)}, not {list(own.shape)}"


def rewritten(extra: Mapping[str, Any], changed: "Mapping[str, Tensor]") -> dict[str, Any]:
    """The extra state with other tensors in the averages: those of `changed` whose names have their prefixes."""
    found = dict(extra)
    for prefix, key in KEYS.items():
        own = {name.removeprefix(f"{prefix}/"): t for name, t in changed.items() if name.startswith(f"{prefix}/")}
        if own:
            found[key] = containers.with_entries(extra[key], own)
    return found


def without(state: State) -> dict[str, Any]:
    """The checkpoint without averages."""
    extra = state.get("extra_state")
    if not isinstance(extra, dict):
        return dict(state)
    return {**state, "extra_state": {name: value for name, value in extra.items() if name not in KEYS.values()}}
