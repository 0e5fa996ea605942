"""Sentences of token ids written as a data folder that fairseq reads, whose symbols are the ids themselves."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from nmtprune.data.binarized import data_path, index_path
from nmtprune.data.databin import Languages
from nmtprune.data.sentences import Ids, Sentences
from nmtprune.data.vocabulary import FairseqVocabulary
from nmtprune.files import atomic_output, write_text

_INT32 = 4
_PAD, _UNK = "<pad>", "<unk>"
_SPECIAL = {_PAD: FairseqVocabulary.pad, _UNK: FairseqVocabulary.unk}
_FIRST_WORD = 4


@dataclass(frozen=True)
class NumberedData:
    """A subset of a data folder whose dictionaries spell every word as its number.

    So whatever a vocabulary holds, blanks and repeated symbols too, what fairseq prints can be read back.

    Attributes:
        folder: an existing folder.
        languages: as the file names spell them.
        words: sizes of the source and target vocabulary, special symbols included.
    """

    folder: Path
    languages: Languages
    words: tuple[int, int]

    def write(self, subset: str, source: Sentences, target: Sentences | None) -> None:
        """Write dictionaries and one subset; without `target` it has a source side only.

        Raises:
            OutputError: a file exists or cannot be written.
        """
        sides: Mapping[str, Sentences | None] = {self.languages.source: source, self.languages.target: target}
        for (language, sentences), words in zip(sides.items(), self.words, strict=True):
            lines = (f"{number} 1\n" for number in range(_FIRST_WORD, words))
            write_text(self.folder / f"dict.{language}.txt", "".join(lines))
            if sentences is not None:
                write_sentences(self.folder / f"{subset}.{self.languages}.{language}", sentences)


def read_numbers(text: str) -> tuple[int, ...]:
    """Token ids of a line that fairseq printed with such a dictionary.

    Raises:
        ValueError: the line holds something else.
    """
    return tuple(_SPECIAL[word] if word in _SPECIAL else int(word) for word in text.split())


def write_sentences(prefix: Path, sentences: Sentences) -> None:
    """Write PREFIX.idx and PREFIX.bin as ``fairseq-preprocess --dataset-impl mmap`` does, ids as 32-bit integers.

    Raises:
        OutputError: a file exists or cannot be written.
    """
    with atomic_output(data_path(prefix)) as file:
        for sentence in sentences:
            file.write(sentence.astype("<i4").tobytes())
    with atomic_output(index_path(prefix)) as file:
        _write_index(file, sentences.sizes)


def _write_index(file: BinaryIO, sizes: Ids) -> None:
    """MMIDIDX, version 1: int32 sizes, then int64 positions in bytes."""
    file.write(struct.pack("<9sQBQ", b"MMIDIDX\0\0", 1, _INT32, len(sizes)))
    file.write(sizes.astype("<i4").tobytes())
    file.write(((np.cumsum(sizes) - sizes) * 4).astype("<i8").tobytes())
