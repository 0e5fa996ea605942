"""From the settings in a checkpoint to its attention modules: heads, head_dim, kept layers, lineage of a slim model."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nmtprune.architecture import KINDS, STACKS, Architecture, AttentionModule, GroupId, Neurons
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import adaptive
from nmtprune.formats.fairseq.architectures import LANGUAGE_MODELS, complete
from nmtprune.formats.fairseq.containers import State, quoted, section
from nmtprune.formats.fairseq.unsupported import SLIM, architecture_of, unsupported
from nmtprune.plan import Lineage

_STACK_OF = {kind: stack for stack, kinds in STACKS.items() for kind in kinds}
_NORM_FORMER = {"scale_attn": "attn_ln.weight", "scale_fc": "ffn_layernorm.weight", "scale_resids": "w_resid"}
_SIZES = ("embed_dim", "ffn_embed_dim", "attention_heads", "layers")


@dataclass(frozen=True)
class Description:
    """What the settings of a checkpoint say.

    Attributes:
        arch: name of the architecture; of the root for a slim checkpoint.
        settings: flat and complete, as fairseq builds the model: the architecture's defaults are filled in, and
            `encoder_layers`, `decoder_layers` count the layers that are used.
        layers: stack -> numbers in the file of the layers that are used.
        chosen_layers: some of the file's layers are to be kept, the others may be there all the same (LayerDrop).
        architecture: the attention modules.
        lineage: of a slim checkpoint.
    """

    arch: str
    settings: Mapping[str, Any]
    layers: Mapping[str, tuple[int, ...]]
    chosen_layers: bool
    architecture: Architecture
    lineage: Lineage | None

    @property
    def language_model(self) -> bool:
        """Whether the model has a decoder only."""
        return "encoder" not in self.layers


def read_settings(state: State, where: str) -> Description:
    """Read the settings of a checkpoint.

    Raises:
        CheckpointError: every reason why the checkpoint is not supported, or what is wrong with its settings.
    """
    faults = unsupported(state)
    if faults:
        raise CheckpointError.of_faults(f"{where}: unsupported", faults)
    given = section(state, "model")
    name, arch = architecture_of(given)
    settings = complete(arch, _with_task(given, state))
    settings |= _as_built(settings, state["model"])
    stacks = ("decoder",) if arch in LANGUAGE_MODELS else tuple(STACKS)
    faults = _size_faults(settings, stacks)
    layers = {stack: _used_layers(settings, stack, faults) for stack in stacks}
    if not faults and name not in SLIM:
        faults = _division_faults(settings, stacks)
    faults += adaptive.cutoff_faults(settings)
    if faults:
        raise CheckpointError.of_faults(f"{where}: settings", faults)
    chosen = any(settings[f"{stack}_layers_to_keep"] for stack in stacks)
    for stack, used in layers.items():
        settings |= {f"{stack}_layers": len(used), f"{stack}_layers_to_keep": None}
    counts = _module_counts(settings, stacks)
    if name in SLIM:
        stored, lineage = _slim_fields(settings, counts, where)
    else:
        stored, lineage = _stock_heads(settings, counts), None
    architecture = Architecture(
        _modules(stored, lineage, {stack: _head_dim(settings, stack, name in SLIM) for stack in stacks}),
        _feed_forwards(settings, stacks),
    )
    return Description(arch, MappingProxyType(settings), layers, chosen, architecture, lineage)


def slim_fields(arch: str, architecture: Architecture, lineage: Lineage) -> dict[str, Any]:
    """The settings that make a checkpoint of fairseq's a slim one: the inverse of what `read_settings` reads."""
    name = "nmtprune_lm" if arch in LANGUAGE_MODELS else "nmtprune"
    stored = {kind: [module.stored_heads for module in architecture.of_kind(kind)] for kind in KINDS}
    widths = {_STACK_OF[module.id.kind]: module.head_dim for module in architecture}
    return {
        "arch": name,
        "_name": name,
        "nmtprune_base_arch": arch,
        "nmtprune_heads": json.dumps(stored),
        "nmtprune_lineage": lineage.to_json(),
        **{f"{stack}_head_dim": head_dim for stack, head_dim in widths.items()},
    }


def _with_task(given: Mapping[str, Any], state: State) -> dict[str, Any]:
    """The model's settings, with those that fairseq takes from the task where the model does not say."""
    names = ("max_source_positions", "max_target_positions", "tokens_per_sample")
    task = section(state, "task")
    return {name: task[name] for name in names if name in task} | dict(given)


