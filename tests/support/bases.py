"""Models of plans without a file: bases with heads, neurons and layers, and costs that are easy to add up."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, GroupId, Kept, UnitId
from nmtprune.plan import Base


def base_of(heads: tuple[int, ...] = (4, 4), neurons: tuple[int, ...] = (8, 8)) -> Base:
    """A base with the same heads in each kind, and neurons in both stacks; none where they are not recorded."""
    found = {"format": "fairseq", "sha256": "0" * 64, "heads": dict.fromkeys(KINDS, heads)}
    widths = dict.fromkeys(NEURON_KINDS, neurons)
    return Base.model_validate(found | ({"neurons": widths} if neurons else {}))


@dataclass(frozen=True)
class UnitCosts:
    """Prices that say what one unit of each kind costs, and a layer besides its units.

    Attributes:
        base: the model.
        of_kind: cost of a unit; 1 for kinds that are not named.
        rest: of what is in no group.
    """

    base: Base
    of_kind: Mapping[str, float] = field(default_factory=dict)
    rest: float = 10.0
    kind: str = "macs"
    measure: str = "multiply-accumulates"
    together: tuple[tuple[str, ...], ...] = ()

    def total(self, kept: Kept) -> float:
        """Of everything that is left."""
        left = self._left(kept)
        return self.rest + sum(self.of_kind.get(id.kind, 1.0) * len(numbers) for id, numbers in left.items())

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """Of one unit; of a layer with all that is left in it."""
        left = self._left(kept)
        if unit.group.kind not in LAYER_KINDS:
            return self.of_group(unit.group, kept)
        there = [number for number in left[unit.group] if number != unit.number]
        return self.total(kept) - self.total({**kept, unit.group: there})

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """Of one unit of a group that has any."""
        return self.of_kind.get(group.kind, 1.0) if self._left(kept)[group] else 0.0

    def _left(self, kept: Kept) -> dict[GroupId, tuple[int, ...]]:
        every = {id: tuple(kept.get(id, numbers)) for id, numbers in self.base.units.items()}
        return {
            id: numbers if id.kind in LAYER_KINDS or id.layer in every[GroupId.layers_of(id.stack)] else ()
            for id, numbers in every.items()
        }
