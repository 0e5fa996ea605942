"""Units of a cut model under their ids in the unpruned one: cutting numbers heads, neurons and layers anew."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from nmtprune.architecture import LAYER_KINDS, GroupId, Kept, UnitId
from nmtprune.budget import Limits
from nmtprune.evaluate.prices import Adapted
from nmtprune.plan import Plan


@dataclass(frozen=True)
class CutUnits:
    """What a plan makes of ids.

    Attributes:
        plan: by which the model was cut.
    """

    plan: Plan

    def unpruned(self, unit: UnitId) -> UnitId:
        """The unit of the unpruned model that a unit of the cut model was."""
        group = self.group(unit.group)
        left = self.plan.kept(group)
        return UnitId(
            group, left[unit.number] if group.kind not in LAYER_KINDS else self._number(group.stack, unit.number)
        )

    def cut(self, unit: UnitId) -> UnitId:
        """The unit of the cut model that a unit of the unpruned model is, which the plan keeps."""
        group = unit.group
        if group.kind in LAYER_KINDS:
            return UnitId(group, self._place(group.stack, unit.number))
        place = self._place(group.stack, group.layer)
        return UnitId(GroupId(group.kind, place), self.plan.kept(group).index(unit.number))

    def limits(self, limits: Limits) -> Limits:
        """Limits of the unpruned model as those of the cut one, in which protected units have other numbers."""
        return replace(limits, protected=frozenset(map(self.cut, limits.protected)))

    def group(self, id: GroupId) -> GroupId:
        """The group of the unpruned model that a group of the cut model was."""
        return id if id.kind in LAYER_KINDS else GroupId(id.kind, self._number(id.stack, id.layer))

    def _number(self, stack: str, layer: int) -> int:
        """The number of a layer; stacks that lose none keep their numbers, even with gaps where layers are tied."""
        return self._layers[stack][layer] if stack in self._layers else layer

    def _place(self, stack: str, layer: int) -> int:
        """The number that a layer has in the cut model."""
        return self._layers[stack].index(layer) if stack in self._layers else layer

    @cached_property
    def _layers(self) -> dict[str, tuple[int, ...]]:
        return self.plan.kept_layers()


@dataclass(frozen=True)
class PricesOfCut(Adapted):
    """Prices for a cut model: those of the unpruned model without what is gone.

    Attributes:
        prices: of the unpruned model.
        cut: the plan.
    """

    cut: CutUnits

    def total(self, kept: Kept) -> float:
        """The cost of the model that keeps this of the cut model."""
        return self.prices.total(self._kept(kept))

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """What removing a unit saves, given what is left of the cut model."""
        return self.prices.of_unit(self.cut.unpruned(unit), self._kept(kept))

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """What removing any one head or neuron of a group saves, likewise."""
        return self.prices.of_group(self.cut.group(group), self._kept(kept))

    def _kept(self, kept: Kept) -> Kept:
        there: dict[GroupId, Sequence[int]] = dict(self.cut.plan.kept_units)
        for id, numbers in kept.items():
            layers = id.kind in LAYER_KINDS
            # Prices ask which layers are left, but only how many heads and neurons.
            there[self.cut.group(id)] = (
                [self.cut.unpruned(UnitId(id, each)).number for each in numbers] if layers else numbers
            )
        return there
