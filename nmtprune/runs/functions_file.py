"""The file of `functions`: what every head does, by the criteria of Voita et al. 2019."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer, model_validator

from nmtprune.architecture import KINDS, UnitId
from nmtprune.budget import listed
from nmtprune.errors import PlanError, UsageError
from nmtprune.methods.head_functions import FUNCTIONS, Finding
from nmtprune.plan import Base
from nmtprune.runs.json_model import JsonModel, read_file

FORMAT: Literal["nmtprune-functions"] = "nmtprune-functions"

FUNCTIONS_OF_KIND = {
    "encoder": ("positional", "rare", "syntactic"),
    "decoder": ("positional", "rare"),
    "cross": ("positional", "rare", "alignment"),
}
"""Those that heads of a kind are examined for."""

_MEASURED_WITH = {"syntactic": "--parses FILE", "alignment": "--alignments FILE"}
"""What `functions` must be given for functions that no text shows by itself."""


@dataclass(frozen=True)
class Protection:
    """The heads of a `functions` file that stay because of what they do.

    Attributes:
        path: of the file.
        names: functions, separated by commas.
    """

    path: Path
    names: str

    @classmethod
    def parse(cls, text: str) -> "Protection":
        """Read ``FILE:FUNCTIONS``.

        Raises:
            UsageError: the text is of another form.
        """
        path, _, names = text.rpartition(":")
        if not path:
            raise UsageError(f"--protect '{text}': write FILE:FUNCTIONS, such as functions.json:positional,alignment")
        return cls(Path(path), names)

    def heads(self, base: Base) -> tuple[frozenset[UnitId], str]:
        """The heads of a model that have one of the functions, and a line that says so.

        Raises:
            UsageError: functions that there are not, or that were not measured.
            PlanError: a file that is damaged or of another model.
        """
        file = FunctionsFile.read(self.path)
        found = file.with_functions(self.names, base, str(self.path))
        line = f"{self.path}: {len(found)} heads are protected ({self.names})"
        others = [kind for kind in KINDS if base.heads.get(kind) and kind not in file.kinds]
        return frozenset(found), line + (f"; {' and '.join(others)} heads were not examined" if others else "")


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

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the heads that were examined."""
        return tuple(dict.fromkeys(head.id.group.kind for head in self.heads))

    @model_validator(mode="after")
    def _check_heads(self) -> "FunctionsFile":
        """Refuse heads that are not those of the model's kinds, and functions that were not looked for."""
        named = [head.id for head in self.heads]
        expected = {
            UnitId(id, number) for id, numbers in self.base.units.items() if id.kind in self.kinds for number in numbers
        }
        faults = [f"{head} is no head of the model" for head in named if head not in expected]
        faults += [f"{head} is there twice" for head, times in Counter(named).items() if times > 1]
        faults += [f"{head} is missing" for head in sorted(expected.difference(named))]
        looked_for = {*self.measured} & {*FUNCTIONS}
        faults += [
            f"{head.head} has the function '{name}', which was not looked for"
            for head in self.heads
            for name in head.functions
            if name not in looked_for or name not in FUNCTIONS_OF_KIND[head.id.group.kind]
        ]
        if faults:
            raise ValueError(listed(faults, 3))
        return self

    @field_serializer("base")
    def _base_as_json(self, base: Base) -> dict[str, Any]:
        return base.as_json()

    @classmethod
    def read(cls, path: Path) -> "FunctionsFile":
        """Read the file.

        Raises:
            PlanError: it cannot be read, or is no such file.
        """
        what = "file of functions of heads: nmtprune functions writes one"
        return read_file(path, cls, FORMAT, what, PlanError)

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
        faults += [f"{name} was not measured: nmtprune functions measures it with {_MEASURED_WITH.get(name, 'DATA')}"
                   for name in wanted if name in FUNCTIONS and name not in self.measured]  # fmt: skip
        if not wanted:
            faults = [f"no function named: choose among {', '.join(self.measured)}"]
        if faults:
            raise UsageError.of_faults(where, faults)
        if self.base.sha256 != base.sha256:
            same = "with the same shape but other weights" if self.base.has_shape_of(base) else "of another shape"
            raise PlanError(f"{where}: these are functions of a model {same}: run nmtprune functions on this one")
        return tuple(sorted(head.id for head in self.heads if set(wanted) & set(head.functions)))
