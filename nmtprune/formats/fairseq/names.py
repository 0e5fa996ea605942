"""From the tensor names of every version of fairseq to those of the native model's parameters."""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_BUFFERS = re.compile(
    r"(encoder|decoder)\.(version|embed_positions\.(_float_tensor|weights)|embed_tokens\._float_tensor)"
    r"|decoder\.adaptive_softmax\.(version|head\._float_tensor)"
)
"""Tensors that hold no weights: versions, markers of a device, sinusoids that old versions stored."""

_LEGACY_NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
"""What ``layer_norms.N`` of old versions are called now, by N."""

_SUBLAYERS = {"self_attn": "self_attention", "encoder_attn": "cross_attention"}
_PROJECTIONS = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "output"}
_NORMS = {
    "self_attn_layer_norm": "self_attention",
    "encoder_attn_layer_norm": "cross_attention",
    "final_layer_norm": "feed_forward",
}
_INSIDE = {
    "fc1": "feed_forward.input",
    "fc2": "feed_forward.output",
    "attn_ln": "self_attention_output_norm",
    "ffn_layernorm": "feed_forward.norm",
}
_TOP = {
    "embed_tokens": "embedding.tokens",
    "embed_positions": "embedding.positions",
    "layernorm_embedding": "embedding.norm",
    "project_in_dim": "embedding.projection",
    "layer_norm": "final_norm",
    "project_out_dim": "output_projection",
}
_ADAPTIVE = "decoder.adaptive_softmax"


