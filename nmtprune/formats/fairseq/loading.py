"""Read a checkpoint file: tensors and plain values only, of the outer form that fairseq's checkpoints have."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import inert
from nmtprune.formats.torch_archive import is_plain, read_torch_archive

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.")
"""Prefixes that wrappers of a model (of several GPUs, of torch.compile) give to the names of its tensors."""

_PARTS = ("encoder.", "decoder.", "classification_heads.")
_SETTINGS = "fairseq's checkpoints hold the settings too: name the file that fairseq-train wrote"
_ELSEWHERE: Mapping[str, str] = {
    "pytorch-lightning_version": "a checkpoint of PyTorch Lightning",
    "model_state": "a checkpoint of JoeyNMT",
    "generator": "a checkpoint of OpenNMT-py",
    "state_dict": "weights under 'state_dict', without 'model' and 'cfg'",
    "model_state_dict": "weights under 'model_state_dict', without 'model' and 'cfg'",
}
"""A key at top level -> what writes it."""

_HUGGING_FACE = ("model.shared.weight", "final_logits_bias", "lm_head.weight", "shared.weight")


def read_state(path: Path) -> dict[str, Any]:
    """The top-level dict of a fairseq checkpoint.

    Raises:
        CheckpointError: the file cannot be read, is damaged, is something else, or names code that is not needed.
    """
    state = read_torch_archive(path, "a fairseq checkpoint", inert.allowed())
    return _checked(state, path)


def _checked(state: Any, path: Path) -> dict[str, Any]:
    """The state, after a look at its outer form."""
    reason = _form_fault(state)
    if reason:
        raise CheckpointError(f"{path}: not a fairseq checkpoint ({reason})")
    unfit = [name for name, tensor in state["model"].items() if not is_plain(tensor)]
    if unfit:
        raise CheckpointError(f"{path}: not a fairseq checkpoint (model entry '{unfit[0]}' is no plain tensor)")
    state["model"].update({name: tensor.detach() for name, tensor in state["model"].items() if tensor.requires_grad})
    found: dict[str, Any] = state
    return found


def _form_fault(state: Any) -> str:
    """What is wrong with the outer form of a checkpoint; empty where it is that of fairseq's."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, not a dict"
    elsewhere = next((what for key, what in _ELSEWHERE.items() if key in state and state.get("cfg") is None), None)
    if elsewhere and state.get("args") is None:
        return f"{elsewhere}; fairseq's (.pt) and Marian's (.npz) models are supported"
    if not isinstance(state.get("model"), dict) or not state["model"]:
        return _without_model(state)
    if not all(isinstance(name, str) for name in state["model"]):
        return "a name in 'model' is no text"
    if state.get("cfg") is None and state.get("args") is None:
        return f"it has no settings: neither 'cfg' nor 'args'; {_SETTINGS}"
    prefix = _wrapper(state["model"])
    if prefix:
        return (
            f"the names of its tensors begin with '{prefix}', which a wrapper of the model put there: take that prefix "
            "off every name in 'model' and save the file again"
        )
    return ""


def _without_model(state: Mapping[Any, Any]) -> str:
    if any(isinstance(value, Tensor) for value in state.values()):
        if any(name in state for name in _HUGGING_FACE):
            return "weights of a model of Hugging Face's transformers: name their folder, with its config.json"
        return f"a bare state dict, without 'model' and 'cfg'; {_SETTINGS}"
    if {"last_optimizer_state", "optimizer_state_dict", "param_groups"} & state.keys():
        return "optimizer state without a model: name the checkpoint that it belongs to"
    return f"it has no 'model'; {_SETTINGS}"


def _wrapper(names: Iterable[str]) -> str | None:
    """The prefix that all names of a wrapped model have in common."""
    listed = list(names)
    prefix = ""
    while wrapper := next((own for own in _WRAPPERS if all(name.startswith(prefix + own) for name in listed)), None):
        prefix += wrapper
    inside = all(name.removeprefix(prefix).startswith(_PARTS) for name in listed)
    return prefix if prefix and inside else None
