"""A text as lanes of segments: what the task `segment_language_modeling` hands to its models."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from fairseq.data import FairseqDataset
from fairseq.data.iterators import EpochBatchIterator

from nmtprune.errors import DataError, UsageError

Text = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Segment:
    """Which part of its lanes a batch is.

    Attributes:
        number: counted from 0.
        total: segments of the text.
        length: T, tokens of a segment; the last one may have fewer.
    """

    number: int
    total: int
    length: int

    @property
    def last(self) -> bool:
        """Whether nothing follows it."""
        return self.number + 1 == self.total


def text_of(sentences: Any, dictionary: Any, name: str) -> Text:
    """The tokens of all sentences of a data set, ends of sentences included, one after the other.

    They are held in memory: a text may be one single sentence (text8), which fairseq reads as a whole.

    Args:
        sentences: fairseq's data set of a split.
        dictionary: of its words.
        name: of the text, for messages.

    Raises:
        DataError: there are none, or ids that the dictionary cannot mean.
    """
    ends = np.cumsum(sentences.sizes, dtype=np.int64)
    if not len(ends) or not ends[-1]:
        raise DataError(f"{name} has no tokens")
    text = np.empty(ends[-1], dtype=np.int32)
    for sentence, end in enumerate(ends):
        text[end - sentences.sizes[sentence] : end] = sentences[sentence].numpy()
    words, pad = len(dictionary), dictionary.pad()
    wrong = (text < 0) | (text >= words) | (text == pad)
    if wrong.any():
        raise DataError(
            f"{name} has the id {text[wrong.argmax()]}, and dict.txt has {words} words with {pad} as padding: "
            "binarize the text with this dictionary"
        )
    return text


class SegmentDataset(FairseqDataset):  # type: ignore[misc]  # fairseq has no types
    """A text in lanes of nearly equal length, cut into segments. Item *i* is a whole batch: segment i of every lane.

    The lanes are parts of the text, one after the other; the first ones have one token more where the numbers do not
    divide. Every token of the text is a target once. It is predicted from the token before it, in the first place of a
    lane too; the first token of the text follows an end of sentence.

    Args:
        text: the tokens, as `text_of` gives them.
        dictionary: of its words.
        length: T, tokens of a segment.
        lanes: B.
        name: of the text, for messages.

    Raises:
        UsageError: lanes, or a length, below 1; several lanes of which one is shorter than a segment.
    """

    def __init__(self, text: Text, dictionary: Any, length: int, lanes: int, name: str) -> None:
        super().__init__()
        self._text, self._dictionary = text, dictionary
        self.length, self.lanes, self.name = length, lanes, name
        faults = [f"--tokens-per-sample {length}: give at least 1"] if length < 1 else []
        faults += [f"--batch-size {lanes}: give at least 1"] if lanes < 1 else []
        if faults:
            raise UsageError.of_faults(name, faults)
        if lanes > 1 and len(text) < lanes * length:
            raise UsageError(
                f"{name} has {len(text)} tokens, too few for {lanes} lanes of a segment of {length}: choose fewer "
                "lanes (--batch-size, --batch-size-valid) or shorter segments (--tokens-per-sample)"
            )
        size, longer = divmod(len(text), lanes)
        self._starts = [lane * size + min(lane, longer) for lane in range(lanes + 1)]
        self.lane_length = self._starts[1]

    def in_lanes(self, lanes: int) -> "SegmentDataset":
        """The same text in another number of lanes."""
        return SegmentDataset(self._text, self._dictionary, self.length, lanes, self.name)

    def __len__(self) -> int:
        return -(-self.lane_length // self.length)

    def __getitem__(self, number: int) -> dict[str, Any]:
        rows = []
        for lane, (start, end) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            first = min(start + number * self.length, end)
            before = self._text[first - 1] if first else self._dictionary.eos()
            rows.append((number * self.lanes + lane, [before, *self._text[first : min(first + self.length, end)]]))
        return self._batch(number, rows)

    def _batch(self, number: int, rows: Sequence[tuple[int, Sequence[int]]]) -> dict[str, Any]:
        """What fairseq's criteria and scorers read; rows are ids, and the tokens from the one before the segment on."""
        lengths = [len(tokens) - 1 for _, tokens in rows]
        source = torch.full((len(rows), max(lengths)), self._dictionary.pad())
        target = source.clone()
        for row, (length, (_, tokens)) in enumerate(zip(lengths, rows, strict=True)):
            own = torch.tensor(tokens, dtype=torch.long)
            source[row, :length], target[row, :length] = own[:-1], own[1:]
        return {
            "id": torch.tensor([id for id, _ in rows]),
            "nsentences": len(rows),
            "ntokens": sum(lengths),
            "net_input": {
                "src_tokens": source,
                "src_lengths": torch.tensor(lengths),
                "segment": Segment(number, len(self), self.length),
            },
            "target": target,
        }

    def collater(self, batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The one batch that fairseq has asked for."""
        return batches[0] if batches else {}

    def num_tokens(self, number: int) -> int:
        """Tokens of a batch, padding included."""
        return self.lanes * min(self.length, self.lane_length - number * self.length)

    def size(self, number: int) -> int:
        """Columns of a batch."""
        return self.num_tokens(number) // self.lanes


class InOrder(EpochBatchIterator):  # type: ignore[misc]
    """Segments in their order, whatever was said about shuffling."""

    def __init__(self, dataset: SegmentDataset, **options: Any) -> None:
        batches = [[number] for number in range(len(dataset))]
        super().__init__(dataset, dataset.collater, batches, disable_shuffling=True, **options)

    def ordered_batches(self, epoch: int, fix_batches_to_gpus: bool, shuffle: bool) -> list[list[int]]:
        """Batches of an epoch; a checkpoint of another task may ask for a shuffle."""
        return list(self.frozen_batches)
