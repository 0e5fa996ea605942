"""The options that name tables of texts and labels, for commands that take classifiers."""

from collections.abc import Callable
from typing import Any, TypeVar

from nmtprune.cli.option_groups import PATH, PATH_OR_STDIN, added
from nmtprune.cli.panels import Panel, panel_option

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    panel_option(
        Panel.EXAMPLES,
        "--examples",
        type=PATH_OR_STDIN,
        metavar="FILE",
        help="Table of texts and labels: tab-separated, names of columns first, no quoting; may be gzipped (.gz); "
        "'-' is standard input.",
    ),
    panel_option(
        Panel.EXAMPLES,
        "--text-column",
        metavar="NAME[,NAME]",
        help="Column of the texts; two columns if the model reads pairs of texts.",
    ),
    panel_option(
        Panel.EXAMPLES,
        "--label-column",
        metavar="NAME",
        help="Column of the labels, written as the names of the model's labels or as their numbers.",
    ),
    panel_option(
        Panel.EXAMPLES,
        "--gpt2-encoder-json",
        type=PATH,
        metavar="FILE",
        help="encoder.json of GPT-2, which splits the texts for a fairseq model.",
    ),
    panel_option(Panel.EXAMPLES, "--gpt2-vocab-bpe", type=PATH, metavar="FILE", help="vocab.bpe of GPT-2, likewise."),
    panel_option(
        Panel.EXAMPLES,
        "--truncate",
        is_flag=True,
        help="Cut texts to the positions of the model: as transformers does with truncation=True, or as fairseq does "
        "with --shorten-method truncate.",
    ),
)


def example_options(command: F) -> F:
    """DATA of classifiers in addition to that of translation models; goes with `data_options`, which collects both."""
    decorated: F = added(command, _OPTIONS)
    return decorated


importance_examples_option = panel_option(
    Panel.IMPORTANCE,
    "--importance-examples",
    type=PATH_OR_STDIN,
    metavar="FILE",
    show_default="--examples",
    help="Table of texts and labels, with the columns of --examples, on which importance of a classifier is measured.",
)
calibration_examples_option = panel_option(
    Panel.CALIBRATION,
    "--calibration-examples",
    type=PATH_OR_STDIN,
    metavar="FILE",
    help="Refit a classifier on the texts of this table, with the columns of --examples; labels are not read.",
)
