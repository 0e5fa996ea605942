"""Between the text of a sentence and the symbols of a vocabulary: tokenizer, lower case, segmenter, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from nmtprune.data.databin import Languages
from nmtprune.data.huggingface_vocabulary import (
    FsmtTokenizerText,
    HuggingFaceVocabulary,
    MarianTokenizerText,
    TokenizerText,
)
from nmtprune.data.language_tags import LanguageTags
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.moses import MosesTokenizer, lowercase
from nmtprune.data.options import DataOptions
from nmtprune.data.sentencepiece_text import SentencePieceJoiner
from nmtprune.data.subwords import BpeSegmenter, Segmenter, SentencePieceSegmenter, guess_post_process, post_process
from nmtprune.data.vocabulary import Vocabulary

SIDES = ("source", "target")


class Joiner(Protocol):
    """Joins subword symbols into text.

    Attributes:
        method: the one of POST_PROCESSES in whose place it joins.
    """

    method: str

    def decode(self, symbols: str) -> str:
        """Text of blank-separated symbols."""


@dataclass(frozen=True)
class TextCodec:
    """Both ways between the text of a sentence and its blank-separated symbols.

    Attributes:
        post_process: how symbols of the target are joined, one of POST_PROCESSES.
        segmenters: by side, ``source`` or ``target``, what splits words into subwords; none for text that is split.
        tokenizers: by side, what tokenizes raw text; empty for text that is not tokenized.
        detokenizer: of translations; None where they are not detokenized.
        lowercased: sides whose raw text is lower-cased, behind the tokenizer.
        own_segmenters: by side, those that take the place of `segmenters` there.
        tags: tokens in front of source sentences that no segmenter may tear.
        strips: white space at both ends of a line goes, as fairseq-interactive has it.
        joiners: by side, what joins symbols of its method; without one strings are joined, as fairseq does.
        source_post_process: how symbols of the source are joined, likewise.
    """

    post_process: str
    segmenters: Mapping[str, Segmenter] = field(default_factory=dict)
    tokenizers: Mapping[str, MosesTokenizer] = field(default_factory=dict)
    detokenizer: MosesTokenizer | None = None
    lowercased: frozenset[str] = frozenset()
    own_segmenters: Mapping[str, Segmenter] = field(default_factory=dict)
    tags: LanguageTags = field(default_factory=LanguageTags)
    strips: bool = True
    joiners: Mapping[str, Joiner] = field(default_factory=dict)
    source_post_process: str = "none"

    def encode(self, text: str, side: str) -> str:
        """Symbols of a sentence of side ``source`` or ``target``, as fairseq-interactive makes them."""
        text = text.strip() if self.strips else text
        if side != "source" or side in self.own_segmenters:
            return self.symbols(text, side)
        tags, text = self.tags.split(text, lambda tag: self.symbols(tag, side))
        return " ".join([*tags, self.symbols(text, side)]) if tags else self.symbols(text, side)

    def symbols(self, text: str, side: str) -> str:
        """Symbols of text that has no language tokens in front: tokenized, lower-cased, segmented."""
        if side in self.tokenizers:
            text = self.tokenizers[side].encode(text)
        if side in self.lowercased:
            text = lowercase(text)
        segmenter = self.own_segmenters.get(side) or self.segmenters.get(side)
        return segmenter.encode(text) if segmenter else text

    def takes_text(self, side: str) -> bool:
        """Whether raw text of that side is tokenized or segmented here; otherwise its words are symbols already."""
        return any(side in steps for steps in (self.tokenizers, self.segmenters, self.own_segmenters))

    def describe(self) -> dict[str, str]:
        """The settings that make two readings of the same files differ; what is not used is left out."""
        models = {f"{side}_subwords": segmenter.sha256 for side, segmenter in sorted(self.segmenters.items())}
        tokenizer = self.detokenizer
        options = {"moses": " ".join(tokenizer.options)} if tokenizer and tokenizer.options else {}
        lowercased = {"lowercased": " ".join(sorted(self.lowercased))} if self.lowercased else {}
        named = {"post_process": self.post_process, "tokenizer": "moses" if tokenizer else "none"}
        return {**named, **options, **lowercased, **models}

    def decode(self, symbols: str, side: str = "target") -> str:
        """Text of a side from its symbols, as fairseq-generate scores it; Marian's own joiners do as Marian does."""
        method = self.post_process if side == "target" else self.source_post_process
        joiner = self.joiners.get(side)
        text = joiner.decode(symbols) if joiner and joiner.method == method else post_process(symbols, method)
        return self.detokenizer.decode(text) if self.detokenizer else text


