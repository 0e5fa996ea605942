"""How far fairseq-train is, as steps of a stage."""

import time

from nmtprune.runs.progress import Progress
from nmtprune.runs.steps import Step, Update

PERCENT = 100
"""Steps of a training."""


class TrainingBar:
    """Shows a training as a stage of PERCENT steps, whether fairseq-train is called for it once or again and again.

    Attributes:
        text: what was said last.
        begun: when the first batch of the last call began, by `time.monotonic`; None before.
    """

    def __init__(self, progress: Progress, title: str, weight: float = 0.0) -> None:
        """Watch a training that is `weight` steps of its run."""
        self.text = ""
        self.begun: float | None = None
        self._progress, self._title, self._weight = progress, title, weight
        self._done = 0

    def call(self) -> None:
        """Fairseq-train is called; it goes on where an earlier call ended."""
        self.begun = None
        self._progress.begin(self._title, PERCENT)
        if self._done:
            self._progress.advance("what was trained,", self._done, passing=True)

    def begin(self, number: int, total: int, step: Step, text: str) -> None:
        """Nothing: the stage has begun."""

    def update(self, update: Update) -> None:
        """Advance by the percents that are new."""
        self.text = update.text
        self.begun = time.monotonic() if self.begun is None else self.begun
        new = max(int((update.fraction or 0.0) * PERCENT) - self._done, 0)
        # First that of the run, whose time left stands behind that of the stage.
        self._progress.advance_all(self._weight * new / PERCENT)
        self._done += new
        self._progress.advance(f"{update.text},", new, passing=True)

    def end(self, seconds: float) -> None:
        """Nothing: the next stage ends this one."""

    def halt(self) -> None:
        """Nothing: the error says it."""

    def complete(self) -> None:
        """Count what is left of a training that has ended before its last step."""
        self._progress.advance_all(self._weight * (PERCENT - self._done) / PERCENT)
        self._done = PERCENT
