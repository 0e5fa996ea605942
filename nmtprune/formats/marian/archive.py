"""``.npz`` archives as Marian reads and writes them: arrays by name, no pickles, no sizes beyond what the file says."""

import io
import zipfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.errors import CheckpointError

Arrays = dict[str, NDArray[Any]]

SUFFIX = ".npy"
_MAGIC = b"PK\x03\x04"
_MOST_COMPRESSED = 200
"""Uncompressed bytes per byte of the file: weights hardly compress, so that more is a bomb."""
_LARGEST_HEADER = 1 << 16


def looks_like(path: Path) -> bool:
    """Whether a file is a zip archive of ``.npy`` arrays, and no checkpoint of torch's."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return False
    except OSError:
        return False  # who reads it says why it cannot be read
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return path.suffix == ".npz"  # damaged: what it was meant to be is all that is left
    return any(name.endswith(SUFFIX) for name in names)


def read_archive(path: Path) -> Arrays:
    """All arrays of an archive in its order, writable copies.

    Raises:
        CheckpointError: the file is damaged, unreasonably large when unpacked, or holds something else; all reasons.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive)
            arrays, faults = _arrays(archive)
    except CheckpointError:
        raise
    except Exception as error:  # damaged bytes raise zlib.error, struct.error and many others
        raise CheckpointError(f"{path}: damaged or truncated: {error}") from None
    if faults:
        raise CheckpointError.of_faults(f"{path}: damaged", faults)
    return arrays


def write_archive(
    file: IO[bytes], arrays: Mapping[str, NDArray[Any]], source: Path | None = None, unchanged: Collection[str] = ()
) -> None:
    """Write arrays as Marian does: stored, with sizes in the local headers and no zip64 fields, which old ones misread.

    Args:
        file: seekable.
        arrays: by name, in the order of the file.
        source: the archive that they come from; None for a new one.
        unchanged: names whose bytes are copied from there.
    """
    with ExitStack() as stack:
        old = None if source is None else stack.enter_context(zipfile.ZipFile(source))
        new = stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_STORED))
        for name, array in arrays.items():
            content = old.read(name + SUFFIX) if old is not None and name in unchanged else _bytes(array)
            new.writestr(zipfile.ZipInfo(name + SUFFIX), content)


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    entries = archive.infolist()
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > _MOST_COMPRESSED * size:
        raise CheckpointError(f"{path}: refused: {size} bytes that claim to unpack to {total}")
    names = [entry.filename for entry in entries]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CheckpointError(f"{path}: damaged: {', '.join(twice)} is there twice")


def _arrays(archive: zipfile.ZipFile) -> tuple[Arrays, list[str]]:
    found: Arrays = {}
    faults = []
    for entry in archive.infolist():
        name = entry.filename.removesuffix(SUFFIX)
        if name == entry.filename:
            faults.append(f"{name} is no array")
            continue
        try:
            found[name] = _array(archive.read(entry))
        except ValueError as error:
            faults.append(f"{name}: {error}")
    return found, faults


def _array(content: bytes) -> NDArray[Any]:
    """The array of a ``.npy`` file; its header is held against the bytes that follow before anything is made."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format")
    try:
        shape, fortran, dtype = read(file, max_header_size=_LARGEST_HEADER)
    except (SyntaxError, TypeError, KeyError) as error:
        raise ValueError(f"header: {error}") from None
    if dtype.hasobject:
        raise ValueError("holds Python objects (a pickle), which could run code when it is read")
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape}")
    needed, there = int(np.prod(shape, dtype=object)) * dtype.itemsize, len(content) - file.tell()
    if needed != there:
        raise ValueError(f"{there} bytes for shape {list(shape)} of {dtype}, which takes {needed}")
    flat = np.frombuffer(bytearray(content[file.tell() :]), dtype=dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()
