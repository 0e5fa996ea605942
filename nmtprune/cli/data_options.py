"""The options that name DATA and TEST DATA, shared by every command that reads sentences."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from nmtprune.cli.decoder_settings import data_of, decoder_config_option, decoder_settings
from nmtprune.cli.direction_options import directions_of
from nmtprune.cli.option_groups import PATH, PATH_OR_STDIN, REFERENCES, added
from nmtprune.cli.options import model_of, say
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.data.directions import Direction, Directions, Sets, in_direction
from nmtprune.data.options import DEFAULT_SUBSET, TRAINING_SUBSET, DataOptions
from nmtprune.data.subwords import POST_PROCESSES, TOKENIZERS
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

TRAINING_TEXT = ("importance_subset", "importance_source", "importance_reference", "importance_examples")
"""Parameters that only scorers use that are measured on training text, and refits."""

_FIELDS = tuple(field.name for field in fields(DataOptions))

_CALIBRATION_TEXT = ("calibration_source", "calibration_reference", "calibration_examples")

_DATA_BIN = panel_option(
    Panel.DATA,
    "--data-bin",
    type=PATH,
    metavar="DIR",
    help="Folder written by fairseq-preprocess: dictionaries and binarized subsets.",
)
_SUBSET = panel_option(
    Panel.DATA,
    "--subset",
    metavar="NAME[,NAME...]",
    show_default=DEFAULT_SUBSET,
    help="Binarized subset of --data-bin; several are joined.",
)
_SOURCE = panel_option(
    Panel.DATA,
    "--source",
    type=PATH_OR_STDIN,
    metavar="FILE",
    help="Raw text instead of a subset, one sentence per line; may be gzipped (.gz).",
)
_REFERENCE = panel_option(
    Panel.DATA,
    "--reference",
    type=REFERENCES,
    multiple=True,
    metavar="FILE",
    help="Raw reference translations, one per line. Repeat the option if sentences have several references; BLEU and "
    "chrF then use all of them, as sacrebleu does.",
)
_VOCABS = panel_option(
    Panel.DATA,
    "--vocabs",
    type=(click.Path(path_type=Path), click.Path(path_type=Path)),
    metavar="A B",
    show_default="those named in --decoder-config",
    help="Source and target vocabulary of a Marian model (.spm, .yml, .yaml, .json, or text with one symbol per "
    "line), with raw text instead of --data-bin.",
)
_LANGUAGES = (
    panel_option(
        Panel.DATA,
        "-s",
        "--source-lang",
        metavar="LANG",
        help="Source language, if it cannot be inferred from the data.",
    ),
    panel_option(
        Panel.DATA,
        "-t",
        "--target-lang",
        metavar="LANG",
        help="Target language, if it cannot be inferred from the data.",
    ),
)
_PREFIXES = (
    panel_option(
        Panel.DATA,
        "--source-prefix",
        metavar="TOKENS",
        help="Put these symbols of the dictionary, separated by blanks, in front of every source sentence, behind any "
        "subword splitting (<2de>, for example). Multilingual fairseq models whose task has language tokens need none: "
        "-s and -t choose them.",
    ),
    panel_option(
        Panel.DATA,
        "--target-prefix",
        metavar="TOKENS",
        help="Make every translation begin with these symbols of the dictionary. They are left out of its text, and "
        "losses do not count them.",
    ),
)
_SUBWORDS = (
    panel_option(
        Panel.TEXT, "--sentencepiece", type=PATH, metavar="MODEL", help="SentencePiece model for both languages."
    ),
    panel_option(
        Panel.TEXT,
        "--bpe-codes",
        type=PATH,
        metavar="FILE",
        help="BPE codes of subword-nmt or fastBPE for both languages.",
    ),
    panel_option(
        Panel.TEXT,
        "--source-sentencepiece",
        type=PATH,
        metavar="MODEL",
        help="SentencePiece model for the source language, if each language has its own.",
    ),
    panel_option(
        Panel.TEXT,
        "--target-sentencepiece",
        type=PATH,
        metavar="MODEL",
        help="SentencePiece model for the target language: splits references and joins translations.",
    ),
    panel_option(
        Panel.TEXT,
        "--source-bpe-codes",
        type=PATH,
        metavar="FILE",
        help="BPE codes for the source language, if each language has its own.",
    ),
    panel_option(
        Panel.TEXT,
        "--target-bpe-codes",
        type=PATH,
        metavar="FILE",
        help="BPE codes for the target language, if each language has its own.",
    ),
)
_TEXT = (
    panel_option(
        Panel.TEXT,
        "--post-process",
        type=click.Choice(POST_PROCESSES),
        metavar="METHOD",
        help=f"How to join subwords into words, as in fairseq: "
        f"{', '.join(dict.fromkeys(map(str.strip, POST_PROCESSES)))}. Default: inferred from the target's subword "
        f"model or from the symbols of the dictionary. With --source and no subword model, the text must already be "
        f"segmented.",
    ),
    panel_option(
        Panel.TEXT,
        "--tokenizer",
        type=click.Choice(TOKENIZERS),
        help="Tokenize raw source text and detokenize translations.",
    ),
    panel_option(
        Panel.TEXT,
        "--moses-no-dash-splits",
        is_flag=True,
        help="Make --tokenizer moses keep hyphenated words whole, as tokenizer.perl does without -a.",
    ),
    panel_option(
        Panel.TEXT,
        "--moses-no-escape",
        is_flag=True,
        help="Make --tokenizer moses write & < > ' \" [ ] | unescaped, as tokenizer.perl does with -no-escape.",
    ),
    panel_option(
        Panel.TEXT,
        "--lowercase-source",
        is_flag=True,
        help="Lower-case raw source text, for models trained on lower-cased text.",
    ),
)
_SKIP_INVALID = panel_option(
    Panel.DATA,
    "--skip-invalid-size-inputs-valid-test",
    "skip_invalid",
    is_flag=True,
    help="Leave out sentences that are longer than the model allows, instead of stopping with an error.",
)

_LOWERCASE_TARGET = panel_option(
    Panel.TEXT,
    "--lowercase-target",
    is_flag=True,
    help="Lower-case raw references where they are turned into token ids (losses, importance, confidence).",
)


def data_options(command: F) -> F:
    """DATA for commands that score: the command receives ``data``, a `DataOptions`."""
    options = (
        *(_DATA_BIN, _SUBSET, _SOURCE, _REFERENCE, _VOCABS, decoder_config_option),
        *(*_LANGUAGES, *_PREFIXES, *_SUBWORDS, *_TEXT, _SKIP_INVALID, _LOWERCASE_TARGET),
    )
    decorated: F = added(_collecting(command), options)
    return decorated


def translation_data_options(command: F) -> F:
    """DATA for commands that translate: no reference; text from standard input unless a file or a subset is named."""
    source = panel_option(
        Panel.DATA,
        "--source",
        type=PATH_OR_STDIN,
        metavar="FILE",
        show_default="standard input",
        help="Raw text, one sentence per line; may be gzipped (.gz); '-' is standard input.",
    )
    subset = panel_option(
        Panel.DATA, "--subset", metavar="NAME[,NAME...]", help="Binarized subset of --data-bin instead of raw text."
    )
    options = (
        *(_DATA_BIN, source, subset, _VOCABS, decoder_config_option),
        *(*_LANGUAGES, *_PREFIXES, *_SUBWORDS, *_TEXT, _SKIP_INVALID),
    )
    decorated: F = added(_collecting(command, default_source=STDIN), options)
    return decorated


def sentence_options(command: F) -> F:
    """DATA for a command whose sentences are arguments: what turns text into tokens and back."""
    options = (_DATA_BIN, _VOCABS, decoder_config_option, *_LANGUAGES, *_PREFIXES, *_SUBWORDS, *_TEXT)
    decorated: F = added(_collecting(command, default_source=STDIN), options)
    return decorated


def calibration_data_options(command: F) -> F:
    """DATA for commands that calibrate: the training set unless another subset or raw text is named."""

    @functools.wraps(command)
    def wrapper(*args: Any, data: Sets, **values: Any) -> Any:
        if isinstance(data, Directions):
            return command(*args, **values, data=data.with_data(lambda own: calibrating(own.data)))
        return command(*args, **values, data=calibrating(data))

    def calibrating(data: DataOptions) -> DataOptions:
        if data.source is not None or data.examples is not None:
            return data
        return replace(data.training_text(data.subset or TRAINING_SUBSET), reference=data.reference)

    subset = panel_option(
        Panel.DATA,
        "--subset",
        metavar="NAME[,NAME...]",
        show_default=TRAINING_SUBSET,
        help="Binarized subset of --data-bin; several are joined. Sentences longer than the model allows are left out.",
    )
    options = (
        *(_DATA_BIN, subset, _SOURCE, _REFERENCE, _VOCABS, decoder_config_option),
        *(*_LANGUAGES, *_PREFIXES, *_SUBWORDS, *_TEXT, _SKIP_INVALID, _LOWERCASE_TARGET),
    )
    decorated: F = added(_collecting(wrapper), options)
    return decorated


def with_importance_data(command: F) -> F:
    """Sentences for importance in addition to DATA: the command receives ``importance_data`` too, a `DataOptions`.

    Stands below `data_options` in the list of decorators.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        named = {name.removeprefix("importance_"): values.pop(name, None) for name in TRAINING_TEXT}

        def of(direction: Direction) -> DataOptions:
            return _importance_data_of(direction.data, **{**named, **direction.entry.importance})

        data = values["data"]
        if isinstance(data, Directions):
            found: Sets = data.with_data(of)
        else:
            found = _importance_data_of(data, **named)
        return command(*args, **values, importance_data=found)

    options = (
        panel_option(
            Panel.IMPORTANCE,
            "--importance-subset",
            metavar="NAME",
            show_default=TRAINING_SUBSET,
            help="Binarized subset of --data-bin on which importance is measured.",
        ),
        panel_option(
            Panel.IMPORTANCE,
            "--importance-source",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Raw text on which importance is measured, instead of a subset.",
        ),
        panel_option(
            Panel.IMPORTANCE,
            "--importance-reference",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Reference translations of --importance-source.",
        ),
    )
    decorated: F = added(wrapper, options)
    return decorated


