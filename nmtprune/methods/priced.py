"""Units of several kinds chosen together: those go that matter least for what they cost, until a budget is met."""

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from nmtprune.architecture import LAYER_KINDS, STACKS, GroupId, UnitId
from nmtprune.budget import Limits, Units, in_steps, listed, reachable, uniform_stacks
from nmtprune.errors import BudgetError, UsageError
from nmtprune.evaluate.prices import Prices

_FORM = re.compile(r"\s*(?P<kind>[a-z]+)\s*=\s*(?P<number>[0-9]{1,12}(?:\.[0-9]{1,9})?)\s*(?P<unit>%|[KMG]|x|)\s*")
_TIMES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_UNITS = {"macs": ("%",), "params": ("%", *_TIMES), "speed": ("x",)}
_EXAMPLES = {"macs": "macs=60%", "params": "params=60% or params=1.2M", "speed": "speed=1.5x"}


@dataclass(frozen=True)
class Budget:
    """How much a model may cost.

    Attributes:
        kind: ``macs``, ``params`` or ``speed``.
        value: percent of what the whole model costs, a number of parameters, or how many times as fast.
        unit: ``%``, ``x``, or for a number ``K``, ``M``, ``G`` or nothing, as it was written.
    """

    kind: str
    value: Fraction
    unit: str

    def __str__(self) -> str:
        """As a user writes it: ``macs=60%``."""
        number = str(self.value) if self.value.denominator == 1 else f"{float(self.value):.15g}"
        return f"{self.kind}={number}{self.unit}"

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``macs=60%``, ``params=60%``, ``params=1.2M`` or ``speed=1.5x``.

        Raises:
            UsageError: the text is none of these, more than the whole model, or no speed-up.
        """
        match = _FORM.fullmatch(text)
        examples = ", ".join(_EXAMPLES.values())
        if match is None or match["kind"] not in _UNITS:
            raise UsageError(f"'{text}' is no budget: write {examples}")
        kind, value, unit = match["kind"], Fraction(match["number"]), match["unit"]
        if unit not in _UNITS[kind]:
            raise UsageError(f"'{text}' is no budget of this kind: write {_EXAMPLES[kind]}")
        if unit == "%" and value > 100:
            raise UsageError(f"'{text}' is more than 100%")
        if unit == "x" and value < 1:
            raise UsageError(f"'{text}' makes the model slower: give at least 1x")
        return cls(kind, value, unit)

    def target(self, total: float) -> float:
        """The most that a model may cost, if the whole model costs `total`."""
        if self.unit == "x":
            return float(Fraction(total) / self.value)
        return float(Fraction(total) * self.value / 100 if self.unit == "%" else self.value * _TIMES[self.unit])


def choose(  # noqa: PLR0913  # scores and prices, how far, and what may go
    scores: Mapping[UnitId, float],
    prices: Prices,
    target: float,
    units: Units,
    limits: Limits,
    gone: Collection[UnitId] = (),
    *,
    by_rank: bool = False,
) -> tuple[UnitId, ...]:
    """The units to remove for a model that costs at most `target`.

    The step of lowest score per price goes next: a head, a neuron or a layer; with `Limits.uniform` as many units of
    every group of a stack, with `Limits.multiple_of` as many neurons as lead to the next multiple, and of groups that
    cost what the largest of them does (`Prices.together`) likewise one of each. The last step is, of those that meet
    the target, the one of lowest score. Then steps that turn out not to be needed are taken back, those of highest
    score per price first, so that no step could be undone without missing the target (or a uniform plan). Ties are
    decided by group and number.

    Args:
        scores: a finite score for every unit of the selected kinds that is left; higher means keep.
        prices: what units cost.
        target: the most that the model may cost, in the unit of the prices.
        units: of every group of the whole model, as `Base.units` gives them.
        limits: which units may go.
        gone: units that go in any case.
        by_rank: scores are places in an order that knows of prices, so that the lowest goes next.

    Returns:
        Units in order, those of `gone` included.

    Raises:
        BudgetError: scores are missing or not finite, or the target is out of reach: the message names the smallest
            possible budget.
        UsageError: limits that go with no plan.
    """
    if in_steps(units, limits):
        _ = reachable(units, limits)  # refuses limits that go with no plan
    model, rows = _Model(prices, units, gone), _rows(scores, prices, units, limits, gone)
    steps = _Steps(model, rows, scores, by_rank=by_rank)
    steps.level()
    while model.estimate > target or model.total() > target:
        step = steps.next()
        if step is None:
            model = _smallest(_Model(prices, units, gone), rows, scores)
            break
        if by_rank or model.estimate - step.price > target:
            steps.take(step)
        else:
            steps.take(steps.last(target) or step)
    if model.total() > target:
        raise BudgetError(_out_of_reach(prices, target, model.total()))
    model.take_back(target, rows)
    return tuple(sorted({*gone, *model.removed}, key=_order))


class _Row:
    """Groups that lose units together, the lowest of each first.

    Attributes:
        groups: attention modules, or feed-forward layers.
    """

    def __init__(
        self, queues: Mapping[GroupId, Sequence[UnitId]], fewest: int, multiple: int = 1, *, uniform: bool = False
    ) -> None:
        """A row whose groups keep at least `fewest` units, a `multiple`; `uniform`: all of them as many."""
        self.groups = tuple(queues)
        self._queues = queues
        self._fewest, self._multiple, self._uniform = fewest, multiple, uniform

    def next(self, model: "_Model") -> tuple[UnitId, ...]:
        """The units that go next: the largest groups come to the next smaller size. Nothing where none may go."""
        sizes = model.sizes(self.groups)
        size = (max(sizes.values(), default=0) - 1) // self._multiple * self._multiple
        return self._down_to(dict.fromkeys(sizes, size), sizes) if size >= self._fewest else ()

    def uneven(self, model: "_Model") -> tuple[UnitId, ...]:
        """The units without which all groups are of a size that is allowed."""
        sizes = model.sizes(self.groups)
        smallest = min(sizes.values(), default=0)
        allowed = {group: smallest if self._uniform else own for group, own in sizes.items()}
        return self._down_to({group: own // self._multiple * self._multiple for group, own in allowed.items()}, sizes)

    def _down_to(self, smaller: Mapping[GroupId, int], sizes: Mapping[GroupId, int]) -> tuple[UnitId, ...]:
        found: list[UnitId] = []
        for group, size in sizes.items():
            queue = self._queues[group]
            found += queue[len(queue) - size : len(queue) - smaller[group]] if size > smaller[group] else ()
        return tuple(found)


class _Layer(_Row):
    """A layer."""

    def __init__(self, unit: UnitId, fewest: int) -> None:
        super().__init__({}, fewest)
        self.unit = unit

    def next(self, model: "_Model") -> tuple[UnitId, ...]:
        """The layer, if it is there and may go."""
        there = model.kept[self.unit.group]
        return (self.unit,) if self.unit.number in there and len(there) > self._fewest else ()

    def uneven(self, model: "_Model") -> tuple[UnitId, ...]:
        """Nothing."""
        return ()


def _rows(
    scores: Mapping[UnitId, float], prices: Prices, units: Units, limits: Limits, gone: Collection[UnitId]
) -> list[_Row]:
    """What goes in steps of its own."""
    lost = set(gone)
    queues = {
        group: sorted(
            (unit for unit in numbers if unit not in lost),
            key=lambda unit: (unit in limits.protected, float(scores[unit]), unit.number),
        )
        for group, numbers in _checked(scores, units, limits, lost).items()
    }
    stacks = uniform_stacks(units, limits) if limits.uniform else _alike(queues, prices)
    found: list[_Row] = []
    for stack in stacks:
        first = next(iter(stack))
        if first.sort == "layers":
            going = (unit for unit in queues[first] if unit not in limits.protected)
            found += [_Layer(unit, limits.fewest(first)) for unit in going]
        else:
            # Groups that cost what the largest of them does save nothing where one of them may not get smaller.
            least = max(map(limits.fewest, stack)) or int(any(first.kind in kinds for kinds in prices.together))
            own = {group: queues[group] for group in stack}
            found.append(_Row(own, least, limits.step(first), uniform=limits.uniform))
    return found


def _alike(groups: Collection[GroupId], prices: Prices) -> list[list[GroupId]]:
    """Groups by themselves, and together those that cost what the largest of them does."""
    found: dict[object, list[GroupId]] = {}
    for group in groups:
        kinds = next((kinds for kinds in prices.together if group.kind in kinds), None)
        found.setdefault(kinds or group, []).append(group)
    return list(found.values())


def _checked(
    scores: Mapping[UnitId, float], units: Units, limits: Limits, lost: Collection[UnitId]
) -> dict[GroupId, list[UnitId]]:
    """The units of the selected kinds.

    Raises:
        BudgetError: one that is left has no score, or one that is no finite number.
    """
    found = {}
    for group in limits.selected(units):
        own = units[group]
        found[group] = [UnitId(group, number) for number in (range(own) if isinstance(own, int) else own)]
    left = [unit for own in found.values() for unit in own if unit not in lost]
    faults = [unit for unit in left if not math.isfinite(scores.get(unit, math.nan))]
    if faults:
        raise BudgetError(f"no score that is a finite number: {listed(faults)}")
    return found


@dataclass(frozen=True)
class _Step:
    """Units that go together: those of the lowest scores.

    Attributes:
        units: at least one.
        score: their sum.
        price: what they save, each by itself.
        key: the step of the lowest key goes next; it begins with infinity for one that saves nothing.
        row: what they were taken from.
    """

    units: tuple[UnitId, ...]
    score: float
    price: float
    key: tuple[float, int, int, int]
    row: "_Row"

    @classmethod
    def of(
        cls, units: tuple[UnitId, ...], row: "_Row", scores: Mapping[UnitId, float], price: float, *, by_rank: bool
    ) -> "_Step":
        """Ordered by score per price, or by mean rank, then by the first unit."""
        score = math.fsum(float(scores[unit]) for unit in units)
        rate = score / (len(units) if by_rank else price) if price > 0 else math.inf
        return cls(units, score, price, (rate, *_order(units[0])), row)


class _Model:
    """A model that gets smaller step by step.

    Attributes:
        kept: what is left, by its number: ``range(n)`` for a group of heads or neurons, numbers of layers.
        steps: those that were taken and may be taken back, the last one last.
        removed: units that went.
        estimate: the cost, if every unit saved its price.
    """

    def __init__(self, prices: Prices, units: Units, gone: Collection[UnitId]) -> None:
        self._prices = prices
        lost = Counter(unit.group for unit in gone)
        self.kept: dict[GroupId, Sequence[int]] = {
            group: range((own if isinstance(own, int) else len(own)) - lost[group])
            for group, own in units.items()
            if group.kind not in LAYER_KINDS
        }
        for group in map(GroupId.layers_of, STACKS):
            there = {own.layer for own in self.kept if own.stack == group.stack}
            if there:
                self.kept[group] = tuple(sorted(there - {unit.number for unit in gone if unit.group == group}))
        self._stacks = {group: GroupId.layers_of(group.stack) for group in self.kept}
        self.steps: list[_Step] = []
        self.removed: set[UnitId] = set()
        self.estimate = prices.total(self.kept)

    def total(self) -> float:
        """The cost, exactly."""
        self.estimate = self._prices.total(self.kept)
        return self.estimate

    def sizes(self, groups: Sequence[GroupId]) -> dict[GroupId, int]:
        """Units that are left in groups, without those whose layers are gone."""
        return {group: len(self.kept[group]) for group in groups if group.layer in self.kept[self._stacks[group]]}

    def remove(self, step: _Step, *, for_good: bool = False) -> None:
        """Take a step, for good if it cannot be taken back."""
        self.kept |= _changed(self.kept, step.units, -1)
        self.removed.update(step.units)
        self.estimate -= step.price
        if not for_good:
            self.steps.append(step)

    def total_without(self, units: Sequence[UnitId]) -> float:
        """The cost if these units went as well."""
        return self._prices.total({**self.kept, **_changed(self.kept, units, -1)})

    def price(self, units: Sequence[UnitId]) -> float:
        """What these units save, each by itself."""
        counts = Counter(unit.group for unit in units)
        if units[0].group.kind in LAYER_KINDS:
            return sum(self._prices.of_unit(unit, self.kept) for unit in units)
        return sum(count * self._prices.of_group(group, self.kept) for group, count in counts.items())

    def take_back(self, target: float, rows: Sequence[_Row]) -> None:
        """Undo every step that is not needed to meet the target, the least willingly taken first.

        A layer stays away where its groups would have other sizes than `rows` allow.
        """
        last: dict[_Row, list[_Step]] = {}
        for step in self.steps:
            last.setdefault(step.row, []).append(step)
        tried: set[_Row] = set()
        while len(tried) < len(last):
            row = max((row for row in last if row not in tried), key=lambda row: last[row][-1].key)
            step = last[row].pop()
            before = dict(self.kept)
            self.kept |= _changed(self.kept, step.units, 1)
            uneven = isinstance(row, _Layer) and any(own.uneven(self) for own in rows)
            if uneven or self._prices.total(self.kept) > target:
                self.kept = before
                tried.add(row)
                continue
            self.removed.difference_update(step.units)
            if not last[row]:
                del last[row]


def _changed(kept: Mapping[GroupId, Sequence[int]], units: Sequence[UnitId], by: int) -> dict[GroupId, Sequence[int]]:
    """The groups that change if units go (-1) or come back (1)."""
    found: dict[GroupId, Sequence[int]] = {}
    for group, count in Counter(unit.group for unit in units).items():
        if group.kind in LAYER_KINDS:
            own = {unit.number for unit in units if unit.group == group}
            found[group] = tuple(sorted(own.symmetric_difference(kept[group])))
        else:
            found[group] = range(len(kept[group]) + by * count)
    return found


class _Steps:
    """The steps that can be taken next."""

    def __init__(
        self, model: _Model, rows: Sequence[_Row], scores: Mapping[UnitId, float], *, by_rank: bool = False
    ) -> None:
        self._model, self._rows = model, rows
        self._scores, self._by_rank = scores, by_rank
        self._layers = {row.unit: row for row in rows if isinstance(row, _Layer)}
        self._next: dict[_Row, _Step] = {}

    def level(self) -> None:
        """Take, for good, the steps without which the model is none that limits allow."""
        for row in self._rows:
            units = row.uneven(self._model)
            if units:
                self._model.remove(self._step(row, units), for_good=True)
        self._look_at(self._rows)

    def next(self) -> _Step | None:
        """The step of lowest score per price; None where no step saves anything."""
        found = min(self._next.values(), key=lambda step: step.key, default=None)
        return None if found is None or math.isinf(found.key[0]) else found

    def last(self, target: float) -> _Step | None:
        """Of the steps that meet the target the one of lowest score; None where the next one does not meet it."""
        first = self.next()
        if first is None or self._model.total_without(first.units) > target:
            return None
        enough = (step for step in self._next.values() if self._model.total_without(step.units) <= target)
        return min(enough, key=lambda step: (step.score, step.key))

    def take(self, step: _Step) -> None:
        """Take a step."""
        self._model.remove(step)
        if isinstance(step.row, _Layer):
            self._look_at(self._rows)
            return
        changed = {UnitId(GroupId.layers_of(group.stack), group.layer) for group in step.row.groups}
        self._look_at([step.row, *(self._layers[layer] for layer in changed if layer in self._layers)])

    def _look_at(self, rows: Sequence[_Row]) -> None:
        for row in rows:
            units = row.next(self._model)
            if units:
                self._next[row] = self._step(row, units)
            else:
                self._next.pop(row, None)

    def _step(self, row: _Row, units: tuple[UnitId, ...]) -> _Step:
        return _Step.of(units, row, self._scores, self._model.price(units), by_rank=self._by_rank)


def _smallest(model: _Model, rows: Sequence[_Row], scores: Mapping[UnitId, float]) -> _Model:
    """The model with as little as may be left."""
    for row in rows:
        while not isinstance(row, _Layer) and (units := row.next(model)):
            model.remove(_Step.of(units, row, scores, model.price(units), by_rank=False))
    layers = [row for row in rows if isinstance(row, _Layer)]
    for row in sorted(layers, key=lambda row: (-model.price([row.unit]), row.unit)):
        units = row.next(model)
        if units:
            model.remove(_Step.of(units, row, scores, model.price(units), by_rank=False))
    return model


def _out_of_reach(prices: Prices, target: float, least: float) -> str:
    """Why a target is missed, and the smallest budget that can be met."""
    whole = prices.total({})
    if prices.kind == "speed":
        best = f"speed={math.floor(100 * whole / least) / 100:.2f}x"
    else:
        best = f"{prices.kind}={math.ceil(1000 * least / whole) / 10:.1f}%"
    return (
        f"no plan leaves {target / whole:.1%} of the {prices.measure}: with these limits the smallest possible is "
        f"{least / whole:.1%} ({best})"
    )


def _order(unit: UnitId) -> tuple[int, int, int]:
    """As units compare, in less time."""
    return (*unit.group.sort_key, unit.number)
