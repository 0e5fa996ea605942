"""How far fairseq-train and fairseq-generate are: read from their logs (``--log-format simple``), shown as a stage."""

import re
import time
from dataclasses import dataclass

from nmtprune.process import ProgressUpdate
from nmtprune.progress import Progress

PERCENT = 100
"""Steps of a training."""

_TRAINING = re.compile(r"train_inner \| epoch (\d+): +(\d+) / (\d+) (.*)")
_BEGUN = "Start iterating over samples"
_TRANSLATION = re.compile(r"(\d+) / (\d+) wps=")
_VALIDATION = re.compile(r"\| valid \| .*\| loss ([\d.]+)")
_FIELD = re.compile(r"(\w+)=([\d.e+-]+)")


@dataclass(frozen=True)
class TrainingWatcher:
    """Reads the log of fairseq-train.

    Attributes:
        updates: with which training ends; None where epochs end it.
        epochs: with which training ends; None where updates end it.
        watched: figures of the log to show beside the loss.
        first: updates that were made before training began.
    """

    updates: int | None = None
    epochs: int | None = None
    watched: tuple[str, ...] = ()
    first: int = 0

    def __call__(self, line: str) -> ProgressUpdate | None:
        """How far training is, by a line of its log."""
        match = _TRAINING.search(line)
        if match is None and _BEGUN in line:
            return ProgressUpdate(None, "the first update")
        if match is None:
            valid = _VALIDATION.search(line)
            return ProgressUpdate(None, f"validation loss {valid[1]}") if valid else None
        epoch, batch, batches = (int(match[group]) for group in (1, 2, 3))
        fields = logged_figures(line)
        shown = [name for name in ("loss", *self.watched) if name in fields]
        loss = "".join(f", {name.replace('_', ' ')} {fields[name]}" for name in shown)
        if self.updates is not None and "num_updates" in fields:
            done = int(fields["num_updates"])
            fraction = (done - self.first) / max(self.updates - self.first, 1)
            return ProgressUpdate(min(max(fraction, 0.0), 1.0), f"update {done:,} of {self.updates:,}{loss}")
        if self.epochs is not None:
            done_epochs = epoch - 1 + batch / batches
            text = f"epoch {epoch} of {self.epochs}, update {batch:,} of {batches:,}{loss}"
            return ProgressUpdate(min(done_epochs / self.epochs, 1.0), text)
        return ProgressUpdate(None, f"epoch {epoch}, update {batch:,} of {batches:,}{loss}")


def logged_figures(line: str) -> dict[str, str]:
    """The figures of an update by their names, where a line of the log of fairseq-train has some."""
    match = _TRAINING.search(line)
    return dict(_FIELD.findall(match[4])) if match else {}


def watch_translation(line: str) -> ProgressUpdate | None:
    """How far fairseq-generate is, by a line of its log."""
    match = _TRANSLATION.search(line)
    if match is None:
        return None
    batch, batches = int(match[1]), int(match[2])
    return ProgressUpdate(batch / batches, f"batch {batch:,} of {batches:,}")


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

    def update(self, update: ProgressUpdate) -> None:
        """Advance by the percents that are new."""
        self.text = update.text
        self.begun = time.monotonic() if self.begun is None else self.begun
        new = max(int((update.fraction or 0.0) * PERCENT) - self._done, 0)
        # First that of the run, whose time left stands behind that of the stage.
        self._progress.advance_all(self._weight * new / PERCENT)
        self._done += new
        self._progress.advance(f"{update.text},", new, passing=True)

    def complete(self) -> None:
        """Count what is left of a training that has ended before its last step."""
        self._progress.advance_all(self._weight * (PERCENT - self._done) / PERCENT)
        self._done = PERCENT
