"""Every option that Marian knows, in one of three lists: supported, without effect on transformers, refused.

Marian 1.12 and before, and the branch `pruned_final` of Behnke's Marian. An option in none of the lists is refused.
"""

from dataclasses import dataclass
from typing import Any, Literal

HEAD_LISTS = {
    "encoder": "transformer-encoder-heads",
    "decoder": "transformer-decoder-heads",
    "cross": "transformer-context-heads",
}
"""Where the branch ``pruned_final`` of Behnke's Marian reads head counts layer by layer."""
HEAD_DIM, HEAD_FILE = "transformer-head-dim", "transformer-head-file"
DIM_FFN, DECODER_DIM_FFN = "transformer-dim-ffn", "transformer-decoder-dim-ffn"
ALIGNMENT_LAYER = "transformer-guided-alignment-layer"
"""Place of the decoder layer, from 1, that ``--alignment`` reads word alignments from, or ``last``."""

Kind = Literal["flag", "count", "size", "choice", "operations", "numbers", "types"]
"""``flag``: true or false; ``count``: from 1 on; ``size``: from 0 on; ``operations``: letters, in any order and number;
``numbers``: a list of whole numbers; ``types``: a list of choices."""


@dataclass(frozen=True)
class Supported:
    """An option that nmtprune reads.

    Attributes:
        kind: what its value must be.
        default: what Marian takes where the option is missing.
        meaning: what it does.
        choices: values of ``choice`` and ``types``, letters of ``operations``.
        recurrent: it is read only where an SSRU takes the place of the decoder's self-attention.
    """

    kind: Kind
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    recurrent: bool = False


@dataclass(frozen=True)
class Refused:
    """An option that changes what a model computes, and that nmtprune does not support.

    Attributes:
        neutral: the value under which it changes nothing.
        reason: why another value is refused.
    """

    neutral: Any
    reason: str


SUPPORTED: dict[str, Supported] = {
    "type": Supported("choice", "amun", "kind of model", ("transformer",)),
    "dim-vocabs": Supported("numbers", (), "rows of the source and the target table; 0 is not checked"),
    "dim-emb": Supported("count", 512, "width of the model"),
    "enc-depth": Supported("count", 1, "encoder layers"),
    "dec-depth": Supported("count", 1, "decoder layers"),
    "tied-embeddings": Supported("flag", False, "the target table is also that of the output layer"),
    "tied-embeddings-src": Supported("flag", False, "source and target have one table"),
    "tied-embeddings-all": Supported("flag", False, "source, target and output layer have one table"),
    "output-omit-bias": Supported("flag", False, "the output layer has no bias"),
    "right-left": Supported("flag", False, "sentences of both sides are read and written from right to left"),
    "input-types": Supported(
        "types", (), "what the files of the training held; alignments and weights matter in training only",
        ("sequence", "alignment", "weight"),
    ),
    "transformer-heads": Supported("count", 8, "heads of every module that has no count of its own"),
    "transformer-no-projection": Supported("flag", False, "heads are joined without W_O: heads can be masked, not cut"),
    DIM_FFN: Supported("count", 2048, "inner width of feed-forward layers"),
    DECODER_DIM_FFN: Supported("size", 0, "the same of the decoder; 0: as the encoder"),
    "transformer-ffn-depth": Supported(
        "count", 2, "matrices of a feed-forward layer; the native model computes 2, the engine marian any number"
    ),
    "transformer-decoder-ffn-depth": Supported("size", 0, "the same of the decoder; 0: as the encoder"),
    "transformer-ffn-activation": Supported(
        "choice", "swish", "activation of feed-forward layers; empty: none", ("swish", "relu", "gelu", "sigmoid", "")
    ),
    "transformer-preprocess": Supported("operations", "", "before sublayers: d dropout, n normalize", ("d", "n")),
    "transformer-postprocess": Supported(
        "operations", "dan", "after sublayers: d dropout, a add the input, n normalize", ("d", "a", "n")
    ),
    "transformer-postprocess-emb": Supported("operations", "d", "after embeddings, likewise", ("d", "n")),
    "transformer-postprocess-top": Supported(
        "operations", "", "after the last layer, likewise; the native model does not compute a, the engine marian does",
        ("d", "a", "n"),
    ),
    "transformer-decoder-autoreg": Supported(
        "choice", "self-attention", "how the decoder sees earlier words; rnn: by the SSRU", ("self-attention", "rnn")
    ),
    "dec-cell": Supported("choice", "gru", "cell of a recurrent decoder", ("ssru",), recurrent=True),
    "layer-normalization": Supported("flag", False, "the SSRU normalizes its inputs", recurrent=True),
    "transformer-rnn-projection": Supported("flag", False, "a matrix follows the SSRU", recurrent=True),
    "transformer-tied-layers": Supported("numbers", (), "for each decoder layer the one whose parameters it has"),
    "transformer-disable-position-embeddings": Supported("flag", False, "no positions are added"),
    HEAD_DIM: Supported("size", 0, "width of a head, in slim models; 0: dim-emb / transformer-heads"),
    **{
        name: Supported("numbers", None, f"stored heads of {kind} modules layer by layer, in slim models")
        for kind, name in HEAD_LISTS.items()
    },
}  # fmt: skip

