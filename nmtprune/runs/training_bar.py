"""How far fairseq-train is, as steps of a stage."""

import time

from nmtprune.runs.progress import Progress
from nmtprune.runs.steps import Step, Update

PERCENT = 100
"""Steps of a training."""


class TrainingBar:
    """Shows fairseq-train as a stage of PERCENT steps.

    Attributes:
        text: what was said last.
        begun: when the first batch began, by `time.monotonic`; None before.
    """

    def __init__(self, progress: Progress, weight: float = 0.0) -> None:
        """Watch one call of a training that is `weight` steps of its run."""
        self.text = ""
        self.begun: float | None = None
        self._progress, self._weight = progress, weight
        self._done = 0

    def begin(self, number: int, total: int, step: Step, text: str) -> None:
        """Nothing: the stage has begun."""

    def update(self, update: Update) -> None:
        """Advance by the percents that are new."""
        self.text = update.text
        self.begun = time.monotonic() if self.begun is None else self.begun
        percent = int((update.fraction or 0.0) * PERCENT)
        if percent > self._done:
            # First that of the run, whose time left stands behind that of the stage.
            self._progress.advance_all(self._weight * (percent - self._done) / PERCENT)
            self._progress.advance(f"{update.text},", percent - self._done, passing=True)
            self._done = percent

    def end(self, seconds: float) -> None:
        """Nothing: the next stage ends this one."""

    def halt(self) -> None:
        """Nothing: the error says it."""

    def complete(self) -> None:
        """Count what is left of a training that has ended before its last step."""
        self._progress.advance_all(self._weight * (PERCENT - self._done) / PERCENT)
        self._done = PERCENT
