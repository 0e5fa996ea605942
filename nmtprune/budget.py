"""From a percentage or a count to an exact number of units, and from scores to exactly that many units.

Where groups go in steps (uniform widths, widths that are multiples of a number), the numbers that can be reached are
sums of one step of each part. Both are found without listing all combinations: of two stacks of 4096 neurons there are
16 million.
"""

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise, product

from nmtprune.architecture import KINDS, LAYER_KINDS, SORTS, UNIFORM, GroupId, UnitId
from nmtprune.errors import BudgetError, UsageError

Modules = Mapping[GroupId, int]
"""Number of heads of every module, as `Base.modules` gives it."""

Units = Mapping[GroupId, int | Sequence[int]]
"""Units of every group: their numbers, as `Base.units` gives them, or how many there are, as `Base.modules` does."""

_Values = Mapping[GroupId, Sequence[float]]
"""Scores of the units of every group, in their order."""

_ONE = 2**1074
"""1 in units of the smallest float: sums of floats that are exact."""


@dataclass(frozen=True)
class Amount:
    """How many heads, neurons or layers a user asks for.

    Attributes:
        value: a number of units, or a percentage of them, exactly as written.
        percent: which of the two it is.
    """

    value: Fraction
    percent: bool

    def __str__(self) -> str:
        """As a user writes it: ``43`` or ``12.5%``."""
        number = str(self.value) if self.value.denominator == 1 else f"{float(self.value):.15g}"
        return f"{number}%" if self.percent else number

    @classmethod
    def parse(cls, text: str, what: str = "heads") -> "Amount":
        """Read ``30%``, ``12.5%`` or ``43``.

        Args:
            text: what the user wrote.
            what: one of SORTS, for the message.

        Raises:
            UsageError: the text is none of these, or a percentage above 100.
        """
        match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(%?)\s*", text)
        if match is None or ("." in match[1] and not match[2]):
            raise UsageError(f"'{text}' is no amount of {what}: write a percentage such as 30% or a count such as 43")
        amount = cls(Fraction(match[1]), bool(match[2]))
        if amount.percent and amount.value > 100:
            raise UsageError(f"'{text}' is more than 100%")
        return amount

    def exact(self, total: int) -> Fraction:
        """Units out of `total`, not yet rounded."""
        return self.value * total / 100 if self.percent else self.value

    def of(self, total: int) -> int:
        """Units out of `total`: floor(x + 0.5) in exact arithmetic, so 29 % of 50 is 15; may exceed `total`."""
        return math.floor(self.exact(total) + Fraction(1, 2))


@dataclass(frozen=True)
class Limits:
    """Which units may be removed.

    Attributes:
        kinds: only units of groups of these kinds, any of `architecture.EVERY_KIND`.
        min_heads_per_module: as many heads stay in every module; one that has fewer loses none.
        uniform: all modules of a stack (the encoder; the decoder with its cross-attention) keep the same number of
            heads, and all feed-forward layers of a stack the same number of neurons, at least one. A stack without
            selected kinds stays as it is.
        multiple_of: the number of neurons that stay in every feed-forward layer is a multiple of it, and not 0 where
            it is above 1. Feed-forward layers of other widths lose neurons in any case.
        protected: units that stay, whatever their scores are; heads, and layers (`with_protected`).

    At least one layer of a stack always stays.

    Raises:
        UsageError: on construction, for a negative `min_heads_per_module`, or a `multiple_of` below 1.
    """

    kinds: tuple[str, ...] = KINDS
    min_heads_per_module: int = 0
    uniform: bool = False
    multiple_of: int = 1
    protected: frozenset[UnitId] = frozenset()

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.min_heads_per_module < 0:
            raise UsageError(f"at least {self.min_heads_per_module} heads per module makes no sense: give 0 or more")
        if self.multiple_of < 1:
            raise UsageError(f"widths that are multiples of {self.multiple_of} make no sense: give 1 or more")

    @property
    def sorts(self) -> tuple[str, ...]:
        """What the selected kinds consist of: heads, neurons, layers."""
        return tuple(sort for sort, kinds in SORTS.items() if set(kinds) & set(self.kinds))

    def with_protected(self, heads: Iterable[UnitId]) -> "Limits":
        """The same limits under which these heads stay, and so do their layers."""
        named = frozenset(heads)
        layers = {UnitId(GroupId.layers_of(head.group.stack), head.group.layer) for head in named}
        return replace(self, protected=self.protected | named | layers)

    def of_sort(self, sort: str) -> "Limits":
        """The same limits for one of SORTS alone: percentages are of the heads, the neurons or the layers."""
        return replace(self, kinds=tuple(kind for kind in self.kinds if kind in SORTS[sort]))

    def step(self, group: GroupId) -> int:
        """The number that what a group keeps is a multiple of."""
        return self.multiple_of if group.sort == "neurons" else 1

    def fewest(self, group: GroupId) -> int:
        """Units that stay in a group, if it has as many."""
        least = {"heads": self.min_heads_per_module, "layers": 1}.get(group.sort, 0)
        step = self.step(group)
        return max(least, step if step > 1 else 0, 1 if self.uniform else 0, len(self.protected_in(group)))

    def protected_in(self, group: GroupId) -> set[int]:
        """Numbers of the protected units of a group."""
        return {unit.number for unit in self.protected if unit.group == group}

    def count(self, units: Units) -> int:
        """Number of units of the selected kinds: what a percentage is taken of."""
        return sum(self.selected(units).values())

    def selected(self, units: Units) -> dict[GroupId, int]:
        """Groups of the selected kinds with their numbers of units, in order."""
        return {id: len(_numbers(units[id])) for id in sorted(units) if id.kind in self.kinds}


