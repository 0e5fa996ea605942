"""Subword segmenters (SentencePiece, byte-pair encoding), and how their symbols become words again."""

import hashlib
import io
import re
from pathlib import Path
from typing import Any, Protocol

from nmtprune.data.text import TextFile, first_of, read_text
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
WORD_END = "</w>"
"""What merges of byte-pair encoding have behind the last letter of a word."""

_ENDS_WITH_LETTERS = (0, 2)
"""Version of codes in which the mark is part of a word's last letter, as fastBPE has it."""

_JOINERS = {"sentencepiece": _WORD_START, "wordpiece": "_", "letter": "|", "_EOW": "_EOW"}
_GUESS_PER_MILLE = 1

_SHOWN = 200
_MERGE = r"\S+ \S+( \d+)?"
_BYTE_LEVEL = "Ġ"
_MOSTLY_BYTE_LEVEL = 0.2


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
    raise UsageError(f"`post_process` '{method}' is unknown: choose among {', '.join(POST_PROCESSES)}")


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
            reason = _other_kind(path, stored, "`sentencepiece`") or "that file usually ends in .model"
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
        self._pieces: dict[str, Any] = {}
        self._bpe: Any = BPE(io.StringIO("\n".join(_merge_lines(path, text.lines))), separator=_BPE_SEPARATOR)

    def encode(self, text: str) -> str:
        """Blank-separated subwords of a tokenized sentence."""
        return str(self._bpe.process_line(text))

    def marked(self, word: str) -> list[str]:
        """Pieces of a word as fastBPE's codes have them: the last one ends with `WORD_END`, no separators."""
        from subword_nmt.apply_bpe import encode

        codes, back = self._bpe.bpe_codes, self._bpe.bpe_codes_reverse
        found = encode(word, codes, back, None, _BPE_SEPARATOR, _ENDS_WITH_LETTERS, self._pieces)
        return [*found[:-1], f"{found[-1]}{WORD_END}"]


def _read_codes(path: Path) -> TextFile:
    try:
        return read_text(path)
    except DataError as error:
        reason = _other_kind(path, path.read_bytes(), "`bpe_codes`") if path.is_file() else None
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
    if not version and all(_is_count(line) for line in lines):
        raise DataError(
            f"{path}: no BPE codes: it is a list of words with their counts, such as fairseq's dictionaries"
        )
    if _is_byte_level(merges):
        raise DataError(f"{path}: no BPE codes of subword-nmt or fastBPE: they are of byte-level BPE (GPT-2's)")
    if not version and all(len(merge) == 3 and merge[2].isdecimal() for merge in merges):
        return ["#version: 0.2", *(" ".join(merge[:2]) for merge in merges)]
    first = 1 + len(version)
    wrong = [(number, " ".join(merge)) for number, merge in enumerate(merges, first) if len(merge) != 2]
    if wrong:
        faults = [f"line {number}: '{line[:40]}' does not hold two symbols" for number, line in wrong]
        reason = _other_kind(path, "\n".join(stored).encode(), "`bpe_codes`")
        raise DataError.of_faults(f"{path}: no BPE codes", [reason] if reason else first_of(faults))
    return version + [" ".join(merge) for merge in merges]


def _other_kind(path: Path, stored: bytes, option: str) -> str | None:
    """The kind of a file by its content, and what to do with it; None where it is nothing known.

    SENTENCEPIECE alone for what begins as such a model, and cannot be loaded.

    Args:
        path: its name.
        stored: its bytes.
        option: that named it, for which it is not the right file.
    """
    other = describe(path)
    if other is not None and SENTENCEPIECE not in other:
        return f"it {other}"
    found = _kind(path, stored)
    if found is not None and not found.endswith(option):
        return found
    return None if other is None else SENTENCEPIECE


def _kind(path: Path, stored: bytes) -> str | None:
    try:
        lines = stored.decode("utf-8-sig").splitlines()[:_SHOWN]
    except UnicodeDecodeError:
        return "it is a SentencePiece model: name it with `sentencepiece`" if _is_sentencepiece(stored) else None
    if stored.startswith((b"{", b"[")):
        return "it is JSON"
    if not lines:
        return None
    pieces = f"it is a list of SentencePiece's pieces: name the model, {path.with_suffix('.model').name}"
    words = "it is a list of words with their counts, such as fairseq's dictionaries"
    codes = "it holds BPE codes: name it with `bpe_codes`"
    forms = {r".*\t-?[\d.e+-]+": pieces, r".+: \d+": "it is a vocabulary", r"\S+ \d+\s*": words, _MERGE: codes}
    if lines[0].startswith("#version:"):
        return codes
    return next((kind for form, kind in forms.items() if all(re.fullmatch(form, line) for line in lines)), None)


def _is_sentencepiece(stored: bytes) -> bool:
    """Whether the bytes are a SentencePiece model."""
    import sentencepiece

    try:
        return bool(stored) and bool(sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(stored))
    except RuntimeError:
        return False


def _is_count(line: str) -> bool:
    """Whether a line is a word and its count, the form of dictionaries."""
    return re.fullmatch(r"\S+ \d+", line.rstrip()) is not None


def _is_byte_level(merges: list[list[str]]) -> bool:
    """Whether merge operations are of byte-level BPE, which writes a blank as a letter of its own."""
    return sum(merge[0].startswith(_BYTE_LEVEL) for merge in merges) > _MOSTLY_BYTE_LEVEL * len(merges)
