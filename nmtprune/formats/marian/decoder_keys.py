"""Keys of settings files of Marian's decoder, by what nmtprune does with them."""

from collections.abc import Iterator, Mapping
from typing import Any

NUMBERS = {"normalize": "normalize", "word-penalty": "word_penalty", "max-length-factor": "max_length_factor"}
"""Key -> option of the native search."""

INTEGERS = {"beam-size": "beam"}
"""The same for whole numbers."""

FLAGS = {"allow-unk": "allow_unk", "allow-special": "allow_special"}
"""The same for what is true or false."""

READ = {"models", "vocabs", "relative-paths", "interpolate-env-vars", "max-length", "max-length-crop"}
"""Other keys that are used."""

CHANGING = (
    "shortlist", "skip-cost", "weights", "output-sampling", "output-approx-knn", "force-decode", "max-length-break",
    "gemm-type", "gemm-precision", "quantize-range", "int8", "int8shift", "int8shiftAlpha", "int8shiftAll",
    "int8shiftAlphaAll", "int8Alpha", "int16", "optimize", "optimize8", "fp16", "precision", "ignore-model-config",
    "tsv", "tsv-fields", "no-spm-encode", "no-spm-decode", "input-reorder", "ssplit-mode", "ssplit-prefix-file",
    "max-length",
)  # fmt: skip
"""Keys with which Marian, or a translator built on it, may write other texts than nmtprune, which ignores them."""

_RUNNING = (
    "mini-batch", "mini-batch-words", "maxi-batch", "maxi-batch-sort", "workspace", "cpu-threads", "devices",
    "num-devices", "no-nccl", "no-tensor-cores", "data-threads", "model-mmap", "tempdir", "seed", "check-nan",
    "encryption-key-path", "cache-size", "quiet", "quiet-translation", "log", "log-level", "log-time-zone",
    "stat-freq", "input", "output", "n-best", "alignment", "word-scores", "quality", "config", "dump-config", "port",
    "version", "authors", "cite", "build-info", "sentencepiece-alphas", "sentencepiece-options",
    "sentencepiece-max-lines",
)  # fmt: skip
_MODEL = (
    "type", "skip", "layer-normalization", "right-left", "best-deep", "alibi", "separator-symbol", "output-omit-bias",
    "concat-embeddings",
)  # fmt: skip
_MODEL_STARTS = (
    "dim-", "factors-", "lemma-", "enc-", "dec-", "input-", "tied-embeddings", "transformer-", "bert-", "comet-",
)  # fmt: skip
_OFF = ("", "false", "False", "no", "off", "0")


def ignored(values: Mapping[str, Any]) -> Iterator[str]:
    """What a settings file says that is not used, in up to four groups.

    Args:
        values: key to value; scalars are text, lists are lists.
    """
    used = {*NUMBERS, *INTEGERS, *FLAGS, *READ}
    rest = [key for key in values if key not in used]
    if "max-length" in values and not is_on(values.get("max-length-crop")):
        rest.append("max-length")
    changing = [key for key in rest if key in CHANGING]
    yield from _group([key for key in changing if is_on(values[key])], "Marian may translate otherwise with them")
    rest = [key for key in rest if key not in CHANGING or key not in changing]
    model = [key for key in rest if key in _MODEL or key.startswith(_MODEL_STARTS)]
    yield from _group(model, "the options in the model's own file count")
    yield from _group([key for key in rest if key in _RUNNING], "without effect on texts")
    unknown = [key for key in rest if key not in _RUNNING and key not in model]
    yield from _group(unknown, "no options of Marian's decoder")


def is_on(value: Any) -> bool:
    """Whether a value switches something on."""
    return bool(value) and value not in _OFF


def _group(keys: list[str], what: str) -> Iterator[str]:
    if keys:
        yield f"{', '.join(keys)} ({what})"
