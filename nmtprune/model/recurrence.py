"""The recurrence that takes the place of self-attention in Marian's small decoders."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.model.kernels import linear
from nmtprune.model.scope import Probe, Scope
from nmtprune.model.sublayers import Body
from nmtprune.model.weights import Weights
from nmtprune.network import Stack

_EPSILON = 1e-9


class Recurrence(Body):
    """Simpler simple recurrent unit, SSRU (Kim et al. 2019, section 3.2).

    f_t = sigmoid(W_f x_t + b_f), c_t = f_t * c_{t-1} + (1 - f_t) * W x_t, output relu(c_t), c_0 = 0. Marian may
    normalize W x_t and W_f x_t (the former without a bias), and project the output. Inner values are relu(c_t),
    [B, T, D].
    """

    def __init__(self, stack: Stack, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        self.weight = weights.take(f"{prefix}.input.weight", width, width)
        self.gate_weight, self.gate_bias = weights.linear(f"{prefix}.gate", width, width)
        self.output_weight = self.output_bias = None
        if stack.recurrence_projection:
            self.output_weight, self.output_bias = weights.linear(f"{prefix}.output", width, width)
        norms = ("input_norm", "gate_norm") if stack.recurrence_norm else ()
        self.norms = nn.ParameterList(weights.take(f"{prefix}.{norm}.weight", width) for norm in norms)

    def project(self, x: Tensor) -> "CellUpdate":
        """What inputs [B, T, D] do to the cell."""
        if self.norms:
            added = F.layer_norm(linear(x, self.weight), self.weight.shape[:1], self.norms[0], None, _EPSILON)
            scale, bias = self.norms[1], self.gate_bias
            gate = F.layer_norm(linear(x, self.gate_weight), self.weight.shape[:1], scale, bias, _EPSILON).sigmoid()
        else:
            added, gate = linear(x, self.weight), linear(x, self.gate_weight, self.gate_bias).sigmoid()
        return CellUpdate(gate, (1 - gate) * added)

    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        """Rectified cells [B, T, D] after each of the tokens."""
        return F.relu(scope.recur(self.project(normed), position))

    def output(self, inner: Tensor, probe: Probe) -> Tensor:
        """Outputs [B, T, D]."""
        return inner if self.output_weight is None else linear(inner, self.output_weight, self.output_bias)

    def kept_shape(self) -> tuple[int, int, int] | None:
        """The cell."""
        return (1, 1, self.weight.shape[0])


@dataclass(frozen=True)
class CellUpdate:
    """What tokens do to the cell of a recurrence, both [B, T, D]: ``kept`` of what was in it, and ``added`` to that."""

    kept: Tensor
    added: Tensor

    def after(self, cell: Tensor | None) -> Tensor:
        """Cells [B, T, D] after each of the tokens in turn; `cell` [B, D] is that before them, None: zeros."""
        cells = []
        for token in range(self.kept.shape[1]):
            cell = self.added[:, token] if cell is None else self.kept[:, token] * cell + self.added[:, token]
            cells.append(cell)
        return torch.stack(cells, dim=1)