def resolve(amount: Amount, units: Units, limits: Limits) -> int:
    """The exact number of units to remove.

    A percentage is of the units of the selected kinds, rounded as `Amount.of` says; with `Limits.uniform` and
    `Limits.multiple_of` it is the nearest number that can be reached, the smaller one of two that are equally near.

    Raises:
        BudgetError: that many units cannot be removed; the message names what is possible.
        UsageError: `Limits.uniform` with only one of decoder and cross.
    """
    total = limits.count(units)
    if in_steps(units, limits):
        numbers = _sums(_parts(units, limits))
        if not amount.percent:
            return _reachable(amount.of(total), numbers, limits)
        return _nearest(numbers, amount.exact(total))
    wanted = amount.of(total)
    _check_number(wanted, units, limits)
    return wanted


def lowest(scores: Mapping[UnitId, float], number: int, units: Units, limits: Limits) -> tuple[UnitId, ...]:
    """The units to remove: exactly `number`, those of the lowest scores.

    Ties are broken by kind (in the order of EVERY_KIND), layer and number. With `Limits.uniform` the lowest units of
    each group go, and the number of each stack is chosen so that the scores removed have the lowest sum (of equal sums:
    the one that takes most from the encoder). With `Limits.multiple_of` the neurons of a layer go in blocks, the lowest
    first, so that the scores removed have the lowest sum. Layers count as one unit each, and so do the heads and
    neurons in them, where several sorts are selected.

    Args:
        scores: a finite score for every unit of the selected kinds; others are ignored.
        number: units to remove.
        units: those that there are.
        limits: which of them may go.

    Returns:
        `number` ids in order.

    Raises:
        BudgetError: scores are missing or not finite, or that many units cannot be removed.
        UsageError: `Limits.uniform` with only one of decoder and cross.
    """
    values = _values(scores, units, limits)
    parts = _parts(units, limits)
    if in_steps(units, limits):
        _reachable(number, _sums(parts), limits)
    else:
        _check_number(number, units, limits)
    return _removed(_cheapest(values, number, parts, limits), values, units)