_S2S = "of recurrent models"
_AVERAGE = "of decoders with average attention"
_ALIBI = "of ALiBi attention"
_BERT, _COMET, _CHARACTERS = "of BERT models", "of COMET models", "of character-level models"
_TRAINING, _FACTORED = "of training", "of factored vocabularies (.fsv)"
_NEW_LAYERS = "of COMET and BLEURT models; a translation model does not read it"

WITHOUT_EFFECT: dict[str, str] = {
    "version": "the Marian that wrote the file",
    "original-type": "what type was before Marian resolved it",
    "special-vocab": "of models with hard attention",
    **dict.fromkeys(("enc-cell", "enc-type", "enc-cell-depth", "dec-cell-base-depth", "dec-cell-high-depth"), _S2S),
    **dict.fromkeys(("dim-rnn", "skip"), _S2S),
    **dict.fromkeys(("transformer-dim-aan", "transformer-aan-depth", "transformer-aan-activation"), _AVERAGE),
    "transformer-aan-nogate": _AVERAGE,
    ALIGNMENT_LAYER: "of word alignment",
    "transformer-train-position-embeddings": "of BERT models: a translation model always has sinusoids",
    "transformer-depth-scaling": "of the initial weights",
    **dict.fromkeys(("transformer-no-bias", "transformer-no-affine", "transformer-dim-model"), _NEW_LAYERS),
    **dict.fromkeys(("transformer-alibi-shift", "transformer-alibi-trainable", "separator-symbol"), _ALIBI),
    **dict.fromkeys(("ulr-dim-emb", "ulr-trainable-transformation"), "of universal language representations"),
    **dict.fromkeys(("factors-combine", "factors-dim-emb"), _FACTORED),
    **dict.fromkeys(("transformer-dropout", "transformer-dropout-attention", "transformer-dropout-ffn"), _TRAINING),
    **dict.fromkeys(("dropout-rnn", "dropout-src", "dropout-trg"), _TRAINING),
    **dict.fromkeys(("bert-train-type-embeddings", "bert-type-vocab-size", "bert-mask-symbol"), _BERT),
    **dict.fromkeys(("bert-sep-symbol", "bert-class-symbol", "bert-masking-fraction"), _BERT),
    **dict.fromkeys(("char-stride", "char-highway", "char-conv-filters-num", "char-conv-filters-widths"), _CHARACTERS),
    **dict.fromkeys(("comet-final-sigmoid", "comet-stop-grad", "comet-mix", "comet-mix-norm", "comet-pool"), _COMET),
    **dict.fromkeys(("comet-mix-transformation", "comet-dropout", "comet-mixup", "comet-mixup-reg"), _COMET),
    **dict.fromkeys(("comet-augment-bad", "comet-pooler-ffn", "comet-use-separator"), _COMET),
}

