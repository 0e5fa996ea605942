"""What a folder says of how its model is to be run: the search, and the files that make tokens of text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmtprune.errors import CheckpointError, DataError
from nmtprune.formats.huggingface import folder_config, generation, language_codes
from nmtprune.formats.huggingface.config import Config
from nmtprune.formats.huggingface.generation import FolderSearch
from nmtprune.formats.huggingface.language_codes import FolderTokenizer
from nmtprune.formats.settings_beside import DecoderSettings
from nmtprune.strictjson import show

_SHOWN = 5
_SPECIAL = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
_VOCABULARY, _TARGET_VOCABULARY, _SUBWORDS = "vocab.json", "target_vocab.json", ("source.spm", "target.spm")
_TWO_VOCABULARIES, _MERGES = ("vocab-src.json", "vocab-tgt.json"), "merges.txt"


@dataclass(frozen=True)
class FolderSettings(DecoderSettings):
    """Settings of a folder.

    Attributes:
        missing: files of the tokenizer that are not there.
        unread: why the text of its tokenizer is not read; None where it is.
    """

    missing: tuple[str, ...] = ()
    unread: str | None = None

    @property
    def _option(self) -> str:
        """The option that names what splits text for such a model."""
        return "bpe_codes" if _MERGES in [path.name for path in self.subwords if path] else "sentencepiece"

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
                f"folder, or name `vocabs` A B and `source_{self._option}` FILE"
            )
        return self.vocabs


def folder_settings(folder: Path, own: Config) -> FolderSettings:
    """Read the settings of a folder whose model has this configuration.

    Raises:
        CheckpointError: they cannot be read, or hold something else; all reasons.
    """
    path, search = folder_search(folder, own)
    tokenizer = language_codes.tokenizer_of(folder, own)
    names, pieces, unread = _fsmt_files(folder, own) if own.family.two_vocabularies else _files(folder, tokenizer)
    there = [folder / name for name in names]
    subwords = [folder / name for name in pieces]
    missing = dict.fromkeys(path.name for path in (*there, *subwords) if not path.is_file())
    return FolderSettings(
        file=path,
        vocabs=(there[0], there[1]),
        search=search.search,
        subwords=(subwords[0], subwords[1]),
        notes=(*search.notes, *_added_note(folder, tokenizer)),
        missing=tuple(missing),
        unread=unread,
    )


def _added_note(folder: Path, tokenizer: FolderTokenizer | None) -> Iterator[str]:
    names = language_codes.unread_tokens(folder, tokenizer)
    if names:
        more = f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else ""
        listed = ", ".join(map(show, names[:_SHOWN]))
        yield f"{folder}: tokens that were added to the tokenizer are cut like words in a text: {listed}{more}"


def folder_search(folder: Path, own: Config) -> tuple[Path, FolderSearch]:
    """How a folder wants its model to be searched, and the file that says so.

    Raises:
        CheckpointError: as for `folder_settings`.
    """
    path = folder / generation.FILE
    values: Mapping[str, Any] = {**own.family.search, **own.values}
    if path.is_file():
        values = language_codes.settings_in(path)
        faults = [
            f"{name} is {show(values[name])}, {folder_config.FILE} says {own.settings[name]}"
            for name in _SPECIAL
            if generation.single_id(values.get(name)) not in (None, own.settings[name])
        ]
        if faults:
            raise CheckpointError.of_faults(str(path), faults)
    else:
        path = folder / folder_config.FILE
    eos, words = int(own.settings["eos_token_id"]), own.words[1]
    found = generation.parse_search(values, eos, words, str(path), languages=own.family.languages)
    unsaid = [name for name in _SPECIAL[1:] if values.get(name) is None]
    if unsaid:
        ids = " and ".join(f"{name} {own.settings[name]}" for name in unsaid)
        note = (
            f"{path} does not say {ids}: generate may begin or end otherwise (transformers 5 begins with bos_token_id)"
        )
        found = replace(found, notes=(*found.notes, note))
    return path, found


def _fsmt_files(folder: Path, own: Config) -> tuple[tuple[str, str], tuple[str, str], str | None]:
    """As `_files`, of ``FSMTTokenizer``, which has one list of merges for both sides."""
    settings, languages = language_codes.settings_in(folder / language_codes.CONFIG), [*own.settings["langs"]]
    unread = None
    if settings.get("do_lower_case"):
        unread = "the text of FSMTTokenizer with do_lower_case is not read"
    elif settings.get("langs", languages) != languages:
        unread = (
            f"{language_codes.CONFIG} has the langs {show(settings['langs'])}, {folder_config.FILE} {show(languages)}"
        )
    return _TWO_VOCABULARIES, (_MERGES, _MERGES), unread


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
