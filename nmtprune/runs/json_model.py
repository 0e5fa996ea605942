"""A JSON file, or a part of one, as a pydantic model."""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


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
