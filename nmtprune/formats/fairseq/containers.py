"""The settings inside a checkpoint, whatever holds them: OmegaConf, a dict or a Namespace, under `cfg` or `args`."""

import copy
import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from nmtprune.formats.fairseq.inert import Inert, class_name, plain

State = Mapping[str, Any]
"""What `torch.load` makes of a checkpoint file: its top-level dict."""

_LONGEST = 60
_TRUE, _FALSE = ("true", "1"), ("false", "0", "none", "")


def fields(container: Any) -> dict[str, Any] | None:
    """The settings that a container holds by name; None where it is no container of settings."""
    container = plain(container)
    if isinstance(container, Namespace):
        container = vars(container)
    if isinstance(container, dict) and all(isinstance(name, str) for name in container):
        return {name: plain(value) for name, value in container.items()}
    return None


def section(state: State, name: str) -> dict[str, Any]:
    """Settings of one part of fairseq (``model``, ``task``, ...), whose name is ``_name``.

    A legacy checkpoint has one flat set of settings for all parts.
    """
    if state.get("args") is not None:
        found = fields(state["args"]) or {}
        key = {"model": "arch"}.get(name, name)
        return {**found, "_name": found.get(key, found.get("_name") if name == "model" else None)}
    cfg = fields(state.get("cfg")) or {}
    return {key: _resolved(value, cfg) for key, value in (fields(cfg.get(name)) or {}).items()}


def _resolved(value: Any, cfg: dict[str, Any]) -> Any:
    """What a reference to another field stands for: ``${task.tokens_per_sample}``; flat names serve for groups too."""
    reference = re.fullmatch(r"\$\{(\w+)\.([\w.]+)\}", value) if isinstance(value, str) else None
    if reference is None:
        return value
    there = fields(cfg.get(reference[1])) or {}
    found = there.get(reference[2].replace(".", "_"), value)
    return value if isinstance(found, str) and found.startswith("${") else found


def walk(container: Any) -> Iterator[tuple[str, Any]]:
    """Every setting at any depth, each container once: its own name and its value."""
    waiting, seen = [container], {}
    for current in waiting:
        if id(current) not in seen:
            seen[id(current)] = current  # holds it: an id is given anew once its owner is gone
            found = fields(current) or {}
            yield from found.items()
            waiting += found.values()


def with_model_fields(state: State, changes: Mapping[str, Any], removed: Iterable[str] = ()) -> dict[str, Any]:
    """The checkpoint with other model settings, in a container of the same kind; the original stays as it is.

    Args:
        state: of the checkpoint.
        changes: values by name.
        removed: names of settings that the result does not have.
    """
    key = "args" if state.get("args") is not None else "cfg"
    container = copy.deepcopy(state[key])
    model = container if key == "args" else _model_container(container)
    _set(model, changes)
    entries = _entries(model)
    for name in removed:
        entries.pop(name, None)
    return {**state, key: container}


def _model_container(cfg: Any) -> Any:
    if not isinstance(cfg, Inert):
        return vars(cfg)["model"] if isinstance(cfg, Namespace) else cfg["model"]
    node = cfg.state["_content"]["model"]
    return node if class_name(node) == "DictConfig" else node.state["_val"]


def _entries(container: Any) -> dict[str, Any]:
    """The dict in which a container has its settings: values, or nodes that hold them."""
    if isinstance(container, Namespace):
        return vars(container)
    found: dict[str, Any] = container if isinstance(container, dict) else container.state["_content"]
    return found


def _set(container: Any, changes: Mapping[str, Any]) -> None:
    nodes = _entries(container)
    if isinstance(container, Namespace | dict):
        nodes.update(changes)
    else:
        any_leaf = next(node for node in nodes.values() if class_name(node).endswith("Node"))
        for name, value in changes.items():
            nodes[name] = _leaf(nodes.get(name, any_leaf), name, value)


def _leaf(like: Inert, name: str, value: Any) -> Inert:
    """An OmegaConf node that holds a value, made from another node of the same container."""
    metadata = copy.copy(like.state["_metadata"])
    metadata.state = {**metadata.state, "key": name}
    node = copy.copy(like)
    node.state = {**like.state, "_metadata": metadata, "_val": value}
    return node


def with_entries(container: dict[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """A dict with other values under some of its keys: order, type and attributes (of a state dict) as before."""
    changed = type(container)(container)
    if hasattr(container, "__dict__"):
        vars(changed).update(vars(container))
    changed.update(entries)
    return changed


def renamed(tensors: Mapping[str, Any], name: Callable[[str], str | None], like: Any) -> dict[str, Any]:
    """A dict of the same type and attributes with its entries under other names, in the same order.

    Args:
        tensors: entries by their old names.
        name: what makes the new name of an old one, of a tensor or a module; None for what goes.
        like: the dict that the entries are from. What torch notes in it of the modules (``_metadata``) is renamed too.
    """
    found: dict[str, Any] = type(like)(
        (new, tensor) for old, tensor in tensors.items() if (new := name(old)) is not None
    )
    if hasattr(like, "__dict__"):
        vars(found).update(vars(like))
    notes = getattr(like, "_metadata", None)
    if isinstance(notes, dict):
        own = type(notes)((new, note) for old, note in notes.items() if (new := name(old)) is not None)
        vars(found)["_metadata"] = own
    return found


def truth(value: Any, default: bool) -> bool:
    """A truth value as fairseq reads it: legacy checkpoints hold ``"True"`` or ``"False"``, which fairseq evaluates.

    Args:
        value: of the file; `is_truth_value` says whether it means anything.
        default: where the file does not say.
    """
    if value is None:
        return default
    return str(value).strip().lower() not in _FALSE


def is_truth_value(value: Any, *, text: bool) -> bool:
    """Whether a value is True, False, 0, 1, not set or, with `text`, one of these as text."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, str):
        return text and value.strip().lower() in (*_TRUE, *_FALSE)
    return isinstance(value, int | float) and value in (0, 1)


def is_off(value: Any) -> bool:
    """Whether a field that may hold anything says nothing: not set, False, 0, or an empty text, list or group."""
    return not value or (isinstance(value, str) and value.strip().lower() in ("false", "none", "0", "[]", "{}"))


def quoted(value: Any) -> str:
    """A value as a message shows it: on one line, not too long."""
    text = ascii(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