def with_calibration_data(command: F) -> F:
    """Text to refit on other than DATA: the command receives ``calibration_data`` too, a `DataOptions` or None.

    Stands below the options of DATA in the list of decorators.
    """

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        named = {name.removeprefix("calibration_"): values.pop(name, None) for name in _CALIBRATION_TEXT}
        data = values["data"]
        found: Sets | None
        if isinstance(data, Directions):
            found = _calibration_of_each(data, named)
        else:
            found = _calibration_data_of(data, **named)
        return command(*args, **values, calibration_data=found)

    options = (
        panel_option(
            Panel.CALIBRATION,
            "--calibration-source",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Fit on this raw text, one sentence per line, instead of DATA or the training set. Its target side is "
            "--calibration-reference, or else the unpruned model's own translations.",
        ),
        panel_option(
            Panel.CALIBRATION,
            "--calibration-reference",
            type=PATH_OR_STDIN,
            metavar="FILE",
            help="Reference translations of --calibration-source.",
        ),
    )
    decorated: F = added(wrapper, options)
    return decorated


def _calibration_of_each(data: Directions, named: Mapping[str, Any]) -> Directions | None:
    """Text of every direction to refit on other than DATA; None where no direction names any.

    Raises:
        UsageError: some directions name one, and others do not.
    """
    texts = {}
    for own in data.each:
        with in_direction(own.name):
            texts[own.name] = _calibration_data_of(own.data, **{**named, **own.entry.calibration})
    without = [name for name, text in texts.items() if text is None]
    if len(without) == len(texts):
        return None
    if without:
        raise UsageError(f"{data.file}: no calibration-source for {', '.join(without)}: name one for every direction")
    return data.with_data(lambda own: texts[own.name] or own.data)


