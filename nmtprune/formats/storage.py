"""Tensors and the memory behind them: a view is saved with its whole storage, shared storages are saved once."""

import ctypes
import mmap
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

LEAST_RELEASED = 1 << 20
"""Bytes of a file below which its pages stay in memory: to look for them takes a walk through all of the process's."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same values bit by bit, NaN included."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    if first.data_ptr() == second.data_ptr() and first.stride() == second.stride():
        return True
    integers = _INTEGERS[first.element_size()]
    return torch.equal(first.view(integers), second.view(integers))


def separated(
    tensors: Mapping[str, Tensor], changed: Mapping[str, Tensor], left_by: Collection[str] = ()
) -> dict[str, Tensor]:
    """The changed tensors, and copies of unchanged ones that are views of a storage which another one left.

    Otherwise the file would still hold the removed values. Tensors that shared memory share it afterwards.

    Args:
        tensors: all tensors before the change.
        changed: those that are replaced; each owns its storage.
        left_by: names of tensors that are left out altogether.
    """
    left = {_storage(tensors[name]) for name in (*changed, *left_by)}
    copies: dict[object, Tensor] = {}
    found = dict(changed)
    for name, tensor in tensors.items():
        if name not in changed and name not in left_by and tensor.numel() and _storage(tensor) in left:
            key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
            found[name] = copies.setdefault(key, tensor) if key in copies else copies.setdefault(key, tensor.clone())
    return found


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def release_pages(path: Path) -> None:
    """Give back the memory of a mapped file, whose pages are read again when they are needed.

    Without it a file that was read once stays in memory beside what is made of it. Only on Linux, and only while no
    mapped tensor was changed in place: such changes live in these pages.
    """
    with suppress(OSError, ValueError, AttributeError):
        if path.stat().st_size < LEAST_RELEASED:
            return
        for start, end in _clean_mappings(os.path.realpath(path)):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def _clean_mappings(path: str) -> Iterator[tuple[int, int]]:
    """First and last address of every mapping of a file of which no page was written to."""
    current: tuple[int, int] | None = None
    with open("/proc/self/smaps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            name, *values = line.split(maxsplit=5)
            if not name.endswith(":"):
                start, _, end = name.partition("-")
                current = (int(start, 16), int(end, 16)) if values[-1:] == [f"{path}\n"] else None
            elif current and name == "Anonymous:" and values[0] == "0":
                yield current
