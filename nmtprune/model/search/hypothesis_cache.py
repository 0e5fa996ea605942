"""What decoder layers keep of the hypotheses of a search: keys and values, or the cell of a recurrence."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_COMPACT_FROM = 1 << 24


class Buffers:
    """Memory of earlier caches, by layer, for later ones: fresh memory costs more than what is written into it."""

    def __init__(self) -> None:
        self._by_layer: dict[int, Tensor] = {}

    def take(self, layer: int, like: Tensor, rows: int, width: int) -> Tensor:
        """A buffer of at least that many rows, of any content."""
        there = self._by_layer.get(layer)
        if there is None or there.shape[0] < rows or there.shape[1] != width or there.dtype != like.dtype:
            there = self._by_layer[layer] = like.new_empty(rows, width)
        return there


class HypothesisCache:
    """What decoder layers keep of nodes, a row [parts * H * K] per node and layer; see `Layer.kept_shape`.

    Several layers share one numbering of rows. Rows of nodes on no path that is still followed are dropped when they
    are more than those that are kept; pinned rows stay.
    """

    def __init__(self, layers: dict[int, tuple[int, int, int]], like: Tensor, buffers: Buffers) -> None:
        """Make room for no rows yet.

        Args:
            layers: by their position the layers that are kept here: parts, heads and width.
            like: tensor of the device and type to compute in.
            buffers: where memory comes from; no two caches may have a layer from one of them at a time.
        """
        self.layers = layers
        self._like, self._memory = like, buffers
        self._buffers = {layer: like.new_empty(0, math.prod(shape)) for layer, shape in layers.items()}
        self._row = torch.zeros(0, dtype=torch.long, device=like.device)
        self._rows = self._kept = self._pinned = 0

    def reserve(self, rows: int) -> range:
        """Room for that many more rows in every layer."""
        first, self._rows = self._rows, self._rows + rows
        for layer, buffer in self._buffers.items():
            if self._rows > buffer.shape[0]:
                grown = self._memory.take(layer, self._like, self._rows + self._rows // 2, buffer.shape[1])
                if first:
                    grown[:first] = buffer[:first]
                self._buffers[layer] = grown
        return range(first, self._rows)

    def pin(self) -> None:
        """Never drop the rows that there are."""
        self._pinned = self._kept = self._rows

    def assign(self, nodes: Tensor, rows: Tensor) -> None:
        """Say in which rows nodes [N] are."""
        needed = int(nodes.max()) + 1 if nodes.numel() else 0
        if needed > self._row.shape[0]:
            self._row = F.pad(self._row, (0, max(needed, 2 * self._row.shape[0]) - self._row.shape[0]))
        self._row[nodes] = rows

    def store(self, layer: int, rows: range, kept: Tensor) -> None:
        """Keep what a layer gives for B * T nodes, [parts, B, T, H, K], in these rows."""
        found = kept.permute(1, 2, 0, 3, 4)
        self._buffers[layer][rows.start : rows.stop].view(found.shape).copy_(found)

    def where(self, nodes: Tensor) -> Tensor:
        """Rows of nodes."""
        return self._row[nodes]

    def read(self, layer: int, rows: Tensor) -> Tensor:
        """What is in rows [R, T], as [parts, R, T, H, K]."""
        found = F.embedding(rows, self._buffers[layer]).view(*rows.shape, *self.layers[layer])
        return found.permute(2, 0, 1, 3, 4)

    def compact(self, nodes: Tensor) -> None:
        """Drop, where that frees half of the memory or more, what does not belong to these nodes."""
        size = sum(buffer.shape[1] for buffer in self._buffers.values()) * self._like.element_size()
        if self._rows * size < _COMPACT_FROM or self._rows < 2 * self._kept:
            return
        pinned = torch.arange(self._pinned, device=nodes.device)
        kept = torch.cat([pinned, self._row[nodes.unique()]]).unique()
        self._kept = kept.shape[0]
        if 2 * self._kept > self._rows:
            return
        for buffer in self._buffers.values():
            buffer[: self._kept] = buffer.index_select(0, kept)
        place = torch.zeros(self._rows, dtype=torch.long, device=kept.device)
        place[kept] = torch.arange(self._kept, device=kept.device)
        self._row = place[self._row.clamp(max=self._rows - 1)]
        self._rows = self._kept
