"""`nmtprune attention`: what heads look at in the user's own sentences."""

from pathlib import Path
from typing import Any

import click

from nmtprune.cli.data_options import sentence_options
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    other_weights_option,
    output_option,
    say,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import Notes
from nmtprune.cli.search_options import beam_options, device_options


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune attention checkpoint_best.pt 'A dog runs.' --data-bin data-bin --sentencepiece spm.model "
    "--heads 'encoder.0 cross.5.0-3' --plan plan.json -o page.html",
    short_help="Draw the attention of heads on sentences, full and pruned side by side.",
)
@checkpoint_argument
@click.argument("sentences", nargs=-1, required=True, metavar="SENTENCE...")
@sentence_options
@panel_option(
    Panel.MODEL,
    "--heads",
    metavar="HEADS",
    help="Heads to draw, as for `nmtprune plan --remove`: 'encoder.0.3 cross.2.0-3,5', or 'encoder.4' for a whole "
    "layer. Default: all.",
)
@panel_option(
    Panel.MODEL,
    "-p",
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the attention without the heads, neurons and layers that this plan removes next to that of the full "
    "model.",
)
@other_weights_option
@beam_options
@device_options
@output_option("Page to write (HTML, one file that needs no network and no scripts).")
@force_option
@verbosity_options
def attention(checkpoint: Path, sentences: tuple[str, ...], **flags: Any) -> None:
    """Draw the attention weights of CHECKPOINT on each SENTENCE, with its own translation as decoder input.

    With --plan, the weights of the pruned model on the same translation stand next to those of the full model, and so
    do the translations of both.
    """
    from nmtprune.runs.attention_maps import AttentionRun
    from nmtprune.runs.attention_maps import attention as run_attention

    run = AttentionRun(checkpoint=checkpoint, sentences=sentences, engine="native", **flags)
    run_attention(run, Notes())
    say(f"wrote {run.output}")
