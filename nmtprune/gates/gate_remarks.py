"""What is wrong with how gates move or where they ended, as lines for the user."""

from collections.abc import Sequence
from dataclasses import dataclass

_TRAVEL = 6.0
"""Units of log alpha that gates should be able to travel: from 2, where they start, to -4, open in one batch of 100."""

_TOLERATED = 0.03
"""Share of the heads with gates by which the expected number may miss the number that was asked for."""


@dataclass(frozen=True)
class Travel:
    """How far gates can move before they are constants.

    A gate passes all that lies between open and closed: gates that cannot travel far enough are cut while they still
    were open in many batches.

    Attributes:
        step: log alpha per update.
        updates: in which gates learn.
        init: log alpha at the start.
        when: how long gates learn, in words.
        advice: what to do.
    """

    step: float
    updates: int
    init: float
    when: str
    advice: str

    @property
    def fault(self) -> str | None:
        """Why no gate can close; None where one can."""
        if self._far >= self.init:
            return None
        return f"{self._figures}, and close only after {self.init:g}: {self.advice}"

    @property
    def remark(self) -> str | None:
        """That gates can hardly decide; None where they can."""
        if self._far >= _TRAVEL:
            return None
        return f"{self._figures}, less than {_TRAVEL:g}: many will not decide; {self.advice}"

    @property
    def _far(self) -> float:
        return self.step * self.updates

    @property
    def _figures(self) -> str:
        return f"gates move by {self.step:g} per update{self.when}: they can travel {self._far:.3g}"


def missed_remark(name: str, expected: float | None, target: int | None, heads: int, more_updates: str) -> str | None:
    """That gates have not come to the number of heads that is cut; None where they have, or none was asked for.

    Args:
        name: of the training or search.
        expected: heads that were open on average at the end.
        target: heads that were asked for.
        heads: that have gates.
        more_updates: the option that gives gates more updates.
    """
    if expected is None or target is None or abs(expected - target) <= max(1.0, _TOLERATED * heads):
        return None
    return (
        f"{name}: {target} heads were to be open, {expected:.1f} were on average at the end: heads that stay were "
        f"closed in some batches, or heads that go were open; give gates more updates ({more_updates}), a larger "
        "--gate-step, or another --l0-weight"
    )


def idle_remark(weights: Sequence[float], target: int | None) -> str | None:
    """That a lambda of 0 cannot adapt to a number of heads; None where none is asked for."""
    if target is None or 0 not in weights:
        return None
    return f"--l0-weight 0: nothing closes gates, whatever --target-heads {target} asks for"
