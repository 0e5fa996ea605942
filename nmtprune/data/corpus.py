"""DATA as a value: what the options name, read, checked and turned into token ids and references."""

import itertools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from nmtprune.data.batching import Batch, BatchLimits, batch_by_size, collate, order_by_length, shift_right, shuffled
from nmtprune.data.codec import SIDES, TextCodec, build_codec, marian_codec
from nmtprune.data.databin import DataBin, Languages
from nmtprune.data.framing import (
    Frame,
    check_frame,
    check_languages,
    frame_of,
    named_languages,
    with_language_tokens,
)
from nmtprune.data.huggingface_vocabulary import HuggingFaceVocabulary
from nmtprune.data.language_tags import form_of
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.data.read import BinarizedData, Content, LanguagePair, RawData, cropped, lines_of, stream_raw
from nmtprune.data.vocabulary import Vocabulary, check_size
from nmtprune.errors import DataError, UsageError
from nmtprune.profile import ModelProfile

_UNSHUFFLED_SUBSET = "test"
_CROP = "max-length-crop"
_SKIP_OPTION = "`skip_invalid`"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sentences to translate or to score, in their original order.

    Attributes:
        name: ``valid.en-de`` or the path of the source text, for messages.
        languages: source and target.
        source: source sentences as the model reads them, the end-of-sentence symbol included.
        target: reference translations as token ids, likewise, as many; None where there are none.
        references: reference translations as text, streams of as many, one for each file; None where there are none.
        numbers: place of each sentence in the input, counted from 0; has gaps where sentences were left out.
        total: sentences of the input.
        source_vocabulary: of the source side.
        target_vocabulary: of the target side.
        codec: from text to symbols and back.
        model: what the model asks for.
        inputs: SHA-256 by path of every file read.
        notes: what a user should know about the data, one line each.
        shuffle: fairseq shuffles such data before it sorts it by length.
        crop_source: tokens that longer sources were cut to; None where none were.
        frame: what sentences have besides their words.
    """

    name: str
    languages: Languages
    source: Sentences
    target: Sentences | None
    references: tuple[tuple[str, ...], ...] | None
    numbers: Ids
    total: int
    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    codec: TextCodec
    model: ModelProfile
    inputs: Mapping[str, str]
    notes: tuple[str, ...]
    shuffle: bool = True
    crop_source: int | None = None
    frame: Frame = Frame()

    def __len__(self) -> int:
        """Number of sentences, without those left out."""
        return len(self.source)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of a translation from its token ids, end of sentence included or not, as fairseq-generate scores it."""
        said = self.frame.without_front(ids)
        written = reversed(said) if self.model.right_to_left else said
        return self.codec.decode(self.target_vocabulary.string(written))

    def texts(self, translations: Iterable[Sequence[int]]) -> list[str]:
        """Translations as text, as they are scored; an empty line for none."""
        return [self.decode(tokens) if tokens else "" for tokens in translations]

    def source_text(self, index: int) -> str:
        """Text of a source sentence from its token ids, as `decode` makes that of a translation, without tags."""
        ids = self.source[index]
        ids = (ids[-2::-1] if self.model.right_to_left else ids)[len(self.frame.source_front) :]
        symbols = self.source_vocabulary.string(ids).split(" ")
        words = itertools.dropwhile(lambda symbol: form_of(symbol) is not None, symbols)
        return self.codec.decode(" ".join(words), "source")

    @property
    def counted(self) -> Ids:
        """Tokens of every reference that its loss counts."""
        if self.target is None:
            return np.zeros(0, dtype=np.int64)
        return self.target.sizes - self.frame.given

    @property
    def left_out(self) -> int:
        """Sentences of the input that are too long for the model's positions."""
        return self.total - len(self)

    def select(self, positions: Ids) -> Self:
        """The sentences at some positions."""
        references = self.references
        return replace(
            self,
            source=self.source.select(positions),
            target=None if self.target is None else self.target.select(positions),
            references=None if references is None else tuple(_chosen(lines, positions) for lines in references),
            numbers=self.numbers[positions],
        )

    def starts(self, positions: Ids) -> list[int]:
        """Tokens before the first word of the targets at some positions."""
        return [self.target_vocabulary.start] * len(positions)

    def given(self, positions: Ids) -> list[int]:
        """Numbers of first tokens of the targets at some positions that no loss counts."""
        return [self.frame.given] * len(positions)

    def batches(self, limits: BatchLimits, seed: int = 1) -> list[Ids]:
        """Positions of sentences batch by batch, short sentences first, as fairseq-generate batches them.

        Args:
            limits: how large a batch may be.
            seed: fairseq's ``--seed``, which orders sentences of equal lengths.

        Raises:
            UsageError: a sentence has more tokens than a batch may have.
        """
        order = shuffled(self.total, seed) if self.shuffle else np.arange(self.total)
        positions = np.full(self.total, -1, dtype=np.int64)
        positions[self.numbers] = np.arange(len(self))
        order = positions[order]
        source_sizes, target_sizes = self.source.sizes, None if self.target is None else self.target.sizes
        order = order_by_length(order[order >= 0], source_sizes, target_sizes)
        sizes = source_sizes if target_sizes is None else np.maximum(source_sizes, target_sizes)
        return batch_by_size(order, sizes, limits)

    def batch(self, positions: Ids) -> Batch:
        """Pad sentences to tensors, longest source first."""
        import torch

        # fairseq's call: it is not stable, and rows in another order could round differently.
        lengths, order = torch.from_numpy(self.source.sizes[positions]).sort(descending=True)
        positions = positions[order.numpy()]
        source = [self.source[index] for index in positions.tolist()]
        target = previous = None
        if self.target is not None:
            sentences = [self.target[index] for index in positions.tolist()]
            pad, left_pad = self.target_vocabulary.pad, self.model.left_pad_target
            given = self.given(positions)
            counted = [np.append(np.full(own, pad), ids[own:]) for own, ids in zip(given, sentences, strict=True)]
            target = collate(counted if any(given) else sentences, pad, left_pad=left_pad)
            starts = self.starts(positions)
            inputs = [own for ids, start in zip(sentences, starts, strict=True) for own in shift_right([ids], start)]
            previous = collate(inputs, pad, left_pad=left_pad)
        return Batch(
            positions=positions,
            source=collate(source, self.source_vocabulary.pad, left_pad=self.model.left_pad_source),
            source_lengths=lengths,
            target=target,
            previous=previous,
        )

    def describe(self) -> dict[str, str | int]:
        """The settings that make two readings of the same files differ, for provenance."""
        return {
            "data": self.name,
            "languages": str(self.languages),
            "sentences": len(self),
            "left_out": self.left_out,
            **self.codec.describe(),
            **self.frame.describe(self.source_vocabulary, self.target_vocabulary),
            **({} if self.crop_source is None else {"crop_source": self.crop_source}),
        }


