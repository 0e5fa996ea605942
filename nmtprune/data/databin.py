"""A folder as fairseq-preprocess writes it: which subsets and language pairs it holds, and the sentences of them."""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nmtprune.data.mmap import data_path, index_path, read_sentences, write_sentences
from nmtprune.data.ragged import Sentences
from nmtprune.data.vocabulary import FairseqVocabulary
from nmtprune.errors import DataError
from nmtprune.files import write_text
from nmtprune.files.places import parts, some

_TRAIN = "train"
_PAD, _UNK = "<pad>", "<unk>"
_EOS = "</s>"
_SPECIAL = {_PAD: FairseqVocabulary.pad, _UNK: FairseqVocabulary.unk, _EOS: FairseqVocabulary.eos}
_FIRST_WORD = 4


@dataclass(frozen=True, order=True)
class Languages:
    """Source and target language, as file names spell them."""

    source: str
    target: str

    def __str__(self) -> str:
        """``en-de``."""
        return f"{self.source}-{self.target}"

    @property
    def reversed(self) -> "Languages":
        """The opposite direction."""
        return Languages(self.target, self.source)


@dataclass(frozen=True)
class Bitext:
    """Binarized sentences of one subset; the target side may be missing.

    Attributes:
        name: ``valid.en-de``, for messages.
        source: source sentences.
        target: target sentences, as many, or None.
        files: every file read.
    """

    name: str
    source: Sentences
    target: Sentences | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class DataBin:
    """A folder of ``SUBSET.SRC-TGT.LANG.{bin,idx}`` and ``dict.LANG.txt``."""

    folder: Path

    def subsets(self) -> dict[str, set[Languages]]:
        """Language pairs of every binarized subset.

        Raises:
            DataError: there is no such folder, or it cannot be read.
        """
        found: dict[str, set[Languages]] = {}
        for name in self._names():
            parsed = _parse(name)
            if parsed:
                found.setdefault(parsed[0], set()).add(parsed[1])
        return found

    def check_subsets(self, names: Iterable[str]) -> None:
        """Check that subsets are there, of any languages.

        Raises:
            DataError: some are missing: those that are there are named, and what may be there in their place.
        """
        there = self.subsets()
        missing = [name for name in names if name not in there]
        if missing:
            listed = ", ".join(f"'{name}'" for name in missing)
            instead = _other_subset(self.folder, missing[0], self._names())
            others = [_listing(self.folder, sorted(there))] if there or not instead else []
            raise DataError("; ".join([f"{self.folder}: no subset {listed}", *others, *filter(None, [instead])]))

    def dictionary(self, language: str) -> FairseqVocabulary:
        """The vocabulary of a language.

        Raises:
            DataError: it is missing (those that are there are named) or damaged.
        """
        path = self._dictionary_path(language)
        if not path.exists():
            there = sorted(path.name for path in self.folder.glob("dict.*.txt"))
            raise DataError(f"{path}: no such dictionary; {_listing(self.folder, there)}")
        return FairseqVocabulary.read(path)

    def choose_languages(
        self, subsets: tuple[str, ...], wanted: tuple[str | None, str | None], trained: tuple[str | None, str | None]
    ) -> Languages:
        """Languages of the data: those wanted, else the model's if the folder has them, else the folder's only pair.

        Args:
            subsets: what is to be read; empty where only dictionaries are.
            wanted: source and target language that the user named.
            trained: source and target language of the checkpoint.

        Raises:
            DataError: a subset is missing (those that are there are named), or more than one pair is left.
        """
        self.check_subsets(subsets)
        there = self.subsets()
        if wanted[0] and wanted[1]:
            return Languages(wanted[0], wanted[1])
        pairs = set.intersection(*(there[name] for name in subsets)) if subsets else set().union(*there.values())
        both_ways = pairs | {pair.reversed for pair in pairs}
        if trained[0] and trained[1]:
            pair = Languages(trained[0], trained[1])
            known = pair in both_ways or (not subsets and self._has_dictionaries(pair))
            if known and _fits(pair, wanted):
                return pair
        fitting = sorted(pair for pair in (both_ways if any(wanted) else pairs) if _fits(pair, wanted))
        if len(fitting) == 1:
            return fitting[0]
        found = f"it holds {', '.join(map(str, sorted(pairs)))}" if pairs else "no file name tells them"
        raise DataError(f"{self.folder}: unclear languages: {found}; give `source_lang` and `target_lang`")

    def read(self, subset: str, languages: Languages, symbols: tuple[int, int], *, join_shards: bool = False) -> Bitext:
        """Map both sides of a subset, binarized in either direction.

        Args:
            subset: its name.
            languages: source and target.
            symbols: sizes of the source and the target dictionary.
            join_shards: add SUBSET1, SUBSET2, ... while there are such.

        Raises:
            DataError: a file is missing or damaged, or the two sides do not fit each other.
        """
        prefix = self._prefix(subset, languages)
        if prefix is None:
            has = ", ".join(map(str, sorted(self.subsets().get(subset, ()))))
            raise DataError(f"{self.folder}: subset '{subset}' is not binarized for {languages} (it is for {has})")
        parts = [_read_pair(prefix, languages, symbols)]
        for number in itertools.count(1) if join_shards else ():
            shard = self._prefix(f"{subset}{number}", languages)
            if shard is None:
                break
            parts.append(_read_pair(shard, languages, symbols))
        return joined(parts)

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()]
        except OSError as error:
            reason = _other_folder(self.folder) or f"no readable data folder: {error.strerror or error}"
            raise DataError(f"{self.folder}: {reason}") from error

    def _prefix(self, subset: str, languages: Languages) -> Path | None:
        for pair in (languages, languages.reversed):
            prefix = self.folder / f"{subset}.{pair}"
            if index_path(_side(prefix, languages.source)).exists():
                return prefix
        return None

    def _dictionary_path(self, language: str) -> Path:
        return self.folder / f"dict.{language}.txt"

    def _has_dictionaries(self, pair: Languages) -> bool:
        return all(self._dictionary_path(language).exists() for language in (pair.source, pair.target))


