"""What a run folder of `l0` holds, and how a run in it starts over."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from nmtprune.errors import OutputError
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.run import STATE

PLAN, SLIM, JSON, CHECKPOINTS = "plan.json", "slim.pt", "l0.json", "checkpoints"

_OF_WEIGHT = "l0-weight-{}"


def l0_report_files(output: Path) -> ReportFiles:
    """Result, table and picture."""
    return ReportFiles.beside(output / JSON)


def folder_of(output: Path, weight: float, weights: int) -> Path:
    """Where the results of a weight lie: the run folder itself where there is only one."""
    return output if weights == 1 else output / _OF_WEIGHT.format(f"{weight:g}")


def check_fresh_start(output: Path, inputs: Iterable[Path]) -> None:
    """Check that nothing is removed that the run reads.

    Raises:
        OutputError: an input is among what an earlier run left.
    """
    left = [path.resolve() for path in _left(output)]
    read = [path for path in inputs if any(path.resolve().is_relative_to(each) for each in left)]
    if read:
        raise OutputError(f"{', '.join(map(str, read))}: read by this run, and removed by --force: name another folder")


def start_afresh(output: Path) -> None:
    """Remove what an earlier run left, a training or a search: fairseq would go on from its checkpoints."""
    for path in _left(output):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for folder in _folders(output):
        if folder != output and not any(folder.iterdir()):
            folder.rmdir()


def _left(output: Path) -> Iterator[Path]:
    of_run = (output / STATE, *l0_report_files(output))
    names = (PLAN, SLIM, CHECKPOINTS, "train.log", "train-[0-9]*.log")
    of_weights = (path for folder in _folders(output) for name in names for path in folder.glob(name))
    return (path for path in (*of_run, *of_weights) if path.exists())


def _folders(output: Path) -> list[Path]:
    return [output, *output.glob(_OF_WEIGHT.format("*"))]
