"""Options of commands that measure a model's quality, and the settings that they become."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nmtprune.cli.panels import Panel, panel_option

if TYPE_CHECKING:
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.runs.run import MeasureSettings, QualitySettings

F = TypeVar("F", bound=Callable[..., Any])

_QUALITY = ("bleu_tokenize", "lowercase", "allow_bad_baseline", "allow_few_sentences")
_MEASURED = ("metric", "engine", "device", "threads", "search", "limits", *_QUALITY)

quality_option = panel_option(
    Panel.QUALITY,
    "--metric",
    type=click.Choice(["bleu", "chrf"]),
    default="bleu",
    show_default=True,
    help="Quality metric.",
)


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


def quality_settings(flags: dict[str, Any], metric: str) -> "QualitySettings":
    """How quality is computed: takes its options out of those of a command."""
    from nmtprune.runs.run import QualitySettings

    return QualitySettings(metric=metric, **{name: flags.pop(name) for name in _QUALITY})


def measure_settings(flags: dict[str, Any]) -> "MeasureSettings":
    """Settings of the measurement; removes their options from those of a command."""
    from nmtprune.runs.run import MeasureSettings

    return MeasureSettings(**{name: flags.pop(name) for name in _MEASURED})


def single_test(flags: dict[str, Any]) -> "SignificanceTest":
    """How a difference is tested where it is not one of many: takes its options out of those of a command.

    Raises:
        UsageError: values that no test can have.
    """
    from nmtprune.evaluate.significance import SignificanceTest

    given = {name: flags.pop(name) for name in ("alpha", "resamples", "seed") if name in flags}
    return SignificanceTest(**given, correction="none", threads=flags["threads"])
