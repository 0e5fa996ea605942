"""What a folder says of how its model is to be run: the search, and the files that make tokens of text."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtprune.errors import CheckpointError, DataError
from nmtprune.formats.huggingface import config, generation, language_codes
from nmtprune.formats.huggingface.config import Config, single_id
from nmtprune.formats.huggingface.language_codes import FolderTokenizer
from nmtprune.formats.settings_beside import DecoderSettings
from nmtprune.strictjson import show

_SPECIAL = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
_VOCABULARY, _TARGET_VOCABULARY, _SUBWORDS = "vocab.json", "target_vocab.json", ("source.spm", "target.spm")


@dataclass(frozen=True)
class FolderSettings(DecoderSettings):
    """Settings of a folder.

    Attributes:
        missing: files of the tokenizer that are not there.
        unread: why the text of its tokenizer is not read; None where it is.
    """

    missing: tuple[str, ...] = ()
    unread: str | None = None

    def needed_vocabs(self, model: Path) -> tuple[Path, Path]:
        """The vocabularies of the folder.

        Raises:
            DataError: files of its tokenizer are not there, or nmtprune does not know it.
        """
        if self.unread is not None:
            raise DataError(f"{model}: {self.unread}")
        if self.vocabs is None or self.missing:
            raise DataError(
                f"{model}: has no {' and no '.join(self.missing)}, which turn text into tokens: copy them into the "
                "folder, or name `vocabs` A B and `source_sentencepiece` FILE"
            )
        return self.vocabs


def folder_settings(folder: Path, own: Config) -> FolderSettings:
    """Read the settings of a folder whose model has this configuration.

    Raises:
        CheckpointError: they cannot be read, or hold something else; all reasons.
    """
    path = folder / generation.FILE
    values: Mapping[str, Any] = {**own.family.search, **own.values}
    if path.is_file():
        values = language_codes.settings_in(path)
        faults = [
            f"{name} is {show(values[name])}, {config.FILE} says {own.settings[name]}"
            for name in _SPECIAL
            if single_id(values.get(name)) not in (None, own.settings[name])
        ]
        if faults:
            raise CheckpointError.of_faults(str(path), faults)
    else:
        path = folder / config.FILE
    tokenizer, eos = language_codes.tokenizer_of(folder, own), int(own.settings["eos_token_id"])
    search = generation.parse_search(values, eos, own.words[1], str(path), languages=tokenizer is not None)
    names, pieces, unread = _files(folder, tokenizer)
    there = [folder / name for name in names]
    subwords = [folder / name for name in pieces]
    missing = dict.fromkeys(path.name for path in (*there, *subwords) if not path.is_file())
    return FolderSettings(
        file=path,
        vocabs=(there[0], there[1]),
        search=search.search,
        subwords=(subwords[0], subwords[1]),
        notes=search.notes,
        missing=tuple(missing),
        unread=unread,
    )


def _files(folder: Path, tokenizer: FolderTokenizer | None) -> tuple[tuple[str, str], tuple[str, str], str | None]:
    """Names of the vocabularies and of the SentencePiece models of both sides, and why none of them is read."""
    if tokenizer is None:
        separate = language_codes.settings_in(folder / language_codes.CONFIG).get("separate_vocabs") is True
        return (_VOCABULARY, _TARGET_VOCABULARY if separate else _VOCABULARY), _SUBWORDS, None
    own = tokenizer.tokenizer
    if own is None:
        known = " and ".join(tokenizer.known)
        return (_VOCABULARY, _VOCABULARY), _SUBWORDS, f"the text of {tokenizer.name} is not read ({known} is)"
    return (own.vocabulary, own.vocabulary), (own.subwords, own.subwords), None
