"""The score file: what every head, neuron or layer is worth under one metric."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from nmtprune import files, strictjson
from nmtprune.architecture import EVERY_KIND, KINDS, SORTS, Architecture, GroupId, UnitId
from nmtprune.budget import listed
from nmtprune.errors import DataError
from nmtprune.plan import Base
from nmtprune.scores.entries import (
    FROZEN,
    DirectionScores,
    GroupScores,
    HeadScore,
    HeldOut,
    Json,
    by_version,
    entries_of,
)
from nmtprune.scores.score_faults import scores_faults


def _either_version(schema: dict[str, Any]) -> None:
    """Say in the JSON schema that version 1 has heads and version 2 has units."""
    versions = ((1, "heads", "units"), (2, "units", "heads"))
    schema["oneOf"] = [
        {"properties": {"version": {"const": version}}, "required": [own], "not": {"required": [other]}}
        for version, own, other in versions
    ]


class Scores(BaseModel):
    """Scores of units under one metric.

    Attributes:
        format: always ``nmtprune-scores``.
        version: version of the file format: 1 for heads alone, 2 with neurons or layers.
        metric: ``bleu``, ``chrf``, ``loss``, ``importance``, ``confidence``, ...
        mode: ``ablate`` (one head masked) or ``all-but-one`` (all other heads of its module masked).
        baseline: the metric of the full model with whatever else describes the measurement; any JSON object.
        heads: version 1: one entry per scored head, in the order of their ids.
        units: version 2: by the name of its group, the scored units of each group, in the order of EVERY_KIND.
        test: the best head of each module (``all-but-one``) on test data, where there are such.
        directions: the scores in each of several directions, which those above are the mean or the worst of.
        base: the model that was scored, where that is recorded.
        provenance: how the file was made; any JSON object.

    Raises:
        DataError: on construction, naming every fault.
    """

    model_config = ConfigDict(**FROZEN, json_schema_extra=_either_version)

    format: Literal["nmtprune-scores"] = "nmtprune-scores"
    version: Literal[1, 2] = 1
    metric: str
    mode: Literal["ablate", "all-but-one"]
    baseline: Json
    heads: tuple[HeadScore, ...] = ()
    units: Mapping[str, GroupScores] | None = None
    test: HeldOut | None = None
    directions: tuple[DirectionScores, ...] | None = None
    base: Base | None = None
    provenance: Json = strictjson.FrozenDict()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        if isinstance(data, cls):
            return data
        faults = scores_faults(data)
        if faults:
            raise DataError.of_faults("scores", faults)
        if data.get("version", 1) == 2:
            names = sorted(data["units"], key=lambda name: GroupId.parse(name, EVERY_KIND))
            return handler({**data, "units": {name: data["units"][name] for name in names}})
        base = data.get("base")
        known = base.without_neurons() if isinstance(base, Base) else base
        return handler({**data, "heads": sorted(data["heads"], key=_id), **({"base": known} if "base" in data else {})})

    @classmethod
    def of(cls, entries: Sequence[HeadScore], **fields: Any) -> "Scores":
        """Scores from one entry per unit, of version 1 where all are heads.

        Args:
            entries: all units of some groups, those of a group in order and with the same fields.
            fields: the other fields.
        """
        heads, units = by_version(entries)
        return cls(heads=heads, **fields) if units is None else cls(version=2, units=units, **fields)

    @cached_property
    def entries(self) -> tuple[HeadScore, ...]:
        """One entry per scored unit, in the order of their ids, in files of either version."""
        return self.heads if self.units is None else tuple(entries_of(self.units))

    def by_direction(self) -> "dict[str, Scores]":
        """The scores of each of several directions by its name, as those of a run on it alone; else none."""
        return {
            own.name: self.__class__(
                version=self.version, metric=self.metric, mode=self.mode, baseline=own.baseline, base=self.base,
                provenance=self.provenance, **({"heads": own.heads} if own.units is None else {"units": own.units}),
            )
            for own in self.directions or ()
        }  # fmt: skip

    @property
    def sorts(self) -> tuple[str, ...]:
        """What was scored, of SORTS."""
        kinds = {name.partition(".")[0] for name in self.units or {}}
        return ("heads",) if self.units is None else tuple(sort for sort, own in SORTS.items() if kinds & {*own})

    @classmethod
    def from_json(cls, text: str, where: str = "scores") -> "Scores":
        """Read scores from JSON text.

        Raises:
            DataError: broken JSON, or every fault in one line that begins with `where`.
        """
        data = strictjson.loads(text, where, DataError)
        faults = scores_faults(data, complete=True)
        if faults:
            raise DataError.of_faults(where, faults)
        return cls.model_validate(data)

    @classmethod
    def read(cls, path: Path | str) -> "Scores":
        """Read a score file.

        Raises:
            DataError: the file cannot be read, or as for `from_json`.
        """
        return cls.from_json(strictjson.read(path, DataError), str(path))

    def to_json(self) -> str:
        """The scores as JSON text in full precision, one head or group a line, a newline at the end."""
        base, test = "", ""
        if self.base is not None:
            base = f' "base": {json.dumps(self.base.as_json(neurons=self.version > 1))},\n'
        if self.test is not None:
            measured, heads = json.dumps(self.test.baseline, allow_nan=False), _listing(self.test.heads, 3)
            test = f' "test": {{\n  "baseline": {measured},\n  "heads": {heads}}},\n'
        scored = _scored(self.heads, self.units, 1)
        directions = ""
        if self.directions is not None:
            directions = ' "directions": [\n' + ",\n".join(map(_direction, self.directions)) + "\n ],\n"
        return (
            f'{{"format": "{self.format}", "version": {self.version},\n'
            f' "metric": {json.dumps(self.metric)}, "mode": "{self.mode}",\n'
            f"{base}"
            f' "baseline": {json.dumps(self.baseline, allow_nan=False)},\n'
            f"{scored}"
            f"{test}"
            f"{directions}"
            f' "provenance": {json.dumps(self.provenance, allow_nan=False)}}}\n'
        )

    def write(self, path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
        """Write the score file atomically.

        Raises:
            OutputError: the path exists (without `force`), is one of `inputs`, or cannot be written.
        """
        files.write_text(path, self.to_json(), force=force, inputs=inputs)

    def scores_by_unit(self) -> dict[UnitId, float]:
        """Score of every unit that was scored, in files of either version."""
        if self.units is None:
            return {entry.id: entry.score for entry in self.heads}
        groups = {GroupId.parse(name, EVERY_KIND): own for name, own in self.units.items()}
        return {
            UnitId(group, number): score
            for group, own in groups.items()
            for number, score in zip(own.numbers, own.score, strict=True)
        }

    def scores_by_head(self) -> dict[UnitId, float]:
        """Score of every head that was scored."""
        return {unit: score for unit, score in self.scores_by_unit().items() if unit.group.kind in KINDS}

    def check(self, architecture: Architecture, kinds: Iterable[str] = KINDS, where: str = "scores") -> None:
        """Check that the scores are of units of this model and leave none of the selected kinds out.

        Raises:
            DataError: units that the model does not have, and units of `kinds` without a score, all of them.
        """
        known = [UnitId(group, number) for group, numbers in architecture.units.items() for number in numbers]
        there, scored, selected = set(known), set(self.scores_by_unit()), set(kinds)
        foreign = sorted(scored.difference(there))
        missing = [unit for unit in known if unit.group.kind in selected and unit not in scored]
        what = foreign[0].group.sort.removesuffix("s") if len({unit.group.sort for unit in foreign}) == 1 else "unit"
        faults = [f"the model has no {what} {listed(foreign)}"] if foreign else []
        faults += [f"no score for {listed(missing)} (select the kinds that were scored)"] if missing else []
        if faults:
            raise DataError.of_faults(f"{where}: made for another model or other kinds", faults)


def refuse_mix(scores: Iterable[Scores], names: Iterable[str]) -> None:
    """Check that score files may be used together: a score means one thing per mode.

    Raises:
        DataError: files of both modes; each file is named with its own.
    """
    modes = {name: each.mode for name, each in zip(names, scores, strict=True)}
    if len(set(modes.values())) > 1:
        listing = ", ".join(f"{name} is of mode {mode}" for name, mode in modes.items())
        raise DataError(f"scores of different modes do not compare: {listing}")


def _listing(heads: Iterable[HeadScore], indent: int) -> str:
    lines = (f"{' ' * indent}{json.dumps(entry.as_json(), allow_nan=False)}" for entry in heads)
    return "[\n" + ",\n".join(lines) + f"\n{' ' * (indent - 1)}]"


def _scored(heads: Sequence[HeadScore], units: Mapping[str, GroupScores] | None, indent: int) -> str:
    """The scores of units as lines of a file, a comma at the end."""
    space = " " * indent
    if units is None:
        return f'{space}"heads": {_listing(heads, indent + 1)},\n'
    lines = (f"{space} {json.dumps(name)}: {json.dumps(own.as_json(), allow_nan=False)}" for name, own in units.items())
    return f'{space}"units": {{\n' + ",\n".join(lines) + f"\n{space}}},\n"


def _direction(own: DirectionScores) -> str:
    measured = json.dumps(own.baseline, allow_nan=False)
    scored = _scored(own.heads, own.units, 3).rstrip(",\n")
    return f'  {{"name": {json.dumps(own.name)}, "baseline": {measured},\n{scored}}}'


def _id(entry: HeadScore | Mapping[str, Any]) -> UnitId:
    return entry.id if isinstance(entry, HeadScore) else UnitId.parse(entry["head"])
