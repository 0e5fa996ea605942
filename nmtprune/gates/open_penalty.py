"""The penalty on open gates, and the controller that adapts lambda until a number of heads is open.

Sources: Louizos et al. 2018, equation 12; Voita et al. 2019, section 6. The controller is nmtprune's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nmtprune.architecture import KINDS
from nmtprune.gates.gate_settings import GateSettings

LAMBDA_STATE = "gates.lambda_state"
"""End of the name under which a model keeps its `LambdaState`, where lambda adapts."""

_INTEGRAL, _PROPORTIONAL, _DIFFERENTIAL, _OPENING, _LARGEST = 0.5, 5.0, 40.0, 60.0, 12.0
"""Of the controller of lambda, whose differences are shares of the heads; the last bounds logarithms."""


@dataclass(frozen=True)
class LambdaState:
    """What is left of the past where lambda adapts to a number of heads: a controller of the number of open heads.

    Attributes:
        log_factor: logarithm of what lambda was multiplied by in the long run. It rises while more heads are open than
            wanted and falls while fewer are: so it finds the scale of lambda for any model.
        difference: of expected and wanted heads in the last update, as a share of all heads.
        updates: made so far.
        start: open heads from which the wanted number starts; below 0: all that have gates.
    """

    log_factor: float = 0.0
    difference: float = 0.0
    updates: int = 0
    start: float = -1.0

    def after(self, difference: float) -> "tuple[LambdaState, float]":
        """The state after another update, and what lambda is multiplied by in it.

        Gates gather speed, so lambda also follows the difference itself and how fast it changes. It is below 0, and
        opens gates, where fewer heads are open than wanted.

        Args:
            difference: expected less wanted heads, as a share of all heads.
        """
        change = difference - self.difference if self.updates else 0.0
        log_factor = min(max(self.log_factor + _INTEGRAL * difference, -_LARGEST), _LARGEST)
        now = log_factor + _PROPORTIONAL * difference + _DIFFERENTIAL * change
        factor = math.exp(min(max(now, -_LARGEST), _LARGEST))
        if difference < 0:
            factor += _OPENING * math.exp(log_factor) * difference
        return replace(self, log_factor=log_factor, difference=difference, updates=self.updates + 1), factor


def wanted_heads(settings: GateSettings, updates: int, start: float) -> float:
    """How many heads should be expected open after some updates.

    The number goes linearly to the target within the first half of the time until gates are constants: the second
    half is for gates to settle.

    Args:
        settings: how the gates work.
        updates: made so far.
        start: heads from which the number starts.
    """
    target = start if settings.target_heads is None else settings.target_heads
    half = (settings.freeze_updates or 0) / 2
    return start + (target - start) * min(1.0, (updates + 1) / half if half else 1.0)


def adapted(
    settings: GateSettings, state: LambdaState, updates: int, expected: float, heads: int
) -> tuple[LambdaState, float]:
    """The state after another update of a lambda that adapts, and what lambda is multiplied by in it.

    Args:
        settings: how the gates work.
        state: before.
        updates: made so far.
        expected: heads that are open on average.
        heads: that have gates.
    """
    wanted = wanted_heads(settings, updates, heads if state.start < 0 else state.start)
    return state.after((expected - wanted) / max(1, heads))


def penalty(settings: GateSettings, expected: Mapping[str, Tensor], weight: float, factor: float = 1.0) -> Tensor:
    """What is added to the mean loss: lambda times what open units cost.

    Where a number of heads is asked for, open heads are counted, and pushed down to the number and up again from below:
    by a lambda that adapts, or by their distance from the number. Neurons always go by lambda as it was given.

    Args:
        settings: how the gates work.
        expected: number of open units by kind.
        weight: lambda as it was given.
        factor: what lambda is multiplied by where it adapts.
    """
    costs = {kind: own * settings.cost(kind) for kind, own in expected.items()}
    heads = [own for kind, own in expected.items() if kind in KINDS]
    if settings.target_heads is None or not heads:
        return weight * torch.stack(list(costs.values())).sum()
    total = torch.stack(heads).sum()
    of_heads = weight * (factor * total if settings.adapts else (total - settings.target_heads).abs())
    neurons = [own for kind, own in costs.items() if kind not in KINDS]
    return of_heads + weight * torch.stack(neurons).sum() if neurons else of_heads
