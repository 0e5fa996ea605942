"""What a user says about DATA."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nmtprune.data.subwords import POST_PROCESSES, TOKENIZERS
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError

DEFAULT_SUBSET = "valid"
TRAINING_SUBSET = "train"
_OF_TABLES = ("text_column", "label_column", "gpt2_encoder_json", "gpt2_vocab_bpe")
"""Options that a table alone has a use for."""

_OF_CLASSIFIERS = ("data_bin", "subset", "examples", *_OF_TABLES, "truncate", "skip_invalid", "join_shards")
"""Options that DATA of a classifier may have; of a table also a SentencePiece model."""


@dataclass(frozen=True)
class DataOptions:
    """DATA: either a subset of a folder of binarized data, or raw text with that folder's dictionaries.

    Of a classifier: a subset of such a folder, or a table of texts and labels.

    Attributes:
        data_bin: fairseq's folder of dictionaries and binarized data.
        subset: name of a subset in `data_bin`, ``valid`` where neither it nor `source` is given; several, separated by
            commas, are joined.
        source: raw text, one sentence per line, plain or gzip; ``-`` is standard input.
        reference: files of raw reference translations of `source` or of the subset; several give each sentence several
            references.
        sentencepiece: SentencePiece model that splits raw text of both sides.
        bpe_codes: codes of subword-nmt or fastBPE that split raw text of both sides.
        source_sentencepiece: SentencePiece model of the source side alone.
        target_sentencepiece: SentencePiece model of the target side alone.
        source_bpe_codes: BPE codes of the source side alone.
        target_bpe_codes: BPE codes of the target side alone.
        source_lang: source language, where the folder or the checkpoint leaves it open.
        target_lang: target language, likewise.
        vocabs: source and target vocabulary of a Marian model, for raw text.
        post_process: how symbols become words, one of POST_PROCESSES; None: as the other settings suggest.
        tokenizer: how raw text is tokenized and translations are detokenized, one of TOKENIZERS.
        moses_no_dash_splits: the Moses tokenizer leaves hyphenated words whole.
        moses_no_escape: the Moses tokenizer leaves characters that XML reserves as they are.
        lowercase_source: lower-case raw source text, behind the tokenizer.
        lowercase_target: lower-case raw references before they become token ids.
        skip_invalid: leave out sentences that are longer than the model's positions instead of refusing them.
        crop_source: tokens that longer sources are cut to, the end-of-sentence symbol included.
        source_prefix: symbols in front of every source sentence, separated by blanks.
        target_prefix: symbols that every translation begins with, likewise; its text is without them.
        join_shards: SUBSET, SUBSET1, SUBSET2, ... are one set, as fairseq-train takes its training set.
        examples: table of texts and labels for a classifier, plain or gzip; ``-`` is standard input.
        text_column: name of the column of texts in `examples`; of pairs two names, separated by a comma.
        label_column: name of the column of labels.
        gpt2_encoder_json: numbers of GPT-2's symbols, which split texts for a classifier of fairseq.
        gpt2_vocab_bpe: merges of GPT-2's byte-pair encoding.
        truncate: cut texts for a classifier to its positions instead of refusing them.
    """

    data_bin: Path | None = None
    subset: str | None = None
    source: Path | None = None
    reference: tuple[Path, ...] = ()
    sentencepiece: Path | None = None
    bpe_codes: Path | None = None
    source_sentencepiece: Path | None = None
    target_sentencepiece: Path | None = None
    source_bpe_codes: Path | None = None
    target_bpe_codes: Path | None = None
    vocabs: tuple[Path, Path] | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    post_process: str | None = None
    tokenizer: str | None = None
    moses_no_dash_splits: bool = False
    moses_no_escape: bool = False
    lowercase_source: bool = False
    lowercase_target: bool = False
    skip_invalid: bool = False
    crop_source: int | None = None
    source_prefix: str | None = None
    target_prefix: str | None = None
    join_shards: bool = False
    examples: Path | None = None
    text_column: str | None = None
    label_column: str | None = None
    gpt2_encoder_json: Path | None = None
    gpt2_vocab_bpe: Path | None = None
    truncate: bool = False

    def __post_init__(self) -> None:
        """Check that the options fit together.

        Raises:
            UsageError: they do not; every reason.
        """
        faults = [*self._form_faults(), *self._value_faults()]
        if faults:
            raise UsageError.of_faults("data", faults)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the binarized subsets; empty for raw text and tables."""
        if self.source is not None or self.examples is not None:
            return ()
        return tuple(name.strip() for name in (self.subset or DEFAULT_SUBSET).split(","))

    def subword_model(self, side: str) -> tuple[str, Path] | None:
        """What splits raw text of side ``source`` or ``target``: its kind as POST_PROCESSES names it, and its file."""
        for name, kind in (("sentencepiece", "sentencepiece"), ("bpe_codes", "subword_nmt")):
            path: Path | None = getattr(self, f"{side}_{name}") or getattr(self, name)
            if path is not None:
                return kind, path
        return None

    def splits_itself(self, side: str) -> bool:
        """Whether the vocabulary of that side is a SentencePiece model, with which Marian splits raw text."""
        return self.vocabs is not None and self.vocabs[side == "target"].suffix == ".spm"

    def segmented(self, side: str) -> bool:
        """Whether raw text of that side is segmented already: subwords are to be joined, and nothing splits it."""
        joined = self.post_process not in (None, "none")
        return joined and self.subword_model(side) is None and not self.splits_itself(side)

    def training_text(self, subset: str = TRAINING_SUBSET) -> "DataOptions":
        """A subset of `data_bin` to learn from: all shards of a training set, without sentences that are too long."""
        joined = subset == TRAINING_SUBSET
        values: dict[str, Any] = {"source": None, "reference": (), "examples": None, **dict.fromkeys(_OF_TABLES)}
        values |= {} if self.examples is None else {"sentencepiece": None}
        return replace(self, subset=subset, join_shards=joined, skip_invalid=True, **values)

    def check_trains(self) -> None:
        """Check that fairseq-train, which knows no prefixes, learns from the sentences that are measured.

        Raises:
            UsageError: prefixes are named.
        """
        named = [f"`{name}`" for name in ("source_prefix", "target_prefix") if getattr(self, name) is not None]
        if named:
            raise UsageError(
                f"{', '.join(named)}: fairseq-train learns from the sentences of `data_bin` as they are: binarize them "
                "with these tokens, and name none"
            )

    @property
    def texts(self) -> tuple[Path, ...]:
        """Files of raw text, and tables."""
        return (*(path for path in (self.source, self.examples) if path is not None), *self.reference)

    @property
    def tools(self) -> tuple[Path, ...]:
        """What turns text into token ids: dictionaries or vocabularies, and subword models."""
        models = (self.subword_model(side) for side in ("source", "target"))
        named = (self.data_bin, *(self.vocabs or ()), *(model[1] for model in models if model is not None),
                 self.gpt2_encoder_json, self.gpt2_vocab_bpe)  # fmt: skip
        return tuple(dict.fromkeys(path for path in named if path is not None))

    @property
    def files(self) -> tuple[Path, ...]:
        """All that is read, which must not be written over."""
        return (*self.texts, *self.tools)

    @property
    def _text(self) -> str:
        """Raw text as the user gave it: by an option, or on standard input or as arguments, which take no option."""
        return "text" if self.source == STDIN else "`source`"

    def _form_faults(self) -> list[str]:
        faults = []
        if self.data_bin is not None and self.vocabs is not None:
            faults.append("`vocabs` (Marian's) and `data_bin` (fairseq's) exclude each other")
        if self.examples is not None:
            return [*faults, *self._table_faults()]
        faults += [f"`{name}` needs `examples` FILE" for name in _OF_TABLES if getattr(self, name) is not None]
        if self.source is None:
            named = self.data_bin or self.vocabs
            return faults if named else ["none given: name `data_bin` DIR, `source` FILE or `examples` FILE"]
        if self.data_bin is None and self.vocabs is None:
            faults.append(
                f"{self._text} needs `data_bin` DIR, whose dictionaries dict.LANG.txt turn text into token ids"
            )
        if self.subset is not None:
            faults.append("`subset` names binarized data and `source` raw text: give one of the two")
        models = (self.subword_model(side) for side in ("source", "target"))
        if not (any(models) or self.splits_itself("source") or self.post_process):
            faults.append(
                f"{self._text} needs `sentencepiece` MODEL or `bpe_codes` FILE, for one side or both "
                "(`source_sentencepiece`, ...); text that is segmented already needs `post_process` METHOD, and "
                "`post_process` none where its words are the dictionary's symbols"
            )
        if self.texts.count(STDIN) > 1:
            faults.append("only one of `source` and `reference` can be standard input")
        return faults

    def _table_faults(self) -> list[str]:
        """What does not go with a table of texts and labels."""
        others = ("source", "subset", "vocabs", "bpe_codes", "post_process", "tokenizer")
        faults = [f"`{name}` and `examples` exclude each other" for name in others if getattr(self, name) is not None]
        faults += ["`reference` and `examples` exclude each other"] if self.reference else []
        if self.text_column is None:
            faults.append("`examples` needs `text_column` NAME, or two names separated by a comma for pairs of texts")
        if (self.gpt2_encoder_json is None) != (self.gpt2_vocab_bpe is None):
            faults.append("`gpt2_encoder_json` and `gpt2_vocab_bpe` go together")
        return faults

    def check_labelled(self) -> None:
        """Check that a classifier reads them.

        Raises:
            UsageError: options that a classifier has no use for, all of them.
        """
        read = (*_OF_CLASSIFIERS, *(() if self.examples is None else ("sentencepiece",)))
        named = [
            f"`{own.name}`" for own in fields(self) if own.name not in read and getattr(self, own.name) != own.default
        ]
        if named:
            raise UsageError(
                f"data: {', '.join(named)}: this model is a classifier: name a table with `examples` FILE, or "
                "`data_bin` DIR of a task sentence_prediction, and leave these out"
            )

    def check_translated(self) -> None:
        """Check that a translation model reads them.

        Raises:
            UsageError: they name a table of texts and labels.
        """
        if self.examples is not None or self.truncate:
            named = "`examples`" if self.examples is not None else "`truncate`"
            raise UsageError(
                f"data: {named} is for classifiers, and this model translates: name `source` FILE or `data_bin` DIR"
            )

    @property
    def names_labels(self) -> bool:
        """Whether they are those of a classifier: a table, or a folder of fairseq's task ``sentence_prediction``."""
        return self.examples is not None or (self.data_bin is not None and (self.data_bin / "input0").is_dir())

    @property
    def text_columns(self) -> tuple[str, ...]:
        """Names of the columns of texts."""
        return () if self.text_column is None else tuple(self.text_column.split(","))

    def _value_faults(self) -> list[str]:
        faults = self._subword_faults()
        if self.post_process not in (None, *POST_PROCESSES):
            faults.append(f"unknown `post_process` '{self.post_process}' (choose among {', '.join(POST_PROCESSES)})")
        if self.tokenizer not in (None, *TOKENIZERS):
            faults.append(f"unknown `tokenizer` '{self.tokenizer}' (choose among {', '.join(TOKENIZERS)})")
        moses = {"`moses_no_dash_splits`": self.moses_no_dash_splits, "`moses_no_escape`": self.moses_no_escape}
        if self.tokenizer != "moses" and any(moses.values()):
            faults.append(f"{', '.join(name for name in moses if moses[name])} needs `tokenizer` moses")
        for side in ("source", "target"):
            if self.source is not None and getattr(self, f"lowercase_{side}") and self.segmented(side):
                reason = f"with `post_process` {self.post_process} and no subword model text is segmented already"
                faults.append(f"`lowercase_{side}`: {reason}")
        if not all(self.subsets):
            faults.append(f"`subset` '{self.subset}' holds an empty name")
        return faults

    def _subword_faults(self) -> list[str]:
        """Two subword models for one side."""
        options = [f"{side}{name}" for side in ("", "source_", "target_") for name in ("sentencepiece", "bpe_codes")]
        given = {name: f"`{name}`" for name in options if getattr(self, name) is not None}
        faults = []
        for side in ("", "source_", "target_"):
            both = [given[name] for name in (f"{side}sentencepiece", f"{side}bpe_codes") if name in given]
            if len(both) == 2:
                faults.append(f"{both[0]} and {both[1]} exclude each other")
        shared = [given[name] for name in options[:2] if name in given]
        own = [given[name] for name in options[2:] if name in given]
        if shared and own:
            faults.append(f"{shared[0]} is for both sides and excludes {', '.join(own)}")
        return faults + self._vocabulary_faults()

    def _vocabulary_faults(self) -> list[str]:
        """Subword models of sides that their vocabularies split themselves."""
        vocabs = dict(zip(("source", "target"), self.vocabs or (), strict=False))
        split = {side: vocab for side, vocab in vocabs.items() if self.splits_itself(side)}
        shared = self.sentencepiece or self.bpe_codes
        if shared is not None and len(split) == 2 and {*split.values()} != {shared}:
            names = " and ".join(dict.fromkeys(map(str, split.values())))
            return [f"{names}: vocabularies that split text themselves: {shared} goes with a .yml vocabulary"]
        named = {side: getattr(self, f"{side}_sentencepiece") or getattr(self, f"{side}_bpe_codes") for side in split}
        return [
            f"{vocab} splits the {side} side itself: {named[side]} goes with a .yml vocabulary"
            for side, vocab in split.items()
            if named[side] not in (None, vocab)
        ]
