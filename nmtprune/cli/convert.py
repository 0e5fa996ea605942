"""`nmtprune convert`: a model for another toolkit."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.options import (
    checkpoint_argument,
    compared_sentences_option,
    comparison_threads_option,
    force_option,
    format_option,
    say,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import Notes
from nmtprune.cli.render import emit_comparison, emit_json

if TYPE_CHECKING:
    from nmtprune.runs.convert import Converted, ConvertRun

TARGETS = ("fairseq", "marian", "huggingface")


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune convert model.npz folder --to huggingface --source dev.en",
    short_help="Write a full or slim model for another toolkit, and compare translations.",
)
@checkpoint_argument
@click.argument("output", type=click.Path(path_type=Path))
@panel_option(
    Panel.MODEL, "--to", type=click.Choice(TARGETS), required=True, help="Toolkit that the model is written for."
)
@data_options
@compared_sentences_option
@panel_option(
    Panel.MODEL,
    "--max-positions",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Longest sentence, in tokens, of the converted model, where it must have a limit and the model has none.",
)
@panel_option(
    Panel.MODEL,
    "--marian-positions",
    is_flag=True,
    help="Folders of MarianMTModel (OPUS-MT): take Marian's own sinusoids, with which these models were trained, for "
    "those of other rates that transformers computes. Translations may differ; the result shows how many.",
)
@comparison_threads_option
@force_option
@format_option
@verbosity_options
def convert(output_format: str, **flags: Any) -> None:
    """Write CHECKPOINT, full or slim, into the folder OUTPUT as a model of another toolkit.

    The folder has the model, its vocabularies and, as far as the toolkit has files for them, the settings of its
    search. A model is refused, with every reason, if the toolkit cannot compute the same: its norms, its positions,
    what stands before the first word. Token ids and greedy translations of both models are compared before the folder
    is put in place.
    """
    from nmtprune.runs.convert import ConvertRun
    from nmtprune.runs.convert import convert as run_convert

    run = ConvertRun(**flags)
    found = run_convert(run, Notes())
    _report(run, found, output_format)
    for note in found.notes:
        say(f"{run.output}: {note}")
    say(f"wrote {run.output}: inspect it with nmtprune inspect {found.model}")


def _report(run: "ConvertRun", found: "Converted", output_format: str) -> None:
    if output_format == "json":
        emit_json({"output": str(run.output), "to": run.to, **asdict(found), "model": str(found.model)})
        return
    figures: list[tuple[str, str | int | float | None]] = [
        ("model", str(found.model)),
        ("architecture", found.architecture),
        ("sentences compared", found.compared),
        ("sentences split into other tokens", found.split_otherwise),
        ("sentences translated otherwise", len(found.differences)),
        ("largest difference of scores", f"{found.largest_difference:.1e}"),
        ("sentences too long for it", found.left_out),
    ]
    differences = [f"sentence {each.sentence}: {each.before}\n  converted: {each.after}" for each in found.differences]
    emit_comparison(output_format, figures, differences)
