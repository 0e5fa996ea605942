"""`nmtprune lottery`: prune and rewind in a loop, then train the remaining model to convergence."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import KINDS
from nmtprune.cli.data_options import (
    TRAINING_TEXT,
    data_options,
    with_calibration_data,
    with_importance_data,
)
from nmtprune.cli.options import (
    calibration_sentences_option,
    force_option,
    format_option,
    given,
    output_option,
    refuse,
    resume_option,
    say,
    seed_option,
    significance_options,
    spelled,
    uniform_option,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.cli.progress_bar import duration, progress
from nmtprune.cli.quality_options import bleu_options, quality_option
from nmtprune.cli.render import emit_json, emit_table, emit_tsv
from nmtprune.cli.reported_data_options import with_test_data
from nmtprune.cli.scorer_options import ScorerCommand, foreign_to_orders, head_order_options, taken
from nmtprune.cli.search_options import engine_options, search_options
from nmtprune.runs.scorers import SCORERS, head_scorers

if TYPE_CHECKING:
    from nmtprune.runs.lottery.rewinding import LotteryResult
    from nmtprune.runs.lottery.schedule import Schedule

_COUNT = click.IntRange(min=1)


def _numbers(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, ...]:
    """Numbers separated by commas."""
    words = [word.strip() for word in (value or "").split(",") if word.strip()]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise click.BadParameter(f"'{value}': write numbers separated by commas, such as 9,11,13.")
    return tuple(int(word) for word in words)


@click.command(
    cls=ScorerCommand,
    scorer_options=head_order_options,
    epilog="Example: nmtprune lottery --data-bin data-bin --pretrain-updates 12000 --prune-updates 8000 --until 72% "
    "--converge --control reinit --test-subset test -o run -- --arch transformer --optimizer adam --lr 0.0005 "
    "--lr-scheduler inverse_sqrt --max-tokens 4096",
    short_help="Prune heads and rewind in a loop, then train the result.",
)
@click.argument("given", nargs=-1, type=click.UNPROCESSED, metavar="[-- FAIRSEQ-TRAIN OPTIONS]")
@data_options
@with_test_data
@with_importance_data
@with_calibration_data
@output_option(
    "Run folder: gets plan.json, ticket.pt, iterations/, converged/, lottery.json, .tsv and .png, state.json."
)
@panel_option(
    Panel.TRAINING,
    "--late-reset",
    type=click.Path(path_type=Path),
    metavar="CHECKPOINT",
    help="Late-resetting checkpoint: the one to rewind to.",
)
@panel_option(
    Panel.TRAINING,
    "--pretrain-updates",
    type=_COUNT,
    metavar="N",
    help="Train the late-resetting checkpoint first, from scratch, for N updates.",
)
@panel_option(
    Panel.TRAINING,
    "--prune-updates",
    type=_COUNT,
    required=True,
    metavar="N",
    help="Updates per iteration, starting from the late-resetting checkpoint.",
)
@panel_option(
    Panel.REMOVAL,
    "--heads-per-iteration",
    type=_COUNT,
    metavar="K",
    show_default="modules / 2",
    help="Heads to remove per iteration.",
)
@panel_option(
    Panel.REMOVAL, "--until", metavar="AMOUNT", help="Heads to remove in total, met exactly: for example 72% or 104."
)
@panel_option(
    Panel.REMOVAL,
    "--max-drop",
    metavar="X|significant",
    help="End the loop before an iteration whose model, after the same number of updates, is more than X points of the "
    "metric, or significantly, worse than the first.",
)
@panel_option(
    Panel.REMOVAL,
    "--kinds",
    metavar="KINDS",
    help="Remove heads of these kinds only: encoder, decoder, cross, separated by commas. Default: all.",
)
@panel_option(
    Panel.REMOVAL,
    "--min-heads-per-module",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    metavar="N",
    help="Keep at least N heads in every module; 0 lets modules lose all heads, as in the paper.",
)
@uniform_option
@panel_option(
    Panel.CALIBRATION,
    "--refit",
    is_flag=True,
    help="Refit every rewound model before it is trained, so that it follows the late-resetting checkpoint (see "
    "nmtprune refit), on sentences of --importance-subset, --importance-source or --calibration-source. Not in the "
    "paper.",
)
@calibration_sentences_option
@panel_option(
    Panel.TRAINING,
    "--converge",
    is_flag=True,
    help="Train the last iteration's model and the unpruned model to convergence.",
)
@panel_option(
    Panel.TRAINING,
    "--converge-iterations",
    callback=_numbers,
    metavar="I,J,...",
    help="Also train the models of these iterations to convergence.",
)
@panel_option(
    Panel.TRAINING,
    "--converge-updates",
    type=_COUNT,
    metavar="N",
    help="Stop at update N at the latest, counting pretraining updates.",
)
@panel_option(
    Panel.TRAINING,
    "--patience",
    type=_COUNT,
    default=10,
    show_default=True,
    metavar="N",
    help="Stop after N validations without improvement. fairseq-train validates once per epoch, unless "
    "--validate-interval-updates follows --.",
)
@panel_option(
    Panel.TRAINING, "--reset-optimizer", is_flag=True, help="Start rewound models with empty optimizer moments."
)
@panel_option(
    Panel.TRAINING,
    "--control",
    "controls",
    multiple=True,
    type=click.Choice(["reinit", "random"]),
    help="Train a control with each converged model: the same heads with fresh weights (reinit), or the same number "
    "of random heads per module (random). Repeat the option for both.",
)
@panel_option(
    Panel.GENERAL, "--dry-run", is_flag=True, help="Check everything and print the schedule, without training."
)
@quality_option
@significance_options
@search_options
@bleu_options
@engine_options
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def lottery(output_format: str, dry_run: bool, order: str, **flags: Any) -> None:
    """Train from a late-resetting checkpoint, remove the least confident heads, rewind the others, and repeat.

    fairseq-train trains on --data-bin with the options after --, or else with the settings of --late-reset. Confidence
    is measured on DATA; --order names other measures. Converged models are measured on TEST DATA, or on DATA if no test
    data are given (Behnke and Heafield 2020).
    """
    from nmtprune.runs.lottery.job import LotteryRun
    from nmtprune.runs.lottery.rewinding import lottery as run_lottery
    from nmtprune.runs.lottery.rewinding import schedule_of

    refuse(_foreign(order, refit=flags["refit"], converges=flags["converge"] or bool(flags["converge_iterations"])))
    (scorer,) = taken(flags, [SCORERS[order]])
    run = LotteryRun(order=order, scoring=scorer.options, **flags)
    if dry_run:
        _emit_schedule(schedule_of(run), output_format)
        return
    with progress() as watcher:
        result = run_lottery(run, watcher)
    if output_format == "text":
        _emit_text(result, run.metric)
    else:
        click.echo(result.report.json if output_format == "json" else result.table, nl=False)
    say(f"wrote {run.output}: plan.json, ticket.pt" + "".join(f", {each.model}" for each in result.converged))


def _foreign(order: str, *, refit: bool, converges: bool) -> list[str]:
    """Given options that mean nothing for the run, all of them."""
    refits_on_it = refit and not given(["calibration_source"])
    faults = foreign_to_orders([order], () if refits_on_it else TRAINING_TEXT, head_scorers())
    if not refit:
        names = given(["calibration_sentences", "calibration_source", "calibration_reference"])
        faults += [f"{spelled(name)} goes with --refit" for name in names]
    if not converges:
        faults += [f"{spelled(name)} goes with --converge or --converge-iterations" for name in given(["patience"])]
    return faults


def _emit_schedule(schedule: "Schedule", output_format: str) -> None:
    from nmtprune.runs.lottery.schedule import COLUMNS

    rows = list(schedule.rows())
    if output_format == "tsv":
        emit_tsv(COLUMNS, rows)
        return
    if output_format == "json":
        emit_json({"trainings": [dict(zip(COLUMNS, row, strict=True)) for row in rows], "updates": schedule.total})
        return
    names = [column.replace("_", " ") for column in COLUMNS]
    emit_table(names, (_spelled(row) for row in rows))
    pretraining = schedule.late_reset if schedule.pretrains else 0
    pruning = schedule.pruning_trainings * schedule.prune_updates
    click.echo(
        f"updates: pretraining {pretraining:,}, pruning {schedule.prune_updates:,} x {schedule.pruning_trainings} = "
        f"{pruning:,}, convergence {_at_most(schedule.convergence)}, in total {_at_most(schedule.total)}"
    )


def _at_most(updates: int | None) -> str:
    return "until --patience ends it" if updates is None else f"{updates:,} at most" if updates else "0"


def _spelled(row: tuple[str | int | float | None, ...]) -> list[str | int | None]:
    return [f"{cell:.1%}" if isinstance(cell, float) else cell for cell in row]


def _emit_text(result: "LotteryResult", metric: str) -> None:
    facts = result.facts
    kinds = list(result.plan.heads_by_kind())
    click.echo(f"{facts['heads']} heads; heads kept per layer after each iteration")
    measured = [metric] if any(each.value is not None for each in result.iterations) else []
    columns = ("iteration", "trained", "validation", *measured, "removed", "of kinds", "of all", "kept", *kinds)
    emit_table(columns, _iteration_rows(result, bool(measured)))
    if result.converged:
        click.echo(f"\n{facts['data']}: {facts['sentences']} sentences\n{facts['signature']}")
        figures = (metric, "change", "95% interval", "p", "parameters", "file MB", "words/s", "updates")
        emit_table(("model", "removed", "of all", *kinds, *figures), _converged_rows(result))
    click.echo(f"time {duration(result.seconds)}; iterations: {_times(result)}")


def _times(result: "LotteryResult") -> str:
    times = result.times.values()
    scored = [part for part in SCORERS if any(part in each for each in times)]
    parts = ("training", "start_up", *scored, "other")
    return ", ".join(f"{part.replace('_', '-')} {duration(sum(each.get(part, 0) for each in times))}" for part in parts)


def _iteration_rows(result: "LotteryResult", measured: bool) -> Iterator[tuple[str | int | None, ...]]:
    from nmtprune.runs.lottery.outcomes import per_layer

    for each in result.iterations:
        plan, removed = each.plan, len(each.plan.removed())
        figures = [each.validation, each.value] if measured else [each.validation]
        shares = (f"{removed / plan.count_base(kinds):.1%}" for kinds in (result.kinds, KINDS))
        yield (
            each.number, each.trained.count_kept(), *(None if value is None else f"{value:.3f}" for value in figures),
            removed, *shares, plan.count_kept(), *per_layer(plan).values(),
        )  # fmt: skip


def _converged_rows(result: "LotteryResult") -> Iterator[tuple[str | int | None, ...]]:
    from nmtprune.runs.lottery.outcomes import per_layer

    for each in result.converged:
        compared: list[str | None] = [None] * 3
        if each.difference is not None:
            low, high = each.difference.ci
            compared = [f"{each.difference.delta:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{each.difference.p:.4f}"]
        removed = len(each.plan.removed())
        yield (
            each.ticket.name, removed, f"{removed / each.plan.count_base():.1%}", *per_layer(each.plan).values(),
            f"{each.value:.2f}", *compared, each.parameters, f"{each.file_bytes / 1e6:.2f}",
            f"{each.words_per_second:.0f}", each.updates,
        )  # fmt: skip
