"""`nmtprune score`: what every attention head is worth, measured by masking it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from nmtprune.cli.data_options import data_options, with_test_data
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    output_option,
    say,
    seed_option,
    verbosity_options,
)
from nmtprune.cli.progress import duration, progress
from nmtprune.cli.search_options import SEARCH_NAMES, engine_options, search_options
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.scores import Scores


def _resamples(_context: click.Context, _parameter: click.Parameter, value: str) -> str | int:
    if value == "auto":
        return value
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"'{value}' is neither auto nor a number from 1 on.")
    return int(value)


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
    type=click.Choice(["bleu", "chrf", "loss"]),
    default="bleu",
    show_default=True,
    help="bleu and chrf translate; loss is the loss per token of the reference, which takes no search.",
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
    callback=_resamples,
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
@click.option("--bleu-tokenize", default="13a", show_default=True, metavar="NAME", help="BLEU tokenizer of sacrebleu.")
@click.option("--lowercase", is_flag=True, help="BLEU and chrF ignore case.")
@engine_options
@seed_option
@click.option("--resume", is_flag=True, help="Go on where an interrupted run with the same settings stopped.")
@force_option
@format_option
@verbosity_options
def score(checkpoint: Path, output_format: str, **flags: Any) -> None:
    """Score every attention head of CHECKPOINT: how much worse is the model on DATA without it?

    Every head is masked in turn, and the change is tested by paired bootstrap resampling, corrected for the number of
    heads (Michel et al. 2019, section 3; Koehn 2004). Interrupted runs go on with --resume; under torchrun several
    processes share the work, with the same result.
    """
    from nmtprune.runs.processes import Ended
    from nmtprune.runs.score import score as run_score

    context = click.get_current_context()
    _check_search(context, flags["metric"])
    run = _run(checkpoint, flags)
    try:
        with progress() as watcher:
            scores = run_score(run, watcher)
    except Ended as ended:
        context.exit(ended.exit_code)
    if scores is not None:
        _report(scores, output_format)
        say("wrote " + ", ".join(str(path) for path in run.outputs.values()))


def _check_search(context: click.Context, metric: str) -> None:
    """Refuse options of searching where nothing is searched."""
    given = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    faults = [
        f"--{name.replace('_', '-')} goes with --metric bleu or chrf: a loss takes no search"
        for name in SEARCH_NAMES
        if metric == "loss" and context.get_parameter_source(name) in given
    ]
    if faults:
        raise UsageError("; ".join(faults), faults)


def _run(checkpoint: Path, flags: dict[str, Any]) -> Any:
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.runs.measure import MeasureSettings
    from nmtprune.runs.score import ScoreRun

    test = SignificanceTest(
        alpha=flags.pop("alpha"),
        correction=flags.pop("correction"),
        resamples=flags.pop("resamples"),
        seed=flags.pop("seed"),
        threads=flags["threads"],
    )
    names = ("metric", "engine", "device", "threads", "search", "limits", "bleu_tokenize", "lowercase")
    measure = MeasureSettings(**{name: flags.pop(name) for name in names})
    return ScoreRun(checkpoint, measure=measure, significance=test, **flags)


def _report(scores: "Scores", output_format: str) -> None:
    from nmtprune.cli.score_tables import emit_scores
    from nmtprune.runs.results import tsv

    if output_format == "json":
        click.echo(scores.to_json(), nl=False)
    elif output_format == "tsv":
        click.echo(tsv(scores), nl=False)
    else:
        emit_scores(scores)
        click.echo(f"time {duration(scores.provenance['seconds'])}")
