"""Sublayers: a body, and around it norms and residual connection."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.architecture import Group, GroupId
from nmtprune.model.kernels import linear
from nmtprune.model.scope import Probe, Scope
from nmtprune.model.weights import Weights
from nmtprune.network import EncoderNetwork, Stack


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


class Body(nn.Module, ABC):
    """The computation of a sublayer, in two halves with its inner values between them.

    Only the first half looks at other tokens, and only the second one at masks: inner values are the same under all
    masks of this sublayer.

    Attributes:
        id: the attention module or feed-forward layer, as masks name it; None for a body whose units cannot be masked.
        real_units: heads or neurons that masks speak of.
        stored_units: those that are computed, padding included.
        sees_source: the first half reads the encoder's output.
        output_weight: [D, I], the projection of inner values flattened to I entries; None where there is none.
        output_bias: [D]; None where there is none.
    """

    id: GroupId | None = None
    real_units: int = 0
    stored_units: int = 0
    sees_source: bool = False
    output_weight: nn.Parameter | None
    output_bias: nn.Parameter | None

    @abstractmethod
    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        """The first half.

        Args:
            x: states [R, T, D] before the sublayer.
            normed: the same after the norm before the sublayer.
            scope: the other tokens, and the source.
            position: place of the layer in its stack.
        """

    @abstractmethod
    def output(self, inner: Tensor, probe: Probe) -> Tensor:
        """The second half: output [R, T, D] of inner values under masks, before the residual connection."""

    def factor(self, probe: Probe, inner: Tensor) -> Tensor | None:
        """The mask of this body's U stored units as a factor [R or 1, T or 1, U], ones for padding; None without.

        Args:
            probe: with masks.
            inner: inner values [R, T, ...].

        Raises:
            ValueError: a mask of another shape.
        """
        mask = None if self.id is None else probe.masks.get(self.id)
        if mask is None:
            return None
        rows, length = inner.shape[:2]
        allowed = ((self.real_units,), (rows, self.real_units), (rows, self.real_units, length))
        if tuple(mask.shape) not in allowed:
            shapes = ", ".join(map(str, allowed[:-1]))
            raise ValueError(f"mask of {self.id} has shape {tuple(mask.shape)}, not one of {shapes} or {allowed[-1]}")
        mask = mask.to(inner if self.output_weight is None else self.output_weight)
        if self.stored_units > self.real_units:
            shape = list(mask.shape)
            shape[min(1, mask.dim() - 1)] = self.stored_units - self.real_units
            mask = torch.cat([mask, mask.new_ones(shape)], dim=min(1, mask.dim() - 1))
        return mask.view(-1, 1, self.stored_units) if mask.dim() < 3 else mask.transpose(1, 2)

    def kept_shape(self) -> tuple[int, int, int] | None:
        """Shape [parts, heads, width] of what is kept of each token for later ones; None where nothing is."""
        return None


@dataclass(frozen=True)
class Sublayer:
    """A body between its norms and residual connection.

    Attributes:
        name: prefix of the names of its tensors, ``decoder.layers.0.cross_attention``.
        around: norms and residual connection.
        body: the computation.
    """

    name: str
    around: Residual
    body: Body

    def __call__(self, x: Tensor, scope: Scope, position: int) -> Tensor:
        """States [R, T, D] after the sublayer of the layer at that position."""
        return self.after(x, self.until(x, scope, position), scope.probe)

    def until(self, x: Tensor, scope: Scope, position: int) -> Tensor:
        """Inner values for states [R, T, D] before the sublayer."""
        return self.body.inner_values(x, self.around.before(x), scope, position)

    def after(self, x: Tensor, inner: Tensor, probe: Probe) -> Tensor:
        """States [R, T, D] after the sublayer, from those before it and its inner values."""
        return self.around.after(x, self.body.output(inner, probe))


class FeedForward(Body):
    """Two linear layers with an activation, and in NormFormer's decoder a norm, between them.

    Inner values are those that the second linear layer takes, [B, T, F], before masks.
    """

    output_weight: nn.Parameter
    output_bias: nn.Parameter

    def __init__(
        self, network: EncoderNetwork, stack: Stack, weights: Weights, prefix: str, width: int, group: Group | None
    ) -> None:
        """Take the weights; without a `group` neurons have no masks, and there are as many as the tensors say."""
        super().__init__()
        if group is not None:
            self.id, self.real_units, self.stored_units = group.id, group.units, group.stored
        inner = weights.rows(f"{prefix}.input.weight") if group is None else group.stored
        self.input_weight, self.input_bias = weights.linear(f"{prefix}.input", inner, width)
        self.output_weight, self.output_bias = weights.linear(f"{prefix}.output", width, inner)
        self.activation = ACTIVATIONS[network.activation]
        normed = stack.feed_forward_norm
        self.norm = LayerNorm(weights, f"{prefix}.norm", inner, network.layer_norm_epsilon) if normed else None

    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        """Neurons [B, T, F] of states [B, T, D]."""
        inner = self.activation(linear(normed, self.input_weight, self.input_bias))
        return inner if self.norm is None else self.norm(inner)

    def output(self, inner: Tensor, probe: Probe) -> Tensor:
        """Output [B, T, D] of the second linear layer under masks; without neurons its bias alone."""
        if not inner.shape[-1]:
            return self.output_bias.expand(*inner.shape[:2], -1)
        factor = self.factor(probe, inner)
        if factor is not None:
            inner = inner * factor
        output = linear(inner, self.output_weight, self.output_bias)
        return output if probe.tap is None else probe.tap(self, inner, output)
