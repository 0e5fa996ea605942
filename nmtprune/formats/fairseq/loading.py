"""Read a checkpoint file: tensors and plain values only, mapped into memory where possible; no code of it runs."""

import os
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import inert

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

_WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.")
"""Prefixes that wrappers of a model (of several GPUs, of torch.compile) give to the names of its tensors."""

_STACKS = ("encoder.", "decoder.")
_SETTINGS = "fairseq's checkpoints hold the settings too: name the file that fairseq-train wrote"
_ELSEWHERE: Mapping[str, str] = {
    "pytorch-lightning_version": "a checkpoint of PyTorch Lightning",
    "model_state": "a checkpoint of JoeyNMT",
    "generator": "a checkpoint of OpenNMT-py",
    "state_dict": "weights under 'state_dict', without 'model' and 'cfg'",
    "model_state_dict": "weights under 'model_state_dict', without 'model' and 'cfg'",
}
"""A key at top level -> what writes it."""

_HUGGING_FACE = ("model.shared.weight", "final_logits_bias", "lm_head.weight", "shared.weight")


def read_state(path: Path) -> dict[str, Any]:
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
    reason = _form_fault(state)
    if reason:
        raise CheckpointError(f"{path}: not a fairseq checkpoint ({reason})")
    unfit = [name for name, tensor in state["model"].items() if not _is_plain(tensor)]
    if unfit:
        raise CheckpointError(f"{path}: not a fairseq checkpoint (model entry '{unfit[0]}' is no plain tensor)")
    found: dict[str, Any] = state
    return found


def _form_fault(state: Any) -> str:
    """What is wrong with the outer form of a checkpoint; empty where it is that of fairseq's."""
    if not isinstance(state, dict):
        return f"it holds a {type(state).__name__}, not a dict"
    elsewhere = next((what for key, what in _ELSEWHERE.items() if key in state and state.get("cfg") is None), None)
    if elsewhere and state.get("args") is None:
        return f"{elsewhere}; fairseq's (.pt) and Marian's (.npz) models are supported"
    if not isinstance(state.get("model"), dict) or not state["model"]:
        return _without_model(state)
    if not all(isinstance(name, str) for name in state["model"]):
        return "a name in 'model' is no text"
    if state.get("cfg") is None and state.get("args") is None:
        return f"it has no settings: neither 'cfg' nor 'args'; {_SETTINGS}"
    prefix = _wrapper(state["model"])
    if prefix:
        return (
            f"the names of its tensors begin with '{prefix}', which a wrapper of the model put there: take that prefix "
            "off every name in 'model' and save the file again"
        )
    return ""


def _is_plain(tensor: Any) -> bool:
    """Whether a value is a tensor of the usual kind."""
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_quantized


def _without_model(state: Mapping[Any, Any]) -> str:
    if any(isinstance(value, Tensor) for value in state.values()):
        if any(name in state for name in _HUGGING_FACE):
            return "weights of a model of Hugging Face's transformers: name their folder, with its config.json"
        return f"a bare state dict, without 'model' and 'cfg'; {_SETTINGS}"
    if {"last_optimizer_state", "optimizer_state_dict", "param_groups"} & state.keys():
        return "optimizer state without a model: name the checkpoint that it belongs to"
    return f"it has no 'model'; {_SETTINGS}"


def _wrapper(names: Iterable[str]) -> str | None:
    """The prefix that all names of a wrapped model have in common."""
    listed = list(names)
    prefix = ""
    while wrapper := next((own for own in _WRAPPERS if all(name.startswith(prefix + own) for name in listed)), None):
        prefix += wrapper
    inside = all(name.removeprefix(prefix).startswith(_STACKS) for name in listed)
    return prefix if prefix and inside else None
