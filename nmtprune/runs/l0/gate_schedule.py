"""When gates learn, when they are constants, and whether they can travel far enough before."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nmtprune.errors import UsageError
from nmtprune.gates import STEP, GateSettings, Travel
from nmtprune.training.options import Options, value_of

_STEP, _SCALE, _FREEZE = "--gate-step", "--gate-lr-scale", "--gate-freeze-updates"
_ONLY = "--gate-only-updates"
_NEVER = f"{_FREEZE} 0: gates are constants from the start, and none would close"
_SHARE = 0.2
"""Share of all updates after which gates are constants (Shim et al. 2021: 16 000 of 80 000)."""


@dataclass(frozen=True)
class GateSchedule:
    """How gates learn in a training.

    Attributes:
        options: of fairseq-train that say so and that the user has not given.
        remarks: on what may go wrong, one line each.
    """

    options: Options = ()
    remarks: tuple[str, ...] = ()


def gate_schedule(
    gates: Options, given: Sequence[str], planned: Callable[[], int | None], learned: GateSettings | None = None
) -> GateSchedule:
    """The schedule of gates that the options of a run ask for, defaults filled in.

    Gates that move with the weights, and gates that have learned before, get no defaults: they begin anywhere, and move
    as they were.

    Args:
        gates: options of gates.
        given: further words for fairseq-train, which may have such options too.
        planned: number of updates of the training; None where its options do not tell. Counting them may take a while.
        learned: gates of the checkpoint from which training starts; None where it has none.

    Raises:
        UsageError: a schedule that cannot work, with its figures; all reasons.
    """
    words = (*(word for option in gates for word in option), *given)
    named = {name: value_of(words, name) for name in (_STEP, _SCALE, _FREEZE, _ONLY, "--gate-init")}
    if named[_SCALE] is not None and named[_STEP] is not None:
        raise UsageError(f"{_STEP} and {_SCALE}: gates move by one of them")
    rates = {name: _number(text, name) for name in (_STEP, _SCALE) if (text := named[name]) is not None}
    faults = [f"{name} {value:g}: give a number above 0" for name, value in rates.items() if value <= 0]
    if faults:
        raise UsageError.of_faults("gates", faults)
    if named[_SCALE] is not None or learned is not None:
        _check_as_given(named, planned, learned)
        return GateSchedule()
    return _with_defaults(named, rates.get(_STEP, STEP), planned)


def _check_as_given(
    named: Mapping[str, str | None], planned: Callable[[], int | None], learned: GateSettings | None
) -> None:
    """Check what was given, or what the checkpoint says.

    Raises:
        UsageError: all reasons.
    """
    freeze, only = _count(named, _FREEZE), _count(named, _ONLY) or 0
    if learned is not None:
        freeze = learned.freeze_updates if named[_FREEZE] is None else freeze
        only = learned.only_updates if named[_ONLY] is None else only
    if freeze is None and not only:
        return
    faults = _end_faults(freeze, only, planned())
    if freeze == 0 and learned is None:
        faults.append(_NEVER)
    if faults:
        own = [name for name, value in ((_FREEZE, freeze), (_ONLY, only)) if value and named[name] is None]
        where = f" ({' and '.join(own)} as in the checkpoint)" if learned is not None and own else ""
        raise UsageError.of_faults(f"gates{where}", faults)


def _with_defaults(named: Mapping[str, str | None], step: float, planned: Callable[[], int | None]) -> GateSchedule:
    """The schedule of gates that have a step of their own.

    Raises:
        UsageError: all reasons.
    """
    given_init = named["--gate-init"]
    init = GateSettings().init if given_init is None else _number(given_init, "--gate-init")
    freeze, only = _count(named, _FREEZE), _count(named, _ONLY)
    updates = planned()
    if updates is None and freeze is None:
        raise UsageError(
            f"the options of fairseq-train do not tell how many updates there will be: give --max-update, or {_FREEZE}"
        )
    freeze = math.floor(_SHARE * (updates or 0) + 0.5) if freeze is None else freeze
    only = freeze // 2 if only is None else only
    faults = _end_faults(freeze, only, updates)
    faults += [_NEVER] if not freeze and named[_FREEZE] is not None else []
    of = f" of {updates}" if updates is not None else ""
    advice = f"give a larger {_STEP}, a later {_FREEZE}, or more updates"
    travel = Travel(step, freeze, init, f" and are constants from update {freeze}{of} on", advice)
    faults += [travel.fault] if travel.fault and not faults else []
    if faults:
        raise UsageError.of_faults("gates", faults)
    defaults = {_STEP: repr(step), _FREEZE: str(freeze), _ONLY: str(only)}
    options = tuple((name, value) for name, value in defaults.items() if named[name] is None)
    return GateSchedule(options, (travel.remark,) if travel.remark else ())


def _end_faults(freeze: int | None, only: int, updates: int | None) -> list[str]:
    """Why gates cannot learn alone before `only` and be constants from `freeze` on, in so many updates."""
    found = []
    if updates is not None and freeze is not None and freeze > updates:
        found.append(f"{_FREEZE} {freeze}: training ends after {updates} updates")
    if freeze is not None and only > freeze:
        found.append(f"{_ONLY} {only}: gates are constants from update {freeze} on, and nothing would learn")
    elif updates is not None and freeze is None and only > updates:
        found.append(f"{_ONLY} {only}: training ends after {updates} updates")
    return found


def _count(named: Mapping[str, str | None], name: str) -> int | None:
    """The value of an option that counts updates; None where it is not given.

    Raises:
        UsageError: no whole number from 0 on.
    """
    text = named[name]
    if text is None or text.isdecimal():
        return None if text is None else int(text)
    raise UsageError(f"{name} {text}: give a whole number from 0 on")


def _number(text: str, name: str) -> float:
    """The value of an option.

    Raises:
        UsageError: no number.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} {text}: give a number")
    return value
