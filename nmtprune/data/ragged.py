"""Sentences as token ids: one flat array, in memory or mapped from a file, and where each sentence lies in it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Token ids of one sentence, or positions of sentences."""


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences of token ids that are read when they are asked for.

    Attributes:
        tokens: ids of all sentences in one array of any integer type; may be a mapped file.
        starts: position in `tokens` of each sentence's first token.
        sizes: number of tokens of each sentence, the end-of-sentence symbol included.
        shift: what the file adds to every id (1 in fairseq's legacy format).
    """

    tokens: NDArray[Any]
    starts: Ids
    sizes: Ids
    shift: int = 0

    def __len__(self) -> int:
        """Number of sentences."""
        return len(self.sizes)

    def __getitem__(self, index: int) -> Ids:
        """Token ids of one sentence, [tokens of it], as a copy."""
        start = int(self.starts[index])
        sentence = self.tokens[start : start + int(self.sizes[index])].astype(np.int64)
        return sentence - self.shift if self.shift else sentence

    def __iter__(self) -> Iterator[Ids]:
        """Sentence by sentence."""
        return (self[index] for index in range(len(self)))

    def select(self, indices: Ids) -> "Sentences":
        """The sentences at these positions, in this order; the tokens are shared, not copied."""
        return Sentences(self.tokens, self.starts[indices], self.sizes[indices], self.shift)

    def backwards(self) -> "Sentences":
        """The sentences with their words in the opposite order; the end-of-sentence symbol stays at the end."""
        return Sentences.of(np.append(sentence[-2::-1], sentence[-1:]) for sentence in self)

    @classmethod
    def of(cls, sentences: Iterable[Ids]) -> "Sentences":
        """Sentences held in memory."""
        listed = list(sentences)
        sizes = np.array([len(sentence) for sentence in listed], dtype=np.int64)
        tokens = np.concatenate(listed) if listed else np.empty(0, dtype=np.int64)
        return cls(tokens, np.cumsum(sizes) - sizes, sizes)

    @classmethod
    def joined(cls, parts: Sequence["Sentences"]) -> "Sentences":
        """The sentences of several sets one after the other; several sets are copied into memory, one stays mapped."""
        return parts[0] if len(parts) == 1 else cls.of(sentence for part in parts for sentence in part)
