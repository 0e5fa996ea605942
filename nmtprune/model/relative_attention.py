"""Attention of Transformer-XL, with persistent keys and values: self-attention of a segment and of what came before."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STD = 0.02
"""Standard deviation of the two biases when they are drawn, as in Transformer-XL's own code."""


@dataclass(frozen=True)
class RelativeShape:
    """Sizes of an attention module.

    Attributes:
        embed_dim: D, width of states.
        heads: H, 0 or more.
        head_dim: K, which need not be D / H; the scores are scaled by ``head_dim ** -0.5``.
        persistent: N, persistent keys and values of each head; 0 for none.
    """

    embed_dim: int
    heads: int
    head_dim: int
    persistent: int = 0

    @property
    def inner_dim(self) -> int:
        """Width of all heads together: rows of the projections, columns of W_O."""
        return self.heads * self.head_dim


class RelativeAttention(nn.Module):
    """Causal self-attention with relative positions and persistent vectors.

    The score of query i for key j is ((q_i + u) k_j + (q_i + v) W_R r_{i-j}) / sqrt(K), with sinusoids r of the
    distance and the two biases u and v. Each head has N more keys and values, which every query sees, whatever the
    text: (q_i + u) p_n / sqrt(K), without a position. No projection has a bias, so every parameter belongs to one head:
    rows of W_q, W_k, W_v and W_R, columns of W_O, rows of u and v, and the persistent vectors.

    Persistent keys are stored divided by sqrt(K), persistent values by sqrt(N): drawn like that, and learning as fast
    as the matrices do, they have the variance of keys and values of states (Sukhbaatar et al.).

    Args:
        shape: the sizes.
        dropout: probability of dropping an attention weight.

    Source: Dai et al. 2019, "Transformer-XL", section 3.3 (u and v belong to the layer, ``untie_r`` in their code);
    Sukhbaatar et al. 2019, "Augmenting self-attention with persistent memory", section 4.1; Shim et al. 2021,
    equation 1.
    """

    k_proj: nn.Linear
    v_proj: nn.Linear
    q_proj: nn.Linear
    persistent_keys: Tensor | None
    persistent_values: Tensor | None

    def __init__(self, shape: RelativeShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape, self.dropout = shape, dropout
        for name in ("k_proj", "v_proj", "q_proj"):
            self.add_module(name, _linear(shape.embed_dim, shape.inner_dim, gain=1 / math.sqrt(2)))
        self.out_proj = _linear(shape.inner_dim, shape.embed_dim)
        self.position_proj = _linear(shape.embed_dim, shape.inner_dim)
        self.content_bias = _drawn(shape.heads, shape.head_dim, std=_STD)  # u
        self.position_bias = _drawn(shape.heads, shape.head_dim, std=_STD)  # v
        if shape.persistent:
            vectors = (shape.heads, shape.persistent, shape.head_dim)
            self.persistent_keys = _drawn(*vectors, std=shape.head_dim**-0.5)
            self.persistent_values = _drawn(*vectors, std=shape.persistent**-0.5)
        else:
            self.register_parameter("persistent_keys", None)
            self.register_parameter("persistent_values", None)

    def forward(self, queries: Tensor, context: Tensor, positions: Tensor) -> Tensor:
        """Attend from the states of a segment to themselves and to those before it.

        Args:
            queries: [B, T, D].
            context: [B, M + T, D], M states from before the segment and then the segment's own.
            positions: [M + T, D], sinusoids of the distances M + T - 1 to 0.

        Returns:
            Output [B, T, D].
        """
        q, k, v = (
            self._split(self.q_proj(queries)),
            self._split(self.k_proj(context)),
            self._split(self.v_proj(context)),
        )
        (distances,) = self._split(self.position_proj(positions)[None])
        content = q + self.content_bias[:, None]
        scores = content @ k.transpose(2, 3) + shift((q + self.position_bias[:, None]) @ distances.transpose(1, 2))
        scores = scores.masked_fill(future(scores.size(2), scores.size(3), scores.device), float("-inf"))
        if self.persistent_keys is not None:
            keys = self.persistent_keys * math.sqrt(self.shape.head_dim)
            scores = torch.cat([scores, content @ keys.transpose(1, 2)], dim=-1)
        weights = F.dropout(_softmax(scores * self.shape.head_dim**-0.5), self.dropout, self.training)
        heads = weights[..., : k.size(2)] @ v
        if self.persistent_values is not None:
            values = self.persistent_values * math.sqrt(self.shape.persistent)
            heads = heads + weights[..., k.size(2) :] @ values
        output: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))
        return output

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * K] as [B, H, T, K]."""
        return x.view(x.size(0), x.size(1), self.shape.heads, self.shape.head_dim).transpose(1, 2)

    def extra_repr(self) -> str:
        """Sizes, for the description that fairseq-train prints."""
        shape = self.shape
        return f"heads={shape.heads}, head_dim={shape.head_dim}, persistent={shape.persistent}"


def shift(scores: Tensor) -> Tensor:
    """Scores by distance turned into scores by key.

    Args:
        scores: [..., T, L]; column c is for the distance L - 1 - c.

    Returns:
        [..., T, L] with the score of query i for key j, whose distance is i + L - T - j. Keys that come after their
        query, which have no distance, get scores without a meaning.
    """
    queries, keys = scores.shape[-2:]
    # With one more column in front, row i of the same numbers in rows of one column less begins i places further on.
    padded = F.pad(scores, (1, 0))
    return padded.view(*scores.shape[:-2], keys + 1, queries)[..., 1:, :].reshape(scores.shape)


def future(queries: int, keys: int, device: torch.device) -> Tensor:
    """Which keys [T, L] come after their query, where the queries are the last T of L tokens."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).triu(1 + keys - queries)


def distance_sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Positions [length, width] of the distances length - 1 to 0: sines, then cosines (Dai et al.).

    Args:
        length: number of distances.
        width: D, even.
        like: a tensor of the device and type.
    """
    precise = like.dtype if like.dtype == torch.float64 else torch.float32
    frequencies = 10000.0 ** -(torch.arange(0, width, 2, device=like.device, dtype=precise) / width)
    distances = torch.arange(length - 1, -1, -1, device=like.device, dtype=precise)
    angles = distances[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax over keys, in single precision at least."""
    precise = torch.promote_types(scores.dtype, torch.float32)
    return F.softmax(scores, dim=-1, dtype=precise).to(scores.dtype)


def _drawn(*shape: int, std: float) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape).normal_(std=std))


def _linear(inputs: int, outputs: int, gain: float = 1.0) -> nn.Linear:
    """A linear map without a bias, with Glorot weights."""
    linear = nn.Linear(1, 1, bias=False, device="meta")  # torch warns where there is nothing to draw: no heads
    linear.in_features, linear.out_features = inputs, outputs
    linear.weight = nn.Parameter(torch.empty(outputs, inputs))
    if inputs and outputs:
        nn.init.xavier_uniform_(linear.weight, gain=gain)
    return linear
