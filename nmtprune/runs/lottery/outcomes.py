"""What comes out of `lottery`: what each iteration removed, the converged models, and the files that say so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmtprune.architecture import UnitId
from nmtprune.evaluate.significance import Difference
from nmtprune.plan import Plan
from nmtprune.plots import Line
from nmtprune.runs.lottery.schedule import LOTTERY, Ticket, iteration_name
from nmtprune.runs.report import ConvergedModel, IterationOf, LotteryFile, quality_of
from nmtprune.runs.tsv import Cell, tsv


@dataclass(frozen=True)
class Iteration:
    """What an iteration found.

    Attributes:
        number: counted from 1.
        trained: the plan of the model that was trained.
        plan: what the iteration leaves; that of `trained` where it only tried a model out.
        validation: fairseq's validation of the trained model, a loss unless the user chose another.
        value: the metric of the trained model on DATA; None where nothing asked for it.
        broken: the trained model has dropped too far.
    """

    number: int
    trained: Plan
    plan: Plan
    validation: float | None
    value: float | None
    broken: bool


@dataclass(frozen=True)
class Converged:
    """A model that was trained to convergence.

    Attributes:
        ticket: which one.
        plan: its heads.
        model: its file, as the user would name it.
        value: the metric.
        difference: from the unpruned model; None for that one itself.
        parameters: trainable numbers.
        file_bytes: size of the file, without optimizer state.
        words_per_second: of translations, measured in turns with the others.
        updates: of the best checkpoint, counted from the first update of the pretraining or of the control.
        last_update: with which training ended.
        validation: fairseq's, of the best checkpoint.
    """

    ticket: Ticket
    plan: Plan
    model: str
    value: float
    difference: Difference | None
    parameters: int
    file_bytes: int
    words_per_second: float
    updates: int
    last_update: int
    validation: float


def per_layer(plan: Plan) -> dict[str, str]:
    """Heads kept in each layer by kind: ``4 1 2 5 5 6``, as in table 3 of the paper."""
    return {kind: " ".join(map(str, counts)) for kind, counts in kept_counts(plan).items()}


def kept_counts(plan: Plan) -> dict[str, list[int]]:
    """Heads kept in each layer by kind, for the kinds that the model has."""
    found: dict[str, list[int]] = {}
    for module in plan.base.modules:
        found.setdefault(module.kind, []).append(len(plan.kept(module)))
    return found


def scores_tsv(name: str, scores: Mapping[UnitId, float], removed: Sequence[UnitId]) -> str:
    """Scores of the heads that were there, the lowest first.

    Args:
        name: of the scorer.
        scores: by head.
        removed: heads that the iteration removes.
    """
    gone = set(removed)
    rows = (
        (str(head), head.group.kind, head.group.layer, head.number, value, int(head in gone))
        for head, value in sorted(scores.items(), key=lambda item: (item[1], item[0]))
    )
    return tsv(("head", "kind", "layer", "index", name, "removed"), rows)


def iterations_tsv(iterations: Sequence[Iteration], metric: str, kinds: Sequence[str]) -> str:
    """The table of iterations as tab-separated values, in full precision.

    Args:
        iterations: of a run.
        metric: name of the metric.
        kinds: whose heads it removes.
    """
    shares = ("removed", "removed_of_kinds", "removed_of_all", "kept")
    columns = ("iteration", "trained_heads", "validation", metric, *shares, *per_layer(iterations[0].plan))
    return tsv(columns, _iteration_rows(iterations, kinds))


def _iteration_rows(iterations: Sequence[Iteration], kinds: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    for each in iterations:
        plan, removed = each.plan, len(each.plan.removed())
        yield (
            each.number, each.trained.count_kept(), each.validation, each.value, removed,
            removed / plan.count_base(kinds), removed / plan.count_base(), plan.count_kept(),
            *per_layer(plan).values(),
        )  # fmt: skip


def converged_columns(converged: Sequence[Converged], metric: str) -> tuple[str, ...]:
    """Columns of the table of converged models."""
    kinds = tuple(per_layer(converged[0].plan)) if converged else ()
    return (
        "model", "iteration", "variant", "removed", "sparsity", *kinds, metric, "delta", "ci_low", "ci_high", "p",
        "parameters", "file_bytes", "words_per_second", "updates", "last_update", "validation",
    )  # fmt: skip


def converged_rows(converged: Sequence[Converged]) -> Iterator[tuple[Cell, ...]]:
    """A row of `converged_columns` for every converged model, in full precision."""
    for each in converged:
        removed, test = len(each.plan.removed()), each.difference
        compared = (None,) * 4 if test is None else (test.delta, *test.ci, test.p)
        yield (
            each.ticket.name, each.ticket.iteration, each.ticket.variant, removed, removed / each.plan.count_base(),
            *per_layer(each.plan).values(), each.value, *compared, each.parameters, each.file_bytes,
            each.words_per_second, each.updates, each.last_update, each.validation,
        )  # fmt: skip


def lottery_file(
    metric: str,
    iterations: Sequence[Iteration],
    converged: Sequence[Converged],
    facts: Mapping[str, Any],
    made: Mapping[str, Any],
) -> LotteryFile:
    """Everything as ``lottery.json`` has it.

    Args:
        metric: name of the metric.
        iterations: what they found.
        converged: the converged models.
        facts: on what and how it was measured.
        made: sizes of files, times and provenance, which another run of the same settings need not have.
    """
    return LotteryFile(
        format="nmtprune-lottery",
        version=1,
        metric=metric,
        **facts,
        iterations=[_iteration(metric, each) for each in iterations],
        converged=[_converged(metric, each) for each in converged],
        **made,
    )


def curve_lines(converged: Sequence[Converged]) -> list[Line]:
    """What the picture shows: the metric against heads removed, a line per variant, each with its interval."""
    unpruned = next(each for each in converged if not each.ticket.iteration)
    found = []
    for variant in dict.fromkeys(each.ticket.variant for each in converged):
        own = [unpruned, *(each for each in converged if each.ticket.iteration and each.ticket.variant == variant)]
        if len(own) == 1 and len(converged) > 1:
            continue
        intervals = [(0.0, 0.0) if each.difference is None else each.difference.ci for each in own]
        found.append(
            Line(
                label=variant,
                removed=[len(each.plan.removed()) for each in own],
                values=[each.value for each in own],
                low=[unpruned.value + low for low, _ in intervals],
                high=[unpruned.value + high for _, high in intervals],
                dashed=variant != LOTTERY,
            )
        )
    return found


def _iteration(metric: str, each: Iteration) -> IterationOf:
    found = IterationOf(
        iteration=each.number,
        trained_heads=each.trained.count_kept(),
        validation=each.validation,
        removed=len(each.plan.removed()),
        kept=each.plan.count_kept(),
        kept_per_layer=kept_counts(each.plan),
        folder=f"iterations/{iteration_name(each.number)}",
        **quality_of(metric, each.value),
    )
    return found.model_copy(update={"beyond_max_drop": True}) if each.broken else found


def _converged(metric: str, each: Converged) -> ConvergedModel:
    test = each.difference
    removed = len(each.plan.removed())
    found = ConvergedModel(
        model=each.model,
        iteration=each.ticket.iteration,
        variant=each.ticket.variant,
        removed=removed,
        sparsity=removed / each.plan.count_base(),
        kept_per_layer=kept_counts(each.plan),
        parameters=each.parameters,
        updates=each.updates,
        last_update=each.last_update,
        validation=each.validation,
        **quality_of(metric, each.value),
    )
    if test is None:
        return found
    return found.model_copy(update={"delta": test.delta, "ci": test.ci, "p": test.p})
