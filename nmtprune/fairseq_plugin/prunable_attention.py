"""Multi-head attention with any number of heads of any width, a drop-in for fairseq's module."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.modules.fairseq_dropout import FairseqDropout
from torch import Tensor, nn

from nmtprune.fairseq_plugin.unit_gates import UnitGates

Cache = dict[str, Tensor | None]
IncrementalState = dict[str, Cache]

_FUSED_FROM = 128
"""Keys from which torch's fused attention is the faster one on a CPU, where it has no dropout (measured)."""

_DROPOUT_NAME = "MultiheadAttention"
"""The name by which ``--retain-dropout-modules`` selects attention dropout."""

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


class PrunableAttention(nn.Module):
    """Scaled dot-product attention of H heads of width K, where H * K need not be D and H may be 0.

    Parameters have fairseq's names and order (k, v, q, out): an optimizer state holds moments by position; those of
    gates, which multiply the outputs of heads before W_O, follow. A module without heads outputs the bias of W_O.

    Args:
        shape: the sizes.
        dropout: probability of dropping an attention weight.
        self_attention: queries, keys and values come from the same vectors.
        encoder_decoder_attention: keys and values come from the encoder; incremental decoding computes them once.
        projections: the linear maps k_proj, v_proj, q_proj and out_proj to use; without, they are drawn.

    Source: Vaswani et al. 2017, "Attention is all you need", section 3.2.
    """

    k_proj: nn.Linear
    v_proj: nn.Linear
    q_proj: nn.Linear
    out_proj: nn.Linear
    gates: UnitGates | None

    def __init__(
        self,
        shape: AttentionShape,
        dropout: float = 0.0,
        *,
        self_attention: bool = False,
        encoder_decoder_attention: bool = False,
        projections: Mapping[str, nn.Linear] | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim = shape.embed_dim
        self.num_heads = shape.heads
        self.head_dim = shape.head_dim
        self.inner_dim = shape.inner_dim
        self.self_attention = self_attention
        self.encoder_decoder_attention = encoder_decoder_attention
        self.beam_size = 1
        self._cache_key = f"{uuid.uuid4()}.attn_state"
        self.dropout_module = FairseqDropout(dropout, module_name=_DROPOUT_NAME)
        for name, projection in (projections or draw_projections(shape)).items():
            self.add_module(name, projection)
        self.register_module("gates", None)

    @classmethod
    def replacing(cls, module: Any, heads: int, head_dim: int) -> "PrunableAttention":
        """The stand-in for fairseq's attention module: its sizes, role and dropout, with other heads.

        Where the shapes are the same it takes over the weights too.
        """
        shape = AttentionShape(module.embed_dim, module.kdim, module.vdim, heads, head_dim)
        same_shape = shape.inner_dim == module.embed_dim
        return cls(
            shape,
            module.dropout_module.p,
            self_attention=module.self_attention,
            encoder_decoder_attention=module.encoder_decoder_attention,
            projections={name: getattr(module, name) for name in PROJECTIONS} if same_shape else None,
        )

    def forward(  # noqa: PLR0913  # the signature is fairseq's
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        key_padding_mask: Tensor | None = None,
        incremental_state: IncrementalState | None = None,
        need_weights: bool = True,
        static_kv: bool = False,
        attn_mask: Tensor | None = None,
        need_head_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from queries to keys.

        Args:
            query: [T, B, D].
            key: [S, B, key_dim]; unused in self-attention and where the keys are cached and static.
            value: [S, B, value_dim], likewise.
            key_padding_mask: [B, S], nonzero where a key is padding.
            incremental_state: keys and values of the steps before, by module; changed in place.
            need_weights: return attention weights, averaged over heads.
            static_kv: keys and values do not change from step to step.
            attn_mask: [T, S], added to the scores (boolean: True is masked).
            need_head_weights: return attention weights of each head.

        Returns:
            Output [T, B, D]; weights [B, T, S] or [H, B, T, S], uniform over the visible keys (one head's) where there
            is no head, None where none are needed.
        """
        steps, batch, _ = query.shape
        q = _split(self.q_proj(query), self.num_heads, self.head_dim)
        k, v, padding = self._keys_and_values(query, key, value, key_padding_mask, incremental_state, static_kv)
        beams = batch // k.size(0)
        if beams > 1:
            q = _fold_beams(q, beams)
            attn_mask = None if attn_mask is None else attn_mask.repeat(beams, 1)
        mask = _merge_masks(attn_mask, padding, q.dtype)
        weights = None
        if need_weights or need_head_weights:
            context, weights = self._attend_with_weights(q, k, v, mask)
        else:
            context = self._attend(q, k, v, mask)
        if beams > 1:
            context = _unfold_beams(context, beams)
            weights = None if weights is None else _unfold_beams(weights, beams)
        if self.gates is not None:
            context = context * self.gates().to(context.dtype).view(-1, 1, 1)
        output = self.out_proj(context.permute(2, 0, 1, 3).reshape(steps, batch, self.inner_dim))
        if weights is not None:
            weights = weights.transpose(0, 1) if need_head_weights else weights.mean(dim=1)
        return output, weights

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Context vectors [B, H, T, K] of queries [B, H, T, K], keys and values [B, H, S, K]."""
        dropout = self._dropout()
        if self.num_heads == 0 or (q.device.type == "cpu" and (dropout or k.size(2) < _FUSED_FROM)):
            return self._attend_with_weights(q, k, v, mask)[0]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def _attend_with_weights(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Context vectors and attention weights [B, H, T, S] in fp32; without heads those of one uniform head."""
        if self.num_heads == 0:
            scores = q.new_zeros(q.size(0), 1, q.size(2), k.size(2))
            return _empty_context(q, k, v), _softmax(scores, mask).nan_to_num(0.0)
        weights = _softmax((q * self.head_dim**-0.5) @ k.transpose(2, 3), mask)
        return self.dropout_module(weights.to(q.dtype)) @ v, weights

    def _dropout(self) -> float:
        active = self.training or self.dropout_module.apply_during_inference
        return float(self.dropout_module.p) if active else 0.0

    def _keys_and_values(  # noqa: PLR0913  # hands on what forward gets
        self,
        query: Tensor,
        key: Tensor | None,
        value: Tensor | None,
        padding: Tensor | None,
        incremental_state: IncrementalState | None,
        static: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Keys and values [B, H, S, K] of all steps so far and their padding mask [B, S].

        B is the number of sentences where the beams of a sentence share static keys.
        """
        cache = self._get_input_buffer(incremental_state)
        previous_key, previous_value = cache.get("prev_key"), cache.get("prev_value")
        previous_padding = cache.get("prev_key_padding_mask")
        if static and previous_key is not None and previous_value is not None:
            return previous_key, previous_value, previous_padding
        if self.self_attention:
            key = value = query
        elif self.encoder_decoder_attention:
            value = key
        if key is None or value is None:
            raise ValueError("attention needs keys and values: none were given and none are cached")
        if self.encoder_decoder_attention and incremental_state is not None and self.beam_size > 1:
            key, value, padding = self._one_beam(query.size(1), key, padding)
        k = _split(self.k_proj(key), self.num_heads, self.head_dim)
        v = _split(self.v_proj(value), self.num_heads, self.head_dim)
        if incremental_state is None:
            return k, v, padding
        if previous_key is not None and previous_value is not None:
            padding = _join_padding(previous_padding, padding, previous_key.size(2), k)
            k, v = torch.cat([previous_key, k], dim=2), torch.cat([previous_value, v], dim=2)
        self._set_input_buffer(incremental_state, {"prev_key": k, "prev_value": v, "prev_key_padding_mask": padding})
        return k, v, padding

    def _one_beam(self, batch: int, key: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encoder output and padding once per sentence, where they come once per hypothesis."""
        if key.size(1) == batch:
            key = key[:, :: self.beam_size]
            padding = None if padding is None else padding[:: self.beam_size]
        return key, key, padding

    def reorder_incremental_state(
        self, incremental_state: IncrementalState | None, new_order: Tensor
    ) -> IncrementalState | None:
        """Select and reorder what is cached by hypothesis, as beam search does after a step.

        Static keys shared by the beams of a sentence change only when sentences leave the batch.
        """
        cache = self._get_input_buffer(incremental_state)
        for name, tensor in cache.items():
            if tensor is None:
                continue
            order = new_order
            if self.encoder_decoder_attention:
                if tensor.size(0) * self.beam_size == new_order.size(0):
                    return incremental_state
                if self.beam_size > 1:
                    order = new_order[:: self.beam_size] // self.beam_size
            cache[name] = tensor.index_select(0, order)
        return incremental_state

    def set_beam_size(self, beam_size: int) -> None:
        """Let the hypotheses of a sentence share its static keys and values in incremental decoding."""
        self.beam_size = beam_size

    def _get_input_buffer(self, incremental_state: IncrementalState | None) -> Cache:
        return {} if incremental_state is None else incremental_state.get(self._cache_key, {})

    def _set_input_buffer(self, incremental_state: IncrementalState, buffer: Cache) -> IncrementalState:
        incremental_state[self._cache_key] = buffer
        return incremental_state

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Unpack the one query-key-value matrix of old checkpoints, in place; ``name`` is this module's."""
        for part in ("weight", "bias"):
            packed = state_dict.pop(f"{name}.in_proj_{part}", None)
            if packed is not None:
                for projection, tensor in zip("qkv", packed.chunk(3) if len(packed) else [packed] * 3, strict=True):
                    state_dict[f"{name}.{projection}_proj.{part}"] = tensor

    def extra_repr(self) -> str:
        """Heads and widths, for the description that fairseq-train prints."""
        return f"heads={self.num_heads}, head_dim={self.head_dim}, embed_dim={self.embed_dim}"


def _split(x: Tensor, heads: int, head_dim: int) -> Tensor:
    """[T, B, H * K] as [B, H, T, K]."""
    return x.view(x.size(0), x.size(1), heads, head_dim).permute(1, 2, 0, 3)


def _fold_beams(x: Tensor, beams: int) -> Tensor:
    """[B * beams, H, T, K] as [B, H, beams * T, K]: the queries of all hypotheses of a sentence in one row."""
    hypotheses, heads, steps, width = x.shape
    sentences = hypotheses // beams
    return x.view(sentences, beams, heads, steps, width).transpose(1, 2).reshape(sentences, heads, beams * steps, width)


def _unfold_beams(x: Tensor, beams: int) -> Tensor:
    """[B, H, beams * T, K] as [B * beams, H, T, K]: the inverse of `_fold_beams`."""
    sentences, heads, rows, width = x.shape
    steps = rows // beams
    return x.view(sentences, heads, beams, steps, width).transpose(1, 2).reshape(sentences * beams, heads, steps, width)


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over keys in fp32."""
    return F.softmax(scores if mask is None else scores + mask, dim=-1, dtype=torch.float32)


def _empty_context(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, 0, T, K] made of q, k and v: every parameter gets a gradient, as DistributedDataParallel demands."""
    return q + k.sum(dim=2, keepdim=True) + v.sum(dim=2, keepdim=True)


def _merge_masks(attn_mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """One additive mask that broadcasts to [B, H, T, S]."""
    merged: Tensor | None = None
    if attn_mask is not None:
        merged = _additive(attn_mask, dtype)[None, None]
    if padding is not None:
        hidden = padding.to(torch.bool)[:, None, None, :]
        base = hidden.new_zeros((), dtype=dtype) if merged is None else merged
        merged = torch.where(hidden, float("-inf"), base)
    return merged


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.is_floating_point():
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.to(torch.bool), float("-inf"))


def _join_padding(previous: Tensor | None, current: Tensor | None, past: int, k: Tensor) -> Tensor | None:
    """Padding mask over past and new keys, where either part may have none.

    Args:
        previous: mask of the past keys or None.
        current: mask of the new keys, of all keys, or None.
        past: number of past keys.
        k: new keys [B, H, S, K].
    """
    if current is not None and current.size(1) == past + k.size(2):
        return current
    if previous is None and current is None:
        return None
    no_padding = k.new_zeros((), dtype=torch.bool)
    parts = [
        no_padding.expand(k.size(0), length) if mask is None else mask.to(torch.bool)
        for mask, length in ((previous, past), (current, k.size(2)))
    ]
    return torch.cat(parts, dim=1)


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
    return empty_linear(inputs, outputs)


def empty_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear map without a weight, whose outputs, if it has any, are its biases: 0."""
    linear = nn.Linear(1, 1, device="meta")  # torch warns where there is nothing to draw
    linear.in_features, linear.out_features = inputs, outputs
    linear.weight = nn.Parameter(torch.zeros(outputs, inputs))
    linear.bias = nn.Parameter(torch.zeros(outputs))
    return linear
