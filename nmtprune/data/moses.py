"""Moses's tokenizer and detokenizer, through sacremoses, as fairseq's ``--tokenizer moses`` has them."""

import re
from typing import Any
from unicodedata import category

_FULL_STOPS = re.compile(r"[。．]\s*")
_PUNCTUATION = str.maketrans(
    {
        wide: plain
        for wide, plain in zip("，、”“∶：？《》）！（；」「～’━〈〉【】％", ',,""::?"")!(;""~\'-<>[]%', strict=True)
    }
    | {chr(ord("０") + digit): str(digit) for digit in range(10)}
    | {"…": "..."}
)
"""As ``replace-unicode-punctuation.perl`` has it."""


class MosesTokenizer:
    """Tokenization and detokenization of one language."""

    def __init__(self, language: str, *, dash_splits: bool = True, escape: bool = True) -> None:
        """Prepare both ways.

        Args:
            language: for abbreviations and apostrophes.
            dash_splits: part hyphenated words, as ``tokenizer.perl -a`` does; fairseq's ``--moses-no-dash-splits``
                does not.
            escape: write ``&apos;`` for an apostrophe and so on; fairseq's ``--moses-no-escape`` does not.
        """
        from sacremoses import MosesDetokenizer
        from sacremoses import MosesTokenizer as Tokenizer

        self._tokenizer: Any = Tokenizer(language)
        self._detokenizer: Any = MosesDetokenizer(language)
        self._how = {"aggressive_dash_splits": dash_splits, "escape": escape}

    @property
    def options(self) -> tuple[str, ...]:
        """What was asked for beside the defaults, as fairseq names it."""
        names = {"aggressive_dash_splits": "--moses-no-dash-splits", "escape": "--moses-no-escape"}
        return tuple(name for setting, name in names.items() if not self._how[setting])

    def encode(self, text: str) -> str:
        """Tokenize a sentence."""
        return str(self._tokenizer.tokenize(text, return_str=True, **self._how))

    def decode(self, text: str) -> str:
        """Detokenize a sentence; escaped characters are themselves again."""
        return str(self._detokenizer.detokenize(text.split()))


class MosesNormalizingTokenizer(MosesTokenizer):
    """What transformers' ``FSMTTokenizer`` does around byte-pair encoding: punctuation is normalized first."""

    def __init__(self, language: str) -> None:
        """Prepare both ways for a language."""
        from sacremoses import MosesPunctNormalizer

        super().__init__(language)
        self._normalizer: Any = MosesPunctNormalizer(lang=language)

    def words(self, text: str) -> list[str]:
        """Words of a sentence."""
        text = _FULL_STOPS.sub(". ", text).translate(_PUNCTUATION)
        text = "".join(letter for letter in self._normalizer.normalize(text) if not category(letter).startswith("C"))
        return [word for word in self._tokenizer.tokenize(text, return_str=False, **self._how) if word]


def lowercase(text: str) -> str:
    """Lower-case as Moses's ``lowercase.perl`` does: letter by letter, without the final sigma that Python knows."""
    return text.lower() if text.isascii() else "".join(letter.lower() for letter in text)
