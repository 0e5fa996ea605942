"""Sorting sentences by length, batching them by tokens, and padding: the rules of fairseq-generate.

What shares a batch decides the last bits of floating-point results, so the batches are those of fairseq 0.12, with one
exception: fairseq 0.12.3 drops the last batch, the one of the longest sentences, where its size is no multiple of
``--required-batch-size-multiple`` (``data_utils.batch_by_size``). Here every sentence is translated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.data.ragged import Ids
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

MAX_TOKENS = 12000
"""Tokens per batch of fairseq-generate where neither ``--max-tokens`` nor ``--batch-size`` is given."""

BATCH_SIZE_MULTIPLE = 8
"""fairseq's ``--required-batch-size-multiple``."""

_FIRST_EPOCH = 1


@dataclass(frozen=True)
class BatchLimits:
    """How large a batch may be.

    Attributes:
        max_tokens: sentences x longest sentence, padding included; None for no limit.
        max_sentences: sentences, fairseq's ``--batch-size``; None for no limit.
        multiple: batches above this size hold a multiple of it, where that is possible.
    """

    max_tokens: int | None = None
    max_sentences: int | None = field(default=None, metadata={"option": "--batch-size"})
    multiple: int = BATCH_SIZE_MULTIPLE

    @classmethod
    def of(cls, max_tokens: int | None = None, max_sentences: int | None = None) -> "BatchLimits":
        """The limits of fairseq-generate for these two options: MAX_TOKENS where neither is given."""
        if max_tokens is None and max_sentences is None:
            max_tokens = MAX_TOKENS
        return cls(max_tokens, max_sentences)


def shuffled(count: int, seed: int = 1) -> Ids:
    """The permutation in which fairseq-generate, with ``--seed``, takes sentences before it sorts them by length.

    fairseq shuffles every subset but the one named ``test``; sentences of equal lengths keep this order.
    """
    return np.random.RandomState(seed + _FIRST_EPOCH).permutation(count).astype(np.int64)


def order_by_length(order: Ids, source_sizes: Ids, target_sizes: Ids | None = None) -> Ids:
    """Sort positions of sentences by source length, then target length; equal ones stay in the order given."""
    if target_sizes is not None:
        order = order[np.argsort(target_sizes[order], kind="stable")]
    return order[np.argsort(source_sizes[order], kind="stable")]


def batch_by_size(order: Ids, sizes: Ids, limits: BatchLimits) -> list[Ids]:
    """Cut an order of sentences into batches.

    Args:
        order: positions of sentences.
        sizes: tokens of each sentence, by position: of the longer side, where there are two.
        limits: how large a batch may be.

    Returns:
        The batches; joined they are `order`.

    Raises:
        UsageError: a sentence has more tokens than a batch may have.
    """
    longest = int(sizes[order].max(initial=0))
    if limits.max_tokens is not None and longest > limits.max_tokens:
        raise UsageError(f"`max_tokens` {limits.max_tokens} is too small: the longest sentence has {longest} tokens")
    bounds = [0, *_ends(sizes[order].tolist(), limits)]
    return [order[begin:end] for begin, end in zip(bounds, bounds[1:], strict=False)]


def _ends(sizes: list[int], limits: BatchLimits) -> Iterator[int]:
    """Where batches end.

    A batch grows by whole groups that leave its size below the multiple or at one; sentences since the last such size
    form a tail. When batch and tail together exceed a limit, the batch is closed and the tail starts the next one; a
    tail that is itself too large is closed before the sentence that made it so.
    """
    most_tokens = limits.max_tokens or float("inf")
    most_sentences = limits.max_sentences or float("inf")
    start = end = width = tail_width = 0
    for place, size in enumerate(sizes):
        tail_width = max(tail_width, size)
        count = place + 1 - start
        both = max(width, tail_width)
        if count > most_sentences or count * both > most_tokens:
            yield end
            start = end
            if tail_width * (place + 1 - end) > most_tokens:
                yield place
                start, tail_width = place, size
            both = tail_width
        elif count >= limits.multiple and count % limits.multiple:
            continue
        end, width, tail_width = place + 1, both, 0
    if end < len(sizes):
        yield end
    if sizes:
        yield len(sizes)


@dataclass(frozen=True, eq=False)
class Batch:
    """Sentences padded to one length, longest source first.

    Attributes:
        positions: [B], positions of the sentences in the corpus.
        source: [B, S] token ids.
        source_lengths: [B], tokens of each source sentence.
        target: [B, T] token ids, padding for those that no loss counts; None without a target side.
        previous: [B, T] decoder input, the target shifted right behind an end-of-sentence symbol; None likewise.
    """

    positions: Ids
    source: "Tensor"
    source_lengths: "Tensor"
    target: "Tensor | None" = None
    previous: "Tensor | None" = None


def collate(sentences: Sequence[Ids], pad: int, *, left_pad: bool) -> "Tensor":
    """Pad sentences to the longest one.

    Args:
        sentences: token ids, B sentences.
        pad: id of the padding symbol.
        left_pad: padding goes before the sentence instead of after it.

    Returns:
        LongTensor [B, S].
    """
    import torch

    width = max(len(sentence) for sentence in sentences)
    padded = np.full((len(sentences), width), pad, dtype=np.int64)
    for row, sentence in zip(padded, sentences, strict=True):
        row[width - len(sentence) if left_pad else 0 :][: len(sentence)] = sentence
    return torch.from_numpy(padded)


def shift_right(sentences: Sequence[Ids], start: int) -> list[Ids]:
    """Decoder inputs of teacher forcing: what starts a sentence, then the target without its last token."""
    return [np.concatenate((np.array([start], dtype=np.int64), sentence[:-1])) for sentence in sentences]
