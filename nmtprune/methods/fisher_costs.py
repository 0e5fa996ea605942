"""What removing units costs, from derivatives of the loss by their factors: see `nmtprune.methods.fisher`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.architecture import GroupId, UnitId
from nmtprune.methods.joint_order import RemovalCosts

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 64
"""Removals of a block of `SentenceFisher`."""


@dataclass(frozen=True, eq=False)
class Fisher(RemovalCosts):
    """Second moments of the derivatives of the loss by the factors of units; costs of removing units.

    Attributes:
        heads: N units in order.
        moments: F [N, N] in double precision, in squared nats per sentence.
        removed: which of them are gone, [N].
    """

    heads: tuple[UnitId, ...]
    moments: "NDArray[np.float64]"
    removed: "NDArray[np.bool_]"

    @property
    def diagonal(self) -> dict[UnitId, float]:
        """1/2 F_hh of every unit: the cost of removing it alone."""
        return dict(zip(self.heads, (self.moments.diagonal() / 2).tolist(), strict=True))

    @cached_property
    def _places(self) -> dict[UnitId, int]:
        return {unit: place for place, unit in enumerate(self.heads)}

    @cached_property
    def _raised(self) -> "NDArray[np.float64]":
        """Cost of each unit [N], those that are gone included."""
        found: NDArray[np.float64] = self.moments.diagonal() / 2 + self.moments[:, self.removed].sum(1)
        return found

    def costs(self) -> Mapping[UnitId, float]:
        """By how much removing each unit raises 1/2 E_x[(sum of g_x over removed units)^2]."""
        return {
            unit: cost
            for unit, cost, gone in zip(self.heads, self._raised.tolist(), self.removed.tolist(), strict=True)
            if not gone
        }

    def cheapest(self, spared: Collection[UnitId] = ()) -> dict[GroupId, tuple[float, UnitId]]:
        """The cheapest unit of every group."""
        costs = np.where(self.removed, np.inf, self._raised)
        costs[[self._places[unit] for unit in spared if unit in self._places]] = np.inf
        return _cheapest(self._groups, costs, self.heads)

    @cached_property
    def _groups(self) -> "dict[GroupId, slice]":
        return _slices(self.heads)

    def without(self, unit: UnitId) -> "Fisher":
        """The same with that unit removed too."""
        place, removed = self._places[unit], self.removed.copy()
        removed[place] = True
        found = replace(self, removed=removed)
        known = {"_places": self._places, "_groups": self._groups, "_raised": self._raised + self.moments[place]}
        vars(found).update(known)
        return found

    def cost_of(self, units: Iterable[UnitId]) -> float:
        """1/2 sum of F over R x R for a set R of units."""
        places = [self._places[unit] for unit in units]
        return float(self.moments[places][:, places].sum()) / 2


@dataclass(frozen=True, eq=False)
class _Block:
    """The units among which those of a block are chosen.

    Attributes:
        places: C of all units, ascending.
        slopes: their columns of G, [C, S].
        costs: [C]; infinite for those that were removed.
        removed: places, of all units, of those that were removed in this block.
    """

    places: "NDArray[np.intp]"
    slopes: "NDArray[np.float32]"
    costs: "NDArray[np.float64]"
    removed: tuple[int, ...] = ()

    def without(self, place: int) -> "_Block":
        """The same after the removal of one of them."""
        row = int(np.searchsorted(self.places, place))
        costs = self.costs + self.slopes @ self.slopes[row]
        costs[row] = np.inf
        return replace(self, costs=costs, removed=(*self.removed, place))


@dataclass(frozen=True, eq=False)
class SentenceFisher(RemovalCosts):
    """Costs as those of `Fisher`, of units that are too many for F, from the derivatives of every sentence.

    Units go in blocks of BLOCK removals. Costs in a block are exact; but only those BLOCK units of each group are
    compared that were the cheapest ones when the block began.

    Attributes:
        units: N units in order.
        slopes: G / sqrt(sentences), [S, N] in single precision.
        raised: cost [N] of removing each unit at the begin of the block, infinite for those that were gone.
        block: the units that can go in this block.
    """

    units: tuple[UnitId, ...]
    slopes: "NDArray[np.float32]"
    raised: "NDArray[np.float64]"
    block: _Block

    @classmethod
    def of(cls, units: Sequence[UnitId], slopes: "NDArray[np.float32]") -> "SentenceFisher":
        """The costs where all units are there."""
        raised = np.einsum("sn,sn->n", slopes, slopes).astype(np.float64) / 2
        return cls(tuple(units), slopes, raised, _begun(_slices(units), slopes, raised))

    @property
    def diagonal(self) -> dict[UnitId, float]:
        """1/2 F_hh of every unit: the cost of removing it alone."""
        squares = np.einsum("sn,sn->n", self.slopes, self.slopes).astype(np.float64) / 2
        return dict(zip(self.units, squares.tolist(), strict=True))

    @cached_property
    def _places(self) -> dict[UnitId, int]:
        return {unit: place for place, unit in enumerate(self.units)}

    @cached_property
    def _groups(self) -> "dict[GroupId, slice]":
        return _slices(self.units)

    def costs(self) -> Mapping[UnitId, float]:
        """As those of `Fisher`."""
        costs = self._now().tolist()
        return {unit: cost for unit, cost in zip(self.units, costs, strict=True) if cost < np.inf}

    def cheapest(self, spared: Collection[UnitId] = ()) -> dict[GroupId, tuple[float, UnitId]]:
        """The cheapest unit of every group, of those in the block."""
        own = [self.units[place] for place in self.block.places.tolist()]
        stays = np.isin(self.block.places, [self._places[unit] for unit in spared if unit in self._places])
        return _cheapest(_slices(own), np.where(stays, np.inf, self.block.costs), own)

    def without(self, unit: UnitId) -> "SentenceFisher":
        """The same with that unit removed too; begins a new block if the unit is not in this one, or the last of it."""
        place = self._places[unit]
        inside = place in self.block.places
        found = replace(self, block=self.block.without(place)) if inside else self._folded((place,))
        if len(found.block.removed) >= BLOCK:
            found = found._folded()
        vars(found).update(_places=self._places, _groups=self._groups)
        return found

    def cost_of(self, units: Iterable[UnitId]) -> float:
        """1/2 sum of F over R x R for a set R of units."""
        places = [self._places[unit] for unit in units]
        return float(np.square(self.slopes[:, places].sum(1, dtype=np.float64)).sum()) / 2

    def _now(self, also: tuple[int, ...] = ()) -> "NDArray[np.float64]":
        """Costs [N] after the removals of the block and of further places."""
        places = [*self.block.removed, *also]
        if not places:
            return self.raised
        raised: NDArray[np.float64] = self.raised + self.slopes[:, places].sum(1) @ self.slopes
        raised[places] = np.inf
        return raised

    def _folded(self, also: tuple[int, ...] = ()) -> "SentenceFisher":
        """The same in a new block."""
        raised = self._now(also)
        return replace(self, raised=raised, block=_begun(self._groups, self.slopes, raised))


def _begun(groups: "Mapping[GroupId, slice]", slopes: "NDArray[np.float32]", raised: "NDArray[np.float64]") -> _Block:
    """The cheapest units of each group."""
    chosen = []
    for own in groups.values():
        there = np.flatnonzero(raised[own] < np.inf)
        order = np.argsort(raised[own][there], kind="stable")[:BLOCK]
        chosen.append(own.start + there[order])
    places = np.sort(np.concatenate(chosen))
    return _Block(places, np.ascontiguousarray(slopes[:, places].T), raised[places])


def _slices(units: Sequence[UnitId]) -> "dict[GroupId, slice]":
    """Where the units of each group lie among units in order."""
    begins: dict[GroupId, int] = {}
    for place, unit in enumerate(units):
        begins.setdefault(unit.group, place)
    ends = [*begins.values(), len(units)][1:]
    return {id: slice(begin, end) for (id, begin), end in zip(begins.items(), ends, strict=True)}


def _cheapest(
    groups: "Mapping[GroupId, slice]", costs: "NDArray[np.float64]", units: Sequence[UnitId]
) -> dict[GroupId, tuple[float, UnitId]]:
    """The cheapest unit of every group with a finite cost, the first of equals."""
    found = {}
    for id, own in groups.items():
        place = own.start + int(np.argmin(costs[own]))
        if costs[place] < np.inf:
            found[id] = float(costs[place]), units[place]
    return found
