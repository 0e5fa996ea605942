"""Token ids as text that Marian reads and writes: a name for every id, so that all engines have the same ids."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.marian_vocabulary import SENTENCEPIECE, MarianVocabulary
from nmtprune.data.sentences import Sentences

PIECES = ("--no-spm-encode", "--no-spm-decode")
"""Options of marian-decoder with which a SentencePiece vocabulary takes and gives pieces."""


@dataclass(frozen=True)
class Names:
    """A vocabulary file that is written for Marian.

    Attributes:
        file: the vocabulary.
        names: by id, without blanks.
        ids: by name.
        eos: id of the end-of-sentence symbol.
        pieces: the file is a SentencePiece model, whose pieces are the names.
    """

    file: Path
    names: tuple[str, ...]
    ids: Mapping[str, int]
    eos: int
    pieces: bool = False

    @classmethod
    def listed(cls, vocabulary: MarianVocabulary, folder: Path, side: str) -> "Names":
        """Write a list of made-up names: whatever symbols a vocabulary has, and whichever ids have none."""
        names = [f"i{id}" for id in range(len(vocabulary))]
        names[vocabulary.eos], names[vocabulary.unk] = "</s>", "<unk>"
        file = folder / f"{side}.yml"
        file.write_text("".join(f'"{name}": {id}\n' for id, name in enumerate(names)), encoding="utf-8")
        return cls(file, tuple(names), {name: id for id, name in enumerate(names)}, vocabulary.eos)

    @classmethod
    def of_pieces(cls, vocabulary: MarianVocabulary, folder: Path, side: str) -> "Names":
        """Hand over a SentencePiece model itself, from which alone Marian knows the control characters to avoid."""
        file = folder / f"{side}{SENTENCEPIECE}"
        shutil.copyfile(vocabulary.path, file)
        return cls(file, vocabulary.symbols, vocabulary.index, vocabulary.eos, pieces=True)

    def write(self, sentences: Sentences, path: Path) -> Path:
        """Write sentences, a line each, without the end-of-sentence symbol that Marian adds."""
        with path.open("w", encoding="utf-8") as file:
            for place in range(len(sentences)):
                own = (self.names[token] for token in sentences[place].tolist()[:-1])
                file.write(" ".join(own) + "\n")
        return path

    def read(self, text: str) -> tuple[int, ...]:
        """Ids of a translation that Marian printed, with the end-of-sentence symbol that it leaves out."""
        return (*(self.ids[name] for name in text.split(" ") if name), self.eos)


def names_of(vocabulary: MarianVocabulary, folder: Path, side: str, *, allow_special: bool) -> Names:
    """The vocabulary file with which Marian translates into a side, or from it.

    Args:
        vocabulary: of the side.
        folder: where the file is written.
        side: ``source`` or ``target``.
        allow_special: control characters may be chosen.
    """
    barred = side == "target" and bool(vocabulary.control) and not allow_special
    return (Names.of_pieces if barred else Names.listed)(vocabulary, folder, side)
