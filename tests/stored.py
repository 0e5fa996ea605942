"""How other versions and settings of fairseq store a checkpoint, made from one that fairseq wrote."""

from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def load(path: Path) -> dict[str, Any]:
    """Everything in a checkpoint that the tests themselves made."""
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return loaded


def store_as(source: Path, target: Path, **changes: Any) -> Path:
    """Rewrite a checkpoint as other versions and settings of fairseq store it.

    Args:
        source: a checkpoint of `fairseq_checkpoint`.
        target: where to write; may be `source`.
        changes: ``cfg``: "omegaconf", "dict" (cfg.model a dict too), "namespace" (cfg and its parts) or "args" (the
            legacy flat Namespace under ``args``, no cfg); ``dtype``: floating-point weights in that torch type;
            ``packed``: query, key and value of self-attention in one legacy ``in_proj_weight``; ``cloned``: shared
            tables stored once per name, as averaging writes them; ``old_zip``: the file format before torch 1.6;
            ``without_settings``: names of settings that an old version did not store; ``without_optimizer``: no
            optimizer state; ``ema``: weights of that scale as a moving average.
    """
    state = load(source)
    for name, value in changes.items():
        if name != "old_zip":
            _CHANGES[name](state, value)
    torch.save(state, target, _use_new_zipfile_serialization=not changes.get("old_zip", False))
    return target


def _change_cfg(state: dict[str, Any], kind: str) -> None:
    cfg = state["cfg"]
    if kind == "args":
        names = {"arch": _plain(cfg["model"])["_name"], "task": _plain(cfg["task"])["_name"]}
        state["args"], state["cfg"] = Namespace(**_plain(cfg["model"]) | names), None
        for group in ("task", "criterion", "optimizer", "lr_scheduler", "optimization", "common"):
            for name, value in _plain(cfg[group]).items():
                if name not in state["args"]:
                    setattr(state["args"], name, value)
    elif kind == "dict":
        cfg["model"] = _plain(cfg["model"])
    elif kind == "namespace":
        state["cfg"] = Namespace(**{n: Namespace(**v) if isinstance(v, dict) else v for n, v in cfg.items()})
    elif kind == "omegaconf":
        from omegaconf import OmegaConf

        cfg["model"] = _plain(cfg["model"])
        state["cfg"] = OmegaConf.create(cfg)
    else:
        raise ValueError(kind)


def _plain(group: Any) -> dict[str, Any]:
    return dict(group) if isinstance(group, dict) else dict(vars(group))


def _change_dtype(state: dict[str, Any], dtype: torch.dtype) -> None:
    _each_storage_once(state["model"], lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)


def _each_storage_once(tensors: dict[str, torch.Tensor], change: Any) -> None:
    """Apply a change so that tensors that shared a storage share one afterwards."""
    done: dict[tuple[int, tuple[int, ...]], torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = (tensor.data_ptr(), tuple(tensor.shape))
        if key not in done:
            done[key] = change(tensor)
        tensors[name] = done[key]


def _change_packed(state: dict[str, Any], wanted: bool) -> None:
    if not wanted:
        return
    packed: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, tensor in state["model"].items():
        module, _, part = name.rpartition("_proj.")
        if module.endswith(("attn.q", "attn.v")):
            continue
        if module.endswith("attn.k"):
            parts = [state["model"][f"{module[:-1]}{kind}_proj.{part}"] for kind in "qkv"]
            packed[f"{module[:-1]}in_proj_{part}"] = torch.cat(parts)
        else:
            packed[name] = tensor
    state["model"] = packed


def _change_cloned(state: dict[str, Any], wanted: bool) -> None:
    if wanted:
        state["model"] = OrderedDict((name, tensor.clone()) for name, tensor in state["model"].items())


def _change_settings(state: dict[str, Any], names: tuple[str, ...]) -> None:
    holder = state["args"] if state.get("args") is not None else state["cfg"]["model"]
    for name in names:
        if isinstance(holder, Namespace):
            delattr(holder, name)
        else:
            del holder[name]


def _change_optimizer(state: dict[str, Any], without: bool) -> None:
    if without:
        del state["last_optimizer_state"]


def _change_ema(state: dict[str, Any], scale: float) -> None:
    average = OrderedDict(state["model"].items())
    _each_storage_once(average, lambda tensor: tensor * scale)
    state["extra_state"]["ema"] = average


_CHANGES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "cfg": _change_cfg,
    "dtype": _change_dtype,
    "packed": _change_packed,
    "cloned": _change_cloned,
    "without_settings": _change_settings,
    "without_optimizer": _change_optimizer,
    "ema": _change_ema,
}