class Dataset:
    """DATA for all models that read it with the same vocabularies: each file is read once, when it is first needed."""

    def __init__(self, options: DataOptions, model: ModelProfile) -> None:
        """Read the vocabularies that one of the models needs.

        Raises:
            DataError, UsageError: as for `load_corpus`, of vocabularies.
        """
        self._options = options
        folder, self._pair, self._note = _language_pair(options, model)
        _check_there_are_sentences(options)
        raw = options.source is not None
        self._reader = RawData(options, self._pair) if raw else BinarizedData(options, self._pair, folder)

    @staticmethod
    def shared_by(options: DataOptions, model: ModelProfile) -> Hashable:
        """Equal for options and models that can share a `Dataset`.

        Raises:
            DataError: as for `load_corpus`, of languages.
        """
        own = options, model.vocabulary_files, model.language_tokens, model.first_word
        if options.vocabs is not None or options.data_bin is None:
            return *own, model.source_symbols, model.target_symbols, model.special
        return *own, _languages(DataBin(options.data_bin), options, model)

    def corpus(self, model: ModelProfile, *, references: bool = True, targets: bool = False) -> Corpus:
        """What `load_corpus` gives for the same arguments.

        Raises:
            DataError, UsageError: as for `load_corpus`.
        """
        options, pair = self._options, self._pair
        _check_sizes(pair.source, pair.target, model)
        content = self._reader.content(references=references, targets=targets)
        if not len(content.source):
            raise DataError(f"{content.name}: empty: it holds no sentences")
        content = _cropped(content, pair, options.crop_source, _CROP)
        corpus = _within_positions(content, pair, model, skip=options.skip_invalid)
        notes = (*model.notes, *([self._note] if self._note else ()), *corpus.notes, *_remarks(corpus))
        shuffle = options.subsets != (_UNSHUFFLED_SUBSET,)
        return replace(corpus, notes=notes, shuffle=shuffle, crop_source=options.crop_source)


