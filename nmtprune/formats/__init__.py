"""Checkpoint files of NMT toolkits: what is in them, changed only where heads are."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.errors import CheckpointError, NotFiniteError
from nmtprune.files import kinds
from nmtprune.files.places import describe_folder, describe_missing, is_of_transformers

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


def load(path: Path | str, *, finite: bool = True) -> "Checkpoint":
    """Read a checkpoint; what it is follows from its content, not from its name.

    Args:
        path: the file.
        finite: refuse a model with weights that are no finite numbers, which computes nothing.

    Raises:
        CheckpointError: there is no such file, it is damaged, no checkpoint, or one that is not supported; all reasons.
        NotFiniteError: weights that are NaN or infinite.
    """
    path = Path(path)
    checkpoint = class_of(path).load(path)
    if finite:
        check_finite(checkpoint)
    return checkpoint


def check_finite(checkpoint: "Checkpoint") -> None:
    """Refuse a model with weights that are no finite numbers, which computes nothing.

    Raises:
        NotFiniteError: weights that are NaN or infinite.
    """
    if checkpoint.not_finite:
        what = f"{checkpoint.path}: {checkpoint.not_finite}"
        raise NotFiniteError(f"{what}: no model can be run or pruned with such weights")


def class_of(path: Path | None) -> "type[Checkpoint]":
    """The format that a file has or was meant to have; None: of what fairseq-train writes.

    Raises:
        CheckpointError: there is no such file, or no toolkit takes it for a model: a folder, a pointer, a web page.
    """
    from nmtprune.formats.marian import archive

    if path is not None and is_of_transformers(path):
        from nmtprune.formats.huggingface import class_of_folder

        return class_of_folder(path)
    if path is not None:
        _check_kind(path)
    if path is not None and archive.looks_like(path):
        from nmtprune.formats.marian import MarianCheckpoint

        return MarianCheckpoint
    from nmtprune.formats.fairseq import FairseqCheckpoint

    return FairseqCheckpoint


def classes() -> "tuple[type[Checkpoint], ...]":
    """All formats, by their translation models."""
    from nmtprune.formats.fairseq import FairseqCheckpoint
    from nmtprune.formats.huggingface import HuggingFaceCheckpoint
    from nmtprune.formats.marian import MarianCheckpoint

    return FairseqCheckpoint, MarianCheckpoint, HuggingFaceCheckpoint


def _check_kind(path: Path) -> None:
    if not os.path.exists(path):
        raise CheckpointError(f"{path}: {describe_missing(path)}")
    if not path.is_file():
        what = describe_folder(path) if path.is_dir() else "is no regular file"
        raise CheckpointError(f"{path}: {what}")
    found = kinds.no_model(path)
    if found:
        raise CheckpointError(f"{path}: {found}")