def joined(parts: list[Bitext]) -> Bitext:
    """Several subsets as one.

    Raises:
        DataError: some have a target side and some have none.
    """
    if len(parts) == 1:
        return parts[0]
    targets = [part.target for part in parts if part.target is not None]
    if targets and len(targets) < len(parts):
        lacking = ", ".join(part.name for part in parts if part.target is None)
        raise DataError(f"{lacking}: no target side, but other parts of the data have one")
    return Bitext(
        name="+".join(part.name for part in parts),
        source=Sentences.joined([part.source for part in parts]),
        target=Sentences.joined(targets) if targets else None,
        files=tuple(path for part in parts for path in part.files),
    )


def _parse(name: str) -> tuple[str, Languages] | None:
    """Subset and languages of ``SUBSET.SRC-TGT.LANG.idx``; subsets may hold dots and languages hyphens."""
    if not name.endswith(".idx"):
        return None
    rest, _, language = name.removesuffix(".idx").rpartition(".")
    subset, _, pair = rest.rpartition(".")
    if not subset or not language:
        return None
    if pair.startswith(f"{language}-"):
        return subset, Languages(language, pair.removeprefix(f"{language}-"))
    if pair.endswith(f"-{language}"):
        return subset, Languages(pair.removesuffix(f"-{language}"), language)
    return None


def _listing(folder: Path, names: list[str]) -> str:
    return f"there are {', '.join(names)}" if names else f"there is none in {folder}: run fairseq-preprocess"


def _fits(pair: Languages, wanted: tuple[str | None, str | None]) -> bool:
    return wanted[0] in (None, pair.source) and wanted[1] in (None, pair.target)


def _side(prefix: Path, language: str) -> Path:
    return prefix.with_name(f"{prefix.name}.{language}")


