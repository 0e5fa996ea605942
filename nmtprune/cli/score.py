"""`nmtprune score`: how much the model depends on each attention head, neuron or layer."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.direction_options import across_option, check_across, directions_option
from nmtprune.cli.example_options import example_options
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
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.cli.progress_bar import duration, progress
from nmtprune.cli.quality_options import bleu_options, metric_for
from nmtprune.cli.reported_data_options import with_test_data
from nmtprune.cli.scorer_options import ScorerCommand, foreign_to_metric, metric_options, taken
from nmtprune.cli.search_options import SEARCH_NAMES, engine_options, search_options
from nmtprune.methods.scorer import Scorer
from nmtprune.runs.scorers import SCORERS, either, names_of

if TYPE_CHECKING:
    from nmtprune.scores import Scores

_MASKING_NAMES = (
    "all_but_one", "test_subset", "test_source", "test_reference", "test_examples", "resamples", "correction", "alpha",
    "resume", "allow_few_sentences",
)  # fmt: skip
"""Parameters that only scorers use that mask heads."""


@click.command(
    cls=ScorerCommand,
    scorer_options=metric_options,
    epilog="Example: nmtprune score checkpoint_best.pt --data-bin data-bin --subset valid -o scores.json",
    short_help="Score heads, neurons or layers; test how quality changes without each.",
)
@checkpoint_argument
@data_options
@example_options
@directions_option
@across_option
@with_test_data
@output_option("Score file to write; a table (.tsv) and a picture (.png) are written next to it.")
@panel_option(
    Panel.SCORING,
    "--group",
    default="heads",
    show_default=True,
    metavar="GROUPS",
    help="What to score: heads, neurons (of feed-forward layers), layers, separated by commas. Heads and neurons: "
    "importance, fisher, reconstruction, variance, activation. Heads and layers: bleu, chrf, loss; of classifiers "
    "accuracy, f1, matthews, loss.",
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
    help="Score heads of these kinds only: encoder, decoder, cross, separated by commas; encoder and decoder also "
    "stand for the neurons and layers of these stacks. Default: all.",
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
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def score(checkpoint: Path, output_format: str, **flags: Any) -> None:
    """Score every attention head of CHECKPOINT: how much worse is the model on DATA without that head?

    Every head is masked in turn, and the change is tested by paired bootstrap resampling, or by McNemar's exact test
    for accuracy, corrected for the number of heads (Michel et al. 2019, section 3; Koehn 2004). --group scores neurons
    or layers. --resume continues an interrupted run. Under torchrun, several processes share the work, with the same
    result.
    """
    from nmtprune.runs.score import ScoreRun
    from nmtprune.runs.score import score as run_score
    from nmtprune.runs.workers import ProcessFailed

    check_across(flags["data"])
    flags["metric"] = metric_for(flags)
    (scorer,) = taken(flags, [SCORERS[flags["metric"]]])
    _check_options(scorer)
    run = ScoreRun(checkpoint=checkpoint, options=scorer.options, **flags)
    try:
        with progress() as watcher:
            scores = run_score(run, watcher)
    except ProcessFailed as ended:
        click.get_current_context().exit(ended.exit_code)
    if scores is not None:
        _report(scores, output_format)
        say("wrote " + ", ".join(str(path) for path in run.outputs))


def _check_options(scorer: Scorer[Any]) -> None:
    """Refuse options that mean nothing for the scorer, all of them."""
    faults = []
    offered = [each for each in SCORERS.values() if each.of_metric]
    if not scorer.masks:
        owners = names_of(each for each in offered if each.masks)
        faults += [f"{spelled(name)} goes with --metric {owners}" for name in given(_MASKING_NAMES)]
    if not scorer.needs.search:
        owners = either(
            [
                f"{each.name} with {each.searches}" if each.searches else each.name
                for each in offered
                if each.searches is not None
            ]
        )
        faults += [f"{spelled(name)} goes with --metric {owners}" for name in given(SEARCH_NAMES)]
    if not scorer.draws:
        owners = names_of(each for each in offered if each.draws)
        faults += [f"{spelled(name)} goes with --metric {owners}" for name in given(("seed",))]
    refuse([*faults, *foreign_to_metric(scorer.name)])


def _report(scores: "Scores", output_format: str) -> None:
    from nmtprune.cli.score_tables import emit_scores
    from nmtprune.runs.score import table

    if output_format == "json":
        click.echo(scores.to_json(), nl=False)
    elif output_format == "tsv":
        click.echo(table(scores), nl=False)
    else:
        emit_scores(scores)
        click.echo(f"time {duration(scores.provenance['seconds'])}")
