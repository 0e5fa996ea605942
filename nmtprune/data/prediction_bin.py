"""Folders of fairseq's task ``sentence_prediction``: ``input0``, ``input1`` for pairs, and ``label``.

Framing, cutting and numbers of labels are those of fairseq 0.12, ``tasks/sentence_prediction.py``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from nmtprune.data.mmap import data_path, index_path, read_sentences
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.data.text import first_of
from nmtprune.data.vocabulary import FairseqVocabulary, check_size
from nmtprune.errors import DataError
from nmtprune.profile import ClassifierProfile, PairFrame

_FIRST, _SECOND, _LABEL = "input0", "input1", "label"
_DICTIONARY = "dict.txt"
_MASK = "<mask>"
_SPECIAL = 4
"""Symbols in front of the labels of a dictionary."""
_TRUNCATE = "truncate"


@dataclass(frozen=True)
class PredictionBin:
    """A folder of ``input0/SUBSET.{bin,idx}``, ``label/SUBSET.{bin,idx}`` and dictionaries."""

    folder: Path

    @cached_property
    def dictionary(self) -> FairseqVocabulary:
        """The symbols of texts, ``<mask>`` behind those of the file as in fairseq.

        Raises:
            DataError: it is missing or damaged.
        """
        return FairseqVocabulary.read(self._existing(_FIRST)).with_symbols([_MASK])

    @cached_property
    def labels(self) -> FairseqVocabulary:
        """The dictionary of labels; errors as of the other one."""
        return FairseqVocabulary.read(self._existing(_LABEL))

    def label_names(self, count: int) -> tuple[str, ...]:
        """Names of the labels of a model.

        Raises:
            DataError: the dictionary is missing or damaged, or has fewer labels than the model.
        """
        names = self.labels.symbols[_SPECIAL : _SPECIAL + count]
        if len(names) < count:
            raise DataError(f"{self.labels.path}: has {len(names)} labels, but the model has {count}: of another task")
        return names

    def check(self, model: ClassifierProfile) -> None:
        """Check that the texts have the model's dictionary.

        Raises:
            DataError: they have not, or a dictionary is missing or damaged.
        """
        check_size(self.dictionary, model.symbols, "source")

    def texts(self, subset: str) -> tuple[list[Sentences], tuple[Path, ...]]:
        """The texts of a subset, one list of sentences or two for pairs, and the files read.

        Raises:
            DataError: files are missing or damaged, or the two texts are not of one set.
        """
        prefixes = [self.folder / _FIRST / subset]
        self._check_subset(subset)
        if self._there(_SECOND, subset):
            prefixes.append(self.folder / _SECOND / subset)
        found = [read_sentences(prefix, len(self.dictionary)) for prefix in prefixes]
        for prefix, own in zip(prefixes, found, strict=True):
            if len(own) != len(found[0]):
                raise DataError(f"{prefix}: {len(own)} texts, but {prefixes[0]} has {len(found[0])}")
        return found, tuple(file(prefix) for prefix in prefixes for file in (index_path, data_path))

    def targets(self, subset: str, names: Sequence[str], texts: int) -> tuple[Ids, tuple[Path, ...]]:
        """Numbers of the labels of a subset, and the files read.

        Raises:
            DataError: there are none, as many as texts, or labels that the model does not have; all faults.
        """
        prefix = self.folder / _LABEL / subset
        if not self._there(_LABEL, subset):
            if prefix.with_name(f"{subset}.label").exists():
                raise DataError(f"{prefix}.label: numbers for regression: nmtprune reads labels of classes")
            raise DataError(f"{prefix}: no labels: binarize them (fairseq-preprocess --only-source)")
        labels = read_sentences(prefix, len(self.labels))
        if len(labels) != texts:
            raise DataError(f"{prefix}: {len(labels)} labels, but {self.folder / _FIRST / subset} has {texts} texts")
        found, faults = np.zeros(texts, dtype=np.int64), []
        for row, ids in enumerate(labels):
            own = ids[ids != self.labels.eos] - _SPECIAL
            if len(own) != 1:
                faults.append(f"text {row} has {len(own)} labels")
            elif not 0 <= own[0] < len(names):
                faults.append(f"text {row} has '{self.labels.symbols[int(own[0]) + _SPECIAL]}'")
            else:
                found[row] = own[0]
        if faults:
            listed = f"labels that the model does not have ({', '.join(names[:10])}; texts are counted from 0)"
            raise DataError.of_faults(f"{prefix}: {listed}", first_of(faults))
        return found, (index_path(prefix), data_path(prefix))

    def _existing(self, part: str) -> Path:
        path = self.folder / part / _DICTIONARY
        if not path.exists():
            what = "is no folder" if not self.folder.is_dir() else f"has no {part}/{_DICTIONARY}"
            raise DataError(
                f"{self.folder}: {what}: name the folder of a task sentence_prediction, which has input0 and label"
            )
        return path

    def _there(self, part: str, subset: str) -> bool:
        prefix = self.folder / part / subset
        return index_path(prefix).exists() or data_path(prefix).exists()

    def _check_subset(self, subset: str) -> None:
        if not self._there(_FIRST, subset):
            there = sorted(path.stem for path in (self.folder / _FIRST).glob("*.idx"))
            listed = f"there are {', '.join(there)}" if there else "there is none: run fairseq-preprocess"
            raise DataError(f"{self.folder / _FIRST}: no subset '{subset}'; {listed}")


def framed(texts: Sequence[Sentences], frame: PairFrame) -> Sentences:
    """Texts or pairs with the tokens around them, each text with the end of sentence that it has."""
    return Sentences.of(_framed(texts, frame))


def _framed(texts: Sequence[Sentences], frame: PairFrame) -> Iterator[Ids]:
    fronts = (frame.init, frame.separator)
    for row in range(len(texts[0])):
        parts: list[Ids] = []
        for own, front in zip(texts, fronts, strict=False):
            parts += [own[row]] if front is None else [np.array([front]), own[row]]
        yield np.concatenate(parts)


def truncated(tokens: Sentences, most: int) -> Sentences:
    """Texts of at most that many tokens, the rest cut off as fairseq's ``--shorten-method truncate`` does."""
    return Sentences(tokens.tokens, tokens.starts, np.minimum(tokens.sizes, most), tokens.shift)


def shortens(frame: PairFrame | None) -> bool:
    """Whether the model was trained on texts that were cut to its positions."""
    return frame is not None and frame.shorten == _TRUNCATE
