"""Masks of attention: which keys a query does not see."""

import torch
from torch import Tensor


def merge_masks(attn_mask: Tensor | None, padding: Tensor | None, dtype: torch.dtype) -> Tensor | None:
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


def join_padding(previous: Tensor | None, current: Tensor | None, past: int, k: Tensor) -> Tensor | None:
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
