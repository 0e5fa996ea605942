"""Vocabularies of Hugging Face folders: symbols with their ids as JSON, special ones by the settings of the model."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nmtprune import strictjson
from nmtprune.data.subwords import Segmenter
from nmtprune.data.text import first_of
from nmtprune.data.vocabulary import SpacedSymbolTable, made_up_names
from nmtprune.errors import DataError
from nmtprune.profile import SpecialTokens
from nmtprune.strictjson import is_int, show

UNKNOWN = "<unk>"
_ID_END = 1 << 31


@dataclass(frozen=True, eq=False)
class HuggingFaceVocabulary(SpacedSymbolTable):
    """A ``vocab.json``, with a symbol for each row of the model's embeddings.

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

    sentencepiece = None

    @classmethod
    def read(cls, path: Path, rows: int | None, special: SpecialTokens, side: str) -> "HuggingFaceVocabulary":
        """Read a file.

        Args:
            path: a JSON object of symbols and their ids.
            rows: of the model's embeddings; None: as many as the file has symbols.
            special: ids of special symbols.
            side: ``source`` or ``target``, for messages.

        Raises:
            DataError: the file cannot be read, holds something else, or is the vocabulary of another model.
        """
        try:
            stored = path.read_bytes()
            text = stored.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        index = _index(path, strictjson.loads(text, str(path), DataError))
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
        )  # fmt: skip

    def string(self, ids: Iterable[int], *, escape_unk: bool = False) -> str:
        """Symbols of a sequence of ids, separated by blanks; special ones are left out, as transformers does."""
        left_out = (self.eos, self.pad) if escape_unk else (self.eos, self.pad, self.unk)
        kept = [int(token) for token in ids if int(token) not in left_out]
        return " ".join("<<unk>>" if token == self.unk else self.symbols[token] for token in kept)


class MarianTokenizerText:
    """From text to symbols as transformers' ``MarianTokenizer`` does it, by a SentencePiece model and a vocabulary.

    Special symbols in the text stay whole, and so does ``>>...<<`` at its beginning or behind one of them: an unknown
    language becomes the unknown symbol. SentencePiece cuts the rest.

    Attributes:
        path: the SentencePiece model.
        sha256: of that file.
    """

    def __init__(self, segmenter: Segmenter, vocabulary: HuggingFaceVocabulary) -> None:
        """Prepare for a side with this subword model and this vocabulary."""
        self.path, self.sha256 = segmenter.path, segmenter.sha256
        self._segmenter, self._vocabulary = segmenter, vocabulary
        self._special = {vocabulary.symbols[id] for id in (vocabulary.eos, vocabulary.unk, vocabulary.pad)}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._parts = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def encode(self, text: str) -> str:
        """Blank-separated symbols of a sentence."""
        parts = (part for part in self._parts.split(text) if part)
        return " ".join(filter(None, (part if part in self._special else self._words(part) for part in parts)))

    def _words(self, text: str) -> str:
        """Symbols of text without special ones."""
        end = text.find("<<") + 2 if text.startswith(">>") else 1
        if end < 2:
            return self._segmenter.encode(text)
        known = text[:end] in self._vocabulary.index and " " not in text[:end]
        language = text[:end] if known else self._vocabulary.symbols[self._vocabulary.unk]
        return f"{language} {self._segmenter.encode(text[end:])}".strip()


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