def load_corpus(
    options: DataOptions, model: ModelProfile | None = None, *, references: bool = True, targets: bool = False
) -> Corpus:
    """Read and check DATA.

    Args:
        options: what the user named.
        model: what the checkpoint asks for; None checks nothing against a model.
        references: reference texts are needed; without it none are read.
        targets: reference token ids are needed; those of binarized data are there without it.

    Raises:
        DataError: a file is missing, damaged, empty, or does not fit the others or the model.
        UsageError: references are needed and none are named.
    """
    model = model or ModelProfile()
    return Dataset(options, model).corpus(model, references=references, targets=targets)


def stream_corpus(options: DataOptions, model: ModelProfile, size: int) -> Iterator[Corpus]:
    """Source sentences in pieces of `size` consecutive ones, read when they are asked for: for translation.

    Raises:
        DataError: as for `load_corpus`, when the place is reached; a piece may consist of sentences left out.
    """
    folder, pair, note = _language_pair(options, model)
    _check_there_are_sentences(options)
    if options.source is not None:
        pieces = stream_raw(options.source, pair, size)
    else:
        whole = BinarizedData(options, pair, folder).content(references=False, targets=False)
        pieces = (
            replace(whole, source=whole.source.select(np.arange(first, min(first + size, len(whole.source)))),
                    target=None, notes=() if first else whole.notes, first=first)
            for first in range(0, len(whole.source), size)
        )  # fmt: skip
    for piece in pieces:
        piece = _cropped(piece, pair, options.crop_source, _CROP)
        corpus = _within_positions(piece, pair, model, skip=options.skip_invalid, may_be_empty=True)
        first = () if piece.first else (*model.notes, *([note] if note else ()))
        yield replace(corpus, notes=(*first, *corpus.notes))


def given_corpus(options: DataOptions, model: ModelProfile, sentences: Sequence[str]) -> Corpus:
    """Source sentences that are given as text; what the options name as text is not read.

    Raises:
        DataError, UsageError: as for `load_corpus`, of vocabularies; sentences longer than the model's positions.
    """
    _, pair, note = _language_pair(options, model)
    content = cropped(lines_of("the sentences", sentences, pair), options.crop_source, pair.source.eos, _CROP)
    corpus = _within_positions(content, pair, model, skip=False)
    return replace(corpus, notes=(*model.notes, *([note] if note else ()), *corpus.notes))


def random_corpus(options: DataOptions, model: ModelProfile, count: int, seed: int = 1) -> Corpus:
    """That many source sentences of 3 to 20 random words, for comparisons that need no meaning.

    Raises:
        DataError, UsageError: as for `load_corpus`, of vocabularies.
    """
    _, pair, _ = _language_pair(options, model)
    special = {pair.source.pad, pair.source.eos, pair.source.unk, *range(min(3, len(pair.source)))}
    written = (pair.source.encode(symbol, append_eos=False) for symbol in pair.source.symbols)
    words = sorted({int(ids[0]) for ids in written if len(ids) == 1} - special)
    if not words:
        raise DataError(f"{pair.source.path}: has no words")
    rng = np.random.default_rng(seed)
    sentences = [np.append(rng.choice(words, rng.integers(3, 21)), pair.source.eos) for _ in range(count)]
    content = Content("random words", Sentences.of(sentences), None, None, {})
    return _within_positions(content, pair, model, skip=True)


