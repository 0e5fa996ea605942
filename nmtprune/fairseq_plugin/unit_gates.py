"""Gates on heads and neurons of a fairseq model: drawn anew for each batch in training, fixed at test time."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nmtprune.architecture import KINDS, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.gates import PARAMETER, GateSettings, factors_at_test, gate_count, open_masks, over_units


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
        self._gates: dict[GroupId, UnitGates] = {}
        self._factors: Mapping[GroupId, Tensor] | None = None
        self._drawn: dict[GroupId, Tensor] = {}

    def add(self, group: GroupId, units: int) -> "UnitGates":
        """Make the gates of one attention module or feed-forward layer."""
        self._gates[group] = UnitGates(self, group, units)
        return self._gates[group]

    @property
    def heads(self) -> int:
        """Heads that have gates."""
        return sum(gates.units for group, gates in self._gates.items() if group.kind in KINDS)

    def holds(self, parameters: Iterable[nn.Parameter]) -> bool:
        """Whether all of these parameters are of gates."""
        own = {id(gates.theta) for gates in self._gates.values()}
        return all(id(parameter) in own for parameter in parameters)

    @property
    def frozen(self) -> bool:
        """Whether gates are constants in training."""
        limit = self.settings.freeze_updates
        return limit is not None and self.updates >= limit

    def log_alphas(self) -> dict[GroupId, Tensor]:
        """Log alpha [G] of the gates of every group that has some."""
        return self._by_group(self._log_alpha())

    def expected_open(self) -> dict[str, Tensor]:
        """Sum of P(open) over the units of each kind, with its gradient."""
        return self._by_kind(self.settings.open_probability(self._log_alpha()))

    def open_by_kind(self) -> dict[str, Tensor]:
        """Number of units of each kind that are open at test time."""
        with torch.no_grad():
            return self._by_kind(torch.cat(list(open_masks(self.settings, self.log_alphas()).values())))

    def draw(self) -> None:
        """Draw the gates of the whole model for the next batch at once."""
        drawn = self._by_group(self.settings.sample(self._log_alpha()))
        self._drawn = {group: self.settings.scaled(group, own) for group, own in drawn.items()}

    def take(self, group: GroupId) -> Tensor:
        """What the gates of a group are in this batch, [G]: a draw serves one pass only."""
        if group not in self._drawn:
            self.draw()
        return self._drawn.pop(group)

    def _log_alpha(self) -> Tensor:
        """Log alpha of all gates, group by group."""
        return self.settings.log_alpha(torch.cat([gates.theta for gates in self._gates.values()]))

    def _by_group(self, values: Tensor) -> dict[GroupId, Tensor]:
        """Values of all gates, group by group."""
        parts = values.split([gates.theta.numel() for gates in self._gates.values()])
        return dict(zip(self._gates, parts, strict=True))

    def _by_kind(self, values: Tensor) -> dict[str, Tensor]:
        """Sums of values of gates over the units of each kind; groups come in the order of kinds."""
        sizes: dict[str, int] = {}
        for group, gates in self._gates.items():
            sizes[group.kind] = sizes.get(group.kind, 0) + gates.theta.numel()
        return {
            kind: own.sum() if kind in KINDS else (own * self._sizes(kind).to(own.device)).sum()
            for kind, own in zip(sizes, values.split(list(sizes.values())), strict=True)
        }

    def _sizes(self, kind: str) -> Tensor:
        """Units of every gate of a kind."""
        return torch.cat([gates.sizes for group, gates in self._gates.items() if group.kind == kind])

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
    """

    def __init__(self, gate_set: GateSet, group: GroupId, units: int) -> None:
        super().__init__()
        self._set, self._group, self.units = gate_set, group, units
        count = gate_count(group, units)
        self.sizes = torch.bincount(over_units(group, torch.arange(count), units), minlength=count)
        self.theta = nn.Parameter(torch.zeros(count))
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
        before = self.theta.detach().clone()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._set.forget()
        if self.theta.is_floating_point() and self.theta.dtype.itemsize < before.dtype.itemsize:
            self.theta.data = before.to(self.theta.device)
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


def _named_gates(model: nn.Module) -> Iterator[tuple[str, UnitGates]]:
    for name, module in model.named_modules():
        if isinstance(module, UnitGates):
            yield name, module
