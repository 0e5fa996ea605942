"""`nmtprune greedy`: quality against what was removed, in several orders, with a plan for every step."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import TRAINING_TEXT, data_options, with_calibration_data, with_importance_data
from nmtprune.cli.direction_options import across_option, check_across, directions_option
from nmtprune.cli.example_options import calibration_examples_option, example_options, importance_examples_option
from nmtprune.cli.options import (
    calibration_sentences_option,
    force_option,
    format_option,
    given,
    min_heads_option,
    multiple_of_option,
    output_option,
    protect_option,
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
from nmtprune.cli.quality_options import any_quality_option, bleu_options, metric_for
from nmtprune.cli.render import emit_table
from nmtprune.cli.scorer_options import ScorerCommand, foreign_to_orders, order_options, taken
from nmtprune.cli.search_options import engine_options, search_options
from nmtprune.runs.scorers import AUTO, BY_LOSS, RANDOM, scorer_of

if TYPE_CHECKING:
    from nmtprune.runs.greedy.curve import CurvePoint, Swept
    from nmtprune.runs.greedy.loop import GreedyResult

_CALIBRATION = ("calibration_sentences", "calibration_source", "calibration_reference", "calibration_examples")
"""Parameters of the text to refit on."""

_IN_ROUNDS = "reconstruction"
"""The order that is measured in rounds."""

_LAYERS = "layers"
"""The group whose order is by loss, and whose removal ends with the last layer of each stack, by default."""


@click.command(
    cls=ScorerCommand,
    scorer_options=order_options,
    epilog="Example: nmtprune greedy checkpoint_best.pt --data-bin data-bin --order importance --order random -o run",
    short_help="Remove heads, neurons or layers step by step; write curves, and a plan for each step.",
)
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CHECKPOINT...")
@data_options
@example_options
@directions_option
@across_option
@with_importance_data
@with_calibration_data
@importance_examples_option
@calibration_examples_option
@output_option(
    "Run folder: gets curve.json, .tsv and .png, plans/CURVE/STEP.json, plan.json, and the state for --resume."
)
@any_quality_option
@panel_option(
    Panel.REMOVAL,
    "--reestimate",
    is_flag=True,
    help="Score units again after every step, on the pruned model: --order importance then means "
    "importance-reestimated.",
)
@panel_option(
    Panel.REMOVAL,
    "--samples",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of curves for --order random.",
)
@panel_option(
    Panel.REMOVAL,
    "--group",
    metavar="GROUPS",
    show_default="heads; with --budget heads,neurons",
    help="What to remove: heads, neurons (of feed-forward layers), layers, separated by commas. Layers are chosen by "
    "the loss without them.",
)
@panel_option(
    Panel.REMOVAL,
    "--kinds",
    multiple=True,
    metavar="KINDS",
    help="Remove heads of these kinds only: encoder, decoder, cross, separated by commas; encoder and decoder also "
    "stand for the neurons and layers of these stacks. Default: all. Repeat the option for one curve per KINDS.",
)
@panel_option(
    Panel.REMOVAL,
    "--step",
    default="10%",
    show_default=True,
    metavar="AMOUNT",
    help="Units to remove per step: a number, or a percentage. With several GROUPS: percent of the "
    "multiply-accumulates of all their units.",
)
@panel_option(
    Panel.REMOVAL,
    "--until",
    default="90%",
    show_default="90%; of layers all but one of each stack",
    metavar="AMOUNT",
    help="Units to remove in total, likewise.",
)
@panel_option(
    Panel.REMOVAL,
    "--budget",
    "budgets",
    multiple=True,
    metavar="COST",
    help="Remove units until the model costs at most COST, those of the lowest score for what they cost first: "
    "macs=50% of the multiply-accumulates (lengths of DATA, beam of the search), params=50% of the parameters, or "
    "speed=1.5x as fast by --cost-table. In place of --step and --until; repeat the option for a curve.",
)
@panel_option(
    Panel.REMOVAL,
    "--cost-table",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Measured costs of the model's parts, written by nmtprune bench --cost-table.",
)
@panel_option(
    Panel.REMOVAL,
    "--max-drop",
    metavar="X|significant",
    help="End a curve at the first step that is more than X points, or significantly, worse than the unpruned model; "
    "with --directions in any direction.",
)
@panel_option(
    Panel.CALIBRATION,
    "--refit",
    is_flag=True,
    help="Refit every pruned model before it is measured (see nmtprune refit), on sentences of --importance-subset, "
    "--importance-source or --calibration-source; a classifier on texts of --importance-examples or "
    "--calibration-examples. The run folder then also gets the refitted model of plan.json as slim.pt, slim.npz or "
    "slim.",
)
@calibration_sentences_option
@panel_option(
    Panel.REMOVAL,
    "--rounds",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Measure the order reconstruction N times: again on the refitted model after each N-th part of the removal.",
)
@panel_option(
    Panel.REMOVAL,
    "--auto-orders",
    multiple=True,
    metavar="ORDER|FILE",
    show_default="importance, fisher, reconstruction",
    help="Orders among which --order auto chooses at every step: all get the loss of the references, and the best of "
    "them a translation of DATA. Repeat the option for each order.",
)
@min_heads_option
@uniform_option
@multiple_of_option
@protect_option
@significance_options
@search_options
@bleu_options
@engine_options
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def greedy(output_format: str, **flags: Any) -> None:
    """Remove the least important heads, neurons or layers of CHECKPOINT step by step, and measure each model on DATA.

    --group says what is removed, by default heads. AMOUNT is a number of units, or a percentage of those of the
    selected kinds, and is met exactly (Michel et al. 2019, section 4); with several groups it is a percentage of their
    multiply-accumulates. --budget removes units until the model costs at most so much. RUN/plan.json is the last plan
    of the first curve that is within --max-drop; nmtprune slim applies it. Several CHECKPOINTs, for example of one
    training run, give one curve each.
    """
    from nmtprune.runs.greedy.loop import greedy as run_greedy
    from nmtprune.runs.greedy.orders import DEFAULT_CONTENDERS
    from nmtprune.runs.greedy.setup import GreedyRun
    from nmtprune.runs.workers import ProcessFailed

    check_across(flags["data"])
    _choose_defaults(flags)
    flags["metric"] = metric_for(flags)
    names = [*flags["orders"], *((flags["auto_orders"] or DEFAULT_CONTENDERS) if AUTO in flags["orders"] else ())]
    refits_on_importance = flags["refit"] and flags["calibration_data"] is None
    _check_options(names, refit=flags["refit"], rounds=flags["rounds"], refits_on_importance=refits_on_importance)
    chosen = {scorer.name: scorer for scorer in map(scorer_of, names) if scorer is not None}
    run = GreedyRun(scorers=tuple(taken(flags, chosen.values())), **flags)
    try:
        with progress() as watcher:
            result = run_greedy(run, watcher)
    except ProcessFailed as ended:
        click.get_current_context().exit(ended.exit_code)
    if result is not None:
        _report(result, run.metric, output_format)
        applied = f"nmtprune slim CHECKPOINT --plan {run.output / 'plan.json'} applies its plan"
        say(f"wrote {run.output}; {f'{run.slim} is the refitted model of plan.json' if run.refit else applied}")


def _choose_defaults(flags: dict[str, Any]) -> None:
    """Layers alone have another order than heads, and another end."""
    if [name.strip() for name in (flags["group"] or "").split(",")] == [_LAYERS]:
        there = given(["orders", "until"])
        flags["orders"] = flags["orders"] if "orders" in there else (BY_LOSS,)
        flags["until"] = flags["until"] if "until" in there else None


def _check_options(orders: Sequence[str], *, refit: bool, rounds: int, refits_on_importance: bool) -> None:
    """Refuse options that mean nothing for the orders, all of them."""
    faults = foreign_to_orders(orders, () if refits_on_importance else TRAINING_TEXT)
    if given(["budgets"]):
        faults += [f"{spelled(name)} goes without --budget" for name in given(["step", "until"])]
    if AUTO not in orders:
        faults += [f"{spelled(name)} goes with --order {AUTO}" for name in given(["auto_orders"])]
    if _IN_ROUNDS not in orders:
        faults += [f"{spelled(name)} goes with --order {_IN_ROUNDS}" for name in given(["rounds"])]
    if _IN_ROUNDS not in orders and not refit:
        names = given(_CALIBRATION)
        faults += [f"{spelled(name)} goes with --refit or --order {_IN_ROUNDS}" for name in names]
    if _IN_ROUNDS in orders and rounds == 1 and not refit:
        names = given(_CALIBRATION)
        faults += [f"{spelled(name)} goes with --refit or several --rounds" for name in names]
    if RANDOM not in orders:
        faults += [f"{spelled(name)} goes with --order {RANDOM}" for name in given(["samples"])]
    refuse(faults)


def _report(result: "GreedyResult", metric: str, output_format: str) -> None:
    if output_format == "json":
        click.echo(result.report.json, nl=False)
    elif output_format == "tsv":
        click.echo(result.report.tsv or "", nl=False)
    else:
        _emit_text(result, metric)


def _emit_text(result: "GreedyResult", metric: str) -> None:
    """A table per curve, the means of random ones, and which plan was chosen."""
    from nmtprune.runs.greedy.curve import means

    facts, heads = result.facts, sum(result.base.modules.values())
    what = "texts" if "labels" in facts else "sentences"
    click.echo(f"{facts['data']}: {facts['sentences']} {what}, {_units(result)}")
    click.echo(facts["signature"])
    if "across" in facts:
        click.echo(f"{metric}: {facts['across']} of {facts['data']}; * the direction that loses most")
    for each in result.swept:
        click.echo(f"\n{each.checkpoint}: {each.curve.name}")
        if result.sorts:
            emit_table(_cost_columns(result, metric, _names(each)), _cost_rows(each, result))
        else:
            columns = ("removed", "of kinds", "of all", metric, *_names(each), "95% interval", "p", "relative", "")
            emit_table(columns, _rows(each, heads))
    for mean in means(result.swept):
        click.echo(
            f"\n{mean.checkpoint}: random, {','.join(mean.kinds)}, mean and standard deviation of {mean.samples} curves"
        )
        places: Sequence[int | str] = mean.removed if mean.macs is None else [f"{share:.1%}" for share in mean.macs]
        name = "removed" if mean.macs is None else "macs"
        values = zip(places, mean.means, mean.deviations, strict=True)
        emit_table((name, metric, "sd"), ((place, f"{value:.2f}", f"{sd:.2f}") for place, value, sd in values))
    first = result.swept[0]
    chosen = first.chosen
    of_all = "" if result.sorts else f", {chosen.removed / heads:.1%} of all"
    click.echo(
        f"plan.json: {chosen.what_is_gone}{of_all}, {metric} {chosen.value:.2f} "
        f"({chosen.difference.delta:+.2f}), from curve {first.curve.name}"
    )
    click.echo(f"time {duration(result.seconds)}")


def _rows(each: "Swept", heads: int) -> Iterator[tuple[str | int | None, ...]]:
    for step in each.steps:
        of_kinds, (low, high) = step.removed / (step.removed + step.kept), step.ci
        relative = None if step.relative is None else f"{step.relative:.1%}"
        yield (
            step.removed, f"{of_kinds:.1%}", f"{step.removed / heads:.1%}", f"{step.value:.2f}", *_values(step),
            f"{low:.2f} to {high:.2f}", f"{step.difference.p:.4f}", relative,
            ", ".join([*_chosen(step), *(["beyond --max-drop"] if step.broken else [])]),
        )  # fmt: skip


def _units(result: "GreedyResult") -> str:
    """What the model consists of: ``24 heads``, or ``24 heads, 3072 neurons``."""
    units = result.units or {"heads": sum(result.base.modules.values())}
    return ", ".join(f"{number} {sort}" for sort, number in units.items())


def _names(each: "Swept") -> tuple[str, ...]:
    """Of several directions."""
    return tuple(own.name for own in each.steps[0].directions)


def _values(step: "CurvePoint") -> list[str]:
    """The metric in each of several directions, the one that loses most marked."""
    if not step.directions:
        return []
    lowest = min(own.difference.delta for own in step.directions)
    marks = ["*" if own.difference.delta == lowest < 0 else " " for own in step.directions]
    return [f"{own.value:.2f}{mark}" for own, mark in zip(step.directions, marks, strict=True)]


def _cost_columns(result: "GreedyResult", metric: str, directions: Sequence[str]) -> tuple[str, ...]:
    """Columns of a table of curves against costs."""
    costs = ("macs", "params", *(["speed"] if result.timed else []))
    return (*result.sorts, *costs, metric, *directions, "95% interval", "p", "relative", "")


def _cost_rows(each: "Swept", result: "GreedyResult") -> Iterator[tuple[str | int | None, ...]]:
    for step in each.steps:
        low, high = step.ci
        cost = step.cost
        if cost is None:
            raise ValueError(f"{each.curve.name}: costs were not counted")
        relative = None if step.relative is None else f"{step.relative:.1%}"
        yield (
            *(step.of_sort(sort) for sort in result.sorts), f"{cost.macs:.1%}", f"{cost.parameters:.1%}",
            *([] if cost.speed is None else [f"{cost.speed:.2f}x"]), f"{step.value:.2f}",
            *_values(step),
            f"{low:.2f} to {high:.2f}", f"{step.difference.p:.4f}", relative,
            ", ".join([*_chosen(step), *(["beyond --max-drop"] if step.broken else [])]),
        )  # fmt: skip


def _chosen(step: "CurvePoint") -> list[str]:
    """The order that --order auto chose, and its lead."""
    if step.decision is None:
        return []
    lead = step.decision.lead
    return [step.decision.chosen.order + ("" if lead is None else f" (+{lead:.2f})")]
