"""Tensors and the memory behind them: a view is saved with its whole storage, shared storages are saved once."""

from collections.abc import Mapping

import torch
from torch import Tensor

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same values bit by bit, NaN included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    if first.data_ptr() == second.data_ptr() and first.stride() == second.stride():
        return True
    integers = _INTEGERS[first.element_size()]
    return torch.equal(first.view(integers), second.view(integers))


def separated(tensors: Mapping[str, Tensor], changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The changed tensors, and copies of unchanged ones that are views of a storage which a changed one left.

    Otherwise the file would still hold the removed values. Tensors that shared memory share it afterwards.

    Args:
        tensors: all tensors before the change.
        changed: those that are replaced; each owns its storage.
    """
    left = {_storage(tensors[name]) for name in changed}
    copies: dict[object, Tensor] = {}
    found = dict(changed)
    for name, tensor in tensors.items():
        if name not in changed and tensor.numel() and _storage(tensor) in left:
            key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            found[name] = copies.setdefault(key, tensor) if key in copies else copies.setdefault(key, tensor.clone())
    return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
