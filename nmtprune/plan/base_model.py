"""The model that the head ids of a plan or a lineage refer to."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from nmtprune import strictjson
from nmtprune.architecture import KINDS, Architecture, ModuleId
from nmtprune.errors import NmtpruneError, PlanError
from nmtprune.plan.faults import base_faults, modules_of
from nmtprune.strictjson import show


def _in_order(heads: Mapping[str, Iterable[int]]) -> strictjson.FrozenDict:
    """Kinds or modules in the order encoder, decoder, cross and then layer by number."""

    def position(name: str) -> tuple[int, int]:
        kind, _, layer = name.partition(".")
        return KINDS.index(kind), int(layer or 0)

    return strictjson.FrozenDict({name: tuple(heads[name]) for name in sorted(heads, key=position)})


HeadLists = Annotated[Mapping[str, tuple[int, ...]], AfterValidator(_in_order)]
"""Integers by kind or by module, ordered and immutable."""

JsonObject = Annotated[Mapping[str, Any], AfterValidator(strictjson.freeze)]
"""Any JSON object, immutable."""

FROZEN = ConfigDict(frozen=True, extra="forbid")


class Base(BaseModel):
    """The model that head ids refer to.

    Attributes:
        format: file format, ``fairseq`` or ``marian``.
        sha256: fingerprint of the model's tensors as stored (`nmtprune.formats.base.fingerprint`), 64 hex digits.
        heads: real heads per module, layer by layer, under each of KINDS; an empty list for a kind that is not there.
        layers: for kinds whose modules are not the layers 0, 1, 2, ... (tied layers stand once, under the first of
            them), the layer of each entry of `heads`; kinds that are numbered without gaps are not listed.

    Raises:
        PlanError: on construction, naming every fault.
    """

    model_config = FROZEN

    format: str
    sha256: str
    heads: HeadLists
    layers: HeadLists = strictjson.FrozenDict()

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        return data if isinstance(data, cls) else handler(faultless(data, base_faults(data), "base"))

    @classmethod
    def of(cls, format: str, sha256: str, architecture: Architecture) -> "Base":
        """The base that a checkpoint of this format, fingerprint and architecture is."""
        layers = {kind: tuple(module.id.layer for module in architecture.of_kind(kind)) for kind in KINDS}
        tied = {kind: found for kind, found in layers.items() if found != tuple(range(len(found)))}
        heads = {kind: tuple(counts) for kind, counts in architecture.heads_by_kind().items()}
        base = {"format": format, "sha256": sha256, "heads": heads}
        return cls.model_validate(base | ({"layers": tied} if tied else {}))

    @property
    def modules(self) -> dict[ModuleId, int]:
        """Number of heads of every module in order."""
        return dict(modules_of(self.heads, self.layers))

    def as_json(self) -> dict[str, Any]:
        """The JSON object that stands in plans and lineages."""
        found = {"format": self.format, "sha256": self.sha256, "heads": {kind: self.heads[kind] for kind in KINDS}}
        return found | ({"layers": dict(self.layers)} if self.layers else {})

    def shape_faults(self, other: "Base") -> list[str]:
        """What makes `other` a model of another shape, as seen from a plan made for this base."""
        faults = []
        if other.format != self.format:
            faults.append(f"the model is a {other.format} checkpoint, the plan is for {self.format}")
        for kind in KINDS:
            if other.heads[kind] != self.heads[kind]:
                there, here = show(other.heads[kind]), show(self.heads[kind])
                faults.append(f"{kind} heads of the model are {there}, of the plan's base {here}")
            elif other.layers.get(kind) != self.layers.get(kind):
                faults.append(f"{kind} layers of the model are tied in another way than those of the plan's base")
        return faults


def faultless(data: Any, faults: list[str], where: str, error: type[NmtpruneError] = PlanError) -> Any:
    """`data`; raises `error` where there are faults, since pydantic lets only other errors than ValueError through."""
    if faults:
        raise error.of_faults(where, faults)
    return data
