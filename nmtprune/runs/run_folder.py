"""The folder of a run: where its state lies, and whether it can be written."""

from collections.abc import Iterable
from pathlib import Path

from nmtprune import files
from nmtprune.errors import OutputError

STATE = "state.json"


def state_path(folder: Path) -> Path:
    """Where a run keeps its state."""
    return folder / STATE


def check(folder: Path, names: Iterable[str], *, resume: bool, force: bool, inputs: Iterable[Path]) -> None:
    """Check that a run can be written into a folder; nothing is changed.

    Args:
        folder: of the run.
        names: files that it will write there beside its state.
        resume: go on with a run that is there.
        force: start over in a folder that is not empty.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: it is a file, cannot be written, holds an input, or something that no option says what to do with.
    """
    if not folder.exists():
        files.check_output(folder)  # what can take a file there can take a folder
        return
    if not folder.is_dir():
        raise OutputError(f"{folder}: is a file, not a run folder")
    listed = list(inputs)
    for name in (STATE, *names):
        files.check_output(folder / name, force=True, inputs=listed)
    if resume or force:
        return
    if state_path(folder).exists():
        raise OutputError(f"{folder}: holds a run already: --resume continues it, --force starts over")
    if any(folder.iterdir()):
        raise OutputError(f"{folder}: is not empty (--force writes into it)")
