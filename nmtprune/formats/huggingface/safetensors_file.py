"""Files of safetensors: a header of names, types, shapes and places, and behind it the numbers; no code is in them.

https://github.com/huggingface/safetensors: eight bytes of length, a JSON header of that length, then all tensors
without gaps.
"""

import json
import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from nmtprune import strictjson
from nmtprune.errors import CheckpointError
from nmtprune.files import kinds
from nmtprune.strictjson import is_int, show, show_key

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_LENGTH = 8
_LONGEST_HEADER = 100_000_000
"""As safetensors itself has it."""
_METADATA = "__metadata__"
_ALIGNMENT = 8
_MOST_AXES, _LONGEST_AXIS = 8, 1 << 40
"""Bounds of shapes: no model's tensor has larger ones, and torch cannot make some of these."""

_SHOWN = 5


@dataclass(frozen=True)
class TensorFile:
    """What a file holds.

    Attributes:
        tensors: by name, in the file's order; they are read from disk when they are used.
        metadata: texts by name.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: Path) -> TensorFile:
    """Map a file into memory.

    Raises:
        CheckpointError: it cannot be read, or its header does not describe what is there; all faults.
    """
    try:
        with open(path, "rb") as file:
            stored = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is empty'}") from None
    start, header = _header(path, stored)
    metadata = header.pop(_METADATA, {})
    faults: list[str] = []
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        faults.append(f"{_METADATA} is {show(metadata)}, no object of texts")
    places = [place for name, entry in header.items() if (place := _place(name, entry, faults)) is not None]
    faults = faults or list(_gaps(places, len(stored) - start))
    if faults:
        shown = [*faults[:_SHOWN], *([f"and {len(faults) - _SHOWN} more"] if faults[_SHOWN:] else [])]
        raise CheckpointError.of_faults(f"{path}: damaged: its header does not describe what is there", shown)
    return TensorFile({place.name: _tensor(stored, start, place) for place in places}, metadata)


def _header(path: Path, stored: mmap.mmap) -> tuple[int, dict[str, Any]]:
    """Where the numbers begin, and what the header says."""
    length = int.from_bytes(stored[:_LENGTH], "little")
    if len(stored) < _LENGTH + 2 or stored[_LENGTH : _LENGTH + 1] != b"{":
        instead = kinds.describe(path)
        raise CheckpointError(f"{path}: {instead or 'is no safetensors file'}")
    if not 2 <= length <= min(_LONGEST_HEADER, len(stored) - _LENGTH):
        raise CheckpointError(
            f"{path}: damaged or truncated: a header of {length} bytes in a file of {len(stored)} (download it again)"
        )
    try:
        text = stored[_LENGTH : _LENGTH + length].decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: damaged: its header is not UTF-8") from None
    return _LENGTH + length, dict(strictjson.loads(text, f"{path}: damaged header", CheckpointError))


def _place(name: str, entry: Any, faults: list[str]) -> _Place | None:
    """Where a tensor is; None, and a fault, where the header contradicts itself."""
    shown = show_key(name)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        faults.append(f"the entry of {shown} is {show(entry)}")
        return None
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        faults.append(f"{shown} is of type {show(dtype)}, which nmtprune does not read")
        return None
    if not _are_counts(shape) or not _are_counts(offsets) or len(offsets) != 2:
        faults.append(f"{shown} has the shape {show(shape)} and the place {show(offsets)}")
        return None
    if len(shape) > _MOST_AXES or any(length > _LONGEST_AXIS for length in shape):
        faults.append(f"{shown} has the shape {show(shape)}, which no tensor of a model has")
        return None
    begin, end = offsets
    size = math.prod(shape) * _DTYPES[dtype].itemsize
    if end - begin != size:
        faults.append(f"{shown} of shape {show(shape)} takes {size} bytes, not {end - begin}")
        return None
    return _Place(name, _DTYPES[dtype], tuple(shape), begin, end)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(is_int(value) and value >= 0 for value in values)


def _gaps(places: list[_Place], size: int) -> Iterator[str]:
    """Where tensors overlap, leave room, or lie outside the file."""
    reached = 0
    for place in sorted(places, key=lambda place: (place.begin, place.end)):
        if place.begin != reached:
            what = "overlaps the tensor before it" if place.begin < reached else "leaves a gap before it"
            yield f"{show_key(place.name)} {what}: it begins at byte {place.begin}, not {reached}"
        reached = max(reached, place.end)
    if reached != size:
        yield f"the tensors take {reached} bytes, the file has {size}"


def _tensor(stored: mmap.mmap, start: int, place: _Place) -> Tensor:
    if place.begin == place.end:
        return torch.empty(place.shape, dtype=place.dtype)
    offset, size = start + place.begin, place.dtype.itemsize
    if offset % size:
        return torch.frombuffer(bytearray(stored[offset : start + place.end]), dtype=place.dtype).view(place.shape)
    count = (place.end - place.begin) // size
    return torch.frombuffer(stored, dtype=place.dtype, count=count, offset=offset).view(place.shape)


def write_safetensors(file: BinaryIO, content: TensorFile) -> None:
    """Write tensors, those of wide types first, so that all lie at multiples of their width."""
    order = sorted(content.tensors, key=lambda name: -content.tensors[name].element_size())
    header: dict[str, Any] = {_METADATA: dict(content.metadata)} if content.metadata else {}
    reached = 0
    for name in order:
        tensor = content.tensors[name]
        end = reached + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(_LENGTH, "little") + text)
    for name in order:
        flat = content.tensors[name].detach().contiguous().reshape(-1)
        file.write(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
