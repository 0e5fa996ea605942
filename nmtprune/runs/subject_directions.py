"""A checkpoint and the sentences of several directions as scorers see them."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from nmtprune.architecture import UnitId
from nmtprune.data.directions import MEAN, WORST, Directions, Sets, in_direction
from nmtprune.data.mixture import Mixture, shares
from nmtprune.methods.scorer import Scorer
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.subject import NativeModel, ScoredModel, open_subject

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.budget import Limits
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.methods.joint_order import UnitPrices

_SAMPLE = "importance_sentences"

UnitScores = Mapping[UnitId, float]


@dataclass(frozen=True)
class ScoredDirections:
    """A checkpoint with the sentences of several directions that its units are scored on.

    Attributes:
        each: the checkpoint on the sentences of each direction, by its name.
        mixed: on sentences of all directions together, in equal parts.
        across: MEAN or WORST: what a unit's score is, see `combined`.
    """

    each: Mapping[str, ScoredModel]
    mixed: ScoredModel
    across: str

    @property
    def corpus(self) -> "Corpus":
        """All sentences, a `Mixture`."""
        return cast("Corpus", self.mixed.corpus)

    def of(self, checkpoint: "Checkpoint") -> "ScoredDirections":
        """The same sentences for another checkpoint with the same vocabularies."""
        mixed = self.mixed.of(checkpoint)
        each = {name: replace(own.of(checkpoint), native=mixed.native) for name, own in self.each.items()}
        return replace(self, each=each, mixed=mixed)

    def scores(
        self,
        scorer: Scorer[Any],
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> UnitScores:
        """Scores of units, as `Scorer.scores` has them: of a scorer that `mixes` on all directions together."""
        if scorer.mixes:
            return scorer.scores(self.mixed, kept, limits, prices)
        return combined(self.by_direction(scorer, kept, limits, prices).values(), self.across)

    def by_direction(
        self,
        scorer: Scorer[Any],
        kept: "Kept | None" = None,
        limits: "Limits | None" = None,
        prices: "UnitPrices | None" = None,
    ) -> dict[str, UnitScores]:
        """Scores of units in each direction, as a run on that direction alone gives them."""
        return {name: own.scores(subject, kept, limits, prices) for name, (own, subject) in self._pairs(scorer).items()}

    def details(self, scorer: Scorer[Any], limits: "Limits | None" = None) -> Mapping[str, UnitScores]:
        """Further numbers of units, see `Scorer.details`: their means over the directions."""
        if scorer.mixes:
            return scorer.details(self.mixed, limits)
        every = [*self.details_by_direction(scorer, limits).values()]
        return {name: combined([own[name] for own in every], MEAN) for name in every[0]}

    def details_by_direction(
        self, scorer: Scorer[Any], limits: "Limits | None" = None
    ) -> dict[str, Mapping[str, UnitScores]]:
        """Further numbers of units in each direction."""
        return {name: own.details(subject, limits) for name, (own, subject) in self._pairs(scorer).items()}

    def facts(self, scorer: Scorer[Any]) -> dict[str, Any]:
        """On what and how a scorer measured, for result files; that of each direction by its name."""
        measured = scorer.sentences(self.mixed).describe()
        how = {"engine": "native", "across": self.across, **scorer.facts(self.mixed)}
        each = {name: subject.facts(own) for name, (own, subject) in self._pairs(scorer).items()}
        return {**measured, **how, "directions": each}

    def _pairs(self, scorer: Scorer[Any]) -> dict[str, tuple[Scorer[Any], ScoredModel]]:
        """For every direction the scorer with its part of the sentences that are drawn, and what it scores."""
        number = getattr(scorer.options, _SAMPLE, None)
        if number is None:
            return {name: (scorer, subject) for name, subject in self.each.items()}
        counts = shares(number, {name: len(subject.corpus) for name, subject in self.each.items()})
        scorers = {name: type(scorer)(replace(scorer.options, **{_SAMPLE: count})) for name, count in counts.items()}
        return {name: (scorers[name], subject) for name, subject in self.each.items()}


AnySubject = ScoredModel | ScoredDirections


def combined(scores: Iterable[UnitScores], across: str) -> dict[UnitId, float]:
    """One score of every unit from those of several directions.

    With MEAN their mean; with WORST the highest: a unit that one direction needs is needed.
    """
    every = list(scores)
    if across == WORST:
        return {unit: max(own[unit] for own in every) for unit in every[0]}
    return {unit: math.fsum(own[unit] for own in every) / len(every) for unit in every[0]}


def open_scored(
    scorer: Scorer[Any], native: NativeModel, data: Sets, seed: int, corpora: Corpora, across: str = MEAN
) -> AnySubject:
    """Read the sentences of a scorer, and check that it can score the model on them.

    Raises:
        NmtpruneError: as for `open_subject`, with the name of the direction.
    """
    if not isinstance(data, Directions):
        return open_subject(scorer, native, data, seed, corpora)
    each: dict[str, ScoredModel] = {}
    for name, own in data.sets.items():
        with in_direction(name):
            each[name] = open_subject(scorer, native, own, seed, corpora)
    mixture = equal_parts(Mixture.of({name: cast("Corpus", own.corpus) for name, own in each.items()}), seed)
    mixed = ScoredModel(native, mixture, seed, native.run)
    found = ScoredDirections(each, mixed, across)
    found.facts(scorer)
    return found


def equal_parts(mixture: Mixture, seed: int) -> "Corpus":
    """As many sentences of every direction as the smallest has, drawn with a seed; all where they have the same number.

    A remark says so.
    """
    from nmtprune.methods.measuring import drawn

    sizes = {name: len(own) for name, own in mixture.parts.items()}
    least = min(sizes, key=lambda name: sizes[name])
    if len({*sizes.values()}) == 1:
        return mixture
    counts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    note = f"in equal parts: {sizes[least]} sentences of each direction, as many as {least} has ({counts})"
    return replace(drawn(mixture, sizes[least] * len(sizes), seed), notes=(note,))
