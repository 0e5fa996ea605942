"""Gates on heads and on blocks of neurons: their settings, and every formula of how they open and close.

Sources: Louizos et al. 2018, "Learning sparse neural networks through L0 regularization", section 4 (hard concrete);
Voita et al. 2019, section 6; Shim et al. 2021, sections 3.2 and 3.3 (binary concrete, output scaling).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from nmtprune.architecture import KINDS, NEURON_KINDS, GroupId
from nmtprune.errors import CheckpointError, UsageError

SETTING = "nmtprune_gates"
"""The setting of a model that holds a `GateSettings` as JSON; absent or None where the model has no gates."""

PARAMETER = "gates.theta"
"""End of the name of a group's gate parameters, after that of the attention module, or of the layer of the neurons."""

GATED_KINDS = (*KINDS, *NEURON_KINDS)
"""Kinds of groups whose units can have gates, in the order of plans."""

NEURONS_PER_GATE = 16
"""Neurons of a feed-forward layer that share a gate, one after the other; the last gate of a layer may have fewer."""

HARD_CONCRETE, BIN_CONCRETE = "hardconcrete", "binconcrete"
DISTRIBUTIONS = (HARD_CONCRETE, BIN_CONCRETE)
TEST_GATES = ("hard", "soft")

_OPTIONAL = {"step", "only_updates", "min_heads", "costs"}
"""Settings that are written only where they are given."""

LAMBDA_STATE = "gates.lambda_state"
"""End of the name under which a model keeps its `LambdaState`, where lambda adapts."""

_INTEGRAL, _PROPORTIONAL, _DIFFERENTIAL, _OPENING, _LARGEST = 0.5, 5.0, 40.0, 60.0, 12.0
"""Of the controller of lambda, whose differences are shares of the heads; the last bounds logarithms."""

_NOISE = 1e-6


