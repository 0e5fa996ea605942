"""Options of importance and confidence, shared by the commands that measure them."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from nmtprune.cli.panels import Panel, panel_option

F = TypeVar("F", bound=Callable[..., Any])

IMPORTANCE_NAMES = ("importance_unit", "importance_normalize", "importance_sentences", "label_smoothing")
CONFIDENCE_NAMES = ("confidence_on", "exclude_eos")


def meter_options(*, sentences: int | None) -> Callable[[F], F]:
    """The command receives ``meters``, a `MeterSettings`; `sentences` is the default number for importance."""
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
        panel_option(
            Panel.IMPORTANCE,
            "--importance-unit",
            type=click.Choice(["sentence", "token"]),
            default="sentence",
            show_default=True,
            help="Take the absolute value of one derivative per sentence (the formula in the paper), or of one per "
            "query token (the code of its authors).",
        ),
        panel_option(
            Panel.IMPORTANCE,
            "--importance-normalize",
            type=click.Choice(["layer", "none"]),
            default="layer",
            show_default=True,
            help="Divide importance by its l2 norm within each module (layer), or use it as it is (none).",
        ),
        panel_option(
            Panel.IMPORTANCE,
            "--importance-sentences",
            type=click.IntRange(min=1),
            default=sentences,
            show_default="all" if sentences is None else True,
            metavar="N",
            help="Measure importance on N sentences, chosen at random with --seed.",
        ),
        panel_option(
            Panel.IMPORTANCE,
            "--label-smoothing",
            type=float,
            metavar="X",
            show_default="the value in training",
            help="Label smoothing of the loss that is differentiated for importance.",
        ),
    ]


def _confidence() -> list[Callable[[Any], Any]]:
    return [
        panel_option(
            Panel.CONFIDENCE,
            "--confidence-on",
            type=click.Choice(["references", "translations"]),
            default="references",
            show_default=True,
            help="Measure confidence with the references or with the model's own translations as decoder input.",
        ),
        panel_option(
            Panel.CONFIDENCE,
            "--exclude-eos",
            is_flag=True,
            help="Leave out end-of-sentence positions when measuring confidence.",
        ),
    ]
