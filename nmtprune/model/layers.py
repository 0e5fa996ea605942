"""Encoder and decoder layers: sublayers with what stands before and after them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.architecture import Architecture, ModuleId
from nmtprune.model.attention import CrossAttention, Probe, SelfAttention, Visible
from nmtprune.model.decoder_state import Step
from nmtprune.model.kernels import linear
from nmtprune.model.recurrence import Recurrence
from nmtprune.model.source_cache import SourceCache
from nmtprune.model.weights import Weights
from nmtprune.network import Network, Stack


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def _linear(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu_,
    "relu_squared": _relu_squared,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "linear": _linear,
    "swish": F.silu,
}


class LayerNorm(nn.Module):
    """Layer normalization over the last axis."""

    def __init__(self, weights: Weights, prefix: str, width: int | None, epsilon: float) -> None:
        super().__init__()
        self.weight, self.bias = weights.take(f"{prefix}.weight", width), weights.take(f"{prefix}.bias", width)
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """Normalize [..., D]."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class Residual(nn.Module):
    """What stands around a sublayer: normalization before it, and residual connection and normalization after it.

    NormFormer's decoder adds a norm of self-attention's output and a scale of feed-forward's residual connection.
    """

    def __init__(self, stack: Stack, weights: Weights, prefix: str, width: int, epsilon: float) -> None:
        super().__init__()
        normed = stack.attention_norm and prefix.endswith("self_attention")
        scaled = stack.residual_scale and prefix.endswith("feed_forward")
        self.output_norm = LayerNorm(weights, f"{prefix}_output_norm", width, epsilon) if normed else None
        self.scale = weights.take(f"{prefix}_residual_scale", width) if scaled else None
        self.postprocess = stack.postprocess
        self.pre_norm = LayerNorm(weights, f"{prefix}_pre_norm", width, epsilon) if "n" in stack.preprocess else None
        self.post_norm = LayerNorm(weights, f"{prefix}_post_norm", width, epsilon) if "n" in stack.postprocess else None

    def before(self, x: Tensor) -> Tensor:
        """The sublayer's input for states [B, T, D]."""
        return x if self.pre_norm is None else self.pre_norm(x)

    def after(self, x: Tensor, update: Tensor) -> Tensor:
        """States after the sublayer, from those before it and its output."""
        if self.output_norm is not None:
            update = self.output_norm(update)
        for operation in self.postprocess:
            if operation == "a":
                update = update + (x if self.scale is None else x * self.scale)
            elif self.post_norm is not None:
                update = self.post_norm(update)
        return update


