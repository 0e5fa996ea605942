"""The native model of a checkpoint, whatever its file format."""

from typing import TYPE_CHECKING

from nmtprune.errors import CheckpointError
from nmtprune.model import Transformer

if TYPE_CHECKING:
    import torch

    from nmtprune.formats.base import Checkpoint


def load(
    checkpoint: "Checkpoint", device: "torch.device | str" = "cpu", dtype: "torch.dtype | None" = None
) -> Transformer:
    """The model of a checkpoint, full or slim, ready to compute.

    Args:
        checkpoint: a checkpoint of any format; its tensors are used in place where device and type allow it.
        device: where to compute.
        dtype: type to compute in; None: that of the weights, but single precision for half precision on a CPU.

    Raises:
        CheckpointError: the native model cannot run it, or tensors are missing or misshapen; all reasons.
    """
    try:
        return Transformer(checkpoint.network(), checkpoint.architecture, checkpoint.native_tensors(), device, dtype)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}", error.faults) from error
