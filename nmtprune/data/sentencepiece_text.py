"""Text to ids and back by a SentencePiece model itself, as Marian has it done: no strings are joined."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nmtprune.data.subwords import SentencePieceSegmenter
from nmtprune.errors import DataError

_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"


class SentencePieceText:
    """A SentencePiece model that is a vocabulary of Marian's.

    Attributes:
        path: the file.
        sha256: of the file.
        processor: SentencePiece itself.
        labels: a name for each id, without blanks: the piece, for nearly all.
        relabelled: some labels are not pieces.
        eos: id of the end-of-sentence symbol.
        unk: id of the unknown symbol.
        control: ids of control characters, which models with byte fallback have and Marian does not choose.
        method: as `Joiner.method`.
    """

    method = "sentencepiece"

    def __init__(self, path: Path) -> None:
        """Read the model.

        Raises:
            DataError: it cannot be read, is no SentencePiece model, or has no end-of-sentence symbol.
        """
        segmenter = SentencePieceSegmenter(path)
        self.path, self.sha256 = path, segmenter.sha256
        self.processor: Any = segmenter.processor
        self.eos, self.unk = int(self.processor.eos_id()), int(self.processor.unk_id())
        if self.eos < 0 or self.unk < 0:
            missing = " and no ".join(
                name for name, id in (("end-of-sentence", self.eos), ("unknown", self.unk)) if id < 0
            )
            raise DataError(f"{path}: no vocabulary of Marian's: it has no {missing} symbol")
        self.labels = _labels(segmenter.pieces)
        self.relabelled = self.labels != segmenter.pieces
        bytes_of_control = (self.processor.PieceToId(f"<0x{code:02X}>") for code in range(32))
        self.control = tuple(id for id in bytes_of_control if id != self.unk)
        self._ids = {label: number for number, label in enumerate(self.labels)}
        self._guard = self._letter() if _blanks_are_behind(self.labels) else None

    def _letter(self) -> int | None:
        """A piece of one character that is written as it is."""
        alone = (id for id, label in enumerate(self.labels) if len(label) == 1 and label != _BLANK)
        return next((id for id in alone if self.processor.DecodeIds([id]) == self.labels[id]), None)

    def encode(self, text: str) -> str:
        """Blank-separated labels of a sentence."""
        return " ".join(self.labels[number] for number in self.processor.EncodeAsIds(text))

    def decode(self, symbols: str) -> str:
        """Text of blank-separated labels: byte pieces become characters, an unknown word `` ⁇ ``."""
        ids = [self._ids[label] for label in symbols.split(" ") if label]
        return (
            self._with_blanks_behind(ids)
            if self._guard is not None
            else str(self.processor.DecodeIds(self._without_blanks_in_front(ids)))
        )

    def _without_blanks_in_front(self, ids: list[int]) -> list[int]:
        """Ids without single blanks in front: all go in Marian's version of SentencePiece, in later ones the first."""
        blank = self._ids.get(_BLANK)
        if blank is None or self.processor.DecodeIds([blank]):
            return ids
        first = next((place for place, id in enumerate(ids) if id != blank), len(ids))
        return ids[first:]

    def _with_blanks_behind(self, ids: list[int]) -> str:
        """Text of a model whose pieces end with blanks: Marian's version takes the last blank away, not the first."""
        text = str(self.processor.DecodeIds([self._guard, *ids]))[1:]
        return text.removesuffix(" ") if ids and self.labels[ids[-1]].endswith(_BLANK) else text


class SentencePieceJoiner:
    """Joins pieces by the SentencePiece model of the target side, where the vocabulary is a list of symbols."""

    method = "sentencepiece"

    def __init__(self, segmenter: SentencePieceSegmenter) -> None:
        self._processor: Any = segmenter.processor

    def decode(self, symbols: str) -> str:
        """Text of blank-separated pieces; those of the other side's model, which this one does not know, are joined."""
        text = str(self._processor.DecodePieces([symbol for symbol in symbols.split(" ") if symbol]))
        return text.replace(_BLANK, " ").strip()


def _blanks_are_behind(labels: Iterable[str]) -> bool:
    """Whether blanks stand at the end of pieces (``treat_whitespace_as_suffix``) and not at their start."""
    longer = [label for label in labels if len(label) > 1]
    return any(label.endswith(_BLANK) for label in longer) and not any(label.startswith(_BLANK) for label in longer)


def _labels(pieces: Iterable[str]) -> tuple[str, ...]:
    """Pieces as they are; where they hold blanks, which separate labels, another character that no piece has."""
    listed = tuple(pieces)
    if not any(" " in piece for piece in listed):
        return listed
    used = {char for piece in listed for char in piece}
    blank = next(char for char in map(chr, range(0x2420, 0x10FFFF)) if char not in used)
    return tuple(piece.replace(" ", blank) for piece in listed)
