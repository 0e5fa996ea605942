"""Prices for file formats with one width for all feed-forward layers of a stack: what cut files of them cost."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from nmtprune.architecture import NEURON_KINDS, Architecture, GroupId, Kept, UnitId
from nmtprune.evaluate.prices import Adapted


@dataclass(frozen=True)
class OneWidth(Adapted):
    """Prices by which every feed-forward layer costs what the widest one of its stack does.

    A neuron saves something only where all layers of the stack lose one, so that they are removed together.

    Attributes:
        prices: of models with any widths.
        architecture: of the unpruned model.
    """

    architecture: Architecture

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The neurons of each stack, and what the prices themselves take together."""
        own = self.prices.together
        return (*own, *((kind,) for kind in NEURON_KINDS if not any(kind in kinds for kinds in own)))

    def total(self, kept: Kept) -> float:
        """The cost of the model that keeps this, its feed-forward layers padded to the widest of their stack."""
        return self.prices.total(self._padded(kept))

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """What removing a unit saves, given what is left; a neuron its share if all layers of its stack lose one."""
        if unit.group.kind in NEURON_KINDS:
            return self.of_group(unit.group, kept)
        return self.prices.of_unit(unit, self._padded(kept))

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """What removing any one head or neuron of a group saves, likewise."""
        padded = self._padded(kept)
        narrow = group.kind in NEURON_KINDS and self._left(group, kept) < len(padded[group])
        return 0.0 if narrow else self.prices.of_group(group, padded)

    def _padded(self, kept: Kept) -> Kept:
        widest: dict[str, int] = {}
        there = list(self._there(kept))
        for group in there:
            widest[group.kind] = max(widest.get(group.kind, 0), self._left(group, kept))
        return {**kept, **{group: range(widest[group.kind]) for group in there}}

    def _there(self, kept: Kept) -> Iterator[GroupId]:
        """The feed-forward layers that are left."""
        for group in self._sizes:
            layers = kept.get(GroupId.layers_of(group.stack))
            if layers is None or group.layer in layers:
                yield group

    def _left(self, group: GroupId, kept: Kept) -> int:
        return len(kept[group]) if group in kept else self._sizes[group]

    @cached_property
    def _sizes(self) -> dict[GroupId, int]:
        return {group.id: group.units for group in self.architecture.feed_forwards}
