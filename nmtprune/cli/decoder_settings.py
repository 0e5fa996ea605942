"""What a checkpoint and the files next to it say of how it is to be run: search, vocabularies, subword models."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.cli.options import model_of, say
from nmtprune.cli.panels import Panel, panel_option
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.formats.settings_beside import DecoderSettings
    from nmtprune.model.search.options import Search

_READ = "nmtprune.decoder_settings"

decoder_config_option = panel_option(
    Panel.DATA,
    "--decoder-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    show_default="MODEL.decoder.yml, or else decoder.yml or config.yml in the same folder, if it names the model",
    help="Marian models: the decoder settings, as for marian-decoder -c (vocabularies, search, cropping).",
)


def decoder_settings(values: Mapping[str, Any]) -> "DecoderSettings | None":
    """Settings for the model among the values of a command's parameters; read once, with notes on unused settings.

    Raises:
        UsageError, CheckpointError: as for `settings_for_model`.
    """
    context = click.get_current_context()
    if _READ not in context.meta:
        settings = settings_for_model(model_of(values), context.params.get("decoder_config"))
        context.meta[_READ] = settings
        for note in settings.notes if settings else ():
            say(note)
    found: DecoderSettings | None = context.meta[_READ]
    return found


def settings_for_model(checkpoint: Path | None, named: Path | None = None) -> "DecoderSettings | None":
    """Settings of the toolkit's decoder for a checkpoint; None for models of a toolkit that has none.

    Args:
        checkpoint: the file, which need not be there; None for models that do not exist yet.
        named: settings file that the user names; without it the one beside the model, if there is one.

    Raises:
        UsageError: a file is named for a model that has no such settings.
        CheckpointError: damaged settings.
    """
    from nmtprune.formats import class_of

    own = None if checkpoint is None else class_of(checkpoint)
    if own is not None and not own.searches and takes_classifiers():
        own = None
    if named is not None and (own is None or not own.decoder_config):
        raise UsageError("--decoder-config goes with models of Marian: this is none")
    return None if own is None or checkpoint is None else own.decoder_settings(checkpoint, named)


def takes_classifiers() -> bool:
    """Whether the command that runs reads tables of texts and labels."""
    return "examples" in click.get_current_context().params


def search_of(checkpoint: Path | None, given: Mapping[str, Any], settings: "DecoderSettings | None" = None) -> "Search":
    """The search for a checkpoint: that of its toolkit.

    Args:
        checkpoint: the file, which need not be there; None for models of fairseq that do not exist yet.
        given: options that the user gave, by the names of the classes in `Search`. What a user does not say is as the
            settings say, and else the toolkit's default.
        settings: of the toolkit's decoder, where there are any.

    Raises:
        UsageError: options of the other toolkit, or values that cannot be; all of them.
    """
    from nmtprune.formats import class_of, classes

    own = class_of(checkpoint)
    if not own.searches and takes_classifiers():
        if given:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"search: {names}: {checkpoint} is a classifier, which searches nothing")
        own = class_of(None)
    # An option that several toolkits know is this one's.
    toolkits = {field.name: each.toolkit for each in (*classes(), own) for field in fields(each.search_options())}
    faults = [
        f"--{name.replace('_', '-')} goes with models of {toolkits[name]}: this is {own.a_model}"
        for name in given
        if toolkits[name] != own.toolkit
    ]
    if faults:
        raise UsageError.of_faults("search", faults)
    return own.search_options()(**{**(settings.search if settings else {}), **given})


def data_of(
    checkpoint: Path, settings: "DecoderSettings", given: Mapping[str, Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Data options as the user gave them, completed by the settings of a Marian model; and what to say of that.

    Args:
        checkpoint: the model.
        settings: of its decoder.
        given: values by the names of `DataOptions`.

    Raises:
        UsageError: neither the user nor the settings name vocabularies.
        DataError: the settings name vocabularies that are not there.
    """
    completed = {**given, "crop_source": settings.crop}
    if given.get("vocabs") is not None:
        return completed, ()
    completed["vocabs"] = settings.needed_vocabs(checkpoint)
    cuts = ("sentencepiece", "bpe_codes")
    own = (*cuts, "post_process", "tokenizer", *(f"{side}_{name}" for side in ("source", "target") for name in cuts))
    if any(given.get(name) is not None for name in own):
        return completed, ()
    found = [model for model in settings.subwords if model is not None]
    for side, model in zip(("source", "target"), settings.subwords, strict=True):
        kind = "bpe_codes" if model is not None and model.suffix == ".txt" else "sentencepiece"
        completed[f"{side}_{kind}"] = model
    files = " and ".join(dict.fromkeys(map(str, found)))
    return completed, (f"{settings.file}: text is split by {files} beside it",) if found else ()