class FeedForward(nn.Module):
    """Two linear layers with an activation, and in NormFormer's decoder a norm, between them."""

    def __init__(self, network: Network, stack: Stack, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        inner = weights.rows(f"{prefix}.input.weight")
        self.input_weight, self.input_bias = weights.linear(f"{prefix}.input", inner, width)
        self.output_weight, self.output_bias = weights.linear(f"{prefix}.output", width, inner)
        self.activation = ACTIVATIONS[network.activation]
        normed = stack.feed_forward_norm
        self.norm = LayerNorm(weights, f"{prefix}.norm", inner, network.layer_norm_epsilon) if normed else None

    def forward(self, x: Tensor) -> Tensor:
        """Transform states [B, T, D]."""
        inner = self.activation(linear(x, self.input_weight, self.input_bias))
        if self.norm is not None:
            inner = self.norm(inner)
        return linear(inner, self.output_weight, self.output_bias)


@dataclass(frozen=True)
class Blueprint:
    """What layers are built from: the description of the model, its tensors and its widths."""

    network: Network
    architecture: Architecture
    weights: Weights
    encoder_width: int
    decoder_width: int


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, blueprint: Blueprint, stack: Stack, layer: int) -> None:
        super().__init__()
        weights, width, epsilon = blueprint.weights, blueprint.encoder_width, blueprint.network.layer_norm_epsilon
        prefix = f"encoder.layers.{layer}"
        module = blueprint.architecture[ModuleId("encoder", layer)]
        self.self_attention = SelfAttention(module, weights, f"{prefix}.self_attention", width)
        self.around_self = Residual(stack, weights, f"{prefix}.self_attention", width, epsilon)
        self.feed_forward = FeedForward(blueprint.network, stack, weights, f"{prefix}.feed_forward", width)
        self.around_feed_forward = Residual(stack, weights, f"{prefix}.feed_forward", width, epsilon)

    def forward(self, x: Tensor, visible: Visible, probe: Probe) -> Tensor:
        """States [B, S, D] of the next layer."""
        return self.above_self(
            self.around_self.after(x, self.self_attention(self.around_self.before(x), visible, probe))
        )

    def above_self(self, x: Tensor) -> Tensor:
        """States of the next layer from those after this layer's attention."""
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention where the model has it, then feed-forward.

    Attributes:
        layer: number that its attention modules have in the architecture.
        position: place in the decoder; tied layers, which share parameters and number, differ in it.
    """

    self_attention: SelfAttention
    around_self: Residual

    def __init__(self, blueprint: Blueprint, layer: int) -> None:
        super().__init__()
        network, weights, width = blueprint.network, blueprint.weights, blueprint.decoder_width
        stack, epsilon, prefix = network.decoder, network.layer_norm_epsilon, f"decoder.layers.{layer}"
        self.layer, self.joint = layer, network.joint_attention
        self.position = layer
        cross = ModuleId("cross", layer)
        self._build_first(blueprint, prefix)
        self.cross_attention: CrossAttention | None = None
        self.around_cross: Residual | None = None
        if cross in blueprint.architecture:
            widths, name = (width, blueprint.encoder_width), f"{prefix}.cross_attention"
            self.cross_attention = CrossAttention(blueprint.architecture[cross], weights, name, widths)
            self.around_cross = Residual(stack, weights, name, width, epsilon)
        self.feed_forward = FeedForward(network, stack, weights, f"{prefix}.feed_forward", width)
        self.around_feed_forward = Residual(stack, weights, f"{prefix}.feed_forward", width, epsilon)

    def _build_first(self, blueprint: Blueprint, prefix: str) -> None:
        """What comes before cross-attention."""
        network, weights, width = blueprint.network, blueprint.weights, blueprint.decoder_width
        own, name = blueprint.architecture[ModuleId("decoder", self.layer)], f"{prefix}.self_attention"
        self.self_attention = SelfAttention(own, weights, name, width)
        self.around_self = Residual(network.decoder, weights, name, width, network.layer_norm_epsilon)

    def cache_source(self, states: Tensor, *, by_head: bool) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values of the encoder's output [B, S, D] for cross-attention and for joint self-attention."""
        cross = None if self.cross_attention is None else self.cross_attention.keys_values(states, by_head=by_head)
        joint = self.self_attention.keys_values(states) if self.joint and self.self_attention.heads else None
        return cross, joint

    def forward(self, x: Tensor, step: Step, source_cache: SourceCache | None, probe: Probe) -> Tensor:
        """States [R, T, D] of the next layer; R a multiple of the sentences in `source_cache`."""
        return self.above_self(
            self.around_self.after(x, self.attend_to_self(x, step, source_cache, probe)), source_cache, probe
        )

    def above_self(self, x: Tensor, source_cache: SourceCache | None, probe: Probe) -> Tensor:
        """States of the next layer from those after this layer's self-attention."""
        if self.cross_attention is not None and self.around_cross is not None and source_cache is not None:
            queries, keys_values = self.around_cross.before(x), source_cache.cross[self.position]
            x = self.around_cross.after(x, self.cross_attention(queries, keys_values, source_cache.visible, probe))
        return self.above_cross(x)

    def above_cross(self, x: Tensor) -> Tensor:
        """States of the next layer from those after this layer's attention."""
        return self.around_feed_forward.after(x, self.feed_forward(self.around_feed_forward.before(x)))

    def attend_to_self(self, x: Tensor, step: Step, source_cache: SourceCache | None, probe: Probe) -> Tensor:
        """Output of self-attention for states [R, T, D], before what stands around it."""
        attention = self.self_attention
        if not attention.heads:
            return attention.nothing(x)
        queries, own, first = self.project(x, raw_keys=step.raw_keys)
        keys_values = self.behind(step.keep(self.position, own), source_cache)
        context = attention.context(queries, keys_values, step.visible, probe)
        return attention.output(context if first is None else step.with_first(context, first), probe)

    def project(self, x: Tensor, *, raw_keys: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Queries, keys and values of self-attention for states [R, T, D]; with `raw_keys` also what first tokens see.

        Args:
            x: states before what stands around self-attention.
            raw_keys: keys and values are those of the states before normalization, which Marian's search takes for all
                tokens but a sentence's first one, as long as that stands alone.

        Returns:
            Queries [R, T, H, K], keys and values [2, R, T, H, K], values [R, T, H, K] of tokens that see no others.
        """
        normed = self.around_self.before(x)
        queries, keys_values = self.self_attention.project(normed)
        if not raw_keys:
            return queries, keys_values, None
        return queries, self.self_attention.keys_values(x), keys_values[1]

    def behind(self, keys_values: Tensor, source_cache: SourceCache | None) -> Tensor:
        """Keys and values [2, R, T, H, K] of self-attention, behind those of the source where attention is joint."""
        joint = None if source_cache is None else source_cache.joint[self.position]
        if joint is None:
            return keys_values
        repeats = keys_values.shape[1] // joint.shape[1]
        return torch.cat([joint.repeat_interleave(repeats, 1), keys_values], dim=2)

    def kept_shape(self) -> tuple[int, int, int] | None:
        """What is kept of each token, as [parts, heads, width]: keys and values; None for a layer without heads."""
        attention = self.self_attention
        return (2, attention.heads, attention.head_dim) if attention.heads else None


class RecurrentDecoderLayer(DecoderLayer):
    """A recurrence, cross-attention, then feed-forward."""

    def _build_first(self, blueprint: Blueprint, prefix: str) -> None:
        network, weights, width = blueprint.network, blueprint.weights, blueprint.decoder_width
        self.recurrence = Recurrence(network.decoder, weights, f"{prefix}.recurrence", width)
        self.around_self = Residual(
            network.decoder, weights, f"{prefix}.recurrence", width, network.layer_norm_epsilon
        )  # fmt: skip

    def attend_to_self(self, x: Tensor, step: Step, source_cache: SourceCache | None, probe: Probe) -> Tensor:
        """Output of the recurrence for states [R, T, D], before what stands around it."""
        update = self.recurrence.project(self.around_self.before(x))
        return self.recurrence.output(step.recur(self.position, update))

    def cache_source(self, states: Tensor, *, by_head: bool) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values of the encoder's output [B, S, D] for cross-attention; a recurrence takes none."""
        cross = None if self.cross_attention is None else self.cross_attention.keys_values(states, by_head=by_head)
        return cross, None

    def kept_shape(self) -> tuple[int, int, int] | None:
        """The cell after each token."""
        return (1, 1, self.recurrence.weight.shape[0])
