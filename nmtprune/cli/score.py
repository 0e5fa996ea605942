"""`nmtprune score`: how much the model depends on each attention head."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options, with_test_data
from nmtprune.cli.measure_options import bleu_options, measure_settings
from nmtprune.cli.meter_options import CONFIDENCE_NAMES, IMPORTANCE_NAMES, meter_options
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    given,
    output_option,
    refuse,
    resamples_value,
    resume_option,
    say,
    seed_option,
    spelled,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress import duration, progress
from nmtprune.cli.search_options import SEARCH_NAMES, engine_options, search_options

if TYPE_CHECKING:
    from nmtprune.scores import Scores

MASKING = ("bleu", "chrf", "loss")
"""Metrics of the model with heads masked; the others need no masking, and no test."""

_MASKING_NAMES = (
    "all_but_one", "test_subset", "test_source", "test_reference", "resamples", "correction", "alpha", "resume",
    "allow_few_sentences",
)  # fmt: skip


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune score checkpoint_best.pt --data-bin data-bin --subset valid -o scores.json",
    short_help="Mask every head in turn and test how quality changes.",
)
@checkpoint_argument
@data_options
@with_test_data
@output_option("Score file to write; a table (.tsv) and a picture (.png) are written next to it.")
@panel_option(
    Panel.SCORING,
    "--metric",
    type=click.Choice([*MASKING, "importance", "confidence"]),
    default="bleu",
    show_default=True,
    help="bleu, chrf: translate without each head in turn. loss: loss per reference token, without a search. "
    "importance: sensitivity of the loss to the head's mask (Michel et al. 2019, section 4). confidence: mean "
    "maximum attention weight of the head (Behnke and Heafield 2020). importance and confidence take one pass over "
    "the sentences and are not tested for significance.",
)
@panel_option(
    Panel.SCORING,
    "--all-but-one",
    is_flag=True,
    help="Mask all heads of a module except one, for each head in turn: shows which modules need only one head. With "
    "--test-subset or --test-source, the head that is best on DATA is tested on the test data.",
)
@panel_option(
    Panel.SCORING,
    "--kinds",
    metavar="KINDS",
    help="Score heads of these kinds only: encoder, decoder, cross, separated by commas. Default: all.",
)
@panel_option(
    Panel.SIGNIFICANCE,
    "--resamples",
    callback=resamples_value,
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Number of bootstrap resamples; auto: 10 x tests / alpha with a correction, 10000 without.",
)
@panel_option(
    Panel.SIGNIFICANCE,
    "--correction",
    type=click.Choice(["holm", "bh", "none"]),
    default="holm",
    show_default=True,
    help="Correction for many tests: Holm (family-wise error), Benjamini-Hochberg (false discovery rate), or none.",
)
@panel_option(
    Panel.SIGNIFICANCE,
    "--alpha",
    type=float,
    default=0.01,
    show_default=True,
    help="Significance level, after correction.",
)
@search_options
@bleu_options
@engine_options
@meter_options(sentences=None)
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def score(checkpoint: Path, output_format: str, **flags: Any) -> None:
    """Score every attention head of CHECKPOINT: how much worse is the model on DATA without that head?

    Every head is masked in turn, and the change is tested by paired bootstrap resampling, corrected for the number of
    heads (Michel et al. 2019, section 3; Koehn 2004). --resume continues an interrupted run. Under torchrun,
    several processes share the work, with the same result.
    """
    from nmtprune.runs import meter_score
    from nmtprune.runs.score import score as score_by_masking
    from nmtprune.runs.workers import Ended

    masking = flags["metric"] in MASKING
    _check_options(flags["metric"], flags["meters"].translates)
    run = _masking_run(checkpoint, flags) if masking else _meter_run(checkpoint, flags)
    try:
        with progress() as watcher:
            scores = score_by_masking(run, watcher) if masking else meter_score.score(run, watcher)
    except Ended as ended:
        click.get_current_context().exit(ended.exit_code)
    if scores is not None:
        _report(scores, output_format)
        say("wrote " + ", ".join(str(path) for path in run.outputs))


def _check_options(metric: str, translates: bool) -> None:
    """Refuse options that mean nothing for the metric, all of them."""
    faults = []
    if metric == "loss":
        goes, names = "--metric bleu or chrf: the loss needs no search", SEARCH_NAMES
        faults += [f"{spelled(name)} goes with {goes}" for name in given(names)]
    if metric not in MASKING:
        faults += [f"{spelled(name)} goes with --metric {', '.join(MASKING)}" for name in given(_MASKING_NAMES)]
        searches = metric == "confidence" and translates
        goes = "--metric bleu or chrf, or with confidence and --confidence-on translations"
        faults += [f"{spelled(name)} goes with {goes}" for name in given(SEARCH_NAMES) if not searches]
    if metric not in MASKING and metric != "importance":
        faults += [f"{spelled(name)} goes with --metric importance" for name in given(("seed",))]
    for own, names in (("importance", IMPORTANCE_NAMES), ("confidence", CONFIDENCE_NAMES)):
        faults += [f"{spelled(name)} goes with --metric {own}" for name in given(names) if metric != own]
    refuse(faults)


def _masking_run(checkpoint: Path, flags: dict[str, Any]) -> Any:
    from nmtprune.runs.score import ScoreRun

    del flags["meters"]
    return ScoreRun(checkpoint=checkpoint, **flags)


def _meter_run(checkpoint: Path, flags: dict[str, Any]) -> Any:
    from nmtprune.runs.meter_score import MeterRun

    measure = measure_settings(flags)
    names = ("data", "output", "meters", "kinds", "seed", "force")
    return MeterRun(checkpoint, measure=measure, **{name: flags[name] for name in names})


def _report(scores: "Scores", output_format: str) -> None:
    from nmtprune.cli.score_tables import emit_scores
    from nmtprune.runs.report import tsv
    from nmtprune.runs.results import TSV_COLUMNS, rows

    if output_format == "json":
        click.echo(scores.to_json(), nl=False)
    elif output_format == "tsv":
        click.echo(tsv(TSV_COLUMNS, rows(scores)), nl=False)
    else:
        emit_scores(scores)
        click.echo(f"time {duration(scores.provenance['seconds'])}")
