"""Updates of gates that do not follow the learning rate of the weights.

fairseq has one learning rate for all parameters, which falls while gates must still move. What an optimizer adds to a
parameter is its learning rate times a direction (of Adam, about 1 for a derivative that is as large as usual): gates
take the direction, and go by their own step.
"""

from typing import Any

from torch import nn

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
    before = [theta.detach().clone() for theta in gates.thetas]
    copied = hasattr(optimizer, "fp32_params")  # half precision: the optimizer moves copies, and writes them back
    starts = gates.written if copied and gates.written else before
    for theta in gates.thetas:
        if not copied:
            theta.data.zero_()  # so that a small step is not rounded off
    optimizer.step()
    optimizer.set_lr(given)
    gates.written = [theta.detach().clone() for theta in gates.thetas] if copied else []
    for theta, own, start in zip(gates.thetas, before, starts, strict=True):
        moved = theta.data - start if copied else theta.data
        theta.data.copy_(own + factor * moved)
    gates.forget()
