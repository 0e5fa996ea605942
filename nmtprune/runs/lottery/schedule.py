"""What a lottery run is going to train: iterations, updates, heads, and models that are trained to convergence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nmtprune.budget import Amount, Limits, Modules, reachable, resolve
from nmtprune.errors import BudgetError, UsageError
from nmtprune.methods.sweep import numbers_removed

LOTTERY, RANDOM, REINIT = "lottery", "random", "reinit"
CONTROLS = (RANDOM, REINIT)

COLUMNS = ("training", "heads", "from_update", "to_update", "updates", "removes", "removed", "of_kinds", "of_all")


@dataclass(frozen=True, order=True)
class Ticket:
    """A model that is trained to convergence.

    Attributes:
        iteration: after which the heads are those; 0 is the unpruned model.
        variant: ``lottery`` (rewound weights), ``random`` (rewound weights, as many heads in each module, drawn), or
            ``reinit`` (the same heads, fresh weights, from the first update on).
    """

    iteration: int
    variant: str = LOTTERY

    @property
    def name(self) -> str:
        """``iteration-13``, ``iteration-13-random``."""
        return iteration_name(self.iteration) + ("" if self.variant == LOTTERY else f"-{self.variant}")


@dataclass(frozen=True)
class Schedule:
    """The trainings of a run.

    Attributes:
        late_reset: updates of the late-resetting checkpoint, N0.
        pretrains: whether the run makes that checkpoint itself.
        prune_updates: updates of an iteration, N1.
        removed: heads that are gone before the first iteration and after each; an iteration removes the difference.
        of_kinds: heads of the kinds that heads are removed of.
        of_all: heads of the model.
        tickets: what is trained to convergence.
        converge_updates: with which convergence ends at the latest, pretraining included; None: not by number.
        tries_last: one more training shows whether the last iteration drops too far.
    """

    late_reset: int
    pretrains: bool
    prune_updates: int
    removed: tuple[int, ...]
    of_kinds: int
    of_all: int
    tickets: tuple[Ticket, ...]
    converge_updates: int | None
    tries_last: bool

    @property
    def iterations(self) -> int:
        """How often heads are removed."""
        return len(self.removed) - 1

    @property
    def pruning_trainings(self) -> int:
        """How often a model is trained for an iteration."""
        return self.iterations + self.tries_last

    def first_update(self, ticket: Ticket) -> int:
        """Where the convergence of a model begins."""
        return 0 if ticket.variant == REINIT else self.late_reset

    def expected(self, ticket: Ticket) -> int | None:
        """Updates of a convergence at the most; None where only patience ends it."""
        return None if self.converge_updates is None else self.converge_updates - self.first_update(ticket)

    @property
    def convergence(self) -> int | None:
        """Updates of all convergences at the most; None where patience ends them."""
        expected = [self.expected(ticket) for ticket in self.tickets]
        return None if None in expected else sum(number for number in expected if number)

    @property
    def total(self) -> int | None:
        """Updates of the whole run at the most; None where patience ends it."""
        pretraining = self.late_reset if self.pretrains else 0
        known = pretraining + self.pruning_trainings * self.prune_updates
        return None if self.convergence is None else known + self.convergence

    def rows(self) -> Iterator[tuple[str | int | float | None, ...]]:
        """A row of COLUMNS for every training."""
        end = self.late_reset + self.prune_updates
        if self.pretrains:
            yield "pretraining", self.of_all, 0, self.late_reset, self.late_reset, None, 0, 0.0, 0.0
        for number in range(1, self.pruning_trainings + 1):
            before = self.removed[number - 1]
            after = self.removed[number] if number < len(self.removed) else before
            yield (
                iteration_name(number), self.of_all - before, self.late_reset, end, self.prune_updates, after - before,
                *self._shares(after),
            )  # fmt: skip
        for ticket in self.tickets:
            gone = self.removed[ticket.iteration]
            yield (
                f"converge {ticket.name}", self.of_all - gone, self.first_update(ticket), self.converge_updates,
                self.expected(ticket), None, *self._shares(gone),
            )  # fmt: skip

    def _shares(self, gone: int) -> tuple[int, float, float]:
        return gone, gone / self.of_kinds, gone / self.of_all


def iteration_name(number: int) -> str:
    """``iteration-03``."""
    return f"iteration-{number:02}"


def removals(modules: Modules, step: int | None, until: str | None, limits: Limits) -> tuple[int, ...]:
    """How many heads are gone before the first iteration and after each (Behnke and Heafield 2020, section 7).

    Args:
        modules: of the model.
        step: heads per iteration; None: half as many as there are modules of the selected kinds.
        until: heads in all, as the user wrote it; None: all that may go.
        limits: which heads may go.

    Raises:
        UsageError: `until` is no amount.
        BudgetError: nothing to remove, more than can be removed, or less than one iteration removes.
    """
    last = max(reachable(modules, limits)) if until is None else _in_all(Amount.parse(until), modules, limits)
    if not last:
        raise BudgetError(f"--until {until}: that removes no heads ({', '.join(limits.kinds) or 'there are none'})")
    if step is None:
        step = min(max(1, len(limits.selected(modules)) // 2), last)
    if step > last:
        raise BudgetError(f"--heads-per-iteration {step} is more than the {last} that --until removes in all")
    return numbers_removed(modules, Amount.parse(str(step)), Amount.parse(str(last)), limits)


def _in_all(until: Amount, modules: Modules, limits: Limits) -> int:
    """How many heads an amount is; a refusal says so where it is only the heads that every module keeps."""
    try:
        return resolve(until, modules, limits)
    except BudgetError as error:
        if not limits.min_heads_per_module:
            raise
        try:
            resolve(until, modules, replace(limits, min_heads_per_module=0))
        except BudgetError:
            raise error from None
        raise BudgetError(f"{error}: --min-heads-per-module 0 lets modules lose all heads") from None


def tickets(iterations: int, *, last: bool, chosen: Sequence[int], controls: Sequence[str]) -> tuple[Ticket, ...]:
    """What is trained to convergence, the unpruned model first; nothing where nothing is asked for.

    Args:
        iterations: of the run.
        last: the last iteration is.
        chosen: further iterations.
        controls: which controls each has.

    Raises:
        UsageError: iterations that the run does not have, twice the same control, or controls of nothing.
    """
    faults = [
        f"--converge-iterations {number}: there are 0 to {iterations}"
        for number in sorted(set(chosen))
        if not 0 <= number <= iterations
    ]
    faults += [f"--control {control}: given twice" for control in CONTROLS if controls.count(control) > 1]
    numbers = sorted({*chosen, *([iterations] if last else [])} - {0})
    if controls and not numbers:
        faults.append("--control goes with --converge or --converge-iterations")
    if faults:
        raise UsageError.of_faults("convergence", faults)
    if not (numbers or chosen):
        return ()
    variants = (LOTTERY, *(control for control in CONTROLS if control in controls))
    return (Ticket(0), *(Ticket(number, variant) for number in numbers for variant in variants))
