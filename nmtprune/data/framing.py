"""Tokens around the words of every sentence: language tokens of multilingual models, and prefixes that a user names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.data.databin import DataBin, Languages
from nmtprune.data.huggingface_vocabulary import HuggingFaceVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Sentences
from nmtprune.data.text import read_text
from nmtprune.data.vocabulary import FairseqVocabulary, Vocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.profile import LanguageTokens, ModelProfile

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 20


@dataclass(frozen=True)
class Frame:
    """What every sentence of a model has besides its words, as token ids.

    Attributes:
        source_front: in front of the words of a source.
        source_end: ends a source in the place of the end-of-sentence symbol; empty: that symbol does.
        target_front: in front of the words of a target, where a search must say it first.
        target_end: ends a target, likewise.
        start: stands before the first word of a target; None: what its vocabulary says.
        counted: losses count `target_front`, as fairseq does with language tokens; otherwise it is given.
        hidden: tokens that no text of a target shows, wherever they stand.
    """

    source_front: tuple[int, ...] = ()
    source_end: tuple[int, ...] = ()
    target_front: tuple[int, ...] = ()
    target_end: tuple[int, ...] = ()
    start: int | None = None
    counted: bool = False
    hidden: frozenset[int] = frozenset()

    @property
    def added_source(self) -> int:
        """Tokens that a source has more than its words and one that ends it."""
        return len(self.source_front) + max(0, len(self.source_end) - 1)

    @property
    def given(self) -> int:
        """First tokens of a target that no loss counts."""
        return 0 if self.counted else len(self.target_front)

    def source(self, sentences: Sentences) -> Sentences:
        """Source sentences with all that a model reads; they end in an end-of-sentence symbol."""
        return _framed(sentences, self.source_front, self.source_end)

    def target(self, sentences: Sentences) -> Sentences:
        """Target sentences, likewise."""
        return _framed(sentences, self.target_front, self.target_end)

    def without_front(self, ids: Iterable[int]) -> list[int]:
        """A translation without `target_front`."""
        listed, front = [int(token) for token in ids], self.target_front
        return listed[len(front) :] if tuple(listed[: len(front)]) == front else listed

    def vocabularies(self, source: Vocabulary, target: Vocabulary) -> tuple[Vocabulary, Vocabulary]:
        """The vocabularies of sentences in this frame: what ends a sentence there, and stands before its first word."""
        if self.source_end and isinstance(source, FairseqVocabulary):
            source = replace(source, eos=self.source_end[-1])
        elif self.source_end and isinstance(source, HuggingFaceVocabulary):
            source = replace(source, eos=self.source_end[-1], hidden=source.hidden | {source.eos})
        if isinstance(target, FairseqVocabulary):
            target = replace(
                target,
                eos=self.target_end[-1] if self.target_end else target.eos,
                start=target.start if self.start is None else self.start,
                hidden=self.hidden,
            )
        return source, target

    def describe(self, source: Vocabulary, target: Vocabulary) -> dict[str, str]:
        """The tokens as symbols, those that there are."""
        named = {
            "source_front": (source, self.source_front),
            "source_end": (source, self.source_end),
            "target_front": (target, self.target_front),
            "target_end": (target, self.target_end),
            "target_start": (target, () if self.start is None else (self.start,)),
        }
        return {name: " ".join(own.symbols[id] for id in ids) for name, (own, ids) in named.items() if ids}


def _framed(sentences: Sentences, front: Sequence[int], end: Sequence[int]) -> Sentences:
    if not front and not end:
        return sentences
    first, last = np.array(front, dtype=np.int64), np.array(end, dtype=np.int64)
    return Sentences.of(np.concatenate((first, ids[: -1 if end else None], last)) for ids in sentences)


def with_language_tokens(vocabulary: FairseqVocabulary, tokens: LanguageTokens, folder: DataBin) -> FairseqVocabulary:
    """A dictionary with the symbols that a multilingual task adds to it, those that it does not have.

    Raises:
        DataError: the file that lists the languages is missing.
    """
    languages = languages_of(tokens, folder)
    added = [form.format(language) for form in tokens.forms for language in languages]
    return vocabulary.with_symbols((*added, *tokens.others))


def languages_of(tokens: LanguageTokens, folder: DataBin) -> tuple[str, ...]:
    """Languages that have a token.

    Raises:
        DataError: the file that lists them is not in the data folder, or not readable.
    """
    if tokens.languages is not None:
        return tokens.languages
    path = folder.folder / (tokens.languages_file or "").replace("\\", "/").rpartition("/")[2]
    if not path.is_file():
        raise DataError(
            f"{path}: no such file: it lists the languages that have a token, in their order, and was named in the "
            "training (lang_dict): copy it there"
        )
    return tuple(line.strip() for line in read_text(path).lines if line.strip())


def named_languages(options: DataOptions, model: ModelProfile, vocabulary: Vocabulary) -> Languages:
    """The languages of raw text for a model whose vocabularies are files; that of the target has this vocabulary.

    Raises:
        UsageError: the model has language tokens, and a language is named neither by the user nor by the model.
    """
    tokens = model.language_tokens
    forced = _language_of(model.first_word, tokens, vocabulary)
    source, target = options.source_lang or model.source_lang, options.target_lang or forced or model.target_lang
    if tokens is not None and not (source and target):
        missing = [f"`{side}_lang`" for side, name in (("source", source), ("target", target)) if not name]
        raise UsageError(
            f"data: the model has language tokens: name {' and '.join(missing)}, of {_some(tokens.languages or ())}"
        )
    return Languages(source or "source", target or "target")


def _language_of(token: int | None, tokens: LanguageTokens | None, vocabulary: Vocabulary) -> str | None:
    """The language of a token of target sentences; None where it is no language token."""
    if token is None or tokens is None or tokens.target is None or token >= len(vocabulary):
        return None
    symbol, form = vocabulary.symbols[token], tokens.target
    return next((language for language in tokens.languages or () if form.format(language) == symbol), None)


def _some(languages: Sequence[str]) -> str:
    """Languages in the words of a message, not too many."""
    more = f", ... ({len(languages)} in all)" if len(languages) > _SHOWN else ""
    return f"{', '.join(languages[:_SHOWN])}{more}"


def check_languages(tokens: LanguageTokens, languages: Languages, folder: DataBin) -> None:
    """Check that both languages have a token.

    Raises:
        DataError: one has none: those that have are named; or as for `languages_of`.
    """
    known = languages_of(tokens, folder)
    unknown = [language for language in (languages.source, languages.target) if language not in known]
    if unknown:
        near = [own for own in known if any(own[:2] == name[:2] for name in unknown)]
        listed = dict.fromkeys((*near, *known)) if len(known) > _SHOWN else known
        raise DataError(
            f"no language token for {' and '.join(unknown)}: the model has tokens for {_some(tuple(listed))}"
        )


def frame_of(
    options: DataOptions, model: ModelProfile, languages: Languages, source: Vocabulary, target: Vocabulary
) -> tuple[Frame, list[str]]:
    """The frame of the sentences of a model, and remarks on its direction.

    Args:
        options: may name prefixes.
        model: may have language tokens.
        languages: of the sentences.
        source: vocabulary of the source side, language tokens included.
        target: likewise.

    Raises:
        DataError: a prefix that is not in the vocabulary.
        UsageError: a prefix where the model has a language token.
    """
    tokens, frame = model.language_tokens, Frame()
    notes: list[str] = []
    if tokens is not None:
        frame, notes = _of_tokens(tokens, languages, source, target)
        own = {"source": tokens.source, "target": tokens.target}
        twice = [f"`{side}_prefix`" for side, form in own.items() if form and getattr(options, f"{side}_prefix")]
        if twice:
            raise UsageError(f"{' and '.join(twice)}: {tokens.models} have language tokens there")
    if options.source_prefix is not None:
        frame = replace(frame, source_front=_ids(options.source_prefix, source, "source"))
    if options.target_prefix is not None:
        frame = replace(frame, target_front=_ids(options.target_prefix, target, "target"), counted=False)
    return frame, notes


def check_frame(frame: Frame, model: ModelProfile) -> None:
    """Check that a model can begin its translations as a frame says.

    Raises:
        UsageError: the model reads from right to left.
        DataError: it has no positions behind the first tokens.
    """
    tokens, room = len(frame.target_front), model.max_target_positions
    if tokens and model.right_to_left:
        raise UsageError("`target_prefix`: the model says the last word first (right-left)")
    if room is not None and tokens >= room:
        raise DataError(f"`target_prefix` has {tokens} tokens, and the model has {room} target positions")


def _of_tokens(
    tokens: LanguageTokens, languages: Languages, source: Vocabulary, target: Vocabulary
) -> tuple[Frame, list[str]]:
    named = languages.source if tokens.source_side == "source" else languages.target
    first = (_id(tokens.source.format(named), source),) if tokens.source else ()
    second = (_id(tokens.target.format(languages.target), target),) if tokens.target else ()
    notes = []
    if tokens.directions and (languages.source, languages.target) not in tokens.directions:
        trained = ", ".join("-".join(pair) for pair in tokens.directions[:_SHOWN])
        notes.append(f"the model was not trained on {languages} (but on {trained})")
    hidden = frozenset(second)
    start = second[0] if second else None
    if tokens.place == "front":
        return Frame(source_front=first, target_front=second, counted=True, hidden=hidden), notes
    if tokens.place == "suffix":
        return Frame(source_end=(source.eos, *first), target_front=second, counted=True, hidden=hidden), notes
    if tokens.place == "ends":
        return Frame(source_end=first, start=start, hidden=hidden), notes
    return Frame(source_end=(source.eos, *first), target_end=(target.eos, *second), start=start, hidden=hidden), notes


def _id(symbol: str, vocabulary: Vocabulary) -> int:
    """Id of a language token."""
    found = _index(vocabulary).get(symbol)
    if found is None:
        raise DataError(f"{vocabulary.path}: has no language token '{symbol}'")
    return found


def _ids(prefix: str, vocabulary: Vocabulary, side: str) -> tuple[int, ...]:
    """Ids of a prefix."""
    index, symbols = _index(vocabulary), prefix.split()
    if not symbols:
        raise UsageError(f"`{side}_prefix` is empty")
    special = {vocabulary.pad, vocabulary.eos, vocabulary.unk}
    faults = [f"'{symbol}'" for symbol in symbols if index.get(symbol) is None or index[symbol] in special]
    if faults:
        raise DataError(
            f"`{side}_prefix`: {', '.join(faults)} is no word of {vocabulary.path.name}: name symbols of that "
            "vocabulary, separated by blanks"
        )
    return tuple(index[symbol] for symbol in symbols)


def _index(vocabulary: Vocabulary) -> "Mapping[str, int]":
    return {symbol: number for number, symbol in enumerate(vocabulary.symbols)}
