"""DATA, read once in a run however many models and purposes it has."""

from collections.abc import Hashable

from nmtprune.data.corpus import Corpus, Dataset
from nmtprune.data.options import DataOptions
from nmtprune.profile import ModelProfile


class Corpora:
    """Reads each file of each set of sentences once, for all models."""

    def __init__(self) -> None:
        """Read nothing yet."""
        self._sets: dict[Hashable, Dataset] = {}

    def read(self, data: DataOptions, model: ModelProfile, *, references: bool = True, targets: bool = False) -> Corpus:
        """What `load_corpus` gives for the same arguments.

        Raises:
            DataError, UsageError: as for `load_corpus`.
        """
        key = Dataset.shared_by(data, model)
        if key not in self._sets:
            self._sets[key] = Dataset(data, model)
        return self._sets[key].corpus(model, references=references, targets=targets)
