"""The words of a sentence and the tokens that they consist of, for annotations that are by word."""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from nmtprune.data.corpus import Corpus
from nmtprune.data.language_tags import form_of
from nmtprune.data.ragged import Ids
from nmtprune.data.subwords import post_process

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Text of a token whose characters are not known: an unknown word, a byte of a character."""

NO_WORD = -1
"""The word of a token that belongs to none: the end of the sentence, a language token."""

_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_DASH = "@-@"


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a sentence.

    Attributes:
        of_token: number of the word that each token belongs to, [tokens], in the order in which the model reads them.
        count: number of words; some may have no tokens.
    """

    of_token: Ids
    count: int


@dataclass(frozen=True)
class Spelling:
    """The tokens of a sentence as they are written.

    Attributes:
        symbols: of the vocabulary, None for tokens that belong to no word.
        method: how symbols are joined, one of `subwords.POST_PROCESSES`.
        backwards: the model reads the words from right to left.
    """

    symbols: tuple[str | None, ...]
    method: str
    backwards: bool = False

    @classmethod
    def of(cls, corpus: Corpus, side: str, index: int) -> "Spelling":
        """The tokens of a sentence of a corpus with that side, ``source`` or ``target``."""
        source = side == "source"
        sentences = corpus.source if source else corpus.target
        if sentences is None:
            raise ValueError("a corpus without target side")
        vocabulary = corpus.source_vocabulary if source else corpus.target_vocabulary
        special = {vocabulary.eos, vocabulary.pad}
        symbols: list[str | None] = []
        for token in sentences[index].tolist():
            written = "" if token in special else vocabulary.string([token])
            symbols.append(UNKNOWN if token == vocabulary.unk or _BYTE.fullmatch(written) else written or None)
        first = next((place for place, symbol in enumerate(symbols) if form_of(symbol or "") is None), len(symbols))
        if source:
            symbols[:first] = [None] * first
        method = corpus.codec.source_post_process if source else corpus.codec.post_process
        return cls(tuple(symbols), method, corpus.model.right_to_left)

    @property
    def text(self) -> str:
        """The sentence, for messages."""
        return post_process(" ".join(self._written()), self.method)

    def by_marks(self) -> Words:
        """The words between blanks, by the marks of the segmenter (``▁``, ``@@``, ...)."""
        found: list[int] = []
        written = self._written()
        for place, symbol in enumerate(written):
            words = len(post_process(" ".join(written[: place + 1]), self.method).split())
            found.append(words - 1 if self._characters(symbol) else words)
        return self._read(found, max(found, default=-1) + 1)

    def by_characters(self, words: Sequence[str]) -> Words | None:
        """The tokens of words that are given, however they split the sentence; None where characters differ.

        Neither blanks and upper case matter, nor what Unicode calls compatible (NFKC) and Moses's tokenizer escapes. A
        token of several words belongs to the one that has most of its characters. An unknown token may have any
        characters.
        """
        owners = [number for number, word in enumerate(words) for _ in _plain(word)]
        spans = self._spans("".join(map(_plain, words)))
        if spans is None:
            return None
        found = []
        for start, end in spans:
            own = owners[start : max(end, start + 1)] or owners[-1:]
            found.append(max(own, key=lambda word: (own.count(word), -word)) if own else NO_WORD)
        return self._read(found, len(words))

    def _spans(self, text: str) -> list[tuple[int, int]] | None:
        """Where the characters of each token lie in a text; None where they are not those of the tokens."""
        pieces = [self._characters(symbol) for symbol in self._written()]
        runs = [(unknown, list(own)) for unknown, own in groupby(pieces, key=lambda piece: piece == UNKNOWN)]
        spans: list[tuple[int, int]] = []
        place, gap = 0, 0
        for number, (unknown, own) in enumerate(runs):
            if unknown:
                gap = len(own)
                continue
            literal = "".join(own)
            last = number == len(runs) - 1
            start = (len(text) - len(literal) if last else text.find(literal, place)) if gap else place
            if start < place or not text.startswith(literal, start):
                return None
            spans += [(place, start)] * gap
            place, gap = start, 0
            for piece in own:
                spans.append((place, place + len(piece)))
                place += len(piece)
        spans += [(place, len(text))] * gap
        return spans if gap or place == len(text) else None

    def _characters(self, symbol: str) -> str:
        """The characters of a token as `by_characters` compares them."""
        if symbol == UNKNOWN:
            return UNKNOWN
        text = post_process(symbol, self.method)
        return _plain("-" if text == _DASH else text)

    def _written(self) -> list[str]:
        """The symbols of words from left to right."""
        symbols = reversed(self.symbols) if self.backwards else self.symbols
        return [symbol for symbol in symbols if symbol is not None]

    def _read(self, words: list[int], count: int) -> Words:
        """Words by tokens, of those of symbols from left to right."""
        left = iter(reversed(words) if self.backwards else words)
        own = [NO_WORD if symbol is None else next(left) for symbol in self.symbols]
        return Words(np.array(own, dtype=np.int64), count)


def escaped(words: Sequence[str]) -> list[str]:
    """Words as Moses's tokenizer writes them."""
    return [_moses(word) for word in words]


def _moses(word: str) -> str:
    text = html.escape(word, quote=False).replace("'", "&apos;").replace('"', "&quot;")
    return text.replace("|", "&#124;").replace("[", "&#91;").replace("]", "&#93;")


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split()).casefold()
