"""The cost table: how much time each part of a model takes in one engine and precision on one machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from nmtprune import strictjson
from nmtprune.errors import DataError
from nmtprune.evaluate.cost import Spread
from nmtprune.evaluate.milliseconds import Milliseconds, ModelSize, TimeAxis, check_fit
from nmtprune.runs.json_model import JsonModel

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


class VocabularyPoint(JsonModel):
    """A target vocabulary of another size."""

    words: int
    saved_ms: Spread = Field(description="milliseconds per sentence that it saves, round by round")


class CombinedPoint(JsonModel):
    """A model that loses units of several kinds, by which the sum of what they save alone is checked."""

    left: dict[str, float] = Field(description="share of the units that are left, by kind of group")
    time: Spread = Field(description="of the whole model's, round by round")
    predicted: float = Field(description="the same from the axes")


class CostTable(JsonModel):
    """What `bench --cost-table` writes: how much time each part of a model takes."""

    format: Literal["nmtprune-cost-table"]
    version: Literal[1]
    engine: str = Field(pattern="^(native|ctranslate2)$")
    compute_type: str | None = Field(description="of CTranslate2; null for the native engine")
    device: str
    threads: int | None
    batch_size: int
    beam: int
    sentences: int
    source_length: int = Field(description="tokens of every sentence, without the end-of-sentence symbol")
    target_length: int = Field(description="tokens of every translation, likewise")
    repeat: int = Field(description="rounds")
    clock: str = Field(pattern="^(wall|cpu)$", description="what time is of: what passes, or what the processor spends")
    model: ModelSize = Field(description="the table is for models of this size alone")
    milliseconds: Spread = Field(description="per sentence, of the whole model")
    axes: tuple[TimeAxis, ...]
    vocabulary: tuple[VocabularyPoint, ...]
    combined: tuple[CombinedPoint, ...]
    provenance: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "CostTable":
        """Read the file.

        Raises:
            DataError: it cannot be read, or is no such table.
        """
        data = strictjson.loads(strictjson.read(path, DataError), str(path), DataError)
        try:
            found = cls.model_validate(data)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()]
            raise DataError.of_faults(f"{path}: no cost table", faults) from None
        return found

    def prices(self, checkpoint: "Checkpoint", where: str) -> Milliseconds:
        """What the units of a checkpoint cost in time.

        Raises:
            DataError: the table was measured on a model of another size.
        """
        check_fit(self.model, checkpoint, where)
        return Milliseconds(self.milliseconds.median, self.axes, checkpoint.architecture)
