"""The order in which units go where the cost of removing one depends on the units removed before it.

The cheapest unit goes next, or with prices the one of lowest cost per price; then all costs are those of the model
without it. Limits are part of the order: what a unit costs depends on the units that the limits allowed to go.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from nmtprune.architecture import KINDS, GroupId, UnitId
from nmtprune.budget import Limits, Units, uniform_stacks

if TYPE_CHECKING:
    from nmtprune.architecture import Kept

PRICED_ANEW = 64
"""Removals after which the prices of many units are taken anew; those of few units are after every removal."""

FEW_UNITS = 4096
"""Up to this number of units everything is computed anew after every removal."""


class RemovalCosts(ABC):
    """What it costs to remove one more unit, after some were removed. A value: nothing changes it."""

    @abstractmethod
    def costs(self) -> Mapping[UnitId, float]:
        """By how much the loss is expected to rise, for every unit that was not removed; may be negative."""

    @abstractmethod
    def without(self, unit: UnitId) -> Self:
        """The costs after that unit was removed as well."""

    def cheapest(self, spared: Collection[UnitId] = ()) -> Mapping[GroupId, tuple[float, UnitId]]:
        """The cheapest unit of every group that has any left, with its cost; the first of equals.

        Costs of many units find it without looking at all of them.

        Args:
            spared: units that are not looked at.
        """
        found: dict[GroupId, tuple[float, UnitId]] = {}
        for unit, cost in self.costs().items():
            if unit in spared:
                continue
            if unit.group not in found or (cost, unit) < found[unit.group]:
                found[unit.group] = cost, unit
        return found


class UnitPrices(Protocol):
    """What removing units saves, as `nmtprune.evaluate.prices` counts it."""

    def of_unit(self, unit: UnitId, kept: "Kept") -> float:
        """What removing a unit saves, given what is left."""


_Costs = TypeVar("_Costs", bound=RemovalCosts)


def removal_order(
    costs: RemovalCosts,
    groups: Units,
    limits: Limits,
    gone: Collection[UnitId] = (),
    prices: "UnitPrices | None" = None,
) -> tuple[UnitId, ...]:
    """Every unit of the selected kinds that is left, in the order in which they go.

    Equal costs are decided by kind, layer and number. Units that stay because of `limits` follow all others, in the
    order in which they would go without limits. With `Limits.uniform` the order consists of rounds: each brings the
    groups of one stack to the same, smaller number of units, and the stack whose round costs less per unit (or per
    price) is next.

    Args:
        costs: those of the model without the units in `gone`.
        groups: the units that there are, `gone` included.
        limits: which of them may go.
        gone: units that were removed before, layers among them.
        prices: what the removal of a unit saves; the unit of lowest cost per price goes next. All units of a group have
            one price. None: all units have.

    Raises:
        UsageError: `Limits.uniform` with only one of decoder and cross.
        ValueError: a unit of the selected kinds without a cost, or a price that is no number from 0.
    """
    removal = _Removal(groups, limits, gone, prices)
    available = Counter(unit.group for unit in costs.costs())
    wrong = next((group for group, count in removal.left.items() if available[group] != count), None)
    if wrong is not None:
        what = "heads" if wrong.kind in KINDS else wrong.sort
        raise ValueError(f"costs of {available[wrong]} {what} in {wrong}, which has {removal.left[wrong]}")
    if limits.uniform:
        stacks = [list(stack) for stack in uniform_stacks(groups, limits)]
        costs = removal.in_rounds(costs, stacks, {group: limits.fewest(group) for group in removal.left})
    else:
        costs = removal.down_to(costs, {group: limits.fewest(group) for group in removal.left})
    removal.spared = frozenset()
    removal.down_to(costs, dict.fromkeys(removal.left, 0))
    return tuple(removal.order)


def ranks(order: Sequence[UnitId]) -> dict[UnitId, float]:
    """The order as scores: 0 for the first unit that goes, 1 for the next; a higher score means keep."""
    return {unit: float(place) for place, unit in enumerate(order)}


def _rank(best: tuple[float, UnitId], price: float) -> tuple[float, float, UnitId]:
    """Units that save nothing follow all others, by their cost."""
    cost, unit = best
    return (cost / price, 0.0, unit) if price else (math.inf, cost, unit)


class _Removal:
    """Units that go one after the other.

    Attributes:
        left: number of units of every selected group that are left.
        order: those that went.
        spared: units that stay in any case.
    """

    def __init__(self, groups: Units, limits: Limits, gone: Iterable[UnitId], prices: "UnitPrices | None") -> None:
        self.order: list[UnitId] = []
        self.spared = limits.protected
        self._gone, self._prices = frozenset(gone), prices
        lost = Counter(unit.group for unit in self._gone)
        self.left = {group: count - lost[group] for group, count in limits.selected(groups).items()}
        self._others = {
            group: (units if isinstance(units, int) else len(units)) - lost[group]
            for group, units in groups.items()
            if group not in self.left and group.sort != "layers"
        }
        self._again = PRICED_ANEW if sum(self.left.values()) > FEW_UNITS else 1
        self._known: dict[GroupId, float] = {}
        self._priced_at = -1

    def down_to(self, costs: _Costs, fewest: Mapping[GroupId, int]) -> _Costs:
        """Remove the cheapest unit until every group in `fewest` has at most that many.

        Groups that `fewest` does not name lose nothing.
        """
        return self._spent(costs, fewest)[1]

    def _spent(self, costs: _Costs, fewest: Mapping[GroupId, int]) -> tuple[float, _Costs]:
        """What the removal costs in sum, and the costs after it."""
        total = 0.0
        while True:
            found = {
                group: best
                for group, best in costs.cheapest(self.spared).items()
                if group in fewest and self.left[group] > fewest[group]
            }
            if not found:
                return total, costs
            prices = self._prices_of(found)
            cost, unit = min(found.values(), key=lambda best: _rank(best, prices[best[1].group]))
            total += cost
            costs = costs.without(unit)
            self.left[unit.group] -= 1
            self.order.append(unit)

    def in_rounds(self, costs: _Costs, stacks: list[list[GroupId]], fewest: Mapping[GroupId, int]) -> _Costs:
        """Make one stack smaller after the other until all groups have as few units as `fewest` says."""
        while True:
            rounds = []
            before = dict(self.left), len(self.order)
            for stack in stacks:
                sizes = {self.left[group] for group in stack}
                # Groups of different sizes first come to the size of the smallest.
                target = min(sizes) if len(sizes) > 1 else min(sizes) - 1
                if target >= max(fewest[group] for group in stack):
                    price = self._price_of_round(costs, stack, target)
                    total, after = self._spent(costs, dict.fromkeys(stack, target))
                    rounds.append(
                        (total / price if price else math.inf, self.order[before[1] :], dict(self.left), after)
                    )
                    self.left = dict(before[0])
                    del self.order[before[1] :]
                    self._priced_at = -1
            if not rounds:
                return costs
            _, removed, self.left, costs = min(rounds, key=lambda each: each[0])
            self.order += removed

    def _price_of_round(self, costs: RemovalCosts, stack: Sequence[GroupId], target: int) -> float:
        """Of all units that a round removes; their number without prices."""
        numbers = {group: self.left[group] - target for group in stack if self.left[group] > target}
        prices = self._prices_of({group: best for group, best in costs.cheapest().items() if group in numbers})
        return sum(prices[group] * number for group, number in numbers.items())

    def _prices_of(self, found: Mapping[GroupId, tuple[float, UnitId]]) -> Mapping[GroupId, float]:
        """The price of a unit of each of these groups."""
        if self._prices is None:
            return dict.fromkeys(found, 1.0)
        if self._priced_at < 0 or not 0 <= len(self.order) - self._priced_at < self._again:
            self._known, self._priced_at = {}, len(self.order)
        missing = [group for group in found if group not in self._known]
        if missing:
            kept = self._kept()
            for group in missing:
                price = self._prices.of_unit(found[group][1], kept)
                if not 0 <= price < math.inf:
                    raise ValueError(f"the price of {found[group][1]} is {price}, not a number from 0")
                self._known[group] = price
        return self._known

    def _kept(self) -> dict[GroupId, Sequence[int]]:
        """As many units as are left in every group, and the layers that are; prices depend on nothing else."""
        left = {group: range(count) for group, count in {**self._others, **self.left}.items()}
        stacks = {layer.group: layer.group.stack for layer in self._gone if layer.group.sort == "layers"}
        layers = {
            id: sorted(
                {group.layer for group in left if group.stack == stack and UnitId(id, group.layer) not in self._gone}
            )
            for id, stack in stacks.items()
        }
        return {**left, **layers}
