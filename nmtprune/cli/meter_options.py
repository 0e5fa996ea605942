"""Options of importance and confidence, shared by the commands that measure them."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

IMPORTANCE_NAMES = ("importance_unit", "importance_normalize", "importance_sentences", "label_smoothing")
CONFIDENCE_NAMES = ("confidence_on", "exclude_eos")


def meter_options(*, sentences: int | None) -> Callable[[F], F]:
    """The command receives ``meters``, a `MeterSettings`; `sentences` is how many importance takes by default."""
    names = (*IMPORTANCE_NAMES, *CONFIDENCE_NAMES)

    def decorate(command: F) -> F:
        return _collecting(command, names, [*_importance(sentences), *_confidence()])

    return decorate


def confidence_options(command: F) -> F:
    """The command receives ``meters``, a `MeterSettings` for confidence."""
    return _collecting(command, CONFIDENCE_NAMES, _confidence())


def _collecting(command: F, names: Iterable[str], options: list[Callable[[Any], Any]]) -> F:
    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        from nmtprune.runs.meters import MeterSettings

        given = {name: values.pop(name) for name in names}
        return command(*args, **values, meters=MeterSettings(**given))

    decorated: Any = wrapper
    for option in reversed(options):
        decorated = option(decorated)
    result: F = decorated
    return result


def _importance(sentences: int | None) -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--importance-unit",
            type=click.Choice(["sentence", "token"]),
            default="sentence",
            show_default=True,
            help="What the absolute value is taken of: a derivative per sentence (the paper's formula), or one per "
            "query token (its authors' code).",
        ),
        click.option(
            "--importance-normalize",
            type=click.Choice(["layer", "none"]),
            default="layer",
            show_default=True,
            help="Divide importance by its l2 norm per module, or not.",
        ),
        click.option(
            "--importance-sentences",
            type=click.IntRange(min=1),
            default=sentences,
            show_default="all" if sentences is None else True,
            metavar="N",
            help="Measure importance on N sentences, drawn with --seed.",
        ),
        click.option(
            "--label-smoothing",
            type=float,
            metavar="X",
            show_default="as the checkpoint was trained",
            help="Of the loss whose derivatives importance is.",
        ),
    ]


def _confidence() -> list[Callable[[Any], Any]]:
    return [
        click.option(
            "--confidence-on",
            type=click.Choice(["references", "translations"]),
            default="references",
            show_default=True,
            help="What confidence feeds to the decoder.",
        ),
        click.option("--exclude-eos", is_flag=True, help="Confidence leaves out end-of-sentence positions."),
    ]
