"""DATA, read once in a run however many models and purposes it has."""

from collections.abc import Hashable
from dataclasses import replace

import numpy as np

from nmtprune.data.corpus import Corpus, Dataset, random_corpus
from nmtprune.data.directions import Directions, Sets, in_direction
from nmtprune.data.mixture import Mixture
from nmtprune.data.options import DataOptions
from nmtprune.profile import ModelProfile


class Corpora:
    """Reads each file of each set of sentences once, for all models."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._sets: dict[Hashable, Dataset] = {}

    def read(self, data: Sets, model: ModelProfile, *, references: bool = True, targets: bool = False) -> Corpus:
        """What `load_corpus` gives for the same arguments; of several directions a `Mixture`.

        Raises:
            DataError, UsageError: as for `load_corpus`, with the name of the direction.
        """
        if isinstance(data, Directions):
            return Mixture.of(self.read_each(data, model, references=references, targets=targets))
        return self._read(data, model, references=references, targets=targets)

    def read_each(
        self, data: Directions, model: ModelProfile, *, references: bool = True, targets: bool = False
    ) -> dict[str, Corpus]:
        """The sentences of each direction by its name; arguments and errors as for `read`."""
        found = {}
        for name, own in data.sets.items():
            with in_direction(name):
                found[name] = self._read(own, model, references=references, targets=targets)
        return found

    def first(self, data: DataOptions, model: ModelProfile, most: int) -> Corpus:
        """The first sentences of what is named, or else random words: to compare two models on.

        Sentences keep their numbers, so that those which were left out stay gaps.

        Raises:
            DataError, UsageError: as for `load_corpus`.
        """
        if data.source is None and data.subset is None:
            return random_corpus(data, model, most)
        found = self.read(data, model, references=False)
        first = found.select(np.arange(min(most, len(found))))
        return replace(first, references=None, total=int(first.numbers[-1]) + 1 if len(first) else 0)

    def _read(self, data: DataOptions, model: ModelProfile, *, references: bool, targets: bool) -> Corpus:
        key = Dataset.shared_by(data, model)
        if key not in self._sets:
            self._sets[key] = Dataset(data, model)
        return self._sets[key].corpus(model, references=references, targets=targets)
