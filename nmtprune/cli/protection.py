"""`plan --protect FILE:FUNCTIONS`: heads that stay because of what they do."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import UnitId
from nmtprune.cli.options import say
from nmtprune.errors import BudgetError, NmtpruneError

if TYPE_CHECKING:
    from nmtprune.budget import Limits
    from nmtprune.plan import Base
    from nmtprune.runs.functions_file import Protection


def heads(protection: "Protection", base: "Base") -> frozenset[UnitId]:
    """The heads of a model that are protected; tells the user how many there are.

    Raises:
        UsageError: functions that there are not, or that were not measured.
        PlanError: a file that is damaged or of another model.
    """
    found, line = protection.heads(base)
    say(line)
    return found


def errors_of_layers(layers: Sequence[UnitId], limits: "Limits") -> list[NmtpruneError]:
    """An error where layers that go have protected heads."""
    from nmtprune.budget import listed

    going = {(layer.group.stack, layer.number) for layer in layers}
    lost = sorted(head for head in limits.protected if (head.group.stack, head.group.layer) in going)
    return [BudgetError(f"--protect: layers that go have protected heads: {listed(lost)}")] if lost else []


def say_what_stays(named: Iterable[UnitId], limits: "Limits") -> None:
    """Tell the user which heads that options name for removal stay."""
    from nmtprune.budget import listed

    spared = sorted(limits.protected.intersection(named))
    if spared:
        say(f"protected, and therefore kept: {listed(spared)}")
