"""Files of ``torch.save``: tensors and plain values only, mapped into memory where possible; no code of them runs."""

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nmtprune.errors import CheckpointError

OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of `torch.save` before torch 1.6 begin: its magic number as a pickle."""

_ZIP = b"PK\x03\x04"
_LOCAL_HEADER = 30
_CHUNK = 1 << 20
_WORKERS = 4
_SHOWN = 120
_REFUSED = re.compile(r"GLOBAL (\S+)")
_MODEL = re.compile(r"(fairseq\.(models|modules)|torch\.nn|transformers)\.")
"""Classes of which a file names one where a whole model was pickled, not its tensors."""


def read_torch_archive(path: Path, what: str, allowed: Sequence[Callable[..., Any] | tuple[Any, str]] = ()) -> Any:
    """What a file holds.

    Args:
        path: the file.
        what: it should be, as messages call it: ``a fairseq checkpoint``.
        allowed: classes and functions that it may name besides those that torch knows to be harmless.

    Raises:
        CheckpointError: the file cannot be read, is damaged, is something else, or names code that is not allowed.
    """
    mapped = _sniff(path, what)
    with warnings.catch_warnings(), _only_safe(allowed):
        warnings.simplefilter("ignore")
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"{path}: {_explain(error)}") from None


def is_plain(tensor: Any) -> bool:
    """Whether a value is a tensor of the usual kind, with its numbers in memory."""
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
    )


@contextmanager
def _only_safe(allowed: Sequence[Callable[..., Any] | tuple[Any, str]]) -> Iterator[None]:
    """Allow these and nothing else, whatever this process has declared safe before."""
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(declared)


def _sniff(path: Path, what: str) -> bool:
    """Whether the tensors of the file can be mapped into memory instead of read."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(OLD_FORMAT))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: is empty")
    if head.startswith(_ZIP):
        return _sniff_zip(path, what)
    if head.startswith(OLD_FORMAT):
        return False
    found = "a pickle that torch.save did not write" if head.startswith(b"\x80") else "neither a zip nor a torch file"
    raise CheckpointError(f"{path}: not {what} ({found})")


def _sniff_zip(path: Path, what: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        raise CheckpointError(
            f"{path}: damaged or truncated (incomplete zip archive): copy or download it again"
        ) from None
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        found = "an .npz archive of NumPy" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise CheckpointError(f"{path}: not {what} ({found} without a torch file in it)")
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path}: not {what} (a TorchScript archive: name the checkpoint that it was exported from)"
        )
    _check_sums(path, entries)
    return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def _check_sums(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """Compare what is stored with its CRC-32, which torch does not; 0 where torch was told not to compute it."""
    stored = [entry for entry in entries if entry.CRC and entry.compress_type == zipfile.ZIP_STORED]
    workers = min(_WORKERS, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        damaged = sum(pool.map(_wrong_sums, [path] * workers, (stored[first::workers] for first in range(workers))), [])
    if damaged:
        raise CheckpointError(f"{path}: damaged (the checksum of {ascii(damaged[0])} in it is wrong)")


def _wrong_sums(path: Path, entries: list[zipfile.ZipInfo]) -> list[str]:
    """Names of the entries whose bytes do not have their CRC-32."""
    with open(path, "rb", buffering=0) as file:
        return [entry.filename for entry in entries if _crc32(file, entry) != entry.CRC]


def _crc32(file: IO[bytes], entry: zipfile.ZipInfo) -> int | None:
    if entry.header_offset < 0:
        return None
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER)
    file.seek(sum(int.from_bytes(header[start : start + 2], "little") for start in (26, 28)), os.SEEK_CUR)
    found, left = 0, entry.file_size
    while left and (chunk := file.read(min(left, _CHUNK))):
        found, left = zlib.crc32(chunk, found), left - len(chunk)
    return found


def _explain(error: Exception) -> str:
    """What a failure of `torch.load` means, on one line."""
    text = str(error)
    named = _REFUSED.search(text)
    if named:
        refused = f"refused: it names {named[1]}, and no code that a file names is run"
        whole = ": a whole model was pickled; save its tensors as its toolkit does" if _MODEL.match(named[1]) else ""
        return refused + whole
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    text = text.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(text.split()).partition(". ")[0]
    return f"damaged or truncated (torch: {type(error).__name__}{': ' if reason else ''}{reason[:_SHOWN]})"
