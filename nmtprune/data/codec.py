"""The text codec that DATA options and vocabularies ask for."""

from collections.abc import Mapping
from dataclasses import replace

from nmtprune.data.databin import Languages
from nmtprune.data.language_tags import LanguageTags
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.moses import MosesTokenizer
from nmtprune.data.options import DataOptions
from nmtprune.data.sentencepiece_text import SentencePieceJoiner
from nmtprune.data.subwords import (
    BpeSegmenter,
    Segmenter,
    SentencePieceSegmenter,
    TextCodec,
    guess_post_process,
)
from nmtprune.data.vocabulary import Vocabulary

SIDES = ("source", "target")


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
        note = f"joining subwords as --post-process {suggested}, which the symbols of {target.path.name} suggest"
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
    )
    return codec, note


def marian_codec(
    codec: TextCodec, options: DataOptions, source: MarianVocabulary, target: MarianVocabulary
) -> TextCodec:
    """The codec of a Marian model: vocabularies that are SentencePiece models split and join text themselves.

    A side whose vocabulary is a list of symbols is joined by its SentencePiece model, if it has one.
    """
    models = zip(SIDES, (source.sentencepiece, target.sentencepiece), strict=True)
    own = {side: model for side, model in models if model is not None}
    by_model = {
        side: SentencePieceJoiner(segmenter)
        for side, segmenter in codec.segmenters.items()
        if isinstance(segmenter, SentencePieceSegmenter)
    }
    post_process = options.post_process or ("sentencepiece" if target.sentencepiece else codec.post_process)
    return replace(codec, own_segmenters=own, strips=False, joiners={**by_model, **own}, post_process=post_process)


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
