"""`nmtprune score`: what every attention head is worth, measured by masking it."""

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
    epilog="Example: nmtprune score checkpoint_best.pt --data-bin data-bin --subset valid -o scores.json",
    short_help="Mask every head in turn and test what changes.",
)
@checkpoint_argument
@data_options
@with_test_data
@output_option("The score file; a table (.tsv) and a picture (.png) are written beside it.")
@click.option(
    "--metric",
    type=click.Choice([*MASKING, "importance", "confidence"]),
    default="bleu",
    show_default=True,
    help="bleu and chrf translate without each head; loss is the loss per token of the reference, without a search. "
    "importance (Michel et al. 2019, section 4) is how much the loss answers to a head's mask, confidence (Behnke and "
    "Heafield 2020) its mean maximum attention weight: one pass over the sentences each, without a test.",
)
@click.option(
    "--all-but-one",
    is_flag=True,
    help="Mask all heads of a module but one, for each in turn: which modules does one head suffice for? With "
    "--test-subset or --test-source the head that is best on DATA is tested there.",
)
@click.option("--kinds", metavar="KINDS", help="Only these kinds: encoder,decoder,cross. Default: all there are.")
@click.option(
    "--resamples",
    callback=resamples_value,
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Bootstrap resamples. auto: 10 x tests / alpha with a correction, 10000 without.",
)
@click.option(
    "--correction",
    type=click.Choice(["holm", "bh", "none"]),
    default="holm",
    show_default=True,
    help="For many tests: Holm (family-wise error), Benjamini and Hochberg (false discovery rate), or none.",
)
@click.option("--alpha", type=float, default=0.01, show_default=True, help="Significant is a corrected p below it.")
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
    """Score every attention head of CHECKPOINT: how much worse is the model on DATA without it?

    Every head is masked in turn, and the change is tested by paired bootstrap resampling, corrected for the number of
    heads (Michel et al. 2019, section 3; Koehn 2004). Interrupted runs go on with --resume; under torchrun several
    processes share the work, with the same result.
    """
    from nmtprune.runs import meter_score
    from nmtprune.runs.processes import Ended
    from nmtprune.runs.score import score as score_by_masking

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
        goes, names = "--metric bleu or chrf: a loss takes no search", SEARCH_NAMES
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
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.runs.score import ScoreRun

    del flags["meters"]
    names = ("alpha", "correction", "resamples", "seed")
    test = SignificanceTest(**{name: flags.pop(name) for name in names}, threads=flags["threads"])
    return ScoreRun(checkpoint, measure=measure_settings(flags), significance=test, **flags)


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
