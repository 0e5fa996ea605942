"""From a percentage or a count to an exact number of heads, and from scores to exactly that many heads."""

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from nmtprune.architecture import KINDS, STACKS, GroupId, UnitId
from nmtprune.errors import BudgetError, UsageError

Modules = Mapping[GroupId, int]
"""Number of heads of every module, as `Base.modules` gives it."""


@dataclass(frozen=True)
class Amount:
    """How many heads a user asks for.

    Attributes:
        value: a number of heads, or a percentage of them, exactly as written.
        percent: which of the two it is.
    """

    value: Fraction
    percent: bool

    def __str__(self) -> str:
        """As a user writes it: ``43`` or ``12.5%``."""
        number = str(self.value) if self.value.denominator == 1 else f"{float(self.value):.15g}"
        return f"{number}%" if self.percent else number

    @classmethod
    def parse(cls, text: str) -> "Amount":
        """Read ``30%``, ``12.5%`` or ``43``.

        Raises:
            UsageError: the text is none of these, or a percentage above 100.
        """
        match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(%?)\s*", text)
        if match is None or ("." in match[1] and not match[2]):
            raise UsageError(f"'{text}' is no amount of heads: write a percentage such as 30% or a count such as 43")
        amount = cls(Fraction(match[1]), bool(match[2]))
        if amount.percent and amount.value > 100:
            raise UsageError(f"'{text}' is more than 100%")
        return amount

    def exact(self, total: int) -> Fraction:
        """Heads out of `total`, not yet rounded."""
        return self.value * total / 100 if self.percent else self.value

    def of(self, total: int) -> int:
        """Heads out of `total`: floor(x + 0.5) in exact arithmetic, so 29 % of 50 is 15; may exceed `total`."""
        return math.floor(self.exact(total) + Fraction(1, 2))


@dataclass(frozen=True)
class Limits:
    """Which heads may be removed.

    Attributes:
        kinds: only heads of these kinds.
        min_heads_per_module: as many heads stay in every module; one that has fewer loses none.
        uniform: all modules of a stack (the encoder; the decoder with its cross-attention) keep the same number of
            heads, at least one. A stack without selected kinds stays as it is.

    Raises:
        UsageError: on construction, if `min_heads_per_module` is negative.
    """

    kinds: tuple[str, ...] = KINDS
    min_heads_per_module: int = 0
    uniform: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.min_heads_per_module < 0:
            raise UsageError(f"at least {self.min_heads_per_module} heads per module makes no sense: give 0 or more")

    def count(self, modules: Modules) -> int:
        """Number of heads of the selected kinds: what a percentage is taken of."""
        return sum(heads for module, heads in modules.items() if module.kind in self.kinds)

    def selected(self, modules: Modules) -> dict[GroupId, int]:
        """Modules of the selected kinds with their numbers of heads, in order."""
        return {module: modules[module] for module in sorted(modules) if module.kind in self.kinds}


def resolve(amount: Amount, modules: Modules, limits: Limits) -> int:
    """The exact number of heads to remove.

    A percentage is of the heads of the selected kinds, rounded as `Amount.of` says; with `Limits.uniform` it is the
    nearest number that can be reached, the smaller one of two that are equally near.

    Raises:
        BudgetError: that many heads cannot be removed; the message names what is possible.
        UsageError: `Limits.uniform` with only one of decoder and cross.
    """
    total = limits.count(modules)
    if limits.uniform:
        splits = _uniform_splits(modules, limits)
        if not amount.percent:
            return _reachable(amount.of(total), splits)
        target = amount.exact(total)
        return min(sorted(splits), key=lambda number: abs(number - target))
    wanted = amount.of(total)
    _check_number(wanted, modules, limits)
    return wanted


