"""Every fault of a plan, its base or a lineage, found on raw values before anything is built from them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, STACKS, GroupId
from nmtprune.errors import UsageError
from nmtprune.plan import ranges
from nmtprune.strictjson import is_int, key_faults, show, show_key, value_faults

FORMAT: Final = "nmtprune-plan"
VERSIONS: Final = (1, 2)
"""Versions of plan files: 1 speaks of heads alone, 2 of neurons and layers too."""

MAX_HEADS = 2**16
"""Heads per module, and layers, beyond which a plan is taken as damaged; no model comes near it."""


_Units = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Numbers of units by kind and by name of the group."""


def groups_of(
    units: Mapping[str, Sequence[int]], layers: Mapping[str, Sequence[int]], kinds: Sequence[str] = KINDS
) -> Iterator[tuple[GroupId, int]]:
    """Every group with its number of units, in order.

    Args:
        units: heads per module, or neurons per feed-forward layer, by kind, layer by layer.
        layers: layer of each group for the kinds that are not numbered 0, 1, 2, ...
        kinds: those of the groups.
    """
    for kind in kinds:
        counts = units.get(kind, ())
        for layer, count in zip(layers.get(kind, range(len(counts))), counts, strict=True):
            yield GroupId(kind, layer), count


def base_faults(data: Any, prefix: str = "") -> list[str]:
    """Faults of a base; `prefix` (``base.``) goes before the names of its keys."""
    if not isinstance(data, Mapping):
        return [f"{prefix.rstrip('.') or 'base'} is {show(data)}, not an object"]
    faults = key_faults(data, ["format", "sha256", "heads"], ["layers", "neurons"], prefix)
    for key, pattern, what in (
        ("format", r"[a-z][a-z0-9_-]*", "the name of a checkpoint format"),
        ("sha256", r"[0-9a-f]{64}", "64 hexadecimal digits"),
    ):
        if key in data and not (isinstance(data[key], str) and re.fullmatch(pattern, data[key])):
            faults.append(f"{prefix}{key} is {show(data[key])}, not {what}")
    if "heads" in data:
        faults += _head_count_faults(data["heads"], f"{prefix}heads")
    if "neurons" in data:
        faults += _neuron_count_faults(data["neurons"], f"{prefix}neurons")
    if "layers" in data:
        faults += _layer_faults(data["layers"], _counts(data), f"{prefix}layers")
    return faults


def _counts(base: Mapping[str, Any]) -> dict[str, Any]:
    """Heads and neurons of a perhaps faulty base by kind."""
    parts = (base.get(key) for key in ("heads", "neurons"))
    return {kind: counts for part in parts if isinstance(part, Mapping) for kind, counts in part.items()}


def folded(data: Mapping[str, Any], layers: bool) -> tuple[dict[str, Any], list[str]]:
    """What a file says with kept numbers in place of ranges, and layers among the groups; and what is wrong there.

    Args:
        data: a plan or lineage as its JSON has it.
        layers: the file may say which layers stay.
    """
    found, faults, keep = dict(data), list[str](), data.get("keep")
    if not isinstance(keep, Mapping):
        return found, faults
    own = dict(keep)
    for name, kept in keep.items():
        if isinstance(name, str) and name.partition(".")[0] in NEURON_KINDS:
            if isinstance(kept, str):
                own[name], wrong = ranges.numbers_in(kept)
                faults += [f"{name}: {fault}" for fault in wrong]
            else:
                faults.append(f'{name} is {show(kept)}, not text such as "0-99,130"')
                del own[name]
        elif name in LAYER_KINDS:
            faults.append(f"keep names {name}: which layers stay is said under the key 'layers'")
            del own[name]
    found["keep"] = own
    if layers and "layers" in data:
        del found["layers"]
        faults += _fold_layers(data["layers"], own)
    return found, faults


