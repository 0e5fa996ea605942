"""From text to the symbols of a vocabulary and back: SentencePiece, byte-pair encoding, Moses tokenization."""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nmtprune.data.text import first_of, read_text
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.files.kinds import SENTENCEPIECE, describe

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


class SentencePieceSegmenter:
    """A SentencePiece model; `encode` is that of fairseq's ``--bpe sentencepiece``."""

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
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            loaded = bool(stored) and self._processor.LoadFromSerializedProto(stored)
        except RuntimeError as error:
            instead = describe(path) or "no SentencePiece model: that file usually ends in .model"
            damaged = "a SentencePiece model that is damaged or truncated"
            raise DataError(f"{path}: {damaged if SENTENCEPIECE in instead else instead}") from error
        if not loaded:
            raise DataError(f"{path}: no SentencePiece model: the file is empty")

    @property
    def pieces(self) -> tuple[str, ...]:
        """All pieces by id."""
        count = self._processor.GetPieceSize()
        return tuple(self._processor.IdToPiece(number) for number in range(count))

    def encode(self, text: str) -> str:
        """Blank-separated pieces of a sentence."""
        return " ".join(self._processor.EncodeAsPieces(text))


class BpeSegmenter:
    """Byte-pair encoding by subword-nmt, with codes of subword-nmt or of fastBPE; separator ``@@``."""

    def __init__(self, path: Path) -> None:
        """Read the codes.

        Raises:
            DataError: the file cannot be read or is no list of merge operations.
        """
        from subword_nmt.apply_bpe import BPE

        text = read_text(path)
        self.path = path
        self.sha256 = text.sha256
        self._bpe: Any = BPE(io.StringIO("\n".join(_merge_lines(path, text.lines))), separator=_BPE_SEPARATOR)

    def encode(self, text: str) -> str:
        """Blank-separated subwords of a tokenized sentence."""
        return str(self._bpe.process_line(text))


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
    if not version and all(len(merge) == 3 and merge[2].isdecimal() for merge in merges):
        return ["#version: 0.2", *(" ".join(merge[:2]) for merge in merges)]
    first = 1 + len(version)
    wrong = [(number, " ".join(merge)) for number, merge in enumerate(merges, first) if len(merge) != 2]
    if wrong:
        faults = [f"line {number}: '{line[:40]}' does not hold two symbols" for number, line in wrong]
        raise DataError.of_faults(f"{path}: no BPE codes", first_of(faults))
    return version + [" ".join(merge) for merge in merges]


class MosesTokenizer:
    """Tokenization and detokenization by sacremoses, with the settings of fairseq's ``--tokenizer moses``."""

    def __init__(self, language: str) -> None:
        from sacremoses import MosesDetokenizer
        from sacremoses import MosesTokenizer as Tokenizer

        self._tokenizer: Any = Tokenizer(language)
        self._detokenizer: Any = MosesDetokenizer(language)

    def encode(self, text: str) -> str:
        """Tokenize a sentence: hyphens apart, XML characters escaped."""
        return str(self._tokenizer.tokenize(text, aggressive_dash_splits=True, return_str=True, escape=True))

    def decode(self, text: str) -> str:
        """Detokenize a sentence."""
        return str(self._detokenizer.detokenize(text.split()))


@dataclass(frozen=True)
class TextCodec:
    """Both ways between the text of a sentence and its blank-separated symbols.

    Attributes:
        post_process: how symbols are joined, one of POST_PROCESSES.
        segmenter: splits words into subwords; None for text that is already split.
        tokenizers: ``source`` and ``target`` tokenizer; empty for text that is not tokenized.
        own_segmenters: by side, those that take the place of `segmenter` there.
    """

    post_process: str
    segmenter: Segmenter | None = None
    tokenizers: Mapping[str, MosesTokenizer] = field(default_factory=dict)
    own_segmenters: Mapping[str, Segmenter] = field(default_factory=dict)

    def encode(self, text: str, side: str) -> str:
        """Symbols of a sentence of side ``source`` or ``target``, as fairseq-interactive makes them."""
        text = text.strip()
        if side in self.tokenizers:
            text = self.tokenizers[side].encode(text)
        segmenter = self.own_segmenters.get(side, self.segmenter)
        return segmenter.encode(text) if segmenter else text

    def decode(self, symbols: str) -> str:
        """Text of the target side from its symbols, as fairseq-generate scores it."""
        text = post_process(symbols, self.post_process)
        return self.tokenizers["target"].decode(text) if "target" in self.tokenizers else text
