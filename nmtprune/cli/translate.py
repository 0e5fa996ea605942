"""`nmtprune translate`: sentences in, translations out."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.data_options import translation_data_options
from nmtprune.cli.options import checkpoint_argument, other_weights_option, verbosity_options
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import Notes
from nmtprune.cli.search_options import engine_options, search_options

if TYPE_CHECKING:
    from nmtprune.runs.translate import Translation


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune translate slim.pt --data-bin data-bin --sentencepiece spm.model < text.en > text.de",
    short_help="Translate with a full or slim checkpoint, or with a plan applied on the fly.",
)
@checkpoint_argument
@translation_data_options
@panel_option(
    Panel.MODEL,
    "-p",
    "--plan",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Mask the heads and neurons that this plan removes, and skip its layers; the translations equal those of the "
    "slim checkpoint.",
)
@other_weights_option
@search_options
@panel_option(
    Panel.OUTPUT,
    "--n-best",
    type=click.IntRange(min=1),
    metavar="N",
    help="Print N translations per sentence, best first. Each line begins with the number of the sentence, counted "
    "from 0, and a tab.",
)
@panel_option(
    Panel.OUTPUT,
    "--scores",
    "with_scores",
    is_flag=True,
    help="Print the score and a tab before each translation: log-probability (natural logarithm) / LENGTH ** lenpen.",
)
@panel_option(
    Panel.ENGINE,
    "--buffer-size",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="Number of sentences that are read, sorted by length and translated together; with 1, each line is answered "
    "at once.",
)
@engine_options
@verbosity_options
def translate(checkpoint: Path, with_scores: bool, n_best: int | None, **flags: Any) -> None:
    """Translate standard input, a file or a subset with CHECKPOINT, one translation per line in the order of the input.

    Sentences that are left out (--skip-invalid-size-inputs-valid-test) give empty lines; stderr says how many.
    """
    from nmtprune.runs.translate import TranslateRun
    from nmtprune.runs.translate import translate as run_translate

    run = TranslateRun(checkpoint=checkpoint, n_best=n_best or 1, **flags)
    stream = sys.stdout.buffer
    for number, translations in enumerate(run_translate(run, Notes())):
        for line in _lines(translations, None if n_best is None else number, with_scores):
            stream.write(line.encode("utf-8", "surrogateescape") + b"\n")
        stream.flush()


def _lines(translations: "tuple[Translation, ...]", number: int | None, with_scores: bool) -> Iterator[str]:
    """Lines of one sentence; an empty one where there is no translation, so that lines stay parallel."""
    if not translations:
        yield "" if number is None else f"{number}\t"
    for translation in translations:
        fields = [] if number is None else [str(number)]
        if with_scores:
            fields.append(f"{translation.score:.6f}")
        yield "\t".join([*fields, translation.text])
