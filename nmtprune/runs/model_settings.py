"""What a checkpoint and the files beside it say of how it is to be run: search, vocabularies, subword models."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import DataError, UsageError

if TYPE_CHECKING:
    from nmtprune.formats.marian.decoder import DecoderSettings
    from nmtprune.model.search.options import Search


def settings_of(checkpoint: Path | None, named: Path | None = None) -> "DecoderSettings | None":
    """Settings of Marian's decoder for a checkpoint; None for models that are not Marian's.

    Args:
        checkpoint: the file, which need not be there; None for models that do not exist yet.
        named: settings file that the user names; without it the one beside the model, if there is one.

    Raises:
        UsageError: a file is named for a model that is not Marian's.
        CheckpointError: damaged settings.
    """
    from nmtprune.formats import is_marian

    if checkpoint is None or not is_marian(checkpoint):
        if named is not None:
            raise UsageError("--decoder-config goes with models of Marian: this is none")
        return None
    from nmtprune.formats.marian.decoder import DecoderSettings

    return DecoderSettings.read(named, checkpoint) if named is not None else DecoderSettings.beside(checkpoint)


def search_of(checkpoint: Path | None, given: Mapping[str, Any], settings: "DecoderSettings | None" = None) -> "Search":
    """The search for a checkpoint, fairseq's or Marian's.

    Args:
        checkpoint: the file, which need not be there; None for models of fairseq that do not exist yet.
        given: options that the user gave, by the names of `SearchOptions` and `MarianSearchOptions`. What a user does
            not say of a Marian model is as its settings say, and else Marian's default.
        settings: of Marian's decoder, for its models.

    Raises:
        UsageError: options of the other toolkit, or values that cannot be; all of them.
    """
    from nmtprune.formats import is_marian
    from nmtprune.model.search.options import MarianSearchOptions, SearchOptions

    marian = checkpoint is not None and is_marian(checkpoint)
    known = {field.name for field in fields(MarianSearchOptions if marian else SearchOptions)}
    foreign = [name for name in given if name not in known]
    if foreign:
        toolkit, what = ("fairseq", "a Marian model") if marian else ("Marian", "a checkpoint of fairseq")
        options = (f"--{name.replace('_', '-')} goes with models of {toolkit}: this is {what}" for name in foreign)
        raise UsageError.of_faults("search", list(options))
    if marian:
        return MarianSearchOptions(**{**(settings.search if settings else {}), **given})
    return SearchOptions(**given)


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
    completed["vocabs"] = _vocabs_of(checkpoint, settings)
    cuts = ("sentencepiece", "bpe_codes")
    own = (*cuts, "post_process", "tokenizer", *(f"{side}_{name}" for side in ("source", "target") for name in cuts))
    if any(given.get(name) is not None for name in own):
        return completed, ()
    found = [model for model in settings.subwords if model is not None]
    for side, model in zip(("source", "target"), settings.subwords, strict=True):
        completed[f"{side}_sentencepiece"] = model
    return completed, (f"{settings.file}: text is split by {' and '.join(map(str, found))} beside it",) if found else ()


def _vocabs_of(checkpoint: Path, settings: "DecoderSettings") -> tuple[Path, Path]:
    from nmtprune.formats.marian.decoder import ENDING

    if settings.vocabs is None:
        beside = f"there is no {checkpoint.name}{ENDING} beside it that names them"
        where = beside if settings.file is None else f"{settings.file} names none"
        raise UsageError(f"data: a Marian model: name its vocabularies with --vocabs A B ({where})")
    for path in settings.vocabs:
        if not path.is_file():
            raise DataError(f"{path}: no such file ({settings.file} names it): name the vocabularies with --vocabs A B")
    return settings.vocabs
