"""Which layers of a stack stay: named, by a pattern, counted and spread evenly, or those of the highest scores."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from nmtprune.architecture import STACKS, GroupId, UnitId
from nmtprune.budget import Limits, lowest
from nmtprune.errors import BudgetError, NmtpruneError, UsageError
from nmtprune.methods import layer_patterns
from nmtprune.plan import Base

_Parsed = tuple[list[UnitId], list[NmtpruneError]]
"""Layers that go, and what is wrong."""


def remove_layers(base: Base, pattern: str, seed: int = 1) -> _Parsed:
    """Layers that are removed by number or by a pattern.

    Args:
        base: the model.
        pattern: ``encoder=4-5 decoder=1,3,5``: numbers of layers, counted from 0, by stack, or patterns of
            `nmtprune.methods.layer_patterns`: ``encoder=top:2 decoder=random:1``.
        seed: of random layers.

    Returns:
        The layers that go, those of faulty stacks left out, and a UsageError or BudgetError (no layer would stay) for
        each fault.
    """

    def named(group: GroupId, numbers: Sequence[int], text: str) -> list[UnitId]:
        return _named(group, numbers, text, seed)

    return _by_stack(base, pattern, "LAYERS, such as decoder=1,3,5", named)


def keep_layers(base: Base, pattern: str, scores: Mapping[UnitId, float] | None = None) -> _Parsed:
    """Layers that go where a number of them stays.

    Args:
        base: the model.
        pattern: ``encoder=6 decoder=3``: how many layers stay, by stack.
        scores: those of the highest scores stay; None: `evenly_spaced` ones.

    Returns:
        As for `remove_layers`; BudgetError also for missing scores.
    """

    def dropped(group: GroupId, numbers: Sequence[int], text: str) -> list[UnitId]:
        if not re.fullmatch(r"[0-9]{1,6}", text):
            raise UsageError(f"{group.stack}: '{text}' is no number of layers")
        keep = int(text)
        if keep > len(numbers):
            raise UsageError(f"{group.stack}: the model has {len(numbers)} layers, fewer than {keep}")
        if scores is not None and keep:
            return list(lowest(scores, len(numbers) - keep, {group: numbers}, Limits((group.kind,))))
        kept = {numbers[place] for place in evenly_spaced(len(numbers), keep)}
        return [UnitId(group, number) for number in numbers if number not in kept]

    return _by_stack(base, pattern, "NUMBER, such as decoder=3", dropped)


def evenly_spaced(layers: int, keep: int) -> tuple[int, ...]:
    """Places of the layers that stay, evenly spaced, the first and the last one among them.

    They are the layers nearest to `keep` points at equal distances from the first to the last layer, the lower one of
    two: 0, 2, 5 of six, 0, 4, 7, 11 of twelve. Of one layer it is the first. Students of distillation are started like
    this (Shleifer and Rush 2020, "Pre-trained Summarization Distillation").
    """
    if keep <= 1:
        return (0,) * keep
    # Half a layer rounds down: ceil(x - 1/2) in integers.
    return tuple(-((keep - 1 - 2 * place * (layers - 1)) // (2 * (keep - 1))) for place in range(keep))


def _named(group: GroupId, numbers: Sequence[int], text: str, seed: int) -> list[UnitId]:
    found: set[int] = set()
    scores = layer_patterns.layer_scores({group.stack: numbers}, seed)
    for part in text.split(","):
        if layer_patterns.is_pattern(part):
            found.update(layer_patterns.layers_of_pattern(numbers, part, group.stack, f"{group.stack} layers", scores))
            continue
        match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            forms = f"the number of a layer, a range such as 1-3 or one of {layer_patterns.FORMS}"
            raise UsageError(f"{group.stack}: '{part}' is not {forms}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    absent = sorted(found.difference(numbers))
    if absent:
        shown = ", ".join(map(str, absent[:10])) + (" and more" if len(absent) > 10 else "")
        there = (
            f"{numbers[0]} to {numbers[-1]}" if numbers[-1] - numbers[0] < len(numbers) else
            ", ".join(map(str, numbers))
        )  # fmt: skip
        raise UsageError(f"{group.stack}: the model has no {group.stack} layer {shown} (it has {there})")
    return [UnitId(group, number) for number in sorted(found)]


def _by_stack(
    base: Base, pattern: str, form: str, removed: Callable[[GroupId, Sequence[int], str], list[UnitId]]
) -> _Parsed:
    """What each ``STACK=TEXT`` of a pattern removes."""
    units, layers, errors = base.units, list[UnitId](), list[NmtpruneError]()
    for stack, text in entries_by_stack(pattern, form, errors):
        group = GroupId.layers_of(stack)
        try:
            own = removed(group, units[group], text) if group in units else None
        except (UsageError, BudgetError) as error:
            errors.append(error)
            continue
        if own is None:
            errors.append(UsageError(f"the model has no {stack}"))
        elif len(own) == len(units[group]):
            errors.append(BudgetError(f"no layer of the {stack} would be left: at least one stays"))
        else:
            layers += own
    return layers, errors


def entries_by_stack(pattern: str, form: str, errors: list[NmtpruneError]) -> Iterator[tuple[str, str]]:
    """Stack and text of every ``STACK=TEXT`` of a pattern.

    Args:
        pattern: entries, separated by blanks.
        form: what stands behind ``STACK=``, for messages.
        errors: a UsageError is added for every entry that cannot be read or whose stack stands twice.
    """
    seen: set[str] = set()
    for entry in pattern.split() or [""]:
        stack, separator, text = entry.partition("=")
        if not separator or stack not in STACKS:
            errors.append(UsageError(f"'{entry}' is not STACK={form} (stacks: {', '.join(STACKS)})"))
        elif stack in seen:
            errors.append(UsageError(f"{stack} stands twice"))
        else:
            yield stack, text
        seen.add(stack)