def weights_of(settings: Mapping[str, object], tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors that hold weights, under the names of today's fairseq.

    Packed projections are split into views. Where settings choose layers to keep, the others are left out and those
    that stay are numbered anew, unless the names already are.
    """
    found: dict[str, Tensor] = {}
    numbers = {side: _kept_layers(side, settings, tensors) for side in ("encoder", "decoder")}
    for name, tensor in tensors.items():
        layer = re.match(r"(encoder|decoder)\.layers\.(\d+)\.", name)
        if layer and (kept := numbers[layer[1]]):
            if int(layer[2]) not in kept:
                continue
            name = f"{layer[1]}.layers.{kept.index(int(layer[2]))}.{name[layer.end() :]}"
        if _BUFFERS.fullmatch(name):
            continue
        packed = re.fullmatch(r"(.*_attn)\.in_proj_(weight|bias)", name)
        old = re.fullmatch(r"((encoder|decoder)\.layers\.\d+)\.layer_norms\.(\d)\.(weight|bias)", name)
        if packed:
            third = tensor.shape[0] // 3
            for part, projection in enumerate(("q_proj", "k_proj", "v_proj")):
                found[f"{packed[1]}.{projection}.{packed[2]}"] = tensor[part * third : (part + 1) * third]
        elif old and int(old[3]) < len(_LEGACY_NORMS[old[2]]):
            found[f"{old[1]}.{_LEGACY_NORMS[old[2]][int(old[3])]}.{old[4]}"] = tensor
        else:
            found[name] = tensor
    return found


def layers_of(side: str, names: Iterable[str]) -> set[int]:
    """Numbers of the layers of a stack that have a tensor among these names."""
    return {int(match[1]) for name in names if (match := re.match(rf"{side}\.layers\.(\d+)\.", name))}


def is_adaptive(names: Iterable[str]) -> bool:
    """The output layer is an adaptive softmax."""
    return any(name.startswith(f"{_ADAPTIVE}.") for name in names)


def count(names: Iterable[str], pattern: str) -> int:
    """Number of names that are `pattern` with 0, 1, 2, ... in place of its braces, up to the first gap."""
    present, number = set(names), 0
    while pattern.format(number) in present:
        number += 1
    return number


def tail_count(names: Iterable[str]) -> int:
    """Number of bands of an adaptive softmax behind the frequent words'."""
    return count(names, f"{_ADAPTIVE}.tail.{{}}.2.weight")


def native_tensors(settings: Mapping[str, object], tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors under the names of the native model's parameters, without copying any.

    Query, key and value that old versions packed into one matrix are views of it. Tables that the settings share are
    one tensor: the output layer's, as in fairseq, which loads it last. Buffers are left out, and a name that means
    nothing stays as it is.

    Args:
        settings: the model's settings, completed by `architectures.complete`.
        tensors: the model's tensors under fairseq's names.
    """
    found = weights_of(settings, tensors)
    outputs = _adaptive_output(settings, found) if is_adaptive(found) else _plain_output(settings, found)
    native = {native_name(name, settings) or name: tensor for name, tensor in found.items() if name not in outputs}
    native |= dict(outputs.values())
    if settings.get("share_decoder_input_output_embed") and "output.weight" in native:
        native["decoder.embedding.tokens.weight"] = native["output.weight"]
        if settings.get("share_all_embeddings") or settings.get("merge_src_tgt_embed"):
            native["encoder.embedding.tokens.weight"] = native["output.weight"]
    return native


def unknown_names(settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> list[str]:
    """Names among `weights_of` a file that no transformer has."""
    outputs = _adaptive_output(settings, found) if is_adaptive(found) else _plain_output(settings, found)
    return [name for name in found if name not in outputs and native_name(name, settings) is None]


def native_name(name: str, settings: Mapping[str, object]) -> str | None:
    """Native name of a tensor outside the output layer; None for one that a transformer does not have."""
    match = re.fullmatch(r"(encoder|decoder)\.(?:layers\.(\d+)\.)?(.+)\.(weight|bias)", name)
    if match is None:
        scale = re.fullmatch(r"(decoder\.layers\.\d+)\.w_resid", name)
        return f"{scale[1]}.feed_forward_residual_scale" if scale else None
    side, layer, inside, kind = match.groups()
    if layer is None:
        band = re.fullmatch(r"embed_tokens\.embeddings\.(\d+)\.([01])", inside)
        if band:
            return f"{side}.embedding.bands.{band[1]}.{('tokens', 'projection')[int(band[2])]}.{kind}"
        return f"{side}.{_TOP[inside]}.{kind}" if inside in _TOP else None
    sublayer, _, projection = inside.rpartition(".")
    if sublayer in _SUBLAYERS and projection in _PROJECTIONS:
        return f"{side}.layers.{layer}.{_SUBLAYERS[sublayer]}.{_PROJECTIONS[projection]}.{kind}"
    if inside in _NORMS:
        place = "pre" if settings.get(f"{side}_normalize_before") else "post"
        return f"{side}.layers.{layer}.{_NORMS[inside]}_{place}_norm.{kind}"
    return f"{side}.layers.{layer}.{_INSIDE[inside]}.{kind}" if inside in _INSIDE else None


def _kept_layers(side: str, settings: Mapping[str, object], names: Iterable[str]) -> list[int]:
    """Layers that the settings choose (LayerDrop); none where they choose none or the names are numbered anew."""
    chosen = settings.get(f"{side}_layers_to_keep")
    kept = sorted(int(layer) for layer in str(chosen).split(",")) if chosen else []
    return kept if set(kept) <= layers_of(side, names) else []


def _plain_output(settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> "dict[str, tuple[str, Tensor]]":
    """Output tensors by their name in the file, each with its native name."""
    name = "decoder.output_projection.weight"
    if name in found:
        return {name: ("output.weight", found[name])}
    if settings.get("share_decoder_input_output_embed"):
        table = found.get("decoder.embed_tokens.weight")
        return {} if table is None else {"decoder.embed_tokens.weight": ("output.weight", table)}
    old = "decoder.embed_out"
    return {old: ("output.weight", found[old])} if old in found else {}


def _adaptive_output(settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> "dict[str, tuple[str, Tensor]]":
    """Tensors of an adaptive softmax by their name in the file, each with its native name.

    A head of one matrix scores words and classes; it stands twice, under a second name that no file has.
    """
    tails = tail_count(found)
    head = f"{_ADAPTIVE}.head"
    names = {
        f"{head}.word_proj.weight": "output.words.weight",
        f"{head}.class_proj.weight": "output.classes.weight",
    }
    outputs = {name: (native, found[name]) for name, native in names.items() if name in found}
    both = found.get(f"{head}.weight")
    if both is not None:
        words = both.shape[0] - tails
        outputs[f"{head}.weight"] = ("output.words.weight", both[:words])
        outputs[f"{head}.weight, classes"] = ("output.classes.weight", both[words:])
    tied = bool(settings.get("tie_adaptive_weights") and settings.get("tie_adaptive_proj"))
    for band in range(tails):
        inner, words_name = f"{_ADAPTIVE}.tail.{band}.0.weight", f"{_ADAPTIVE}.tail.{band}.2.weight"
        outputs[words_name] = (f"output.tails.{band}.words.weight", found[words_name])
        if inner in found:
            projection = found[inner].t() if tied else found[inner]
            outputs[inner] = (f"output.tails.{band}.projection.weight", projection)
    return outputs