def _check_there_are_sentences(options: DataOptions) -> None:
    if options.source is None and options.vocabs is not None:
        raise UsageError("data: `vocabs` goes with raw text: name `source` FILE")


def _language_pair(options: DataOptions, model: ModelProfile) -> tuple[DataBin, LanguagePair, str | None]:
    """The folder of the vocabularies, what turns text into token ids, and a note where a part of that was guessed."""
    options.check_translated()
    if options.vocabs is not None:
        return DataBin(options.vocabs[0].parent), *_marian_pair(options, options.vocabs, model)
    if model.vocabulary_files:
        if model.special is not None:
            raise UsageError("data: a Hugging Face model has its own vocabularies: name text with `source` FILE")
        raise UsageError("data: a Marian model: name its vocabularies with `vocabs` A B, and text with `source` FILE")
    if options.data_bin is None:
        raise UsageError("data: no vocabulary: name `data_bin` DIR")
    folder = DataBin(options.data_bin)
    languages = _languages(folder, options, model)
    tokens = model.language_tokens
    if tokens is not None:
        check_languages(tokens, languages, folder)
    source, target = folder.dictionary(languages.source), folder.dictionary(languages.target)
    if tokens is not None:
        source, target = (with_language_tokens(own, tokens, folder) for own in (source, target))
    frame, notes = frame_of(options, model, languages, source, target)
    _check_sizes(source, target, model)
    codec, note = build_codec(options, languages, {"source": source, "target": target})
    codec = replace(codec, tags=replace(codec.tags, apart=bool(frame.added_source)))
    return folder, LanguagePair(languages, source, target, codec, frame), _one_note([*notes, note])


def _languages(folder: DataBin, options: DataOptions, model: ModelProfile) -> Languages:
    wanted, trained = (options.source_lang, options.target_lang), (model.source_lang, model.target_lang)
    return folder.choose_languages(options.subsets, wanted, trained)


def _check_sizes(source: Vocabulary, target: Vocabulary, model: ModelProfile) -> None:
    """Check that vocabularies have the sizes of the model's embeddings; those of Marian are cut to them."""
    if not model.vocabulary_files:
        check_size(source, model.source_symbols, "source")
        check_size(target, model.target_symbols, "target")


def _marian_pair(
    options: DataOptions, paths: tuple[Path, Path], model: ModelProfile
) -> tuple[LanguagePair, str | None]:
    if not model.vocabulary_files and model.source_symbols is not None:
        raise UsageError("data: `vocabs` are Marian's: this model has fairseq's dictionaries in `data_bin` DIR")
    source, target = (_vocabulary(path, model, side) for path, side in zip(paths, SIDES, strict=True))
    languages = named_languages(options, model, target)
    if model.language_tokens is not None:
        check_languages(model.language_tokens, languages, DataBin(paths[0].parent))
    codec, note = build_codec(options, languages, {"source": source, "target": target})
    notes = [*source.remarks, *(target.remarks if paths[0] != paths[1] else ())]
    notes += [note] if note and target.sentencepiece is None else []
    if options.target_lang is None and model.first_word is not None and model.language_tokens is not None:
        notes.append(f"translations are in {languages.target}: no `target_lang` says otherwise")
    frame, more = frame_of(options, model, languages, source, target)
    own = Languages(model.source_lang or languages.source, model.target_lang or languages.target)
    codec = marian_codec(codec, options, source, target, own)
    codec = replace(codec, tags=replace(codec.tags, apart=bool(frame.added_source)))
    return LanguagePair(languages, source, target, codec, frame), _one_note([*notes, *more])


def _one_note(notes: Iterable[str | None]) -> str | None:
    return "; ".join(filter(None, notes)) or None


def _vocabulary(path: Path, model: ModelProfile, side: str) -> MarianVocabulary | HuggingFaceVocabulary:
    """The vocabulary of a side, in a file of its own."""
    rows = model.source_symbols if side == "source" else model.target_symbols
    if model.special is not None:
        return HuggingFaceVocabulary.read(path, rows, model.special, side, model.language_tokens)
    return MarianVocabulary.read(path, rows, side)


