"""A plan: which heads, neurons and layers stay."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from nmtprune import files, strictjson
from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, GroupId, UnitId
from nmtprune.errors import PlanError
from nmtprune.plan import ranges
from nmtprune.plan.base_model import FROZEN, Base, HeadLists, JsonObject, faultless
from nmtprune.plan.faults import FORMAT, VERSIONS, folded, plan_faults


def _as_in_files(schema: dict[str, Any]) -> None:
    """Say in the JSON schema what stands in files: a version, neurons as ranges, layers beside `keep`."""
    numbers = {"items": {"type": "integer"}, "type": "array"}
    neurons = {"pattern": "^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$", "type": "string"}
    properties = schema["properties"]
    properties["version"] = {"enum": list(VERSIONS), "title": "Version", "type": "integer"}
    properties["keep"]["additionalProperties"] = {"anyOf": [numbers, neurons]}
    properties["layers"] = {"additionalProperties": numbers, "title": "Layers", "type": "object"}
    schema["required"] = ["format", "version", "base", "keep", "provenance"]


class Plan(BaseModel):
    """Which units stay: for every group of the base the sorted numbers of its kept units.

    Two plans are equal when their JSON is, whatever the order of the provenance's keys.

    Attributes:
        format: always ``nmtprune-plan``.
        base: the model that the numbers refer to.
        keep: group -> kept units, in the order of `architecture.EVERY_KIND` and then layer by number: ``encoder.0`` ->
            heads, ``encoder-ffn.0`` -> neurons (of bases that record them), ``encoder-layers`` -> layers. Nothing in
            the groups of layers that go.
        provenance: how the plan was made; any JSON object.

    Raises:
        PlanError: on construction, naming every fault.
    """

    model_config = ConfigDict(**FROZEN, json_schema_extra=_as_in_files)

    format: Literal["nmtprune-plan"] = FORMAT
    base: Base
    keep: HeadLists
    provenance: JsonObject = strictjson.FrozenDict()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        if isinstance(data, cls):
            return data
        # JSON of version 2 names neurons by ranges, and layers beside `keep`.
        is_file = isinstance(data, Mapping) and data.get("version") == VERSIONS[-1]
        checked = faultless(data, plan_faults(data, complete=is_file), "plan")
        found = folded(checked, layers=True)[0] if is_file else dict(checked)
        found["base"] = Base.model_validate(found["base"])
        found["keep"] = _completed(found["base"], found["keep"])
        return handler({key: value for key, value in found.items() if key != "version"})

    def __eq__(self, other: object) -> bool:
        """Whether the other is a plan of the same JSON; 1, 1.0 and true in a provenance differ."""
        return isinstance(other, Plan) and self._canonical() == other._canonical()

    def __hash__(self) -> int:
        """Hash of what equality compares."""
        return hash(self._canonical())

    def _canonical(self) -> str:
        return json.dumps(self.as_json(), sort_keys=True)

    @classmethod
    def of(
        cls,
        base: Base,
        keep: Mapping[GroupId, Iterable[int]] | Mapping[str, Iterable[int]],
        provenance: Mapping[str, Any] | None = None,
    ) -> "Plan":
        """A plan from kept units in any order.

        Feed-forward layers and stacks that are not named keep all of their units; a layer that goes takes the units of
        all its groups with it.

        Raises:
            PlanError: groups or units that the base does not have, missing modules, repeated units.
        """
        listed = {str(group): tuple(sorted(int(unit) for unit in units)) for group, units in keep.items()}
        return cls(base=base, keep=_completed(base, listed), provenance=dict(provenance or {}))

    @classmethod
    def keep_all(cls, base: Base, provenance: Mapping[str, Any] | None = None) -> "Plan":
        """The plan that removes nothing."""
        return cls.of(base, base.units, provenance)

    @classmethod
    def removing(cls, base: Base, units: Iterable[UnitId], provenance: Mapping[str, Any] | None = None) -> "Plan":
        """The plan that removes these heads, neurons and layers.

        Raises:
            PlanError: units that the base does not have, all of them named; a stack without a layer.
        """
        removed, there = defaultdict[GroupId, set[int]](set), base.units
        for unit in units:
            removed[unit.group].add(unit.number)
        unknown = sorted(
            UnitId(group, number)
            for group, numbers in removed.items()
            for number in numbers.difference(there.get(group, ()))
        )
        if unknown:
            faults = [f"the base has no {unit.group.sort.removesuffix('s')} {unit}" for unit in unknown]
            raise PlanError.of_faults("plan", faults)
        keep = {
            group: [number for number in numbers if number not in removed[group]] for group, numbers in there.items()
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
        data = faultless(read := strictjson.loads(text, where, PlanError), plan_faults(read, complete=True), where)
        return cls.model_validate(data)

    @classmethod
    def read(cls, path: Path | str) -> "Plan":
        """Read a plan file.

        Raises:
            PlanError: the file cannot be read, or as for `from_json`.
        """
        return cls.from_json(strictjson.read(path, PlanError), str(path))

    @property
    def version(self) -> int:
        """Version of the file format: 2 where neurons or layers go, else 1."""
        kinds = (*NEURON_KINDS, *LAYER_KINDS)
        return 2 if any(self.kept(id) != numbers for id, numbers in self.base.units.items() if id.kind in kinds) else 1

    def as_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        version = self.version
        found = {"format": self.format, "version": version, "base": self.base.as_json(neurons=version > 1)}
        found |= {"keep": kept_json(self.base, self.keep)}
        layers = layers_json(self.base, self.keep)
        found |= {"layers": layers} if layers else {}
        return found | {"provenance": dict(self.provenance)}

    def to_json(self) -> str:
        """The plan as JSON text: one group a line, a newline at the end."""
        found = self.as_json()
        groups = [f"  {json.dumps(group)}: {json.dumps(units)}" for group, units in found["keep"].items()]
        facts = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in self.provenance.items()]
        layers = f' "layers": {json.dumps(found["layers"])},\n' if "layers" in found else ""
        return (
            f'{{"format": "{self.format}", "version": {found["version"]},\n'
            f' "base": {json.dumps(found["base"])},\n'
            f' "keep": {_block(groups)},\n'
            f"{layers}"
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

    def kept(self, group: GroupId) -> tuple[int, ...]:
        """Numbers of the units of a group that stay; KeyError where the base has no such group, as far as it says."""
        return self.keep[str(group)]

    @property
    def kept_units(self) -> dict[GroupId, tuple[int, ...]]:
        """Numbers of the units that stay, of every group that the base records."""
        return {id: self.kept(id) for id in self.base.units}

    def kept_layers(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the layers that stay, by stack that loses some."""
        return layers_json(self.base, self.keep)

    def kept_ids(self, kinds: Iterable[str] = KINDS) -> tuple[UnitId, ...]:
        """Every unit of the selected kinds that stays, in order."""
        selected = set(kinds)
        return tuple(UnitId(id, number) for id in self.base.units if id.kind in selected for number in self.kept(id))

    def removed(self, kinds: Iterable[str] = KINDS) -> tuple[UnitId, ...]:
        """Every unit of the selected kinds that goes, in order; by themselves or with their layers."""
        selected = set(kinds)
        return tuple(
            UnitId(id, number)
            for id, numbers in self.base.units.items()
            if id.kind in selected
            for number in sorted(set(numbers).difference(self.kept(id)))
        )

    def count_kept(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of units of the selected kinds that stay."""
        selected = set(kinds)
        return sum(len(self.kept(id)) for id in self.base.units if id.kind in selected)

    def count_base(self, kinds: Iterable[str] = KINDS) -> int:
        """Number of units of the selected kinds that the base has."""
        selected = set(kinds)
        return sum(len(numbers) for id, numbers in self.base.units.items() if id.kind in selected)

    @property
    def ragged_neurons(self) -> bool:
        """Whether layers of a stack that stay keep different numbers of neurons."""
        staying = [id for id in self.base.feed_forwards if id.layer in self.kept(GroupId.layers_of(id.stack))]
        kept = {(id.kind, len(self.kept(id))) for id in staying}
        return len(kept) > len({kind for kind, _ in kept})

    def heads_by_kind(self) -> dict[str, tuple[int, ...]]:
        """Number of kept heads per module, layer by layer under each of KINDS; 0 in layers that go."""
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


def _completed(base: Base, keep: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Kept units with all feed-forward layers and stacks, and nothing in the groups of layers that go."""
    listed, units = {name: tuple(kept) for name, kept in keep.items()}, base.units
    layers = {id.kind: listed.get(id.kind, numbers) for id, numbers in units.items() if id.kind in LAYER_KINDS}
    for id, numbers in units.items():
        if id.kind in NEURON_KINDS:
            listed.setdefault(str(id), numbers)
        if id.kind not in LAYER_KINDS and id.layer not in layers[f"{id.stack}-layers"]:
            listed[str(id)] = ()
    return listed | layers


def _block(lines: list[str]) -> str:
    return "{\n" + ",\n".join(lines) + "\n }" if lines else "{}"


def kept_json(base: Base, keep: Mapping[str, tuple[int, ...]], *, neurons: bool = False) -> dict[str, list[int] | str]:
    """What stays as files have it, without the groups of layers that go.

    Args:
        base: the model.
        keep: what stays of its groups.
        neurons: name neurons even where all stay.
    """
    units = base.units
    gone = {
        (id.stack, layer)
        for id, numbers in units.items()
        for layer in numbers
        if id.kind in LAYER_KINDS and layer not in keep[str(id)]
    }
    every = not (neurons or gone) and all(
        keep[str(id)] == numbers for id, numbers in units.items() if id.kind in NEURON_KINDS
    )
    found: dict[str, list[int] | str] = {}
    for id in units:
        if id.kind in KINDS and (id.stack, id.layer) not in gone:
            found[str(id)] = list(keep[str(id)])
        elif id.kind in NEURON_KINDS and not every and (id.stack, id.layer) not in gone:
            found[str(id)] = ranges.as_ranges(keep[str(id)])
    return found


def layers_json(base: Base, keep: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The layers that stay, by stack that loses some."""
    return {
        id.stack: keep[str(id)]
        for id, numbers in base.units.items()
        if id.kind in LAYER_KINDS and keep[str(id)] != numbers
    }
