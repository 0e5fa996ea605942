"""The recurrence that takes the place of self-attention in Marian's small decoders."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.model.kernels import linear
from nmtprune.model.weights import Weights


class Recurrence(nn.Module):
    """Simpler simple recurrent unit, SSRU (Kim et al. 2019, section 3.2).

    f_t = sigmoid(W_f x_t + b_f), c_t = f_t * c_{t-1} + (1 - f_t) * W x_t, output relu(c_t), c_0 = 0.
    """

    def __init__(self, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        self.weight = weights.take(f"{prefix}.input.weight", width, width)
        self.gate_weight, self.gate_bias = weights.linear(f"{prefix}.gate", width, width)

    def project(self, x: Tensor) -> "Update":
        """What inputs [B, T, D] do to the cell."""
        gate = linear(x, self.gate_weight, self.gate_bias).sigmoid()
        return Update(gate, (1 - gate) * linear(x, self.weight))

    def output(self, cells: Tensor) -> Tensor:
        """Outputs [B, T, D] for cells [B, T, D]."""
        return F.relu(cells)


@dataclass(frozen=True)
class Update:
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
