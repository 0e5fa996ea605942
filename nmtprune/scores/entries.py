"""What a score file says of units, of the test data, and of each of several directions."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict

from nmtprune import strictjson
from nmtprune.architecture import EVERY_KIND, KINDS, GroupId, UnitId
from nmtprune.plan import ranges

PROBABILITIES = ("p", "p_corrected", "p_sacrebleu")
OPTIONAL = ("delta", "ci", *PROBABILITIES, "details")
COLUMNS = ("score", "delta", "ci", *PROBABILITIES)

FROZEN = ConfigDict(frozen=True, extra="forbid")
Json = Annotated[Mapping[str, Any], AfterValidator(strictjson.freeze)]


class HeadScore(BaseModel):
    """What is known of one unit; fields that mean nothing for the metric are None and absent from the file.

    Attributes:
        head: name of the head, ``encoder.0.3``; in memory also that of a neuron or layer.
        score: higher means keep, whatever the metric and mode.
        delta: metric(masked) - metric(full).
        ci: 95 % percentile interval of `delta`.
        p: two-sided p-value of `delta`.
        p_corrected: the same, corrected for the number of heads.
        p_sacrebleu: the p-value that sacrebleu reports.
        details: further numbers of the head by name.
    """

    model_config = FROZEN

    head: str
    score: float
    delta: float | None = None
    ci: tuple[float, float] | None = None
    p: float | None = None
    p_corrected: float | None = None
    p_sacrebleu: float | None = None
    details: Mapping[str, float] | None = None

    @property
    def id(self) -> UnitId:
        """The unit's id."""
        return UnitId.parse(self.head, EVERY_KIND)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the file."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class GroupScores(BaseModel):
    """What is known of the units of one group, as columns: each has an entry per unit, fields as in `HeadScore`.

    Attributes:
        units: numbers of the units as ranges, ``0-255``.
        score: higher means keep.
        delta: metric(without the unit) - metric(full).
        ci: 95 % percentile intervals of `delta`.
        p: two-sided p-values of `delta`.
        p_corrected: the same, corrected for the number of units.
        p_sacrebleu: the p-values that sacrebleu reports.
        details: further numbers of each unit by name.
    """

    model_config = FROZEN

    units: str
    score: tuple[float, ...]
    delta: tuple[float, ...] | None = None
    ci: tuple[tuple[float, float], ...] | None = None
    p: tuple[float, ...] | None = None
    p_corrected: tuple[float, ...] | None = None
    p_sacrebleu: tuple[float, ...] | None = None
    details: Mapping[str, tuple[float, ...]] | None = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the units."""
        return ranges.numbers_in(self.units)[0]

    @classmethod
    def of(cls, entries: Sequence[HeadScore]) -> "GroupScores":
        """The columns of the entries of one group, which all have the same fields."""
        columns: dict[str, Any] = {"units": ranges.as_ranges(entry.id.number for entry in entries)}
        for name in COLUMNS:
            column = tuple(getattr(entry, name) for entry in entries)
            columns |= {name: column} if None not in column else {}
        names = entries[0].details or {}
        details = {name: tuple((entry.details or {})[name] for entry in entries) for name in names}
        return cls(**columns, details=details or None)

    def entries(self, group: GroupId) -> Iterator[HeadScore]:
        """One entry per unit."""
        columns = {name: column for name in COLUMNS if (column := getattr(self, name)) is not None}
        for place, number in enumerate(self.numbers):
            values = {name: column[place] for name, column in columns.items()}
            details = {name: column[place] for name, column in (self.details or {}).items()}
            yield HeadScore.model_construct(head=str(UnitId(group, number)), details=details or None, **values)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the file."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class HeldOut(BaseModel):
    """What heads that were chosen by their scores are worth on other data.

    Attributes:
        baseline: the metric of the full model there with whatever else describes the measurement; any JSON object.
        heads: one entry per chosen head.
    """

    model_config = FROZEN

    baseline: Json
    heads: tuple[HeadScore, ...]


Columns = Mapping[str, GroupScores]


class DirectionScores(BaseModel):
    """What units are worth in one of several directions.

    Attributes:
        name: of the direction.
        baseline: the metric of the full model there with whatever else describes the measurement; any JSON object.
        heads: version 1: as in the file.
        units: version 2: as in the file.
    """

    model_config = FROZEN

    name: str
    baseline: Json
    heads: tuple[HeadScore, ...] = ()
    units: Columns | None = None

    @classmethod
    def of(cls, name: str, baseline: Mapping[str, Any], entries: Sequence[HeadScore]) -> "DirectionScores":
        """From one entry per unit."""
        heads, units = by_version(entries)
        return cls(name=name, baseline=baseline, heads=heads, units=units)

    @property
    def entries(self) -> tuple[HeadScore, ...]:
        """One entry per scored unit."""
        return self.heads if self.units is None else tuple(entries_of(self.units))


def by_version(entries: Sequence[HeadScore]) -> tuple[tuple[HeadScore, ...], dict[str, GroupScores] | None]:
    """The entries as a file of version 1 has them, where all are of heads, or as version 2 has them.

    Args:
        entries: all units of some groups, those of a group in order and with the same fields.
    """
    by_group: dict[GroupId, list[HeadScore]] = {}
    for entry in entries:
        by_group.setdefault(entry.id.group, []).append(entry)
    if all(group.kind in KINDS for group in by_group):
        return tuple(entries), None
    return (), {str(group): GroupScores.of(by_group[group]) for group in sorted(by_group)}


def entries_of(units: Columns) -> Iterator[HeadScore]:
    """One entry per unit of the groups of a file of version 2."""
    for name, own in units.items():
        yield from own.entries(GroupId.parse(name, EVERY_KIND))
