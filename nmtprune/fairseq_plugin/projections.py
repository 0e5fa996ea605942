"""The linear maps of an attention module: their sizes and how fairseq draws them."""

import math
from dataclasses import dataclass

import torch
from torch import nn

PROJECTIONS = ("k_proj", "v_proj", "q_proj", "out_proj")
"""In fairseq's order of registration."""


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of an attention module.

    Attributes:
        embed_dim: D, width of queries and outputs.
        key_dim: width of the vectors that keys are computed from.
        value_dim: width of the vectors that values are computed from.
        heads: H, 0 or more.
        head_dim: K; the scores are scaled by ``head_dim ** -0.5``.
    """

    embed_dim: int
    key_dim: int
    value_dim: int
    heads: int
    head_dim: int

    @property
    def inner_dim(self) -> int:
        """Width of all heads together: rows of W_q, W_k and W_v, columns of W_O."""
        return self.heads * self.head_dim


def draw_projections(shape: AttentionShape) -> dict[str, nn.Linear]:
    """The four linear maps as fairseq draws them, in its order."""
    same_width = shape.key_dim == shape.value_dim == shape.embed_dim
    # fairseq's gain: W_q, W_k and W_v were once one matrix, drawn as such.
    gain = 1 / math.sqrt(2) if same_width else 1.0
    widths = (shape.key_dim, shape.value_dim, shape.embed_dim)
    maps = [_linear(width, shape.inner_dim, gain) for width in widths]
    maps.append(_linear(shape.inner_dim, shape.embed_dim, 1.0))
    nn.init.zeros_(maps[-1].bias)
    return dict(zip(PROJECTIONS, maps, strict=True))


def _linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """A linear map with Glorot weights and torch's biases."""
    if inputs and outputs:
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight, gain=gain)
        return linear
    linear = nn.Linear(1, 1, device="meta")  # torch warns where there is nothing to draw
    linear.in_features, linear.out_features = inputs, outputs
    linear.weight = nn.Parameter(torch.zeros(outputs, inputs))
    linear.bias = nn.Parameter(torch.zeros(outputs))
    return linear
