"""Plans from patterns, from chance and from scores: random and patterned pruning (Budhraja et al. 2020)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from nmtprune.architecture import KINDS, STACKS, Architecture, GroupId, UnitId, parse_heads
from nmtprune.budget import Amount, Limits, Modules, Units, lowest, reachable, resolve
from nmtprune.errors import BudgetError, UsageError
from nmtprune.methods import layer_patterns
from nmtprune.methods.chance import lowest_in, random_scores
from nmtprune.plan import Base, Plan

SCOPES = ("model", "kind", "module")
"""What an amount is of: all selected units, those of each kind, or those of each group (attention module, ...)."""


def keep_heads(base: Base, pattern: str, seed: int, limits: Limits) -> Plan:
    """Keep a number of heads in every layer, or in every kind; which ones is drawn.

    Args:
        base: the model.
        pattern: ``encoder=777322 cross=12,10,8,8,4,4``: heads kept in each layer, one digit a layer without commas, one
            number a layer with them; kinds that are not named stay full. Or ``14/31/30``: heads kept in encoder,
            decoder and cross, in layers that are drawn too.
        seed: seed of the draws.
        limits: what the plan must satisfy; its kinds are not used.

    Raises:
        UsageError: the pattern cannot be read or does not fit the model, with all faults.
        BudgetError: the limits forbid these numbers.
    """
    if "/" in pattern:
        return _keep_totals(base, pattern, seed, limits)
    keep = _layer_counts(base, pattern)
    scores = random_scores(base.modules, seed)
    removed = [
        head for id, count in keep.items() for head in lowest_in(scores, id, base.modules[id] - count, limits.protected)
    ]
    return checked(Plan.removing(base, removed), limits)


def remove_heads(base: Base, names: str, architecture: Architecture, limits: Limits) -> Plan:
    """Remove the heads and whole modules that are named, in any spelling of `parse_heads`.

    Args:
        base: the model, perhaps without some layers of `architecture` (`Base.with_layers`), whose heads are gone.
        names: of heads of `architecture`.
        architecture: of the whole model.
        limits: what the plan must satisfy; protected heads stay.

    Raises:
        UsageError: a name that cannot be read or that the model does not have, with all faults.
        BudgetError: the limits forbid it.
    """
    heads = parse_heads(names, architecture)
    if not heads:
        raise UsageError("no heads named: write encoder.0.3, encoder.4 for a whole layer, or E:1:4")
    going = [head for head in heads if head.group in base.modules and head not in limits.protected]
    return checked(Plan.removing(base, going), limits)


def remove_lowest(
    base: Base, scores: Mapping[UnitId, float], amount: Amount, limits: Limits, per: str = "model"
) -> Plan:
    """Remove the heads, neurons or layers with the lowest scores.

    Args:
        base: the model.
        scores: a score for every unit of the selected kinds; `random_scores` for a random choice.
        amount: units to remove, of what `per` says.
        limits: the kinds to choose from, and what the plan must satisfy.
        per: one of SCOPES; a percentage is rounded once for each kind or module.

    Raises:
        UsageError: an unknown scope, or limits that the model cannot be divided by.
        BudgetError: the amount cannot be removed; every kind or module that is to blame.
    """
    return checked(Plan.removing(base, lowest_units(base.units, scores, amount, limits, per)), limits)


def lowest_units(
    units: Units, scores: Mapping[UnitId, float], amount: Amount, limits: Limits, per: str = "model"
) -> list[UnitId]:
    """The units that `remove_lowest` removes."""
    removed: list[UnitId] = []
    faults: list[str] = []
    for name, groups, own_limits in _groups(units, limits, per):
        try:
            removed += lowest(scores, resolve(amount, groups, own_limits), groups, own_limits)
        except BudgetError as error:
            faults += [f"{name}: {fault}" if name else fault for fault in error.faults]
    if faults:
        raise BudgetError("; ".join(faults), faults)
    return removed


def empty_layers(base: Base, selection: str, limits: Limits, seed: int = 1) -> Plan:
    """Remove all heads of some layers, the same selection in every selected kind.

    Args:
        base: the model.
        selection: one or more, separated by commas, of ``top:N`` (the N layers nearest the output), ``bottom:N``,
            ``middle:N`` (the lower of two middles), ``even``, ``odd`` and ``random:N``. Even and odd go by the layer's
            id, counted from 0: even empties encoder.0, encoder.2, ... Who counts layers from 1 calls these odd.
            Random layers of a decoder are the same in self- and cross-attention.
        limits: the kinds, and what the plan must satisfy; protected heads stay.
        seed: of random layers.

    Raises:
        UsageError: a selection that cannot be read, or more layers than a kind has, with all faults.
        BudgetError: the limits forbid it.
    """
    modules = limits.selected(base.modules)
    chosen: set[GroupId] = set()
    faults: list[str] = []
    layers = {stack: sorted({id.layer for id in base.modules if id.stack == stack}) for stack in STACKS}
    scores = layer_patterns.layer_scores(layers, seed)
    for part in re.split(r"[,\s]+", selection.strip()):
        for kind in (kind for kind in KINDS if any(module.kind == kind for module in modules)):
            own = [module.layer for module in modules if module.kind == kind]
            stack = GroupId(kind).stack
            try:
                found = layer_patterns.layers_of_pattern(own, part, stack, f"{kind} layers", scores)
                chosen.update(GroupId(kind, layer) for layer in found)
            except UsageError as error:
                faults += [fault for fault in error.faults if fault not in faults]
    if faults:
        raise UsageError.of_faults(f"layers '{selection}'", faults)
    heads = (UnitId(module, head) for module in chosen for head in range(modules[module]))
    return checked(Plan.removing(base, [head for head in heads if head not in limits.protected]), limits)


def checked(plan: Plan, limits: Limits) -> Plan:
    """The plan, if it satisfies the limits.

    Raises:
        BudgetError: naming every module that keeps too few heads or not all protected ones, and every stack that is
            not uniform.
    """
    modules = plan.base.modules
    fewest = limits.min_heads_per_module
    kept = {module: len(plan.kept(module)) for module in modules}
    faults = [
        f"{module} keeps {count}, fewer than {fewest}"
        for module, count in kept.items()
        if count < min(fewest, modules[module])
    ]
    faults += [
        f"{module} keeps {kept[module]} of its heads, and {len(limits.protected_in(module))} of them are protected"
        for module in modules
        if not limits.protected_in(module) <= {*plan.kept(module)}
    ]
    if limits.uniform:
        faults += _stack_faults(kept, modules)
    if faults:
        raise BudgetError.of_faults("the plan does not keep to the limits", faults)
    return plan


def _layer_counts(base: Base, pattern: str) -> dict[GroupId, int]:
    """Heads kept in every module of the kinds that a pattern names."""
    counts: dict[GroupId, int] = {}
    faults: list[str] = []
    seen = []
    for entry in pattern.split():
        kind, separator, numbers = entry.partition("=")
        if not separator or kind not in KINDS:
            faults.append(f"'{entry}' is not KIND=HEADS, such as cross=233777 (kinds: {', '.join(KINDS)})")
        elif kind in seen:
            faults.append(f"{kind} stands twice")
        else:
            found, own_faults = _counts_of_kind(base, kind, numbers)
            counts.update(found)
            faults += own_faults
        seen.append(kind)
    if faults or not seen:
        raise UsageError.of_faults(f"pattern '{pattern}'", faults or ["it is empty; write encoder=777322 or 14/31/30"])
    return counts


def _counts_of_kind(base: Base, kind: str, text: str) -> tuple[dict[GroupId, int], list[str]]:
    modules = [module for module in base.modules if module.kind == kind]
    if not modules:
        return {}, [f"the model has no {kind} attention"]
    if re.fullmatch(r"[0-9]+", text):
        numbers = [int(digit) for digit in text]
    elif re.fullmatch(r"[0-9]{1,6}(,[0-9]{1,6})*,?", text):
        numbers = [int(number) for number in text.rstrip(",").split(",")]
    else:
        return {}, [f"{kind}: '{text}' is neither digits (777322) nor numbers with commas (12,10,8)"]
    if len(numbers) != len(modules):
        alone = f" (for one layer of {text} heads write '{text},')" if len(modules) == 1 and "," not in text else ""
        return {}, [f"{kind} layers: the model has {len(modules)}, the pattern {len(numbers)}{alone}"]
    faults = [
        f"{module} has {base.modules[module]} heads, fewer than {count}"
        for module, count in zip(modules, numbers, strict=True)
        if count > base.modules[module]
    ]
    return dict(zip(modules, numbers, strict=True)), faults


def _keep_totals(base: Base, pattern: str, seed: int, limits: Limits) -> Plan:
    """Plan of ``14/31/30``: heads kept in encoder, decoder and cross."""
    parts = pattern.strip().split("/")
    if len(parts) != len(KINDS) or not all(re.fullmatch(r"[0-9]{1,9}", part) for part in parts):
        raise UsageError(
            f"pattern '{pattern}' is not three numbers ENCODER/DECODER/CROSS of heads to keep, such as 14/31/30"
        )
    totals = dict(zip(KINDS, map(int, parts), strict=True))
    there = {kind: sum(base.heads[kind]) for kind in KINDS}
    faults = [
        f"{kind} has {there[kind]} heads, fewer than {totals[kind]}" if base.heads[kind]
        else f"the model has no {kind} attention: write 0 for it"
        for kind in KINDS
        if totals[kind] > there[kind]
    ]  # fmt: skip
    if faults:
        raise UsageError.of_faults(f"pattern '{pattern}' (heads kept in encoder/decoder/cross)", faults)
    scores = random_scores(base.modules, seed)
    keep = _even_totals if limits.uniform else _drawn_totals
    return checked(Plan.removing(base, keep(base, totals, scores, limits)), limits)


def _drawn_totals(
    base: Base, totals: Mapping[str, int], scores: Mapping[UnitId, float], limits: Limits
) -> list[UnitId]:
    """Heads to remove, anywhere in each kind."""
    removed: list[UnitId] = []
    faults: list[str] = []
    for kind, total in totals.items():
        own = replace(limits, kinds=(kind,))
        most = reachable(base.modules, own)[-1]
        number = sum(base.heads[kind]) - total
        if number > most:
            own_heads = sum(head.group.kind == kind for head in limits.protected)
            protected = f", and {own_heads} heads are protected" if own_heads else ""
            faults.append(
                f"{kind} cannot keep {total}: each module keeps at least {limits.min_heads_per_module}{protected}"
            )
        else:
            removed += lowest(scores, number, base.modules, own)
    if faults:
        raise BudgetError("; ".join(faults), faults)
    return removed


def _even_totals(base: Base, totals: Mapping[str, int], scores: Mapping[UnitId, float], limits: Limits) -> list[UnitId]:
    """Heads to remove if every layer of a kind keeps the same number."""
    removed: list[UnitId] = []
    faults: list[str] = []
    for kind, total in totals.items():
        modules = {module: heads for module, heads in base.modules.items() if module.kind == kind}
        if not modules:
            continue
        layers = len(modules)
        keep, rest = divmod(total, layers)
        if rest or keep > min(modules.values()):
            below = min(keep, min(modules.values()))
            above = f" or {(below + 1) * layers}" if below < min(modules.values()) else ""
            faults.append(f"{kind} cannot keep {total} in {layers} equal layers: {below * layers}{above} can be kept")
        for module, heads in modules.items():
            removed += lowest_in(scores, module, heads - keep, limits.protected)
    if faults:
        raise BudgetError("; ".join(faults), faults)
    return removed


def _groups(units: Units, limits: Limits, per: str) -> Iterable[tuple[str, Units, Limits]]:
    """What an amount is applied to: a name for messages, the groups and the limits within them."""
    if per not in SCOPES:
        raise UsageError(f"unknown scope '{per}': choose among {', '.join(SCOPES)}")
    if per == "model":
        return [("", units, limits)]
    if limits.uniform:
        raise UsageError(f"a uniform plan divides an amount among stacks: it cannot be per {per}")
    if per == "module":
        return [(str(group), {group: units[group]}, limits) for group in limits.selected(units)]
    present = [kind for kind in limits.kinds if any(group.kind == kind for group in units)]
    return [(kind, units, replace(limits, kinds=(kind,))) for kind in present]


def _stack_faults(kept: Mapping[GroupId, int], modules: Modules) -> list[str]:
    """Stacks that the plan changes and does not leave uniform."""
    faults = []
    for name, kinds in STACKS.items():
        stack = {module: count for module, count in kept.items() if module.kind in kinds}
        if not stack or all(count == modules[module] for module, count in stack.items()):
            continue
        counts = sorted(set(stack.values()))
        if len(counts) > 1:
            faults.append(f"layers of the {name} stack keep {', '.join(map(str, counts))} heads, not the same number")
        elif counts[0] == 0:
            faults.append(f"the {name} stack keeps no head, a uniform one needs at least one in every layer")
    return faults
