"""Every fault of a score file at once."""

import math
from collections.abc import Mapping
from typing import Any

from nmtprune import strictjson
from nmtprune.architecture import EVERY_KIND, GroupId, UnitId
from nmtprune.errors import UsageError
from nmtprune.plan import Base, ranges
from nmtprune.plan.faults import base_faults
from nmtprune.scores.entries import COLUMNS, OPTIONAL, PROBABILITIES, DirectionScores, GroupScores, HeadScore, HeldOut
from nmtprune.strictjson import key_faults, show, show_key, value_faults

FORMAT = "nmtprune-scores"
VERSIONS = (1, 2)
MODES = ("ablate", "all-but-one")

_MOST_FAULTS = 5
"""Wrong values of one column that a message shows."""


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
    scored, other = ("units", ["directions"]) if second else ("heads", ["test", "directions"])
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
    faults += _further_faults(data, complete, second)
    if second:
        return faults + (_units_faults(data["units"]) if "units" in data else [])
    return faults + (_list_faults(data["heads"], "heads") if "heads" in data else [])


def _further_faults(data: Mapping[str, Any], complete: bool, second: bool) -> list[str]:
    """Faults of what only some files have besides their scores."""
    faults: list[str] = []
    if "test" in data and (complete or data["test"] is not None) and not isinstance(data["test"], HeldOut):
        faults += _test_faults(data["test"])
    if "directions" in data and (complete or data["directions"] is not None):
        faults += _directions_faults(data["directions"], second)
    return faults


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


def _directions_faults(directions: Any, second: bool) -> list[str]:
    if not isinstance(directions, (list, tuple)) or not directions:
        return [f"directions is {show(directions)}, not a list of directions"]
    faults: list[str] = []
    names = []
    for number, own in enumerate(directions):
        if isinstance(own, DirectionScores):
            continue
        place, scored = f"directions[{number}]", "units" if second else "heads"
        if not isinstance(own, Mapping):
            faults += _object_faults(own, place)
            continue
        faults += key_faults(own, ["name", "baseline", scored], prefix=f"{place}.")
        faults += _object_faults(own.get("baseline", {}), f"{place}.baseline")
        if not isinstance(own.get("name", ""), str):
            faults.append(f"{place}.name is {show(own['name'])}, not a name")
        if scored in own:
            found = _units_faults(own[scored]) if second else _list_faults(own[scored], "heads")
            faults += [f"{place}: {fault}" for fault in found]
        names.append(own.get("name"))
    twice = [name for name in dict.fromkeys(map(str, names)) if names.count(name) > 1]
    return faults + [f"directions: {show(name)} is there twice" for name in twice]


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
