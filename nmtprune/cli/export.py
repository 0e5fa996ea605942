"""`nmtprune export`: a model for CTranslate2."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.options import (
    checkpoint_argument,
    compared_sentences_option,
    comparison_threads_option,
    force_option,
    format_option,
    output_option,
    say,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import Notes
from nmtprune.cli.render import emit_comparison, emit_json
from nmtprune.cli.search_options import QUANTIZATIONS

if TYPE_CHECKING:
    from nmtprune.runs.export import Exported, ExportRun


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune export slim.pt --data-bin data-bin --to ctranslate2 --quantization int8 -o served",
    short_help="Write a full or slim model for CTranslate2, and compare translations.",
)
@checkpoint_argument
@panel_option(
    Panel.MODEL,
    "--to",
    "target",
    type=click.Choice(["ctranslate2"]),
    required=True,
    help="Toolkit that the model is written for.",
)
@output_option("Folder to write.")
@data_options
@panel_option(
    Panel.MODEL,
    "--quantization",
    type=click.Choice(QUANTIZATIONS),
    default="float32",
    show_default=True,
    metavar="TYPE",
    help=f"Data type of the stored weights: {', '.join(QUANTIZATIONS)}.",
)
@panel_option(
    Panel.MODEL,
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare greedy translations of the exported model with those of the native engine.",
)
@compared_sentences_option
@comparison_threads_option
@force_option
@format_option
@verbosity_options
def export(target: str, output_format: str, **flags: Any) -> None:
    """Write CHECKPOINT, full or slim, as a folder that CTranslate2 runs.

    CTranslate2 needs the same number of heads in all modules of the encoder, and in all modules of the decoder. Modules
    with fewer heads get zero heads, which cost time but do not change translations. Layers may have any number of
    neurons; those of which some were cut are filled up to a multiple of 8.
    """
    from nmtprune.runs.export import ExportRun
    from nmtprune.runs.export import export as run_export

    run = ExportRun(**flags)
    found = run_export(run, Notes())
    _report(run, found, output_format)
    say(f"wrote {run.output}")
    say(_how_to_run(run, found.tokens))


def _report(run: "ExportRun", found: "Exported", output_format: str) -> None:
    if output_format == "json":
        emit_json({"output": str(run.output), "quantization": run.quantization, **asdict(found)})
        return
    figures = [
        ("encoder heads per module", found.heads[0]),
        ("decoder heads per module", found.heads[1]),
        ("zero heads", found.padding),
        ("bytes of the checkpoint's tensors", found.model_bytes[0]),
        ("bytes of model.bin", found.model_bytes[1]),
        ("sentences compared", found.compared),
        ("sentences that differ", len(found.differences)),
    ]
    differences = [
        f"sentence {each.sentence} ({each.native_score:.4f}): {each.native}\n"
        f"  exported ({each.exported_score:.4f}): {each.exported}"
        for each in found.differences
    ]
    emit_comparison(output_format, figures, differences)


def _how_to_run(run: "ExportRun", given: Mapping[str, str]) -> str:
    """A line to copy, with the tokens that every sentence must be given."""
    model = run.data.subword_model("source")
    own = run.data.vocabs[0] if run.data.vocabs and run.data.splits_itself("source") else None
    pieces = own or (model[1] if model and model[0] == "sentencepiece" else None)
    tokens = f"list of pieces of {pieces}" if pieces else "list of subwords"
    unknown = ", disable_unk=True" if run.data.vocabs else ""
    prefix = f", target_prefix=[{given['target_front'].split()}]" if "target_front" in given else ""
    call = f"ctranslate2.Translator('{run.output}').translate_batch([TOKENS]{prefix}, beam_size=5{unknown})"
    front = f"{given['source_front']} and a " if "source_front" in given else "a "
    end = f", and {given['source_end']}" if "source_end" in given else " without the end-of-sentence symbol"
    return f"run it with {call}, where TOKENS is {front}{tokens}{end}"
