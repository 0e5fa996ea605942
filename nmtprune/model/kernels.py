"""Matrix products, by the library of those that torch brings along that is fastest for their size."""

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_ONEDNN_FROM = 1 << 20
"""Multiplications from which on oneDNN is worth its greater overhead per call."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W^T + b`` [..., E] of x [..., D] and W [E, D], as `torch.nn.functional.linear` computes it.

    torch takes MKL for single precision on a CPU. MKL leaves the widest vector units of AMD's processors idle: with
    oneDNN a product takes 0.4 to 0.5 of the time there.
    """
    large = x.numel() * weight.shape[0] >= _ONEDNN_FROM
    single = x.dtype == torch.float32 and x.device.type == "cpu"
    if not (_ONEDNN and large and single) or _needs_gradient(x, weight, bias):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def _needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether a gradient flows here: torch has no derivative of its operator of oneDNN."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
