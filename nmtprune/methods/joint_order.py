"""The order in which heads go where the cost of removing a head depends on the heads removed before it.

The cheapest head goes next, then all costs are those of the model without it. Limits are part of the order: what a head
costs depends on the heads that the limits allowed to go.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, Self, TypeVar

from nmtprune.architecture import GroupId, UnitId
from nmtprune.budget import Limits, Modules, uniform_stacks


class RemovalCosts(Protocol):
    """What it costs to remove one more head, after some were removed. A value: nothing changes it."""

    def costs(self) -> Mapping[UnitId, float]:
        """By how much the loss is expected to rise, for every head that was not removed; may be negative."""

    def without(self, head: UnitId) -> Self:
        """The costs after that head was removed as well."""


_Costs = TypeVar("_Costs", bound=RemovalCosts)


def removal_order(
    costs: RemovalCosts, modules: Modules, limits: Limits, gone: Collection[UnitId] = ()
) -> tuple[UnitId, ...]:
    """Every head of the selected kinds that is left, in the order in which they go.

    Equal costs are decided by kind, layer and head. Heads that `limits` protect follow all others, in the order in
    which they would go without limits. With `Limits.uniform` the order consists of rounds: each brings the modules of
    one stack to the same, smaller number of heads, and the stack whose round costs less per head is next.

    Args:
        costs: those of the model without the heads in `gone`.
        modules: the heads that there are, `gone` included.
        limits: which of them may go.
        gone: heads that were removed before.

    Raises:
        UsageError: `Limits.uniform` with only one of decoder and cross.
        ValueError: a head of the selected kinds without a cost.
    """
    left = dict(limits.selected(modules))
    for head in gone:
        if head.group in left:
            left[head.group] -= 1
    available = costs.costs()
    counts = {module: sum(head.group == module for head in available) for module in left}
    if counts != left:
        wrong = next(module for module in left if counts[module] != left[module])
        raise ValueError(f"costs of {counts[wrong]} heads in {wrong}, which has {left[wrong]}")
    order: list[UnitId] = []
    if limits.uniform:
        stacks = [list(stack) for stack in uniform_stacks(modules, limits)]
        costs = _remove_in_rounds(costs, left, stacks, max(1, limits.min_heads_per_module), order)
    else:
        costs = _remove(costs, left, dict.fromkeys(left, limits.min_heads_per_module), order)
    _remove(costs, left, dict.fromkeys(left, 0), order)
    return tuple(order)


def ranks(order: Sequence[UnitId]) -> dict[UnitId, float]:
    """The order as scores: 0 for the first head that goes, 1 for the next; a higher score means keep."""
    return {head: float(place) for place, head in enumerate(order)}


def _remove(costs: _Costs, left: dict[GroupId, int], fewest: Mapping[GroupId, int], order: list[UnitId]) -> _Costs:
    """Remove the cheapest head until every module in `fewest` has at most that many; adds to `order`, updates `left`.

    Modules that `fewest` does not name lose nothing.
    """
    while True:
        found = [
            (cost, head)
            for head, cost in costs.costs().items()
            if head.group in fewest and left[head.group] > fewest[head.group]
        ]
        if not found:
            return costs
        _, head = min(found)
        costs = costs.without(head)
        left[head.group] -= 1
        order.append(head)


def _remove_in_rounds(
    costs: _Costs, left: dict[GroupId, int], stacks: list[list[GroupId]], smallest: int, order: list[UnitId]
) -> _Costs:
    """Make one stack smaller after the other until all modules have `smallest` heads."""
    while True:
        rounds = []
        for stack in stacks:
            sizes = {left[module] for module in stack}
            # Modules of different sizes first come to the size of the smallest.
            target = min(sizes) if len(sizes) > 1 else min(sizes) - 1
            if target >= smallest:
                own, removed = dict(left), list[UnitId]()
                total, after = _cost_of_round(costs, own, dict.fromkeys(stack, target), removed)
                rounds.append((total / len(removed), removed, own, after))
        if not rounds:
            return costs
        _, removed, own, costs = min(rounds, key=lambda each: each[0])
        left.update(own)
        order += removed


def _cost_of_round(
    costs: _Costs, left: dict[GroupId, int], fewest: Mapping[GroupId, int], order: list[UnitId]
) -> tuple[float, _Costs]:
    """What a round costs, and the costs after it."""
    total, before = 0.0, costs
    costs = _remove(costs, left, fewest, order)
    for head in order:
        total += before.costs()[head]
        before = before.without(head)
    return total, costs
