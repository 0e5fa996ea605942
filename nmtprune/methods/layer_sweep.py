"""Removing whole layers, alone or together with heads and neurons: the layer without which the loss is lowest.

No importance of a single pass tells what a model is without one of its layers, so every layer that may go is tried:
the loss of the references is measured without it, on the model that is left. Layers and units compete at equal savings:
a layer goes where the model without it has a lower loss than the model that saves as much by heads and neurons.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from nmtprune.architecture import EVERY_KIND, LAYER_KINDS, GroupId, UnitId
from nmtprune.errors import BudgetError
from nmtprune.methods.priced_sweep import PricedUnits, check_scored
from nmtprune.methods.sweep import Course
from nmtprune.plan import Plan

LossesOf = Callable[[Plan, Sequence[Plan]], Sequence[float]]
"""Losses of the models of some plans that continue another one."""


def removable_layers(plan: Plan, kinds: Sequence[str], protected: Collection[UnitId] = ()) -> tuple[UnitId, ...]:
    """The layers that a plan leaves, in order, in stacks that have more than one: the last one of a stack stays."""
    found = []
    for kind in LAYER_KINDS:
        left = plan.keep.get(kind, ()) if kind in kinds else ()
        found += [UnitId(GroupId(kind), number) for number in left] if len(left) > 1 else []
    return tuple(layer for layer in found if layer not in protected)


def without_layer(plan: Plan, layer: UnitId) -> Plan:
    """The plan that removes one more layer."""
    return Plan.removing(plan.base, [*plan.removed(EVERY_KIND), layer])


@dataclass(frozen=True)
class Layers(Course):
    """Layers one by one: the one without which the loss is lowest.

    Attributes:
        kinds: stacks, of LAYER_KINDS.
        measure: the level of a plan: layers removed, or what they cost.
        losses_of: losses of models without refit.
        protected: layers that stay.
    """

    kinds: tuple[str, ...]
    measure: Callable[[Plan], float]
    losses_of: LossesOf
    protected: frozenset[UnitId] = frozenset()

    def reached(self, plan: Plan) -> float:
        """As `measure` says."""
        return self.measure(plan)

    def onwards(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        """Layer by layer; each layer is chosen on the model without those before."""
        while self.reached(plan) < level:
            there = removable_layers(plan, self.kinds, self.protected)
            if not there:
                kept = " and the layers of protected heads" if self.protected else ""
                raise BudgetError(f"no further layer can be removed: every stack keeps one{kept}")
            found = [without_layer(plan, layer) for layer in there]
            losses = self.losses_of(plan, found)
            plan = found[min(range(len(found)), key=lambda place: losses[place])]
        return plan


@dataclass(frozen=True)
class UnitsAndLayers(Course):
    """Heads and neurons by their scores, and layers by the loss, whichever costs less quality for what it saves.

    Attributes:
        units: how heads and neurons are removed, and what is counted.
        kinds: stacks that may lose layers, of LAYER_KINDS.
        losses_of: losses of models without refit.
    """

    units: PricedUnits
    kinds: tuple[str, ...]
    losses_of: LossesOf

    def reached(self, plan: Plan) -> float:
        """As `units` counts."""
        return self.units.reached(plan)

    def onwards(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        """In moves: a layer, or heads and neurons that save as much as the largest layer would."""
        check_scored(plan, scores, self.units.limits)
        while self.reached(plan) < level:
            plan = self._moved(plan, scores, level)
        return plan

    def _moved(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan:
        here = self.reached(plan)
        shorter = [
            found
            for layer in removable_layers(plan, self.kinds, self.units.limits.protected)
            if self.reached(found := without_layer(plan, layer)) > here
        ]
        if not shorter:
            return self.units.onwards(plan, scores, level)
        # The last layer on the way may save more than is missing: then it competes with what just reaches the level.
        aims = [min(self.reached(found), level) for found in shorter]
        rivals = {aim: self._by_units(plan, scores, aim) for aim in sorted(set(aims))}
        by_units = [found for found in rivals.values() if found is not None]
        losses = self.losses_of(plan, [*shorter, *by_units])
        of_units = iter(losses[len(shorter) :])
        of_rivals = {aim: next(of_units) if found is not None else float("inf") for aim, found in rivals.items()}
        gains = [of_rivals[aim] - loss for aim, loss in zip(aims, losses, strict=False)]
        best = max(range(len(shorter)), key=lambda place: (gains[place], -losses[place]))
        farthest = rivals[max(rivals)]
        return shorter[best] if gains[best] > 0 or farthest is None else farthest

    def _by_units(self, plan: Plan, scores: Mapping[UnitId, float], level: float) -> Plan | None:
        """Heads and neurons removed up to a level; None where there are not enough of them."""
        try:
            return self.units.onwards(plan, scores, level)
        except BudgetError:
            return None
