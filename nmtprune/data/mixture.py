"""Sentences of several directions as one corpus: for what is measured or fitted on all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nmtprune.data.corpus import Corpus
from nmtprune.data.databin import Languages
from nmtprune.data.examples import Examples
from nmtprune.data.framing import Frame
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import UsageError

_OWN_FACTS = ("data", "languages", "sentences", "left_out", "post_process", "tokenizer")
"""Facts that a mixture has of its own, and those of the first direction that every result file has."""


@dataclass(frozen=True, eq=False)
class Mixture(Corpus):
    """Sentences of several directions, one direction after the other, each with the tokens of its own direction.

    Batches hold sentences of all directions. What turns token ids into text belongs to a direction: see `parts`.

    Attributes:
        parts: the sentences of each direction by its name, all that there are.
    """

    parts: Mapping[str, Corpus] = field(default_factory=dict)

    @classmethod
    def of(cls, parts: Mapping[str, Corpus]) -> "Mixture":
        """All sentences of several directions for one model; a target side only where all directions have one."""
        every = list(parts.values())
        targets = [own.target for own in every if own.target is not None]
        sources, first = [own.source for own in every], every[0]
        total = sum(map(len, every))
        return cls(
            name=" + ".join(parts),
            languages=Languages(*("+".join(dict.fromkeys(sides)) for sides in zip(*map(_pair, every), strict=True))),
            source=Sentences.joined(sources),
            target=Sentences.joined(targets) if len(targets) == len(every) else None,
            references=None,
            numbers=np.arange(total),
            total=total,
            source_vocabulary=first.source_vocabulary,
            target_vocabulary=first.target_vocabulary,
            codec=first.codec,
            model=first.model,
            inputs={path: sha for own in every for path, sha in own.inputs.items()},
            notes=(),
            crop_source=first.crop_source,
            frame=Frame(),
            parts=parts,
        )

    @property
    def left_out(self) -> int:
        """Sentences too long for the model, of all directions."""
        return sum(own.left_out for own in self.parts.values())

    @property
    def counted(self) -> Ids:
        """Tokens of every reference that its loss counts."""
        if self.target is None:
            return np.zeros(0, dtype=np.int64)
        return self.target.sizes - self._of_direction([own.frame.given for own in self.parts.values()])

    def starts(self, positions: Ids) -> list[int]:
        """Of each direction its own."""
        found = self._of_direction([own.target_vocabulary.start for own in self.parts.values()])
        return [int(start) for start in found[positions]]

    def given(self, positions: Ids) -> list[int]:
        """Of each direction its own."""
        found = self._of_direction([own.frame.given for own in self.parts.values()])
        return [int(number) for number in found[positions]]

    def describe(self) -> dict[str, str | int]:
        """What all directions have in common; facts of each are those of its part."""
        every = [own.describe() for own in self.parts.values()]
        common = {key: value for key, value in every[0].items() if all(own.get(key) == value for own in every[1:])}
        found = {**every[0], "data": self.name, "languages": str(self.languages)}
        found |= {"sentences": len(self), "left_out": self.left_out}
        return {key: value for key, value in found.items() if key in common or key in _OWN_FACTS}

    def split(self) -> dict[str, Corpus]:
        """The sentences of each direction."""
        firsts = np.cumsum([0, *(len(own) for own in self.parts.values())])
        return {
            name: own.select(self.numbers[self.places(name)] - first)
            for first, (name, own) in zip(firsts, self.parts.items(), strict=False)
        }

    def places(self, name: str) -> Ids:
        """Positions of the sentences of one direction."""
        return np.flatnonzero(self._origins == [*self.parts].index(name))

    @cached_property
    def _origins(self) -> Ids:
        """Number of the direction of each sentence."""
        ends = np.cumsum([len(own) for own in self.parts.values()])
        return np.searchsorted(ends, self.numbers, side="right")

    def _of_direction(self, values: Sequence[int]) -> Ids:
        """A value of the direction of each sentence."""
        return np.array(values, dtype=np.int64)[self._origins]


def _pair(corpus: Corpus) -> tuple[str, str]:
    return corpus.languages.source, corpus.languages.target


def parts_of(corpus: Corpus | Examples) -> Mapping[str, Corpus]:
    """The directions of a corpus by their names; none of one direction."""
    return corpus.parts if isinstance(corpus, Mixture) else {}


def shares(sentences: int, directions: Mapping[str, int]) -> dict[str, int]:
    """Equal parts of a number of sentences, the first ones larger by one where it does not divide.

    Args:
        sentences: to take from all directions together.
        directions: sentences that each has; none gives more than the smallest has.

    Raises:
        UsageError: fewer sentences than directions.
    """
    if sentences < len(directions):
        raise UsageError(f"{sentences} sentences cannot be drawn from {len(directions)} directions: take more")
    each, rest = divmod(sentences, len(directions))
    most = min(directions.values())
    return {name: min(most, each + (place < rest)) for place, name in enumerate(directions)}
