"""Names and shapes of a model's tensors, and the axes along which its units lie."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import STACKS, Architecture, AttentionModule, GroupId, Neurons
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.huggingface.entries import Entry, linear_entries, norm_entries

if TYPE_CHECKING:
    from nmtprune.formats.huggingface.config import Config

SHARED, LOGITS_BIAS = "model.shared.weight", "final_logits_bias"
TABLES = {"encoder": "model.encoder.embed_tokens.weight", "decoder": "model.decoder.embed_tokens.weight"}
POSITIONS = "model.{}.embed_positions.weight"
ATTENTION = {"encoder": "self_attn", "decoder": "self_attn", "cross": "encoder_attn"}
"""Kind of attention -> its name in a layer."""

_INPUTS = ("q_proj", "k_proj", "v_proj")
_BUFFERS = re.compile(r"model\.(encoder|decoder)\.(embed_positions\.weights|version)")
"""Names of what old versions of transformers stored and compute anew."""
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")
_NAME = re.compile(r"model\.(encoder|decoder)\.(?:layers\.(\d+)\.)?(.+)\.(weight|bias)")
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_ATTENTION = {"self_attn": "self_attention", "encoder_attn": "cross_attention"}
_LINEAR = {"fc1": "feed_forward.input", "fc2": "feed_forward.output"}
_NORMS = {
    "self_attn_layer_norm": "self_attention",
    "encoder_attn_layer_norm": "cross_attention",
    "final_layer_norm": "feed_forward",
}
_TOP = {"layernorm_embedding": "embedding.norm", "layer_norm": "final_norm", "embed_positions": "embedding.positions"}


def stored_architecture(config: "Config") -> Architecture:
    """The groups for which the file has rows and columns."""
    modules, feed_forwards = [], []
    width = int(config.settings["d_model"])
    for stack, kinds in STACKS.items():
        heads = config.heads(stack)
        for layer in range(config.settings[f"{stack}_layers"]):
            modules += [AttentionModule(GroupId(kind, layer), heads, width // heads) for kind in kinds]
            feed_forwards.append(Neurons(GroupId(f"{stack}-ffn", layer), int(config.settings[f"{stack}_ffn_dim"])))
    return Architecture(tuple(modules), tuple(feed_forwards))


def module_prefix(id: GroupId) -> str:
    """``cross.1`` -> ``model.decoder.layers.1.encoder_attn``, ``encoder-ffn.0`` -> ``model.encoder.layers.0``."""
    own = f"model.{id.stack}.layers.{id.layer}"
    return f"{own}.{ATTENTION[id.kind]}" if id.kind in ATTENTION else own


def unit_axes(architecture: Architecture) -> dict[GroupId, tuple[UnitAxis, ...]]:
    """Every axis in which heads and neurons lie."""
    found = {}
    for module in architecture.modules:
        own, width = module_prefix(module.id), module.head_dim
        inputs = [UnitAxis(f"{own}.{name}.{kind}", 0, width) for name in _INPUTS for kind in ("weight", "bias")]
        found[module.id] = (*inputs, UnitAxis(f"{own}.out_proj.weight", 1, width, output=True))
    for group in architecture.feed_forwards:
        own = module_prefix(group.id)
        inputs = [UnitAxis(f"{own}.fc1.{kind}", 0, 1) for kind in ("weight", "bias")]
        found[group.id] = (*inputs, UnitAxis(f"{own}.fc2.weight", 1, 1, output=True))
    return found


def shared_tables(config: "Config", names: Container[str]) -> tuple[tuple[str, ...], ...]:
    """Names of tables, those of one table together: a file has at least one name of each.

    Args:
        config: of the model.
        names: of the tensors in its files.
    """
    own = config.family.head
    head = (own,) if config.settings["tie_word_embeddings"] or lacks_a_table(config, names) else ()
    alone = () if head else ((own,),)
    if config.shared_vocabulary:
        shared = () if config.family.two_vocabularies else (SHARED,)
        return ((*shared, *TABLES.values(), *head), *alone)
    return ((TABLES["encoder"],), (TABLES["decoder"], *head), *alone)


def lacks_a_table(config: "Config", names: Container[str]) -> str | None:
    """The one of the decoder's two tables that a file of FSMT without ties lacks: transformers 4 takes the other."""
    if not config.family.two_vocabularies or config.settings["tie_word_embeddings"]:
        return None
    missing = [name for name in (TABLES["decoder"], config.family.head) if name not in names]
    return missing[0] if len(missing) == 1 else None


