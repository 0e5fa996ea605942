"""Names of the files in an archive, those first that may be models."""

import tarfile
import zipfile
import zlib
from pathlib import Path

_MODELS = ((".pt", ".npz"), (".pth", ".bin", ".safetensors"))
"""Endings of the models that nmtprune reads, and of others."""

_MOST_BYTES = 1 << 28
"""How far a compressed archive is unpacked for its names."""

_MOST_NAMES = 10_000
_SHOWN = 3


def in_zip(path: Path) -> list[str]:
    """Names of the files in a zip archive.

    Raises:
        OSError, ValueError, zipfile.BadZipFile, NotImplementedError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


def in_tar(path: Path, *, compressed: bool) -> list[str] | None:
    """Names of the files in a tar archive; None for something else, or with nothing in it.

    Args:
        path: the archive.
        compressed: its names lie behind data that must be unpacked to get there: the first ones do.
    """
    found: list[str] = []
    try:
        with tarfile.open(path, "r:*") as archive:
            while len(found) < _MOST_NAMES and (member := archive.next()) is not None:
                if member.isfile():
                    found.append(member.name)
                if compressed and member.offset_data + member.size > _MOST_BYTES:
                    break
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error):
        pass
    return found or None


def listed(names: list[str]) -> str:
    """The models in an archive, as a message goes on behind "is an archive", and what to do."""
    models = [name for endings in _MODELS for name in sorted(names) if name.endswith(endings)]
    likely = [name for name in models if name.endswith(_MODELS[0])]
    models = likely or models
    if not models:
        return ", without a model that nmtprune knows in it"
    more = f" and {len(models) - _SHOWN} more" if len(models) > _SHOWN else ""
    return f" that holds {', '.join(models[:_SHOWN])}{more}: unpack it and name the file in it"
