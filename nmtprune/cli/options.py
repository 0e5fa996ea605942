"""Options that several commands share, each defined once."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from nmtprune.cli.panels import Panel, panel_option
from nmtprune.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

_VERBOSITY = "nmtprune.verbosity"
SETTINGS = frozenset((
    "allow_special", "allow_unk", "beam", "bleu_tokenize", "bpe_codes", "data_bin", "drop_optimizer",
    "early_stopping", "engine", "examples", "exclude_eos",
    "fairseq_batch_length_limit", "force", "label_smoothing", "length_penalty",
    "gpt2_encoder_json", "gpt2_vocab_bpe", "label_column",
    "lenpen", "lowercase_source", "lowercase_target", "marian_batch_length_limit", "marian_positions",
    "max_len_a", "max_len_b", "max_length", "max_length_factor", "max_tokens", "metric", "min_len", "min_length",
    "mode", "moses_no_dash_splits", "moses_no_escape", "normalize", "other_weights", "post_process", "reference",
    "resamples", "sentencepiece", "skip_invalid", "source", "source_bpe_codes", "source_lang", "source_prefix",
    "source_sentencepiece", "subset", "target_bpe_codes", "target_lang", "target_prefix", "target_sentencepiece",
    "text_column", "tokenizer", "truncate", "unkpen", "unnormalized", "unnormalized_keys", "vocabs", "word_penalty",
))  # fmt: skip
"""Settings that messages of the library name, in backticks: parameters of commands."""

_SETTING = re.compile(r"`(\w+)`")
_OTHER_SPELLINGS = {"skip_invalid": "--skip-invalid-size-inputs-valid-test"}
_GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)


def verbosity() -> int:
    """-1 after -q, 1 after -v, else 0, for the command that runs."""
    context = click.get_current_context(silent=True)
    level: int = context.meta.get(_VERBOSITY, 0) if context else 0
    return level


def _set_verbosity(level: int) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value:
            context.meta[_VERBOSITY] = level

    return callback


def verbosity_options(command: F) -> F:
    """-q and -v; read them with `verbosity`."""
    quiet = panel_option(
        Panel.GENERAL,
        "-q",
        "--quiet",
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity(-1),
        help="Print only results and errors.",
    )
    verbose = panel_option(
        Panel.GENERAL,
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_set_verbosity(1),
        help="Print more detail, and tracebacks of errors.",
    )
    return quiet(verbose(command))


checkpoint_argument = click.argument("checkpoint", type=click.Path(path_type=Path))

format_option = panel_option(
    Panel.OUTPUT,
    "--format",
    "output_format",
    type=click.Choice(["text", "json", "tsv"]),
    default="text",
    show_default=True,
    help="Format of the result on stdout; json and tsv keep full precision.",
)

resume_option = panel_option(
    Panel.OUTPUT, "--resume", is_flag=True, help="Continue an interrupted run that had the same settings."
)

force_option = panel_option(Panel.OUTPUT, "--force", is_flag=True, help="Replace the output if it exists.")

seed_option = panel_option(
    Panel.GENERAL, "--seed", type=click.IntRange(min=0), default=1, show_default=True, metavar="N", help="Random seed."
)


def resamples_value(_context: click.Context, _parameter: click.Parameter, value: str) -> str | int:
    """``auto`` or a whole number above 0."""
    if value == "auto":
        return value
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"'{value}' is neither auto nor a whole number above 0.")
    return int(value)


resamples_option = panel_option(
    Panel.SIGNIFICANCE,
    "--resamples",
    callback=resamples_value,
    default="auto",
    show_default=True,
    metavar="auto|N",
    help="Number of bootstrap resamples; auto: 10000, or more if alpha requires more.",
)


def significance_options(command: F) -> F:
    """How single differences are tested: ``resamples`` and ``alpha``."""
    alpha = panel_option(
        Panel.SIGNIFICANCE,
        "--alpha",
        type=float,
        default=0.01,
        show_default=True,
        metavar="X",
        help="Significance level.",
    )
    return resamples_option(alpha(command))


min_heads_option = panel_option(
    Panel.REMOVAL,
    "--min-heads-per-module",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Keep at least N heads in every module.",
)


calibration_sentences_option = panel_option(
    Panel.CALIBRATION,
    "--calibration-sentences",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    metavar="N",
    help="Fit on N sentences of the calibration text, drawn with --seed.",
)


compared_sentences_option = panel_option(
    Panel.MODEL,
    "--sentences",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    metavar="N",
    help="Number of sentences to compare: the first ones of --source or --subset, or else random words.",
)


comparison_threads_option = panel_option(
    Panel.ENGINE, "--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads for the comparison."
)


uniform_option = panel_option(
    Panel.REMOVAL,
    "--uniform",
    is_flag=True,
    help="Keep the same number of heads, at least one, in all layers of a stack (the encoder; the decoder, self- and "
    "cross-attention together), and of neurons. A percentage then means the nearest possible number.",
)


multiple_of_option = panel_option(
    Panel.OTHERS,
    "--multiple-of",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Keep a multiple of N neurons in every feed-forward layer, at least N.",
)


other_weights_option = panel_option(
    Panel.MODEL,
    "--other-weights",
    is_flag=True,
    help="Accept a plan made for a model of the same shape with other weights.",
)


protect_option = panel_option(
    Panel.REMOVAL,
    "--protect",
    metavar="FILE:FUNCTIONS",
    help="Keep all heads that have one of these functions in a file of `nmtprune functions`, such as "
    "functions.json:positional,alignment, whatever else removes heads.",
)


def output_option(help_text: str) -> Callable[[F], F]:
    """-o/--output PATH, required."""
    return panel_option(
        Panel.OUTPUT,
        "-o",
        "--output",
        type=click.Path(path_type=Path, allow_dash=True),
        required=True,
        help=help_text,
    )


def say(message: str) -> None:
    """Print a line for people on stderr, unless -q is given; settings in it are spelled as options."""
    if verbosity() >= 0:
        click.echo(in_options(message), err=True)


def spelled(name: str) -> str:
    """The option of a parameter."""
    return _OTHER_SPELLINGS.get(name, "--" + name.replace("_", "-"))


def in_options(message: str) -> str:
    """A message of the library, which names settings as Python does (`max_tokens`), with the options of commands."""
    return _SETTING.sub(lambda match: spelled(match[1]) if match[1] in SETTINGS else match[0], message)


def given(names: Iterable[str]) -> list[str]:
    """The parameters, of those named, that the user gave on the command line or in the environment."""
    context = click.get_current_context()
    return [name for name in names if context.get_parameter_source(name) in _GIVEN]


def typed(names: Iterable[str]) -> list[str]:
    """The options of the parameters, of those named, that the user gave on the command line.

    What stands in the environment is meant for many commands, of which some have no use for it.
    """
    context = click.get_current_context()
    return [spelled(name) for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]


def refuse(faults: Iterable[str]) -> None:
    """Raise one UsageError for all faults, if there are any."""
    listed = list(faults)
    if listed:
        raise UsageError("; ".join(listed), listed)


def model_of(values: Mapping[str, Any]) -> Path | None:
    """The checkpoint that settings are taken from: the baseline or the first of several; None where there is none."""
    checkpoints = values.get("checkpoints") or (values.get("baseline") or values.get("checkpoint"),)
    return None if checkpoints[0] is None else Path(checkpoints[0])
