"""``pytorch_model.bin``: a pickle of tensors by name, read without running what else may be in it."""

import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from nmtprune.errors import CheckpointError
from nmtprune.files import kinds
from nmtprune.formats.huggingface.safetensors_file import TensorFile

_REFUSED = re.compile(r"GLOBAL (\S+)")
_SHOWN = 100


def read_torch(path: Path) -> TensorFile:
    """Read a file; its tensors are mapped into memory where that is possible.

    Raises:
        CheckpointError: it cannot be read, is damaged, names code, or holds something else than tensors.
    """
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped = zipfile.is_zipfile(path)
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f"{path}: {_explained(path, error)}") from None
    finally:
        torch.serialization.add_safe_globals(declared)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path}: holds {type(found).__name__}, not tensors by name")
    others = [name for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        what = f"{others[0]} is no tensor" if others else "it is empty"
        raise CheckpointError(f"{path}: holds no weights of a model of transformers: {what}")
    return TensorFile(found)


def _explained(path: Path, error: Exception) -> str:
    refused = _REFUSED.search(str(error))
    if refused:
        return f"names the code {refused[1]}, which nmtprune does not run: weights need none"
    instead = kinds.describe(path)
    first = str(error).splitlines()[0][:_SHOWN] if str(error) else type(error).__name__
    return instead or f"damaged, or no file of torch's: {first}"


def write_torch(file: BinaryIO, content: TensorFile) -> None:
    """Write tensors as ``torch.save`` does: those that share memory share it in the file."""
    torch.save(OrderedDict(content.tensors), file)
