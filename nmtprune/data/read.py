"""The two forms of DATA, binarized and raw, read into the same shape before any sentence is left out."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from nmtprune.data.codec import TextCodec
from nmtprune.data.databin import Bitext, DataBin, Languages, joined
from nmtprune.data.framing import Frame
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.data.remarks import SAMPLE, TextSide, unknown_words
from nmtprune.data.text import STDIN, TextFile, read_text, stream_lines
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.files import sha256_file


@dataclass(frozen=True)
class LanguagePair:
    """What turns text into token ids and back.

    Attributes:
        languages: source and target.
        source: vocabulary of the source side.
        target: vocabulary of the target side.
        codec: between text and symbols.
        frame: what the model's sentences have besides what the files hold.
    """

    languages: Languages
    source: Vocabulary
    target: Vocabulary
    codec: TextCodec
    frame: Frame = Frame()


@dataclass(frozen=True, eq=False)
class Content:
    """All sentences of DATA.

    Attributes:
        name: of the data, for messages.
        source: source sentences.
        target: target sentences, as many, or None.
        references: reference texts, as many in each stream, or None.
        inputs: SHA-256 by path of the files read.
        notes: remarks on how they were read.
        raw: sentences are lines of a text file.
        first: place in the input of the first sentence, where the sentences are a piece of it.
    """

    name: str
    source: Sentences
    target: Sentences | None
    references: tuple[tuple[str, ...], ...] | None
    inputs: Mapping[str, str]
    notes: tuple[str, ...] = ()
    raw: bool = False
    first: int = 0

    def place(self, index: int) -> str:
        """A sentence in the words of a message."""
        place = self.first + index
        return f"line {place + 1}" if self.raw else f"sentence {place} (counted from 0)"


class DataReader(ABC):
    """The files of DATA, each of them read once, when it is first needed."""

    def __init__(self, options: DataOptions, pair: LanguagePair) -> None:
        """Read nothing yet."""
        self._options, self._pair = options, pair

    @abstractmethod
    def content(self, *, references: bool, targets: bool) -> Content:
        """All sentences.

        Args:
            references: reference texts are needed; without it there are none.
            targets: reference token ids are needed; those of binarized data are there without it.

        Raises:
            DataError: a file is missing, damaged, or does not fit the others.
            UsageError: a reference is needed and none is named, or several are where one becomes token ids.
        """

    def _references(self, content: Content) -> list[TextFile]:
        """Files of references, each with one line per sentence; every file that has another number is a fault."""
        faults = [
            f"{text.name}: {len(text.lines)} lines, but {content.name} has {len(content.source)} sentences"
            f"{_other_ends(text, len(content.source))}"
            for text in self._streams
            if len(text.lines) != len(content.source)
        ]
        if faults:
            raise DataError(f"{'; '.join(faults)}: the reference must have one line per sentence", faults)
        return self._streams

    @cached_property
    def _streams(self) -> list[TextFile]:
        return [read_text(path) for path in self._options.reference]


class RawData(DataReader):
    """Text and, where it is needed, its reference."""

    def content(self, *, references: bool, targets: bool) -> Content:
        """As for `DataReader`."""
        options = self._options
        if (references or targets) and not options.reference:
            raise UsageError("data: `source` needs `reference` FILE here")
        if targets and len(options.reference) > 1:
            raise UsageError(
                f"data: {len(options.reference)} files of references: losses, importance and confidence are measured "
                "on one reference per sentence: give one `reference` FILE"
            )
        text, side = self._text, self._source
        remarks = side.remarks(measured=references or targets)
        content = Content(text.name, side.sentences, None, None, {text.name: text.sha256}, tuple(remarks), raw=True)
        if not (references or targets):
            return content
        streams = self._references(content)
        if targets:
            notes = (*content.notes, *self._target.remarks(measured=True))
            content = replace(content, target=self._target.sentences, notes=notes)
        return _with_references(content, streams) if references else replace(content, inputs=_inputs(content, streams))

    @cached_property
    def _text(self) -> TextFile:
        return read_text(self._options.source or STDIN)

    @cached_property
    def _source(self) -> TextSide:
        return _read_side(self._text.name, self._text.lines, "source", self._pair)

    @cached_property
    def _target(self) -> TextSide:
        return _read_side(self._streams[0].name, self._streams[0].lines, "target", self._pair)


class BinarizedData(DataReader):
    """Binarized subsets; their references are raw lines if they are named, else the decoded target side."""

    def __init__(self, options: DataOptions, pair: LanguagePair, folder: DataBin) -> None:
        """Read nothing yet."""
        super().__init__(options, pair)
        self._folder = folder

    def content(self, *, references: bool, targets: bool) -> Content:
        """As for `DataReader`."""
        bitext, pair = self._bitext, self._pair
        notes = unknown_words("source", bitext.source, pair.source)
        if targets and bitext.target is not None:
            notes += unknown_words("reference", bitext.target, pair.target)
        content = Content(bitext.name, bitext.source, bitext.target, None, self._inputs, tuple(notes))
        if bitext.target is None and (targets or (references and not self._options.reference)):
            remedy = "" if targets else ": give `reference` FILE"
            raise DataError(f"{bitext.name} in {self._folder.folder}: no target side{remedy}")
        if not references:
            return content
        if self._options.reference:
            return _with_references(content, self._references(content))
        lines, note = self._decoded
        return replace(content, references=(lines,), notes=(*content.notes, *note))

    @cached_property
    def _bitext(self) -> Bitext:
        options, pair = self._options, self._pair
        symbols, shards = (len(pair.source), len(pair.target)), options.join_shards
        read = self._folder.read
        return joined([read(subset, pair.languages, symbols, join_shards=shards) for subset in options.subsets])

    @cached_property
    def _inputs(self) -> dict[str, str]:
        return {str(path): sha256_file(path) for path in self._bitext.files}

    @cached_property
    def _decoded(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Texts of the target side, and a remark if there are unknown words in them."""
        target, vocabulary = self._bitext.target or Sentences.of(()), self._pair.target
        symbols = [vocabulary.string(sentence, escape_unk=True) for sentence in target]
        unknown = sum(vocabulary.unk in sentence for sentence in target)
        note = (
            f"references with unknown words: {unknown} of {len(target)} (`reference` FILE takes the raw text instead)"
        )
        return tuple(self._pair.codec.decode(line) for line in symbols), (note,) if unknown else ()


