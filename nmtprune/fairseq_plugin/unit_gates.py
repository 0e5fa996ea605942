"""Gates on heads and neurons of a fairseq model: drawn anew for each batch in training, fixed at test time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from typing import Any

import torch
from torch import Tensor, nn

from nmtprune.architecture import KINDS, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.gates import (
    LAMBDA_STATE,
    PARAMETER,
    GateSettings,
    LambdaState,
    adapted,
    by_kind,
    factors_at_test,
    gate_sizes,
    never_closing,
    open_masks,
    over_units,
)


class GateSet:
    """All gates of a model: what they are at test time may depend on the whole model.

    Args:
        settings: how they work.

    Attributes:
        updates: that training has made.
    """

    def __init__(self, settings: GateSettings) -> None:
        self.settings = settings
        self.updates = 0
        self._adapted: tuple[int, float] | None = None
        self._gates: dict[GroupId, UnitGates] = {}
        self._factors: Mapping[GroupId, Tensor] | None = None
        self._drawn: dict[GroupId, Tensor] = {}

    def add(self, group: GroupId, units: int) -> "UnitGates":
        """Make the gates of one attention module or feed-forward layer."""
        self._gates[group] = UnitGates(self, group, units)
        return self._gates[group]

    @property
    def groups(self) -> tuple[GroupId, ...]:
        """Groups whose units have gates."""
        return tuple(self._gates)

    @property
    def thetas(self) -> list[nn.Parameter]:
        """The parameters of all gates."""
        return [gates.theta for gates in self._gates.values()]

    @property
    def heads(self) -> int:
        """Heads that have gates."""
        return sum(self.heads_of_modules)

    @property
    def heads_of_modules(self) -> list[int]:
        """Heads of every attention module with gates."""
        return [gates.units for group, gates in self._gates.items() if group.kind in KINDS]

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether all of these parameters are of gates."""
        own = {id(gates.theta) for gates in self._gates.values()}
        return all(id(parameter) in own for parameter in parameters)

    @property
    def alone(self) -> bool:
        """Whether only gates learn."""
        return self.updates < self.settings.only_updates

    def adapt(self, expected: float) -> float:
        """What lambda is multiplied by in this update of training, so that the number of open heads meets the target.

        A training starts anew, whatever the gates of its checkpoint were trained for before.

        Args:
            expected: number of open heads; it counts once per update, whatever the number of its batches.
        """
        if self._adapted is None or self._adapted[0] != self.updates:
            memory = next(iter(self._gates.values())).lambda_state
            log_factor, difference, updates, start = memory.tolist()
            state = LambdaState(log_factor, difference, int(updates), start)
            if not self.updates:
                learned = any(bool(theta.any()) for theta in self.thetas)
                state = LambdaState(start=expected) if learned else LambdaState()
            state, factor = adapted(self.settings, state, self.updates, expected, self.heads)
            self._adapted = self.updates, factor
            memory.copy_(torch.tensor(astuple(state)))
        return self._adapted[1]

    @property
    def frozen(self) -> bool:
        """Whether gates are constants in training."""
        limit = self.settings.freeze_updates
        return limit is not None and self.updates >= limit

    def log_alphas(self) -> dict[GroupId, Tensor]:
        """Log alpha [G] of the gates of every group that has some."""
        return self._by_group(self._log_alpha())

    def expected_open(self) -> dict[str, Tensor]:
        """Sum of P(open) over the units of each kind, with its gradient; 1 for gates that never close."""
        own = self._log_alpha()
        return self._by_kind(self._by_group(self.settings.open_probability(own, self._never_closing(own))))

    def open_by_kind(self) -> dict[str, Tensor]:
        """Number of units of each kind that are open at test time."""
        with torch.no_grad():
            return self._by_kind(open_masks(self.settings, self.log_alphas()))

    def draw(self) -> None:
        """Draw the gates of the whole model for the next batch at once."""
        own = self._log_alpha()
        drawn = self._by_group(self.settings.draw(own, self._never_closing(own)))
        self._drawn = {group: self.settings.scaled(group, own) for group, own in drawn.items()}

    def take(self, group: GroupId) -> Tensor:
        """What the gates of a group are in this batch, [G]: a draw serves one pass only."""
        if group not in self._drawn:
            self.draw()
        return self._drawn.pop(group)

    def _log_alpha(self) -> Tensor:
        """Log alpha of all gates, group by group."""
        return self.settings.log_alpha(torch.cat([gates.theta for gates in self._gates.values()]))

    def _never_closing(self, log_alpha: Tensor) -> Tensor:
        """Which gates [G] of the whole model never close."""
        return torch.cat(list(never_closing(self.settings, self._by_group(log_alpha)).values()))

    def _by_group(self, values: Tensor) -> dict[GroupId, Tensor]:
        """Values of all gates, group by group."""
        parts = values.split([gates.theta.numel() for gates in self._gates.values()])
        return dict(zip(self._gates, parts, strict=True))

    def _by_kind(self, values: Mapping[GroupId, Tensor]) -> dict[str, Tensor]:
        """Sums of values of gates over the units of each kind."""
        return by_kind(values, {group: gates.sizes for group, gates in self._gates.items()})

    def at_test(self) -> Mapping[GroupId, Tensor]:
        """What gates multiply their units by at test time: [G] for each group; kept until `forget`."""
        if self._factors is None:
            with torch.no_grad():
                self._factors = factors_at_test(self.settings, self.log_alphas())
        return self._factors

    def forget(self) -> None:
        """Parameters may have changed: optimizers do that where autograd does not see it."""
        self._factors = None


