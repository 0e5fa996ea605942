"""The score file: what every head is worth under one metric."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from nmtprune import files, strictjson
from nmtprune.architecture import KINDS, Architecture, UnitId
from nmtprune.budget import listed
from nmtprune.errors import DataError, UsageError
from nmtprune.plan import Base
from nmtprune.plan.faults import base_faults
from nmtprune.strictjson import key_faults, show, show_key, value_faults

FORMAT = "nmtprune-scores"
VERSION = 1
MODES = ("ablate", "all-but-one")
PROBABILITIES = ("p", "p_corrected", "p_sacrebleu")
OPTIONAL = ("delta", "ci", *PROBABILITIES, "details")

_FROZEN = ConfigDict(frozen=True, extra="forbid")
_Json = Annotated[Mapping[str, Any], AfterValidator(strictjson.freeze)]


class HeadScore(BaseModel):
    """What is known of one head; fields that mean nothing for the metric are None and absent from the file.

    Attributes:
        head: name of the head, ``encoder.0.3``.
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
        """The head's id."""
        return UnitId.parse(self.head)

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


class Scores(BaseModel):
    """Scores of heads under one metric.

    Attributes:
        format: always ``nmtprune-scores``.
        version: version of the file format, always 1.
        metric: ``bleu``, ``chrf``, ``loss``, ``importance``, ``confidence``, ...
        mode: ``ablate`` (one head masked) or ``all-but-one`` (all other heads of its module masked).
        baseline: the metric of the full model with whatever else describes the measurement; any JSON object.
        heads: one entry per scored head, in the order of their ids.
        test: the best head of each module (``all-but-one``) on test data, where there are such.
        base: the model that was scored, where that is recorded.
        provenance: how the file was made; any JSON object.

    Raises:
        DataError: on construction, naming every fault.
    """

    model_config = _FROZEN

    format: Literal["nmtprune-scores"] = "nmtprune-scores"
    version: Literal[1] = 1
    metric: str
    mode: Literal["ablate", "all-but-one"]
    baseline: _Json
    heads: tuple[HeadScore, ...]
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
        return handler({**data, "heads": sorted(data["heads"], key=_id)})

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
        """The scores as JSON text in full precision, one head a line, a newline at the end."""
        base = f' "base": {json.dumps(self.base.as_json())},\n' if self.base else ""
        test = ""
        if self.test is not None:
            measured, heads = json.dumps(self.test.baseline, allow_nan=False), _listing(self.test.heads, 3)
            test = f' "test": {{\n  "baseline": {measured},\n  "heads": {heads}}},\n'
        return (
            f'{{"format": "{self.format}", "version": {self.version},\n'
            f' "metric": {json.dumps(self.metric)}, "mode": "{self.mode}",\n'
            f"{base}"
            f' "baseline": {json.dumps(self.baseline, allow_nan=False)},\n'
            f' "heads": {_listing(self.heads, 2)},\n'
            f"{test}"
            f' "provenance": {json.dumps(self.provenance, allow_nan=False)}}}\n'
        )

    def write(self, path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
        """Write the score file atomically.

        Raises:
            OutputError: the path exists (without `force`), is one of `inputs`, or cannot be written.
        """
        files.write_text(path, self.to_json(), force=force, inputs=inputs)

    def scores_by_head(self) -> dict[UnitId, float]:
        """Score of every head that was scored."""
        return {entry.id: entry.score for entry in self.heads}

    def check(self, architecture: Architecture, kinds: Iterable[str] = KINDS, where: str = "scores") -> None:
        """Check that the scores are of heads of this model and leave none of the selected kinds out.

        Raises:
            DataError: heads that the model does not have, and heads of `kinds` without a score, all of them.
        """
        known, scored = architecture.head_ids(), {entry.id for entry in self.heads}
        foreign = sorted(scored.difference(known))
        missing = [head for head in architecture.head_ids(kinds) if head not in scored]
        faults = [f"the model has no head {listed(foreign)}"] if foreign else []
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
    defaults = ["format", "version", "provenance"]
    required = ["metric", "mode", "baseline", "heads", *(defaults if complete else [])]
    faults = key_faults(data, required, [*defaults, "base", "test"])
    if data.get("format", FORMAT) != FORMAT:
        faults.append(f'format is {show(data["format"])}, not "{FORMAT}"')
    if not strictjson.is_int(data.get("version", VERSION)) or data.get("version", VERSION) != VERSION:
        faults.append(f"version is {show(data['version'])}, this nmtprune reads version {VERSION}")
    if not isinstance(data.get("metric", "?"), str) or not data.get("metric", "?"):
        faults.append(f"metric is {show(data['metric'])}, not a name")
    if data.get("mode", MODES[0]) not in MODES:
        faults.append(f"mode is {show(data['mode'])}, not one of {', '.join(MODES)}")
    for key in ("baseline", "provenance"):
        faults += _object_faults(data.get(key, {}), key)
    if "base" in data and (complete or data["base"] is not None) and not isinstance(data["base"], Base):
        faults += base_faults(data["base"], "base.")
    if "test" in data and (complete or data["test"] is not None) and not isinstance(data["test"], HeldOut):
        faults += _test_faults(data["test"])
    return faults + (_list_faults(data["heads"], "heads") if "heads" in data else [])


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
    except (UsageError, ValueError):
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
