"""How lambda has adapted to a number of heads, as the logs of a training have it."""

from dataclasses import dataclass
from pathlib import Path

from nmtprune.training.bar import logged_figures
from nmtprune.training.fairseq_train import Training

_UPDATE, _LAMBDA, _EXPECTED = "num_updates", "l0_lambda", "expected_heads"


@dataclass(frozen=True)
class LambdaAt:
    """What fairseq-train logged after an update: means since it logged before.

    Attributes:
        update: number of updates.
        weight: lambda.
        expected: heads that are open on average.
    """

    update: int
    weight: float
    expected: float

    def __str__(self) -> str:
        return f"{self.update}:{self.weight:g}:{self.expected:g}"


def lambda_trace(training: Training) -> tuple[LambdaAt, ...]:
    """Lambda as long as gates learned, for every update that was logged; nothing where it did not adapt.

    A training that was interrupted made some updates again: the last time counts.
    """
    found = {}
    for line in (line for path in training.logs() for line in _lines(path)):
        figures = logged_figures(line)
        if {_UPDATE, _LAMBDA, _EXPECTED} <= figures.keys():
            at = LambdaAt(int(figures[_UPDATE]), float(figures[_LAMBDA]), float(figures[_EXPECTED]))
            found[at.update] = at
    return tuple(found[update] for update in sorted(found))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()
