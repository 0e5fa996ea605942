"""From text to the symbols of a vocabulary and back: SentencePiece, byte-pair encoding, Moses tokenization."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nmtprune.data.language_tags import LanguageTags
from nmtprune.data.moses import MosesTokenizer, lowercase
from nmtprune.data.subword_files import is_byte_level, is_count, what_it_is
from nmtprune.data.text import TextFile, first_of, read_text
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.files.kinds import SENTENCEPIECE

POST_PROCESSES = (
    "sentencepiece", "subword_nmt", "@@ ", "@@", "wordpiece", "letter", "silence", "_EOW", "none"
)  # fmt: skip
"""How symbols become words again, named as fairseq's ``--post-process`` names it."""

TOKENIZERS = ("moses",)
"""Values of ``--tokenizer``, named as in fairseq."""

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
_BPE_SEPARATOR = "@@"
_JOINERS = {"sentencepiece": _WORD_START, "wordpiece": "_", "letter": "|", "_EOW": "_EOW"}
_GUESS_PER_MILLE = 1


def post_process(symbols: str, method: str) -> str:
    """Join blank-separated symbols into words as fairseq does for ``--post-process METHOD``.

    Raises:
        UsageError: an unknown method.
    """
    if method in _JOINERS:
        return symbols.replace(" ", "").replace(_JOINERS[method], " ").strip()
    if method == "silence":
        return re.sub(" +", " ", symbols.replace("<SIL>", "")).strip()
    if method in ("subword_nmt", "@@ ", "@@"):
        return (symbols + " ").replace("@@" if method == "@@" else "@@ ", "").rstrip()
    if method == "none":
        return symbols
    raise UsageError(f"--post-process '{method}' is unknown: choose among {', '.join(POST_PROCESSES)}")


def guess_post_process(vocabulary: Vocabulary) -> str:
    """How the symbols of a dictionary are to be joined, by the marks that they carry.

    A mark counts where at least one symbol in a thousand has it: a stray one in a dictionary of words decides nothing.
    """
    marks = {
        "sentencepiece": sum(symbol.startswith(_WORD_START) for symbol in vocabulary.symbols),
        "subword_nmt": sum(symbol.endswith(_BPE_SEPARATOR) for symbol in vocabulary.symbols),
    }
    method = max(marks, key=lambda name: marks[name])
    return method if marks[method] * 1000 >= _GUESS_PER_MILLE * len(vocabulary) else "none"


class Segmenter(Protocol):
    """Splits text into subword symbols."""

    path: Path
    sha256: str

    def encode(self, text: str) -> str:
        """Blank-separated symbols of a sentence."""


class Joiner(Protocol):
    """Joins subword symbols into text."""

    def decode(self, symbols: str) -> str:
        """Text of blank-separated symbols."""


class SentencePieceSegmenter:
    """A SentencePiece model; `encode` is that of fairseq's ``--bpe sentencepiece``.

    Attributes:
        path: the file.
        sha256: of the file.
        processor: SentencePiece itself.
    """

    def __init__(self, path: Path) -> None:
        """Read the model.

        Raises:
            DataError: the file cannot be read or is no SentencePiece model.
        """
        import sentencepiece

        try:
            stored = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        self.path = path
        self.sha256 = hashlib.sha256(stored).hexdigest()
        self.processor = sentencepiece.SentencePieceProcessor()
        try:
            loaded = bool(stored) and self.processor.LoadFromSerializedProto(stored)
        except RuntimeError as error:
            reason = what_it_is(path, stored, "--sentencepiece") or "that file usually ends in .model"
            if reason == SENTENCEPIECE:
                raise DataError(f"{path}: a SentencePiece model that is damaged or truncated") from error
            raise DataError(f"{path}: no SentencePiece model: {reason}") from error
        if not loaded:
            raise DataError(f"{path}: no SentencePiece model: the file is empty")

    @property
    def pieces(self) -> tuple[str, ...]:
        """All pieces by id."""
        count = self.processor.GetPieceSize()
        return tuple(self.processor.IdToPiece(number) for number in range(count))

    def encode(self, text: str) -> str:
        """Blank-separated pieces of a sentence."""
        return " ".join(self.processor.EncodeAsPieces(text))


