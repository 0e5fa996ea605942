"""From fairseq's settings to the description of the network that the native model runs, or to what keeps it from it."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from nmtprune.errors import CheckpointError
from nmtprune.network import Network, Positions, Stack

if TYPE_CHECKING:
    from torch import Tensor

PADDING, EOS = 1, 2
"""Ids that every fairseq dictionary gives to padding and to the end of a sentence."""

ACTIVATIONS = {
    "relu": "relu",
    "relu_squared": "relu_squared",
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "tanh": "tanh",
    "linear": "linear",
    "swish": "swish",
    "silu": "swish",
}
"""Name of a function in fairseq -> what the native model calls it."""

_REFUSED = {
    "quant_noise_pq": "quantization noise",
    "quant_noise_scalar": "quantization noise",
    "base_layers": "BASE layers",
    "character_embeddings": "character embeddings",
    "char_inputs": "character embeddings",
    "encoder_xformers_att_config": "xformers attention",
    "decoder_xformers_att_config": "xformers attention",
}
"""Settings that change the computation in ways that the native model does not know."""

_FIRST_WITH_FINAL_NORM = {"encoder": 2, "decoder": 3}
"""Versions of the two stacks from which pre-norm models have a norm after the last layer."""

_DEFAULT_POSITIONS = 1024
_SINUSOIDS = 100_000
"""Longest sentence that fairseq allows with sinusoidal positions."""

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


def describe_network(settings: Mapping[str, object], tensors: "Mapping[str, Tensor]") -> Network:
    """The network that a fairseq checkpoint holds.

    Args:
        settings: the model's settings, completed by `architectures.complete`.
        tensors: the model's tensors under fairseq's names.

    Raises:
        CheckpointError: something that the native model does not compute; all reasons.
    """
    found = weights_of(tensors)
    faults = [*_setting_faults(settings), *_tensor_faults(settings, tensors, found)]
    if faults:
        raise CheckpointError.of_faults("the native model cannot run this checkpoint", faults)
    has_encoder = _has_encoder(found)
    return Network(
        encoder=_stack("encoder", settings, tensors, found) if has_encoder else None,
        decoder=_stack("decoder", settings, tensors, found),
        activation=ACTIVATIONS[str(settings["activation_fn"])],
        padding=PADDING,
        eos=EOS,
        joint_attention=has_encoder and bool(settings.get("cross_self_attention")),
        output_projection="decoder.project_out_dim.weight" in found,
        output_bands=1 + _tail_count(found) if _is_adaptive(found) else 0,
    )


def _setting_faults(settings: Mapping[str, object]) -> Iterator[str]:
    for name, what in _REFUSED.items():
        if settings.get(name):
            yield f"{what} ({name} = {settings[name]})"
    activation = settings.get("activation_fn")
    if activation not in ACTIVATIONS:
        yield f"activation '{activation}' (known: {', '.join(ACTIVATIONS)})"


def _tensor_faults(
    settings: Mapping[str, object], tensors: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> Iterator[str]:
    unknown = _unknown_names(settings, found)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        yield f"tensors that it has no place for: {', '.join(unknown[:3])}{more}"
    for side in ("encoder", "decoder"):
        version = _version(side, tensors)
        if version < _FIRST_WITH_FINAL_NORM[side] and f"{side}.layer_norm.weight" in found:
            yield f"{side}.layer_norm.weight in a file of {side} version {version:g}, which has no such norm"
        if side == "decoder" or _has_encoder(found):
            layers = _layers_of(side, found)
            yield from (
                f"{side}.layers.{layer} has no fc1.weight"
                for layer in range(max(layers, default=0) + 1)
                if f"{side}.layers.{layer}.fc1.weight" not in found
            )
    widths = [_width(side, found) for side in ("encoder", "decoder")]
    if settings.get("cross_self_attention") and None not in widths and widths[0] != widths[1]:
        yield f"cross_self_attention with an encoder of width {widths[0]} and a decoder of width {widths[1]}"


def _stack(
    side: str, settings: Mapping[str, object], tensors: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> Stack:
    """One stack; NormFormer's parts by their tensors, since fairseq ignores the settings in some configurations."""

    def setting(name: str) -> bool:
        return bool(settings.get(name))

    norm_first = setting(f"{side}_normalize_before")
    final_norm = _version(side, tensors) >= _FIRST_WITH_FINAL_NORM[side]
    if side == "decoder" and setting("no_decoder_final_norm"):
        final_norm = False
    return Stack(
        layers=len(_layers_of(side, found)),
        preprocess="n" if norm_first else "",
        postprocess="a" if norm_first else "an",
        final_norm=norm_first and final_norm,
        embedding_scale=1.0 if setting("no_scale_embedding") else math.sqrt(_width(side, found) or 1),
        max_positions=_max_positions(side, settings, found),
        embedding_bands=_count(found, f"{side}.embed_tokens.embeddings.{{}}.0.weight"),
        embedding_projection=f"{side}.project_in_dim.weight" in found,
        embedding_norm=setting("layernorm_embedding"),
        positions=_positions(side, settings, found),
        attention_norm=f"{side}.layers.0.attn_ln.weight" in found,
        feed_forward_norm=f"{side}.layers.0.ffn_layernorm.weight" in found,
        residual_scale=f"{side}.layers.0.w_resid" in found,
    )