def _as_built(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Settings whose value in the file is not what fairseq builds.

    Widths that the command line leaves as text become numbers; NormFormer's norms (Shleifer et al. 2021), which fairseq
    loses on the way from some containers of settings, are there if their tensors are.
    """
    widths = {name: settings[name] for name in ("decoder_input_dim", "decoder_output_dim")}
    found: dict[str, Any] = {
        name: int(text) for name, text in widths.items() if isinstance(text, str) and text.isascii() and text.isdigit()
    }
    endings = {name.rpartition("decoder.layers.")[2].partition(".")[2] for name in names}
    for name, ending in _NORM_FORMER.items():
        found[name] = bool(settings[name]) and ending in endings
    return found


def _size_faults(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> list[str]:
    names = [f"{stack}_{size}" for stack in stacks for size in _SIZES] + ["decoder_output_dim", "max_target_positions"]
    names += ["max_source_positions"] if "encoder" in stacks else []
    names += [] if "encoder" in stacks else ["decoder_input_dim"]
    least = {name: 0 if name.endswith("_layers") else 1 for name in names}
    return [
        f"{name} is {quoted(settings[name])}, no whole number from {least[name]}"
        for name in names
        if not _is_count(settings[name], least[name])
    ]


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least


def _division_faults(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> list[str]:
    faults = []
    for stack in stacks:
        heads, width = settings[f"{stack}_attention_heads"], settings[f"{stack}_embed_dim"]
        if width % heads:
            faults.append(f"{stack}_attention_heads {heads} does not divide {stack}_embed_dim {width}")
    return faults


def _used_layers(settings: Mapping[str, Any], stack: str, faults: list[str]) -> tuple[int, ...]:
    """Numbers of the layers that fairseq takes from the file, lowest first; adds to `faults`."""
    keep = settings[f"{stack}_layers_to_keep"]
    if not keep:
        layers = settings[f"{stack}_layers"]
        return tuple(range(layers)) if isinstance(layers, int) else ()
    parts = keep.split(",") if isinstance(keep, str) else []
    numbers = sorted({int(part) for part in parts if part.strip().isascii() and part.strip().isdigit()})
    if not parts or len(numbers) != len(parts):
        faults.append(f"{stack}_layers_to_keep is {quoted(keep)}, no list of different layer numbers")
    return tuple(numbers)


def _module_counts(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> dict[str, int]:
    """Number of modules of every kind."""
    has_cross = "encoder" in stacks and not settings["no_cross_attention"]
    return {
        "encoder": settings["encoder_layers"] if "encoder" in stacks else 0,
        "decoder": settings["decoder_layers"],
        "cross": settings["decoder_layers"] if has_cross else 0,
    }


def _stock_heads(settings: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, list[int]]:
    return {kind: [settings[f"{_STACK_OF[kind]}_attention_heads"]] * count for kind, count in counts.items() if count}


def _head_dim(settings: Mapping[str, Any], stack: str, slim: bool) -> int:
    if slim:
        return int(settings.get(f"{stack}_head_dim") or 1)
    return int(settings[f"{stack}_embed_dim"] // settings[f"{stack}_attention_heads"])


def _slim_fields(
    settings: Mapping[str, Any], counts: Mapping[str, int], where: str
) -> tuple[dict[str, list[int]], Lineage | None]:
    """Stored heads per module and the lineage, from the fields of a slim checkpoint."""
    text = settings.get("nmtprune_heads")
    heads = _parsed(text)
    faults = [] if _are_head_lists(heads) else [f"nmtprune_heads is {quoted(text)}, no list of head counts per kind"]
    if not faults:
        for kind, count in counts.items():
            if len(heads[kind]) != count:
                faults.append(f"nmtprune_heads lists {len(heads[kind])} {kind} modules, the model has {count}")
    for name in {f"{_STACK_OF[kind]}_head_dim": None for kind, count in counts.items() if count}:
        if not _is_count(settings.get(name), 1):
            faults.append(f"{name} is {quoted(settings.get(name))}, no whole number from 1")
    lineage = None
    if settings.get("nmtprune_lineage"):
        lineage = Lineage.from_json(str(settings["nmtprune_lineage"]), f"{where}: nmtprune_lineage")
        faults += [] if faults else _lineage_faults(lineage, heads)
    if faults:
        raise CheckpointError.of_faults(f"{where}: settings", faults)
    return heads, lineage


def _parsed(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _are_head_lists(heads: Any) -> bool:
    return (
        isinstance(heads, dict)
        and set(heads) == set(KINDS)
        and all(isinstance(counts, list) for counts in heads.values())
        and all(type(count) is int and count >= 0 for counts in heads.values() for count in counts)
    )


def _lineage_faults(lineage: Lineage, heads: Mapping[str, list[int]]) -> list[str]:
    stored = {str(GroupId(kind, layer)): count for kind in KINDS for layer, count in enumerate(heads[kind])}
    kept = {str(lineage.present(id)): len(lineage.keep[str(id)]) for id in lineage.root.modules if lineage.has(id)}
    if set(stored) != set(kept):
        return ["nmtprune_lineage and nmtprune_heads name different modules"]
    return [
        f"nmtprune_lineage has {count} heads of {module}, nmtprune_heads {stored[module]}"
        for module, count in kept.items()
        if count > stored[module]
    ]


def _modules(
    stored: Mapping[str, list[int]], lineage: Lineage | None, head_dims: Mapping[str, int]
) -> tuple[AttentionModule, ...]:
    modules = []
    for kind, counts in stored.items():
        for layer, count in enumerate(counts):
            id = GroupId(kind, layer)
            heads = len(lineage.units(id)) if lineage else count
            modules.append(AttentionModule(id, heads, head_dims[_STACK_OF[kind]], count - heads))
    return tuple(modules)


def _feed_forwards(settings: Mapping[str, Any], stacks: tuple[str, ...]) -> tuple[Neurons, ...]:
    """Feed-forward layers without a norm of their neurons (NormFormer), which makes each depend on all others."""
    return tuple(
        Neurons(GroupId(f"{stack}-ffn", layer), settings[f"{stack}_ffn_embed_dim"])
        for stack in stacks
        if not (stack == "decoder" and settings["scale_fc"])
        for layer in range(settings[f"{stack}_layers"])
    )
