"""Folders that are written whole or not at all, as `atomic` writes files.

Files go to a temporary folder ``.NAME.PID-TOKEN.nmtprune-tmp`` beside the output. When it is whole, an old folder of
the output's name gets the name of the temporary one with ``.old`` behind it, the temporary one gets the output's name,
and the old one goes. No system has one step for that: where a writer is killed between the two, the next one gives the
old folder its name back. A symbolic link as output is followed.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from nmtprune.errors import OutputError
from nmtprune.files.atomic import check_output, synchronize
from nmtprune.files.temporary import SUFFIX, is_alive, leftovers, removed_at_the_end, temporary_path

_OLD = ".old"


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
    _recover(_target(output))
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
    target = _target(output)
    _recover(target)
    folder = temporary_path(target)
    with removed_at_the_end(folder, lambda folder: _settle(folder, target)), ExitStack() as lock:
        try:
            lock.callback(os.close, _create(folder))
        except OSError as error:
            raise OutputError(f"{output}: cannot be made: {error.strerror}") from error
        try:
            yield folder
        except OutputError as error:
            raise OutputError(str(error).replace(str(folder), str(output))) from None


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn what keeps files from being written into an OutputError that names the output."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{output}: cannot be written: {error.strerror or error}") from error


def put_in_place(folder: Path, output: Path) -> None:
    """Give a folder of `folder_beside` the name of the output; a model that is there stays where that fails.

    Raises:
        OutputError: it cannot be done.
    """
    target = _target(output)
    with writing(output), ExitStack() as lock:
        for path in (*folder.rglob("*"), folder):
            synchronize(path)
        if target.exists():
            folder.chmod(stat.S_IMODE(target.stat().st_mode))
            lock.callback(os.close, _locked(target))
            os.replace(target, _old(folder))
        os.replace(folder, target)
        synchronize(target.parent)
        _settle(folder, target)


def _target(output: Path) -> Path:
    """The folder that will be written: links resolved, so that a linked output keeps its link."""
    return Path(os.path.realpath(output))


def _old(folder: Path) -> Path:
    """Where the old folder is while this temporary one takes its name."""
    return folder.with_name(folder.name + _OLD)


def _settle(folder: Path, target: Path) -> None:
    """Leave nothing of a write but the target, the new folder or else the old one."""
    old = _old(folder)
    if old.exists() and not target.exists():
        with suppress(OSError):
            os.replace(old, target)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        os.replace(old, folder)  # half removed under its own name it would be given back
        shutil.rmtree(folder, ignore_errors=True)


def _create(folder: Path) -> int:
    """Make a temporary folder; the descriptor that locks it."""
    while True:
        folder.mkdir()
        descriptor = _locked(folder)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                return descriptor
        os.close(descriptor)  # another process took it for abandoned between its creation and the lock


def _locked(folder: Path) -> int:
    """A descriptor that locks a folder for as long as it is open, where the file system has locks."""
    descriptor = _opened(folder)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _recover(target: Path) -> None:
    """Settle what dead writers of this folder left behind."""
    found = [(path.with_name(path.name.removesuffix(_OLD)), process) for path, process in
             (*leftovers(target), *leftovers(target, SUFFIX + _OLD))]  # fmt: skip
    for folder, process in dict.fromkeys(found):
        parts = [path for path in (folder, _old(folder)) if path.is_dir()]
        with ExitStack() as locks:
            if parts and all(_is_abandoned(path, process, locks) for path in parts):
                _settle(folder, target)


def _is_abandoned(folder: Path, process: int, locks: ExitStack) -> bool:
    """Whether the writer of a folder is dead; then the folder is locked until `locks` end."""
    try:
        descriptor = _opened(folder)
    except OSError:
        return False
    locks.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: the process id has to do
        return not is_alive(process)
    return True