def entries(config: "Config", names: Iterable[str]) -> dict[str, Entry]:
    """What is known of the tensors of a model; of shared tables the first name that is there, or else the first."""
    there = set(names)
    found: dict[str, Entry] = {}
    source, target = config.words
    width, family = int(config.settings["d_model"]), config.family
    for table in shared_tables(config, there):
        first = next((name for name in table if name in there), table[0])
        rows = source if TABLES["encoder"] in table else target
        found[first] = Entry((rows, width), "output" if table == (family.head,) else "embeddings")
    if family.logits_bias:
        found[LOGITS_BIAS] = Entry((1, target), "output", trained=False, optional=True)
    rows = int(config.settings["max_position_embeddings"]) + config.first_position
    for stack in STACKS:
        own = f"model.{stack}"
        if family.position_table or family.stored_positions:
            learned = family.learned_positions
            found[POSITIONS.format(stack)] = Entry((rows, width), "embeddings", trained=learned, optional=not learned)
        found |= norm_entries(f"{own}.layernorm_embedding", width) if family.embedding_norm else {}
        found |= norm_entries(f"{own}.layer_norm", width) if family.final_norm else {}
        for layer in range(config.settings[f"{stack}_layers"]):
            found |= _layer(f"{own}.layers.{layer}", stack, width, int(config.settings[f"{stack}_ffn_dim"]))
    return found


def _layer(own: str, stack: str, width: int, inner: int) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for kind in STACKS[stack]:
        attention = f"{own}.{ATTENTION[kind]}"
        for name in (*_INPUTS, "out_proj"):
            found |= linear_entries(f"{attention}.{name}", width, width, f"attention.{kind}")
        found |= norm_entries(f"{attention}_layer_norm", width)
    found |= linear_entries(f"{own}.fc1", width, inner, "feed-forward")
    found |= linear_entries(f"{own}.fc2", inner, width, "feed-forward")
    return found | norm_entries(f"{own}.final_layer_norm", width)


def table_aliases(config: "Config", names: Iterable[str]) -> dict[str, str]:
    """Name -> the first name of the same table, for tables that a file stores several times."""
    there = set(names)
    found: dict[str, str] = {}
    for table in shared_tables(config, there):
        present = [name for name in table if name in there]
        found |= dict.fromkeys(present[1:], present[0]) if present else {}
    return found


def table_faults(config: "Config", names: Container[str]) -> Iterator[str]:
    """Tables that a file lacks although transformers takes no other in their place."""
    if config.shared_vocabulary and not config.settings["tie_word_embeddings"]:
        untied = [name for name in TABLES.values() if name not in names]
        yield from (f"{name} is missing: transformers shares no table without tie_word_embeddings" for name in untied)


def is_buffer(name: str) -> bool:
    """Whether old versions of transformers stored a tensor that is computed anew."""
    return _BUFFERS.fullmatch(name) is not None


def without_layers(names: Iterable[str], kept: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Name of each tensor that stays -> its name in the model without the other layers.

    Args:
        names: of all tensors.
        kept: numbers of the layers that stay, ascending, by stack; a stack that is not named keeps all.
    """
    found = {}
    for name in names:
        match = _LAYER.match(name)
        if match is None or match[1] not in kept:
            found[name] = name
        elif int(match[2]) in kept[match[1]]:
            number = list(kept[match[1]]).index(int(match[2]))
            found[name] = f"model.{match[1]}.layers.{number}.{name[match.end() :]}"
    return found


def native_of(name: str, config: "Config") -> str | None:
    """Native name of a tensor of a layer, or in front of or behind all; None for tables and buffers."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    stack, layer, inside, kind = match.groups()
    if layer is None:
        return f"{stack}.{_TOP[inside]}.{kind}" if inside in _TOP else None
    own = f"{stack}.layers.{layer}"
    sublayer, _, projection = inside.rpartition(".")
    if sublayer in _ATTENTION and projection in _PROJECTIONS:
        return f"{own}.{_ATTENTION[sublayer]}.{_PROJECTIONS[projection]}.{kind}"
    if inside in _NORMS:
        return f"{own}.{_NORMS[inside]}_{'pre' if config.family.pre_norm else 'post'}_norm.{kind}"
    return f"{own}.{_LINEAR[inside]}.{kind}" if inside in _LINEAR else None
