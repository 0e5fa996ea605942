"""What a model asks of the sentences that are fed to it: plain values, whatever the file format."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SpecialTokens:
    """Ids that the settings of a model give to special symbols, whatever its vocabularies call them.

    Attributes:
        pad: padding.
        eos: ends a sentence.
        start: what the decoder reads before the first word.
        added: symbols that a vocabulary has besides those of its file, with their ids.
        bos: begins texts in other models; no text shows it. None: an id like others.
    """

    pad: int
    eos: int
    start: int
    added: tuple[tuple[str, int], ...] = ()
    bos: int | None = None


@dataclass(frozen=True)
class LanguageTokens:
    """Symbols of a multilingual model that name a language, and where they stand in its sentences.

    Attributes:
        languages: those that have a token, in the order of their tokens; None: a file lists them.
        languages_file: name of that file.
        forms: of the tokens that its dictionaries get, ``__{}__`` for example: one after the other, for all languages.
        others: symbols that its dictionaries get behind those.
        source: form of the token of source sentences; None: they have none.
        source_side: the side whose language that token names, ``source`` or ``target``.
        target: form of the token of target sentences, which names their language; None: they have none.
        place: where the tokens stand, one of PLACES.
        directions: source and target language of the texts that it was trained on.
        models: what models have such tokens, in the words of a message.
    """

    languages: tuple[str, ...] | None
    languages_file: str | None
    forms: tuple[str, ...]
    others: tuple[str, ...]
    source: str | None
    source_side: str
    target: str | None
    place: str
    directions: tuple[tuple[str, str], ...]
    models: str


PLACES = ("front", "suffix", "ends", "behind")
"""front: before the words, where the search must say the target's; suffix: so on the target side,
and behind ``</s>`` on the source side; ends: the source's is its last token, the target's
stands before the first word, both in the place of ``</s>``; behind: both follow ``</s>``, and the target's stands
before the first word too."""


@dataclass(frozen=True)
class ModelProfile:
    """What a model asks of its data; None where the checkpoint does not tell.

    Attributes:
        source_symbols: rows of the source embeddings.
        target_symbols: rows of the target embeddings.
        source_lang: source language of the training.
        target_lang: target language of the training.
        max_source_positions: tokens that the encoder takes, the end-of-sentence symbol included.
        max_target_positions: tokens that the decoder takes.
        left_pad_source: padding goes before source sentences, fairseq's default.
        left_pad_target: padding goes before target sentences.
        truncate_source: tokens that longer source sentences are cut to, as the model was trained; None: none is cut.
        vocabulary_files: its vocabularies are files that are named one by one, not dictionaries of a data folder.
        notes: remarks on the model.
        right_to_left: the words of source and target sentences come last one first.
        special: ids of special symbols, of a Hugging Face model; None where the vocabularies fix them.
        language_tokens: of a multilingual model; None where sentences have none, or have them in their text.
        first_word: id of the language token that translations begin with where no target language is named.
    """

    source_symbols: int | None = None
    target_symbols: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    max_source_positions: int | None = None
    max_target_positions: int | None = None
    left_pad_source: bool = True
    left_pad_target: bool = False
    truncate_source: int | None = None
    vocabulary_files: bool = False
    notes: tuple[str, ...] = ()
    right_to_left: bool = False
    special: SpecialTokens | None = None
    language_tokens: LanguageTokens | None = None
    first_word: int | None = None


@dataclass(frozen=True)
class PairFrame:
    """What fairseq's task ``sentence_prediction`` puts around the words of a text or a pair.

    Attributes:
        init: id in front of the first text; None: nothing.
        separator: id in front of the second text; None: nothing.
        shorten: what is done to texts that are longer than the positions: ``none``, ``truncate`` or ``random_crop``.
    """

    init: int | None = None
    separator: int | None = None
    shorten: str = "none"


@dataclass(frozen=True)
class ClassifierProfile:
    """What a classifier asks of its data.

    Attributes:
        labels: number of labels.
        symbols: rows of the embeddings.
        max_positions: longest text in tokens, those around the words included.
        padding: id of padding.
        label_names: names of labels by number; None where the data has them (``label/dict.txt``).
        segments: rows of the table of segments; 0: none.
        tokenizer: folder with the files of the model's own tokenizer; None for a model of fairseq.
        frame: how fairseq frames texts; None for a model whose tokenizer does.
        pairs: it was trained on pairs of texts, or on single ones; None where it does not tell.
        notes: remarks on the model.
    """

    labels: int
    symbols: int
    max_positions: int
    padding: int
    label_names: tuple[str, ...] | None = None
    segments: int = 0
    tokenizer: Path | None = None
    frame: PairFrame | None = None
    pairs: bool | None = None
    notes: tuple[str, ...] = ()
