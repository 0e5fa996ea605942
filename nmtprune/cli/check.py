"""`nmtprune check`: the verdict on a slim model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.measure_options import bleu_options, quality_option, quality_settings, repeat_option, single_test
from nmtprune.cli.options import (
    checkpoint_argument,
    format_option,
    given,
    resamples_option,
    seed_option,
    spelled,
    verbosity_options,
)
from nmtprune.cli.progress import progress
from nmtprune.cli.render import emit_json, emit_tsv
from nmtprune.cli.search_options import beam_options, engine_options
from nmtprune.errors import QualityGateError

if TYPE_CHECKING:
    from nmtprune.runs.report import CheckAnswer

_OF_QUALITY = ("metric", "bleu_tokenize", "lowercase", "resamples", "seed")
_OF_SPEED = ("repeat",)


@click.command(
    epilog="Example: nmtprune check slim.pt --baseline checkpoint_best.pt --data-bin data-bin --subset test "
    "--max-drop 0.5 --significant --min-speedup 1.1 --max-size 80",
    short_help="Pass or fail a model against a baseline: quality, speed, size.",
)
@checkpoint_argument
@click.option("--baseline", type=click.Path(path_type=Path), required=True, help="The model that it is compared with.")
@data_options
@click.option("--max-drop", type=float, metavar="X", help="So many points of the metric it may be worse.")
@click.option(
    "--significant",
    is_flag=True,
    help="With --max-drop: a test of non-inferiority: the lower end of the change's 95 % interval must be above -X.",
)
@click.option("--min-speedup", type=float, metavar="X", help="So many times as fast it must be, noise allowed for.")
@click.option(
    "--max-size", type=float, metavar="PERCENT", help="Bytes of its tensors, of those of the baseline, at most."
)
@beam_options
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, metavar="N", help="Sentences per batch."
)
@repeat_option
@quality_option
@engine_options
@bleu_options
@resamples_option
@seed_option
@format_option
@verbosity_options
def check(output_format: str, **flags: Any) -> None:
    """Say whether CHECKPOINT may take the place of the baseline: exit code 0 if every condition is met, else 7.

    Only conditions that are given are checked, and all of them before it answers; one line for each.
    """
    from nmtprune.runs.check import CheckRun
    from nmtprune.runs.check import check as run_check

    only = tuple([spelled(name) for name in given(names)] for names in (_OF_QUALITY, _OF_SPEED))
    test, quality = single_test(flags), quality_settings(flags, flags.pop("metric"))
    run = CheckRun(significance=test, quality=quality, given=(only[0], only[1]), **flags)
    with progress() as watcher:
        verdict = run_check(run, watcher)
    _report(verdict, output_format)
    if not verdict.passed:
        missed = [condition.option for condition in verdict.conditions if not condition.passed]
        raise QualityGateError(f"{run.checkpoint}: not met: {', '.join(missed)}")


def _report(verdict: "CheckAnswer", output_format: str) -> None:
    if output_format == "json":
        emit_json(verdict.as_json())
        return
    if output_format == "tsv":
        columns = ("condition", "passed", "value", "limit", "low", "high")
        emit_tsv(
            columns,
            ((each.option, each.passed, each.value, each.limit, *(each.interval or (None, None)))
             for each in verdict.conditions),
        )  # fmt: skip
        return
    for condition in verdict.conditions:
        click.echo(f"{'passed' if condition.passed else 'FAILED'} {condition.option}: {condition.says}")
