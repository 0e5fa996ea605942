"""What `drift` and `compare` print as JSON, which has no name of a format."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError


class _Printed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DriftOfHead(_Printed):
    """Mean absolute change of the weights of a head."""

    head: str
    query: float
    key: float
    value: float
    mean: float


class DriftOfNeurons(_Printed):
    """The same of the neurons of one layer."""

    group: str
    neurons: tuple[int, ...]
    changes: tuple[float, ...]


class DriftFile(_Printed):
    """What `drift --format json` prints."""

    before: str
    after: str
    heads: tuple[DriftOfHead, ...]
    neurons: tuple[DriftOfNeurons, ...] = ()


class CorrelationOf(_Printed):
    """How far two score files agree on units of one sort."""

    units: int
    pearson: float
    pearson_p: float
    spearman: float
    spearman_p: float


class CompareFile(_Printed):
    """What `compare --format json` prints, heads alone like other sorts."""

    first: str
    second: str
    groups: Mapping[str, CorrelationOf]


def recognised(data: Any) -> DriftFile | CompareFile | None:
    """The output of `drift` or `compare`; None for any other JSON."""
    if not isinstance(data, Mapping):
        return None
    try:
        if {"before", "after", "heads"} <= data.keys():
            return DriftFile.model_validate(data)
        if {"first", "second", "groups"} <= data.keys():
            return CompareFile.model_validate(data)
        if {"first", "second", "heads"} <= data.keys():
            own = {"units" if name == "heads" else name: value for name, value in data.items()}
            names = {name: own.pop(name) for name in ("first", "second")}
            return CompareFile(**names, groups={"heads": CorrelationOf.model_validate(own)})
    except ValidationError:
        return None
    return None
