"""Moses's tokenizer and detokenizer, through sacremoses, as fairseq's ``--tokenizer moses`` has them."""

from typing import Any


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


def lowercase(text: str) -> str:
    """Lower-case as Moses's ``lowercase.perl`` does: letter by letter, without the final sigma that Python knows."""
    return text.lower() if text.isascii() else "".join(letter.lower() for letter in text)
