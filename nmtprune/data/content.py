"""The two forms of DATA, binarized and raw, read into the same shape before any sentence is left out."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nmtprune.data.databin import DataBin, Languages, joined
from nmtprune.data.options import DataOptions
from nmtprune.data.sentences import Sentences
from nmtprune.data.subwords import (
    BpeSegmenter,
    MosesTokenizer,
    Segmenter,
    SentencePieceSegmenter,
    TextCodec,
    guess_post_process,
)
from nmtprune.data.text import STDIN, TextFile, read_text, stream_lines
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.files import sha256_file

_MANY_UNKNOWN = 0.05


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


def build_codec(options: DataOptions, languages: Languages, target: Vocabulary) -> tuple[TextCodec, str | None]:
    """The text codec, and a note where the way to join subwords was guessed.

    Raises:
        DataError: the subword model cannot be read.
    """
    segmenter: Segmenter | None = None
    note = None
    if options.sentencepiece is not None:
        segmenter, suggested = SentencePieceSegmenter(options.sentencepiece), "sentencepiece"
    elif options.bpe_codes is not None:
        segmenter, suggested = BpeSegmenter(options.bpe_codes), "subword_nmt"
    else:
        suggested = guess_post_process(target)
        if options.post_process is None and suggested != "none":
            note = f"joining subwords as --post-process {suggested}, which the symbols of {target.path.name} suggest"
    tokenizers = {}
    if options.tokenizer == "moses":
        tokenizers = {"source": MosesTokenizer(languages.source), "target": MosesTokenizer(languages.target)}
    return TextCodec(options.post_process or suggested, segmenter, tokenizers), note


def read_raw(options: DataOptions, source: Path, pair: LanguagePair, *, references: bool, targets: bool) -> Content:
    """Text and, where asked for, its reference.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or has another number of lines.
        UsageError: a reference is needed and none is named, or several are where one becomes token ids.
    """
    text = read_text(source)
    content = Content(
        name=text.name,
        source=Sentences.of(pair.source.encode(pair.codec.encode(line, "source")) for line in text.lines),
        target=None,
        references=None,
        inputs={text.name: text.sha256},
        notes=(),
        raw=True,
    )
    content = replace(content, notes=_unknown_source(content, pair))
    if not (references or targets):
        return content
    if not options.reference:
        raise UsageError("data: --source needs --reference FILE here")
    if targets and len(options.reference) > 1:
        raise UsageError(
            f"data: {len(options.reference)} files of references: losses, importance and confidence are measured on "
            "one reference per sentence: give one --reference FILE"
        )
    streams = _references(options.reference, content)
    if targets:
        encoded = (pair.target.encode(pair.codec.encode(line, "target")) for line in streams[0].lines)
        content = replace(content, target=Sentences.of(encoded))
    return _with_references(content, streams) if references else replace(content, inputs=_inputs(content, streams))


def stream_raw(source: Path, pair: LanguagePair, size: int) -> Iterator[Content]:
    """Text in pieces of `size` lines, each read when it is asked for.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    name = "standard input" if source == STDIN else str(source)
    lines = (pair.source.encode(pair.codec.encode(line, "source")) for line in stream_lines(source))
    for first in itertools.count(0, size):
        piece = list(itertools.islice(lines, size))
        if not piece:
            return
        content = Content(name, Sentences.of(piece), None, None, {}, (), True, first)
        yield content if first else replace(content, notes=_unknown_source(content, pair))


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
    content = Content(bitext.name, bitext.source, bitext.target, None, inputs)
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


def _unknown_source(content: Content, pair: LanguagePair) -> tuple[str, ...]:
    """A remark where so many tokens are unknown that the subword model or dictionary is probably another model's."""
    tokens = int(content.source.sizes.sum()) - len(content.source)
    unknown = int((content.source.tokens == pair.source.unk).sum())
    if unknown <= _MANY_UNKNOWN * tokens:
        return ()
    share = f"{unknown} of {tokens} tokens ({unknown / tokens:.0%})"
    return (f"{content.name}: {share} are not in {pair.source.path}: is this the model's subword model?",)
