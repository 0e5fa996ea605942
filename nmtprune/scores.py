"""The score file: what every head, neuron or layer is worth under one metric."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from nmtprune import files, strictjson
from nmtprune.architecture import EVERY_KIND, KINDS, SORTS, Architecture, GroupId, UnitId
from nmtprune.budget import listed
from nmtprune.errors import DataError, UsageError
from nmtprune.plan import Base, ranges
from nmtprune.plan.faults import base_faults
from nmtprune.strictjson import key_faults, show, show_key, value_faults

FORMAT = "nmtprune-scores"
VERSIONS = (1, 2)
MODES = ("ablate", "all-but-one")
PROBABILITIES = ("p", "p_corrected", "p_sacrebleu")
OPTIONAL = ("delta", "ci", *PROBABILITIES, "details")
COLUMNS = ("score", "delta", "ci", *PROBABILITIES)

_MOST_FAULTS = 5
"""Wrong values of one column that a message shows."""

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_Json = Annotated[Mapping[str, Any], AfterValidator(strictjson.freeze)]


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

    model_config = _FROZEN

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

    model_config = _FROZEN

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

    model_config = _FROZEN

    baseline: _Json
    heads: tuple[HeadScore, ...]


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
        base: the model that was scored, where that is recorded.
        provenance: how the file was made; any JSON object.

    Raises:
        DataError: on construction, naming every fault.
    """

    model_config = ConfigDict(**_FROZEN, json_schema_extra=_either_version)

    format: Literal["nmtprune-scores"] = "nmtprune-scores"
    version: Literal[1, 2] = 1
    metric: str
    mode: Literal["ablate", "all-but-one"]
    baseline: _Json
    heads: tuple[HeadScore, ...] = ()
    units: Mapping[str, GroupScores] | None = None
    test: HeldOut | None = None
    base: Base | None = None
    provenance: _Json = strictjson.FrozenDict()

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
        by_group: dict[GroupId, list[HeadScore]] = {}
        for entry in entries:
            by_group.setdefault(entry.id.group, []).append(entry)
        if all(group.kind in KINDS for group in by_group):
            return cls(heads=tuple(entries), **fields)
        units = {str(group): GroupScores.of(own) for group, own in by_group.items()}
        return cls(version=2, units=units, **fields)

    @cached_property
    def entries(self) -> tuple[HeadScore, ...]:
        """One entry per scored unit, in the order of their ids, in files of either version."""
        if self.units is None:
            return self.heads
        groups = {GroupId.parse(name, EVERY_KIND): own for name, own in self.units.items()}
        return tuple(entry for group, own in groups.items() for entry in own.entries(group))

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
        scored = f' "heads": {_listing(self.heads, 2)},\n'
        if self.units is not None:
            lines = (
                f"  {json.dumps(name)}: {json.dumps(own.as_json(), allow_nan=False)}"
                for name, own in self.units.items()
            )
            scored = ' "units": {\n' + ",\n".join(lines) + "\n },\n"
        return (
            f'{{"format": "{self.format}", "version": {self.version},\n'
            f' "metric": {json.dumps(self.metric)}, "mode": "{self.mode}",\n'
            f"{base}"
            f' "baseline": {json.dumps(self.baseline, allow_nan=False)},\n'
            f"{scored}"
            f"{test}"
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


def scores_faults(data: Any, complete: bool = False) -> list[str]:
    """Every fault of scores.

    Args:
        data: parsed JSON, or the arguments that `Scores` is built from.
        complete: keys that have a default must be there all the same, as in a file.
    """
    if not isinstance(data, Mapping):
        return [f"is {show(data)}, not a score file (a JSON object)"]
    second = data.get("version") == 2 and strictjson.is_int(data["version"])
    defaults = ["format", "version", "provenance"]
    scored, other = ("units", []) if second else ("heads", ["test"])
    required = ["metric", "mode", "baseline", scored, *(defaults if complete else [])]
    faults = key_faults(data, required, [*defaults, "base", *other])
    if data.get("format", FORMAT) != FORMAT:
        faults.append(f'format is {show(data["format"])}, not "{FORMAT}"')
    if not strictjson.is_int(data.get("version", 1)) or data.get("version", 1) not in VERSIONS:
        faults.append(
            f"version is {show(data['version'])}, this nmtprune reads versions {VERSIONS[0]} and {VERSIONS[1]}"
        )
    if not isinstance(data.get("metric", "?"), str) or not data.get("metric", "?"):
        faults.append(f"metric is {show(data['metric'])}, not a name")
    modes = MODES[:1] if second else MODES
    if data.get("mode", MODES[0]) not in modes:
        faults.append(f"mode is {show(data['mode'])}, not {'one of ' if len(modes) > 1 else ''}{', '.join(modes)}")
    for key in ("baseline", "provenance"):
        faults += _object_faults(data.get(key, {}), key)
    if "base" in data and (complete or data["base"] is not None) and not isinstance(data["base"], Base):
        faults += base_faults(data["base"], "base.")
    if "test" in data and (complete or data["test"] is not None) and not isinstance(data["test"], HeldOut):
        faults += _test_faults(data["test"])
    if second:
        return faults + (_units_faults(data["units"]) if "units" in data else [])
    return faults + (_list_faults(data["heads"], "heads") if "heads" in data else [])


def _units_faults(units: Any) -> list[str]:
    if not isinstance(units, Mapping) or not units:
        return [f"units is {show(units)}, not an object of scored groups"]
    faults: list[str] = []
    for name, own in units.items():
        try:
            GroupId.parse(name, EVERY_KIND)
        except UsageError as error:
            faults.append(f"units: {error}")
        if not isinstance(own, GroupScores):
            faults += _group_faults(own, f"units.{show_key(name)}")
    return faults


def _group_faults(own: Any, place: str) -> list[str]:
    if not isinstance(own, Mapping):
        return [f"{place} is {show(own)}, not an object"]
    faults = key_faults(own, ["units", "score"], OPTIONAL, f"{place}.")
    text = own.get("units", "0")
    if not isinstance(text, str) or not text:
        return [*faults, f"{place}.units is {show(text)}, not numbers as ranges such as 0-255"]
    numbers, wrong = ranges.numbers_in(text)
    if wrong:
        return [*faults, *(f"{place}.units: {fault}" for fault in wrong)]
    for key in COLUMNS:
        if key in own:
            faults += _column_faults(own[key], f"{place}.{key}", len(numbers), key)
    if "details" in own and not isinstance(own["details"], Mapping):
        faults.append(f"{place}.details is {show(own['details'])}, not an object")
    elif "details" in own:
        for key, column in own["details"].items():
            faults += _column_faults(column, f"{place}.details.{show_key(key)}", len(numbers), "score")
    return faults


def _column_faults(column: Any, place: str, count: int, key: str) -> list[str]:
    """Faults of a list of one value per unit; of many wrong values the first ones."""
    if not isinstance(column, (list, tuple)):
        return [f"{place} is {show(column)}, not a list of {count} numbers"]
    if len(column) != count:
        return [f"{place} has {len(column)} entries for {count} units"]
    if key == "ci":
        what = "a list of two numbers in ascending order"
        wrong = [(number, value) for number, value in enumerate(column) if not _is_interval(value)]
    elif key in PROBABILITIES:
        what = "a number from 0 to 1"
        wrong = [(number, value) for number, value in enumerate(column) if not (_is_number(value) and 0 <= value <= 1)]
    else:
        what = "a finite number"
        wrong = [(number, value) for number, value in enumerate(column) if not _is_number(value)]
    faults = [f"{place}[{number}] is {show(value)}, not {what}" for number, value in wrong[:_MOST_FAULTS]]
    return faults + ([f"{place}: {len(wrong) - _MOST_FAULTS} more like this"] if len(wrong) > _MOST_FAULTS else [])


def _test_faults(test: Any) -> list[str]:
    if not isinstance(test, Mapping):
        return _object_faults(test, "test")
    faults = key_faults(test, ["baseline", "heads"], prefix="test.")
    faults += _object_faults(test.get("baseline", {}), "test.baseline")
    return faults + (_list_faults(test["heads"], "test.heads") if "heads" in test else [])


def _object_faults(value: Any, name: str) -> list[str]:
    return value_faults(value, name) if isinstance(value, Mapping) else [f"{name} is {show(value)}, not an object"]


def _list_faults(heads: Any, where: str) -> list[str]:
    if not isinstance(heads, (list, tuple)) or not heads:
        return [f"{where} is {show(heads)}, not a list of scored heads"]
    faults: list[str] = []
    seen: set[str] = set()
    for position, entry in enumerate(heads):
        entry = entry.as_json() if isinstance(entry, HeadScore) else entry
        faults += _entry_faults(entry, f"{where}[{position}]")
        name = entry.get("head") if isinstance(entry, Mapping) else None
        if isinstance(name, str):
            if name in seen:
                faults.append(f"{show_key(name)} is scored twice")
            seen.add(name)
    return faults


def _entry_faults(entry: Any, place: str) -> list[str]:
    if not isinstance(entry, Mapping):
        return [f"{place} is {show(entry)}, not an object"]
    name = entry.get("head", "encoder.0.0")
    named = _names_head(name)
    faults = [] if named else [f"{place}.head is {show(name)}, not the name of a head (KIND.LAYER.HEAD)"]
    place = f"{name}" if named and "head" in entry else place
    faults += key_faults(entry, ["head", "score"], OPTIONAL, f"{place}.")
    for key in ("score", "delta", *PROBABILITIES):
        if key in entry:
            faults += _number_faults(entry[key], f"{place}: {key}", key in PROBABILITIES)
    if "details" in entry:
        faults += _details_faults(entry["details"], f"{place}: details")
    if "ci" in entry and not _is_interval(entry["ci"]):
        faults.append(f"{place}: ci is {show(entry['ci'])}, not a list of two numbers in ascending order")
    return faults


def _details_faults(details: Any, name: str) -> list[str]:
    if not isinstance(details, Mapping):
        return [f"{name} is {show(details)}, not an object"]
    return [fault for key, value in details.items() for fault in _number_faults(value, f"{name}.{key}", False)]


def _names_head(name: Any) -> bool:
    try:
        return isinstance(name, str) and UnitId.parse(name) is not None
    except UsageError:
        return False


def _number_faults(value: Any, name: str, probability: bool) -> list[str]:
    if not _is_number(value):
        return [f"{name} is {show(value)}, not a finite number"]
    if probability and not 0 <= value <= 1:
        return [f"{name} is {show(value)}, not a number from 0 to 1"]
    return []


def _is_interval(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _id(entry: HeadScore | Mapping[str, Any]) -> UnitId:
    return entry.id if isinstance(entry, HeadScore) else UnitId.parse(entry["head"])
