"""When a run that removes heads step by step has gone too far."""

import math
from dataclasses import dataclass

from nmtprune.errors import UsageError
from nmtprune.evaluate.significance import Difference

SIGNIFICANT = "significant"


@dataclass(frozen=True)
class DropRule:
    """How far quality may drop below that of the unpruned model.

    Attributes:
        points: so many points of the metric; None: not significantly.
    """

    points: float | None

    @classmethod
    def parse(cls, text: str) -> "DropRule":
        """Read ``significant`` or a number of points.

        Raises:
            UsageError: it is neither.
        """
        if text == SIGNIFICANT:
            return cls(None)
        try:
            points = float(text)
        except ValueError:
            points = math.nan
        if not 0 <= points < math.inf:
            raise UsageError(f"--max-drop '{text}': give a number of points from 0 on, or {SIGNIFICANT}")
        return cls(points)

    def broken_by(self, difference: Difference) -> bool:
        """Whether a step is worse than allowed: by more points, or significantly so."""
        if self.points is None:
            return difference.significant and difference.delta < 0
        return difference.delta < -self.points
