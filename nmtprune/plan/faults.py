"""Every fault of a plan, its base or a lineage, found on raw values before anything is built from them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from nmtprune.architecture import KINDS, ModuleId
from nmtprune.errors import UsageError
from nmtprune.strictjson import is_int, key_faults, show, show_key, value_faults

FORMAT: Final = "nmtprune-plan"
VERSION: Final = 1

MAX_HEADS = 2**16
"""Heads per module, and layers, beyond which a plan is taken as damaged; no model comes near it."""


def modules_of(
    heads: Mapping[str, Sequence[int]], layers: Mapping[str, Sequence[int]]
) -> Iterator[tuple[ModuleId, int]]:
    """Every module with its number of heads, in order.

    Args:
        heads: heads per module by kind, layer by layer.
        layers: layer of each module for the kinds that are not numbered 0, 1, 2, ...
    """
    for kind in KINDS:
        counts = heads.get(kind, ())
        for layer, count in zip(layers.get(kind, range(len(counts))), counts, strict=True):
            yield ModuleId(kind, layer), count


def base_faults(data: Any, prefix: str = "") -> list[str]:
    """Faults of a base; `prefix` (``base.``) goes before the names of its keys."""
    if not isinstance(data, Mapping):
        return [f"{prefix.rstrip('.') or 'base'} is {show(data)}, not an object"]
    faults = key_faults(data, ["format", "sha256", "heads"], ["layers"], prefix)
    for key, pattern, what in (
        ("format", r"[a-z][a-z0-9_-]*", "the name of a checkpoint format"),
        ("sha256", r"[0-9a-f]{64}", "64 hexadecimal digits"),
    ):
        if key in data and not (isinstance(data[key], str) and re.fullmatch(pattern, data[key])):
            faults.append(f"{prefix}{key} is {show(data[key])}, not {what}")
    if "heads" in data:
        faults += _head_count_faults(data["heads"], f"{prefix}heads")
    if "layers" in data:
        faults += _layer_faults(data["layers"], data.get("heads"), f"{prefix}layers")
    return faults


def plan_faults(data: Any, complete: bool = False) -> list[str]:
    """Faults of a plan.

    Args:
        data: parsed JSON, or the arguments that a plan is built from (its base may be built already).
        complete: keys that have a default must be there all the same, as in a plan file.
    """
    if not isinstance(data, Mapping):
        return [f"is {show(data)}, not a plan (a JSON object)"]
    defaults = ["format", "version", "provenance"]
    faults = _identity_faults(data)
    if complete:
        faults += key_faults(data, ["format", "version", "base", "keep", "provenance"])
    else:
        faults += key_faults(data, ["base", "keep"], defaults)
    faults += _base_and_keep_faults(data, "base")
    provenance = data.get("provenance", {})
    if not isinstance(provenance, Mapping):
        return [*faults, f"provenance is {show(provenance)}, not an object"]
    return faults + value_faults(provenance, "provenance")


def lineage_faults(data: Any) -> list[str]:
    """Faults of a lineage."""
    if not isinstance(data, Mapping):
        return [f"is {show(data)}, not a lineage (a JSON object)"]
    faults = key_faults(data, ["root", "keep"], ["refit"]) + _base_and_keep_faults(data, "root")
    refit = data.get("refit")
    if refit is not None and not isinstance(refit, Mapping):
        return [*faults, f"refit is {show(refit)}, not an object"]
    return faults + (value_faults(refit, "refit") if refit is not None else [])


def _identity_faults(data: Mapping[str, Any]) -> list[str]:
    faults = []
    if "format" in data and data["format"] != FORMAT:
        faults.append(f'format is {show(data["format"])}, not "{FORMAT}"')
    version = data.get("version", VERSION)
    if not is_int(version) or version != VERSION:
        faults.append(f"version is {show(version)}, this nmtprune reads version {VERSION}")
    return faults


def _base_and_keep_faults(data: Mapping[str, Any], base_key: str) -> list[str]:
    faults: list[str] = []
    base = data.get(base_key)
    heads: Any = getattr(base, "heads", None)
    layers: Any = getattr(base, "layers", {})
    if heads is None and base_key in data:
        faults += base_faults(base, f"{base_key}.")
        if isinstance(base, Mapping):
            heads, layers = base.get("heads"), base.get("layers", {})
    if "keep" not in data:
        return faults
    if not isinstance(data["keep"], Mapping):
        return [*faults, f"keep is {show(data['keep'])}, not an object"]
    kinds = _readable_kinds(heads, layers)
    return faults + _keep_faults(data["keep"], kinds, base_key)


def _readable_kinds(heads: Any, layers: Any) -> dict[str, dict[str, int]]:
    """Modules with their numbers of heads, by kind: the kinds that a perhaps faulty base describes without fault."""
    found: dict[str, dict[str, int]] = {}
    if not isinstance(heads, Mapping):
        return found
    tied = layers if isinstance(layers, Mapping) else {}
    for kind in KINDS:
        one = {kind: heads[kind]} if kind in heads else {}
        own_layers = {kind: tied[kind]} if kind in tied else {}
        if one and not _count_faults(one, "") and not (own_layers and _layer_faults(own_layers, one, "")):
            found[kind] = {str(module): count for module, count in modules_of(one, own_layers)}
    return found


def _head_count_faults(heads: Any, name: str) -> list[str]:
    if not isinstance(heads, Mapping):
        return [f"{name} is {show(heads)}, not an object"]
    return key_faults(heads, KINDS, prefix=f"{name}.") + _count_faults(heads, name)


def _count_faults(heads: Mapping[str, Any], name: str) -> list[str]:
    faults = []
    for kind in KINDS:
        counts = heads.get(kind, [])
        if not isinstance(counts, (list, tuple)) or len(counts) > MAX_HEADS:
            faults.append(f"{name}.{kind} is {show(counts)}, not a list of numbers of heads")
        elif not all(is_int(count) and 0 <= count <= MAX_HEADS for count in counts):
            faults.append(f"{name}.{kind} is {show(counts)}: a number of heads is an integer from 0 to {MAX_HEADS}")
    return faults


def _layer_faults(layers: Any, heads: Any, name: str) -> list[str]:
    if not isinstance(layers, Mapping) or not layers:
        return [f"{name} is {show(layers)}, not an object with layers by kind (leave it out where none are tied)"]
    faults = [f"unknown key '{name}.{show_key(kind)}'" for kind in layers if kind not in KINDS]
    for kind in KINDS:
        if kind not in layers:
            continue
        found = layers[kind]
        if not isinstance(found, (list, tuple)) or not all(
            is_int(layer) and 0 <= layer <= MAX_HEADS for layer in found
        ):
            faults.append(f"{name}.{kind} is {show(found)}, not a list of layers")
        elif list(found) != sorted(set(found)) or list(found) == list(range(len(found))):
            faults.append(f"{name}.{kind} is {show(found)}: layers must ascend, and leave some out or not be listed")
        elif (
            isinstance(heads, Mapping) and isinstance(heads.get(kind), (list, tuple)) and len(heads[kind]) != len(found)
        ):
            faults.append(f"{name}.{kind} lists {len(found)} layers, heads.{kind} {len(heads[kind])}")
    return faults


def _keep_faults(keep: Mapping[Any, Any], kinds: Mapping[str, Mapping[str, int]], base_key: str) -> list[str]:
    """Faults of ``keep``; `kinds` has the modules of those kinds that are known, other kinds go unchecked."""
    faults = []
    for name, heads in keep.items():
        if not _names_module(name):
            faults.append(f"keep names '{show_key(name)}', which is no attention module (KIND.LAYER, such as cross.5)")
            continue
        modules = kinds.get(name.partition(".")[0])
        if modules is not None and name not in modules:
            faults.append(f"keep names {name}, which the {base_key} does not have")
        else:
            faults += _kept_faults(name, heads, None if modules is None else modules[name])
    missing = [module for modules in kinds.values() for module in modules if module not in keep]
    return faults + [f"keep has no entry for {module}" for module in missing]


def _names_module(name: Any) -> bool:
    try:
        return isinstance(name, str) and ModuleId.parse(name) is not None
    except (UsageError, ValueError):
        return False


def _kept_faults(module: str, heads: Any, count: int | None) -> list[str]:
    """Faults of one module's list of kept heads; `count` is the base's number of heads where that is known."""
    if not isinstance(heads, (list, tuple)):
        return [f"{module} is {show(heads)}, not a list of heads"]
    wrong = [head for head in heads if not is_int(head) or head < 0]
    faults = [f"{module}: {show(head)} is no head number" for head in wrong]
    numbers = [head for head in heads if is_int(head) and head >= 0]
    outside = sorted({head for head in numbers if count is not None and head >= count})
    if outside:
        there = f"heads 0 to {count - 1}" if count else "no heads"
        faults.append(f"{module}: no head {show(outside).strip('[]')} in the base, which has {there}")
    repeated = sorted(head for head, times in Counter(numbers).items() if times > 1)
    if repeated:
        faults.append(f"{module}: head {show(repeated).strip('[]')} is repeated")
    if numbers != sorted(numbers):
        faults.append(f"{module}: heads {show(numbers)} are not in ascending order")
    return faults
