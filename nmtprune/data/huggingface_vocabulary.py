"""Vocabularies of Hugging Face folders: JSON or SentencePiece models, special symbols by the settings of the model."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nmtprune import strictjson
from nmtprune.data.moses import MosesNormalizingTokenizer
from nmtprune.data.subwords import WORD_END, BpeSegmenter, Segmenter, SentencePieceSegmenter
from nmtprune.data.text import first_of
from nmtprune.data.vocabulary import SpacedSymbolTable, made_up_names
from nmtprune.errors import DataError
from nmtprune.profile import LanguageTokens, SpecialTokens
from nmtprune.strictjson import is_int, show

UNKNOWN = "<unk>"
_ID_END = 1 << 31
FIRST = ("<s>", "<pad>", "</s>", UNKNOWN)
"""What fairseq numbers first, instead of the three special pieces of a SentencePiece model."""
_NEVER_SHOWN = ("<s>", "<mask>")
_MODEL = ".model"


@dataclass(frozen=True, eq=False)
class HuggingFaceVocabulary(SpacedSymbolTable):
    """A ``vocab.json`` or a SentencePiece model, with a symbol for each row of the model's embeddings.

    What the decoder reads before the first word has an id of its own, behind those of the symbols: in Marian's models
    it is the padding symbol, which is no padding there.

    Attributes:
        path: the file.
        symbols: by id, as many as the model has rows; rows without a symbol of the file have a name made up.
        index: id of each symbol of the file.
        sha256: of the file.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        pad: id of the padding symbol.
        start_symbol: the symbol whose embedding stands before the first word.
        remarks: how the file differs from the rows of the model.
        hidden: ids of other special symbols, those of languages for example; none in Marian's models.
    """

    path: Path
    symbols: tuple[str, ...]
    index: Mapping[str, int]
    sha256: str
    eos: int
    unk: int
    pad: int
    start_symbol: str
    remarks: tuple[str, ...] = ()
    hidden: frozenset[int] = frozenset()

    sentencepiece = None

    @classmethod
    def read(
        cls, path: Path, rows: int | None, special: SpecialTokens, side: str, tokens: LanguageTokens | None = None
    ) -> "HuggingFaceVocabulary":
        """Read a file.

        Args:
            path: a JSON object of symbols and their ids, or (``.model``) a SentencePiece model that fairseq numbers.
            rows: of the model's embeddings; None: as many as the file has symbols.
            special: ids of special symbols.
            side: ``source`` or ``target``, for messages.
            tokens: language tokens, which follow the symbols of the file where `special` gives them no ids.

        Raises:
            DataError: the file cannot be read, holds something else, or is the vocabulary of another model.
        """
        pieces = path.suffix == _MODEL
        try:
            stored = path.read_bytes()
            text = "" if pieces else stored.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        index = _of_pieces(path) if pieces else _index(path, strictjson.loads(text, str(path), DataError))
        languages: list[str] = []
        if tokens is not None:
            languages = [form.format(language) for form in tokens.forms for language in tokens.languages or ()]
            index = _with_added(path, index, special.added, (*languages, *tokens.others))
        size = max(index.values()) + 1
        if rows is not None and size > rows:
            raise DataError(
                f"{path}: the vocabulary of another model: ids up to {size - 1}, but the model's {side} embeddings "
                f"have {rows} rows"
            )
        count = max(size, rows or 0)
        named = {id: symbol for symbol, id in index.items()}
        ids = {"padding": special.pad, "end-of-sentence": special.eos, "start": special.start}
        faults = [f"its {name} symbol has id {id}" for name, id in ids.items() if id >= count]
        if UNKNOWN not in index:
            faults.append(f"the file has no {UNKNOWN}")
        if faults:
            raise DataError.of_faults(f"{path}: not the vocabulary of this model, which has {count} rows", faults)
        nameless = [id for id in range(count) if id not in named]
        named |= dict(zip(nameless, made_up_names(nameless, index), strict=True))
        symbols = tuple(named[id] for id in range(count))
        remarks = (f"{path}: {len(nameless)} of {count} rows of {side} embeddings have no symbol",) if nameless else ()
        return cls(
            path, symbols, index, hashlib.sha256(stored).hexdigest(), special.eos, index[UNKNOWN], special.pad,
            symbols[special.start], remarks,
            frozenset(index[symbol] for symbol in (*languages, *_NEVER_SHOWN) if languages and symbol in index)
            | frozenset([] if special.bos is None else [special.bos]),
        )  # fmt: skip

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks; special ones are left out, as transformers does."""
        left_out = {self.eos, self.pad, *self.hidden, *(() if escape_unk else (self.unk,))}
        kept = [int(token) for token in ids if int(token) not in left_out]
        return " ".join("<<unk>>" if token == self.unk else self.symbols[token] for token in kept)