class UnitGates(nn.Module):
    """The gates of one attention module or feed-forward layer.

    They stay in single precision in a model of lower precision: the derivative of the penalty, times the scale of the
    loss, overflows half precision.

    Attributes:
        units: heads or neurons of the group.
        sizes: [G], units that each gate opens and closes.
        theta: [G], what is learned.
        lambda_state: [4], the `LambdaState` where lambda adapts; of the model's first gates only.
    """

    lambda_state: Tensor

    def __init__(self, gate_set: GateSet, group: GroupId, units: int) -> None:
        super().__init__()
        self._set, self._group, self.units = gate_set, group, units
        self.sizes = gate_sizes(group, units)
        self.theta = nn.Parameter(torch.zeros(len(self.sizes)))
        if gate_set.settings.adapts and not gate_set.groups:
            self.register_buffer("lambda_state", torch.tensor(astuple(LambdaState())))
        self._kept: Tensor | None = None
        self.register_state_dict_pre_hook(UnitGates._restore)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(UnitGates._loaded)  # type: ignore[no-untyped-call]

    def forward(self) -> Tensor:
        """What each unit is multiplied by, [H] or [F]: one draw for a batch in training, constants at test time."""
        return over_units(self._group, self._values(), self.units)

    def _values(self) -> Tensor:
        """The gates [G]."""
        if not self.training:
            return self._set.at_test()[self._group]
        if self._set.frozen:
            # Without a gradient for it, even of zero, DistributedDataParallel would miss a parameter.
            return self._set.at_test()[self._group] + 0.0 * self.theta
        return self._set.take(self._group)

    def set_num_updates(self, updates: int) -> None:
        """Take from fairseq, before each update, how many there were: gates may be constants from then on."""
        self._set.updates = updates
        if not self._set.frozen:
            self._kept = None
        elif self._kept is None:
            self._kept = self.theta.detach().clone()
        self._restore()

    def _restore(self, *_: Any) -> None:
        """Give frozen gates back what an optimizer with momentum has moved: before anything looks at them."""
        if self._kept is not None:
            self.theta.data.copy_(self._kept)
        self._set.forget()

    def train(self, mode: bool = True) -> "UnitGates":
        """Change between training and test time."""
        self._restore()
        super().train(mode)
        return self

    def _loaded(self, _keys: Any) -> None:
        self._kept = None
        self._set.forget()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "UnitGates":
        """Move to another device; another type is not taken."""
        before = {name: own.detach().clone() for name, own in self.state_dict().items()}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set.forget()
        for name, own in (*self.named_parameters(), *self.named_buffers()):
            if own.is_floating_point() and own.dtype.itemsize < before[name].dtype.itemsize:
                own.data = before[name].to(own.device)
        return self

    def extra_repr(self) -> str:
        """Number of gates, for the description that fairseq-train prints."""
        return f"{self._group.sort}={self.units}, {self._set.settings.gate}"


def gates_of(model: nn.Module) -> GateSet | None:
    """The gates of a model, however it is wrapped; None where it has none."""
    return next((module._set for module in model.modules() if isinstance(module, UnitGates)), None)


def draw_gates(model: nn.Module, *_: Any) -> None:
    """Before a pass of a whole model in training: one draw for all its gates."""
    gates = gates_of(model)
    if gates is not None and model.training and not gates.frozen:
        gates.draw()


def start_open(model: nn.Module, state_dict: dict[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Before weights are loaded: gates of a checkpoint that has none start as new ones do.

    Raises:
        CheckpointError: the checkpoint has some of the gates, not all.
    """
    own = {f"{prefix}{name}.theta": module.theta for name, module in _named_gates(model)}
    missing = [name for name in own if name not in state_dict]
    if missing and len(missing) < len(own):
        raise CheckpointError.of_faults("gates of the checkpoint", [f"{name} is missing" for name in missing])
    if not any(name.endswith(PARAMETER) for name in state_dict):
        state_dict.update({name: torch.zeros_like(theta) for name, theta in own.items()})
    buffers = {f"{prefix}{name}": own for name, own in model.named_buffers() if name.endswith(LAMBDA_STATE)}
    for name in [name for name in state_dict if name.endswith(LAMBDA_STATE)]:
        if name not in buffers or state_dict[name].shape != buffers[name].shape:
            del state_dict[name]
    start = torch.tensor(astuple(LambdaState()))
    state_dict.update({name: start for name in buffers if name not in state_dict})


def _named_gates(model: nn.Module) -> Iterator[tuple[str, UnitGates]]:
    for name, module in model.named_modules():
        if isinstance(module, UnitGates):
            yield name, module
