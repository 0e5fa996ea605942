"""`nmtprune check`: the verdict on a slim model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.direction_options import directions_option
from nmtprune.cli.example_options import example_options
from nmtprune.cli.options import (
    checkpoint_argument,
    format_option,
    given,
    resamples_option,
    seed_option,
    spelled,
    typed,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import progress
from nmtprune.cli.quality_options import ALLOWING, any_quality_option, bleu_options, metric_for, repeat_option
from nmtprune.cli.render import emit_json, emit_tsv
from nmtprune.cli.search_options import beam_options, compute_type_option, engine_options
from nmtprune.errors import QualityGateError

if TYPE_CHECKING:
    from nmtprune.runs.report import CheckAnswer

_OF_QUALITY = ("metric", "bleu_tokenize", "lowercase", "resamples", "seed")
_OF_SPEED = ("repeat",)


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune check slim.pt --baseline checkpoint_best.pt --data-bin data-bin --subset test "
    "--max-drop 0.5 --significant --min-speedup 1.1 --max-size 80",
    short_help="Pass or fail a model against a baseline: quality, speed, size.",
)
@checkpoint_argument
@panel_option(
    Panel.MODEL,
    "--baseline",
    type=click.Path(path_type=Path),
    required=True,
    help="Model that CHECKPOINT is compared with.",
)
@data_options
@example_options
@directions_option
@panel_option(
    Panel.CONDITIONS, "--max-drop", type=float, metavar="X", help="Largest allowed drop, in points of the metric."
)
@panel_option(
    Panel.CONDITIONS,
    "--significant",
    is_flag=True,
    help="With --max-drop X, test non-inferiority: the lower end of the 95 % interval of the change must be above -X.",
)
@panel_option(
    Panel.CONDITIONS,
    "--min-speedup",
    type=float,
    metavar="X",
    help="Smallest required speed-up; the whole confidence interval must lie above it.",
)
@panel_option(
    Panel.CONDITIONS,
    "--max-size",
    type=float,
    metavar="PERCENT",
    help="Largest allowed model size, in percent of the baseline's tensor bytes.",
)
@beam_options
@panel_option(
    Panel.ENGINE,
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Sentences per batch.",
)
@repeat_option
@any_quality_option
@engine_options
@compute_type_option
@bleu_options
@resamples_option
@seed_option
@format_option
@verbosity_options
def check(output_format: str, **flags: Any) -> None:
    """Check whether CHECKPOINT may replace the baseline: exit code 0 if every condition is met, else 7.

    Only the given conditions are checked: all of them, even if the first one fails, with one line of output for each.
    With --directions, quality and speed are checked in every direction, and each must be good enough. Classifiers are
    checked on a table of texts and labels (--examples), or on the data of a task sentence_prediction.
    """
    from nmtprune.runs.check import CheckRun
    from nmtprune.runs.check import check as run_check

    flags["metric"] = metric_for(flags)
    of_quality = [*map(spelled, given(_OF_QUALITY)), *typed(ALLOWING)]
    of_speed = map(spelled, given(_OF_SPEED))
    run = CheckRun(needs_drop=tuple(of_quality), needs_speedup=tuple(of_speed), **flags)
    with progress() as watcher:
        verdict = run_check(run, watcher)
    _report(verdict, output_format)
    if not verdict.passed:
        missed = [
            f"{each.option} ({each.direction})" if each.direction else each.option
            for each in verdict.conditions
            if not each.passed
        ]
        raise QualityGateError(f"{run.checkpoint}: not met: {', '.join(missed)}")


def _report(verdict: "CheckAnswer", output_format: str) -> None:
    if output_format == "json":
        emit_json(verdict.as_json())
        return
    if output_format == "tsv":
        several = any(each.direction for each in verdict.conditions)
        columns = ("condition", *(["direction"] if several else []), "passed", "value", "limit", "low", "high")
        emit_tsv(
            columns,
            ((each.option, *([each.direction] if several else []), each.passed, each.value, each.limit,
              *(each.interval or (None, None))) for each in verdict.conditions),
        )  # fmt: skip
        return
    for condition in verdict.conditions:
        click.echo(f"{'passed' if condition.passed else 'FAILED'} {condition.option}: {condition.says}")
