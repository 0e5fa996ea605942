"""A plan: which heads of every attention module stay."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from nmtprune import files, strictjson
from nmtprune.architecture import KINDS, HeadId, ModuleId
from nmtprune.errors import PlanError
from nmtprune.plan.base_model import FROZEN, Base, HeadLists, JsonObject, faultless
from nmtprune.plan.faults import FORMAT, VERSION, plan_faults


class Plan(BaseModel):
    """Which heads stay: for every module of the base the sorted ids of its kept heads.

    Two plans are equal when their JSON is, whatever the order of the provenance's keys.

    Attributes:
        format: always ``nmtprune-plan``.
        version: version of the file format, always 1.
        base: the model that the head ids refer to.
        keep: ``encoder.0`` -> kept heads, in the order encoder, decoder, cross and then layer by number.
        provenance: how the plan was made; any JSON object.

    Raises:
        PlanError: on construction, naming every fault.
    """

    model_config = FROZEN

    format: Literal["nmtprune-plan"] = FORMAT
    version: Literal[1] = VERSION
    base: Base
    keep: HeadLists
    provenance: JsonObject = strictjson.FrozenDict()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        return data if isinstance(data, cls) else handler(faultless(data, plan_faults(data), "plan"))

    def __eq__(self, other: object) -> bool:
        """Whether the other is a plan of the same JSON; 1, 1.0 and true in a provenance differ."""
        return isinstance(other, Plan) and self._canonical() == other._canonical()

    def __hash__(self) -> int:
        """Hash of what equality compares."""
        return hash(self._canonical())

    def _canonical(self) -> str:
        return json.dumps([self.base.as_json(), self.keep, self.provenance], sort_keys=True)

    @classmethod
    def of(
        cls,
        base: Base,
        keep: Mapping[ModuleId, Iterable[int]] | Mapping[str, Iterable[int]],
        provenance: Mapping[str, Any] | None = None,
    ) -> "Plan":
        """A plan from kept heads in any order.

        Raises:
            PlanError: modules or heads that the base does not have, missing modules, repeated heads.
        """
        listed = {str(module): tuple(sorted(int(head) for head in heads)) for module, heads in keep.items()}
        return cls(base=base, keep=listed, provenance=dict(provenance or {}))

    @classmethod
    def keep_all(cls, base: Base, provenance: Mapping[str, Any] | None = None) -> "Plan":
        """The plan that removes nothing."""
        return cls.of(base, {module: range(heads) for module, heads in base.modules.items()}, provenance)

    @classmethod
    def removing(cls, base: Base, heads: Iterable[HeadId], provenance: Mapping[str, Any] | None = None) -> "Plan":
        """The plan that removes these heads.

        Raises:
            PlanError: heads that the base does not have, all of them named.
        """
        removed = set(heads)
        modules = base.modules
        unknown = sorted(head for head in removed if not 0 <= head.head < modules.get(head.module, 0))
        if unknown:
            raise PlanError.of_faults("plan", [f"the base has no head {head}" for head in unknown])
        keep = {
            module: [head for head in range(count) if HeadId(module, head) not in removed]
            for module, count in modules.items()
        }
        return cls.of(base, keep, provenance)

    @classmethod
    def from_json(cls, text: str, where: str = "plan") -> "Plan":
        """Read a plan from JSON text.

        Args:
            text: the JSON.
            where: file or place that a message names.

        Raises:
            PlanError: broken JSON, or every fault of the plan in one line.
        """
        data = strictjson.loads(text, where, PlanError)
        return cls.model_validate(faultless(data, plan_faults(data, complete=True), where))

    @classmethod
    def read(cls, path: Path | str) -> "Plan":
        """Read a plan file.

        Raises:
            PlanError: the file cannot be read, or as for `from_json`.
        """
        return cls.from_json(strictjson.read(path, PlanError), str(path))

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        shared = {"format": self.format, "version": self.version, "base": self.base.as_json()}
        return shared | {"keep": dict(self.keep), "provenance": dict(self.provenance)}

    def to_json(self) -> str:
        """The plan as JSON text: one module a line, a newline at the end."""
        modules = [f"  {json.dumps(module)}: {json.dumps(heads)}" for module, heads in self.keep.items()]
        facts = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in self.provenance.items()]
        return (
            f'{{"format": "{self.format}", "version": {self.version},\n'
            f' "base": {json.dumps(self.base.as_json())},\n'
            f' "keep": {_block(modules)},\n'
            f' "provenance": {_block(facts)}}}\n'
        )

    def write(self, path: Path | str, *, force: bool = False, inputs: Iterable[Path | str] = ()) -> None:
        """Write the plan file atomically.

        Raises:
            OutputError: the path exists (without `force`), is one of `inputs`, or cannot be written.
        """
        files.write_text(path, self.to_json(), force=force, inputs=inputs)

    def with_provenance(self, provenance: Mapping[str, Any]) -> "Plan":
        """The same plan with another provenance.

        Raises:
            PlanError: the provenance is no JSON object.
        """
        return Plan(base=self.base, keep=self.keep, provenance=provenance)

    def kept(self, module: ModuleId) -> tuple[int, ...]:
        """Ids of the heads of a module that stay; KeyError where the base has no such module."""
        return self.keep[str(module)]

    def kept_heads(self, kinds: Iterable[str] = KINDS) -> tuple[HeadId, ...]:
        """Every head of the selected kinds that stays, in order."""
        selected = set(kinds)
        return tuple(HeadId(id, head) for id in self.base.modules if id.kind in selected for head in self.kept(id))

    def removed(self, kinds: Iterable[str] = KINDS) -> tuple[HeadId, ...]:
        """Every head of the selected kinds that goes, in order."""
        selected, kept = set(kinds), set(self.kept_heads())
        every = (HeadId(id, head) for id, heads in self.base.modules.items() for head in range(heads))
        return tuple(head for head in every if head.module.kind in selected and head not in kept)

    def count_kept(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of heads of the selected kinds that stay."""
        return len(self.kept_heads(kinds))

    def count_base(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of heads of the selected kinds that the base has."""
        return sum(sum(self.base.heads[kind]) for kind in set(kinds))

    def heads_by_kind(self) -> dict[str, tuple[int, ...]]:
        """Number of kept heads per module, layer by layer under each of KINDS: what `Base.heads` of the result is."""
        return {kind: tuple(len(self.kept(id)) for id in self.base.modules if id.kind == kind) for kind in KINDS}

    def check(self, base: Base, *, other_weights: bool = False, where: str = "plan") -> None:
        """Check that the plan was made for a model.

        Args:
            base: the model that it shall be applied to.
            other_weights: accept other weights of the same shape.
            where: plan file that a message names.

        Raises:
            PlanError: naming everything that differs: format, head counts per kind, weights.
        """
        faults = self.base.shape_faults(base)
        if not other_weights and base.sha256 != self.base.sha256:
            hint = "" if faults else "; `other_weights` applies it to other weights of the same shape all the same"
            faults.append(f"weights differ (sha256 {base.sha256[:12]}, the plan's base {self.base.sha256[:12]}){hint}")
        if faults:
            raise PlanError.of_faults(f"{where}: made for another model", faults)


def _block(lines: list[str]) -> str:
    return "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"
