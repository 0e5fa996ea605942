"""Layers of language models that read a text in segments and remember states of the segments before."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.model.relative_attention import RelativeAttention, RelativeShape, distance_sinusoids


class SegmentLayer(nn.Module):
    """Attention and, if the layer has one, a feed-forward layer, with the norm of each before it.

    Args:
        shape: sizes of the attention.
        neurons: F of the feed-forward layer; 0 for a layer without, whose persistent vectors do its work.
        dropout: probability of dropping an output of attention, an inner value or an output of the feed-forward layer.
        attention_dropout: of dropping an attention weight.

    Source: Shim et al. 2021, sections 3.1 and 4.1; Dai et al. 2019, section 3.3.
    """

    fc1: nn.Linear | None
    fc2: nn.Linear | None
    final_layer_norm: nn.LayerNorm | None

    def __init__(self, shape: RelativeShape, neurons: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.self_attn = RelativeAttention(shape, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(shape.embed_dim)
        if neurons:
            self.fc1, self.fc2 = _with_bias(shape.embed_dim, neurons), _with_bias(neurons, shape.embed_dim)
            self.final_layer_norm = nn.LayerNorm(shape.embed_dim)
        else:
            for name in ("fc1", "fc2", "final_layer_norm"):
                self.register_module(name, None)

    def forward(self, x: Tensor, memory: Tensor | None, positions: Tensor) -> Tensor:
        """States [B, T, D] of the next layer.

        Args:
            x: [B, T, D].
            memory: [B, M, D], what this layer read of the tokens before; None for nothing.
            positions: [M + T, D], sinusoids of the distances M + T - 1 to 0.
        """
        context = self.self_attn_layer_norm(x if memory is None else torch.cat([memory, x], dim=1))
        x = x + self._drop(self.self_attn(context[:, -x.size(1) :], context, positions))
        if self.fc1 is None or self.fc2 is None or self.final_layer_norm is None:
            return x
        inner = self._drop(F.relu(self.fc1(self.final_layer_norm(x))))
        return x + self._drop(self.fc2(inner))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def run_layers(
    layers: Iterable[nn.Module], x: Tensor, memory: Sequence[Tensor] | None, length: int, dropout: float = 0.0
) -> tuple[Tensor, list[Tensor]]:
    """Run a segment through the layers of a model.

    Args:
        layers: `SegmentLayer` by `SegmentLayer`.
        x: [B, T, D], embeddings of the segment.
        memory: per layer the last M states [B, M, D] that it has read; None at the beginning of a text.
        length: S, how many states are remembered.
        dropout: probability of dropping a value of the sinusoids; 0 outside training.

    Returns:
        States [B, T, D] behind the last layer, and the memory for the segment that follows: [B, min(S, M + T), D] per
        layer. No gradient passes through a memory.
    """
    past = memory[0].size(1) if memory else 0
    positions = F.dropout(distance_sinusoids(past + x.size(1), x.size(2), x), dropout, dropout > 0)
    remembered = []
    for number, layer in enumerate(layers):
        before = memory[number] if memory else None
        remembered.append(remember(before, x, length))
        x = layer(x, before, positions)
    return x, remembered


def remember(memory: Tensor | None, x: Tensor, length: int) -> Tensor:
    """The last `length` of the states [B, M, D] and [B, T, D], without what computed them."""
    x, steps = x.detach(), x.size(1)
    if length <= steps or memory is None:
        return x[:, max(steps - length, 0) :]
    return torch.cat([memory[:, -(length - steps) :], x], dim=1)


def _with_bias(inputs: int, outputs: int) -> nn.Linear:
    """A linear map with Glorot weights and zero biases."""
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
