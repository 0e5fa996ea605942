"""`--order auto`: of several orders, at every number of heads the one whose model translates best.

No order is the best one everywhere. The loss of the references costs little to compute and finds the plans that are
clearly worse, but of plans that remove many heads it does not tell which one translates better. So the plans that it
leaves are translated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nmtprune.evaluate.metrics import Scored
from nmtprune.plan import Plan

LARGEST_RISE = 2.0
"""Plans are translated whose loss rises at most this much more than that of the plan with the lowest loss."""

SMALLEST_RISE = 0.05
"""Nats per token: rises below it are taken as this one, since they differ by chance."""


@dataclass(frozen=True)
class Candidate:
    """The plan of one order at one number of heads.

    Attributes:
        order: name of the order.
        plan: the heads that stay.
        loss: nats per token of the references.
        scored: the metric; None for a plan that was not translated.
        value: what it is chosen by, where that is not the score: see `evaluate.over_directions.driving`.
    """

    order: str
    plan: Plan
    loss: float
    scored: Scored | None = None
    value: float | None = None


@dataclass(frozen=True)
class Decision:
    """What was chosen among contenders.

    Attributes:
        contenders: all of them, in the order in which they were given.
        chosen: the one with the best metric, the first of equals.
        lead: points of the metric by which it is better than the next one; None where only one was translated.
    """

    contenders: tuple[Candidate, ...]
    chosen: Candidate
    lead: float | None

    @property
    def best(self) -> Scored:
        """The metric of the chosen plan."""
        if self.chosen.scored is None:
            raise ValueError(f"{self.chosen.order} was not translated")
        return self.chosen.scored


def shortlisted(losses: Mapping[str, float], unpruned: float) -> tuple[str, ...]:
    """The orders whose plans are worth a translation, by their losses and that of the unpruned model.

    At least two stay where there are two: a loss alone decides nothing.
    """
    allowed = unpruned + LARGEST_RISE * max(min(losses.values()) - unpruned, SMALLEST_RISE)
    best = sorted(losses, key=lambda order: losses[order])[:2]
    return tuple(order for order, loss in losses.items() if loss <= allowed or order in best)


def decided(contenders: Sequence[Candidate]) -> Decision:
    """The contender that translates best.

    Raises:
        ValueError: none was translated.
    """
    ranked = sorted(
        (each for each in contenders if each.scored is not None), key=lambda each: -_score(each)
    )  # fmt: skip
    if not ranked:
        raise ValueError("no contender was translated")
    lead = _score(ranked[0]) - _score(ranked[1]) if len(ranked) > 1 else None
    return Decision(tuple(contenders), ranked[0], lead)


def _score(contender: Candidate) -> float:
    if contender.scored is None:
        return float("-inf")
    return contender.scored.score if contender.value is None else contender.value
