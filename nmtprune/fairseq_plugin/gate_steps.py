"""Updates of gates that do not follow the learning rate of the weights.

fairseq has one learning rate for all parameters, which falls while gates must still move. What an optimizer adds to a
parameter is its learning rate times a direction (of Adam, about 1 for a derivative that is as large as usual): gates
take the direction, and go by their own step.
"""

from typing import Any

from torch import Tensor, nn

from nmtprune.fairseq_plugin.unit_gates import GateSet

_NO_RATE = 1e-30
"""In the place of a learning rate of 0, by which nothing has a direction: no weight is changed by it."""


def drop_other_gradients(model: nn.Module, gates: GateSet) -> None:
    """Let the optimizer leave everything but gates bit for bit as it is: it passes over what has no derivative."""
    own = {id(theta) for theta in gates.thetas}
    for parameter in model.parameters():
        if id(parameter) not in own:
            parameter.grad = None


def step_gates(gates: GateSet, optimizer: Any) -> None:
    """Make a step of the optimizer in which log alpha moves by the step of the gates instead of the learning rate.

    Args:
        gates: with a step of their own.
        optimizer: of fairseq.
    """
    given, settings = optimizer.get_lr(), gates.settings
    rate = given or _NO_RATE
    optimizer.set_lr(rate)
    factor = (settings.step or 0.0) / (settings.lr_scale * rate)
    copies = _copies(optimizer)
    moved = [copies.get(id(theta), theta.data) for theta in gates.thetas]
    before = [theta.detach().clone() for theta in gates.thetas]
    for own in moved:
        own.zero_()  # so that a small step is not rounded off
    optimizer.step()
    optimizer.set_lr(given)
    for theta, own, start in zip(gates.thetas, moved, before, strict=True):
        own.copy_(start + factor * own)
        theta.data.copy_(own)
    gates.forget()


def _copies(optimizer: Any) -> dict[int, Tensor]:
    """What fairseq's optimizer of half precision moves in the place of each parameter, and then writes into it.

    It is one tensor for each parameter, or a stretch of one for all parameters of a device.
    """
    copies, parameters = getattr(optimizer, "fp32_params", []), getattr(optimizer, "fp16_params", [])
    if not isinstance(copies, dict):
        return {id(own): copy.data for own, copy in zip(parameters, copies, strict=True)}
    found: dict[int, Tensor] = {}
    for device, flat in copies.items():
        own = [parameter for parameter in parameters if len(copies) == 1 or parameter.device.index == device]
        stretches = flat.data[: sum(each.numel() for each in own)].split([each.numel() for each in own])
        found |= {id(each): part.view_as(each) for each, part in zip(own, stretches, strict=True)}
    return found
