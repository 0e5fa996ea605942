"""Texts with labels as a value: what a classifier reads, and what it should say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from nmtprune.data.batching import BatchLimits, batch_by_size, collate, order_by_length
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nmtprune.profile import ClassifierProfile

_NO_SEGMENT = 0
"""Segment of padding, as transformers' tokenizers pad."""


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Texts padded to one length on the right.

    Attributes:
        positions: [B], positions of the texts in the examples.
        tokens: [B, S] token ids.
        segments: [B, S], the segment of each token, 0 for padding; None for a model without segments.
        labels: [B]; None where there are none.
    """

    positions: Ids
    tokens: "Tensor"
    segments: "Tensor | None" = None
    labels: "Tensor | None" = None

    def to(self, device: "torch.device | str") -> Self:
        """The batch where a model is."""
        segments = None if self.segments is None else self.segments.to(device)
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, tokens=self.tokens.to(device), segments=segments, labels=labels)


@dataclass(frozen=True, eq=False)
class Examples:
    """Texts and pairs of texts with their labels, in their original order: what `Corpus` is for translations.

    Attributes:
        name: ``valid`` or the path of the table, for messages.
        tokens: texts as the model reads them: ``<s> a </s></s> b </s>``, ``[CLS] a [SEP] b [SEP]``.
        segments: the segment of each token, of the same sizes; None for a model without segments.
        labels: [N], as the model counts them; None where there are none.
        label_names: what labels are called, by number.
        numbers: place of each text in the input, counted from 0.
        total: texts of the input.
        model: what the model asks for.
        inputs: SHA-256 by path of every file read.
        notes: what a user should know about the data, one line each.
        reading: settings that make two readings of the same files differ, for provenance.
    """

    name: str
    tokens: Sentences
    segments: Sentences | None
    labels: Ids | None
    label_names: tuple[str, ...]
    numbers: Ids
    total: int
    model: "ClassifierProfile"
    inputs: Mapping[str, str]
    notes: tuple[str, ...] = ()
    reading: Mapping[str, str | int] | None = None

    def __len__(self) -> int:
        """Number of texts, without those left out."""
        return len(self.tokens)

    @property
    def left_out(self) -> int:
        """Texts of the input that are too long for the model's positions."""
        return self.total - len(self)

    @property
    def targets(self) -> Ids:
        """The labels [N].

        Raises:
            DataError: there are none.
        """
        if self.labels is None:
            raise DataError(f"{self.name}: has no labels")
        return self.labels

    def select(self, positions: Ids) -> Self:
        """The texts at some positions."""
        return replace(
            self,
            tokens=self.tokens.select(positions),
            segments=None if self.segments is None else self.segments.select(positions),
            labels=None if self.labels is None else self.labels[positions],
            numbers=self.numbers[positions],
        )

    def batches(self, limits: BatchLimits) -> list[Ids]:
        """Positions of texts batch by batch, short texts first; texts of equal lengths keep their order.

        Raises:
            UsageError: a text has more tokens than a batch may have.
        """
        sizes = self.tokens.sizes
        return batch_by_size(order_by_length(np.arange(len(self)), sizes), sizes, limits)

    def batch(self, positions: Ids) -> LabelledBatch:
        """Pad texts to tensors, in the order of `positions`."""
        import torch

        tokens = collate([self.tokens[place] for place in positions.tolist()], self.model.padding, left_pad=False)
        segments = labels = None
        if self.segments is not None:
            own = [self.segments[place] for place in positions.tolist()]
            segments = collate(own, _NO_SEGMENT, left_pad=False)
        if self.labels is not None:
            labels = torch.from_numpy(self.labels[positions])
        return LabelledBatch(positions, tokens, segments, labels)

    def describe(self) -> dict[str, str | int]:
        """The settings that make two readings of the same files differ, for provenance."""
        return {
            "data": self.name,
            "sentences": len(self),
            "left_out": self.left_out,
            "labels": ",".join(self.label_names),
            **(self.reading or {}),
        }
