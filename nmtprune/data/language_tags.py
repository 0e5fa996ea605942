"""Tokens in front of a source sentence that tell a model what to do: ``>>deu<<``, ``<2de>``, ``__de__``, ``de_DE``."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

_NAME = r"[^\W_](?:[\w:+./-]*[^\W_])?"
_FORMS = {
    ">>": rf">>{_NAME}<<",
    "<": rf"<{_NAME}>",
    "__": rf"__{_NAME}(?:__)?",
    "[": rf"\[{_NAME}\]",
    "{": rf"\{{{_NAME}\}}",
    "mark": rf"(?P<mark>[@#|%$*~=]{{1,2}}){_NAME}(?P=mark)",
    "code": r"[a-z]{2,3}(?:_[A-Z][A-Za-z]{1,3})+",
}
_TAGS = {form: re.compile(pattern) for form, pattern in _FORMS.items()}
_LETTER = re.compile(r"[^\W\d_]")
_SPECIAL = re.compile(r"[<\[](?:s|pad|unk|mask|eos|bos|sep|cls|eow|sil|0x[0-9a-f]{2})[>\]]", re.IGNORECASE)

# `>>deu<<` ends by itself; every other tag is a word of its own.
_FIRST = re.compile(rf"\s*(>>{_NAME}<<|\S+)\s*")

_ALWAYS_IN_FRONT = (">>", "<2")
"""What only language tokens start with, which models that have them need in front of every sentence."""
_SHOWN = 3


def form_of(token: str) -> str | None:
    """The form of a token that looks like a tag, by the sign that it starts with; None of any other word."""
    if _SPECIAL.fullmatch(token) or not _LETTER.search(token):
        return None
    return next((form for form, pattern in _TAGS.items() if pattern.fullmatch(token)), None)


@dataclass(frozen=True)
class LanguageTags:
    """The tags among the symbols of a source vocabulary.

    A vocabulary has them as whole symbols: OPUS-MT, for one, writes ``>>deu<<`` in front of a line that is segmented
    already. A segmenter, which has never seen them, would tear them into pieces.

    Attributes:
        symbols: those that look like a tag.
        apart: sentences get a tag apart from their text, which needs none.
    """

    symbols: frozenset[str] = frozenset()
    apart: bool = False

    @classmethod
    def of(cls, symbols: Iterable[str]) -> "LanguageTags":
        """The tags among symbols."""
        return cls(frozenset(symbol for symbol in symbols if form_of(symbol) is not None))

    def split(self, text: str, encode: Callable[[str], str]) -> tuple[list[str], str]:
        """Tags in front of a text that stay whole, and the text behind them.

        Args:
            text: a sentence.
            encode: what makes symbols of text. A tag that this keeps whole by itself (a user-defined symbol of
                SentencePiece) stays where it is.
        """
        kept: list[str] = []
        while self.symbols:
            first = _FIRST.match(text)
            if first is None or first[1] not in self.symbols or first[1] in encode(first[1]).split():
                break
            kept.append(first[1])
            text = text[first.end() :]
        return kept, text

    def remarks(self, lines: Sequence[str], encode: Callable[[str], str]) -> list[str]:
        """What is probably wrong with the tags of source sentences.

        Args:
            lines: sentences.
            encode: what makes symbols of a sentence.
        """
        firsts = [match[1] for line in lines if (match := _FIRST.match(line))]
        looks = Counter(token for token in firsts if form_of(token) is not None)
        forms = {form_of(symbol) for symbol in self.symbols}
        read = {token: encode(token).split() for token in looks}
        found = [
            f"'{token}' in front of {looks[token]} of {len(lines)} sentences is no symbol of the source vocabulary"
            f"{self._instead(token)}: it is {'cut like a word' if len(read[token]) > 1 else 'an unknown word'}"
            for token in sorted(token for token in looks if token not in read[token])[:_SHOWN]
            if form_of(token) == ">>" or form_of(token) in forms
        ]
        expected = sorted(symbol for symbol in self.symbols if symbol.startswith(_ALWAYS_IN_FRONT))
        if expected and firsts and not looks and not self.apart:
            some = ", ".join(expected[:_SHOWN])
            found.append(f"no sentence starts with one of the language tokens that the source vocabulary has ({some})")
        return found

    def _instead(self, token: str) -> str:
        same = sorted(symbol for symbol in self.symbols if form_of(symbol) == form_of(token))
        more = ", ..." if len(same) > _SHOWN else ""
        return f" (which has {', '.join(same[:_SHOWN])}{more})" if same else ""
