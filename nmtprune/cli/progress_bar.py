"""Progress on stderr: a bar with the time left on a terminal, else a line per finished piece; nothing after -q."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nmtprune.cli.options import in_options, say, verbosity
from nmtprune.progress import Progress, Silent

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


_BAR_WIDTH = 14
_PASSING_S = 10.0
"""Seconds between lines of a log that say no more than how far a stage is."""


@contextmanager
def progress() -> Iterator[Progress]:
    """A receiver of progress reports for a long library call, until the block ends."""
    if verbosity() < 0:
        yield Silent()
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield _Bar(bar)
    else:
        yield _Lines()


class Notes(Silent):
    """Prints notes for the user, but no progress."""

    def note(self, line: str) -> None:
        """A line on stderr."""
        say(line)


class _Lines(Notes):
    """A line per finished piece of work, for log files."""

    def __init__(self) -> None:
        self._stage, self._steps, self._done, self._start = "", 0, 0, time.monotonic()
        self._said, self._run = self._start, _Run("", 0, 0.0, self._start)

    def begin_all(self, what: str, steps: int) -> None:
        self._run = _Run(what, steps, 0.0, time.monotonic())

    def advance_all(self, steps: float) -> None:
        self._run.done += steps

    def begin(self, what: str, steps: int) -> None:
        self._stage, self._steps, self._done, self._start = what, steps, 0, time.monotonic()
        self._said = self._start
        say(f"{what} ...")

    def advance(self, what: str, steps: int = 1, *, passing: bool = False) -> None:
        self._done += steps
        now = time.monotonic()
        ends = steps and self._done >= self._steps
        if passing and not ends and now - self._said < _PASSING_S:
            return
        self._said, spent = now, now - self._start
        left = spent / max(self._done, 1) * (self._steps - self._done)
        text = f"{self._stage}: {what} done, {self._done} of {self._steps}, {duration(spent)}, {duration(left)} left"
        say(text + self._run.left())


@dataclass
class _Run:
    """How far a run of several stages is."""

    what: str
    steps: int
    done: float
    start: float

    def left(self) -> str:
        """The time left, to stand behind that of a stage."""
        if not self.done:
            return ""
        spent = time.monotonic() - self.start
        left = spent / self.done * max(self.steps - self.done, 0)
        return f"; {self.what} {self.done / self.steps:.0%}, {duration(left)} left"


class _Bar:
    """A bar of rich, and one above it for a run of several stages."""

    def __init__(self, bar: "RichProgress") -> None:
        self._bar = bar
        self._run: TaskID | None = None
        self._task: TaskID | None = None

    def begin_all(self, what: str, steps: int) -> None:
        if self._run is not None:
            self._bar.remove_task(self._run)
        self._run = self._bar.add_task(what, total=steps, piece="")

    def advance_all(self, steps: float) -> None:
        if self._run is not None:
            self._bar.update(self._run, advance=steps)

    def note(self, line: str) -> None:
        self._bar.console.print(in_options(line), markup=False, highlight=False, soft_wrap=True)

    def begin(self, what: str, steps: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(what, total=steps, piece="")

    def advance(self, what: str, steps: int = 1, *, passing: bool = False) -> None:
        if self._task is not None:
            self._bar.update(self._task, advance=steps, piece=what)


def duration(seconds: float) -> str:
    """``42 s``, ``3:07 min`` or ``2:03:07 h``."""
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    if hours:
        return f"{hours}:{minutes % 60:02}:{whole % 60:02} h"
    return f"{minutes}:{whole % 60:02} min" if minutes else f"{whole} s"


def _bar() -> "RichProgress":
    from rich import progress as rich
    from rich.console import Console
    from rich.table import Column

    def whole() -> Column:
        return Column(no_wrap=True)

    # Where the terminal is narrow, what a piece says is cut off first of all.
    piece = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return rich.Progress(
        rich.TextColumn("{task.description}", table_column=whole()),
        rich.BarColumn(bar_width=_BAR_WIDTH, table_column=whole()),
        rich.MofNCompleteColumn(table_column=whole()),
        rich.TimeElapsedColumn(table_column=whole()),
        rich.TextColumn("left", table_column=whole()),
        rich.TimeRemainingColumn(table_column=whole()),
        rich.TextColumn("{task.fields[piece]}", table_column=piece),
        console=Console(stderr=True),
        transient=True,
        expand=True,
    )
