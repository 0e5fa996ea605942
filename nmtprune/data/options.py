"""What a user says about DATA, and what a model asks of it."""

from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.subwords import POST_PROCESSES, TOKENIZERS
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError

DEFAULT_SUBSET = "valid"
TRAINING_SUBSET = "train"


@dataclass(frozen=True)
class DataOptions:
    """DATA: either a subset of a folder of binarized data, or raw text with that folder's dictionaries.

    Attributes:
        data_bin: fairseq's folder of dictionaries and binarized data.
        subset: name of a subset in `data_bin`, ``valid`` where neither it nor `source` is given; several, separated by
            commas, are joined.
        source: raw text, one sentence per line, plain or gzip; ``-`` is standard input.
        reference: files of raw reference translations of `source` or of the subset; several give each sentence several
            references.
        sentencepiece: SentencePiece model that splits raw text.
        bpe_codes: codes of subword-nmt or fastBPE that split raw text.
        source_lang: source language, where the folder or the checkpoint leaves it open.
        target_lang: target language, likewise.
        vocabs: source and target vocabulary of a Marian model, for raw text.
        post_process: how symbols become words, one of POST_PROCESSES; None: as the other settings suggest.
        tokenizer: how raw text is tokenized and translations are detokenized, one of TOKENIZERS.
        skip_invalid: leave out sentences that are longer than the model's positions instead of refusing them.
        join_shards: SUBSET, SUBSET1, SUBSET2, ... are one set, as fairseq-train takes its training set.
    """

    data_bin: Path | None = None
    subset: str | None = None
    source: Path | None = None
    reference: tuple[Path, ...] = ()
    sentencepiece: Path | None = None
    bpe_codes: Path | None = None
    vocabs: tuple[Path, Path] | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    post_process: str | None = None
    tokenizer: str | None = None
    skip_invalid: bool = False
    join_shards: bool = False

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
        """Names of the binarized subsets; empty for raw text."""
        if self.source is not None:
            return ()
        return tuple(name.strip() for name in (self.subset or DEFAULT_SUBSET).split(","))

    @property
    def texts(self) -> tuple[Path, ...]:
        """Files of raw text."""
        return (*([] if self.source is None else [self.source]), *self.reference)

    def _form_faults(self) -> list[str]:
        faults = []
        if self.data_bin is not None and self.vocabs is not None:
            faults.append("--vocabs (Marian's) and --data-bin (fairseq's) exclude each other")
        if self.source is None:
            named = self.data_bin or self.vocabs
            return faults if named else ["none given: name --data-bin DIR or --source FILE"]
        if self.data_bin is None and self.vocabs is None:
            faults.append("--source needs --data-bin DIR, whose dictionaries dict.LANG.txt turn text into token ids")
        if self.subset is not None:
            faults.append("--subset names binarized data and --source raw text: give one of the two")
        splits = self.vocabs is not None and all(path.suffix == ".spm" for path in self.vocabs)
        if not (splits or self.sentencepiece or self.bpe_codes or self.post_process == "none"):
            faults.append(
                "--source needs --sentencepiece MODEL or --bpe-codes FILE "
                "(or --post-process none, for text whose words are the dictionary's symbols)"
            )
        if self.texts.count(STDIN) > 1:
            faults.append("only one of --source and --reference can be standard input")
        return faults

    def _value_faults(self) -> list[str]:
        faults = []
        if self.sentencepiece is not None and self.bpe_codes is not None:
            faults.append("--sentencepiece and --bpe-codes exclude each other")
        if self.post_process not in (None, *POST_PROCESSES):
            faults.append(f"unknown --post-process '{self.post_process}' (choose among {', '.join(POST_PROCESSES)})")
        if self.tokenizer not in (None, *TOKENIZERS):
            faults.append(f"unknown --tokenizer '{self.tokenizer}' (choose among {', '.join(TOKENIZERS)})")
        if not all(self.subsets) and self.source is None:
            faults.append(f"--subset '{self.subset}' holds an empty name")
        return faults


@dataclass(frozen=True)
class ModelProfile:
    """What a model asks of its data; None where the checkpoint does not tell.

    Attributes:
        source_symbols: rows of the source embeddings.
        target_symbols: rows of the target embeddings.
        source_lang: source language of the training.
        target_lang: target language of the training.
        max_source_positions: tokens that the encoder takes, the end-of-sentence symbol included.
        max_target_positions: tokens that the decoder takes.
        left_pad_source: padding goes before source sentences, fairseq's default.
        left_pad_target: padding goes before target sentences.
        marian: the vocabularies are Marian's.
    """

    source_symbols: int | None = None
    target_symbols: int | None = None
    source_lang: str | None = None
    target_lang: str | None = None
    max_source_positions: int | None = None
    max_target_positions: int | None = None
    left_pad_source: bool = True
    left_pad_target: bool = False
    marian: bool = False
