"""Which neurons of feed-forward layers go: an amount of them, or all but a number in every layer."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from nmtprune.architecture import UnitId
from nmtprune.budget import Amount, Limits, Units, listed, lowest
from nmtprune.errors import BudgetError, NmtpruneError, UsageError
from nmtprune.methods.layer_choice import entries_by_stack
from nmtprune.methods.plans import lowest_units

_Errors = list[NmtpruneError]


def remove_neurons(
    units: Units, pattern: str, scores: Mapping[UnitId, float], limits: Limits, per: str = "model"
) -> tuple[list[UnitId], _Errors]:
    """Neurons that go where an amount of them does.

    Args:
        units: of the model.
        pattern: ``50%`` or ``6144`` of all neurons, or ``encoder=25% decoder=50%`` of those of each stack.
        scores: those of the lowest scores go; `random_scores` for a random choice.
        limits: of all kinds that the model has.
        per: as for `remove_lowest`.

    Returns:
        The neurons, and a UsageError or BudgetError for each fault.
    """
    removed, errors = list[UnitId](), _Errors()
    for kinds, text in amounts(pattern, limits, errors):
        try:
            amount = Amount.parse(text, "neurons")
            removed += lowest_units(units, scores, amount, replace(limits, kinds=kinds), per)
        except (UsageError, BudgetError) as error:
            errors.append(error)
    return removed, errors


def amounts(pattern: str, limits: Limits, errors: _Errors) -> Iterator[tuple[tuple[str, ...], str]]:
    """The amounts of a pattern of `remove_neurons`, each with the kinds that it is of; adds to `errors`."""
    if "=" not in pattern:
        yield limits.kinds, pattern.strip()
        return
    for kind, text in _by_kind(pattern, "AMOUNT, such as decoder=50%", limits, errors):
        yield (kind,), text


def keep_neurons(
    units: Units, pattern: str, scores: Mapping[UnitId, float], limits: Limits
) -> tuple[list[UnitId], _Errors]:
    """Neurons that go where every layer of a stack keeps a number of them.

    Args:
        units: of the model.
        pattern: ``encoder=1024 decoder=512``: neurons kept in each layer; ``decoder=512,512,256`` for layers one by
            one. Stacks that are not named stay as they are.
        scores: those of the lowest scores go.
        limits: what is to be satisfied.

    Returns:
        As for `remove_neurons`.
    """
    removed, errors = list[UnitId](), _Errors()
    for kind, text in _by_kind(pattern, "NUMBER, such as decoder=512", limits, errors):
        own = Limits((kind,))
        groups = own.selected(units)
        if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", text):
            errors.append(UsageError(f"{kind}: '{text}' is no number of neurons"))
            continue
        numbers = [int(number) for number in text.split(",")]
        if len(numbers) not in (1, len(groups)):
            errors.append(UsageError(f"{kind} layers: the model has {len(groups)}, the pattern {len(numbers)}"))
            continue
        kept = dict(zip(groups, numbers * (len(groups) // len(numbers)), strict=True))
        narrow = [f"{group} ({groups[group]} of {count})" for group, count in kept.items() if groups[group] < count]
        faults = [f"{kind}: the model has fewer neurons in {listed(narrow)}"] if narrow else []
        step = limits.multiple_of
        faults += [
            f"{kind}: {count} neurons are no multiple of {step}"
            for count in sorted(set(numbers))
            if step > 1 and (count % step or not count)
        ]
        if limits.uniform and (len(set(numbers)) > 1 or 0 in numbers):
            faults.append(f"{kind}: a uniform plan keeps the same number of neurons, at least 1, in every layer")
        errors += map(BudgetError, faults)
        if not faults:
            for group, count in kept.items():
                removed += lowest(scores, groups[group] - count, {group: units[group]}, own)
    return removed, errors


def _by_kind(pattern: str, form: str, limits: Limits, errors: _Errors) -> Iterator[tuple[str, str]]:
    """Kind and text of every ``STACK=TEXT`` that names feed-forward layers of the model."""
    for stack, text in entries_by_stack(pattern, form, errors):
        kind = f"{stack}-ffn"
        if kind in limits.kinds:
            yield kind, text
        else:
            errors.append(UsageError(f"the model has no {stack} feed-forward layers whose neurons can be cut"))
