"""DATA of a classifier as a value: read, checked, and turned into framed token ids and numbers of labels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nmtprune.data.examples import Examples
from nmtprune.data.gpt2_bpe import Gpt2Segmenter
from nmtprune.data.huggingface_tokenizer import HuggingFaceTokenizer
from nmtprune.data.labels import label_numbers, only_label
from nmtprune.data.options import DataOptions
from nmtprune.data.prediction_bin import PredictionBin, framed, shortens, truncated
from nmtprune.data.ragged import Ids, Sentences
from nmtprune.data.subwords import Segmenter, SentencePieceSegmenter
from nmtprune.data.table import LabelTable, read_table
from nmtprune.data.text import first_of
from nmtprune.errors import DataError, UsageError
from nmtprune.files import sha256_file
from nmtprune.profile import ClassifierProfile, PairFrame

_SKIP, _CUT = "`skip_invalid`", "`truncate`"


@dataclass(frozen=True)
class _Read:
    """Framed texts with their labels, of any length."""

    name: str
    tokens: Sentences
    segments: Sentences | None
    labels: Ids | None
    names: tuple[str, ...]
    inputs: dict[str, str]
    notes: tuple[str, ...]
    pairs: bool
    cut: int
    """Texts that were cut to the positions."""


class LabelledSet:
    """DATA for all classifiers that read it in the same way: each file is read once."""

    def __init__(self, options: DataOptions) -> None:
        """Read nothing yet.

        Raises:
            UsageError: as for `DataOptions.check_labelled`.
        """
        options.check_labelled()
        self._options = options
        self._read: dict[ClassifierProfile, Examples] = {}

    def examples(self, model: ClassifierProfile) -> Examples:
        """The texts as a model reads them.

        Raises:
            DataError: a file is missing, damaged or empty, or does not fit the others or the model; texts that are
                longer than the positions, unless the options cut them or leave them out.
            UsageError: options that this kind of model has no use for.
            EngineError: a package that splits texts is not installed.
        """
        if model not in self._read:
            self._read[model] = self._examples(model)
        return self._read[model]

    def _examples(self, model: ClassifierProfile) -> Examples:
        options = self._options
        if options.examples is None:
            read = _binarized(options, model)
        elif model.tokenizer is not None:
            read = _tokenized(options, model)
        else:
            read = _segmented(options, model)
        notes = [*model.notes, *read.notes, *_pairs_note(read, model)]
        if read.cut:
            notes.append(f"cut to the model's {model.max_positions} positions: {read.cut} of {len(read.tokens)} texts")
        if read.labels is not None:
            only = only_label(read.labels, read.names)
            if only is not None:
                notes.append(f"{read.name}: all {len(read.labels)} texts have the label {only}: accuracy says little")
        return _within_positions(replace(read, notes=tuple(notes)), model, options)


def load_examples(options: DataOptions, model: ClassifierProfile) -> Examples:
    """Read and check DATA of a classifier; arguments and errors as for `LabelledSet`."""
    return LabelledSet(options).examples(model)


def _tokenized(options: DataOptions, model: ClassifierProfile) -> _Read:
    """A table, by the tokenizer in the model's folder."""
    foreign = [f"`{name}`" for name in ("data_bin", "sentencepiece", "gpt2_encoder_json", "gpt2_vocab_bpe")
               if getattr(options, name) is not None]  # fmt: skip
    if foreign or model.tokenizer is None:
        raise UsageError(f"data: {', '.join(foreign)}: a model of transformers splits texts by its own tokenizer")
    table, tokenizer = _table(options), HuggingFaceTokenizer(model.tokenizer)
    encoded = tokenizer.encode(table.texts)
    cut = 0
    if options.truncate:
        cut = int((encoded.tokens.sizes > model.max_positions).sum())
        encoded = tokenizer.encode(table.texts, model.max_positions) if cut else encoded
    _check_ids(encoded.tokens, model, f"{model.tokenizer}: the tokenizer of another model")
    _check_padding(encoded.tokens, model, table)
    segments = encoded.segments if model.segments else None
    if segments is not None and segments.tokens.max(initial=0) >= model.segments:
        raise DataError(f"{table.name}: pairs of texts, but the model has {model.segments} segment")
    names = model.label_names or ()
    inputs = {**tokenizer.inputs, table.name: table.sha256}
    return _Read(
        table.name, encoded.tokens, segments, _labels(table, names), names, inputs, tuple(tokenizer.notes),
        len(table.texts) > 1, cut,
    )  # fmt: skip


def _segmented(options: DataOptions, model: ClassifierProfile) -> _Read:
    """A table, by the dictionary and the labels of a folder of fairseq."""
    segmenter, folder = _segmenter(options), _folder(options)
    folder.check(model)
    table, names = _table(options), folder.label_names(model.labels)
    texts = [
        Sentences.of(folder.dictionary.encode(segmenter.encode(text)) for text in column) for column in table.texts
    ]
    unknown = sum(int((own.tokens == folder.dictionary.unk).sum()) for own in texts)
    notes = [f"{table.name}: {unknown} pieces are not in {folder.dictionary.path}"] if unknown else []
    tokens = framed(texts, _frame(model))
    cut, tokens = _shortened(tokens, model, options)
    inputs = {str(own.path): own.sha256 for own in (folder.dictionary, folder.labels)}
    inputs |= segmenter.inputs if isinstance(segmenter, Gpt2Segmenter) else {str(segmenter.path): segmenter.sha256}
    inputs[table.name] = table.sha256
    return _Read(
        table.name, tokens, None, _labels(table, names), names, inputs, tuple(notes), len(table.texts) > 1, cut
    )


