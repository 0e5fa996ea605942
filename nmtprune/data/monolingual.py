"""DATA of a language model: lines of text, binarized with one dictionary or raw."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from nmtprune.data.codec import build_codec
from nmtprune.data.corpus import Corpus
from nmtprune.data.databin import Languages
from nmtprune.data.mmap import data_path, index_path, read_sentences
from nmtprune.data.options import TRAINING_SUBSET, DataOptions
from nmtprune.data.ragged import Sentences
from nmtprune.data.read import LanguagePair, RawData
from nmtprune.data.vocabulary import FairseqVocabulary, check_size
from nmtprune.errors import DataError, UsageError
from nmtprune.files import sha256_file
from nmtprune.profile import ModelProfile

_DICTIONARY = "dict.txt"
_LANGUAGES = Languages("text", "text")


def load_lines(options: DataOptions, symbols: int, longest: int) -> Corpus:
    """Lines as the target side of a corpus whose source sentences are empty.

    Args:
        options: a folder that fairseq-preprocess wrote with ``--only-source``, and a subset of it or raw text.
        symbols: size of the model's vocabulary.
        longest: tokens of a line that the model takes; longer lines are left out.

    Raises:
        DataError: a file is missing, damaged or empty, or does not fit the model.
        UsageError: options of translation models.
    """
    if options.data_bin is None or options.reference:
        raise UsageError("data: a language model takes `data_bin` DIR with dict.txt, and no `reference`")
    dictionary = options.data_bin / _DICTIONARY
    if not dictionary.exists():
        raise DataError(f"{dictionary}: no such dictionary; a language model's data-bin has one for all text")
    vocabulary = FairseqVocabulary.read(dictionary)
    check_size(vocabulary, symbols, "target")
    codec, note = build_codec(options, _LANGUAGES, {"source": vocabulary, "target": vocabulary})
    pair = LanguagePair(_LANGUAGES, vocabulary, vocabulary, codec)
    notes: list[str] = [] if note is None else [note]
    if options.source is not None:
        content = RawData(options, pair).content(references=False, targets=False)
        name, lines, inputs = content.name, content.source, dict(content.inputs)
        notes += content.notes
    else:
        name = ",".join(options.subsets)
        prefixes = [prefix for subset in options.subsets for prefix in _prefixes(options, subset)]
        lines = Sentences.joined([read_sentences(prefix, len(vocabulary)) for prefix in prefixes])
        inputs = {
            str(file): sha256_file(file) for prefix in prefixes for file in (data_path(prefix), index_path(prefix))
        }
    kept = np.flatnonzero(lines.sizes <= longest)
    if not len(kept):
        raise DataError(f"{name}: has no lines of at most {longest} tokens")
    if len(kept) < len(lines):
        notes.append(f"left out, longer than the model's positions ({longest}): {len(lines) - len(kept)} lines")
    return Corpus(
        name=name,
        languages=_LANGUAGES,
        source=Sentences.of([np.empty(0, dtype=np.int64)] * len(kept)),
        target=lines.select(kept),
        references=None,
        numbers=kept,
        total=len(lines),
        source_vocabulary=vocabulary,
        target_vocabulary=vocabulary,
        codec=codec,
        model=replace(ModelProfile(), target_symbols=symbols),
        inputs={str(dictionary): vocabulary.sha256, **inputs},
        notes=tuple(notes),
    )


def _prefixes(options: DataOptions, subset: str) -> list[Path]:
    """Files of a subset; of a training set all shards, as fairseq joins them."""
    folder = options.data_bin or Path()
    found = [folder / subset]
    if not index_path(found[0]).exists():
        there = sorted(path.stem for path in folder.glob("*.idx"))
        raise DataError(f"{found[0]}: no such subset; there are: {', '.join(there) or 'none'}")
    while options.join_shards and subset == TRAINING_SUBSET and index_path(folder / f"{subset}{len(found)}").exists():
        found.append(folder / f"{subset}{len(found)}")
    return found
