"""`nmtprune functions`: what every attention head does."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    output_option,
    say,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import Notes, duration
from nmtprune.cli.render import emit_table
from nmtprune.cli.search_options import device_options

if TYPE_CHECKING:
    from nmtprune.runs.functions_file import FunctionsFile

_NONE = "none found"


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune functions checkpoint_best.pt --data-bin data-bin --subset valid --parses valid.en.conllu "
    "-o functions.json",
    short_help="Find heads that attend to neighbours, rare words, dependencies or alignments.",
)
@checkpoint_argument
@data_options
@output_option("Functions to write; a table (.tsv) and a picture (.png) are written next to them.")
@panel_option(
    Panel.SCORING,
    "--parses",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Dependency parses of the source (CoNLL-U, one sentence per sentence of DATA): find syntactic encoder heads. "
    "Words may be split in any way.",
)
@panel_option(
    Panel.SCORING,
    "--alignments",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Word alignments of source and reference (Pharaoh: lines of SOURCE-TARGET, such as '0-0 1-2', words between "
    "blanks counted from 0): find cross heads that align.",
)
@panel_option(
    Panel.SCORING,
    "--kinds",
    metavar="KINDS",
    help="Measure heads of these kinds only: encoder, decoder, cross, separated by commas. Default: all. The encoder "
    "alone needs no references.",
)
@device_options
@force_option
@format_option
@verbosity_options
def functions(checkpoint: Path, output_format: str, **flags: Any) -> None:
    """Find out what every attention head of CHECKPOINT does on DATA (Voita et al. 2019, section 5).

    positional: attends to a neighbour, by at least 90 % of its largest weights. rare: to the least frequent token, far
    more often than chance. syntactic: along a dependency, at least 10 points more often than the best fixed distance.
    alignment: to the aligned word, likewise. --protect of `nmtprune plan` and `nmtprune greedy` keeps such heads.
    """
    from nmtprune.runs.functions import FunctionsRun, functions_table
    from nmtprune.runs.functions import functions as run_functions

    run = FunctionsRun(checkpoint=checkpoint, **flags)
    found = run_functions(run, Notes())
    if output_format == "json":
        click.echo(found.to_json(), nl=False)
    elif output_format == "tsv":
        click.echo(functions_table(found), nl=False)
    else:
        _emit(found)
    say("wrote " + ", ".join(str(path) for path in run.outputs))


def _emit(found: "FunctionsFile") -> None:
    """The heads of each function, and their numbers by kind."""
    left_out = f" ({found.data['left_out']} left out)" if found.data["left_out"] else ""
    click.echo(
        f"{found.data['data']}: functions over {found.data['sentences']} sentences{left_out}, tokens counted in the "
        f"{found.frequencies}"
    )
    kinds = list(dict.fromkeys(head.id.group.kind for head in found.heads))
    names = [*found.measured, _NONE]
    counts = Counter((name, head.id.group.kind) for head in found.heads for name in head.functions or (_NONE,))
    emit_table(["function", *kinds], [[name, *(counts[name, kind] for kind in kinds)] for name in names])
    for name in found.measured:
        own = [head.head for head in found.heads if name in head.functions]
        if own:
            click.echo(f"{name}: {' '.join(own)}")
    click.echo(f"time {duration(found.provenance['seconds'])}")
