"""The entry of a Marian archive in which nmtprune writes lineage and padding down."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nmtprune.architecture import Architecture
from nmtprune.errors import CheckpointError
from nmtprune.formats.cut_note import Note
from nmtprune.formats.marian.layout import SPECIAL
from nmtprune.plan import Lineage

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


def entry(architecture: Architecture, lineage: Lineage | None, provenance: Mapping[str, Any]) -> Any:
    """The entry of a model with this architecture and lineage, and how it was made."""
    found = json.loads(Note.of(architecture, lineage).to_json(FORMAT))
    return as_text(json.dumps({**found, "provenance": dict(provenance)}).encode())


def as_text(content: bytes) -> Any:
    """Bytes as Marian stores text: signed, ended by a NUL."""
    ended = content if content.endswith(b"\0") else content + b"\0"
    return np.frombuffer(bytearray(ended), dtype=np.int8)