class TokenizerText:
    """From text to symbols as tokenizers of transformers do it, by a SentencePiece model and a vocabulary.

    Special symbols in the text stay whole, those of languages among them. SentencePiece cuts the rest.

    Attributes:
        path: the SentencePiece model.
        sha256: of that file.
    """

    def __init__(self, segmenter: Segmenter, vocabulary: HuggingFaceVocabulary) -> None:
        """Prepare for a side with this subword model and this vocabulary."""
        self.path, self.sha256 = segmenter.path, segmenter.sha256
        self._segmenter, self._vocabulary = segmenter, vocabulary
        special = (vocabulary.eos, vocabulary.unk, vocabulary.pad, *vocabulary.hidden)
        self._special = {vocabulary.symbols[id] for id in special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._parts = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode(self, text: str) -> str:
        """Blank-separated symbols of a sentence."""
        parts = (part for part in self._parts.split(text) if part)
        return " ".join(filter(None, (part if part in self._special else self._words(part) for part in parts)))

    def _words(self, text: str) -> str:
        """Symbols of text without special ones."""
        return self._segmenter.encode(text)


class MarianTokenizerText(TokenizerText):
    """As ``MarianTokenizer`` does it.

    ``>>...<<`` at the beginning of the text or behind a special symbol stays whole too: an unknown language becomes the
    unknown symbol.
    """

    def _words(self, text: str) -> str:
        """Symbols of text without special ones."""
        end = text.find("<<") + 2 if text.startswith(">>") else 1
        if end < 2:
            return self._segmenter.encode(text)
        known = text[:end] in self._vocabulary.index and " " not in text[:end]
        language = text[:end] if known else self._vocabulary.symbols[self._vocabulary.unk]
        return f"{language} {self._segmenter.encode(text[end:])}".strip()


class FsmtTokenizerText(TokenizerText):
    """As ``FSMTTokenizer`` does it, by Moses and merges of byte-pair encoding; and back.

    Attributes:
        method: as `Joiner.method`.
    """

    method = "subword_nmt"

    def __init__(self, segmenter: BpeSegmenter, vocabulary: HuggingFaceVocabulary, language: str) -> None:
        """Prepare for a side with these merges, this vocabulary and this language."""
        super().__init__(segmenter, vocabulary)
        self._merges, self._moses = segmenter, MosesNormalizingTokenizer(language)

    def _words(self, text: str) -> str:
        """Symbols of text without special ones."""
        return " ".join(symbol for word in self._moses.words(text) for symbol in self._merges.marked(word))

    def decode(self, symbols: str) -> str:
        """Text of blank-separated symbols."""
        return self._moses.decode(symbols.replace(" ", "").replace(WORD_END, " "))


def _of_pieces(path: Path) -> dict[str, int]:
    """Ids by symbol of the pieces of a SentencePiece model: one more than its own, behind fairseq's first symbols."""
    pieces = SentencePieceSegmenter(path).pieces
    return {symbol: id for id, symbol in enumerate((*FIRST, *pieces[len(FIRST) - 1 :]))}


def _with_added(
    path: Path, index: Mapping[str, int], added: Iterable[tuple[str, int]], behind: Iterable[str]
) -> dict[str, int]:
    """Ids by symbol with those that a folder lists, and others behind all.

    Raises:
        DataError: the folder gives a symbol an id that contradicts the file.
    """
    found = {**index, **dict(added)}
    by_id = {id: symbol for symbol, id in index.items()}
    faults = [
        f"{show(symbol)} has id {id}, and {show(by_id[id]) if id in by_id else 'the file'} has "
        f"{id if id in by_id else index[symbol]}"
        for symbol, id in added
        if by_id.get(id, symbol) != symbol or index.get(symbol, id) != id
    ]
    if faults:
        raise DataError.of_faults(f"{path}: not the vocabulary of the tokenizer's settings", first_of(faults))
    for symbol in behind:
        found.setdefault(symbol, max(found.values()) + 1)
    return found


def _index(path: Path, found: object) -> dict[str, int]:
    """Ids by symbol, from what a file holds."""
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{path}: no vocabulary: it is {show(found)}, not an object of symbols and their ids")
    wrong = [symbol for symbol, id in found.items() if not is_int(id) or not 0 <= id < _ID_END]
    faults = [f"the id of {show(symbol)} is {show(found[symbol])}" for symbol in wrong]
    by_id: dict[int, str] = {}
    for symbol, id in found.items() if not faults else ():
        if id in by_id:
            faults.append(f"{show(by_id[id])} and {show(symbol)} both have id {id}")
        by_id[id] = symbol
    if faults:
        raise DataError.of_faults(f"{path}: no vocabulary", first_of(faults))
    return dict(found)