def lowest_beyond(
    gone: Collection[UnitId], scores: Mapping[UnitId, float], number: int, units: Units, limits: Limits
) -> tuple[UnitId, ...]:
    """The units to remove in steps (`in_steps`), all that are gone among them: about `number`, of the lowest scores.

    Of what can be reached from what is gone, the nearest to `number` (the smaller of two), but more than is gone, where
    more can go at all; of the ways to reach it the one whose scores have the lowest sum, as in `lowest`.

    Args:
        gone: units that go in any case; with `Limits.uniform` as many of each group of a stack.
        scores: as for `lowest`; those of `gone` do not matter.
        number: units to remove, `gone` included.
        units: those that there are.
        limits: which of them may go.

    Raises:
        BudgetError, UsageError: as for `lowest`.
    """
    removed = set(gone)
    there = {unit: score for unit, score in scores.items() if unit not in removed}
    below = math.nextafter(min(filter(math.isfinite, there.values()), default=0.0), -math.inf)
    values = _values({**there, **dict.fromkeys(gone, below)}, units, limits)
    lost = Counter(unit.group for unit in gone)
    parts = [part.beyond(lost) for part in _parts(units, limits)]
    more = [found for found in _sums(parts) if found > len(gone)]
    if number <= len(gone) or not more:
        return tuple(sorted(gone))
    return _removed(_cheapest(values, _nearest(more, Fraction(number)), parts, limits), values, units)


def reachable(units: Units, limits: Limits) -> Sequence[int]:
    """Every number of units that can be removed, ascending.

    Raises:
        UsageError: `Limits.uniform` with only one of decoder and cross.
        BudgetError: a stack that cannot be made uniform, a feed-forward layer narrower than `Limits.multiple_of`.
    """
    if in_steps(units, limits):
        return _sums(_parts(units, limits))
    return range(_removable(limits.selected(units), limits) + 1)


def in_steps(units: Units, limits: Limits) -> bool:
    """Whether units go in steps of several, so that not every number can be reached."""
    return limits.uniform or any(limits.step(group) > 1 for group in limits.selected(units))


def uniform_stacks(units: Units, limits: Limits) -> list[dict[GroupId, int]]:
    """The stacks of the selected kinds, with the number of units of each of their groups; layers come last.

    Raises:
        UsageError: only one of decoder and cross is selected.
    """
    stacks = []
    for kinds in (*UNIFORM, *((kind,) for kind in LAYER_KINDS)):
        present = [kind for kind in kinds if any(group.kind == kind for group in units)]
        chosen = [kind for kind in present if kind in limits.kinds]
        if chosen and chosen != present:
            raise UsageError(f"a uniform plan treats {' and '.join(present)} as one stack: select both or none of them")
        if chosen:
            stacks.append({group: len(_numbers(units[group])) for group in sorted(units) if group.kind in kinds})
    return stacks


@dataclass(frozen=True)
class _Part:
    """Groups that lose units together, in steps.

    Attributes:
        groups: with their numbers of units. All keep the same number.
        keeps: numbers that each may keep, ascending.
    """

    groups: Mapping[GroupId, int]
    keeps: range

    def removed(self, keep: int) -> int:
        """Units that go where each group keeps that many."""
        return sum(self.groups.values()) - keep * len(self.groups)

    def kept(self, removed: int) -> int | None:
        """What each group keeps where that many units go; None where that cannot be."""
        keep, rest = divmod(sum(self.groups.values()) - removed, len(self.groups))
        return keep if not rest and keep in self.keeps else None

    def beyond(self, lost: Mapping[GroupId, int]) -> "_Part":
        """The steps in which every group loses at least what it has lost."""
        most = min(count - lost.get(group, 0) for group, count in self.groups.items())
        return replace(self, keeps=range(self.keeps.start, min(self.keeps.stop, most + 1), self.keeps.step))

    def costs(self, values: _Values) -> dict[int, int]:
        """The sum of the scores removed by number kept, exactly, in units of the smallest float."""
        sums = {group: list(accumulate(map(_exact, sorted(values[group])), initial=0)) for group in self.groups}
        return {keep: sum(sums[group][count - keep] for group, count in self.groups.items()) for keep in self.keeps}


def _parts(units: Units, limits: Limits) -> list[_Part]:
    """What goes in steps of its own: stacks of a uniform plan, else every group."""
    selected = limits.selected(units)
    narrow = [
        f"{group} ({_count(count, group.sort)})"
        for group, count in selected.items()
        if limits.step(group) > max(1, count)
    ]
    if narrow:
        raise BudgetError(f"multiples of {limits.multiple_of} leave nothing of {listed(narrow)}")
    if limits.uniform:
        return [_uniform_part(stack, limits) for stack in uniform_stacks(units, limits)]
    return [
        _Part({group: count}, _keeps(min(count, limits.fewest(group)), count, limits.step(group)))
        for group, count in selected.items()
    ]


