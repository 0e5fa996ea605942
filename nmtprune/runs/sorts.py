"""What a run scores or removes: sorts of units, and the kinds of groups that a model has of them."""

from collections.abc import Sequence

from nmtprune.architecture import KINDS, SORTS, parse_kinds
from nmtprune.errors import UsageError
from nmtprune.plan import Base


def parse_sorts(text: str, option: str = "--group", known: Sequence[str] = tuple(SORTS)) -> tuple[str, ...]:
    """Read a comma-separated list of sorts of units into the order of SORTS.

    Args:
        text: the list.
        option: that gave it, for messages.
        known: sorts that are allowed.

    Raises:
        UsageError: an unknown sort, or an empty list.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    faults = [f"unknown group '{name}'" for name in names if name not in known]
    if not names:
        faults.append("no group given")
    if faults:
        raise UsageError.of_faults(f"{option} '{text}' (choose among {', '.join(known)})", faults)
    return tuple(sort for sort in SORTS if sort in names)


def kinds_of(sorts: Sequence[str], base: Base, chosen: str | None = None, option: str = "--group") -> tuple[str, ...]:
    """The kinds of groups of some sorts that a model has.

    Args:
        sorts: what is scored or removed.
        base: the model.
        chosen: kinds of attention, separated by commas; ``encoder`` and ``decoder`` also stand for the neurons and
            layers of these stacks. None: all.
        option: that gave the sorts, for messages.

    Raises:
        UsageError: the model has none of a sort, or nothing of a chosen kind.
    """
    wanted = KINDS if chosen is None else parse_kinds(chosen)
    there = {id.kind for id, numbers in base.units.items() if numbers}
    found = [kind for sort in sorts for kind in SORTS[sort] if kind in there and kind.partition("-")[0] in wanted]
    faults = [_absent(sort) for sort in sorts if not there.intersection(SORTS[sort])]
    if chosen is not None and not faults:
        named = {kind.partition("-")[0] for kind in found}
        faults = [f"the model has no {' or '.join(sorts)} of kind {kind}" for kind in wanted if kind not in named]
    if faults:
        raise UsageError.of_faults(f"{option} {','.join(sorts)}", faults)
    return tuple(found)


def _absent(sort: str) -> str:
    reason = {
        "heads": "the model has no attention heads",
        "neurons": "the model has no feed-forward layers whose neurons can be removed",
        "layers": "the model has no layers that can be removed",
    }
    return reason[sort]