def lowest(scores: Mapping[UnitId, float], number: int, modules: Modules, limits: Limits) -> tuple[UnitId, ...]:
    """The heads to remove: exactly `number`, those of the lowest scores.

    Ties are broken by kind (encoder, decoder, cross), layer and head. With `Limits.uniform` the lowest heads of each
    module go, and the number of each stack is chosen so that the scores removed have the lowest sum (of equal sums: the
    one that takes most from the encoder).

    Args:
        scores: a finite score for every head of the selected kinds; others are ignored.
        number: heads to remove.
        modules: the heads that there are.
        limits: which of them may go.

    Returns:
        `number` head ids in order.

    Raises:
        BudgetError: scores are missing or not finite, or that many heads cannot be removed.
        UsageError: `Limits.uniform` with only one of decoder and cross.
    """
    selected = limits.selected(modules)
    _check_scores(scores, selected)
    if limits.uniform:
        splits = _uniform_splits(modules, limits)
        candidates = (_lowest_per_module(scores, keep) for keep in splits[_reachable(number, splits)])
        return min(candidates, key=lambda heads: math.fsum(float(scores[head]) for head in heads))
    _check_number(number, modules, limits)
    left = dict(selected)
    removed: list[UnitId] = []
    for head in sorted(_heads(selected), key=lambda head: (float(scores[head]), head)):
        if len(removed) < number and left[head.group] > limits.min_heads_per_module:
            left[head.group] -= 1
            removed.append(head)
    return tuple(sorted(removed))


def lowest_beyond(
    gone: Collection[UnitId], scores: Mapping[UnitId, float], number: int, modules: Modules, limits: Limits
) -> tuple[UnitId, ...]:
    """The heads to remove with `Limits.uniform`, all that are gone among them: about `number`, of the lowest scores.

    Of what can be reached from what is gone, the nearest to `number` (the smaller of two), but more than is gone, where
    more can go at all; of the ways to reach it the one whose scores have the lowest sum, as in `lowest`.

    Args:
        gone: heads that go in any case; as many of each module of a stack.
        scores: as for `lowest`; those of `gone` do not matter.
        number: heads to remove, `gone` included.
        modules: the heads that there are.
        limits: which of them may go.

    Raises:
        BudgetError, UsageError: as for `lowest`.
    """
    selected = limits.selected(modules)
    there = {head: score for head, score in scores.items() if head not in gone}
    _check_scores({**dict.fromkeys(gone, 0.0), **there}, selected)
    below = math.nextafter(min(there.values(), default=0.0), -math.inf)
    known = {**there, **dict.fromkeys(gone, below)}
    lost = Counter(head.group for head in gone)
    splits = {
        found: [way for way in ways if _goes_on(way, lost)] for found, ways in _uniform_splits(modules, limits).items()
    }
    more = [found for found, ways in splits.items() if ways and found > len(gone)]
    if number <= len(gone) or not more:
        return tuple(sorted(gone))
    nearest = min(more, key=lambda found: (abs(found - number), found))
    candidates = (_lowest_per_module(known, way) for way in splits[nearest])
    return min(candidates, key=lambda heads: math.fsum(float(known[head]) for head in heads))


def reachable(modules: Modules, limits: Limits) -> Sequence[int]:
    """Every number of heads that can be removed, ascending.

    Raises:
        UsageError: `Limits.uniform` with only one of decoder and cross.
        BudgetError: `Limits.uniform`, and a stack cannot be made uniform.
    """
    if limits.uniform:
        return sorted(_uniform_splits(modules, limits))
    return range(_removable(limits.selected(modules), limits) + 1)


Keep = tuple[tuple[dict[GroupId, int], int], ...]
"""Per stack: its modules with their numbers of heads, and how many each of them keeps."""


