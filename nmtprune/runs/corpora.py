"""DATA, read once in a run however many models and purposes it has."""

from dataclasses import replace

from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.errors import DataError, UsageError
from nmtprune.profile import ModelProfile

_Asked = tuple[bool, bool]
"""Whether reference texts and whether reference token ids are needed."""


class Corpora:
    """Reads each set of sentences once for all models with the same requirements."""

    def __init__(self) -> None:
        self._expected: dict[DataOptions, _Asked] = {}
        self._read: dict[tuple[DataOptions, ModelProfile, _Asked], Corpus] = {}

    def expect(self, data: DataOptions, *, references: bool = False, targets: bool = False) -> None:
        """Announce what will be needed of a set, so that the first reading reads all of it."""
        texts, ids = self._expected.get(data, (False, False))
        self._expected[data] = texts or references, ids or targets

    def read(self, data: DataOptions, model: ModelProfile, *, references: bool = True, targets: bool = False) -> Corpus:
        """What `load_corpus` gives for the same arguments; its remarks may say more of the references.

        Raises:
            DataError, UsageError: as for `load_corpus`.
        """
        texts, ids = self._expected.get(data, (False, False))
        everything = self._everything(data, model, (texts or references, ids or targets))
        # Raw references have no length in tokens where only their text is needed: then no sentence is too long.
        if everything is None or (len(everything) < everything.total and data.source is not None):
            everything = self._once(data, model, (references, targets))
        keeps_ids = targets or data.source is None
        return replace(
            everything,
            references=everything.references if references else None,
            target=everything.target if keeps_ids else None,
        )

    def _everything(self, data: DataOptions, model: ModelProfile, asked: _Asked) -> Corpus | None:
        """The set with all that is expected of it; None where only a part of that can be read."""
        try:
            return self._once(data, model, asked)
        except (DataError, UsageError):
            return None

    def _once(self, data: DataOptions, model: ModelProfile, asked: _Asked) -> Corpus:
        key = data, model, asked
        if key not in self._read:
            self._read[key] = load_corpus(data, model, references=asked[0], targets=asked[1])
        return self._read[key]