def build_codec(
    options: DataOptions, languages: Languages, vocabularies: Mapping[str, Vocabulary]
) -> tuple[TextCodec, str | None]:
    """The text codec, and a note where the way to join subwords was guessed.

    Args:
        options: what the user named.
        languages: for tokenizers.
        vocabularies: by side.

    Raises:
        DataError: a subword model cannot be read.
    """
    target, joining, note = vocabularies["target"], options.subword_model("target"), None
    suggested = joining[0] if joining else guess_post_process(target)
    if joining is None and options.post_process is None and suggested != "none":
        note = f"joining subwords as `post_process` {suggested}, which the symbols of {target.path.name} suggest"
    tokenizers: dict[str, MosesTokenizer] = {}
    if options.tokenizer == "moses":
        dashes, escape = not options.moses_no_dash_splits, not options.moses_no_escape
        for side, language in zip(SIDES, (languages.source, languages.target), strict=True):
            tokenizers[side] = MosesTokenizer(language, dash_splits=dashes, escape=escape)
    raw = [side for side in SIDES if not options.segmented(side)]
    codec = TextCodec(
        post_process=options.post_process or suggested,
        segmenters=_segmenters(options),
        tokenizers={side: tokenizer for side, tokenizer in tokenizers.items() if side in raw},
        detokenizer=tokenizers.get("target"),
        lowercased=frozenset(side for side in SIDES if getattr(options, f"lowercase_{side}")),
        tags=LanguageTags.of(vocabularies["source"].symbols),
        source_post_process=_source_post_process(options, vocabularies["source"]),
    )
    return codec, note


def _source_post_process(options: DataOptions, vocabulary: Vocabulary) -> str:
    """How symbols of the source are joined: by its own subword model or marks, else as those of the target."""
    named, guessed = options.subword_model("source"), guess_post_process(vocabulary)
    if named is not None:
        return named[0]
    return guessed if guessed != "none" else options.post_process or "none"


def marian_codec(
    codec: TextCodec,
    options: DataOptions,
    source: MarianVocabulary | HuggingFaceVocabulary,
    target: MarianVocabulary | HuggingFaceVocabulary,
    languages: Languages,
) -> TextCodec:
    """The codec of a Marian model: vocabularies that are SentencePiece models split and join text themselves.

    A side whose vocabulary is a list of symbols is joined by its SentencePiece model, if it has one; that of a Hugging
    Face model with merges by Moses, which needs the languages.
    """
    models = zip(SIDES, (source.sentencepiece, target.sentencepiece), strict=True)
    own = {side: model for side, model in models if model is not None}
    by_model = {
        side: SentencePieceJoiner(segmenter)
        for side, segmenter in codec.segmenters.items()
        if isinstance(segmenter, SentencePieceSegmenter)
    }
    vocabularies = dict(
        zip(SIDES, zip((source, target), (languages.source, languages.target), strict=True), strict=True)
    )
    segmenters = {side: _of_vocabulary(each, *vocabularies[side]) for side, each in codec.segmenters.items()}
    by_words = {side: each for side, each in segmenters.items() if isinstance(each, FsmtTokenizerText)}
    post_process = options.post_process or ("sentencepiece" if target.sentencepiece else codec.post_process)
    of_source = "sentencepiece" if source.sentencepiece else codec.source_post_process
    return replace(
        codec,
        segmenters=segmenters,
        own_segmenters=own,
        strips=False,
        joiners={**by_model, **by_words, **own},
        post_process=post_process,
        source_post_process=of_source,
    )


def _of_vocabulary(
    segmenter: Segmenter, vocabulary: MarianVocabulary | HuggingFaceVocabulary, language: str
) -> Segmenter:
    """The segmenter of a side, which transformers' tokenizer does not give special symbols."""
    if isinstance(vocabulary, HuggingFaceVocabulary) and isinstance(segmenter, BpeSegmenter):
        return FsmtTokenizerText(segmenter, vocabulary, language)
    if isinstance(vocabulary, HuggingFaceVocabulary) and isinstance(segmenter, SentencePieceSegmenter):
        return (TokenizerText if vocabulary.hidden else MarianTokenizerText)(segmenter, vocabulary)
    return segmenter


def _segmenters(options: DataOptions) -> dict[str, Segmenter]:
    """What splits each side; a model of both sides is read once."""
    found: dict[str, Segmenter] = {}
    made: dict[tuple[str, object], Segmenter] = {}
    for side in SIDES:
        named = options.subword_model(side)
        if named is not None:
            kind, path = named
            segmenter = made.get(named) or (SentencePieceSegmenter if kind == "sentencepiece" else BpeSegmenter)(path)
            found[side] = made[named] = segmenter
    return found
