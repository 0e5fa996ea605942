"""Multi-head attention with any number of heads per module, their masks and, on request, the attention weights.

Keys and values travel together as one tensor of shape [2, B, S, H, K]: keys first, then values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.architecture import AttentionModule, GroupId
from nmtprune.model.kernels import linear
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.sublayers import Body
from nmtprune.model.weights import Weights

_FEW = 16


class Attention(Body):
    """What self- and cross-attention have in common: from queries, keys and values to the module's output.

    Inner values are the contexts [R, T, H, K], what each head makes of the values, before masks and W_O.

    Attributes:
        id: kind and layer.
        heads: H, stored heads, padding heads included.
        head_dim: K; scores are scaled by K^-0.5 whatever H is.
    """

    id: GroupId
    output_weight: nn.Parameter
    output_bias: nn.Parameter

    def __init__(self, module: AttentionModule, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        self.id = module.id
        self.heads = self.stored_units = module.stored_heads
        self.real_units = module.heads
        self.head_dim = module.head_dim
        self.inner = self.heads * self.head_dim
        self.output_weight, self.output_bias = weights.linear(f"{prefix}.output", width, self.inner)

    def no_contexts(self, x: Tensor) -> Tensor:
        """Contexts [B, T, 0, K] of a module without heads for states [B, T, D]."""
        return x.new_empty(*x.shape[:2], 0, self.head_dim)

    def context(self, queries: Tensor, keys_values: Tensor, visible: Visible, probe: Probe) -> Tensor:
        """What each head makes of the values, [R, T, H, K], before masks and W_O.

        Args:
            queries: [R, T, H, K]. R may be a multiple n of B: rows n*b to n*b+n-1 are then queries of sentence b (the
                hypotheses of a beam, say), which share its keys without copies of them.
            keys_values: [2, B, S, H, K].
            visible: the keys that are seen; with R > B without `causal`, and the same for all rows of a sentence.
            probe: whose observer, if any, gets the attention weights.
        """
        rows, length = queries.shape[:2]
        folded = queries.reshape(keys_values.shape[1], -1, self.heads, self.head_dim).transpose(1, 2)
        keys, values = keys_values[0].transpose(1, 2), keys_values[1].transpose(1, 2)
        scale = self.head_dim**-0.5
        if probe.observe is None and _are_few(folded, keys):
            context = _few_contexts(folded, keys, values, visible)
        elif probe.observe is None:
            context = F.scaled_dot_product_attention(
                folded, keys, values, attn_mask=visible.bias, is_causal=visible.causal, scale=scale
            )
        else:
            attention = _attention_weights(folded * scale, keys, visible)
            shape = (*attention.shape[:2], -1, length, attention.shape[3])
            by_row = attention.view(shape).transpose(1, 2).reshape(rows, self.heads, length, -1)
            probe.observe(self.id, by_row[:, : self.real_units])
            context = attention @ values
        return context.transpose(1, 2).reshape(rows, length, self.heads, self.head_dim)

    def output(self, context: Tensor, probe: Probe) -> Tensor:
        """Output [R, T, D] of contexts [R, T, H, K]: masks, by rows, then W_O; without heads the bias alone."""
        if not self.heads:
            return self.output_bias.expand(*context.shape[:2], -1)
        factor = self.factor(probe, context)
        if factor is not None:
            context = context * factor.unsqueeze(-1)
        output = linear(context.flatten(2), self.output_weight, self.output_bias)
        return output if probe.tap is None else probe.tap(self, context, output)


class SelfAttention(Attention):
    """Queries, keys and values of the same states; their projections are one matrix product."""

    input_weight: nn.Parameter
    input_bias: nn.Parameter

    def __init__(
        self, module: AttentionModule, weights: Weights, prefix: str, width: int, *, joint: bool = False
    ) -> None:
        """Take the weights; `joint`: the source's keys and values come before those of the states."""
        super().__init__(module, weights, prefix, width)
        self.sees_source = joint and self.heads > 0
        parts = tuple(f"{prefix}.{part}" for part in ("query", "key", "value"))
        self.input_weight, self.input_bias = weights.stacked(parts, self.inner, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries [B, T, H, K], keys and values [2, B, T, H, K] of states [B, T, D]."""
        projected = linear(x, self.input_weight, self.input_bias).view(*x.shape[:2], 3, self.heads, self.head_dim)
        return projected[:, :, 0], projected[:, :, 1:].permute(2, 0, 1, 3, 4)

    def keys_values(self, states: Tensor) -> Tensor:
        """Keys and values [2, B, S, H, K] of states [B, S, D] that send no queries."""
        projected = linear(states, self.input_weight[self.inner :], self.input_bias[self.inner :])
        return projected.view(*states.shape[:2], 2, self.heads, self.head_dim).permute(2, 0, 1, 3, 4)

    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        """Contexts [R, T, H, K] of states that attend to each other, and to whatever else they see."""
        if not self.heads:
            return self.no_contexts(x)
        queries, keys_values = self.project(normed)
        if not scope.raw_keys:
            return scope.attend(self, queries, keys_values, position)
        contexts = scope.attend(self, queries, self.keys_values(x), position)
        return scope.with_first(contexts, keys_values[1])

    def kept_shape(self) -> tuple[int, int, int] | None:
        """Keys and values."""
        return (2, self.heads, self.head_dim) if self.heads else None


class CrossAttention(Attention):
    """Queries of the decoder, keys and values of the encoder's output, which may have another width."""

    sees_source = True

    def __init__(self, module: AttentionModule, weights: Weights, prefix: str, widths: tuple[int, int]) -> None:
        """Take the weights; `widths` are those of queries and of the encoder's output."""
        super().__init__(module, weights, prefix, widths[0])
        self.query_weight, self.query_bias = weights.linear(f"{prefix}.query", self.inner, widths[0])
        parts = (f"{prefix}.key", f"{prefix}.value")
        self.source_weight, self.source_bias = weights.stacked(parts, self.inner, widths[1])

    def keys_values(self, states: Tensor, *, by_head: bool = True) -> Tensor:
        """Keys and values [2, B, S, H, K] of the encoder's output [B, S, D].

        Args:
            states: the encoder's output.
            by_head: in memory, heads come before S: decoding steps attend faster where the keys of a head lie together;
                where one pass is all that attends to them, that is not worth the copy.
        """
        projected = linear(states, self.source_weight, self.source_bias)
        found = projected.view(*states.shape[:2], 2, self.heads, self.head_dim).permute(2, 0, 1, 3, 4)
        return found.transpose(2, 3).contiguous().transpose(2, 3) if by_head else found

    def queries(self, x: Tensor) -> Tensor:
        """Queries [R, T, H, K] of states [R, T, D]."""
        return linear(x, self.query_weight, self.query_bias).view(*x.shape[:2], self.heads, self.head_dim)

    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        """Contexts [R, T, H, K] of states that attend to the source."""
        if not self.heads:
            return self.no_contexts(x)
        return scope.attend_to_source(self, self.queries(normed), position)


def _are_few(queries: Tensor, keys: Tensor) -> bool:
    """A few queries [B, H, n, K] for each of keys that lie together, on a CPU."""
    return 2 <= queries.shape[2] <= _FEW and queries.device.type == "cpu" and keys.is_contiguous()


def _few_contexts(queries: Tensor, keys: Tensor, values: Tensor, visible: Visible) -> Tensor:
    """Contexts [B, H, n, K], as batches of small matrix products, which take less time than an attention kernel."""
    rows, heads, count, size = queries.shape
    shape = rows * heads, -1, size
    scores = torch.bmm(queries.reshape(shape), keys.reshape(shape).transpose(1, 2)).mul_(size**-0.5)
    if visible.bias is not None:
        scores = scores.view(rows, heads, count, -1).add_(visible.bias).flatten(0, 1)
    return torch.bmm(scores.softmax(-1), values.reshape(shape)).view(queries.shape)


def _attention_weights(queries: Tensor, keys: Tensor, visible: Visible) -> Tensor:
    """Softmax over the visible keys, [B, H, T, S], of scaled queries [B, H, T, K] and keys [B, H, S, K]."""
    scores = queries @ keys.transpose(-1, -2)
    if visible.causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        visible = Visible.where(seen.unsqueeze(0), scores.dtype)
    if visible.bias is not None:
        scores = scores + visible.bias
    return scores.softmax(-1)
