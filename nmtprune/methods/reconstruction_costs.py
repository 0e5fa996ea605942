"""What removing units costs where output projections are refitted: see `nmtprune.methods.reconstruction`."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nmtprune.architecture import GroupId, UnitId
from nmtprune.methods.joint_order import RemovalCosts

BLOCK = 64
"""Removals of neurons after which the matrices of their layer are computed anew."""


@dataclass(frozen=True, eq=False)
class ModuleReconstruction:
    """What the removal of heads costs in one module, where the output projection is refitted after each of them.

    Of B and G only ``B^T G B`` matters: block elimination keeps it up to date together with A.

    Attributes:
        heads: h numbers of heads that are left, ascending.
        inverse: A [h * K, h * K] in double precision.
        sensitivity: n / 2 B^T G B [h * K, h * K] in double precision.
    """

    heads: tuple[int, ...]
    inverse: Tensor
    sensitivity: Tensor

    def named(self, id: GroupId) -> Iterator[tuple[float, UnitId]]:
        """The cost of each head that is left, with its name in a module."""
        if self.heads:
            yield from zip(self.costs.tolist(), (UnitId(id, head) for head in self.heads), strict=True)

    def cheapest(self, id: GroupId) -> tuple[float, UnitId] | None:
        """The cheapest head with its cost, the first of equals; None where none is left."""
        return min(self.named(id), default=None)

    @property
    def costs(self) -> Tensor:
        """Nats per sentence [h] that the removal of each head costs."""
        count = len(self.heads)
        width = len(self.inverse) // count
        blocks = self.inverse.view(count, width, count, width), self.sensitivity.view(count, width, count, width)
        inverse, sensitivity = (block.diagonal(dim1=0, dim2=2).permute(2, 0, 1) for block in blocks)
        # tr(A_RR^-1 P) with A_RR = L L^T is tr(L^-1 P L^-T).
        lower = torch.linalg.cholesky(inverse)
        half = torch.linalg.solve_triangular(lower, sensitivity, upper=False)
        found: Tensor = torch.linalg.solve_triangular(lower, half.transpose(1, 2), upper=False)
        return found.diagonal(dim1=1, dim2=2).sum(1)

    def without(self, head: int) -> "ModuleReconstruction":
        """The same after the removal of a head."""
        place, width = self.heads.index(head), len(self.inverse) // len(self.heads)
        begin, end = place * width, (place + 1) * width
        others = torch.cat([torch.arange(begin), torch.arange(end, len(self.inverse))])
        rows, own = self.inverse[begin:end][:, others], self.inverse[begin:end, begin:end]
        update = torch.linalg.solve(own, rows)
        inverse = self.inverse[others][:, others] - rows.T @ update
        across, corner = self.sensitivity[begin:end][:, others], self.sensitivity[begin:end, begin:end]
        correction = update.T @ across
        sensitivity = self.sensitivity[others][:, others] - correction - correction.T + update.T @ corner @ update
        heads = (*self.heads[:place], *self.heads[place + 1 :])
        return ModuleReconstruction(heads, symmetric(inverse), symmetric(sensitivity))


@dataclass(frozen=True, eq=False)
class NeuronReconstruction:
    """What the removal of neurons costs in one feed-forward layer, likewise.

    A and n / 2 B^T G B of a layer are large: the removals of a block of BLOCK are kept beside them, each as vectors u
    (and its pivot p) and v with which they are now A - sum of p u u^T and n / 2 B^T G B - sum of (u v^T + v u^T). Costs
    are exact after every removal: they need the diagonals only.

    Attributes:
        neurons: f numbers of the neurons that were left when the block began, ascending.
        inverse: A [f, f] at that time, in double precision.
        sensitivity: n / 2 B^T G B [f, f] at that time, in double precision.
        updates: u [b, f] of the removals in this block.
        changes: v [b, f].
        pivots: p [b].
        diagonals: of both matrices now, [2, f].
        gone: which of the neurons were removed in this block, [f].
    """

    neurons: NDArray[np.int64]
    inverse: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    updates: NDArray[np.float64]
    changes: NDArray[np.float64]
    pivots: NDArray[np.float64]
    diagonals: NDArray[np.float64]
    gone: NDArray[np.bool_]

    @classmethod
    def of(
        cls, neurons: NDArray[np.int64], inverse: NDArray[np.float64], sensitivity: NDArray[np.float64]
    ) -> "NeuronReconstruction":
        """At the begin of a block."""
        nothing = np.empty((0, len(neurons)))
        diagonals = np.stack([inverse.diagonal(), sensitivity.diagonal()])
        gone = np.zeros(len(neurons), dtype=np.bool_)
        return cls(neurons, inverse, sensitivity, nothing, nothing, np.empty(0), diagonals, gone)

    @property
    def costs(self) -> NDArray[np.float64]:
        """Nats per sentence [f] that the removal of each neuron costs; infinite for those that are gone."""
        found = np.full(len(self.neurons), np.inf)
        np.divide(self.diagonals[1], self.diagonals[0], out=found, where=~self.gone)
        return found

    def named(self, id: GroupId) -> Iterator[tuple[float, UnitId]]:
        """The cost of each neuron that is left, with its name in a layer."""
        for neuron, cost, gone in zip(self.neurons.tolist(), self.costs.tolist(), self.gone.tolist(), strict=True):
            if not gone:
                yield cost, UnitId(id, neuron)

    def cheapest(self, id: GroupId) -> tuple[float, UnitId] | None:
        """The cheapest neuron with its cost, the first of equals; None where none is left."""
        if self.gone.all():
            return None
        costs = self.costs
        place = int(np.argmin(costs))
        return float(costs[place]), UnitId(id, int(self.neurons[place]))

    def without(self, neuron: int) -> "NeuronReconstruction":
        """The same after the removal of a neuron."""
        place = int(np.searchsorted(self.neurons, neuron))
        u, v = self.updates[:, place], self.changes[:, place]
        inverse = self.inverse[place] - (self.pivots * u) @ self.updates
        sensitivity = self.sensitivity[place] - u @ self.changes - v @ self.updates
        pivot = inverse[place]
        update = inverse / pivot
        change = sensitivity - sensitivity[place] / 2 * update
        gone = self.gone.copy()
        gone[place] = True
        found = replace(
            self,
            updates=np.concatenate([self.updates, update[None]]),
            changes=np.concatenate([self.changes, change[None]]),
            pivots=np.append(self.pivots, pivot),
            diagonals=self.diagonals - np.stack([pivot * update**2, 2 * update * change]),
            gone=gone,
        )
        return found._folded() if len(found.pivots) >= BLOCK else found

    def _folded(self) -> "NeuronReconstruction":
        """The same at the begin of a block."""
        left = np.flatnonzero(~self.gone)
        u, v = self.updates[:, left], self.changes[:, left]
        inverse = self.inverse[np.ix_(left, left)]
        inverse -= (u.T * self.pivots) @ u
        sensitivity = self.sensitivity[np.ix_(left, left)]
        crossed = u.T @ v
        sensitivity -= crossed
        sensitivity -= crossed.T
        return NeuronReconstruction.of(self.neurons[left], inverse, sensitivity)


GroupReconstruction = ModuleReconstruction | NeuronReconstruction


@dataclass(frozen=True, eq=False)
class Reconstruction(RemovalCosts):
    """What the removal of units costs in every group.

    Attributes:
        groups: those with units.
        best: the cheapest unit of each, as computed from `groups`.
    """

    groups: Mapping[GroupId, GroupReconstruction]
    best: Mapping[GroupId, tuple[float, UnitId]]

    @classmethod
    def of(cls, groups: Mapping[GroupId, GroupReconstruction]) -> "Reconstruction":
        """The groups with their cheapest units."""
        return cls(groups, {id: best for id, own in groups.items() if (best := own.cheapest(id)) is not None})

    def costs(self) -> dict[UnitId, float]:
        """Nats per sentence that the removal of each unit costs."""
        return {unit: cost for id, own in self.groups.items() for cost, unit in own.named(id)}

    def cheapest(self, spared: Collection[UnitId] = ()) -> Mapping[GroupId, tuple[float, UnitId]]:
        """The cheapest unit of every group."""
        found = {id: best for id, best in self.best.items() if best[1] not in spared}
        for id in self.best.keys() - found.keys():
            others = [each for each in self.groups[id].named(id) if each[1] not in spared]
            found |= {id: min(others)} if others else {}
        return found

    def without(self, unit: UnitId) -> Self:
        """The same after the removal of a unit."""
        id = unit.group
        own = self.groups[id].without(unit.number)
        best = {other: known for other, known in self.best.items() if other != id}
        found = own.cheapest(id)
        return replace(
            self, groups={**self.groups, id: own}, best=best if found is None else {**best, id: found}
        )  # fmt: skip


def symmetric(matrix: Tensor) -> Tensor:
    """The matrix without the rounding that makes it unsymmetric."""
    return (matrix + matrix.T) / 2
