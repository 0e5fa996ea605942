"""The settings that say what is left of a slim checkpoint, its heads, neurons and lineage: read and written.

A model with all its heads whose feed-forward layers have one width per stack is one that stock fairseq builds: it keeps
its architecture, and only numbers in its settings change. Any other is one of the plug-in's.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import KINDS, NEURON_KINDS, STACKS, Architecture, AttentionModule, GroupId, Neurons
from nmtprune.formats.fairseq.architectures import ENCODERS, LANGUAGE_MODELS, TRANSLATION, stock
from nmtprune.formats.fairseq.containers import quoted
from nmtprune.plan import Lineage

if TYPE_CHECKING:
    from nmtprune.formats.fairseq.settings import Description

SLIM = {"nmtprune": TRANSLATION, "nmtprune_lm": LANGUAGE_MODELS, "nmtprune_roberta": ENCODERS}
"""Architectures of slim checkpoints -> the architectures that they can be cut from, as `stock` names them."""

BASE_ARCH = "nmtprune_base_arch"
"""Setting with the architecture before the cut."""

HEADS = "nmtprune_heads"
"""Setting with the stored heads by kind, layer by layer, as JSON."""

NEURONS = "nmtprune_neurons"
"""Setting with the stored neurons by kind, layer by layer, as JSON; only where a stack has several widths."""

LINEAGE = "nmtprune_lineage"
"""Setting with the lineage, which models of stock architectures can have too."""

HEAD_DIMS = {"encoder": "encoder_head_dim", "decoder": "decoder_head_dim"}
"""Settings that hold the width of a head of each stack; cross-attention belongs to the decoder."""

STACK_OF = {kind: stack for stack, kinds in STACKS.items() for kind in kinds}
"""Kind of attention -> the stack that it belongs to."""

LAYERS_OF_BOTH_STACKS = ("layers", "layers_to_keep")
"""Names that fairseq takes for those of both stacks: they say what the own names of the stacks say."""

Counts = Mapping[str, Sequence[int]]
"""Stored units by kind, layer by layer."""


@dataclass(frozen=True)
class StoredUnits:
    """Units for which a file has rows and columns, padding included.

    Attributes:
        heads: by kind that the model has.
        neurons: by kind of feed-forward layer whose neurons can be cut.
        where: the setting, or settings, that say so.
    """

    heads: Counts
    neurons: Counts
    where: str


def read_stored(settings: Mapping[str, Any], layers: Mapping[str, int], slim: bool) -> tuple[StoredUnits, list[str]]:
    """The stored units that complete settings say, and every fault of the settings.

    Args:
        settings: of the model.
        layers: number of the layers of each stack that are used.
        slim: the plug-in builds the model.
    """
    modules = _module_counts(settings, layers)
    widths = {f"{stack}-ffn": count for stack, count in layers.items() if not _has_norm_inside(settings, stack)}
    if not slim:
        return StoredUnits(_stock_heads(settings, modules), _uniform(settings, widths), "the settings"), []
    heads, faults = _slim_heads(settings, modules)
    neurons, others = _slim_neurons(settings, widths)
    return StoredUnits(heads, neurons, HEADS), faults + others


def _has_norm_inside(settings: Mapping[str, Any], stack: str) -> bool:
    """NormFormer's norm of neurons makes each depend on all others of its layer: they cannot be cut."""
    return stack == "decoder" and bool(settings["scale_fc"])


def _module_counts(settings: Mapping[str, Any], layers: Mapping[str, int]) -> dict[str, int]:
    """Number of modules of every kind."""
    decoder = layers.get("decoder", 0)
    has_cross = "encoder" in layers and decoder and not settings["no_cross_attention"]
    return {"encoder": layers.get("encoder", 0), "decoder": decoder, "cross": decoder if has_cross else 0}


def _stock_heads(settings: Mapping[str, Any], modules: Mapping[str, int]) -> Counts:
    return {kind: [settings[f"{STACK_OF[kind]}_attention_heads"]] * count for kind, count in modules.items() if count}


def _uniform(settings: Mapping[str, Any], widths: Mapping[str, int]) -> Counts:
    return {kind: [settings[f"{GroupId(kind).stack}_ffn_embed_dim"]] * count for kind, count in widths.items()}


def _slim_heads(settings: Mapping[str, Any], modules: Mapping[str, int]) -> tuple[Counts, list[str]]:
    text = settings.get(HEADS)
    heads = json_setting(text)
    if _are_count_lists(heads) and set(heads) == set(KINDS):
        faults = [
            f"{HEADS} lists {len(heads[kind])} {kind} modules, the model has {count}"
            for kind, count in modules.items()
            if len(heads[kind]) != count
        ]
    else:
        faults = [f"{HEADS} is {quoted(text)}, no list of head counts per kind"]
    for name in {HEAD_DIMS[STACK_OF[kind]]: None for kind, count in modules.items() if count}:
        width = settings.get(name)
        if type(width) is not int or width < 1:
            faults.append(f"{name} is {quoted(width)}, no whole number from 1")
    return heads, faults


def _slim_neurons(settings: Mapping[str, Any], widths: Mapping[str, int]) -> tuple[Counts, list[str]]:
    """Neurons of a slim checkpoint: kinds that the setting does not list have one width."""
    text = settings.get(NEURONS)
    uniform = _uniform(settings, widths)
    if text is None:
        return uniform, []
    listed = json_setting(text)
    if not _are_count_lists(listed) or not set(listed) <= set(NEURON_KINDS):
        return uniform, [f"{NEURONS} is {quoted(text)}, no list of neuron counts per kind"]
    faults = [f"{NEURONS} lists {kind}, whose neurons cannot be cut" for kind in listed if kind not in widths]
    faults += [
        f"{NEURONS} lists {len(listed[kind])} {kind} layers, the model has {count}"
        for kind, count in widths.items()
        if kind in listed and len(listed[kind]) != count
    ]
    return {**uniform, **listed}, faults


