"""The one way in which nmtprune writes a file: whole or not at all.

Bytes go to a temporary file ``.NAME.PID-TOKEN.nmtprune-tmp`` in the folder of the output, which is synchronized to
disk and then takes the name of the output in one step. Until then an old file of that name stays as it is. A symbolic
link as output is followed: the link stays, the file that it names is written. The temporary file is removed when the
write fails and on Ctrl-C, SIGTERM and SIGHUP; what a harder kill leaves goes with the next write to the same output.
"""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from nmtprune.errors import DataError, OutputError
from nmtprune.files.temporary import (
    BufferedOutput,
    create_temporary,
    raise_interruption,
    remove_leftovers,
    removed_at_the_end,
    temporary_path,
)

_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is exceeded",
    errno.EFBIG: "the limit on the size of a file is exceeded",
}
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_output(path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
    """Check that a file can be written, before any long work; what is there stays as it is.

    Args:
        path: the output; a symbolic link is followed.
        force: an existing file may be replaced.
        inputs: files that must not be overwritten, not even with `force`, under whatever path or link.

    Raises:
        OutputError: the output is one of the inputs, exists, is no regular file, or cannot be created in its folder.
    """
    target = _target(path)
    _check_target(path, target, force, inputs)
    temporary = temporary_path(target)
    with removed_at_the_end(temporary), _explained(path, target):
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


@contextmanager
def atomic_output(path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> Iterator[BinaryIO]:
    """A binary file, open for writing and seekable, that becomes `path` when the block ends without an exception.

    A new file has the permissions that the umask leaves; one that replaces another has those of the other.

    Args:
        path: the output; a symbolic link is followed.
        force: replace an existing file.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: as for `check_output`, or the file could not be written (disk full, ...). Nothing is left behind,
            and an old file is as it was.
    """
    target = _target(path)
    _check_target(path, target, force, inputs)
    remove_leftovers(target)
    handled = sys.exception()
    temporary = temporary_path(target)
    with removed_at_the_end(temporary):
        with _explained(path, target):
            raw = create_temporary(temporary, target)
        file = BufferedOutput(raw, buffer_size=1024 * 1024)
        try:
            yield file
            with _explained(path, target):
                file.flush()
                os.fsync(raw.fileno())
                _publish(temporary, target, force)
        except Exception as error:
            raise_interruption(error, handled)
            if raw.failure is None:
                raise
            raise _output_error(path, target, raw.failure) from None
        finally:
            with suppress(OSError, ValueError):
                file.close()


def write_text(path: Path | str, text: str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        OutputError: as for `atomic_output`.
    """
    with atomic_output(path, force=force, inputs=inputs) as file:
        file.write(text.encode("utf-8", "surrogateescape"))


def make_folder(folder: Path) -> None:
    """Make the folder and those above it, where they are not there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits; of a folder: of one line per file in it, SHA-256 and name.

    Raises:
        DataError: the file cannot be read.
    """
    if os.path.isdir(path):
        files = sorted(entry for entry in Path(path).rglob("*") if entry.is_file())
        lines = (f"{sha256_file(entry)} {entry.relative_to(path)}\n" for entry in files)
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _target(path: Path | str) -> Path:
    """The file that will be written: links resolved, so that a linked output keeps its link."""
    with _explained(path, Path(path)):
        return Path(os.path.realpath(path))


def _check_target(path: Path | str, target: Path, force: bool, inputs: Iterable[Path | str]) -> None:
    with _explained(path, target):
        there = os.stat(target) if os.path.lexists(target) else None
    if there is None:
        if not target.parent.is_dir():
            problem = "is not a folder" if target.parent.exists() else "does not exist"
            raise OutputError(f"{path}: {target.parent} {problem}")
        return
    if stat.S_ISDIR(there.st_mode):
        raise OutputError(f"{path}: is a directory; name a file in it")
    if not stat.S_ISREG(there.st_mode):
        raise OutputError(f"{path}: is a device or a pipe, not a file ('-' writes to stdout where that is possible)")
    for source in inputs:
        if _is_same(there, source):
            alias = "" if str(source) == str(path) else f" {source}"
            raise OutputError(f"{path}: is the input file{alias}; nothing is changed in place, choose another output")
    if not force:
        raise OutputError(f"{path}: exists (`force` replaces it)")


def _is_same(there: os.stat_result, source: Path | str) -> bool:
    with suppress(OSError, ValueError):
        return os.path.samestat(there, os.stat(source))
    return False


def _publish(temporary: Path, target: Path, force: bool) -> None:
    """Give the finished file its name in one step; without `force` that fails if the name was taken in the meantime."""
    if force:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, "exists", str(target)) from None
            os.replace(temporary, target)
    with suppress(OSError):
        synchronize(target.parent)


def synchronize(path: Path) -> None:
    """Wait until a file or the names in a folder are on disk.

    Raises:
        OSError: they cannot be written there.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explained(path: Path | str, target: Path) -> Iterator[None]:
    """Turn a failed system call into an OutputError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _output_error(path, target, error) from None


def _output_error(path: Path | str, target: Path, error: OSError | ValueError) -> OutputError:
    number = getattr(error, "errno", None)
    if number == errno.EEXIST:
        return OutputError(f"{path}: exists by now (`force` replaces it)")
    reason = _REASONS.get(number or 0) or getattr(error, "strerror", None) or str(error)
    if number in _NOT_WRITABLE:
        reason = f"the folder {target.parent} is not writable"
    with suppress(OSError, ValueError):
        state = "the old file is unchanged" if os.path.lexists(target) else "nothing was written"
        reason = f"{reason}; {state}"
    return OutputError(f"{path}: cannot be written: {reason}")
