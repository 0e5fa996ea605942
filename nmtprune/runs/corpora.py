"""DATA, read once in a run however many models and purposes it has."""

from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.data.corpus import Corpus, Dataset, random_corpus
from nmtprune.data.directions import Directions, Sets, in_direction
from nmtprune.data.examples import Examples
from nmtprune.data.labelled import LabelledSet
from nmtprune.data.mixture import Mixture
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.profile import ClassifierProfile, ModelProfile

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


class Corpora:
    """Reads each file of each set of sentences once, for all models."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._sets: dict[Hashable, Dataset] = {}
        self._labelled: dict[DataOptions, LabelledSet] = {}

    def of_model(
        self, data: Sets, checkpoint: "Checkpoint", *, references: bool = True, targets: bool = False
    ) -> Corpus | Examples:
        """What a model reads: sentences to translate, or texts with labels.

        Args:
            data: what the user named.
            checkpoint: the model.
            references: reference texts are needed, of a model that translates.
            targets: references as token ids are needed, or labels.

        Raises:
            DataError, UsageError: as for `read` and `labelled`.
        """
        if checkpoint.classifies:
            return self.labelled(data, checkpoint.classifier_profile(), labels=references or targets)
        return self.read(data, checkpoint.profile(), references=references, targets=targets)

    def labelled(self, data: Sets, model: ClassifierProfile, *, labels: bool = True) -> Examples:
        """The texts of a classifier, with their labels if these are needed.

        Raises:
            UsageError: several directions, no column of labels, or options of translations.
            DataError: as for `data.labelled.LabelledSet`.
        """
        if isinstance(data, Directions):
            raise UsageError(f"{data.file}: directions are those of translations: a classifier has one set of texts")
        if data not in self._labelled:
            self._labelled[data] = LabelledSet(data)
        found = self._labelled[data].examples(model)
        if labels and found.labels is None:
            raise UsageError(f"{found.name}: labels are needed: name their column with `label_column` NAME")
        return found

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
