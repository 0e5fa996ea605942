"""A JSON file, or a part of one, as a pydantic model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from nmtprune import strictjson
from nmtprune.errors import NmtpruneError

_MOST_FAULTS = 3
"""A file of another kind can have thousands."""


class JsonModel(BaseModel):
    """What of a result file has names and types: written and described by the same class."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def as_json(self) -> dict[str, Any]:
        """The JSON object, with the fields that were given."""
        return self.model_dump(exclude_unset=True)

    def to_json(self) -> str:
        """The file, in full precision.

        Raises:
            ValueError: a number is not finite.
        """
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


Model = TypeVar("Model", bound=JsonModel)


def read_file(path: Path, model: type[Model], format: str, what: str, error: type[NmtpruneError]) -> Model:
    """Read a result file that a command needs.

    Args:
        path: of the file.
        model: what is in it.
        format: its ``format``.
        what: the file and the command that writes it, for messages: ``cost table: nmtprune bench writes one``.
        error: what is raised.

    Raises:
        NmtpruneError: of this class: the file cannot be read, is another one, or is damaged.
    """
    data = strictjson.loads(strictjson.read(path, error), str(path), error)
    if not isinstance(data, Mapping) or data.get("format") != format:
        raise error(f"{path}: no {what}")
    try:
        return model.model_validate(data)
    except ValidationError as found:
        faults: list[str] = faults_of(found)
    except NmtpruneError as found:
        faults = list(found.faults)
    raise error.of_faults(f"{path}: no {what.partition(':')[0]}", faults)


def faults_of(error: ValidationError) -> list[str]:
    """What is wrong with a file, field by field: the first faults, and how many more there are."""
    faults = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg'].removeprefix('Value error, ')}"
              for each in error.errors()]  # fmt: skip
    more = [f"{len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
    return [*faults[:_MOST_FAULTS], *more]
