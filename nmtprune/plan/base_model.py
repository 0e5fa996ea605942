"""The model that the ids of a plan or a lineage refer to."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from nmtprune import strictjson
from nmtprune.architecture import EVERY_KIND, KINDS, NEURON_KINDS, STACKS, Architecture, GroupId
from nmtprune.errors import NmtpruneError, PlanError
from nmtprune.plan.faults import base_faults, groups_of
from nmtprune.strictjson import show


def _in_order(heads: Mapping[str, Iterable[int]]) -> strictjson.FrozenDict:
    """Kinds or groups in the order of EVERY_KIND and then layer by number."""

    def position(name: str) -> tuple[int, int]:
        kind, _, layer = name.partition(".")
        return EVERY_KIND.index(kind), int(layer or 0)

    return strictjson.FrozenDict({name: tuple(heads[name]) for name in sorted(heads, key=position)})


HeadLists = Annotated[Mapping[str, tuple[int, ...]], AfterValidator(_in_order)]
"""Integers by kind or by group, ordered and immutable."""

JsonObject = Annotated[Mapping[str, Any], AfterValidator(strictjson.freeze)]
"""Any JSON object, immutable."""

FROZEN = ConfigDict(frozen=True, extra="forbid")


class Base(BaseModel):
    """The model that ids of heads, neurons and layers refer to.

    Attributes:
        format: file format, ``fairseq`` or ``marian``.
        sha256: fingerprint of the model's tensors as stored (`nmtprune.formats.base.fingerprint`), 64 hex digits.
        heads: real heads per module, layer by layer, under each of KINDS; an empty list for a kind that is not there.
        layers: for kinds whose modules are not the layers 0, 1, 2, ... (tied layers stand once, under the first of
            them), the layer of each entry of `heads` or `neurons`; kinds that are numbered without gaps are not
            listed.
        neurons: neurons per feed-forward layer, layer by layer, by NEURON_KINDS. Empty where they are not recorded: in
            files of version 1, and for models whose neurons cannot be cut.

    Raises:
        PlanError: on construction, naming every fault.
    """

    model_config = FROZEN

    format: str
    sha256: str
    heads: HeadLists
    layers: HeadLists = strictjson.FrozenDict()
    neurons: HeadLists = strictjson.FrozenDict()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        return data if isinstance(data, cls) else handler(faultless(data, base_faults(data), "base"))

    @classmethod
    def of(cls, format: str, sha256: str, architecture: Architecture) -> "Base":
        """The base that a checkpoint of this format, fingerprint and architecture is."""
        heads = {kind: tuple(counts) for kind, counts in architecture.heads_by_kind().items()}
        neurons = architecture.neurons_by_kind()
        layers = {
            kind: tuple(group.id.layer for group in architecture.groups if group.id.kind == kind)
            for kind in (*KINDS, *NEURON_KINDS)
        }
        tied = {kind: found for kind, found in layers.items() if found != tuple(range(len(found)))}
        base = {"format": format, "sha256": sha256, "heads": heads}
        return cls.model_validate(base | ({"layers": tied} if tied else {}) | ({"neurons": neurons} if neurons else {}))

    @property
    def modules(self) -> dict[GroupId, int]:
        """Number of heads of every attention module in order."""
        return dict(groups_of(self.heads, self.layers))

    @property
    def feed_forwards(self) -> dict[GroupId, int]:
        """Number of neurons of every feed-forward layer in order; empty where they are not recorded."""
        return dict(groups_of(self.neurons, self.layers, NEURON_KINDS))

    def has_shape_of(self, other: "Base") -> bool:
        """Whether both have the same heads, and the same neurons where both record theirs."""
        neurons = (self.feed_forwards, other.feed_forwards)
        return self.modules == other.modules and (not all(neurons) or neurons[0] == neurons[1])

    @property
    def units(self) -> dict[GroupId, tuple[int, ...]]:
        """Numbers of the units of every group: heads, neurons and layers, as `Architecture.units`."""
        counts = self.modules | self.feed_forwards
        layers = {stack: tuple(sorted({id.layer for id in counts if id.stack == stack})) for stack in STACKS}
        return {id: tuple(range(count)) for id, count in counts.items()} | {
            GroupId.layers_of(stack): numbers for stack, numbers in layers.items() if numbers
        }

    def with_layers(self, kept: Mapping[str, Iterable[int]]) -> "Base":
        """What is left where some layers go, under the same numbers.

        Args:
            kept: numbers of the layers that stay, by stack; a stack that is not named keeps its layers.
        """
        stays = {stack: set(layers) for stack, layers in kept.items()}
        left = {id: count for id, count in (self.modules | self.feed_forwards).items()
                if id.layer in stays.get(id.stack, (id.layer,))}  # fmt: skip
        counts = {kind: [count for id, count in left.items() if id.kind == kind] for kind in (*KINDS, *NEURON_KINDS)}
        layers = {kind: [id.layer for id in left if id.kind == kind] for kind in counts}
        found = {
            "format": self.format,
            "sha256": self.sha256,
            "heads": {kind: counts[kind] for kind in KINDS},
            "layers": {kind: own for kind, own in layers.items() if own != list(range(len(own)))},
            "neurons": {kind: counts[kind] for kind in self.neurons},
        }
        return Base.model_validate({key: value for key, value in found.items() if value})

    def without_neurons(self) -> "Base":
        """The base as files of version 1 have it."""
        layers = {kind: numbers for kind, numbers in self.layers.items() if kind in KINDS}
        return self.model_copy(update={"neurons": strictjson.FrozenDict(), "layers": strictjson.FrozenDict(layers)})

    def as_json(self, *, neurons: bool = False) -> dict[str, Any]:
        """The JSON object that stands in files.

        Args:
            neurons: as files of version 2 have it, with what is known of neurons.
        """
        shown = self if neurons else self.without_neurons()
        found = {"format": self.format, "sha256": self.sha256, "heads": {kind: self.heads[kind] for kind in KINDS}}
        found |= {"layers": dict(shown.layers)} if shown.layers else {}
        return found | ({"neurons": dict(shown.neurons)} if shown.neurons else {})

    def shape_faults(self, other: "Base") -> list[str]:
        """What makes `other` a model of another shape, as seen from a plan made for this base."""
        faults = []
        if other.format != self.format:
            faults.append(f"the model is a {other.format} checkpoint, the plan is for {self.format}")
        counts = [("heads", kind, other.heads, self.heads) for kind in KINDS]
        counts += [("neurons", kind, other.neurons, self.neurons) for kind in NEURON_KINDS if self.neurons]
        for what, kind, there, here in counts:
            if there.get(kind) != here.get(kind):
                shown = show(there.get(kind, ())), show(here.get(kind, ()))
                faults.append(f"{kind} {what} of the model are {shown[0]}, of the plan's base {shown[1]}")
            elif other.layers.get(kind) != self.layers.get(kind):
                faults.append(f"{kind} layers of the model are tied in another way than those of the plan's base")
        return faults


def faultless(data: Any, faults: list[str], where: str, error: type[NmtpruneError] = PlanError) -> Any:
    """`data`; raises `error` where there are faults, since pydantic lets only other errors than ValueError through."""
    if faults:
        raise error.of_faults(where, faults)
    return data
