"""Read a checkpoint file: tensors and plain values only, mapped into memory where possible; no code of it runs."""

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import forms, inert

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


def read(path: Path) -> dict[str, Any]:
    """The top-level dict of a fairseq checkpoint.

    Raises:
        CheckpointError: the file cannot be read, is damaged, is something else, or names code that is not needed.
    """
    mapped = _sniff(path)
    with warnings.catch_warnings(), _only_stand_ins():
        warnings.simplefilter("ignore")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:  # a damaged pickle can raise anything
            raise CheckpointError(f"{path}: {_explain(error)}") from None
    return _checked(state, path)


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Allow what `inert.allowed` lists and nothing else, whatever this process has declared safe before."""
    declared = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(inert.allowed())
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(declared)


def _sniff(path: Path) -> bool:
    """Whether the tensors of the file can be mapped into memory instead of read."""
    try:
        with open(path, "rb") as file:
            head = file.read(len(OLD_FORMAT))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{path}: is empty")
    if head.startswith(_ZIP):
        return _sniff_zip(path)
    if head.startswith(OLD_FORMAT):
        return False
    what = "a pickle that torch.save did not write" if head.startswith(b"\x80") else "neither a zip nor a torch file"
    raise CheckpointError(f"{path}: not a fairseq checkpoint ({what})")


def _sniff_zip(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        raise CheckpointError(
            f"{path}: damaged or truncated (incomplete zip archive): copy or download it again"
        ) from None
    names = [entry.filename for entry in entries]
    if not any(name.endswith("/data.pkl") for name in names):
        what = "an .npz archive of NumPy" if any(name.endswith(".npy") for name in names) else "a zip archive"
        raise CheckpointError(f"{path}: not a fairseq checkpoint ({what} without a torch file in it)")
    if any(name.endswith("/constants.pkl") for name in names):
        raise CheckpointError(
            f"{path}: not a fairseq checkpoint (a TorchScript archive: name the checkpoint that it was exported from)"
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
        whole = ": a whole model was pickled; save its tensors as fairseq-train does" if _MODEL.match(named[1]) else ""
        return refused + whole
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    text = text.rpartition("WeightsUnpickler error:")[2].partition("Check the documentation")[0]
    reason = " ".join(text.split()).partition(". ")[0]
    return f"damaged or truncated (torch: {type(error).__name__}{': ' if reason else ''}{reason[:_SHOWN]})"


def _checked(state: Any, path: Path) -> dict[str, Any]:
    """The state, after a look at its outer form."""
    reason = forms.fault(state)
    if reason:
        raise CheckpointError(f"{path}: not a fairseq checkpoint ({reason})")
    unfit = [name for name, tensor in state["model"].items() if not forms.is_plain(tensor)]
    if unfit:
        raise CheckpointError(f"{path}: not a fairseq checkpoint (model entry '{unfit[0]}' is no plain tensor)")
    found: dict[str, Any] = state
    return found
