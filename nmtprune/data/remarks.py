"""What is probably wrong with raw text: tokens that a vocabulary does not have, words that another segmenter tore."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nmtprune.data.codec import TextCodec
from nmtprune.data.huggingface_vocabulary import HuggingFaceVocabulary
from nmtprune.data.marks import mark_of_text
from nmtprune.data.ragged import Sentences
from nmtprune.data.subwords import guess_post_process
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import DataError

SAMPLE = 1000
"""Lines by which it is told what is wrong; shares of unknown tokens are of all lines."""

_MANY_UNKNOWN = 0.02
# SentencePiece writes a word of unknown letters as two symbols, of which only one is unknown.
_MOST_UNKNOWN = 0.3
_MANY_TORN, _MOST_TORN = 0.1, 0.5
_MUCH_TORN = 0.2
_MANY_CASED = 0.1
_FEW_WORDS = 20
_WORD_START, _WORD_GOES_ON = "▁", "@@"
_MANY_TOKENIZED = 0.1
_MOSES = re.compile(r"&(?:apos|quot|#91|#93|#124);|@-@")
_MOSES_ESCAPES = frozenset({"&apos;", "&quot;", "@-@", "&amp;", "&#91;"})


@dataclass(frozen=True)
class UnknownTokens:
    """How many tokens of sentences, their ends aside, a vocabulary does not have."""

    count: int
    total: int

    @classmethod
    def of(cls, sentences: Sentences, vocabulary: Vocabulary) -> "UnknownTokens":
        """Count them."""
        unknown = sentences.tokens == vocabulary.unk + sentences.shift
        return cls(int(unknown.sum()), int(sentences.sizes.sum()) - len(sentences))

    @property
    def many(self) -> bool:
        """More than natural text has."""
        return self.count > _MANY_UNKNOWN * self.total

    @property
    def most(self) -> bool:
        """So many that no figure on these sentences means anything."""
        return self.count > _MOST_UNKNOWN * self.total

    def describe(self, text: str) -> str:
        """The share, in words."""
        return f"{self.count} of {self.total} {text} tokens ({self.count / self.total:.0%})"


def unknown_words(text: str, sentences: Sentences, vocabulary: Vocabulary) -> list[str]:
    """A remark where binarized sentences have many unknown words: it was binarized from text of another kind."""
    unknown = UnknownTokens.of(sentences, vocabulary)
    if not unknown.many:
        return []
    why = "was the text segmented by the model's subword model, and is it in the model's language?"
    return [f"{unknown.describe(text)} are unknown words: {why}"]


@dataclass(frozen=True)
class TextSide:
    """Raw text of one side of the data and what became of it.

    Attributes:
        name: of the file.
        side: ``source`` or ``target``.
        lines: the first lines.
        symbols: their symbols.
        sentences: all sentences as token ids.
        vocabulary: of that side.
        other: vocabulary of the other side.
        codec: what made the symbols.
    """

    name: str
    side: str
    lines: Sequence[str]
    symbols: Sequence[str]
    sentences: Sentences
    vocabulary: Vocabulary
    other: Vocabulary
    codec: TextCodec

    @property
    def text(self) -> str:
        """What the lines are, in the words of a message."""
        return "source" if self.side == "source" else "reference"

    def remarks(self, *, measured: bool) -> list[str]:
        """Everything that is probably wrong.

        Args:
            measured: figures are computed on these sentences, so that nearly unknown text is an error.

        Raises:
            DataError: text that is segmented already is segmented once more; or most tokens of text that is measured
                are unknown, or most of its words torn.
        """
        self._refuse_segmented()
        found = self._unknown(measured=measured)
        if not found:
            found = self._torn(measured=measured) or self._cased()
        found += self._tokenized()
        if self.side == "source" and self.side not in self.codec.own_segmenters:
            found += self.codec.tags.remarks(self.lines, lambda line: self.codec.encode(line, self.side))
            found += self._padded()
        return found

    def _padded(self) -> list[str]:
        """A remark on padding in sentences of a Hugging Face model, which transformers would let it attend to."""
        if not isinstance(self.vocabulary, HuggingFaceVocabulary):
            return []
        padding = self.vocabulary.symbols[self.vocabulary.pad]
        lines = sum(padding in line.split(" ") for line in self.symbols)
        return [f"{padding} in {lines} of {len(self.lines)} sentences is not read (it is padding)"] if lines else []

    def _refuse_segmented(self) -> None:
        """Refuse marks of subwords in text that is to be segmented."""
        mark = mark_of_text(self.lines) if self.codec.takes_text(self.side) else None
        if mark is not None:
            raise DataError(
                f"{self.name}: the text is segmented already (it carries the mark {mark.name}) and would be once "
                "more: leave the subword model and the tokenizer of that side out, or give text of words"
            )

    def _tokenized(self) -> list[str]:
        """A remark where Moses tokenizes what it has tokenized before: it would escape its own escapes."""
        if self.side not in self.codec.tokenizers:
            return []
        tokenized = sum(_MOSES.search(line) is not None for line in self.lines)
        if tokenized <= _MANY_TOKENIZED * len(self.lines):
            return []
        lines = f"{tokenized} of {len(self.lines)} lines have marks such as &apos; or @-@"
        return [f"the {self.text} looks tokenized by Moses already ({lines}): leave `tokenizer` moses out"]

    def _unknown(self, *, measured: bool) -> list[str]:
        unknown = UnknownTokens.of(self.sentences, self.vocabulary)
        if not unknown.many:
            return []
        reason = f"{unknown.describe(self.text)} are not in {self.vocabulary.path}: {self._why_unknown()}"
        if measured and unknown.most:
            raise DataError(f"{self.name}: {reason}")
        return [reason]

    def _why_unknown(self) -> str:
        """What the unknown tokens have in common."""
        known = set(self.vocabulary.symbols)
        tokens = [symbol for line in self.symbols for symbol in line.split()]
        unknown = [token for token in tokens if token not in known]
        joined = guess_post_process(self.vocabulary)
        if joined != "none" and not self.codec.takes_text(self.side) and mark_of_text(self.lines) is None:
            option = "sentencepiece" if joined == "sentencepiece" else "bpe_codes"
            return f"the text is not segmented: name its subword model with `{self.side}_{option}`"
        elsewhere = set(self.other.symbols)
        if elsewhere != known and 2 * sum(token not in elsewhere for token in tokens) < len(unknown):
            return "the vocabulary of the other side knows them: are the two languages exchanged?"
        if 2 * sum(token.lower() in known for token in unknown) > len(unknown):
            return f"it knows them lower-cased: `lowercase_{self.side}` lower-cases the text"
        if self.side not in self.codec.tokenizers and len(_MOSES_ESCAPES & known) > 1:
            return "its symbols are of text that Moses tokenized: give `tokenizer` moses, or text that is tokenized"
        return f"are subword model, tokenization, casing and language those of the model's {self.side} side?"

    def _torn(self, *, measured: bool) -> list[str]:
        """Words that the vocabulary has whole and that were cut all the same, as no segmenter of its own does."""
        segmenter = self.codec.segmenters.get(self.side)
        if segmenter is None:
            return []
        known = set(self.vocabulary.symbols)
        words = [word for line in self.symbols for word in _words(line.split())]
        whole = [word for word in words if "".join(word) in known]
        torn = [word for word in whole if len(word) > 1]
        # A text of another script has a few names that only the other side's model has whole: they say nothing.
        much = sum(map(len, torn)) > _MUCH_TORN * sum(map(len, words))
        if len(whole) < _FEW_WORDS or not much or len(torn) <= _MANY_TORN * len(whole):
            return []
        reason = (
            f"{segmenter.path} cuts {len(torn)} of {len(whole)} {self.text} words that {self.vocabulary.path} has "
            f"whole: is it the subword model of the {self.side} side? (`source_sentencepiece` and "
            "`target_sentencepiece`, or `source_bpe_codes` and `target_bpe_codes`, name one for each)"
        )
        if measured and len(torn) > _MOST_TORN * len(whole):
            raise DataError(f"{self.name}: {reason}")
        return [reason]

    def _cased(self) -> list[str]:
        """A remark where words were cut that the vocabulary has whole in another case."""
        known = set(self.vocabulary.symbols)
        folded = {symbol.lower() for symbol in known}
        words = [word for line in self.symbols for word in _words(line.split())]
        torn = ["".join(word) for word in words if len(word) > 1]
        cased = [word for word in torn if word not in known and word.lower() in folded]
        if len(words) < _FEW_WORDS or len(cased) <= _MANY_CASED * len(words):
            return []
        share = f"{len(cased)} of {len(words)} {self.text} words are cut that {self.vocabulary.path} has whole in"
        if 2 * sum(word.lower() in known for word in cased) > len(cased):
            return [f"{share} lower case: `lowercase_{self.side}` lower-cases the text"]
        return [f"{share} another case: was the text lower-cased?"]


def _words(symbols: Sequence[str]) -> list[list[str]]:
    """Symbols by word, separators of byte-pair encoding taken off."""
    words: list[list[str]] = []
    by_start = any(symbol.startswith(_WORD_START) for symbol in symbols)
    inside = False
    for symbol in symbols:
        if words and (inside or (by_start and not symbol.startswith(_WORD_START))):
            words[-1].append(symbol.removesuffix(_WORD_GOES_ON))
        else:
            words.append([symbol.removesuffix(_WORD_GOES_ON)])
        inside = symbol.endswith(_WORD_GOES_ON)
    return words