@dataclass(frozen=True)
class GateSettings:
    """How the gates of a model work.

    Attributes:
        gate: their distribution, one of DISTRIBUTIONS.
        kinds: kinds of groups whose units have gates, of GATED_KINDS.
        init: log alpha at the start.
        temperature: beta of the concrete distribution.
        stretch: gamma < 0 and zeta > 1, between which a hard concrete gate is stretched before it is clipped to [0, 1].
        lr_scale: log alpha = init + lr_scale * theta, where theta is what the optimizer learns: per-parameter learning
            rates do not survive fairseq.
        freeze_updates: from this update on gates are constants, with their values at test time; None: never.
        output_scaling: the open heads of a module make up for the closed ones.
        test_gate: ``hard`` gates are 0 or 1 at test time, ``soft`` ones what they are without noise.
        target_heads: so many heads with gates are open at test time, those with the largest log alpha; None: as many
            as the distribution says. Gates of neurons are always as the distribution says.
        step: log alpha that a gate moves in an update where its derivative is as large as usual, whatever the learning
            rate of the weights; None: gates move with the weights, at `lr_scale` times their rate.
        only_updates: before this update only gates learn.
        min_heads: the heads of every module with the largest log alpha, as many as this, never close.
        costs: by kind, what an open unit (a head, a neuron) adds to the penalty, in multiply-accumulates relative to
            the average head; empty: 1.
    """

    gate: str = HARD_CONCRETE
    kinds: tuple[str, ...] = KINDS
    init: float = 2.0
    temperature: float = 0.33
    stretch: tuple[float, float] = (-0.1, 1.1)
    lr_scale: float = 10.0
    freeze_updates: int | None = None
    output_scaling: bool = False
    test_gate: str = "hard"
    target_heads: int | None = None
    step: float | None = None
    only_updates: int = 0
    min_heads: int = 0
    costs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse settings that no gate can have.

        Raises:
            UsageError: every reason.
        """
        faults = [*self._number_faults()]
        if self.gate not in DISTRIBUTIONS:
            faults.append(f"gate {self.gate!r}: choose one of {', '.join(DISTRIBUTIONS)}")
        if self.test_gate not in TEST_GATES:
            faults.append(f"test gate {self.test_gate!r}: choose one of {', '.join(TEST_GATES)}")
        if self.gate == BIN_CONCRETE and self.test_gate == "soft":
            faults.append("test gate soft: binary gates are open or closed in training too")
        if not self.kinds or not set(self.kinds) <= set(GATED_KINDS):
            faults.append(f"kinds {', '.join(self.kinds) or 'none'}: choose among {', '.join(GATED_KINDS)}")
        faults += [
            f"cost {kind}={cost}: give a number above 0 for each of {', '.join(self.kinds)}"
            for kind, cost in self.costs.items()
            if kind not in self.kinds or not 0 < cost < math.inf
        ]
        if faults:
            raise UsageError.of_faults("gates", faults)

    def _number_faults(self) -> list[str]:
        faults = []
        if not math.isfinite(self.init):
            faults.append(f"init {self.init:g} is no number")
        faults += [
            f"{name} {value:g} is not above 0"
            for name, value in (
                ("temperature", self.temperature),
                ("learning rate scale", self.lr_scale),
                ("step", self.step),
            )
            if value is not None and not 0 < value < math.inf
        ]
        gamma, zeta = self.stretch
        if not (-math.inf < gamma < 0 and 1 < zeta < math.inf):
            faults.append(f"stretch {gamma:g} {zeta:g}: gamma is below 0 and zeta above 1")
        faults += [
            f"{name} {value} is negative"
            for name, value in (
                ("freeze updates", self.freeze_updates),
                ("target heads", self.target_heads),
                ("gate-only updates", self.only_updates),
                ("heads per module", self.min_heads),
            )
            if value is not None and value < 0
        ]
        if self.freeze_updates is not None and self.only_updates > self.freeze_updates:
            faults.append(
                f"gate-only updates {self.only_updates}: gates are constants from update {self.freeze_updates} on, and "
                "nothing would learn"
            )
        return faults

    def to_json(self) -> str:
        """The value of the setting `nmtprune_gates`."""
        values = asdict(self)
        # As long as heads alone have gates, versions that knew no others read the file.
        return json.dumps({name: value for name, value in values.items() if name not in _OPTIONAL or value})

    @classmethod
    def from_json(cls, text: Any, where: str) -> "GateSettings":
        """Read the value of the setting.

        Raises:
            CheckpointError: it does not hold settings of gates.
        """
        try:
            values = json.loads(text)
            types = {field.name: field for field in fields(cls)}
            if not isinstance(values, dict) or not set(types) - _OPTIONAL <= set(values) <= set(types):
                raise ValueError(f"must be an object with the keys {', '.join(types)}")
            kinds, (gamma, zeta) = tuple(values["kinds"]), values["stretch"]
            return cls(**{**values, "kinds": kinds, "stretch": (float(gamma), float(zeta))})
        except (TypeError, ValueError, RecursionError, UsageError) as error:
            raise CheckpointError(f"{where}: {SETTING}: {error}") from None

    def cost(self, kind: str) -> float:
        """What an open unit of a kind adds to the penalty."""
        return self.costs.get(kind, 1.0)

    @property
    def adapts(self) -> bool:
        """Whether lambda adapts to a number of heads: gates with a step of their own get there before they freeze."""
        return self.step is not None and self.target_heads is not None

    def wanted_heads(self, updates: int, heads: int) -> float:
        """How many heads should be expected open after some updates, of all that have gates.

        The number falls linearly to the target within the first half of the time until gates are constants: the second
        half is for gates to settle.
        """
        target = heads if self.target_heads is None else self.target_heads
        half = (self.freeze_updates or 0) / 2
        return heads + (target - heads) * min(1.0, (updates + 1) / half if half else 1.0)

    def log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha [G] of G gates in single precision at least, of the learned parameter [G]."""
        return self.init + self.lr_scale * theta.to(torch.promote_types(theta.dtype, torch.float32))

    def sample(self, log_alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gates [G], drawn anew.

        Hard concrete (Louizos et al. 2018, equations 10 and 11): s = sigmoid((log u - log(1 - u) + log alpha) / beta)
        for u ~ U(0, 1), and g = clip(s (zeta - gamma) + gamma, 0, 1). Binary concrete: g = 1 if s >= 0.5, else 0, with
        the derivative of s (straight through).
        """
        uniform = torch.empty_like(log_alpha).uniform_(_NOISE, 1 - _NOISE, generator=generator)
        soft = torch.sigmoid((uniform.log() - (-uniform).log1p() + log_alpha) / self.temperature)
        if self.gate == BIN_CONCRETE:
            return (soft >= 0.5).to(soft.dtype) + (soft - soft.detach())
        gamma, zeta = self.stretch
        return (soft * (zeta - gamma) + gamma).clamp(0.0, 1.0)

    def open_probability(self, log_alpha: Tensor) -> Tensor:
        """P(g > 0) of every gate [G], whose sum is the penalty (Louizos et al. 2018, equation 12).

        Hard concrete: sigmoid(log alpha - beta log(-gamma / zeta)); binary concrete: sigmoid(log alpha).
        """
        return torch.sigmoid(log_alpha - self._closed_below)

    def test_gates(self, log_alpha: Tensor) -> Tensor:
        """The gates [G] of one group at test time, where no number of heads is asked for.

        Hard: open if P(g = 1) > P(g = 0) (Voita et al. 2019, section 6.1), for P(g = 1) = sigmoid(log alpha -
        beta log((1 - gamma) / (zeta - 1))); binary concrete: if log alpha >= 0. Soft: clip(sigmoid(log alpha)
        (zeta - gamma) + gamma, 0, 1).
        """
        gamma, zeta = self.stretch
        if self.gate == BIN_CONCRETE:
            return (log_alpha >= 0).to(log_alpha.dtype)
        if self.test_gate == "soft":
            return (torch.sigmoid(log_alpha) * (zeta - gamma) + gamma).clamp(0.0, 1.0)
        full = self.temperature * math.log((1 - gamma) / (zeta - 1))
        # For a symmetric stretch the middle is 0, but for the rounding of zeta - 1.
        middle = round((full + self._closed_below) / 2, 12)
        return (log_alpha > middle).to(log_alpha.dtype)

    @property
    def _closed_below(self) -> float:
        """P(g > 0) is the sigmoid of log alpha less this."""
        gamma, zeta = self.stretch
        return 0.0 if self.gate == BIN_CONCRETE else self.temperature * math.log(-gamma / zeta)

    def scaled(self, group: GroupId, gates: Tensor) -> Tensor:
        """What units of a group are multiplied by in a model with output scaling, which is of heads alone: [G]."""
        return gates * self.scale(gates) if group.kind in KINDS else gates

    def scale(self, gates: Tensor) -> float | Tensor:
        """What the sum of a module's heads is multiplied by: H / sum(g) in [1, H], no gradient (Shim et al. 3.3)."""
        if not self.output_scaling:
            return 1.0
        heads = max(1, gates.numel())
        return (heads / gates.detach().sum()).clamp(1.0, float(heads))


@dataclass(frozen=True)
class LambdaState:
    """What is left of the past where lambda adapts to a number of heads: a controller of the number of open heads.

    Attributes:
        log_factor: logarithm of what lambda was multiplied by in the long run. It rises while more heads are open than
            wanted and falls while fewer are: so it finds the scale of lambda for any model.
        difference: of expected and wanted heads in the last update, as a share of all heads.
        updates: made so far.
    """

    log_factor: float = 0.0
    difference: float = 0.0
    updates: int = 0

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
        return LambdaState(log_factor, difference, self.updates + 1), factor


def never_closing(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """Gates that `min_heads` keeps open, by group: boolean [G]; of equal ones the last."""
    found = {}
    for group, own in log_alphas.items():
        mask = torch.zeros_like(own, dtype=torch.bool)
        if settings.min_heads and group.kind in KINDS:
            mask[own.detach().sort(stable=True).indices[-settings.min_heads :]] = True
        found[group] = mask
    return found


def gate_count(group: GroupId, units: int) -> int:
    """Gates of a group: one for each head, one for each block of `NEURONS_PER_GATE` neurons."""
    return units if group.kind in KINDS else -(-units // NEURONS_PER_GATE)


def over_units(group: GroupId, values: Tensor, units: int) -> Tensor:
    """Values [G] of the gates of a group as values of its units [H] or [F]."""
    return values if group.kind in KINDS else values.repeat_interleave(NEURONS_PER_GATE)[:units]


def factors_at_test(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """What the gates of every group multiply their units by at test time, output scaling of heads included: [G] each.

    Raises:
        ValueError: more heads shall stay open than there are.
    """
    found, always = {}, never_closing(settings, log_alphas)
    for group, opened in open_masks(settings, log_alphas).items():
        own = log_alphas[group]
        gates = settings.test_gates(own) if settings.test_gate == "soft" else torch.ones_like(own)
        gates = torch.where(always[group], torch.ones_like(own), gates)
        gates = torch.where(opened, gates, torch.zeros_like(own))
        found[group] = settings.scaled(group, gates)
    return found


def open_masks(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """Which gates are open at test time, by group: boolean [G].

    With `target_heads`, exactly so many heads are: those with the largest log alpha in the whole model; ties are broken
    by kind (encoder, decoder, cross), layer and head, the first of them closing first, as in every budget.

    Args:
        settings: how the gates work.
        log_alphas: [G] each, in the order of groups.

    Raises:
        ValueError: more heads shall stay open than there are.
    """
    always = never_closing(settings, log_alphas)
    found = {group: (settings.test_gates(own) > 0) | always[group] for group, own in log_alphas.items()}
    heads = {group: own for group, own in log_alphas.items() if group.kind in KINDS}
    if settings.target_heads is None or not heads:
        return found
    every, kept = torch.cat(list(heads.values())), torch.cat([always[group] for group in heads])
    closed = every.numel() - settings.target_heads
    if closed < 0:
        raise ValueError(f"{settings.target_heads} heads cannot be open, there are {every.numel()} with gates")
    if closed > every.numel() - int(kept.sum()):
        raise ValueError(f"{settings.target_heads} heads cannot be open, {int(kept.sum())} never close")
    mask = torch.ones_like(every, dtype=torch.bool)
    mask[torch.where(kept, math.inf, every).sort(stable=True).indices[:closed]] = False
    return found | dict(zip(heads, mask.split([own.numel() for own in heads.values()]), strict=True))
