"""The tensors of a checkpoint as the native model takes them: by name and shape, every fault collected."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nmtprune.errors import CheckpointError

_LISTED = 5
_WHERE = "the tensors do not fit the network"


class Weights:
    """Hands out named tensors as frozen parameters and notes what is missing, misshapen or left over.

    Tensors are not copied unless their device or type changes; what shared a storage then still does.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, dtype: torch.dtype | None) -> None:
        """Take the tensors to `device` and `dtype` (None: `default_dtype`) when they are taken."""
        self._tensors = tensors
        self.device = device
        self.dtype = dtype or default_dtype(tensors, device)
        self._taken: set[str] = set()
        self._faults: list[str] = []
        self._converted: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: str, *shape: int | None) -> nn.Parameter:
        """The tensor of that name; None in `shape` stands for any size. Zeros where there is a fault, for `finish`."""
        self._taken.add(name)
        tensor = self._tensors.get(name)
        if tensor is None:
            self._faults.append(f"{name} is missing")
        elif len(tensor.shape) != len(shape) or any(
            want not in (None, size) for want, size in zip(shape, tensor.shape, strict=True)
        ):
            wanted = " x ".join("any" if size is None else str(size) for size in shape)
            self._faults.append(f"{name} is {' x '.join(map(str, tensor.shape)) or 'a scalar'}, not {wanted}")
        else:
            return _frozen(self._convert(tensor))
        return _frozen(torch.zeros([size or 1 for size in shape], device=self.device, dtype=self.dtype))

    def need(self, name: str) -> nn.Parameter:
        """The matrix of that name, on whose shape the shapes of others depend: raises at once where it is missing."""
        if name not in self._tensors:
            raise CheckpointError.of_faults(_WHERE, [*self._faults, f"{name} is missing"])
        return self.take(name, None, None)

    def rows(self, name: str) -> int | None:
        """Rows of the tensor of that name; None where it is missing."""
        return self._tensors[name].shape[0] if name in self._tensors and self._tensors[name].dim() else None

    def linear(self, prefix: str, outputs: int | None, inputs: int | None) -> tuple[nn.Parameter, nn.Parameter]:
        """Weight [outputs, inputs] and bias [outputs] of a linear layer."""
        return self.take(f"{prefix}.weight", outputs, inputs), self.take(f"{prefix}.bias", outputs)

    def stacked(self, prefixes: tuple[str, ...], outputs: int, inputs: int) -> tuple[nn.Parameter, nn.Parameter]:
        """Several linear layers of the same input as one: their rows, one after the other."""
        layers = [self.linear(prefix, outputs, inputs) for prefix in prefixes]
        weights, biases = zip(*layers, strict=True)
        return _frozen(torch.cat(weights)), _frozen(torch.cat(biases))

    def finish(self) -> None:
        """Raise CheckpointError for every fault so far and for tensors that nothing took."""
        faults = list(self._faults)
        left = sorted(set(self._tensors) - self._taken)
        if left:
            more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
            faults.append(f"the model has no place for {', '.join(left[:_LISTED])}{more}")
        if faults:
            raise CheckpointError.of_faults(_WHERE, faults)

    def _convert(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        if tensor.device == self.device and tensor.dtype == self.dtype:
            return tensor
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._converted:
            self._converted[key] = tensor.to(self.device, self.dtype)
        return self._converted[key]


def default_dtype(tensors: Mapping[str, Tensor], device: torch.device) -> torch.dtype:
    """The type to compute in: that of the weights, but no half precision on a CPU and the widest of a mixture."""
    found = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if torch.float64 in found:
        return torch.float64
    if len(found) == 1 and device.type != "cpu":
        return found.pop()
    return torch.float32


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
