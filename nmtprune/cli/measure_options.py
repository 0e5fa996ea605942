"""Options of commands that measure a model's quality, and the settings that they become."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.runs.measure import MeasureSettings

F = TypeVar("F", bound=Callable[..., Any])

_MEASURED = ("metric", "engine", "device", "threads", "search", "limits", "bleu_tokenize", "lowercase")

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


def bleu_options(command: F) -> F:
    """How sacrebleu counts: ``bleu_tokenize`` and ``lowercase``."""
    tokenize = click.option(
        "--bleu-tokenize", default="13a", show_default=True, metavar="NAME", help="BLEU tokenizer of sacrebleu."
    )
    lowercase = click.option("--lowercase", is_flag=True, help="BLEU and chrF ignore case.")
    return tokenize(lowercase(command))


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

    given = {name: flags.pop(name) for name in ("alpha", "resamples", "seed")}
    return SignificanceTest(**given, correction="none", threads=flags["threads"])
