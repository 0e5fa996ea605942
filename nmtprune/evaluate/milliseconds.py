"""What units cost in milliseconds, from a table that was measured with one engine and precision on one machine.

How much time a unit takes differs from what multiply-accumulates promise, and by how much depends on the engine: a
budget of speed needs measurements. They are taken of each part of the model alone; here they are added up.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from nmtprune.architecture import KINDS, LAYER_KINDS, STACKS, Architecture, GroupId, Kept, UnitId
from nmtprune.errors import DataError
from nmtprune.evaluate.cost import Spread

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


@dataclass(frozen=True)
class ModelSize:
    """The numbers by which a table is known to be of a model.

    Attributes:
        heads: by kind, layer by layer.
        head_dims: K, likewise.
        neurons: by kind, layer by layer.
        layers: by stack.
        parameters: trainable ones.
    """

    heads: Mapping[str, tuple[int, ...]]
    head_dims: Mapping[str, tuple[int, ...]]
    neurons: Mapping[str, tuple[int, ...]]
    layers: Mapping[str, int]
    parameters: int

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "ModelSize":
        """Of a checkpoint."""
        architecture = checkpoint.architecture
        modules = {kind: architecture.of_kind(kind) for kind in KINDS if architecture.of_kind(kind)}
        return cls(
            heads={kind: tuple(own.heads for own in found) for kind, found in modules.items()},
            head_dims={kind: tuple(own.head_dim for own in found) for kind, found in modules.items()},
            neurons=architecture.neurons_by_kind(),
            layers={stack: len(architecture.layers(stack)) for stack in STACKS if architecture.layers(stack)},
            parameters=sum(tensor.numel() for tensor in checkpoint.parameters.values()),
        )

    def faults(self, other: "ModelSize") -> Iterator[str]:
        """How another model differs from this one."""
        for what, own, others in (
            ("heads", self.heads, other.heads),
            ("widths of heads", self.head_dims, other.head_dims),
            ("neurons", self.neurons, other.neurons),
            ("layers", self.layers, other.layers),
        ):
            differing = sorted({kind for kind in {*own, *others} if own.get(kind) != others.get(kind)})
            yield from (
                f"{what}, {kind}: {_listed(own.get(kind))}, not {_listed(others.get(kind))}" for kind in differing
            )
        if self.parameters != other.parameters:
            yield f"parameters: {self.parameters}, not {other.parameters}"


@dataclass(frozen=True)
class TimePoint:
    """The model with fewer units of some kinds.

    Attributes:
        left: share of the units that are left.
        time: of the whole model's, round by round.
    """

    left: float
    time: Spread


@dataclass(frozen=True)
class TimeAxis:
    """How the time falls with the units of some kinds; everything else stays.

    Attributes:
        kinds: of the groups that lose units, all of them the same share.
        padded: the engine stores each of these groups with as many units as the largest of them has.
        points: by rising share, without the whole model.
    """

    kinds: tuple[str, ...]
    padded: bool
    points: tuple[TimePoint, ...]


class Milliseconds:
    """Milliseconds that a sentence takes, of every model that can be cut.

    Between the measured points of an axis the time is interpolated, below the lowest one it is taken to fall no
    further. Medians that fall where they should rise are levelled (isotonic regression). What a layer's heads and
    neurons save is its share of what those of all layers do, and is gone with the layer.

    Attributes:
        kind: ``speed``.
        measure: ``time``.
        together: kinds of the padded axes.
    """

    kind, measure = "speed", "time"

    def __init__(self, whole: float, axes: Sequence[TimeAxis], architecture: Architecture) -> None:
        """Take what was measured.

        Args:
            whole: milliseconds of the whole model.
            axes: what its parts take of it.
            architecture: of the whole model.
        """
        self.together = tuple(axis.kinds for axis in axes if axis.padded)
        self._whole, self._architecture = whole, architecture
        self._curves = {kind: _Curve.of(axis) for axis in axes for kind in axis.kinds}
        self._kinds = {kind: axis.kinds for axis in axes for kind in axis.kinds}
        self._sizes = {group.id: group.units for group in architecture.groups}

    def total(self, kept: Kept) -> float:
        """Milliseconds of the model that keeps this."""
        share = 1.0
        for group, layers in self._layers.items():
            if group.kind in self._curves:
                share -= self._curves[group.kind].saved(len(kept.get(group, layers)) / len(layers))
        share -= sum(self._saved(axis, kept) for axis in self._axes)
        return self._whole * max(0.0, share)

    def of_unit(self, unit: UnitId, kept: Kept) -> float:
        """What removing a unit saves, given what is left; of a layer all that is left of it."""
        if unit.group.kind not in LAYER_KINDS:
            return self.of_group(unit.group, kept)
        there = kept.get(unit.group, self._layers[unit.group])
        if unit.number not in there:
            return 0.0
        without = {**kept, unit.group: tuple(number for number in there if number != unit.number)}
        return self.total(kept) - self.total(without)

    def of_group(self, group: GroupId, kept: Kept) -> float:
        """What removing a head or neuron of a group saves on the way to the cheapest point below.

        Not the next unit alone: the first ones of many may save nothing where the engine computes in blocks.
        """
        axis = self._kinds.get(group.kind)
        size, left = self._sizes[group], self._left(group, kept)
        if axis is None or not size or not left or not self._has(group, kept):
            return 0.0
        groups = self._groups[axis]
        if axis in self.together:
            there = [self._left(own, kept) for own in groups if self._has(own, kept)]
            if left < max(there):
                return 0.0
            size = max(self._sizes[own] for own in groups)
        return self._whole * self._curves[group.kind].slope(left / size) / size / len(groups)

    def _saved(self, axis: tuple[str, ...], kept: Kept) -> float:
        """Share of the time that heads or neurons which are gone save in the layers that are left."""
        groups, curve = self._groups[axis], self._curves[axis[0]]
        there = [group for group in groups if self._has(group, kept)]
        if not there:
            return 0.0
        if axis in self.together:
            size = max(self._sizes[group] for group in groups)
            most = max(self._left(group, kept) for group in there)
            return curve.saved(most / size) * len(there) / len(groups) if size else 0.0
        shares = (self._left(group, kept) / self._sizes[group] for group in there if self._sizes[group])
        return sum(map(curve.saved, shares)) / len(groups)

    def _left(self, group: GroupId, kept: Kept) -> int:
        return len(kept[group]) if group in kept else self._sizes[group]

    def _has(self, group: GroupId, kept: Kept) -> bool:
        stack = GroupId.layers_of(group.stack)
        return group.layer in kept.get(stack, self._layers[stack])

    @cached_property
    def _layers(self) -> dict[GroupId, tuple[int, ...]]:
        return {id: numbers for id, numbers in self._architecture.units.items() if id.kind in LAYER_KINDS}

    @cached_property
    def _axes(self) -> list[tuple[str, ...]]:
        """The axes of heads and neurons."""
        return [axis for axis in dict.fromkeys(self._kinds.values()) if self._groups[axis]]

    @cached_property
    def _groups(self) -> dict[tuple[str, ...], list[GroupId]]:
        """Groups of heads and neurons by axis."""
        return {axis: [id for id in self._sizes if id.kind in axis] for axis in set(self._kinds.values())}


@dataclass(frozen=True)
class _Curve:
    """Share of the whole model's time by share of units, both rising, up to 1 and 1.

    Attributes:
        lefts: shares of units.
        times: at these.
        hull: places of the points of the lower convex hull.
    """

    lefts: tuple[float, ...]
    times: tuple[float, ...]
    hull: tuple[int, ...]

    @classmethod
    def of(cls, axis: TimeAxis) -> "_Curve":
        """From what was measured."""
        from scipy.optimize import isotonic_regression

        points = sorted(axis.points, key=lambda point: point.left)
        levelled = isotonic_regression([min(1.0, point.time.median) for point in points]).x if points else []
        lefts, times = (*(point.left for point in points), 1.0), (*map(float, levelled), 1.0)
        hull: list[int] = []
        for place in range(len(lefts)):
            while len(hull) > 1 and _slope(lefts, times, hull[-2], place) <= _slope(lefts, times, hull[-2], hull[-1]):
                hull.pop()
            hull.append(place)
        return cls(lefts, times, tuple(hull))

    def saved(self, left: float) -> float:
        """Share of the time that is saved where a share of the units is left."""
        import numpy as np

        return 1.0 - float(np.interp(left, self.lefts, self.times))

    def slope(self, left: float) -> float:
        """Share of the time that the last of the units save, by their share, on the lower convex hull."""
        for before, after in zip(self.hull, self.hull[1:], strict=False):
            if self.lefts[before] < left <= self.lefts[after]:
                return _slope(self.lefts, self.times, before, after)
        return 0.0


def _slope(lefts: Sequence[float], times: Sequence[float], before: int, after: int) -> float:
    return (times[after] - times[before]) / (lefts[after] - lefts[before])


def _listed(value: int | tuple[int, ...] | None) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "none" if value is None else str(value)


def check_fit(table: ModelSize, checkpoint: "Checkpoint", where: str) -> None:
    """Check that a table was measured on a model of the same size.

    Raises:
        DataError: naming everything that differs.
    """
    faults = list(table.faults(ModelSize.of(checkpoint)))
    if faults:
        raise DataError.of_faults(f"{where}: measured on a model of another size than {checkpoint.path}", faults)
