"""The file of `functions`: what every head does, by the criteria of Voita et al. 2019."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_serializer

from nmtprune import strictjson
from nmtprune.architecture import UnitId
from nmtprune.errors import NmtpruneError, PlanError, UsageError
from nmtprune.methods.head_functions import FUNCTIONS, Finding
from nmtprune.plan import Base
from nmtprune.runs.json_model import JsonModel

FORMAT: Literal["nmtprune-functions"] = "nmtprune-functions"


class HeadOf(JsonModel):
    """A head and its functions."""

    head: str = Field(pattern=r"^(encoder|decoder|cross)\.[0-9]+\.[0-9]+$")
    functions: tuple[str, ...] = Field(description="that the head has: positional, rare, syntactic, alignment")
    positional: Finding | None = Field(description="at the relative position that fits best")
    rare: Finding | None = Field(description="largest weights on the least frequent token of those that are seen")
    rare_p_corrected: float | None = Field(description="p of rare, corrected for the number of heads (Holm)")
    syntactic: dict[str, Finding] | None = Field(
        None, description="by dependency relation and direction; encoder heads, with --parses"
    )
    alignment: Finding | None = Field(None, description="cross heads, with --alignments")
    outside: float = Field(description="share of queries whose largest weight lies on no word: end of the sentence")

    @property
    def id(self) -> UnitId:
        """The head's id."""
        return UnitId.parse(self.head)

    @property
    def findings(self) -> dict[str, Finding]:
        """Everything that was measured, by what it is of."""
        relations = {f"syntactic {name}": found for name, found in (self.syntactic or {}).items()}
        named = {"positional": self.positional, "rare": self.rare, **relations, "alignment": self.alignment}
        return {name: found for name, found in named.items() if found is not None}


class FunctionsFile(JsonModel):
    """``functions.json``."""

    format: Literal["nmtprune-functions"]
    version: Literal[1]
    data: dict[str, Any] = Field(description="subset and languages or the source file, sentences, and how text is cut")
    frequencies: str = Field(description="what tokens were counted in: the dictionary, or the sentences themselves")
    measured: tuple[str, ...] = Field(description="functions that were looked for")
    criteria: dict[str, float] = Field(description="positional: accuracy; rare: times chance, alpha; links: margin")
    base: Base
    heads: tuple[HeadOf, ...]
    provenance: dict[str, Any]

    @field_serializer("base")
    def _base_as_json(self, base: Base) -> dict[str, Any]:
        return base.as_json()

    @classmethod
    def read(cls, path: Path) -> "FunctionsFile":
        """Read the file.

        Raises:
            PlanError: it cannot be read, or is no such file.
        """
        data = strictjson.loads(strictjson.read(path, PlanError), str(path), PlanError)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise PlanError(f"{path}: no functions of heads: nmtprune functions writes them")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, each['loc'])) or 'the file'}: {each['msg']}" for each in error.errors()]
            raise PlanError.of_faults(f"{path}: no functions of heads", faults) from None
        except NmtpruneError as error:
            raise PlanError.of_faults(f"{path}: no functions of heads", error.faults) from None

    def with_functions(self, names: str, base: Base, where: str) -> tuple[UnitId, ...]:
        """The heads that have one of some functions, in order.

        Args:
            names: of FUNCTIONS, separated by commas.
            base: the model whose heads are meant.
            where: the file, for messages.

        Raises:
            UsageError: unknown functions, or functions that were not measured.
            PlanError: the file is of another model.
        """
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        faults = [f"unknown function '{name}' (there are {', '.join(FUNCTIONS)})" for name in wanted
                  if name not in FUNCTIONS]  # fmt: skip
        faults += [f"{name} was not measured" for name in wanted if name in FUNCTIONS and name not in self.measured]
        if not wanted:
            faults = [f"no function named: choose among {', '.join(self.measured)}"]
        if faults:
            raise UsageError.of_faults(where, faults)
        if self.base.sha256 != base.sha256:
            same = "with the same shape but other weights" if self.base.has_shape_of(base) else "of another shape"
            raise PlanError(f"{where}: these are functions of a model {same}: run nmtprune functions on this one")
        return tuple(sorted(head.id for head in self.heads if set(wanted) & set(head.functions)))
