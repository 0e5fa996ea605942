"""`nmtprune refit`: let a slim checkpoint follow its base, without training."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import calibration_data_options, with_calibration_data
from nmtprune.cli.direction_options import directions_option
from nmtprune.cli.example_options import calibration_examples_option, example_options
from nmtprune.cli.options import (
    calibration_sentences_option,
    force_option,
    format_option,
    given,
    output_option,
    refuse,
    say,
    seed_option,
    spelled,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import duration, progress
from nmtprune.cli.render import emit_json, emit_table, emit_tsv
from nmtprune.cli.search_options import SEARCH_NAMES, device_options, search_options

if TYPE_CHECKING:
    from nmtprune.runs.refit import RefitReport

_COLUMNS = ("projection", "tokens", "inputs", "silent", "error_before", "error_after")


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune refit checkpoint_best.pt slim.pt --data-bin data-bin -o refitted.pt",
    short_help="Fit a slim checkpoint to follow its base, without training.",
)
@click.argument("checkpoint", metavar="BASE", type=click.Path(path_type=Path))
@click.argument("slim", metavar="SLIM", type=click.Path(path_type=Path))
@calibration_data_options
@example_options
@directions_option
@with_calibration_data
@calibration_examples_option
@output_option("Checkpoint to write.")
@calibration_sentences_option
@panel_option(
    Panel.CALIBRATION,
    "--calibration-on",
    type=click.Choice(["references", "translations"]),
    show_default="references if DATA has them",
    help="Target side of these sentences: the references, or BASE's own translations, which need source text only. "
    "Classifiers are fitted on texts alone.",
)
@panel_option(
    Panel.CALIBRATION,
    "--holdout-sentences",
    type=click.IntRange(min=1),
    default=500,
    show_default=True,
    metavar="N",
    help="Number of other sentences of DATA on which the loss is compared before and after. None of them is fitted on, "
    "even if it stands in the text more than once.",
)
@panel_option(
    Panel.CALIBRATION,
    "--force-worse",
    is_flag=True,
    help="Write the result even if the loss of the held-out sentences rises (with --directions, in any direction).",
)
@panel_option(
    Panel.MODEL,
    "--only",
    type=click.Choice(["heads", "ffn"]),
    help="Fit only W_O of attention (heads), or only the second matrix of feed-forward layers (ffn). Default: both, "
    "and the output matrix of recurrences.",
)
@panel_option(
    Panel.MODEL,
    "--ridge",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    metavar="X",
    help="Draw each matrix towards what it was, by X times the mean variance of its inputs.",
)
@panel_option(
    Panel.MODEL,
    "--other-base",
    is_flag=True,
    help="Accept a BASE of the same shape that SLIM was not cut from, such as a fine-tuned one.",
)
@panel_option(
    Panel.MODEL,
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare the result with BASE under masks, the fitted matrices in their place.",
)
@search_options
@device_options
@seed_option
@force_option
@format_option
@verbosity_options
def refit(checkpoint: Path, output_format: str, **flags: Any) -> None:
    """Write SLIM with its output projections fitted so that it follows BASE, the checkpoint that it was cut from.

    W_O of every attention module and the second matrix of every feed-forward layer are replaced by the solution of a
    least-squares problem on the sentences of DATA: no training, no gradients. Heads and neurons that were removed stay
    removed. Where layers were removed, the last matrix before the gap also makes up for them.
    """
    from nmtprune.runs.refit import RefitRun
    from nmtprune.runs.refit import refit as run_refit
    from nmtprune.runs.refit_sentences import TRANSLATIONS

    run = RefitRun(base=checkpoint, engine="native", **flags)
    if not run.translates:
        refuse([f"{spelled(name)} goes with --calibration-on {TRANSLATIONS}" for name in given(SEARCH_NAMES)])
    with progress() as watcher:
        report = run_refit(run, watcher)
    _report(report, output_format)
    say(f"wrote {report.output}")


def _report(report: "RefitReport", output_format: str) -> None:
    fit = report.fit
    if output_format == "json":
        emit_json(report.as_json())
        return
    if output_format == "tsv":
        rows = [(each.name, each.tokens, each.inputs, each.silent, each.error_before, each.error_after)
                for each in fit.projections]  # fmt: skip
        emit_tsv(_COLUMNS, rows)
        return
    per = "token" if "tokens" in report.holdout else "text"
    title = f"loss per {per} on {report.holdout['sentences']} {'sentences' if per == 'token' else 'texts'}"
    if report.directions:
        losses = {"mean": report.loss, **report.directions}
        emit_table((title, *report.loss), [(name, *own.values()) for name, own in losses.items()])
    else:
        emit_table((title, ""), list(report.loss.items()))
    side = "" if report.calibration["on"] == "text" else f" with their {report.calibration['on']}"
    click.echo(f"fitted {len(fit.projections)} output projections on {report.calibration['sentences']} sentences{side}")
    if report.verification is not None:
        of = "the masked base with these projections" if report.against == "base" else "the fitted model in memory"
        click.echo(
            f"verified: max |delta logit| {report.verification.max_delta:.3g} against {of}, bound "
            f"{report.verification.tolerance:.3g}"
        )
    click.echo(f"time {duration(report.seconds)}")
