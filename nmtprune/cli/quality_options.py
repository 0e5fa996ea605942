"""Options of commands that measure the quality of models."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from nmtprune.cli.options import model_of
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.data.options import DataOptions
from nmtprune.methods.scorer import CLASSIFIES
from nmtprune.runs.scorers import SCORERS

F = TypeVar("F", bound=Callable[..., Any])

ALLOWING = ("allow_bad_baseline", "allow_few_sentences")
"""Parameters that allow comparisons which are refused otherwise."""

quality_option = panel_option(
    Panel.QUALITY,
    "--metric",
    type=click.Choice(["bleu", "chrf"]),
    default="bleu",
    show_default=True,
    help="Quality metric.",
)

LABEL_METRICS = tuple(name for name, scorer in SCORERS.items() if scorer.measures == (CLASSIFIES,))
"""Metrics of classifiers: accuracy, f1 and matthews."""

any_quality_option = panel_option(
    Panel.QUALITY,
    "--metric",
    type=click.Choice(["bleu", "chrf", *LABEL_METRICS]),
    show_default="bleu; of classifiers accuracy",
    help="Quality metric; of classifiers accuracy, f1 (of label 1 of two, else the mean over labels) or matthews "
    "(Matthews' correlation).",
)


def metric_for(values: Mapping[str, Any]) -> str:
    """The metric that a user names, or else the usual one of the model.

    A table tells classifiers, and so do data of fairseq's task ``sentence_prediction`` and folders of transformers.

    Args:
        values: of a command's parameters.
    """
    from nmtprune.formats import class_of

    if values["metric"] is not None:
        return str(values["metric"])
    data = values["data"]
    labelled = isinstance(data, DataOptions) and data.names_labels
    return "bleu" if not labelled and class_of(model_of(values)).searches else LABEL_METRICS[0]


repeat_option = panel_option(
    Panel.ENGINE,
    "--repeat",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Timing rounds, after one warm-up round that is not counted.",
)


few_sentences_option = panel_option(
    Panel.SIGNIFICANCE,
    "--allow-few-sentences",
    is_flag=True,
    help="Allow significance tests on fewer than 10 sentences.",
)


def bleu_options(command: F) -> F:
    """How sacrebleu counts (``bleu_tokenize``, ``lowercase``), and which comparisons are allowed (``allow_...``)."""
    tokenize = panel_option(
        Panel.QUALITY,
        "--bleu-tokenize",
        show_default="chosen by sacrebleu for the target language",
        metavar="NAME",
        help="Tokenizer of sacrebleu for BLEU.",
    )
    lowercase = panel_option(Panel.QUALITY, "--lowercase", is_flag=True, help="Ignore case in BLEU and chrF.")
    baseline = panel_option(
        Panel.QUALITY,
        "--allow-bad-baseline",
        is_flag=True,
        help="Continue even if the baseline is meaningless: BLEU below 1, chrF below 5, a loss worse than chance, most "
        "translations empty, copied from the source or cut off, or data in the wrong translation direction.",
    )
    decorated: F = tokenize(lowercase(baseline(few_sentences_option(command))))
    return decorated
