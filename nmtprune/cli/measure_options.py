"""Options of commands that measure a model's quality, and the settings that they become."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.runs.measure import MeasureSettings
    from nmtprune.runs.quality import QualitySettings

F = TypeVar("F", bound=Callable[..., Any])

_QUALITY = ("bleu_tokenize", "lowercase", "allow_bad_baseline", "allow_few_sentences")
_MEASURED = ("metric", "engine", "device", "threads", "search", "limits", *_QUALITY)

quality_option = click.option(
    "--metric", type=click.Choice(["bleu", "chrf"]), default="bleu", show_default=True, help="Quality."
)


repeat_option = click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Rounds of timing, after one that is not counted.",
)


few_sentences_option = click.option(
    "--allow-few-sentences", is_flag=True, help="Test significance on fewer than 10 sentences too."
)


def bleu_options(command: F) -> F:
    """How sacrebleu counts (``bleu_tokenize``, ``lowercase``), and what comparisons may rest on (``allow_...``)."""
    tokenize = click.option(
        "--bleu-tokenize",
        show_default="as sacrebleu chooses for the target language",
        metavar="NAME",
        help="BLEU tokenizer of sacrebleu.",
    )
    lowercase = click.option("--lowercase", is_flag=True, help="BLEU and chrF ignore case.")
    baseline = click.option(
        "--allow-bad-baseline",
        is_flag=True,
        help="Go on where the baseline means nothing: BLEU below 1, chrF below 5, a loss worse than chance, most "
        "translations empty, copied from the source or cut off, or data in the reverse of the model's direction.",
    )
    decorated: F = tokenize(lowercase(baseline(few_sentences_option(command))))
    return decorated


def quality_settings(flags: dict[str, Any], metric: str) -> "QualitySettings":
    """How quality is computed: takes its options out of those of a command."""
    from nmtprune.runs.quality import QualitySettings

    return QualitySettings(metric=metric, **{name: flags.pop(name) for name in _QUALITY})


def measure_settings(flags: dict[str, Any]) -> "MeasureSettings":
    """What is measured, and how: takes its options out of those of a command."""
    from nmtprune.runs.measure import MeasureSettings

    return MeasureSettings(**{name: flags.pop(name) for name in _MEASURED})


def single_test(flags: dict[str, Any]) -> "SignificanceTest":
    """How a difference is tested where it is not one of many: takes its options out of those of a command.

    Raises:
        UsageError: values that no test can have.
    """
    from nmtprune.evaluate.significance import SignificanceTest

    given = {name: flags.pop(name) for name in ("alpha", "resamples", "seed") if name in flags}
    return SignificanceTest(**given, correction="none", threads=flags["threads"])
