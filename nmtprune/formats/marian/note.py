"""The entry of a Marian archive in which nmtprune writes lineage and padding down."""

from pathlib import Path

from nmtprune.architecture import Architecture
from nmtprune.errors import CheckpointError
from nmtprune.formats.cut_note import Note
from nmtprune.formats.marian.layout import SPECIAL

NOTE = f"{SPECIAL}nmtprune.json"
"""Entry of what nmtprune knows of a model; Marian skips it."""

FORMAT = "nmtprune-marian"


def read_note(content: bytes, stored: Architecture, path: Path) -> Note:
    """Read the bytes of the entry.

    Args:
        content: JSON, padded with NULs.
        stored: groups of the model, padding units counted as units.
        path: of the model.

    Raises:
        CheckpointError: damaged, or about another model; all faults at once.
    """
    where = f"{path}: {NOTE}"
    try:
        text = content.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is damaged: {error}") from None
    return Note.parse(text, stored, where, FORMAT)