REFUSED: dict[str, Refused] = {
    "transformer-pool": Refused(False, "pooled attention"),
    "transformer-attention-mask": Refused("default", "attention masks"),
    "transformer-train-positions": Refused(False, "trained positions"),
    "ulr": Refused(False, "universal language representations"),
    "lemma-dim-emb": Refused(0, "factored embeddings"),
    "lemma-dependency": Refused("", "factored embeddings"),
    "input-reorder": Refused([], "inputs in another order"),
    "input-join-fields": Refused(False, "inputs that are joined"),
    "comet-prepend-zero": Refused(False, "a symbol before every sentence"),
    HEAD_FILE: Refused(False, f"heads counted beside the model: write {', '.join(HEAD_LISTS.values())} into it"),
}

_OF_COMMANDS = """
    after after-batches after-epochs alibi alignment all-caps-every allow-special allow-unk authors beam-size best-deep
    build-info check-gradient-nan check-nan cite clip-norm config cost-scaling cost-type cpu-threads custom-fallbacks
    data-threads data-weighting data-weighting-type devices disp-first disp-freq disp-label-counts dump-config
    dynamic-gradient-scaling early-stopping early-stopping-epsilon early-stopping-on embedding-fix-src embedding-fix-trg
    embedding-normalization embedding-vectors encryption-key-path english-title-case-every exponential-smoothing
    exponential-smoothing-replace-freq factor-weight force-decode fp16 fp16-fallback-to-fp32 gemm-type
    gradient-checkpointing gradient-norm-average-window guided-alignment guided-alignment-cost guided-alignment-weight
    help ignore-model-config input interpolate-env-vars keep-best label-smoothing learn-rate log log-level log-time-zone
    logical-epoch lr-decay lr-decay-freq lr-decay-inv-sqrt lr-decay-repeat-warmup lr-decay-reset-optimizer
    lr-decay-start lr-decay-strategy lr-report lr-warmup lr-warmup-at-reload lr-warmup-cycle lr-warmup-start-rate
    max-length max-length-crop max-length-factor maxi-batch maxi-batch-sort mini-batch mini-batch-fit
    mini-batch-fit-step mini-batch-round-up mini-batch-track-lr mini-batch-warmup mini-batch-words mini-batch-words-ref
    model model-mmap models multi-loss-type n-best n-best-feature no-nccl no-optimizer-reload no-reload
    no-restore-corpus no-shuffle no-spm-decode no-spm-encode normalize normalize-gradient normalize-gradient-by-ratio
    optimize optimizer optimizer-delay optimizer-params output output-approx-knn output-sampling overwrite
    overwrite-checkpoint port precision pretrained-model quantize-biases quantize-bits quantize-log-based
    quantize-optimization-steps quantize-range quiet quiet-translation quiet-validation relative-paths save-freq seed
    sentencepiece-alphas sentencepiece-max-lines sentencepiece-options sharding shortlist shuffle shuffle-in-ram sigterm
    skip-cost sqlite sqlite-drop stat-freq summary sync-freq sync-sgd task tempdir throw-on-divergence
    train-embedder-rank train-sets tsv tsv-fields ulr-dropout ulr-keys-vectors ulr-query-vectors ulr-softmax-temperature
    unlikelihood-loss valid-freq valid-log valid-max-length valid-metrics valid-mini-batch valid-reset-all
    valid-reset-stalled valid-script-args valid-script-path valid-sets valid-translation-output vocabs weights
    word-penalty word-scores workspace
"""
OF_COMMANDS = frozenset(_OF_COMMANDS.split())
"""Options of Marian's commands, which no Marian writes into a model: its commands would obey them there, against what
they are told. Refused whatever their value."""
