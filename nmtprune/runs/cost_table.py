"""The cost table: how much time each part of a model takes in one engine and precision on one machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from nmtprune.architecture import LAYER_KINDS
from nmtprune.errors import DataError
from nmtprune.evaluate.cost import Spread
from nmtprune.evaluate.milliseconds import Milliseconds, ModelSize, TimeAxis, check_fit
from nmtprune.runs.json_model import JsonModel, read_file

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


FORMAT = "nmtprune-cost-table"

_CONDITIONS = ("engine", "compute_type", "device", "threads", "batch_size", "beam", "source_length", "target_length")

_WORST_ERROR = 0.15
"""Error of the sum of parts, as a share of the measured time, from which a remark is made."""


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
        what = "cost table: nmtprune bench --cost-table writes one"
        return read_file(path, cls, FORMAT, what, DataError)

    def prices(self, checkpoint: "Checkpoint", where: str) -> Milliseconds:
        """What the units of a checkpoint cost in time.

        Raises:
            DataError: the table was measured on a model of another size.
        """
        check_fit(self.model, checkpoint, where)
        found = Milliseconds(self.milliseconds.median, self.axes, checkpoint.architecture)
        units = checkpoint.architecture.units.items()
        if found.total({id: numbers[:1] if id.kind in LAYER_KINDS else () for id, numbers in units}) <= 0:
            raise DataError(
                f"{where}: the parts take more time than the whole model: they were measured too briefly: give more "
                "--sentences and a higher --repeat to nmtprune bench --cost-table"
            )
        return found

    @property
    def conditions(self) -> dict[str, Any]:
        """What the times are of: engine, precision, machine, search and lengths."""
        return {name: getattr(self, name) for name in _CONDITIONS}

    def remarks(self, engine: str, beam: int) -> list[str]:
        """What a user should know who chooses by the table in a run of this engine and beam, one line each."""
        measured = f"times of {self.engine}" + (f" {self.compute_type}" if self.compute_type else "")
        found = [f"{measured}, batches of {self.batch_size}, beam {self.beam}"]
        others = [*([f"--engine {engine}"] * (engine != self.engine)), *([f"--beam {beam}"] * (beam != self.beam))]
        if others:
            found[0] += f"; translations are measured with {' and '.join(others)}"
        timed = (point for point in self.combined if point.time.median > 0)
        worst = max((abs(point.predicted / point.time.median - 1) for point in timed), default=0.0)
        if worst > _WORST_ERROR:
            found.append(
                f"the sum of the parts is off by up to {worst:.0%} where several are cut: measure longer, or check the "
                "speed of the result with nmtprune bench"
            )
        return found