def _uniform_splits(modules: Modules, limits: Limits) -> dict[int, list[Keep]]:
    """For every number of heads that can be removed the ways to keep one number per stack, encoder emptied first."""
    splits: dict[int, list[Keep]] = {0: [()]}
    for stack in uniform_stacks(modules, limits):
        fewest = max(1, limits.min_heads_per_module)
        smallest = min(stack.values())
        if smallest < fewest:
            poorest = min(stack, key=lambda module: (stack[module], module))
            raise BudgetError(
                f"no uniform plan is possible: {poorest} has {smallest} heads, and every layer of its stack "
                f"would have to keep the same number, at least {fewest}"
            )
        combined: dict[int, list[Keep]] = {}
        for removed, ways in splits.items():
            for keep in range(fewest, smallest + 1):
                number = removed + sum(stack.values()) - keep * len(stack)
                combined.setdefault(number, []).extend((*way, (stack, keep)) for way in ways)
        splits = combined
    return {number: sorted(ways, key=lambda way: [keep for _, keep in way]) for number, ways in splits.items()}


def uniform_stacks(modules: Modules, limits: Limits) -> list[dict[GroupId, int]]:
    """The stacks of the selected kinds, with the number of heads of each of their modules.

    Raises:
        UsageError: only one of decoder and cross is selected.
    """
    stacks = []
    for kinds in STACKS.values():
        present = [kind for kind in kinds if any(module.kind == kind for module in modules)]
        chosen = [kind for kind in present if kind in limits.kinds]
        if chosen and chosen != present:
            raise UsageError(f"a uniform plan treats {' and '.join(present)} as one stack: select both or none of them")
        if chosen:
            stacks.append({module: modules[module] for module in sorted(modules) if module.kind in kinds})
    return stacks


def _lowest_per_module(scores: Mapping[UnitId, float], way: Keep) -> tuple[UnitId, ...]:
    removed: list[UnitId] = []
    for stack, keep in way:
        for module, heads in stack.items():
            order = sorted(_heads({module: heads}), key=lambda head: (float(scores[head]), head))
            removed += order[: heads - keep]
    return tuple(sorted(removed))


def _goes_on(way: Keep, lost: Mapping[GroupId, int]) -> bool:
    """Whether a way takes from every module at least what it has lost."""
    return all(keep <= heads - lost[module] for stack, keep in way for module, heads in stack.items())


def _reachable(number: int, splits: Mapping[int, object]) -> int:
    if number in splits:
        return number
    below = [found for found in splits if found < number]
    above = [found for found in splits if found > number]
    neighbours = [str(max(below))] if below else []
    neighbours += [str(min(above))] if above else []
    raise BudgetError(
        f"{_count(number)} cannot be removed with the same number left in every layer of a stack: "
        f"{' or '.join(neighbours)} can"
    )


def _check_number(number: int, modules: Modules, limits: Limits) -> None:
    selected = limits.selected(modules)
    most = _removable(selected, limits)
    if 0 <= number <= most:
        return
    floor = f", since every module keeps at least {limits.min_heads_per_module}" if limits.min_heads_per_module else ""
    raise BudgetError(
        f"{_count(number)} cannot be removed: 0 to {most} of the {sum(selected.values())} heads "
        f"({', '.join(limits.kinds)}) can{floor}"
    )


def _removable(selected: Modules, limits: Limits) -> int:
    return sum(max(0, heads - limits.min_heads_per_module) for heads in selected.values())


def _check_scores(scores: Mapping[UnitId, float], selected: Modules) -> None:
    heads = _heads(selected)
    missing = [str(head) for head in heads if head not in scores]
    if missing:
        raise BudgetError(f"no score for {listed(missing)}")
    broken = [f"{head} ({scores[head]})" for head in heads if not math.isfinite(scores[head])]
    if broken:
        raise BudgetError(f"scores that are no finite numbers: {listed(broken)}")


def _heads(modules: Modules) -> list[UnitId]:
    return [UnitId(module, head) for module, heads in modules.items() for head in range(heads)]


def _count(number: int) -> str:
    return "1 head" if number == 1 else f"{number} heads"


def listed(heads: Iterable[object], most: int = 10) -> str:
    """Heads for a message; beyond `most` only their number, since models have hundreds."""
    every = [str(head) for head in heads]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