def _read_pair(prefix: Path, languages: Languages, symbols: tuple[int, int]) -> Bitext:
    source_path, target_path = _side(prefix, languages.source), _side(prefix, languages.target)
    source = read_sentences(source_path, symbols[0])
    has_target = index_path(target_path).exists() or data_path(target_path).exists()
    target = read_sentences(target_path, symbols[1]) if has_target else None
    if target is not None and len(target) != len(source):
        counts = f"{len(source)} sentences, but {target_path.name} has {len(target)}"
        raise DataError(f"{source_path}: {counts}: the two sides are not of one corpus")
    for path, sentences in ((source_path, source), (target_path, target)):
        if sentences is not None and not sentences.sizes.all():
            empty = int(np.argmin(sentences.sizes))
            raise DataError(f"{path}: sentence {empty} (counted from 0) has no tokens, not even the end symbol")
    read = (source_path, target_path) if has_target else (source_path,)
    files = tuple(file(path) for path in read for file in (index_path, data_path))
    return Bitext(prefix.name, source, target, files)


def _other_folder(folder: Path) -> str | None:
    """What a path is that names no data folder, and what to do; None where nothing is known of it."""
    several = parts(folder)
    if several:
        return (
            f"{' and '.join(several)} are several folders (fairseq-train takes them in turns): name one; valid and "
            "test are those of the first"
        )
    if folder.is_file():
        return f"is a file: name the folder that it lies in ({folder.parent})"
    if not folder.exists() and folder.parent.is_dir():
        names = sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}."))
        if names:
            return f"is the beginning of file names ({some(names)}): name the folder ({folder.parent}), and `subset`"
    return None


def _other_subset(folder: Path, subset: str, names: list[str]) -> str:
    """What a folder has in place of a binarized subset, and what to do.

    Args:
        folder: that should hold it.
        subset: its name.
        names: of the files in the folder.
    """
    own = sorted(name for name in names if name.startswith(f"{subset}."))
    pref = {"train": "--trainpref", "valid": "--validpref"}.get(subset, "--testpref")
    if f"{subset}.idx" in own:
        return f"{subset}.idx is of a language model: text of one side, without a language pair in its name"
    lonely = [name for name in own if name.endswith(".bin") and f"{name.removesuffix('.bin')}.idx" not in own]
    if lonely:
        return f"{some(lonely)} without the .idx that belongs to it: copy both"
    pairs = [name for name in own if re.fullmatch(r"[^.]+-[^.]+\.[^.]+", name.removeprefix(f"{subset}."))]
    pairs = [name for name in pairs if not name.endswith((".bin", ".idx"))]
    if pairs:
        return f"{some(pairs)} are text (--dataset-impl raw): run fairseq-preprocess with --dataset-impl mmap"
    if own:
        return f"{some(own)} are not binarized: run fairseq-preprocess ({pref} {folder / subset})"
    if subset == _TRAIN:
        return f"what trains, and importance, need it: binarize it (fairseq-preprocess {pref})"
    return ""


@dataclass(frozen=True)
class NumberedData:
    """A subset of a data folder whose dictionaries spell every word as its number.

    So whatever a vocabulary holds, blanks and repeated symbols too, what fairseq prints can be read back.

    Attributes:
        folder: an existing folder.
        languages: as the file names spell them.
        words: sizes of the source and target vocabulary, special symbols included.
    """

    folder: Path
    languages: Languages
    words: tuple[int, int]

    def write(self, subset: str, source: Sentences, target: Sentences | None) -> None:
        """Write dictionaries and one subset; without `target` it has a source side only.

        Raises:
            OutputError: a file exists or cannot be written.
        """
        sides: Mapping[str, Sentences | None] = {self.languages.source: source, self.languages.target: target}
        for (language, sentences), words in zip(sides.items(), self.words, strict=True):
            lines = (f"{number} 1\n" for number in range(_FIRST_WORD, words))
            write_text(self.folder / f"dict.{language}.txt", "".join(lines))
            if sentences is not None:
                write_sentences(self.folder / f"{subset}.{self.languages}.{language}", sentences)


def read_numbers(text: str) -> tuple[int, ...]:
    """Token ids of a line that fairseq printed with such a dictionary.

    Raises:
        ValueError: the line holds something else.
    """
    return tuple(_SPECIAL[word] if word in _SPECIAL else int(word) for word in text.split())
