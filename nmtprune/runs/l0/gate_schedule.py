"""When gates learn, when they are constants, and how far they can travel before.

A gate that starts at log alpha 2 and ends at -4 is open in one batch of a hundred: on the way it passes all that lies
between open and closed. Gates that cannot travel that far are cut while they still were open in many batches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nmtprune.errors import UsageError
from nmtprune.gates import GateSettings
from nmtprune.training.options import Options, value_of

STEP = 0.15
"""Log alpha per update where the user names no step."""

TRAVEL = 6.0
"""Units of log alpha that gates should be able to travel before they are constants."""

_STEP, _SCALE, _FREEZE = "--gate-step", "--gate-lr-scale", "--gate-freeze-updates"
_ONLY = "--gate-only-updates"
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


def gate_schedule(gates: Options, given: Sequence[str], planned: Callable[[], int | None]) -> GateSchedule:
    """The schedule of gates that the options of a run ask for, defaults filled in.

    Args:
        gates: options of gates.
        given: further words for fairseq-train, which may have such options too.
        planned: number of updates of the training; None where its options do not tell. Counting them may take a while.

    Raises:
        UsageError: a schedule that cannot work, with its figures; all reasons.
    """
    words = (*(word for option in gates for word in option), *given)
    named = {name: value_of(words, name) for name in (_STEP, _SCALE, _FREEZE, _ONLY, "--gate-init")}
    if named[_SCALE] is not None:
        if named[_STEP] is not None:
            raise UsageError(f"{_STEP} and {_SCALE}: gates move by one of them")
        return GateSchedule()
    step, init = _number(named[_STEP], _STEP, STEP), _number(named["--gate-init"], "--gate-init", GateSettings().init)
    updates = planned()
    if updates is None and named[_FREEZE] is None:
        raise UsageError(
            f"the options of fairseq-train do not tell how many updates there will be: give --max-update, or {_FREEZE}"
        )
    freeze = int(_number(named[_FREEZE], _FREEZE, math.floor(_SHARE * (updates or 0) + 0.5)))
    only = int(_number(named[_ONLY], _ONLY, freeze // 2))
    faults = []
    if step <= 0:
        faults.append(f"{_STEP} {step:g}: give a number above 0")
    if updates is not None and freeze > updates:
        faults.append(f"{_FREEZE} {freeze}: training ends after {updates} updates")
    if only > freeze:
        faults.append(f"{_ONLY} {only}: gates are constants from update {freeze} on, and nothing would learn")
    travel = step * freeze
    figures = (
        f"gates move by {step:g} per update and are constants from update {freeze}"
        f"{f' of {updates}' if updates is not None else ''} on: they can travel {travel:.3g}"
    )
    advice = f"give a larger {_STEP}, a later {_FREEZE}, or more updates"
    if not faults and freeze and travel < init:
        faults.append(f"{figures}, and close only after {init:g}: {advice}")
    if faults:
        raise UsageError.of_faults("gates", faults)
    defaults = {_STEP: repr(step), _FREEZE: str(freeze), _ONLY: str(only)}
    options = tuple((name, value) for name, value in defaults.items() if named[name] is None)
    short = freeze and travel < TRAVEL
    return GateSchedule(options, (f"{figures}, less than {TRAVEL:g}: many will not decide; {advice}",) if short else ())


def _number(text: str | None, name: str, default: float) -> float:
    """The value of an option.

    Raises:
        UsageError: no number.
    """
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{name} {text}: give a number")
    return value
