"""Weights that are NaN or infinite: found in one pass over the tensors, and named."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def not_finite(tensors: "Mapping[str, Tensor]") -> tuple[str, ...]:
    """Names of the floating-point tensors that hold a NaN or an infinity, in their order."""
    return tuple(name for name, tensor in tensors.items() if not _is_finite(tensor))


def described(tensors: "Mapping[str, Tensor]") -> str | None:
    """The first such tensor, what it holds, and how many others there are; None where all numbers are finite."""
    names = not_finite(tensors)
    if not names:
        return None
    tensor = tensors[names[0]]
    nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    held = " and ".join(what for what, count in (("NaN", nans), ("infinity", infinities)) if count)
    text = f"{names[0]} holds {held} ({nans + infinities} of {tensor.numel()} numbers)"
    others = f", and so do {len(names) - 1} other tensors" if len(names) > 2 else ", and so does 1 other tensor"
    return text + others if len(names) > 1 else text


def _is_finite(tensor: "Tensor") -> bool:
    """Whether all numbers are finite, by the smallest and the largest one: NaN is passed on by both."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.element_size() < 2:
        tensor = tensor.float()  # torch compares no numbers of eight bits
    return all(math.isfinite(float(bound)) for bound in tensor.aminmax())
