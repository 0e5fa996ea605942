"""Folders that are written whole or not at all, as `atomic` writes files."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from nmtprune.errors import OutputError
from nmtprune.files.atomic import check_output
from nmtprune.files.temporary import SUFFIX


def check_folder(
    output: Path, marker: str, what: str, *, force: bool = False, inputs: Iterable[Path | str] = ()
) -> None:
    """Check that a folder is new or empty, or holds a model that may be replaced.

    Args:
        output: the folder.
        marker: name of a file that such a model has.
        what: the model, as messages call it: ``exported model``.
        force: it may be replaced.
        inputs: files and folders that must not be overwritten, not even with `force`.

    Raises:
        OutputError: it cannot be written.
    """
    if not output.exists():
        check_output(output)  # what can take a file there can take a folder
        return
    if not output.is_dir():
        raise OutputError(f"{output}: is a file, not a folder")
    for source in map(Path, inputs):
        if source.exists() and output.resolve() in (source.resolve(), *source.resolve().parents):
            raise OutputError(f"{output}: holds the input {source}; nothing is changed in place, choose another output")
    if any(output.iterdir()) and not (output / marker).exists():
        raise OutputError(f"{output}: is not empty and holds no {what}: name another folder")
    if any(output.iterdir()) and not force:
        raise OutputError(f"{output}: exists (`force` replaces it)")


@contextmanager
def folder_beside(output: Path) -> Iterator[Path]:
    """A folder beside the output, gone at the end unless it was put in its place.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=SUFFIX, dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output}: cannot be made: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(folder: Path, output: Path) -> None:
    """Give the folder the name of the output; a model that is there stays where that fails.

    Raises:
        OutputError: it cannot be done.
    """
    old = folder.with_name(folder.name + ".old")
    try:
        folder.chmod(0o777 & ~_umask())
        if output.exists():
            os.replace(output, old)
        try:
            os.replace(folder, output)
        except BaseException:
            if old.exists():
                os.replace(old, output)
            raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror}") from error
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
