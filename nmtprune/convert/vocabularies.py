"""The vocabularies of a model as the files of other toolkits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from nmtprune.data.marian_vocabulary import SENTENCEPIECE, MarianVocabulary
from nmtprune.data.subwords import SentencePieceSegmenter
from nmtprune.data.vocabulary import Vocabulary

UNKNOWN, EOS, PAD = "<unk>", "</s>", "<pad>"


def numbered(vocabulary: Vocabulary) -> dict[str, int]:
    """Symbols of a vocabulary with their ids, in the order of the ids; rows without a symbol are left out."""
    index = getattr(vocabulary, "index", {})
    return {symbol: id for id, symbol in enumerate(vocabulary.symbols) if index.get(symbol) == id}


def symbol_faults(vocabulary: Vocabulary, side: str) -> Iterator[str]:
    """Special symbols of a side that have other names than most toolkits give them."""
    for id, name in ((vocabulary.eos, EOS), (vocabulary.unk, UNKNOWN)):
        if vocabulary.symbols[id] != name:
            yield f"the {side} vocabulary calls {name} '{vocabulary.symbols[id]}'"


def write_json(path: Path, symbols: dict[str, int]) -> None:
    """Write ``vocab.json``."""
    path.write_text(json.dumps(symbols, ensure_ascii=False, indent=0), encoding="utf-8")


def write_yaml(path: Path, symbols: dict[str, int]) -> None:
    """Write a vocabulary of Marian's: one symbol per line, in quotes of YAML that every parser reads alike."""
    lines = (f"{json.dumps(symbol, ensure_ascii=True)}: {id}\n" for symbol, id in symbols.items())
    text = "".join(lines)
    if not isinstance(yaml.safe_load(text), dict):  # symbols that JSON and YAML spell differently
        raise ValueError(f"{path}: no YAML")
    path.write_text(text, encoding="utf-8")


def dictionary_faults(vocabulary: Vocabulary, side: str) -> Iterator[str]:
    """Why fairseq's dictionary cannot say a vocabulary."""
    first = ("<s>", PAD, EOS, UNKNOWN)
    if vocabulary.symbols[:4] != first or (vocabulary.pad, vocabulary.unk) != (1, 3):
        shown = ", ".join(f"'{symbol}'" for symbol in vocabulary.symbols[:4])
        yield f"the {side} vocabulary begins with {shown}, not with {', '.join(first)} (fairseq's ids 0 to 3)"
    unfit = [symbol for symbol in vocabulary.symbols[4:] if not symbol or symbol != symbol.strip() or "\n" in symbol]
    unfit = unfit or [symbol for symbol in vocabulary.symbols[4:] if len(symbol.splitlines()) > 1]
    if unfit:
        yield f"symbols of the {side} vocabulary that a line of a dictionary cannot hold: {unfit[0]!r}"


def write_dictionary(path: Path, vocabulary: Vocabulary) -> None:
    """Write ``dict.LANG.txt``; symbols that stand twice are marked, so that ids stay."""
    counts = getattr(vocabulary, "counts", ())
    seen, lines = set(vocabulary.symbols[:4]), []
    for id, symbol in enumerate(vocabulary.symbols[4:], 4):
        count = counts[id] if id < len(counts) else 1
        lines.append(f"{symbol} {count}{' #fairseq:overwrite' if symbol in seen else ''}\n")
        seen.add(symbol)
    path.write_text("".join(lines), encoding="utf-8")


def is_of_pieces(symbols: dict[str, int], model: Path) -> bool:
    """Whether ids are those of a SentencePiece model, which is then the vocabulary of a Marian model itself."""
    pieces = SentencePieceSegmenter(model).pieces
    return symbols == {piece: id for id, piece in enumerate(pieces)}


def subword_models(
    vocabularies: tuple[Vocabulary, Vocabulary], named: tuple[Path | None, Path | None]
) -> tuple[Path | None, Path | None]:
    """SentencePiece models of both sides: those that are named, or the vocabularies that are such models."""
    found = []
    for vocabulary, path in zip(vocabularies, named, strict=True):
        own = isinstance(vocabulary, MarianVocabulary) and vocabulary.path.suffix == SENTENCEPIECE
        found.append(vocabulary.path if own else path)
    return found[0], found[1]


def copy(source: Path, target: Path) -> None:
    """Copy a file's content."""
    shutil.copyfile(source, target)
