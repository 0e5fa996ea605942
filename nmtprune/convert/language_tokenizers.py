"""Which tokenizer of transformers has the symbols and language tokens of a multilingual model, by their ids."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nmtprune.convert.portable import Portable
from nmtprune.data.huggingface_vocabulary import FIRST
from nmtprune.data.subwords import SentencePieceSegmenter
from nmtprune.formats.huggingface.families import Family
from nmtprune.formats.huggingface.language_codes import OF_FAMILY, Tokenizer
from nmtprune.profile import LanguageTokens


@dataclass(frozen=True)
class Found:
    """A tokenizer for a model.

    Attributes:
        tokenizer: which.
        codes: name of its set of languages.
        count: symbols before the first language.
    """

    tokenizer: Tokenizer
    codes: str
    count: int


def tokenizer_for(model: Portable, family: Family) -> Found | None:
    """The tokenizer of a family whose symbols are those of a model; None without one."""
    tokens, pieces = model.corpus.model.language_tokens, model.subwords[0]
    if tokens is None or pieces is None or not is_in_front(tokens):
        return None
    return next(_fitting(model, tokens, pieces, family), None)


def is_in_front(tokens: LanguageTokens) -> bool:
    """Whether the language of each side stands in front of its words, which is where transformers puts them."""
    return tokens.place == "front" and tokens.source_side == "source" and bool(tokens.source and tokens.target)


def _fitting(model: Portable, tokens: LanguageTokens, pieces: Path, family: Family) -> Iterator[Found]:
    symbols = model.source.symbols
    places = {tokens.forms[0].format(code): code for code in tokens.languages or ()}
    named = {id: places[symbol] for id, symbol in enumerate(symbols) if symbol in places}
    for tokenizer in OF_FAMILY.get(family.model_type, ()):
        for name, codes in tokenizer.codes.items():
            first = min(named, default=0)
            expected = {first + place: code for place, code in enumerate(codes)}
            own_file = tokenizer.vocabulary != tokenizer.subwords
            if named == expected and (own_file or symbols[:first] == _of_pieces(pieces)):
                yield Found(tokenizer, name, first)


def _of_pieces(path: Path) -> tuple[str, ...]:
    """Symbols of a SentencePiece model as fairseq numbers them."""
    return (*FIRST, *SentencePieceSegmenter(path).pieces[len(FIRST) - 1 :])
