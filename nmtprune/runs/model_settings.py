"""What a checkpoint and the files beside it say of how it is to be run: the search of its toolkit, its vocabularies."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.model.search.options import Search


def search_of(checkpoint: Path | None, given: Mapping[str, Any]) -> "Search":
    """The search for a checkpoint, fairseq's or Marian's.

    Args:
        checkpoint: the file, which need not be there; None for models of fairseq that do not exist yet.
        given: options that the user gave, by the names of `SearchOptions` and `MarianSearchOptions`. What a user does
            not say of a Marian model is as the settings beside it say, and else Marian's default.

    Raises:
        UsageError: options of the other toolkit, or values that cannot be; all of them.
        CheckpointError: damaged settings beside a Marian model.
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
    if marian and checkpoint is not None:
        from nmtprune.formats.marian.decoder import DecoderSettings

        return MarianSearchOptions(**{**DecoderSettings.beside(checkpoint).search, **given})
    return SearchOptions(**given)


def vocabs_of(checkpoint: Path | None) -> tuple[Path, Path] | None:
    """Source and target vocabulary that the settings beside a Marian model name; None for other models.

    Raises:
        UsageError: a Marian model without them.
        CheckpointError: damaged settings.
    """
    from nmtprune.formats import is_marian

    if checkpoint is None or not is_marian(checkpoint):
        return None
    from nmtprune.formats.marian.decoder import ENDING, DecoderSettings

    found = DecoderSettings.beside(checkpoint).vocabs
    if found is None:
        beside = f"there is no {checkpoint.name}{ENDING} beside it that names them"
        raise UsageError(f"data: a Marian model: name its vocabularies with --vocabs A B ({beside})")
    return found
