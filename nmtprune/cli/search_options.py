"""Options of the search and of the engine that runs it, shared by every command that translates."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from nmtprune.cli.decoder_settings import decoder_settings, search_of
from nmtprune.cli.options import given, model_of, spelled
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

ENGINES = ("native", "fairseq", "marian", "ctranslate2")
QUANTIZATIONS = (
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
)  # fmt: skip
"""How CTranslate2 can store weights and compute."""

_BEAM = panel_option(
    Panel.SEARCH,
    "--beam",
    type=click.IntRange(min=1),
    metavar="N",
    show_default="5; Marian models: the value in --decoder-config, else 12; Hugging Face models: the folder's, else 1",
    help="Beam size: hypotheses per sentence; 1 is greedy search.",
)
_FAIRSEQ = {
    "lenpen": (float, "1.0", "Divide scores by LENGTH ** X."),
    "max_len_a": (float, "0.0", "Limit a translation to X * SOURCE LENGTH + B tokens, with B from --max-len-b."),
    "max_len_b": (int, "200", "The B in the limit of --max-len-a."),
    "min_len": (int, "1", "Smallest number of tokens in a translation, without the end-of-sentence symbol."),
    "unkpen": (float, "0.0", "Subtract X from the log-probability of unknown words."),
}
"""Name as in fairseq -> type, default, help; for models of fairseq."""

_MARIAN = {
    "normalize": (float, "0.0", "Marian models: divide scores by LENGTH ** X."),
    "word_penalty": (float, "0.0", "Marian models: subtract X * LENGTH from scores."),
    "max_length_factor": (float, "3.0", "Marian models: cut off a translation at X times the length of its source."),
}
"""The same for Marian models, named as in Marian; the settings next to a model may set other defaults."""

_FLAGS = {
    "unnormalized": "Do not divide scores by the length.",
    "fairseq_batch_length_limit": "With --max-len-a: limit each translation by the longest source in its batch, as "
    "fairseq-generate does, instead of by its own source. A translation then depends on the other sentences of its "
    "batch.",
}
_MARIAN_FLAGS = {
    "allow_unk": "Marian models: allow unknown words in translations.",
    "allow_special": "Marian models: allow control symbols in translations.",
    "unnormalized_keys": "Pre-norm Marian models: search as Marian 1.12 and older do. They normalize the keys and "
    "values of decoder self-attention in training and scoring, but not in search.",
    "marian_batch_length_limit": "Marian models: limit each translation by the longest source in its batch, as "
    "marian-decoder does, instead of by its own source. A translation then depends on the other sentences of its "
    "batch.",
}
_GENERATE = {
    "length_penalty": (float, "the value in the folder, else 1.0",
                       "Hugging Face models: divide scores by LENGTH ** X."),
    "max_length": (int, "the value in the folder, else as many as the model has positions",
                   "Hugging Face models: largest number of tokens in a translation, with the start token and the "
                   "end-of-sentence symbol."),
    "min_length": (int, "the value in the folder, else 0", "Hugging Face models: likewise, the smallest number."),
}  # fmt: skip
"""The same for Hugging Face models, named as `generate` names them."""

_EARLY_STOPPING = panel_option(
    Panel.HUGGINGFACE_SEARCH,
    "--early-stopping",
    type=click.Choice(("true", "false", "never")),
    show_default="the value in the folder, else false",
    help="Hugging Face models: when the search of a sentence stops once its beam is full of finished translations. "
    "true: at once. false: when the best unfinished one scores no better. never: when it could not score better at the "
    "largest length either.",
)
_METAVARS = {float: "X", int: "N"}
SEARCH_NAMES = ("beam", *_FAIRSEQ, *_MARIAN, *_FLAGS, *_MARIAN_FLAGS, *_GENERATE, "early_stopping")
"""Parameters that only a search takes."""

_MAX_TOKENS = panel_option(
    Panel.ENGINE,
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Largest number of tokens in a batch, padding included. Default: 12000, unless --batch-size is given.",
)
_BATCH_SIZE = panel_option(
    Panel.ENGINE,
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Largest number of sentences in a batch.",
)
_ENGINE = panel_option(
    Panel.ENGINE,
    "--engine",
    type=click.Choice(ENGINES),
    default="native",
    show_default=True,
    help="Program that runs the model. native: nmtprune's own, fast. fairseq, marian: the toolkits themselves, as a "
    "reference; they need the extra of the same name (for marian, a marian-decoder on the PATH will do). "
    "ctranslate2: the result of `nmtprune export`, with the search of CTranslate2; needs the extra ct2.",
)
_DEVICE = panel_option(
    Panel.ENGINE,
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Device to compute on; auto uses a GPU if there is one. Under torchrun each process uses its own GPU.",
)
_THREADS = panel_option(
    Panel.ENGINE,
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="CPU threads. Default: as chosen by torch.",
)

compute_type_option = panel_option(
    Panel.ENGINE,
    "--compute-type",
    type=click.Choice(QUANTIZATIONS),
    default="float32",
    show_default=True,
    metavar="TYPE",
    help=f"With --engine ctranslate2: data type to store weights and compute in: {', '.join(QUANTIZATIONS)}.",
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
        chosen = {name: values[name] for name in given(SEARCH_NAMES)}
        for name in SEARCH_NAMES:
            del values[name]
        if "early_stopping" in chosen and values.get("engine") == "ctranslate2":
            raise UsageError("search: CTranslate2 has a rule of its own for full beams: leave --early-stopping out")
        return command(*args, **values, search=search_of(model_of(values), chosen, decoder_settings(values)))

    decorated: F = _add(
        wrapper,
        [
            _BEAM,
            *_search(Panel.SEARCH, _FAIRSEQ, _FLAGS),
            *_search(Panel.MARIAN_SEARCH, _MARIAN, _MARIAN_FLAGS),
            *_search(Panel.HUGGINGFACE_SEARCH, _GENERATE, {}),
            _EARLY_STOPPING,
        ],
    )
    return decorated


def _search(
    panel: Panel, values: Mapping[str, tuple[type, str, str]], flags: Mapping[str, str]
) -> list[Callable[[Any], Any]]:
    """The options of a panel: those with a value, then flags."""
    valued = [
        panel_option(panel, spelled(name), type=kind, metavar=_METAVARS[kind], show_default=default, help=help_text)
        for name, (kind, default, help_text) in values.items()
    ]
    return valued + [panel_option(panel, spelled(name), is_flag=True, help=text) for name, text in flags.items()]


def engine_options(command: F) -> F:
    """Which engine runs the model, and where: ``engine``, ``device`` and ``threads``."""
    decorated: F = _add(command, [_ENGINE, _DEVICE, _THREADS])
    return decorated


def device_options(command: F) -> F:
    """Where the native engine runs: ``device`` and ``threads``."""
    decorated: F = _add(command, [_DEVICE, _THREADS])
    return decorated


def _add(command: Callable[..., Any], options: list[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command