def _fold_layers(layers: Any, keep: dict[Any, Any]) -> list[str]:
    """Put the layers that stay into `keep`."""
    if not isinstance(layers, Mapping) or not layers:
        return [f"layers is {show(layers)}, not an object with the layers that stay by stack"]
    faults = []
    for stack, numbers in layers.items():
        if stack not in STACKS:
            faults.append(f"unknown key 'layers.{show_key(stack)}'")
        else:
            keep[f"{stack}-layers"] = numbers
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
    if is_int(data.get("version")) and data["version"] > VERSIONS[-1]:
        return faults
    if complete:
        optional = ["layers"] if data.get("version") == VERSIONS[-1] else []
        faults += key_faults(data, ["format", "version", "base", "keep", "provenance"], optional)
        data, wrong = folded(data, layers=bool(optional))
        faults += wrong
        if not optional:
            faults += _needs_version(data["keep"]) if isinstance(data.get("keep"), Mapping) else []
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
    version = data.get("version", VERSIONS[0])
    if not is_int(version) or version not in VERSIONS:
        faults.append(f"version is {show(version)}, this nmtprune reads versions {VERSIONS[0]} and {VERSIONS[-1]}")
    return faults


def _needs_version(keep: Mapping[Any, Any]) -> list[str]:
    others = [
        name for name in keep if isinstance(name, str) and name.partition(".")[0] in (*NEURON_KINDS, *LAYER_KINDS)
    ]
    return [f"keep names {others[0]}, of which only plans of version {VERSIONS[-1]} speak"] if others else []


def _base_and_keep_faults(data: Mapping[str, Any], base_key: str) -> list[str]:
    faults: list[str] = []
    base = data.get(base_key)
    if base_key in data and not hasattr(base, "heads"):
        faults += base_faults(base, f"{base_key}.")
    if "keep" not in data:
        return faults
    if not isinstance(data["keep"], Mapping):
        return [*faults, f"keep is {show(data['keep'])}, not an object"]
    return faults + _keep_faults(data["keep"], _readable_kinds(base), base_key)


def _readable_kinds(base: Any) -> dict[str, dict[str, tuple[int, ...]]]:
    """Groups with the numbers of their units, by kind: the kinds that a perhaps faulty base describes without fault."""
    if isinstance(base, Mapping):
        counts, tied = _counts(base), base.get("layers", {})
    else:
        counts = {**getattr(base, "heads", {}), **getattr(base, "neurons", {})}
        tied = getattr(base, "layers", {})
    tied = tied if isinstance(tied, Mapping) else {}
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for kind in (*KINDS, *NEURON_KINDS):
        one = {kind: counts[kind]} if kind in counts else {}
        own_layers = {kind: tied[kind]} if kind in tied else {}
        if one and not _count_faults(one, "") and not (own_layers and _layer_faults(own_layers, one, "")):
            found[kind] = {str(id): tuple(range(count)) for id, count in groups_of(one, own_layers, (kind,))}
    for stack, kinds in STACKS.items():
        of_stack = (*kinds, f"{stack}-ffn")
        if all(kind in found for kind in of_stack if kind in counts) and any(kind in counts for kind in of_stack):
            layers = {GroupId.parse(name, EVERY_KIND).layer for kind in of_stack for name in found.get(kind, {})}
            found[f"{stack}-layers"] = {f"{stack}-layers": tuple(sorted(layers))} if layers else {}
    return found


def _head_count_faults(heads: Any, name: str) -> list[str]:
    if not isinstance(heads, Mapping):
        return [f"{name} is {show(heads)}, not an object"]
    return key_faults(heads, KINDS, prefix=f"{name}.") + _count_faults(heads, name)


def _neuron_count_faults(neurons: Any, name: str) -> list[str]:
    if not isinstance(neurons, Mapping) or not neurons:
        return [f"{name} is {show(neurons)}, not an object with numbers of neurons by kind"]
    faults = [f"unknown key '{name}.{show_key(kind)}'" for kind in neurons if kind not in NEURON_KINDS]
    return faults + _count_faults({kind: neurons[kind] for kind in NEURON_KINDS if kind in neurons}, name)


def _count_faults(units: Mapping[str, Any], name: str) -> list[str]:
    faults = []
    for kind in (kind for kind in (*KINDS, *NEURON_KINDS) if kind in units):
        counts, what = units[kind], "neurons" if kind in NEURON_KINDS else "heads"
        largest = ranges.MAX_NUMBER if kind in NEURON_KINDS else MAX_HEADS
        if not isinstance(counts, (list, tuple)) or len(counts) > MAX_HEADS:
            faults.append(f"{name}.{kind} is {show(counts)}, not a list of numbers of {what}")
        elif not all(is_int(count) and 0 <= count <= largest for count in counts):
            faults.append(f"{name}.{kind} is {show(counts)}: a number of {what} is an integer from 0 to {largest}")
    return faults


