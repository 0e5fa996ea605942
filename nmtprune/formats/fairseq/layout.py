"""The tensors that a fairseq transformer of given settings has: names, shapes, parts, and which are the same one."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from nmtprune.architecture import AttentionModule, GroupId
from nmtprune.formats.base import UnitAxis
from nmtprune.formats.fairseq import adaptive, encoder_layout
from nmtprune.formats.fairseq.settings import Description
from nmtprune.formats.fairseq.tensor_specs import (
    BUFFER,
    PADDING,
    Draw,
    TensorSpec,
    glorot_spec,
    linear_specs,
    norm_specs,
    ones_spec,
    table_spec,
)

_ATTENTION = {
    "encoder": ("encoder", "self_attn"),
    "decoder": ("decoder", "self_attn"),
    "cross": ("decoder", "encoder_attn"),
}
"""Kind of module -> stack and name of its layers' submodule."""

_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
"""Norms of a layer in the order in which the first versions numbered them (``layer_norms.0``)."""

_FINAL_NORM_FROM = {"encoder": 2, "decoder": 3}
"""Version of a stack from which a norm follows the last layer of a pre-norm model."""

_QKV_GAIN = 1 / math.sqrt(2)
"""fairseq draws W_q, W_k and W_v as the thirds of one matrix, where they have the same width."""

OLD_EMBEDDING_NORM = "emb_layer_norm"
"""What the first versions of RoBERTa's class called the norm behind the embeddings."""

_LISTED = 6


def attention_prefix(module: GroupId, description: Description) -> str:
    """Beginning of the names, in the file, of an attention module's tensors."""
    stack, name = _ATTENTION[module.kind]
    return f"{description.stems[stack]}.layers.{description.layers[stack][module.layer]}.{name}"


def layer_prefix(group: GroupId, description: Description) -> str:
    """Beginning of the names, in the file, of the tensors of the layer that a group is in."""
    return f"{description.stems[group.stack]}.layers.{description.layers[group.stack][group.layer]}"


def unit_axes(description: Description, names: Iterable[str]) -> dict[GroupId, tuple[UnitAxis, ...]]:
    """Where the units of every group lie in the model's own tensors."""
    known = set(names)
    heads = {
        module.id: tuple(_axes(attention_prefix(module.id, description), module.head_dim, known))
        for module in description.architecture
    }
    return heads | {
        group.id: tuple(_neuron_axes(layer_prefix(group.id, description)))
        for group in description.architecture.feed_forwards
    }


def _neuron_axes(layer: str) -> Iterator[UnitAxis]:
    yield UnitAxis(f"{layer}.fc1.weight", 0, 1)
    yield UnitAxis(f"{layer}.fc1.bias", 0, 1)
    yield UnitAxis(f"{layer}.fc2.weight", 1, 1, output=True)


def _axes(prefix: str, width: int, names: set[str]) -> Iterator[UnitAxis]:
    if f"{prefix}.in_proj_weight" in names:
        yield from (UnitAxis(f"{prefix}.in_proj_{part}", 0, width, blocks=3) for part in ("weight", "bias"))
    else:
        yield from (UnitAxis(f"{prefix}.{kind}_proj.{part}", 0, width) for kind in "kvq" for part in ("weight", "bias"))
    yield UnitAxis(f"{prefix}.out_proj.weight", 1, width, output=True)


