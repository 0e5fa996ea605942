"""Random sentences of one length, with vocabularies whose words are numbers: for questions of speed alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.data.databin import Languages, NumberedData
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Sentences
from nmtprune.files import write_text

if TYPE_CHECKING:
    from nmtprune.profile import ModelProfile, SpecialTokens

LANGUAGES = Languages("source", "target")
FIRST_WORD = 4
"""Ids below are special symbols of fairseq's."""

_SUBSET = "test"
_EOS = 2
_MARIAN = ("</s>", "<unk>")


def write_binarized(folder: Path, words: tuple[int, int], sentences: int, length: int, seed: int) -> DataOptions:
    """Write a data folder as fairseq-preprocess does.

    Args:
        folder: is made.
        words: sizes of the source and target vocabulary, special symbols included.
        sentences: number of source sentences.
        length: their tokens, without the end-of-sentence symbol.
        seed: of the words.
    """
    folder.mkdir()
    drawn = np.random.default_rng(seed).integers(FIRST_WORD, words[0], (sentences, length))
    found = Sentences.of(np.append(row, _EOS) for row in drawn)
    NumberedData(folder, LANGUAGES, words).write(_SUBSET, found, None)
    return DataOptions(
        data_bin=folder, subset=_SUBSET, source_lang=LANGUAGES.source, target_lang=LANGUAGES.target,
        post_process="none",
    )  # fmt: skip


def fitting_profile(profile: "ModelProfile") -> "ModelProfile":
    """What sentences of made-up words need of a model: language tokens of two languages."""
    tokens, special = profile.language_tokens, profile.special
    if tokens is None:
        return profile
    listed = replace(
        tokens, languages=(LANGUAGES.source, LANGUAGES.target), languages_file=None, others=(), directions=()
    )
    return replace(
        profile, language_tokens=listed, special=None if special is None else replace(special, added=()),
        source_lang=None, target_lang=None, first_word=None,
    )  # fmt: skip


def write_fitting(folder: Path, profile: "ModelProfile", sentences: int, length: int, seed: int) -> DataOptions:
    """Write sentences for any model.

    Args:
        folder: is made.
        profile: of the model, by `fitting_profile`; tokens of its two languages are the last of each vocabulary.
        sentences: number of source sentences.
        length: their tokens, without the end-of-sentence symbol and language tokens.
        seed: of the words.
    """
    tokens = profile.language_tokens
    added = 0 if tokens is None else len(tokens.forms) * len(tokens.languages or ())
    words = (profile.source_symbols or 0) - added, (profile.target_symbols or 0) - added
    if not profile.vocabulary_files:
        return write_binarized(folder, words, sentences, length, seed)
    folder.mkdir()
    paths = folder / "source.txt", folder / "target.txt"
    if profile.special is not None:
        return _write_json(folder, profile.special, words, sentences, length, seed)
    for path, size in zip(paths, words, strict=True):
        symbols = [*_MARIAN, *(f"w{word}" for word in range(len(_MARIAN), size))]
        write_text(path, "".join(f"{symbol}\n" for symbol in symbols))
    drawn = np.random.default_rng(seed).integers(len(_MARIAN), words[0], (sentences, length))
    write_text(folder / "sentences", "".join(" ".join(f"w{word}" for word in row) + "\n" for row in drawn))
    return DataOptions(source=folder / "sentences", vocabs=paths, post_process="none")


def _write_json(
    folder: Path, special: "SpecialTokens", words: tuple[int, int], sentences: int, length: int, seed: int
) -> DataOptions:
    """Sentences and vocabularies of a Hugging Face model."""
    ids = {special.pad, special.eos, special.start}
    paths = folder / "source.json", folder / "target.json"
    for path, size in zip(paths, words, strict=True):
        unknown = next(id for id in range(size) if id not in ids)
        symbols = {"<unk>" if id == unknown else f"w{id}": id for id in range(size)}
        write_text(path, json.dumps(symbols))
    plain = np.array([id for id in range(words[0]) if id not in ids and id != unknown])
    drawn = np.random.default_rng(seed).choice(plain, (sentences, length))
    write_text(folder / "sentences", "".join(" ".join(f"w{word}" for word in row) + "\n" for row in drawn))
    return DataOptions(
        source=folder / "sentences", vocabs=paths, post_process="none", source_lang=LANGUAGES.source,
        target_lang=LANGUAGES.target,
    )  # fmt: skip
