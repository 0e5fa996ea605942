"""How gates on heads and on blocks of neurons work: their settings, and the distribution that they are drawn from.

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

GATED_SORTS = ("heads", "neurons")
"""What can have gates."""

GATED_KINDS = (*KINDS, *NEURON_KINDS)
"""Kinds of groups whose units can have gates, in the order of plans."""

TASK = "translation_l0"
"""The task of fairseq-train whose models have gates without being asked."""

STEP = 0.15
"""Log alpha per update where gates have a step of their own and the user names none."""

NEURONS_PER_GATE = 16
"""Neurons of a feed-forward layer that share a gate, one after the other; the last gate of a layer may have fewer."""

HARD_CONCRETE, BIN_CONCRETE = "hardconcrete", "binconcrete"
DISTRIBUTIONS = (HARD_CONCRETE, BIN_CONCRETE)
TEST_GATES = ("hard", "soft")

FIELDS: Mapping[str, str] = {
    "--gate": "gate",
    "--gate-init": "init",
    "--gate-temperature": "temperature",
    "--gate-stretch": "stretch",
    "--gate-lr-scale": "lr_scale",
    "--gate-step": "step",
    "--gate-freeze-updates": "freeze_updates",
    "--gate-only-updates": "only_updates",
    "--min-heads-per-module": "min_heads",
    "--output-scaling": "output_scaling",
    "--test-gate": "test_gate",
    "--target-heads": "target_heads",
}
"""Option -> field of `GateSettings`."""

_OPTIONAL = {"step", "only_updates", "min_heads", "costs"}
"""Settings that are written only where they are given."""

_MEANT: Mapping[str, str] = {
    **dict.fromkeys(("gate", "test_gate"), "a word"),
    **dict.fromkeys(("init", "temperature", "lr_scale"), "a number"),
    **dict.fromkeys(("only_updates", "min_heads"), "a whole number"),
    **dict.fromkeys(("freeze_updates", "target_heads"), "a whole number or null"),
    "step": "a number or null",
    "output_scaling": "true or false",
    "kinds": "a list of words",
    "stretch": "a list of two numbers",
    "costs": "an object of numbers",
}
"""What the values of the settings are in a file."""

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
        faults += [f"costs: no cost of {kind}" for kind in self.kinds if self.costs and kind not in self.costs]
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
            CheckpointError: it does not hold settings of gates; every key that is wrong.
        """
        known = [each.name for each in fields(cls)]
        try:
            values = json.loads(text)
            if not isinstance(values, dict) or not set(known) - _OPTIONAL <= set(values) <= set(known):
                raise ValueError(f"must be an object with the keys {', '.join(known)}")
            faults = [
                f"{name} {json.dumps(value)}: must be {_MEANT[name]}"
                for name, value in values.items()
                if not _is_meant(name, value)
            ]
            if faults:
                raise ValueError("; ".join(faults))
            return cls(**{**values, "kinds": tuple(values["kinds"]), "stretch": tuple(map(float, values["stretch"]))})
        except (TypeError, ValueError, RecursionError, UsageError) as error:
            raise CheckpointError(f"{where}: {SETTING}: {error}") from None

    def cost(self, kind: str) -> float:
        """What an open unit of a kind adds to the penalty."""
        return self.costs.get(kind, 1.0)

    @property
    def adapts(self) -> bool:
        """Whether lambda adapts to a number of heads: gates with a step of their own get there before they freeze."""
        return self.step is not None and self.target_heads is not None

    def log_alpha(self, theta: Tensor) -> Tensor:
        """Log alpha [G] of G gates in single precision at least, of the learned parameter [G]."""
        return self.init + self.lr_scale * theta.to(torch.promote_types(theta.dtype, torch.float32))

    def draw(self, log_alpha: Tensor, always: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gates [G], drawn anew; those that never close (`always`, boolean [G]) are 1, with their derivatives.

        Straight through: another head of the module can still become the more important one.
        """
        gates = self.sample(log_alpha, generator)
        return torch.where(always, 1.0 + gates - gates.detach(), gates) if self.min_heads else gates

    def sample(self, log_alpha: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Gates [G], drawn anew, as if each could close.

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

    def open_probability(self, log_alpha: Tensor, always: Tensor | None = None) -> Tensor:
        """P(g > 0) of every gate [G], whose sum is the penalty (Louizos et al. 2018, equation 12).

        Hard concrete: sigmoid(log alpha - beta log(-gamma / zeta)); binary concrete: sigmoid(log alpha).

        Args:
            log_alpha: [G].
            always: boolean [G], gates that never close: theirs is 1.
        """
        found = torch.sigmoid(log_alpha - self._closed_below)
        return found if always is None else found.masked_fill(always, 1.0)

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


def _is_meant(name: str, value: Any) -> bool:
    """Whether a value of a file is what its setting must be."""
    match _MEANT[name]:
        case "a word":
            return isinstance(value, str)
        case "true or false":
            return isinstance(value, bool)
        case "a number":
            return _is_number(value)
        case "a number or null":
            return value is None or _is_number(value)
        case "a whole number":
            return _is_number(value, int)
        case "a whole number or null":
            return value is None or _is_number(value, int)
        case "a list of words":
            return isinstance(value, list) and all(isinstance(each, str) for each in value)
        case "a list of two numbers":
            return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))
        case _:
            return isinstance(value, dict) and all(map(_is_number, value.values()))


def _is_number(value: Any, kinds: type | tuple[type, ...] = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
