"""Names and shapes of a classifier's tensors, the axes along which its units lie, and the network that they make."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.architecture import Architecture, AttentionModule, GroupId, Neurons
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.huggingface.entries import Entry, linear_entries
from nmtprune.formats.huggingface.families import ACTIVATIONS
from nmtprune.network import ClassifierNetwork, Positions, Stack
from nmtprune.profile import ClassifierProfile

if TYPE_CHECKING:
    from nmtprune.formats.huggingface.classifier_config import ClassifierConfig

_INPUTS = 3
"""W_q, W_k and W_v come first among the names of an attention module."""
_PROJECTIONS = ("query", "key", "value", "output")
_BUFFERS = ("position_ids", "token_type_ids")
_TABLES = {
    "word_embeddings": "embedding.tokens",
    "position_embeddings": "embedding.positions",
    "token_type_embeddings": "embedding.segments",
    "LayerNorm": "embedding.norm",
}
_PAIRS = dict.fromkeys(("cola", "sst-2", "sst2"), False) | dict.fromkeys(
    ("mnli", "mnli-mm", "mrpc", "qnli", "qqp", "rte", "wnli"), True
)
"""Tasks of GLUE, as ``finetuning_task`` names them -> whether their texts are pairs."""
_OLD_NORMS = {"gamma": "weight", "beta": "bias"}
"""What the first versions of BERT called the parameters of ``LayerNorm``; transformers renames them."""


def stored_architecture(config: "ClassifierConfig") -> Architecture:
    """The groups for which the file has rows and columns."""
    heads, inner, layers = config.size("heads"), config.size("inner"), range(config.size("layers"))
    width = config.size("width") // heads
    modules = tuple(AttentionModule(GroupId("encoder", layer), heads, width) for layer in layers)
    return Architecture(modules, tuple(Neurons(GroupId("encoder-ffn", layer), inner) for layer in layers))


def unit_axes(config: "ClassifierConfig", architecture: Architecture) -> dict[GroupId, tuple[UnitAxis, ...]]:
    """Every axis in which heads and neurons lie."""
    found = {}
    for group in architecture.groups:
        own = _layer_prefix(config, group.id.layer)
        if group.id.sort == "heads":
            inputs, output = config.family.attention[:_INPUTS], config.family.attention[_INPUTS]
        else:
            inputs, output = config.family.feed_forward[:1], config.family.feed_forward[1]
        rows = [UnitAxis(f"{own}.{name}.{kind}", 0, group.width) for name in inputs for kind in ("weight", "bias")]
        found[group.id] = (*rows, UnitAxis(f"{own}.{output}.weight", 1, group.width, output=True))
    return found


def entries(config: "ClassifierConfig", names: Iterable[str]) -> dict[str, Entry]:
    """What is known of the tensors of a model."""
    there, family, width = set(names), config.family, config.size("width")
    own, sizes = f"{family.prefix}.embeddings", config.settings
    rows = {"word_embeddings": "vocab_size", "position_embeddings": "max_position_embeddings"}
    rows |= {"token_type_embeddings": "type_vocab_size"} if family.segments else {}
    found = {f"{own}.{name}.weight": Entry((sizes[size], width), "embeddings") for name, size in rows.items()}
    found |= _norm(f"{own}.LayerNorm", width, there)
    for layer in range(config.size("layers")):
        found |= _layer(config, _layer_prefix(config, layer), there)
    found |= linear_entries(family.head[0], width, width, "output")
    found |= linear_entries(family.head[1], width, config.labels, "output")
    for name in family.unused:
        left_out = linear_entries(name, width, width, "output")
        found |= {each: Entry(entry.shape, entry.part, False, True) for each, entry in left_out.items()}
    return found


def _layer(config: "ClassifierConfig", own: str, there: Collection[str]) -> dict[str, Entry]:
    width, inner, found = config.size("width"), config.size("inner"), dict[str, Entry]()
    *projections, norm = config.family.attention
    for name in projections:
        found |= linear_entries(f"{own}.{name}", width, width, "attention.encoder")
    found |= _norm(f"{own}.{norm}", width, there)
    first, second, norm = config.family.feed_forward
    found |= linear_entries(f"{own}.{first}", width, inner, "feed-forward")
    found |= linear_entries(f"{own}.{second}", inner, width, "feed-forward")
    return found | _norm(f"{own}.{norm}", width, there)


def _norm(own: str, width: int, there: Collection[str]) -> dict[str, Entry]:
    """Weight and bias of a norm, under the names that the file has for them."""
    found = {}
    for old, new in _OLD_NORMS.items():
        is_old = own.endswith("LayerNorm") and f"{own}.{old}" in there
        found[f"{own}.{old if is_old else new}"] = Entry((width,), "norms")
    return found


def is_buffer(config: "ClassifierConfig", name: str) -> bool:
    """Whether old versions of transformers stored a tensor that is computed anew."""
    return name in [f"{config.family.prefix}.embeddings.{buffer}" for buffer in _BUFFERS]


def _layer_prefix(config: "ClassifierConfig", layer: int) -> str:
    return f"{config.family.prefix}.{config.family.stack}.{layer}"


def _in_layer(config: "ClassifierConfig", name: str) -> tuple[int, str] | None:
    """Number of the layer that a tensor belongs to, and its name inside of it; None for tensors of no layer."""
    own = re.escape(f"{config.family.prefix}.{config.family.stack}")
    match = re.fullmatch(rf"{own}\.(\d+)\.(.+)", name)
    return None if match is None else (int(match[1]), match[2])


def without_layers(
    config: "ClassifierConfig", names: Iterable[str], kept: Mapping[str, Sequence[int]]
) -> dict[str, str]:
    """Name of each tensor that stays -> its name in the model without the other layers.

    Args:
        config: of the model.
        names: of all tensors.
        kept: under ``encoder`` the numbers of the layers that stay, ascending; without it all stay.
    """
    found, layers = {}, kept.get("encoder")
    for name in names:
        place = _in_layer(config, name)
        if place is None or layers is None:
            found[name] = name
        elif place[0] in layers:
            found[name] = f"{_layer_prefix(config, list(layers).index(place[0]))}.{place[1]}"
    return found


def native_of(config: "ClassifierConfig", name: str) -> str | None:
    """Native name of a tensor; None for one that transformers leaves out or computes anew."""
    module, _, kind = name.rpartition(".")
    if module.endswith("LayerNorm"):
        kind = _OLD_NORMS.get(kind, kind)
    if kind not in ("weight", "bias"):
        return None
    if module in config.family.head:
        return f"head.{('dense', 'output')[config.family.head.index(module)]}.{kind}"
    place = _in_layer(config, module)
    if place is None:
        table = _TABLES.get(module.removeprefix(f"{config.family.prefix}.embeddings."))
        return None if table is None else f"encoder.{table}.{kind}"
    attention, feed_forward = config.family.attention, config.family.feed_forward
    natives = dict(zip(attention, (*(f"self_attention.{each}" for each in _PROJECTIONS), "self_attention_post_norm"),
                       strict=True))  # fmt: skip
    natives |= dict(zip(feed_forward, ("feed_forward.input", "feed_forward.output", "feed_forward_post_norm"),
                        strict=True))  # fmt: skip
    inside = natives.get(place[1])
    return None if inside is None else f"encoder.layers.{place[0]}.{inside}.{kind}"


def describe_network(config: "ClassifierConfig") -> ClassifierNetwork:
    """The network of a model."""
    family, settings = config.family, config.settings
    stack = Stack(
        layers=config.size("layers"),
        preprocess="",
        postprocess="an",
        final_norm=False,
        embedding_scale=1.0,
        max_positions=settings["max_position_embeddings"] - config.first_position,
        embedding_norm=True,
        positions=Positions(learned=True, first=config.first_position),
        segments=settings["type_vocab_size"] if family.segments else 0,
    )
    return ClassifierNetwork(
        encoder=stack,
        labels=config.labels,
        pooler_activation=family.pooler_activation,
        activation=ACTIVATIONS[settings[family.names["activation"]]],
        padding=int(settings["pad_token_id"]),
        layer_norm_epsilon=config.epsilon,
    )


def describe_profile(config: "ClassifierConfig", folder: Path, notes: tuple[str, ...]) -> ClassifierProfile:
    """What a model in a folder asks of its texts."""
    network = describe_network(config)
    return ClassifierProfile(
        labels=config.labels,
        symbols=int(config.settings["vocab_size"]),
        max_positions=network.encoder.max_positions,
        padding=network.padding,
        label_names=config.label_names,
        segments=network.encoder.segments,
        tokenizer=folder,
        pairs=_PAIRS.get(str(config.values.get("finetuning_task"))),
        notes=notes,
    )
