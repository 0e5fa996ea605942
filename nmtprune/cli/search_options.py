"""Options of searching and of what runs it, shared by every command that translates."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

ENGINES = ("native", "fairseq")

_SEARCH = {
    "beam": (click.IntRange(min=1), 5, "Hypotheses per sentence; 1 is greedy search."),
    "lenpen": (float, 1.0, "Scores are divided by LENGTH ** lenpen."),
    "max_len_a": (float, 0.0, "A translation has at most A * SOURCE LENGTH + B tokens."),
    "max_len_b": (int, 200, "B of the same rule."),
    "min_len": (int, 1, "Tokens that a translation has at least, without the end-of-sentence symbol."),
    "unkpen": (float, 0.0, "Subtracted from the log-probability of unknown words."),
}
"""Name as in fairseq -> type, default, help."""

SEARCH_NAMES = (*_SEARCH, "unnormalized")
"""Parameters that only a search takes."""

_UNNORMALIZED = click.option("--unnormalized", is_flag=True, help="Do not divide scores by the length.")
_MAX_TOKENS = click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Tokens per batch, padding included. Default: 12000, unless --batch-size is given.",
)
_BATCH_SIZE = click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Sentences per batch.")
_ENGINE = click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default="native",
    show_default=True,
    help="native: nmtprune's own, fast. fairseq: stock fairseq, as a reference; needs the extra fairseq.",
)
_DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Where to compute; auto takes a GPU if there is one. Under torchrun every process takes its own.",
)
_THREADS = click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads. Default: as many as torch takes."
)


def search_options(command: F) -> F:
    """Beam search and batches: the command receives ``search``, a `SearchOptions`, and ``limits``, a `BatchLimits`."""

    @functools.wraps(command)
    def wrapper(*args: Any, max_tokens: int | None, batch_size: int | None, unnormalized: bool, **values: Any) -> Any:
        from nmtprune.data.batching import BatchLimits
        from nmtprune.model.search.options import SearchOptions

        given = {name: values.pop(name) for name in _SEARCH}
        search = SearchOptions(**given, unnormalized=unnormalized)
        return command(*args, **values, search=search, limits=BatchLimits.of(max_tokens, batch_size))

    options = [
        click.option(f"--{name.replace('_', '-')}", type=kind, default=default, show_default=True, help=help_text)
        for name, (kind, default, help_text) in _SEARCH.items()
    ]
    decorated: F = _add(wrapper, [*options, _UNNORMALIZED, _MAX_TOKENS, _BATCH_SIZE])
    return decorated


def engine_options(command: F) -> F:
    """What runs the model, and where: ``engine``, ``device`` and ``threads``."""
    decorated: F = _add(command, [_ENGINE, _DEVICE, _THREADS])
    return decorated


def _add(command: Callable[..., Any], options: list[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
