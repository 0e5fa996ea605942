"""Progress in what fairseq-train and fairseq-generate print with ``--log-format simple``."""

import re
from dataclasses import dataclass

from nmtprune.runs.steps import Update

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

    def __call__(self, line: str) -> Update | None:
        """How far training is, by a line of its log."""
        match = _TRAINING.search(line)
        if match is None and _BEGUN in line:
            return Update(None, "the first update")
        if match is None:
            valid = _VALIDATION.search(line)
            return Update(None, f"validation loss {valid[1]}") if valid else None
        epoch, batch, batches = (int(match[group]) for group in (1, 2, 3))
        fields = dict(_FIELD.findall(match[4]))
        shown = [name for name in ("loss", *self.watched) if name in fields]
        loss = "".join(f", {name.replace('_', ' ')} {fields[name]}" for name in shown)
        if self.updates is not None and "num_updates" in fields:
            done = int(fields["num_updates"])
            fraction = (done - self.first) / max(self.updates - self.first, 1)
            return Update(min(max(fraction, 0.0), 1.0), f"update {done:,} of {self.updates:,}{loss}")
        if self.epochs is not None:
            done_epochs = epoch - 1 + batch / batches
            text = f"epoch {epoch} of {self.epochs}, update {batch:,} of {batches:,}{loss}"
            return Update(min(done_epochs / self.epochs, 1.0), text)
        return Update(None, f"epoch {epoch}, update {batch:,} of {batches:,}{loss}")


def watch_translation(line: str) -> Update | None:
    """How far fairseq-generate is, by a line of its log."""
    match = _TRANSLATION.search(line)
    if match is None:
        return None
    batch, batches = int(match[1]), int(match[2])
    return Update(batch / batches, f"batch {batch:,} of {batches:,}")
