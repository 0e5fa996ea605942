"""Token embeddings, plain or adaptive, with position embeddings as fairseq numbers them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nmtprune.errors import DataError
from nmtprune.model.kernels import linear
from nmtprune.model.sublayers import LayerNorm
from nmtprune.model.weights import Weights
from nmtprune.network import EncoderNetwork, Stack


class PositionTable(nn.Module):
    """Rows that are added to embeddings: learned, or sinusoids for any number of positions."""

    rows: Tensor

    def __init__(self, stack: Stack, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        if stack.positions is None:
            raise ValueError("a position table for a stack without positions")
        self.first = stack.positions.first
        self.learned = stack.positions.learned
        rows = weights.take(f"{prefix}.weight", None, width) if self.learned else torch.empty(0, width)
        self.register_buffer("rows", rows.to(weights.device, weights.dtype), persistent=False)

    @property
    def limit(self) -> int | None:
        """Longest sentence for which there are rows; None without bound."""
        return self.rows.shape[0] - self.first if self.learned else None

    def forward(self, start: int | Tensor, padding: Tensor | None, length: int) -> Tensor:
        """Rows [B or 1, n, D] of new tokens.

        Args:
            start: number of tokens before, the same for all rows or [B, 1].
            padding: [B, n], true for padding; None where there is none.
            length: n.

        Raises:
            DataError: a sentence is longer than the learned table.
        """
        if padding is None and isinstance(start, int):
            first = self.first + start
            return self._rows(first + length).narrow(0, first, length).unsqueeze(0)
        if padding is None:
            index = self.first + start + torch.arange(length, device=self.rows.device)
        else:
            real = ~padding
            index = torch.where(real, real.long().cumsum(1) + (start + self.first - 1), max(self.first - 1, 0))
        rows: Tensor = F.embedding(index, self._rows(int(index.max()) + 1))
        return rows

    def _rows(self, count: int) -> Tensor:
        if count > self.rows.shape[0]:
            if self.learned:
                raise DataError(
                    f"a sentence of {count - self.first} tokens: the model has learned positions for {self.limit}; "
                    "leave it out or shorten it"
                )
            width, rows = self.rows.shape[1], max(256, 2 * self.rows.shape[0], count)
            with torch.inference_mode(False):  # the table outlives the pass, which may be one for inference
                self.rows = sinusoids(rows, width, self.first - 1).to(self.rows.device, self.rows.dtype)
        return self.rows


def sinusoids(rows: int, width: int, padding: int) -> Tensor:
    """Sinusoidal position embeddings [rows, width], row `padding` zero where there is such a row.

    Computed in single precision whatever the model's type, as fairseq does (tensor2tensor's formula, which puts sines
    and cosines side by side instead of interleaving them as Vaswani et al. 2017, section 3.5, do).
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(rows, dtype=torch.float).unsqueeze(1) * rates.unsqueeze(0)
    table = F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))
    if 0 <= padding < rows:
        table[padding] = 0
    return table


class AdaptiveTable(nn.Module):
    """Embeddings in bands of falling frequency, each of its own width and projected to D (Baevski and Auli 2019)."""

    def __init__(self, bands: int, weights: Weights, prefix: str) -> None:
        super().__init__()
        projections = [weights.need(f"{prefix}.bands.{band}.projection.weight") for band in range(bands)]
        self.width = projections[0].shape[0]
        self.projections = nn.ParameterList(projections)
        self.tables = nn.ParameterList(
            weights.take(f"{prefix}.bands.{band}.tokens.weight", None, projection.shape[1])
            for band, projection in enumerate(projections)
        )

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return sum(table.shape[0] for table in self.tables)

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, T, D] of tokens [B, T]."""
        found: Tensor = self.projections[0].new_zeros(*tokens.shape, self.width)
        start = 0
        for table, projection in zip(self.tables, self.projections, strict=True):
            inside = (tokens >= start) & (tokens < start + table.shape[0])
            if bool(inside.any()):
                found[inside] = linear(F.embedding(tokens[inside] - start, table), projection)
            start += table.shape[0]
        return found


class PlainTable(nn.Module):
    """One table of embeddings.

    Attributes:
        weight: a row for each word [V, E].
        start: row that the id V stands for; None: there is no such id.
    """

    def __init__(self, weights: Weights, prefix: str, start: int | None = None) -> None:
        super().__init__()
        self.weight, self.start = weights.need(f"{prefix}.tokens.weight"), start

    @property
    def width(self) -> int:
        """Columns of the table."""
        return self.weight.shape[1]

    @property
    def words(self) -> int:
        """Size of the vocabulary."""
        return self.weight.shape[0]

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeddings [B, T, E] of tokens [B, T]."""
        if self.start is not None:
            tokens = tokens.masked_fill(tokens == self.words, self.start)
        return F.embedding(tokens, self.weight)


class Embedding(nn.Module):
    """From tokens to the input of the first layer: look up, scale, project, add positions and segments, normalize."""

    def __init__(
        self, network: EncoderNetwork, stack: Stack, weights: Weights, prefix: str, start: int | None = None
    ) -> None:
        super().__init__()
        self.padding = network.padding
        self.scale = stack.embedding_scale
        bands = stack.embedding_bands
        self.tokens = AdaptiveTable(bands, weights, prefix) if bands else PlainTable(weights, prefix, start)
        self.projection = weights.need(f"{prefix}.projection.weight") if stack.embedding_projection else None
        self.width = self.tokens.width if self.projection is None else self.projection.shape[0]
        self.positions = PositionTable(stack, weights, f"{prefix}.positions", self.width) if stack.positions else None
        self.segments = (
            weights.take(f"{prefix}.segments.weight", stack.segments, self.width) if stack.segments else None
        )
        epsilon = network.layer_norm_epsilon
        self.norm = LayerNorm(weights, f"{prefix}.norm", self.width, epsilon) if stack.embedding_norm else None

    def padding_of(self, tokens: Tensor) -> Tensor | None:
        """Where tokens [B, T] are padding; None where none is."""
        padding = tokens == self.padding
        return padding if bool(padding.any()) else None

    def forward(
        self, tokens: Tensor, padding: Tensor | None, start: int | Tensor = 0, segments: Tensor | None = None
    ) -> Tensor:
        """Embeddings [B, T, D] of tokens [B, T] before which `start` (or [B, 1]) others stand.

        `segments` [B, T] are the tokens' segments; without them all are in segment 0.
        """
        x: Tensor = self.tokens(tokens.clamp_min(0) if self.padding < 0 else tokens)
        if self.scale != 1.0:
            x = x * self.scale
        if self.projection is not None:
            x = linear(x, self.projection)
        if self.positions is not None:
            x = x + self.positions(start, padding, tokens.shape[1])
        if self.segments is not None:
            x = x + (self.segments[0] if segments is None else F.embedding(segments, self.segments))
        if self.norm is not None:
            x = self.norm(x)
        return x
