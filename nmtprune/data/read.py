"""The two forms of DATA, binarized and raw, read into the same shape before any sentence is left out."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nmtprune.data.codec import TextCodec
from nmtprune.data.databin import DataBin, Languages, joined
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
    """

    languages: Languages
    source: Vocabulary
    target: Vocabulary
    codec: TextCodec


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


def read_raw(options: DataOptions, source: Path, pair: LanguagePair, *, references: bool, targets: bool) -> Content:
    """Text and, where asked for, its reference.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or has another number of lines.
        UsageError: a reference is needed and none is named, or several are where one becomes token ids.
    """
    if (references or targets) and not options.reference:
        raise UsageError("data: --source needs --reference FILE here")
    if targets and len(options.reference) > 1:
        raise UsageError(
            f"data: {len(options.reference)} files of references: losses, importance and confidence are measured on "
            "one reference per sentence: give one --reference FILE"
        )
    text = read_text(source)
    side = _read_side(text.name, text.lines, "source", pair)
    remarks = side.remarks(measured=references or targets)
    content = Content(text.name, side.sentences, None, None, {text.name: text.sha256}, tuple(remarks), raw=True)
    if not (references or targets):
        return content
    streams = _references(options.reference, content)
    if targets:
        side = _read_side(streams[0].name, streams[0].lines, "target", pair)
        notes = (*content.notes, *side.remarks(measured=True))
        content = replace(content, target=side.sentences, notes=notes)
    return _with_references(content, streams) if references else replace(content, inputs=_inputs(content, streams))


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
        side = _read_side(name, piece, "source", pair)
        remarks = () if first else side.remarks(measured=False)
        yield Content(name, side.sentences, None, None, {}, tuple(remarks), True, first)


def read_binarized(
    options: DataOptions, folder: DataBin, pair: LanguagePair, *, references: bool, targets: bool
) -> Content:
    """Binarized subsets and, where asked for, the reference: raw lines if they are named, else the decoded target side.

    Raises:
        DataError: a file is missing or damaged, or a target side is needed and there is none.
    """
    symbols = len(pair.source), len(pair.target)
    parts = [
        folder.read(subset, pair.languages, symbols, join_shards=options.join_shards) for subset in options.subsets
    ]
    bitext = joined(parts)
    inputs = {str(path): sha256_file(path) for path in bitext.files}
    notes = unknown_words("source", bitext.source, pair.source)
    if targets and bitext.target is not None:
        notes += unknown_words("reference", bitext.target, pair.target)
    content = Content(bitext.name, bitext.source, bitext.target, None, inputs, tuple(notes))
    if bitext.target is None and (targets or (references and not options.reference)):
        remedy = "" if targets else ": give --reference FILE"
        raise DataError(f"{bitext.name} in {folder.folder}: no target side{remedy}")
    if not references:
        return content
    if options.reference:
        return _with_references(content, _references(options.reference, content))
    return _with_decoded_references(content, pair)


def _with_decoded_references(content: Content, pair: LanguagePair) -> Content:
    target = content.target or Sentences.of(())
    symbols = [pair.target.string(sentence, escape_unk=True) for sentence in target]
    unknown = sum(pair.target.unk in sentence for sentence in target)
    note = f"references with unknown words: {unknown} of {len(target)} (--reference FILE takes the raw text instead)"
    lines = tuple(pair.codec.decode(line) for line in symbols)
    return replace(content, references=(lines,), notes=(*content.notes, note) if unknown else content.notes)


def _references(paths: Iterable[Path], content: Content) -> list[TextFile]:
    """Files of references, each with one line per sentence; every file that has another number is a fault."""
    streams = [read_text(path) for path in paths]
    faults = [
        f"{text.name}: {len(text.lines)} lines, but {content.name} has {len(content.source)} sentences"
        f"{_other_ends(text, len(content.source))}"
        for text in streams
        if len(text.lines) != len(content.source)
    ]
    if faults:
        raise DataError(f"{'; '.join(faults)}: the reference must have one line per sentence", faults)
    return streams


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