def json_setting(text: Any) -> Any:
    """The value of a setting that holds JSON; None where it holds none."""
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None


def _are_count_lists(counts: Any) -> bool:
    return (
        isinstance(counts, dict)
        and all(isinstance(own, list) for own in counts.values())
        and all(type(count) is int and count >= 0 for own in counts.values() for count in own)
    )


def lineage_faults_of(lineage: Lineage, stored: StoredUnits) -> list[str]:
    """What makes a lineage that of another model than the one that has these units."""
    found = []
    for sort, counts, root, where in (
        ("heads", stored.heads, lineage.root.modules, stored.where),
        ("neurons", stored.neurons, lineage.root.feed_forwards, "the model"),
    ):
        here = {GroupId(kind, layer): count for kind, own in counts.items() for layer, count in enumerate(own)}
        kept = {lineage.present(id): len(lineage.keep[str(id)]) for id in root if lineage.has(id)}
        if sort == "neurons" and not root:
            continue
        if set(here) != set(kept):
            what = "modules" if sort == "heads" else "feed-forward layers"
            found.append(f"{LINEAGE} and {where} name different {what}")
            continue
        found += [
            f"{LINEAGE} has {count} {sort} of {id}, {where} {here[id]}"
            for id, count in kept.items()
            if count > here[id]
        ]
    return found


def architecture_from(stored: StoredUnits, lineage: Lineage | None, head_dims: Mapping[str, int]) -> Architecture:
    """What can be cut: stored units that the lineage does not name are padding.

    Args:
        stored: units that the file has.
        lineage: of a slim checkpoint.
        head_dims: width of a head by stack.
    """
    modules, feed_forwards = [], []
    for kind, counts in stored.heads.items():
        for layer, count in enumerate(counts):
            id = GroupId(kind, layer)
            heads = len(lineage.units(id)) if lineage else count
            modules.append(AttentionModule(id, heads, head_dims[STACK_OF[kind]], count - heads))
    for kind, counts in stored.neurons.items():
        for layer, count in enumerate(counts):
            id = GroupId(kind, layer)
            neurons = len(lineage.units(id)) if lineage and lineage.root.neurons else count
            feed_forwards.append(Neurons(id, neurons, padding=count - neurons))
    return Architecture(tuple(modules), tuple(feed_forwards))


def shape_fields(
    description: "Description", architecture: Architecture, lineage: Lineage | None
) -> tuple[dict[str, Any], list[str]]:
    """The settings of the model that must change, and the names of those that must go, to say what is left of it.

    Args:
        description: of the checkpoint before the cut.
        architecture: what is left.
        lineage: of the result.
    """
    changes, removed = _width_fields(description.settings, architecture)
    if _fairseq_builds(description.settings, architecture):
        changes |= {LINEAGE: lineage.to_json()} if lineage else {}
        if description.needs_plugin:
            changes |= {"arch": description.arch, "_name": description.arch}
        return changes, [*removed, BASE_ARCH, HEADS, NEURONS, *HEAD_DIMS.values(), *([] if lineage else [LINEAGE])]
    ragged = ragged_neurons(architecture)
    changes |= slim_fields(description.arch, architecture, lineage)
    return (changes | {NEURONS: json.dumps(ragged)}, removed) if ragged else (changes, [*removed, NEURONS])


def slim_fields(arch: str, architecture: Architecture, lineage: Lineage | None) -> dict[str, Any]:
    """The settings that make a checkpoint one of the plug-in's: which it builds, its heads, and where they are from."""
    name = next(name for name, bases in SLIM.items() if stock(arch) in bases)
    stored = {kind: [module.stored_heads for module in architecture.of_kind(kind)] for kind in KINDS}
    widths = {STACK_OF[module.id.kind]: module.head_dim for module in architecture}
    return {
        "arch": name,
        "_name": name,
        BASE_ARCH: arch,
        HEADS: json.dumps(stored),
        LINEAGE: lineage.to_json() if lineage else None,
        **{HEAD_DIMS[stack]: head_dim for stack, head_dim in widths.items()},
    }


def ragged_neurons(architecture: Architecture) -> dict[str, list[int]]:
    """Stored neurons layer by layer, of the kinds whose layers differ."""
    return {kind: counts for kind, counts in _stored_neurons(architecture).items() if len(set(counts)) > 1}


def _stored_neurons(architecture: Architecture) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for group in architecture.feed_forwards:
        found.setdefault(group.id.kind, []).append(group.stored)
    return found


def _width_fields(settings: Mapping[str, Any], architecture: Architecture) -> tuple[dict[str, Any], list[str]]:
    """Widths of the stacks, those of their widest layers: all where one has changed, since some follow others."""
    widest = {f"{GroupId(kind).stack}_ffn_embed_dim": max(own) for kind, own in _stored_neurons(architecture).items()}
    if all(settings[name] == width for name, width in widest.items()):
        return {}, []
    others = {name: settings[name] for stack in STACKS if (name := f"{stack}_ffn_embed_dim") in settings}
    return others | widest, ["ffn_embed_dim"]


def _fairseq_builds(settings: Mapping[str, Any], architecture: Architecture) -> bool:
    """Whether stock fairseq builds such a model: all heads of its settings, and one width per stack."""
    for module in architecture:
        stack = STACK_OF[module.id.kind]
        heads, width = settings[f"{stack}_attention_heads"], settings[f"{stack}_embed_dim"]
        if module.padding or module.heads != heads or heads * module.head_dim != width:
            return False
    return all(len(set(counts)) == 1 for counts in _stored_neurons(architecture).values())