def _uniform_part(stack: dict[GroupId, int], limits: Limits) -> _Part:
    first = next(iter(stack))
    fewest, smallest = max(map(limits.fewest, stack)), min(stack.values())
    if smallest < fewest:
        poorest = min(stack, key=lambda group: (stack[group], group))
        raise BudgetError(
            f"no uniform plan is possible: {poorest} has {smallest} {poorest.sort}, and every layer of its stack "
            f"would have to keep the same number, at least {fewest}"
        )
    return _Part(stack, _keeps(fewest, smallest, limits.step(first)))


def _keeps(fewest: int, most: int, step: int) -> range:
    """Multiples of `step` from the first one that is at least `fewest`."""
    return range(-(-fewest // step) * step, most + 1, step)


def _sums(parts: Sequence[_Part]) -> list[int]:
    """Every number of units that the parts can lose together, ascending."""
    # Bit n of an integer stands for the number n: shifting adds what a part loses to all numbers at once.
    bits = 1
    for part in parts:
        found = 0
        for keep in part.keeps:
            found |= bits << part.removed(keep)
        bits = found
    return [number for number, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]


def _cheapest(values: _Values, number: int, parts: Sequence[_Part], limits: Limits) -> dict[GroupId, int]:
    """How many units each group loses where the sum of scores is lowest; of equal sums the first parts lose most."""
    keeps = (_keeps_of_few if limits.uniform else _keeps_of_single_groups)(values, number, parts)
    ways = zip(parts, keeps, strict=True)
    return {group: count - keep for part, keep in ways for group, count in part.groups.items()}


def _removed(lost: Mapping[GroupId, int], values: _Values, units: Units) -> tuple[UnitId, ...]:
    """The units of the lowest scores of every group, as many as it loses."""
    found: list[UnitId] = []
    for group in sorted(lost):
        own = _numbers(units[group])
        ascending = sorted(range(len(own)), key=values[group].__getitem__)
        found += [UnitId(group, own[place]) for place in sorted(ascending[: lost[group]])]
    return tuple(found)


def _keeps_of_few(values: _Values, number: int, parts: Sequence[_Part]) -> tuple[int, ...]:
    """What each of a few parts keeps: the cheapest of all ways."""
    costs = [part.costs(values) for part in parts]

    def cost(way: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return sum(own[keep] for own, keep in zip(costs, way, strict=True)) / _ONE, way

    return min(_ways(number, parts), key=cost)


def _ways(number: int, parts: Sequence[_Part]) -> Iterator[tuple[int, ...]]:
    """What each part keeps, in every way to lose a number of units.

    The part with most steps takes what the others leave, so that its steps are not tried one by one.
    """
    if not parts:
        yield ()
        return
    largest = max(range(len(parts)), key=lambda place: len(parts[place].keeps))
    others = [part for place, part in enumerate(parts) if place != largest]
    for way in product(*(part.keeps for part in others)):
        keep = parts[largest].kept(number - sum(map(_Part.removed, others, way)))
        if keep is not None:
            yield (*way[:largest], keep, *way[largest:])


def _keeps_of_single_groups(values: _Values, number: int, parts: Sequence[_Part]) -> tuple[int, ...]:
    """What each of many parts of one group keeps, whose steps are one unit or one multiple.

    Steps of a group cost more and more, since its lowest units go first: of steps of one size the cheapest go.
    """
    first = [part.keeps[-1] for part in parts]
    number -= sum(map(_Part.removed, parts, first))
    steps: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
    for place, part in enumerate(parts):
        costs = part.costs(values)
        prices = (costs[after] - costs[before] for before, after in pairwise(reversed(part.keeps)))
        steps[part.keeps.step > 1] += [(price, place) for price in prices]
    size = max((part.keeps.step for part in parts), default=1)
    single, several = sorted(steps[False]), sorted(steps[True])
    sums = [list(accumulate((price for price, _ in own), initial=0)) for own in (single, several)]
    ways = [
        (number - size * many, many) for many in range(len(several) + 1) if 0 <= number - size * many <= len(single)
    ]
    few, many = min(ways, key=lambda way: ((sums[0][way[0]] + sums[1][way[1]]) / _ONE, way[1]))
    taken = Counter(place for _, place in (*single[:few], *several[:many]))
    return tuple(keep - taken[place] * parts[place].keeps.step for place, keep in enumerate(first))


def _exact(value: float) -> int:
    """A finite float as an integer, in units of the smallest float."""
    numerator, denominator = float(value).as_integer_ratio()
    return numerator * (_ONE // denominator)


def _nearest(numbers: Sequence[int], target: Fraction) -> int:
    """Of ascending numbers the nearest to the target, the smaller one of two."""
    place = bisect_left(numbers, target)
    return min(numbers[max(0, place - 1) : place + 1], key=lambda number: abs(number - target))


def _reachable(number: int, numbers: Sequence[int], limits: Limits) -> int:
    place = bisect_left(numbers, number)
    if place < len(numbers) and numbers[place] == number:
        return number
    neighbours = " or ".join(map(str, numbers[max(0, place - 1) : place + 1]))
    rules = ["the same number left in every layer of a stack"] if limits.uniform else []
    rules += [f"widths that are multiples of {limits.multiple_of}"] if limits.multiple_of > 1 else []
    raise BudgetError(f"{_count(number, _word(limits))} cannot be removed with {' and '.join(rules)}: {neighbours} can")


def _check_number(number: int, units: Units, limits: Limits) -> None:
    selected = limits.selected(units)
    most = _removable(selected, limits)
    if 0 <= number <= most:
        return
    floors = []
    if limits.min_heads_per_module and "heads" in limits.sorts:
        floors.append(f"every module keeps at least {limits.min_heads_per_module}")
    if "layers" in limits.sorts:
        floors.append("every stack keeps at least one layer")
    protected = Counter(unit.group.sort for unit in limits.protected if unit.group in selected)
    says = {"heads": "heads are protected", "layers": "layers have protected heads"}
    floors += [f"{count} {says[sort]}" for sort, count in protected.items()]
    floor = f", since {' and '.join(floors)}" if floors else ""
    word = _word(limits)
    raise BudgetError(
        f"{_count(number, word)} cannot be removed: 0 to {most} of the {sum(selected.values())} {word} "
        f"({', '.join(limits.kinds)}) can{floor}"
    )


def _removable(selected: Modules, limits: Limits) -> int:
    return sum(max(0, count - limits.fewest(group)) for group, count in selected.items())


def _values(scores: Mapping[UnitId, float], units: Units, limits: Limits) -> dict[GroupId, list[float]]:
    """The scores of every group of the selected kinds, in the order of its units."""
    missing: list[UnitId] = []
    broken: list[str] = []
    values: dict[GroupId, list[float]] = {}
    for group in limits.selected(units):
        own = [UnitId(group, number) for number in _numbers(units[group])]
        found = [scores.get(unit, math.nan) for unit in own]
        values[group] = _last(limits.protected_in(group), own, list(map(float, found)))
        if not all(map(math.isfinite, found)):
            missing += [unit for unit in own if unit not in scores]
            broken += [f"{unit} ({scores[unit]})" for unit in own if not math.isfinite(scores.get(unit, 0.0))]
    if missing:
        raise BudgetError(f"no score for {listed(missing)}")
    if broken:
        raise BudgetError(f"scores that are no finite numbers: {listed(broken)}")
    return values


def _last(protected: Collection[int], units: Sequence[UnitId], values: list[float]) -> list[float]:
    """The values of a group, those of protected units above all others: as many units stay in it at least."""
    if not protected:
        return values
    above = math.nextafter(max(values), math.inf)
    return [above if unit.number in protected else value for unit, value in zip(units, values, strict=True)]


def _numbers(units: int | Sequence[int]) -> Sequence[int]:
    return range(units) if isinstance(units, int) else units


def _word(limits: Limits) -> str:
    return limits.sorts[0] if len(limits.sorts) == 1 else "units" if limits.sorts else "heads"


def _count(number: int, word: str) -> str:
    return f"1 {word.removesuffix('s')}" if number == 1 else f"{number} {word}"


def listed(units: Iterable[object], most: int = 10) -> str:
    """Heads, neurons or layers for a message; beyond `most` only their number, since models have hundreds."""
    every = [str(unit) for unit in units]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