def _layer_faults(layers: Any, heads: Any, name: str) -> list[str]:
    if not isinstance(layers, Mapping) or not layers:
        return [f"{name} is {show(layers)}, not an object with layers by kind (leave it out where none are tied)"]
    every = (*KINDS, *NEURON_KINDS)
    faults = [f"unknown key '{name}.{show_key(kind)}'" for kind in layers if kind not in every]
    for kind in every:
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
            what = "neurons" if kind in NEURON_KINDS else "heads"
            faults.append(f"{name}.{kind} lists {len(found)} layers, {what}.{kind} {len(heads[kind])}")
    return faults


def _keep_faults(
    keep: Mapping[Any, Any], kinds: Mapping[str, Mapping[str, tuple[int, ...]]], base_key: str
) -> list[str]:
    """Faults of ``keep``; `kinds` has the groups of those kinds that are known, other kinds go unchecked."""
    faults = []
    gone = _removed_layers(keep, kinds)
    for name, units in keep.items():
        if not _names_group(name):
            faults.append(f"keep names '{show_key(name)}', which is no attention module (KIND.LAYER, such as cross.5)")
            continue
        groups = kinds.get(name.partition(".")[0])
        if groups is not None and name not in groups:
            faults.append(f"keep names {name}, which the {base_key} does not have")
        elif _layer_of(name) in gone and (units or not isinstance(units, (list, tuple))):
            faults.append(f"keep names {name}, the layer of which does not stay")
        else:
            faults += _kept_faults(name, units, None if groups is None else groups[name])
            if name in LAYER_KINDS and isinstance(units, (list, tuple)) and not units:
                faults.append(f"{name}: no layer of the {name.partition('-')[0]} would be left")
    missing = [
        name
        for groups in kinds.values()
        for name in groups
        if name not in keep and name not in LAYER_KINDS and _layer_of(name) not in gone
    ]
    return faults + [f"keep has no entry for {name}" for name in missing]


def _removed_layers(keep: Mapping[Any, Any], kinds: _Units) -> set[tuple[str, int]]:
    """Stack and number of the layers that go, as far as that can be read."""
    found = set()
    for kind in LAYER_KINDS:
        kept = keep.get(kind)
        if isinstance(kept, (list, tuple)) and kind in kinds and kind in kinds[kind]:
            stack = kind.partition("-")[0]
            found |= {(stack, layer) for layer in kinds[kind][kind] if layer not in kept}
    return found


def _layer_of(name: str) -> tuple[str, int] | None:
    """Stack and layer of a group; None for the group of a stack's layers."""
    id = GroupId.parse(name, EVERY_KIND)
    return None if id.kind in LAYER_KINDS else (id.stack, id.layer)


def _names_group(name: Any) -> bool:
    try:
        return isinstance(name, str) and GroupId.parse(name, EVERY_KIND) is not None
    except UsageError:
        return False


def _kept_faults(group: str, units: Any, there: tuple[int, ...] | None) -> list[str]:
    """Faults of one group's list of kept units; `there` are the base's where they are known."""
    what = GroupId.parse(group, EVERY_KIND).sort
    one = what.removesuffix("s")
    if not isinstance(units, (list, tuple)):
        return [f"{group} is {show(units)}, not a list of {what}"]
    wrong = [unit for unit in units if not is_int(unit) or unit < 0]
    faults = [f"{group}: {show(unit)} is no {one} number" for unit in wrong]
    numbers = [unit for unit in units if is_int(unit) and unit >= 0]
    outside = sorted(set(numbers).difference(there)) if there is not None else []
    if outside and there is not None:
        known = f"{what} {there[0]} to {there[-1]}" if there else f"no {what}"
        faults.append(f"{group}: no {one} {show(outside).strip('[]')} in the base, which has {known}")
    repeated = sorted(unit for unit, times in Counter(numbers).items() if times > 1)
    if repeated:
        faults.append(f"{group}: {one} {show(repeated).strip('[]')} is repeated")
    if numbers != sorted(numbers):
        faults.append(f"{group}: {what} {show(numbers)} are not in ascending order")
    return faults
