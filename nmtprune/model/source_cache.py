"""What a decoder takes from the encoder's output: keys and values, computed once for a batch of sentences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.model.scope import Visible


@dataclass(frozen=True)
class EncoderOutput:
    """States [B, S, D] of the last encoder layer, and where they stand for padding [B, S] (None: nowhere)."""

    states: Tensor
    padding: Tensor | None


@dataclass(frozen=True)
class SourceCache:
    """The encoder's output as the decoder's layers see it; computed once per batch of sentences.

    Attributes:
        cross: keys and values of cross-attention per layer, [2, B, S, H, K]; None where the layer has none.
        joint: the same for self-attention that sees the encoder's output too; None for a layer that does not.
        padding: [B, S], true for padding; None where there is none.
        visible: what queries see of the sentence's keys.
    """

    cross: tuple[Tensor | None, ...]
    joint: tuple[Tensor | None, ...]
    padding: Tensor | None
    visible: Visible

    @property
    def is_joint(self) -> bool:
        """Whether self-attention of any layer sees the source."""
        return any(found is not None for found in self.joint)

    @property
    def length(self) -> int:
        """S; 0 where no layer looks at the encoder."""
        return next((found.shape[2] for found in (*self.cross, *self.joint) if found is not None), 0)

    def select(self, sentences: Tensor) -> "SourceCache":
        """The cache of these sentences (indices [B']), repeated and reordered as they say."""
        rows = replace(
            self,
            cross=tuple(_rows_of(found, sentences) for found in self.cross),
            joint=tuple(_rows_of(found, sentences) for found in self.joint),
        )
        bias = self.visible.bias
        return replace(
            rows,
            padding=None if self.padding is None else self.padding.index_select(0, sentences),
            visible=self.visible if bias is None else Visible(bias.index_select(0, sentences)),
        )

    def narrow(self, sentences: slice) -> "SourceCache":
        """The cache of consecutive sentences; nothing is copied."""
        return self._mapped(lambda found, axis: found[(slice(None),) * axis + (sentences,)])

    @classmethod
    def joined(cls, source_caches: Sequence["SourceCache"]) -> "SourceCache":
        """The sentences of several caches one after the other, padded to the longest."""
        if len(source_caches) == 1:
            return source_caches[0]
        width = max(source_cache.length for source_cache in source_caches)
        wide = [
            source_cache if source_cache.length == width else source_cache._widened(width)
            for source_cache in source_caches
        ]
        biases = [source_cache.visible.bias for source_cache in wide]
        if any(bias is not None for bias in biases):
            wide = [
                source_cache if source_cache.visible.bias is not None else source_cache._widened(width)
                for source_cache in wide
            ]
        return cls(
            tuple(_joined_heads(layer) for layer in zip(*(source_cache.cross for source_cache in wide), strict=True)),
            tuple(_joined_heads(layer) for layer in zip(*(source_cache.joint for source_cache in wide), strict=True)),
            _joined([source_cache.padding for source_cache in wide], 0),
            Visible(_joined([source_cache.visible.bias for source_cache in wide], 0)),
        )

    def _widened(self, width: int) -> "SourceCache":
        """The same sentences with padding behind them, so that S is `width`; with a bias in any case."""
        found = next((found for found in (*self.cross, *self.joint) if found is not None), None)
        if found is None:
            return self
        more, sentences = width - found.shape[2], found.shape[1]
        padding = self.padding
        if padding is None:
            padding = torch.zeros(sentences, found.shape[2], dtype=torch.bool, device=found.device)
        padding = F.pad(padding, (0, more), value=True)

        def widened(found: Tensor | None) -> Tensor | None:
            return None if found is None else F.pad(found.transpose(2, 3), (0, 0, 0, more)).transpose(2, 3)

        cross, joint = tuple(map(widened, self.cross)), tuple(map(widened, self.joint))
        return SourceCache(cross, joint, padding, Visible.where(~padding.unsqueeze(1), found.dtype))

    @property
    def size_bytes(self) -> int:
        """Memory that keys and values take."""
        return sum(found.nbytes for found in (*self.cross, *self.joint) if found is not None)

    def with_room(self, sentences: int) -> "SourceCache":
        """A copy with room for that many sentences; the entries behind the old ones hold arbitrary values."""

        def grown(found: Tensor, axis: int) -> Tensor:
            shape = list(found.shape)
            count, shape[axis] = shape[axis], sentences
            wide = found.new_empty(shape)
            wide.narrow(axis, 0, count).copy_(found)
            return wide

        return self._mapped(grown)

    def put(self, first: int, other: "SourceCache") -> None:
        """Fill in the sentences of another cache of the same source length, from number `first` on."""
        pairs = [*zip(self.cross, other.cross, strict=True), *zip(self.joint, other.joint, strict=True)]
        places = [(mine, theirs, 1) for mine, theirs in pairs]
        places += [(self.padding, other.padding, 0), (self.visible.bias, other.visible.bias, 0)]
        for mine, theirs, axis in places:
            if mine is not None and theirs is not None:
                mine.narrow(axis, first, theirs.shape[axis]).copy_(theirs)

    def _mapped(self, change: Callable[[Tensor, int], Tensor]) -> "SourceCache":
        """Every tensor changed along its axis of sentences."""

        def changed(found: Tensor | None) -> Tensor | None:
            # In memory heads come before positions, and stay so.
            return None if found is None else change(found.transpose(2, 3), 1).transpose(2, 3)

        bias = self.visible.bias
        return SourceCache(
            tuple(changed(found) for found in self.cross),
            tuple(changed(found) for found in self.joint),
            None if self.padding is None else change(self.padding, 0),
            self.visible if bias is None else Visible(change(bias, 0)),
        )


def _rows_of(found: Tensor | None, sentences: Tensor) -> Tensor | None:
    """Keys and values [2, B', S, H, K] of some sentences, heads before positions in memory."""
    if found is None:
        return None
    by_head = found.transpose(2, 3)
    if by_head.is_contiguous():
        return by_head.index_select(1, sentences).transpose(2, 3)
    # Whole sentences are copied where each is in one piece, as a projection leaves it.
    whole = found.permute(1, 2, 0, 3, 4).index_select(0, sentences)
    return whole.permute(2, 0, 3, 1, 4).contiguous().transpose(2, 3)


def _joined(parts: Sequence[Tensor | None], axis: int) -> Tensor | None:
    """Tensors one after the other; None where there are none."""
    there = [part for part in parts if part is not None]
    return torch.cat(there, dim=axis) if there else None


def _joined_heads(parts: Sequence[Tensor | None]) -> Tensor | None:
    """Keys and values of several caches; in memory heads come before positions, and stay so."""
    joined = _joined([None if part is None else part.transpose(2, 3) for part in parts], 1)
    return None if joined is None else joined.transpose(2, 3)
