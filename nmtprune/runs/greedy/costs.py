"""What the models of plans cost compared with the unpruned model: multiply-accumulates, parameters, measured time."""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.evaluate.cost import Lengths
from nmtprune.evaluate.prices import MultiplyAccumulates, Parameters, Prices
from nmtprune.plan import Plan
from nmtprune.runs.greedy.one_width import OneWidth
from nmtprune.runs.greedy.removal import MACS
from nmtprune.runs.state import State, pack

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Model
    from nmtprune.runs.quality import Quality

PARAMETERS, SPEED = "params", "speed"
_LENGTHS = "lengths"


@dataclass(frozen=True)
class PlanCost:
    """What the model of a plan costs, as shares of the unpruned model.

    Attributes:
        macs: multiply-accumulates.
        parameters: trainable ones.
        speed: how many times as fast by the table of measured costs; None without one.
    """

    macs: float
    parameters: float
    speed: float | None = None


@dataclass(frozen=True)
class Costs:
    """Prices of everything that a run counts.

    Attributes:
        prices: by kind of budget.
        lengths: of the sentences and translations that multiply-accumulates are counted for.
    """

    prices: Mapping[str, Prices]
    lengths: Lengths

    def of(self, plan: Plan) -> PlanCost:
        """What the model of a plan costs."""
        full, left = Plan.keep_all(plan.base).kept_units, plan.kept_units
        shares = {kind: prices.total(left) / prices.total(full) for kind, prices in self.prices.items()}
        return PlanCost(shares[MACS], shares[PARAMETERS], 1 / shares[SPEED] if SPEED in shares else None)

    def totals(self) -> dict[str, float]:
        """What the unpruned model costs, by kind of budget."""
        return {kind: prices.total({}) for kind, prices in self.prices.items()}


def costs_of(checkpoint: "Checkpoint", model: "Model", lengths: Lengths, table: Prices | None = None) -> Costs:
    """Prices of the units of a checkpoint.

    Args:
        checkpoint: the unpruned checkpoint.
        model: its native model.
        lengths: of the sentences and their translations.
        table: prices by measured time.
    """
    prices: dict[str, Prices] = {
        MACS: MultiplyAccumulates.of(checkpoint, lengths, model),
        PARAMETERS: Parameters.of(checkpoint),
    }
    prices |= {} if table is None else {SPEED: table}
    if not checkpoint.ragged_neurons:
        prices = {kind: OneWidth(own, checkpoint.architecture) for kind, own in prices.items()}
    return Costs(prices, lengths)


def known_lengths(state: State, name: str, quality: "Quality") -> Lengths:
    """The lengths of sentences and translations of a full model: from the state, or else by translating.

    Translations of another machine could have other lengths, and a resumed run must count with the same ones.

    Args:
        state: of the run.
        name: of the checkpoint, for the key in the state.
        quality: the metric of the checkpoint, whose translations count.
    """
    key = lengths_key(name)
    return Lengths(*state[key][_LENGTHS].tolist()) if key in state else quality.lengths()


def keep_lengths(state: State, name: str, lengths: Lengths) -> None:
    """Keep lengths for a resumed run."""
    if lengths_key(name) not in state:
        state.add(lengths_key(name), pack({_LENGTHS: np.array(astuple(lengths))}))


def lengths_key(name: str) -> str:
    """Where the state keeps them."""
    return f"{name}/lengths"