def _binarized(options: DataOptions, model: ClassifierProfile) -> _Read:
    """Subsets of a folder of fairseq's task."""
    if model.tokenizer is not None:
        raise UsageError("data: a classifier of transformers reads texts: name a table with `examples` FILE")
    folder = _folder(options)
    folder.check(model)
    names = folder.label_names(model.labels)
    parts, labels, files = [], [], []
    for subset in options.subsets:
        texts, read = folder.texts(subset)
        own, more = folder.targets(subset, names, len(texts[0]))
        parts.append(texts)
        labels.append(own)
        files += [*read, *more]
    if len({len(texts) for texts in parts}) > 1:
        raise DataError(f"{folder.folder}: some of the subsets {', '.join(options.subsets)} have pairs, some have not")
    tokens = Sentences.joined([framed(texts, _frame(model)) for texts in parts])
    cut, tokens = _shortened(tokens, model, options)
    inputs = {str(own.path): own.sha256 for own in (folder.dictionary, folder.labels)}
    inputs |= {str(path): sha256_file(path) for path in files}
    name = "+".join(options.subsets)
    return _Read(name, tokens, None, np.concatenate(labels), names, inputs, (), len(parts[0]) > 1, cut)


def _table(options: DataOptions) -> LabelTable:
    if options.examples is None:
        raise UsageError("data: name a table with `examples` FILE")
    return read_table(options.examples, options.text_columns, options.label_column)


def _folder(options: DataOptions) -> PredictionBin:
    if options.data_bin is None:
        raise UsageError("data: a classifier of fairseq needs `data_bin` DIR, which has input0/dict.txt and label")
    return PredictionBin(options.data_bin)


def _frame(model: ClassifierProfile) -> PairFrame:
    return model.frame or PairFrame()


def _segmenter(options: DataOptions) -> Segmenter:
    encoder, merges, model = options.gpt2_encoder_json, options.gpt2_vocab_bpe, options.sentencepiece
    if encoder is not None and merges is not None and model is None:
        return Gpt2Segmenter(encoder, merges)
    if model is not None and encoder is None and merges is None:
        return SentencePieceSegmenter(model)
    raise UsageError(
        "data: a table for a classifier of fairseq needs `gpt2_encoder_json` FILE and `gpt2_vocab_bpe` FILE, or "
        "`sentencepiece` MODEL"
    )


def _labels(table: LabelTable, names: Sequence[str]) -> Ids | None:
    if table.labels is None:
        return None
    return label_numbers(table.labels, names, table.name, lambda row: f"line {table.line(row)}")


def _shortened(tokens: Sentences, model: ClassifierProfile, options: DataOptions) -> tuple[int, Sentences]:
    """How many texts are cut, and the texts."""
    if not options.truncate and not shortens(model.frame):
        return 0, tokens
    return int((tokens.sizes > model.max_positions).sum()), truncated(tokens, model.max_positions)


def _pairs_note(read: _Read, model: ClassifierProfile) -> list[str]:
    """A note on pairs of texts for a model that was trained on single ones, as its settings say, or the reverse.

    Raises:
        DataError: pairs for a model of fairseq that has nothing to part them with.
    """
    if read.pairs and model.frame is not None and model.frame.separator is None:
        raise DataError(f"{read.name}: pairs of texts, but the model was trained without a separator between two texts")
    if model.pairs is None or model.pairs == read.pairs:
        return []
    found, wanted = ("pairs of", "single") if read.pairs else ("single", "pairs of")
    return [f"{read.name}: {found} texts, but the model says that it was trained on {wanted} texts"]


def _check_ids(tokens: Sentences, model: ClassifierProfile, where: str) -> None:
    highest = int(tokens.tokens.max(initial=0))
    if highest >= model.symbols:
        raise DataError(f"{where}: a text has the id {highest}, but the embeddings have {model.symbols} rows")


def _check_padding(tokens: Sentences, model: ClassifierProfile, table: LabelTable) -> None:
    """Refuse texts with the symbol of padding, which transformers reads there and nmtprune would leave out."""
    rows = [row for row, ids in enumerate(tokens) if (ids == model.padding).any()]
    if rows:
        faults = [f"line {table.line(row)}" for row in rows]
        raise DataError.of_faults(f"{table.name}: texts with the symbol of padding", first_of(faults))


def _within_positions(read: _Read, model: ClassifierProfile, options: DataOptions) -> Examples:
    """The texts that the model has positions for; others are refused or left out."""
    sizes, notes = read.tokens.sizes, read.notes
    long = sizes > model.max_positions
    if long.any():
        counts = f"{long.sum()} of {len(sizes)} texts are longer than the model's {model.max_positions} positions"
        if not options.skip_invalid or long.all():
            first = int(np.argmax(long))
            place = f"line {LabelTable.line(first)}" if options.examples else f"text {first}, counted from 0,"
            remedy = f"{_CUT} cuts such texts, {_SKIP} leaves them out"
            raise DataError(f"{read.name}: {counts}, first {place} with {sizes[first]} tokens: {remedy}")
        notes = (*notes, f"left out: {counts}")
    kept = np.flatnonzero(~long)
    reading: dict[str, str | int] = {"texts": "pairs" if read.pairs else "single"}
    if options.examples is not None:
        reading["columns"] = ",".join([*options.text_columns, options.label_column or ""])
    reading |= {"cut_to": model.max_positions} if read.cut else {}
    return Examples(
        name=read.name,
        tokens=read.tokens.select(kept),
        segments=None if read.segments is None else read.segments.select(kept),
        labels=None if read.labels is None else read.labels[kept],
        label_names=read.names,
        numbers=kept,
        total=len(sizes),
        model=model,
        inputs=read.inputs,
        notes=notes,
        reading=reading,
    )
