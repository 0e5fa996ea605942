"""How the demo is seen: a progress bar per step on a terminal, plain lines in a log file."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from nmtprune.process import Command, ProgressUpdate

EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal."""


class ConsoleDisplay:
    """Steps on standard error, or on any other rich console."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._begun = self._shown = time.monotonic()

    def say(self, text: str, style: str = "") -> None:
        """A line that is neither cut nor wrapped."""
        self._console.print(Text(text, style), soft_wrap=True)

    def begin(self, number: int, total: int, step: Command, text: str) -> None:
        """Show the title and the command of a step."""
        self.say(f"\n[{number}/{total}] {step.title}", "bold")
        self.say(text, "cyan")
        self._begun = self._shown = time.monotonic()
        if self._console.is_terminal:
            columns = (
                SpinnerColumn(),
                BarColumn(24),
                TextColumn("{task.description}", markup=False),
                TimeElapsedColumn(),
            )
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task("", total=None)
            self._progress.start()

    def update(self, update: ProgressUpdate) -> None:
        """Move the bar; without a terminal, a line from time to time."""
        if self._progress is not None:
            self._progress.update(self._task, description=update.text)
            if update.fraction is not None:
                self._progress.update(self._task, total=1.0, completed=update.fraction)
        elif time.monotonic() - self._shown >= EVERY_S:
            self._shown = time.monotonic()
            self.say(f"    {self._shown - self._begun:.0f} s: {update.text}")

    def end(self, seconds: float) -> None:
        """Replace the bar by one line."""
        self.halt()
        self.say(f"    done in {seconds:.1f} s", "dim")

    def halt(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