def _within_positions(
    content: Content, pair: LanguagePair, model: ModelProfile, *, skip: bool, may_be_empty: bool = False
) -> Corpus:
    """The sentences that the model has positions for; others are refused or left out, as fairseq-generate does."""
    check_frame(pair.frame, model)
    content = _whole(_cropped(content, pair, model.truncate_source, "truncate_source"), pair)
    source_sizes = content.source.sizes
    too_long = np.zeros(len(source_sizes), dtype=bool)
    if model.max_source_positions is not None:
        too_long |= source_sizes > model.max_source_positions
    if content.target is not None and model.max_target_positions is not None:
        too_long |= content.target.sizes > model.max_target_positions
    notes = content.notes
    if too_long.any():
        limits = f"{model.max_source_positions} source, {model.max_target_positions} target tokens"
        counts = f"{too_long.sum()} of {len(too_long)}"
        if not skip or (too_long.all() and not may_be_empty):
            raise DataError(_too_long(content, int(np.argmax(too_long)), f"{counts} sentences", limits))
        notes = (*notes, f"left out, longer than the model's positions ({limits}): {counts} sentences")
    kept = np.flatnonzero(~too_long)
    references = content.references
    source, target = content.source.select(kept), None if content.target is None else content.target.select(kept)
    if model.right_to_left:
        source, target = source.backwards(), None if target is None else target.backwards()
    vocabularies = pair.frame.vocabularies(pair.source, pair.target)
    return Corpus(
        name=content.name,
        languages=pair.languages,
        source=source,
        target=target,
        references=None if references is None else tuple(_chosen(stream, kept) for stream in references),
        numbers=kept,
        total=len(content.source),
        source_vocabulary=vocabularies[0],
        target_vocabulary=vocabularies[1],
        codec=pair.codec,
        model=model,
        inputs={**_vocabulary_inputs(pair), **content.inputs},
        notes=notes,
        frame=pair.frame,
    )


def _cropped(content: Content, pair: LanguagePair, limit: int | None, why: str) -> Content:
    """Sources of at most `limit` tokens, those of the frame included."""
    room = None if limit is None else max(1, limit - pair.frame.added_source)
    return cropped(content, room, pair.source.eos, why)


def _whole(content: Content, pair: LanguagePair) -> Content:
    """The sentences as the model reads them."""
    target = None if content.target is None else pair.frame.target(content.target)
    return replace(content, source=pair.frame.source(content.source), target=target)


def _chosen(lines: tuple[str, ...], places: Ids) -> tuple[str, ...]:
    return tuple(lines[place] for place in places.tolist())


def _too_long(content: Content, first: int, counts: str, limits: str) -> str:
    sizes = f"{content.source.sizes[first]} source"
    if content.target is not None:
        sizes += f" and {content.target.sizes[first]} target"
    where = f"{content.name}: {counts} are longer than the model's positions ({limits})"
    return f"{where}, first {content.place(first)} with {sizes} tokens: {_SKIP_OPTION} leaves such sentences out"


def _vocabulary_inputs(pair: LanguagePair) -> dict[str, str]:
    inputs = {str(vocabulary.path): vocabulary.sha256 for vocabulary in (pair.source, pair.target)}
    return inputs | {str(segmenter.path): segmenter.sha256 for segmenter in pair.codec.segmenters.values()}


def _remarks(corpus: Corpus) -> list[str]:
    """Lines that are legal but seldom meant."""
    remarks = []
    empty_sources = int((corpus.source.sizes <= 1 + corpus.frame.added_source).sum())
    if empty_sources:
        remarks.append(f"empty source sentences: {empty_sources} of {len(corpus)}")
    empty_references = sum(not any(map(str.strip, own)) for own in zip(*(corpus.references or ()), strict=True))
    if empty_references:
        remarks.append(f"empty references: {empty_references} of {len(corpus)}")
    return remarks