def _calibration_data_of(
    data: DataOptions, source: Path | None, reference: Path | None, examples: Path | None
) -> DataOptions | None:
    """Raw text with the vocabularies of DATA, less long sentences, or a table of texts with the columns of DATA."""
    if examples is not None and source is not None:
        raise UsageError("calibration: give --calibration-source or --calibration-examples, not both")
    if examples is not None:
        return _table_of(data, examples, None)
    if source is None and reference is not None:
        raise UsageError("calibration: --calibration-reference needs --calibration-source FILE")
    if source is None:
        return None
    references = () if reference is None else (reference,)
    return replace(data, subset=None, source=source, reference=references, join_shards=False, skip_invalid=True)


def _table_of(data: DataOptions, examples: Path, label_column: str | None) -> DataOptions:
    """A table of texts like that of DATA, less long texts."""
    return replace(data, subset=None, examples=examples, label_column=label_column, skip_invalid=True)


def _importance_data_of(
    data: DataOptions, subset: str | None, source: Path | None, reference: Path | None, examples: Path | None
) -> DataOptions:
    """A subset of the folder (all shards of a training set, as fairseq joins them), raw text or a table.

    Long sentences are left out.
    """
    named = {"--importance-subset": subset, "--importance-source": source, "--importance-examples": examples}
    several = [option for option, value in named.items() if value is not None]
    if len(several) > 1:
        raise UsageError(f"importance: give {' or '.join(several)}, not both")
    if examples is not None:
        return _table_of(data, examples, data.label_column)
    if (source is None) != (reference is None):
        raise UsageError("importance: --importance-source FILE and --importance-reference FILE go together")
    if source is not None and reference is not None:
        return replace(data, subset=None, source=source, reference=(reference,), skip_invalid=True)
    if data.vocabs is not None and subset is not None:
        raise UsageError("importance: --importance-subset names binarized data and needs --data-bin DIR")
    if data.vocabs is not None or (data.examples is not None and subset is None):
        return data  # a Marian model, or a table, has no training set at hand: the sentences of DATA
    if data.data_bin is None:
        raise UsageError("importance: --importance-subset and --importance-source need --data-bin DIR")
    return data.training_text(subset or TRAINING_SUBSET)


def _collecting(command: F, default_source: Path | None = None) -> Callable[..., Any]:
    """The command behind a function that turns the values of the options into ``data``."""

    @functools.wraps(command)
    def wrapper(*args: Any, **values: Any) -> Any:
        given = {name: values.pop(name) for name in _FIELDS if name in values}
        file = values.pop("directions", None)
        values.pop("decoder_config")
        if given.get("source") is None and given.get("subset") is None:
            given["source"] = default_source
        if (values.get("synthetic") or values.get("cost_table")) and not (any(given.values()) or file):
            return command(*args, **values, data=None)
        checkpoint, settings = model_of(values), decoder_settings(values)

        def completed(own: dict[str, Any]) -> DataOptions:
            if checkpoint is None or settings is None or own["data_bin"] is not None:
                return DataOptions(**own)
            own, notes = data_of(checkpoint, settings, own)
            for note in notes:
                if note not in said:
                    say(note)
            said.update(notes)
            return DataOptions(**own)

        said: set[str] = set()
        if file is None:
            return command(*args, **values, data=completed(given))
        return command(*args, **values, data=directions_of(file, given, completed))

    return wrapper