class BpeSegmenter:
    """Byte-pair encoding by subword-nmt, with codes of subword-nmt or of fastBPE; separator ``@@``."""

    def __init__(self, path: Path) -> None:
        """Read the codes.

        Raises:
            DataError: the file cannot be read or is no list of merge operations.
        """
        from subword_nmt.apply_bpe import BPE

        text = _read_codes(path)
        self.path = path
        self.sha256 = text.sha256
        self._bpe: Any = BPE(io.StringIO("\n".join(_merge_lines(path, text.lines))), separator=_BPE_SEPARATOR)

    def encode(self, text: str) -> str:
        """Blank-separated subwords of a tokenized sentence."""
        return str(self._bpe.process_line(text))


def _read_codes(path: Path) -> TextFile:
    try:
        return read_text(path)
    except DataError as error:
        reason = what_it_is(path, path.read_bytes(), "--bpe-codes") if path.is_file() else None
        if reason is None:
            raise
        raise DataError(f"{path}: no BPE codes: {reason}") from error


def _merge_lines(path: Path, stored: tuple[str, ...]) -> list[str]:
    """Lines of a codes file as subword-nmt writes them: version, then two symbols per merge.

    fastBPE adds a third column, the frequency, and marks the end of a word as version 0.2 of subword-nmt does.
    """
    lines = [line.strip(" \r") for line in stored]
    while lines and not lines[-1]:
        lines.pop()
    version = lines[:1] if lines and lines[0].startswith("#version:") else []
    merges = [line.split(" ") for line in lines[len(version) :]]
    if version and not re.fullmatch(r"#version: *\d+(\.\d+)*", version[0]):
        raise DataError(f"{path}: line 1: '{version[0]}' is no version of BPE codes")
    if not merges:
        raise DataError(f"{path}: no BPE codes: the file holds no merge operations")
    if not version and all(is_count(line) for line in lines):
        raise DataError(
            f"{path}: no BPE codes: it is a list of words with their counts, such as fairseq's dictionaries"
        )
    if is_byte_level(merges):
        raise DataError(f"{path}: no BPE codes of subword-nmt or fastBPE: they are of byte-level BPE (GPT-2's)")
    if not version and all(len(merge) == 3 and merge[2].isdecimal() for merge in merges):
        return ["#version: 0.2", *(" ".join(merge[:2]) for merge in merges)]
    first = 1 + len(version)
    wrong = [(number, " ".join(merge)) for number, merge in enumerate(merges, first) if len(merge) != 2]
    if wrong:
        faults = [f"line {number}: '{line[:40]}' does not hold two symbols" for number, line in wrong]
        reason = what_it_is(path, "\n".join(stored).encode(), "--bpe-codes")
        raise DataError.of_faults(f"{path}: no BPE codes", [reason] if reason else first_of(faults))
    return version + [" ".join(merge) for merge in merges]


@dataclass(frozen=True)
class TextCodec:
    """Both ways between the text of a sentence and its blank-separated symbols.

    Attributes:
        post_process: how symbols are joined, one of POST_PROCESSES.
        segmenters: by side, ``source`` or ``target``, what splits words into subwords; none for text that is split.
        tokenizers: by side, what tokenizes raw text; empty for text that is not tokenized.
        detokenizer: of translations; None where they are not detokenized.
        lowercased: sides whose raw text is lower-cased, behind the tokenizer.
        own_segmenters: by side, those that take the place of `segmenters` there.
        tags: tokens in front of source sentences that no segmenter may tear.
        strips: white space at both ends of a line goes, as fairseq-interactive has it.
        joiners: by side, what joins symbols where `post_process` is ``sentencepiece``; without one strings are joined,
            as fairseq does.
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
        joiner = self.joiners.get(side) if self.post_process == "sentencepiece" else None
        text = joiner.decode(symbols) if joiner else post_process(symbols, self.post_process)
        return self.detokenizer.decode(text) if self.detokenizer else text
