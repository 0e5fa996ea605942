"""Text to ids and back by a SentencePiece model itself, as Marian has it done: no strings are joined."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nmtprune.data.subwords import SentencePieceSegmenter
from nmtprune.errors import DataError


class SentencePieceText:
    """A SentencePiece model that is a vocabulary of Marian's.

    Attributes:
        path: the file.
        sha256: of the file.
        labels: a name for each id, without blanks: the piece, for nearly all.
        relabelled: some labels are not pieces.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        control: ids of control characters, which models with byte fallback have and Marian does not choose.
    """

    def __init__(self, path: Path) -> None:
        """Read the model.

        Raises:
            DataError: it cannot be read, is no SentencePiece model, or has no end-of-sentence symbol.
        """
        segmenter = SentencePieceSegmenter(path)
        self.path, self.sha256 = path, segmenter.sha256
        self._processor: Any = segmenter.processor
        self.eos, self.unk = int(self._processor.eos_id()), int(self._processor.unk_id())
        if self.eos < 0 or self.unk < 0:
            missing = " and no ".join(
                name for name, id in (("end-of-sentence", self.eos), ("unknown", self.unk)) if id < 0
            )
            raise DataError(f"{path}: no vocabulary of Marian's: it has no {missing} symbol")
        self.labels = _labels(segmenter.pieces)
        self.relabelled = self.labels != segmenter.pieces
        bytes_of_control = (self._processor.PieceToId(f"<0x{code:02X}>") for code in range(32))
        self.control = tuple(id for id in bytes_of_control if id != self.unk)
        self._ids = {label: number for number, label in enumerate(self.labels)}

    def encode(self, text: str) -> str:
        """Blank-separated labels of a sentence."""
        return " ".join(self.labels[number] for number in self._processor.EncodeAsIds(text))

    def decode(self, symbols: str) -> str:
        """Text of blank-separated labels: byte pieces become characters, an unknown word `` ⁇ ``."""
        return str(self._processor.DecodeIds([self._ids[label] for label in symbols.split(" ") if label]))


class SentencePieceJoiner:
    """Joins pieces by the SentencePiece model of the target side, where the vocabulary is a list of symbols."""

    def __init__(self, segmenter: SentencePieceSegmenter) -> None:
        self._processor: Any = segmenter.processor

    def decode(self, symbols: str) -> str:
        """Text of blank-separated pieces; those of the other side's model, which this one does not know, are joined."""
        text = str(self._processor.DecodePieces([symbol for symbol in symbols.split(" ") if symbol]))
        return text.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip()


def _labels(pieces: Iterable[str]) -> tuple[str, ...]:
    """Pieces as they are; where they hold blanks, which separate labels, another character that no piece has."""
    listed = tuple(pieces)
    if not any(" " in piece for piece in listed):
        return listed
    used = {char for piece in listed for char in piece}
    blank = next(char for char in map(chr, range(0x2420, 0x10FFFF)) if char not in used)
    return tuple(piece.replace(" ", blank) for piece in listed)
