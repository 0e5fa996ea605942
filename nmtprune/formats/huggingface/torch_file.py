"""``pytorch_model.bin``: a file of ``torch.save`` with tensors by name."""

from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import torch

from nmtprune.errors import CheckpointError
from nmtprune.files import kinds
from nmtprune.formats.huggingface.safetensors_file import TensorFile
from nmtprune.formats.torch_archive import is_plain, read_torch_archive

_WEIGHTS = "weights of a model of transformers"


def read_torch(path: Path) -> TensorFile:
    """Read a file; its tensors are mapped into memory where that is possible.

    Raises:
        CheckpointError: it cannot be read, is damaged, names code, or holds something else than tensors.
    """
    instead = kinds.describe(path)
    if instead:
        raise CheckpointError(f"{path}: {instead}")
    found = read_torch_archive(path, _WEIGHTS)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path}: not {_WEIGHTS} (it holds a {type(found).__name__}, not tensors by name)")
    unfit = [name for name, value in found.items() if not is_plain(value)]
    if unfit or not found:
        what = f"'{unfit[0]}' is no plain tensor" if unfit else "it is empty"
        raise CheckpointError(f"{path}: not {_WEIGHTS} ({what})")
    return TensorFile({name: tensor.detach() for name, tensor in found.items()})


def write_torch(file: BinaryIO, content: TensorFile) -> None:
    """Write tensors as ``torch.save`` does: those that share memory share it in the file."""
    torch.save(OrderedDict(content.tensors), file)