def expected_tensors(description: Description, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Every tensor that the model has, by its name in the file, which may be an old one."""
    if description.encoder_only:
        return encoder_layout.drawn_as_bert(_stacks(description, tensors)) | encoder_layout.head_specs(
            description, tensors
        )
    return _stacks(description, tensors) | _output(description, tensors)


def _stacks(description: Description, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    found: dict[str, TensorSpec] = {}
    for stack in description.layers:
        found |= _around_layers(stack, description, tensors)
        for position in range(len(description.layers[stack])):
            found |= _layer(stack, position, description, tensors)
    return found


def tensor_faults(
    expected: Mapping[str, TensorSpec], description: Description, tensors: Mapping[str, Tensor]
) -> list[str]:
    """Missing, unexpected and misshapen tensors; of many, the first few and the number of the others."""
    found = [f"{name} is missing" for name, spec in expected.items() if name not in tensors and not spec.optional]
    found += [
        f"{name} is no part of such a model"
        for name in tensors
        if name not in expected and not is_unused(name, description)
    ]
    for name, spec in expected.items():
        if name in tensors and not spec.fits(tuple(tensors[name].shape)):
            found.append(f"{name} has shape {list(tensors[name].shape)}, not {spec.shown_shape}")
    return found if len(found) <= _LISTED else [*found[:_LISTED], f"and {len(found) - _LISTED} more such faults"]


def aliases(description: Description) -> dict[str, str]:
    """Name -> the first name of the same parameter, as the settings share tables."""
    settings = description.settings
    if description.encoder_only:
        return encoder_layout.tied_output(description)
    found: dict[str, str] = {}
    if settings.get("share_all_embeddings") or settings.get("merge_src_tgt_embed"):
        found["decoder.embed_tokens.weight"] = "encoder.embed_tokens.weight"
    if settings["adaptive_softmax_cutoff"] is not None:
        found |= adaptive.tied_bands(settings)
    elif settings["share_decoder_input_output_embed"]:
        found["decoder.output_projection.weight"] = "decoder.embed_tokens.weight"
    return {name: found.get(first, first) for name, first in found.items()}


def is_unused(name: str, description: Description) -> bool:
    """Whether a tensor belongs to a layer that is not among those to keep."""
    place = description.layer_of(name)
    if place is None or not description.chosen_layers:
        return False
    return place[1] not in description.layers[place[0]]


def as_built(name: str, description: Description) -> str | None:
    """Name of a tensor in the model that fairseq builds, which numbers the kept layers anew; None if it is unused."""
    if is_unused(name, description):
        return None
    place = description.layer_of(name)
    if place is None or not description.chosen_layers:
        return name
    stack, number, inside = place
    return f"{description.stems[stack]}.layers.{description.layers[stack].index(number)}{inside}"


def _around_layers(stack: str, description: Description, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Tables, positions, projections and norms before and after the layers of a stack."""
    settings, stem = description.settings, description.stems[stack]
    width, inputs = settings[f"{stack}_embed_dim"], settings[f"{stack}_embed_dim"]
    if description.language_model and settings["adaptive_input"]:
        found = adaptive.input_specs(settings, tensors)
    else:
        inputs = settings["decoder_input_dim"] if description.language_model else width
        found = {f"{stem}.embed_tokens.weight": table_spec(None, inputs, "embeddings", padding_row=True)}
    found[f"{stem}.version"] = BUFFER
    found |= _positions(stack, description)
    if inputs != width:
        found[f"{stem}.project_in_dim.weight"] = glorot_spec((width, inputs), width, inputs, "embeddings")
    if settings["layernorm_embedding"]:
        old = f"{stem}.{OLD_EMBEDDING_NORM}"
        found |= norm_specs(old if f"{old}.weight" in tensors else f"{stem}.layernorm_embedding", width)
    if settings[f"{stack}_normalize_before"] and _may_end_with_norm(stack, description, tensors):
        found |= norm_specs(f"{stem}.layer_norm", width)
    return found


def _may_end_with_norm(stack: str, description: Description, tensors: Mapping[str, Tensor]) -> bool:
    version = tensors.get(f"{description.stems[stack]}.version")
    recent = version is not None and version.numel() and float(version.reshape(-1)[0]) >= _FINAL_NORM_FROM[stack]
    return bool(recent) and not (stack == "decoder" and description.settings["no_decoder_final_norm"])


def _positions(stack: str, description: Description) -> dict[str, TensorSpec]:
    settings, stem = description.settings, description.stems[stack]
    if settings["no_token_positional_embeddings"]:
        return {}
    if settings[f"{stack}_learned_pos"]:
        # An encoder alone says how many positions it has; the others take them from their tables.
        rows = settings["max_positions"] + PADDING + 1 if description.encoder_only else None
        table = table_spec(rows, settings[f"{stack}_embed_dim"], "embeddings", padding_row=True)
        return {f"{stem}.embed_positions.weight": table}
    return {f"{stem}.embed_positions.{name}": BUFFER for name in ("_float_tensor", "weights")}


def _layer(stack: str, position: int, description: Description, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    settings, prefix = description.settings, layer_prefix(GroupId(f"{stack}-ffn", position), description)
    width, (inner, padding) = settings[f"{stack}_embed_dim"], _neurons(stack, position, description)
    ids = [GroupId(kind, position) for kind, (own_stack, _) in _ATTENTION.items() if own_stack == stack]
    found: dict[str, TensorSpec] = {}
    for module in (description.architecture[id] for id in ids if id in description.architecture):
        keys = settings["encoder_embed_dim"] if module.id.kind == "cross" else width
        found |= _attention(attention_prefix(module.id, description), module, (width, keys), tensors)
    for number, name in enumerate(_NORMS[stack]):
        if name != "encoder_attn_layer_norm" or GroupId("cross", position) in description.architecture:
            old = f"{prefix}.layer_norms.{number}"
            found |= norm_specs(old if f"{old}.weight" in tensors else f"{prefix}.{name}", width)
    found |= linear_specs(f"{prefix}.fc1", inner, width, "feed-forward")
    found |= linear_specs(f"{prefix}.fc2", width, inner, "feed-forward", padding)
    if stack == "decoder":
        found |= norm_specs(f"{prefix}.attn_ln", width) if settings["scale_attn"] else {}
        found |= norm_specs(f"{prefix}.ffn_layernorm", inner) if settings["scale_fc"] else {}
        found |= {f"{prefix}.w_resid": ones_spec(width)} if settings["scale_resids"] else {}
    return found


def _neurons(stack: str, position: int, description: Description) -> tuple[int, int]:
    """Stored neurons of a feed-forward layer, and the padding among them."""
    id = GroupId(f"{stack}-ffn", position)
    own = next((group for group in description.architecture.feed_forwards if group.id == id), None)
    return (description.settings[f"{stack}_ffn_embed_dim"], 0) if own is None else (own.stored, own.padding)


def _attention(
    prefix: str, module: AttentionModule, widths: tuple[int, int], names: Mapping[str, Any]
) -> dict[str, TensorSpec]:
    """W_q, W_k, W_v [H * K, width] with biases, or packed [3 * H * K, D]; W_O [D, H * K].

    Args:
        prefix: beginning of the names.
        module: its heads; drawing counts those that compute something.
        widths: of queries (D) and of keys and values.
        names: what the file has.
    """
    width, keys = widths
    rows, fan = module.stored_heads * module.head_dim, max(1, module.heads * module.head_dim)
    part = f"attention.{module.id.kind}"
    gain = _QKV_GAIN if keys == width else 1.0
    found: dict[str, TensorSpec] = {}
    if f"{prefix}.in_proj_weight" in names:
        found[f"{prefix}.in_proj_weight"] = glorot_spec((3 * rows, width), fan, width, part, gain)
        found[f"{prefix}.in_proj_bias"] = _bias(3 * rows, width, part)
    else:
        for kind, inputs in (("k", keys), ("v", keys), ("q", width)):
            found[f"{prefix}.{kind}_proj.weight"] = glorot_spec((rows, inputs), fan, inputs, part, gain)
            found[f"{prefix}.{kind}_proj.bias"] = _bias(rows, inputs, part)
    found[f"{prefix}.out_proj.weight"] = glorot_spec((width, rows), width, fan, part)
    found[f"{prefix}.out_proj.bias"] = TensorSpec((width,), part, Draw("constant", 0.0))
    return found


def _bias(rows: int, inputs: int, part: str) -> TensorSpec:
    return TensorSpec((rows,), part, Draw("uniform", 1 / math.sqrt(inputs)))


def _output(description: Description, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """What turns the decoder's vectors into scores of words."""
    settings = description.settings
    width, outputs = settings["decoder_embed_dim"], settings["decoder_output_dim"]
    found: dict[str, TensorSpec] = {}
    if outputs != width and not settings["tie_adaptive_weights"]:
        found["decoder.project_out_dim.weight"] = glorot_spec((outputs, width), outputs, width, "output")
    if settings["adaptive_softmax_cutoff"] is not None:
        return found | adaptive.softmax_specs(settings, tensors)
    if settings["share_decoder_input_output_embed"]:
        tied = TensorSpec((None, None), "embeddings", None, optional=True)
        return found | {"decoder.output_projection.weight": tied}
    name = "decoder.embed_out" if "decoder.embed_out" in tensors else "decoder.output_projection.weight"
    return found | {name: table_spec(None, outputs, "output")}
