"""Checkpoint files of NMT toolkits: what is in them, changed only where heads are."""

from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.errors import CheckpointError

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


def load(path: Path | str) -> "Checkpoint":
    """Read a checkpoint; what it is follows from its content, not from its name.

    Raises:
        CheckpointError: there is no such file, it is damaged, no checkpoint, or one that is not supported; all reasons.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    if not path.is_file():
        what = "a folder; name the checkpoint file in it" if path.is_dir() else "no regular file"
        raise CheckpointError(f"{path}: is {what}")
    if is_marian(path):
        from nmtprune.formats.marian import MarianCheckpoint

        return MarianCheckpoint.load(path)
    from nmtprune.formats.fairseq import FairseqCheckpoint

    return FairseqCheckpoint.load(path)


def is_marian(path: Path) -> bool:
    """Whether a file is, or was meant to be, a Marian model."""
    from nmtprune.formats.marian import archive

    return archive.looks_like(path)
