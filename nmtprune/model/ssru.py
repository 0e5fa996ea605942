"""The recurrence that takes the place of self-attention in Marian's small decoders."""

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

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [B, T, D] for inputs [B, T, D], from the first token on."""
        new = linear(x, self.weight)
        gate = linear(x, self.gate_weight, self.gate_bias).sigmoid()
        cell = torch.zeros_like(x[:, 0])
        cells = []
        for token in range(x.shape[1]):
            cell = gate[:, token] * cell + (1 - gate[:, token]) * new[:, token]
            cells.append(cell)
        return F.relu(torch.stack(cells, dim=1))
