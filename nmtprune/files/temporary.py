"""Temporary files: their names, their lives, and what dead writers left behind."""

import fcntl
import hashlib
import io
import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SUFFIX = ".nmtprune-tmp"

_LONGEST_NAME = 150


class RecordingFile(io.FileIO):
    """A file that remembers why a write failed: some writers (torch.save) raise another error in its place."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write some of the bytes and return how many."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


class BufferedOutput(io.BufferedWriter):
    """Buffered output without a descriptor: writers that are given one (old torch formats) write past the record."""

    def fileno(self) -> int:
        """Say that there is none, as for any file that is not one of the system's."""
        raise io.UnsupportedOperation("fileno")


def temporary_path(target: Path) -> Path:
    """A fresh name for a temporary file of this output, in its folder."""
    return target.with_name(f"{_prefix(target)}{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}")


def _prefix(target: Path) -> str:
    """Beginning of the names of temporary files of this output; a very long name is cut and told apart by a hash."""
    name = os.fsencode(target.name)
    if len(name) > _LONGEST_NAME:
        return f".{os.fsdecode(name[:_LONGEST_NAME])}{hashlib.sha256(name).hexdigest()[:16]}."
    return f".{target.name}."


def create_temporary(temporary: Path, target: Path) -> RecordingFile:
    """The open temporary file, locked for as long as it is open, with the permissions of the file it will replace."""
    while True:
        raw = RecordingFile(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "r+b")
        with suppress(OSError):
            fcntl.flock(raw.fileno(), fcntl.LOCK_EX)
        if os.fstat(raw.fileno()).st_nlink:
            break
        raw.close()  # another process took it for abandoned between its creation and the lock
    with suppress(FileNotFoundError):
        os.fchmod(raw.fileno(), stat.S_IMODE(os.stat(target).st_mode) & 0o777)
    return raw


def remove_leftovers(target: Path) -> None:
    """Remove temporary files of this output whose writer is dead: nobody holds the lock on them."""
    for leftover, process in leftovers(target):
        with suppress(OSError):
            _remove_if_abandoned(leftover, process)


def leftovers(target: Path, suffix: str = SUFFIX) -> list[tuple[Path, int]]:
    """What has the name of a temporary file or folder of this output, and the process that made it."""
    found = []
    with suppress(OSError):
        for name in os.listdir(target.parent):
            owner = name.removeprefix(_prefix(target)).removesuffix(suffix)
            if name == f"{_prefix(target)}{owner}{suffix}" and re.fullmatch(r"\d+-[0-9a-f]{8}", owner):
                found.append((target.with_name(name), int(owner.partition("-")[0])))
    return found


def _remove_if_abandoned(leftover: Path, process: int) -> None:
    descriptor = os.open(leftover, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(leftover)
    except BlockingIOError:
        return
    except OSError:  # a file system without locks: the process id has to do
        if not is_alive(process):
            os.unlink(leftover)
    finally:
        os.close(descriptor)


def is_alive(process: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def removed_at_the_end(temporary: Path, remove: Callable[[Path], None] = os.unlink) -> Iterator[None]:
    """Remove the temporary file when the block ends, however it ends, and when a signal is about to end the process."""
    owner = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == owner:
            with suppress(OSError):
                remove(temporary)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    caught: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        caught = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            remove(temporary)
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def raise_interruption(error: Exception, handled: BaseException | None) -> None:
    """Raise the Ctrl-C in whose wake the error came, if any: torch.save then fails with an error of its own.

    What the caller was already handling when it began to write is not meant.
    """
    cause = error.__context__
    while cause not in (None, handled):
        if not isinstance(cause, Exception):
            raise cause from None
        cause = cause.__context__
