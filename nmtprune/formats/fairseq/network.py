"""From fairseq's settings to the description of the network that the native model runs, or to what keeps it from it."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq.names import (
    count,
    is_adaptive,
    layers_of,
    native_tensors,
    tail_count,
    unknown_names,
    weights_of,
)
from nmtprune.network import Network, Positions, Stack

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EOS", "PADDING", "describe", "native_tensors"]

PADDING, EOS = 1, 2
"""Ids that every fairseq dictionary gives to padding and to the end of a sentence."""

_ACTIVATIONS = {
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


def describe(settings: Mapping[str, object], tensors: "Mapping[str, Tensor]") -> Network:
    """The network that a fairseq checkpoint holds.

    Args:
        settings: the model's settings, completed by `architectures.complete`.
        tensors: the model's tensors under fairseq's names.

    Raises:
        CheckpointError: something that the native model does not compute; all reasons.
    """
    found = weights_of(settings, tensors)
    faults = [*_setting_faults(settings), *_tensor_faults(settings, tensors, found)]
    if faults:
        raise CheckpointError.of_faults("the native model cannot run this checkpoint", faults)
    has_encoder = _has_encoder(found)
    return Network(
        encoder=_stack("encoder", settings, tensors, found) if has_encoder else None,
        decoder=_stack("decoder", settings, tensors, found),
        activation=_ACTIVATIONS[str(settings["activation_fn"])],
        padding=PADDING,
        eos=EOS,
        joint_attention=has_encoder and bool(settings.get("cross_self_attention")),
        output_projection="decoder.project_out_dim.weight" in found,
        output_bands=1 + tail_count(found) if is_adaptive(found) else 0,
    )


def _setting_faults(settings: Mapping[str, object]) -> Iterator[str]:
    for name, what in _REFUSED.items():
        if settings.get(name):
            yield f"{what} ({name} = {settings[name]})"
    activation = settings.get("activation_fn")
    if activation not in _ACTIVATIONS:
        yield f"activation '{activation}' (known: {', '.join(_ACTIVATIONS)})"


def _tensor_faults(
    settings: Mapping[str, object], tensors: "Mapping[str, Tensor]", found: "Mapping[str, Tensor]"
) -> Iterator[str]:
    unknown = unknown_names(settings, found)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        yield f"tensors that it has no place for: {', '.join(unknown[:3])}{more}"
    for side in ("encoder", "decoder"):
        version = _version(side, tensors)
        if version < _FIRST_WITH_FINAL_NORM[side] and f"{side}.layer_norm.weight" in found:
            yield f"{side}.layer_norm.weight in a file of {side} version {version:g}, which has no such norm"
        if side == "decoder" or _has_encoder(found):
            layers = layers_of(side, found)
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
        layers=len(layers_of(side, found)),
        preprocess="n" if norm_first else "",
        postprocess="a" if norm_first else "an",
        final_norm=norm_first and final_norm,
        embedding_scale=1.0 if setting("no_scale_embedding") else math.sqrt(_width(side, found) or 1),
        max_positions=_max_positions(side, settings, found),
        embedding_bands=count(found, f"{side}.embed_tokens.embeddings.{{}}.0.weight"),
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
