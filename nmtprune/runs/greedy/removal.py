"""What a curve removes, and where its steps end: at numbers of units of one sort, at shares of a cost, at budgets."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from nmtprune.architecture import LAYER_KINDS, Kept
from nmtprune.budget import Amount, Limits, in_steps, reachable
from nmtprune.errors import UsageError
from nmtprune.evaluate.prices import Prices
from nmtprune.methods.priced import Budget, choose
from nmtprune.methods.sweep import Goal, check_step, numbers_removed
from nmtprune.plan import Base, Plan
from nmtprune.runs.greedy.rounds import round_starts

MACS = "macs"
"""What steps of several sorts of units are shares of; as in `Budget.kind`."""


@dataclass(frozen=True)
class Removal:
    """What curves of some kinds remove.

    Steps of one sort end at numbers of units; those of several sorts at shares of what all their units cost in
    multiply-accumulates; with budgets there is a step for each of them.

    Attributes:
        limits: kinds of the groups that lose units, and which of them may be removed.
        numbers: units removed at each step, from 0 on.
        shares: percent of what can be saved, from 0 on.
        budgets: of one kind.
    """

    limits: Limits
    numbers: tuple[int, ...] = ()
    shares: tuple[Fraction, ...] = ()
    budgets: tuple[Budget, ...] = ()

    @property
    def cost(self) -> str | None:
        """What steps are measured by, see `Budget.kind`; None for numbers of units."""
        if self.budgets:
            return self.budgets[0].kind
        return MACS if self.shares else None

    @property
    def steps(self) -> int:
        """How many there are at most, the unpruned model included."""
        return len(self.numbers) or len(self.shares) or 1 + len(self.budgets)

    @property
    def layer_kinds(self) -> tuple[str, ...]:
        """The stacks that may lose layers."""
        return tuple(kind for kind in self.limits.kinds if kind in LAYER_KINDS)

    @property
    def within_layers(self) -> Limits:
        """The limits of heads and neurons alone."""
        return replace(self.limits, kinds=tuple(kind for kind in self.limits.kinds if kind not in LAYER_KINDS))

    def goals(self, base: Base, prices: Prices | None) -> list[Goal]:
        """Where steps end, by ascending levels; those of costs are costs with a minus, as of `PricedUnits`."""
        if prices is None:
            return [Goal(number, f"{number:03}") for number in self.numbers]
        full = prices.total(Plan.keep_all(base).kept_units)
        if self.budgets:
            targets = sorted(((budget.target(full), budget) for budget in self.budgets), key=lambda each: -each[0])
            return [Goal(-full, "000"), *(Goal(-target, file_stem(budget)) for target, budget in targets)]
        saved = full - prices.total(nothing_left(base, self.limits.kinds))
        return [
            Goal(-full if not share else -(full - saved * float(share / 100)), _percent(share)) for share in self.shares
        ]

    def round_levels(self, goals: Sequence[Goal], rounds: int, base: Base) -> tuple[float, ...]:
        """The levels at which rounds begin: after equal parts of the removal."""
        if self.cost is None:
            return round_starts([round(goal.level) for goal in goals], rounds, in_steps(base.units, self.limits))
        first, last = goals[0].level, goals[-1].level
        return tuple(first + (last - first) * place / rounds for place in range(rounds))

    def check_reach(self, base: Base, prices: Prices) -> None:
        """Check that the last step can be reached at all, whatever the scores are.

        Raises:
            BudgetError: it cannot; the message says what is possible.
        """
        scores = dict.fromkeys(Plan.keep_all(base).kept_ids(self.limits.kinds), 0.0)
        target = -self.goals(base, prices)[-1].level
        choose(scores, prices, target, base.units, self.limits)


def file_stem(budget: Budget) -> str:
    """Name of the plan of a budget: ``macs-50``, ``params-1.2M``, ``speed-1.5x``."""
    return str(budget).replace("=", "-").replace("%", "")


def _percent(share: Fraction) -> str:
    """A share as the name of a plan, ``010`` or ``012.5``."""
    whole, rest = divmod(share, 1)
    return f"{int(whole):03}" + f"{float(rest):.9g}".removeprefix("0") * bool(rest)


def nothing_left(base: Base, kinds: Sequence[str]) -> Kept:
    """The model without the units of some kinds, but with the first layer of each stack."""
    return {id: numbers[:1] if id.kind in LAYER_KINDS else () for id, numbers in base.units.items() if id.kind in kinds}


def shares_removed(step: Amount, until: Amount) -> tuple[Fraction, ...]:
    """Multiples of a percentage from 0 to `until`, as percent.

    Raises:
        UsageError: numbers of units.
        BudgetError: a step of nothing.
    """
    faults = [f"{name} {amount}" for name, amount in (("--step", step), ("--until", until)) if not amount.percent]
    if faults:
        raise UsageError(
            f"{' and '.join(faults)}: steps over several groups are percentages of what their units cost in "
            "multiply-accumulates: give a percentage"
        )
    check_step(step)
    found = (step.value * factor for factor in itertools.count())
    return (*itertools.takewhile(lambda share: share < until.value, found), until.value)


def numbers_or_all(base: Base, step: Amount, until: Amount | None, limits: Limits) -> tuple[int, ...]:
    """As `numbers_removed`; None goes on for as long as units can be removed."""
    last = Amount(Fraction(reachable(base.units, limits)[-1]), False) if until is None else until
    return numbers_removed(base.units, step, last, limits)


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Read budgets, which must be of one kind.

    Raises:
        UsageError: a text that is no budget, the same budget twice, or budgets of several kinds.
    """
    found = [Budget.parse(text) for text in texts]
    twice = sorted({str(budget) for budget in found if found.count(budget) > 1})
    if twice:
        raise UsageError(f"--budget {', '.join(twice)}: given twice")
    kinds = sorted({budget.kind for budget in found})
    if len(kinds) > 1:
        raise UsageError(f"--budget: budgets of one run are of one kind, not of {' and '.join(kinds)}")
    return tuple(found)