def _positions(side: str, settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> Positions | None:
    if settings.get("no_token_positional_embeddings"):
        return None
    learned = f"{side}.embed_positions.weight" in found or bool(settings.get(f"{side}_learned_pos"))
    return Positions(learned=learned, first=PADDING + 1)


def _max_positions(side: str, settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> int:
    limit = settings.get("max_source_positions" if side == "encoder" else "max_target_positions") or _DEFAULT_POSITIONS
    table = found.get(f"{side}.embed_positions.weight")
    return min(int(str(limit)), _SINUSOIDS if table is None else table.shape[0] - PADDING - 1)


def _version(side: str, tensors: "Mapping[str, Tensor]") -> float:
    """Version of the encoder or decoder that wrote the file; files that do not say it are of the first."""
    version = tensors.get(f"{side}.version")
    return 1.0 if version is None else float(version.reshape(-1)[0])


def _has_encoder(found: "Mapping[str, Tensor]") -> bool:
    return any(name.startswith("encoder.") for name in found)


def _width(side: str, found: "Mapping[str, Tensor]") -> int | None:
    """D of a stack, from the input of its first feed-forward layer."""
    inner = found.get(f"{side}.layers.0.fc1.weight")
    return None if inner is None else int(inner.shape[1])


def weights_of(tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors that hold weights, under the names of today's fairseq.

    Packed projections are split into views.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
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


def _layers_of(side: str, names: Iterable[str]) -> set[int]:
    """Numbers of the layers of a stack that have a tensor among these names."""
    return {int(match[1]) for name in names if (match := re.match(rf"{side}\.layers\.(\d+)\.", name))}


def _is_adaptive(names: Iterable[str]) -> bool:
    """The output layer is an adaptive softmax."""
    return any(name.startswith(f"{_ADAPTIVE}.") for name in names)


def _count(names: Iterable[str], pattern: str) -> int:
    """Number of names that are `pattern` with 0, 1, 2, ... in place of its braces, up to the first gap."""
    present, number = set(names), 0
    while pattern.format(number) in present:
        number += 1
    return number


def _tail_count(names: Iterable[str]) -> int:
    """Number of bands of an adaptive softmax behind the frequent words'."""
    return _count(names, f"{_ADAPTIVE}.tail.{{}}.2.weight")


def native_tensors(settings: Mapping[str, object], tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors under the names of the native model's parameters, without copying any.

    Query, key and value that old versions packed into one matrix are views of it. Tables that the settings share are
    one tensor: the output layer's, as in fairseq, which loads it last. Buffers are left out, and a name that means
    nothing stays as it is.

    Args:
        settings: the model's settings, completed by `architectures.complete`.
        tensors: the model's tensors under fairseq's names.
    """
    found = weights_of(tensors)
    outputs = _adaptive_output(settings, found) if _is_adaptive(found) else _plain_output(settings, found)
    native = {native_name(name, settings) or name: tensor for name, tensor in found.items() if name not in outputs}
    native |= dict(outputs.values())
    if settings.get("share_decoder_input_output_embed") and "output.weight" in native:
        native["decoder.embedding.tokens.weight"] = native["output.weight"]
        if settings.get("share_all_embeddings") or settings.get("merge_src_tgt_embed"):
            native["encoder.embedding.tokens.weight"] = native["output.weight"]
    return native


def _unknown_names(settings: Mapping[str, object], found: "Mapping[str, Tensor]") -> list[str]:
    """Names among `weights_of` a file that no transformer has."""
    outputs = _adaptive_output(settings, found) if _is_adaptive(found) else _plain_output(settings, found)
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
    tails = _tail_count(found)
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