def stream_raw(source: Path, pair: LanguagePair, size: int) -> Iterator[Content]:
    """Text in pieces of `size` lines, each read when it is asked for.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    name = "standard input" if source == STDIN else str(source)
    lines = stream_lines(source)
    for first in itertools.count(0, size):
        piece = list(itertools.islice(lines, size))
        if not piece:
            return
        yield lines_of(name, piece, pair, first)


def lines_of(name: str, lines: Sequence[str], pair: LanguagePair, first: int = 0) -> Content:
    """Source sentences that are given as text; remarks on them if `first`, the place of the first one, is 0."""
    side = _read_side(name, lines, "source", pair)
    remarks = () if first else side.remarks(measured=False)
    return Content(name, side.sentences, None, None, {}, tuple(remarks), True, first)


def _with_references(content: Content, streams: list[TextFile]) -> Content:
    lines = tuple(stream.lines for stream in streams)
    return replace(content, references=lines, inputs=_inputs(content, streams))


def _inputs(content: Content, streams: list[TextFile]) -> dict[str, str]:
    return {**content.inputs, **{stream.name: stream.sha256 for stream in streams}}


def _other_ends(text: TextFile, wanted: int) -> str:
    """Why a file may have another number of lines than its author thought."""
    filled = len("\n".join(text.lines).rstrip().split("\n"))
    if filled < len(text.lines):
        return f" (the last {len(text.lines) - filled} of its lines are empty)"
    if sum(len(line.splitlines()) or 1 for line in text.lines) == wanted:
        return " (it has characters inside of lines, such as U+2028 or a carriage return, that ended lines elsewhere)"
    return ""


def _read_side(name: str, lines: Sequence[str], side: str, pair: LanguagePair) -> TextSide:
    """Token ids of lines of one side."""
    vocabulary, other = (pair.source, pair.target) if side == "source" else (pair.target, pair.source)
    sample: list[str] = []

    def encoded() -> Iterator[Ids]:
        for line in lines:
            symbols = pair.codec.encode(line, side)
            if len(sample) < SAMPLE:
                sample.append(symbols)
            yield vocabulary.encode(symbols)

    sentences = Sentences.of(encoded())
    return TextSide(name, side, lines[:SAMPLE], sample, sentences, vocabulary, other, pair.codec)


def cropped(content: Content, limit: int | None, eos: int, why: str) -> Content:
    """Sources of at most `limit` tokens, the end-of-sentence symbol included; None cuts nothing.

    Args:
        content: sentences; a remark says how many were cut.
        limit: number of tokens.
        eos: id that the last token becomes.
        why: the option that cuts, for the remark.
    """
    longer = 0 if limit is None else int((content.source.sizes > limit).sum())
    if limit is None or not longer:
        return content
    cut = (np.append(ids[: limit - 1], eos) if len(ids) > limit else ids for ids in content.source)
    note = f"{why}: {longer} of {len(content.source)} sources are cut to {limit} tokens"
    return replace(content, source=Sentences.of(cut), notes=(*content.notes, note))
