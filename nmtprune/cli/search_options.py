"""Options of searching and of what runs it, shared by every command that translates."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from nmtprune.cli.decoder_settings import decoder_settings
from nmtprune.cli.options import given, model_of, spelled

F = TypeVar("F", bound=Callable[..., Any])

ENGINES = ("native", "fairseq", "marian", "ctranslate2")

_BEAM = click.option(
    "--beam",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="5; Marian: as --decoder-config says, or 12",
    help="Hypotheses per sentence; 1 is greedy search.",
)
_FAIRSEQ = {
    "lenpen": (float, "1.0", "Scores are divided by LENGTH ** lenpen."),
    "max_len_a": (float, "0.0", "A translation has at most A * LENGTH OF ITS SOURCE + B tokens."),
    "max_len_b": (int, "200", "B of the same rule."),
    "min_len": (int, "1", "Tokens that a translation has at least, without the end-of-sentence symbol."),
    "unkpen": (float, "0.0", "Subtracted from the log-probability of unknown words."),
}
"""Name as in fairseq -> type, default, help; for models of fairseq."""

_MARIAN = {
    "normalize": (float, "0.0", "Marian models: scores are divided by LENGTH ** normalize."),
    "word_penalty": (float, "0.0", "Marian models: LENGTH times this is subtracted from scores."),
    "max_length_factor": (float, "3.0", "Marian models: a translation is cut off at X times the length of its source."),
}
"""The same as in Marian, for its models; the settings beside a model have other defaults."""

_FLAGS = {
    "unnormalized": "Do not divide scores by the length.",
    "allow_unk": "Marian models: the unknown word may be chosen.",
    "allow_special": "Marian models: control characters may be chosen.",
    "unnormalized_keys": "Pre-norm Marian models: search as Marian up to 1.12 does, which normalizes the decoder's own "
    "keys and values in training and scoring but not in search.",
    "fairseq_batch_length_limit": "With --max-len-a: limit translations by the longest source of their batch, as "
    "fairseq-generate does, and not by their own source. A translation then depends on what shares its batch.",
    "marian_batch_length_limit": "Marian models: limit translations by the longest source of their batch, as "
    "marian-decoder does, and not by their own source. A translation then depends on what shares its batch.",
}
SEARCH_NAMES = ("beam", *_FAIRSEQ, *_MARIAN, *_FLAGS)
"""Parameters that only a search takes."""

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
    help="native: nmtprune's own, fast. fairseq, marian: the toolkits themselves, as a reference; they need the extras "
    "of these names (marian: or a marian-decoder). ctranslate2: what `export` makes, with its own search (extra ct2).",
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
    """Beam search and batches: the command receives ``search``, a `Search`, and ``limits``, a `BatchLimits`."""

    @functools.wraps(command)
    def wrapper(*args: Any, max_tokens: int | None, batch_size: int | None, **values: Any) -> Any:
        from nmtprune.data.batching import BatchLimits

        return command(*args, **values, limits=BatchLimits.of(max_tokens, batch_size))

    decorated: F = beam_options(_add(wrapper, [_MAX_TOKENS, _BATCH_SIZE]))
    return decorated


def beam_options(command: F) -> F:
    """Beam search: the command receives ``search``, a `Search`."""

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        from nmtprune.runs.model_settings import search_of

        chosen = {name: values[name] for name in given(SEARCH_NAMES)}
        for name in SEARCH_NAMES:
            del values[name]
        return command(*args, **values, search=search_of(model_of(values), chosen, decoder_settings(values)))

    options = [
        click.option(spelled(name), type=kind, metavar="X", show_default=default, help=help_text)
        for name, (kind, default, help_text) in {**_FAIRSEQ, **_MARIAN}.items()
    ]
    flags = [click.option(spelled(name), is_flag=True, help=help_text) for name, help_text in _FLAGS.items()]
    decorated: F = _add(wrapper, [_BEAM, *options, *flags])
    return decorated


def engine_options(command: F) -> F:
    """What runs the model, and where: ``engine``, ``device`` and ``threads``."""
    decorated: F = _add(command, [_ENGINE, _DEVICE, _THREADS])
    return decorated


def _add(command: Callable[..., Any], options: list[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
