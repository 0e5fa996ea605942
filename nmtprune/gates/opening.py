"""Which gates are open: at test time, always, and how many of a number of heads."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nmtprune.architecture import KINDS, GroupId
from nmtprune.gates.gate_settings import NEURONS_PER_GATE, GateSettings


def number_faults(target: int | None, least: int, heads: Sequence[int]) -> list[str]:
    """Why so many heads cannot stay open.

    Args:
        target: so many heads of the whole model; None: as many as the gates say.
        least: so many of every module never close.
        heads: of every attention module with gates.
    """
    named = {"--target-heads": target, "--min-heads-per-module": least or None}
    given = {name: value for name, value in named.items() if value is not None}
    if given and not sum(heads):
        return [f"{name} {value}: no head has a gate" for name, value in given.items()]
    kept, found = sum(min(least, own) for own in heads), []
    if target is not None and target > sum(heads):
        found.append(f"--target-heads {target}: {sum(heads)} heads have gates")
    if target is not None and target < kept:
        found.append(f"--target-heads {target}: --min-heads-per-module {least} keeps {kept}")
    return found


def never_closing(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """Gates that `min_heads` keeps open, by group: boolean [G]; of equal ones the last."""
    found = {}
    for group, own in log_alphas.items():
        mask = torch.zeros_like(own, dtype=torch.bool)
        if settings.min_heads and group.kind in KINDS:
            mask[own.detach().sort(stable=True).indices[-settings.min_heads :]] = True
        found[group] = mask
    return found


def by_kind(values: Mapping[GroupId, Tensor], sizes: Mapping[GroupId, Tensor]) -> dict[str, Tensor]:
    """Sums of values [G] of the gates of every group over the units of each kind.

    Args:
        values: by group, in the order of kinds.
        sizes: units of every gate [G], by group.
    """
    own: dict[str, list[Tensor]] = {}
    for group, value in values.items():
        own.setdefault(group.kind, []).append(value if group.kind in KINDS else value * sizes[group].to(value.device))
    return {kind: torch.cat(found).sum() for kind, found in own.items()}


def gate_sizes(group: GroupId, units: int) -> Tensor:
    """Units that every gate of a group opens and closes, [G]."""
    count = gate_count(group, units)
    return torch.bincount(over_units(group, torch.arange(count), units), minlength=count)


def gate_count(group: GroupId, units: int) -> int:
    """Gates of a group: one for each head, one for each block of `NEURONS_PER_GATE` neurons."""
    return units if group.kind in KINDS else -(-units // NEURONS_PER_GATE)


def over_units(group: GroupId, values: Tensor, units: int) -> Tensor:
    """Values [G] of the gates of a group as values of its units [H] or [F]."""
    return values if group.kind in KINDS else values.repeat_interleave(NEURONS_PER_GATE)[:units]


def factors_at_test(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """What the gates of every group multiply their units by at test time, output scaling of heads included: [G] each.

    Raises:
        ValueError: more heads shall stay open than there are.
    """
    found, always = {}, never_closing(settings, log_alphas)
    for group, opened in open_masks(settings, log_alphas).items():
        own = log_alphas[group]
        gates = settings.test_gates(own) if settings.test_gate == "soft" else torch.ones_like(own)
        gates = torch.where(always[group], torch.ones_like(own), gates)
        gates = torch.where(opened, gates, torch.zeros_like(own))
        found[group] = settings.scaled(group, gates)
    return found


def open_masks(settings: GateSettings, log_alphas: Mapping[GroupId, Tensor]) -> dict[GroupId, Tensor]:
    """Which gates are open at test time, by group: boolean [G].

    With `target_heads`, exactly so many heads are: those with the largest log alpha in the whole model; ties are broken
    by kind (encoder, decoder, cross), layer and head, the first of them closing first, as in every budget.

    Args:
        settings: how the gates work.
        log_alphas: [G] each, in the order of groups.

    Raises:
        ValueError: more heads shall stay open than there are.
    """
    always = never_closing(settings, log_alphas)
    found = {group: (settings.test_gates(own) > 0) | always[group] for group, own in log_alphas.items()}
    heads = {group: own for group, own in log_alphas.items() if group.kind in KINDS}
    if settings.target_heads is None or not heads:
        return found
    faults = number_faults(settings.target_heads, settings.min_heads, [own.numel() for own in heads.values()])
    if faults:
        raise ValueError("; ".join(faults))
    every, kept = torch.cat(list(heads.values())), torch.cat([always[group] for group in heads])
    closed = every.numel() - settings.target_heads
    mask = torch.ones_like(every, dtype=torch.bool)
    mask[torch.where(kept, math.inf, every).sort(stable=True).indices[:closed]] = False
    return found | dict(zip(heads, mask.split([own.numel() for own in heads.values()]), strict=True))


def open_units(
    settings: GateSettings, log_alphas: Mapping[GroupId, Tensor], units: Mapping[GroupId, int]
) -> dict[GroupId, tuple[int, ...]]:
    """The units that are open at test time, by group with gates.

    Args:
        settings: how the gates work.
        log_alphas: [G] each, in the order of groups.
        units: of every group.

    Raises:
        ValueError: as for `open_masks`.
    """
    return {
        group: tuple(over_units(group, opened, units[group]).nonzero().flatten().tolist())
        for group, opened in open_masks(settings, log_alphas).items()
    }
