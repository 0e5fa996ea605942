"""Settings beside a model of Marian's: vocabularies, options of the search, subword models of a release."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.formats.settings_beside import DecoderSettings

ENDING = ".decoder.yml"

IN_FOLDER = ("decoder.yml", "config.yml")
"""Names of settings in the folder of a model, which count where their ``models`` name it."""

_SUBWORDS = ("source.spm", "target.spm")
_DEFAULT_MAX_LENGTH = 1000
_TRUE, _FALSE = ("true", "yes", "on", "y"), ("false", "no", "off", "n")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")

_NUMBERS = {"normalize": "normalize", "word-penalty": "word_penalty", "max-length-factor": "max_length_factor"}
"""Key -> option of the native search."""

_INTEGERS = {"beam-size": "beam"}
"""The same for whole numbers."""

_FLAGS = {"allow-unk": "allow_unk", "allow-special": "allow_special"}
"""The same for what is true or false."""

_READ = {"models", "vocabs", "relative-paths", "interpolate-env-vars", "max-length", "max-length-crop"}
"""Other keys that are used."""

_CHANGING = (
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


class MarianDecoderSettings(DecoderSettings):
    """Settings of Marian's decoder; the subword models are those that OPUS-MT releases with lists of symbols."""

    @classmethod
    def beside(cls, model: Path) -> "MarianDecoderSettings":
        """Read the settings beside a model: MODEL.decoder.yml, else a file of its folder that names the model.

        Raises:
            CheckpointError: they cannot be read, or hold something else; all reasons.
        """
        own = model.with_name(model.name + ENDING)
        if own.is_file():
            return cls.read(own, model)
        for name in IN_FOLDER:
            path = model.with_name(name)
            if path.is_file() and _names(path, model):
                return cls.read(path, model)
        return cls()

    @classmethod
    def read(cls, path: Path, model: Path) -> "MarianDecoderSettings":
        """Read a settings file for a model.

        Raises:
            CheckpointError: it cannot be read, or holds something else; all reasons.
        """
        try:
            values = _values(path)
        except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise CheckpointError(f"{path}: cannot be read: {reason}") from None
        faults: list[str] = []
        search = {
            option: value
            for keys, parse, what in _FORMS
            for option, value in _parsed(values, keys, parse, what, faults)
        }
        relative, variables, crops = (
            next((value for _, value in _parsed(values, {key: key}, _flag, _FLAG, faults)), False)
            for key in ("relative-paths", "interpolate-env-vars", "max-length-crop")
        )
        lengths = dict(_parsed(values, {"max-length": "max"}, _whole, _WHOLE, faults))
        vocabs, models = (_paths(values, key, faults, variables=bool(variables)) for key in ("vocabs", "models"))
        if vocabs and len(vocabs) != 2:
            faults.append(f"vocabs are {len(vocabs)} files, not a source and a target vocabulary")
        if faults:
            raise CheckpointError.of_faults(str(path), faults)
        found = [_found(path.parent, name, relative=bool(relative)) for name in vocabs]
        notes = (*_model_notes(path, model, models), *_ignored_note(path, values))
        crop = max(1, lengths.get("max", _DEFAULT_MAX_LENGTH)) if crops else None
        pair = (found[0], found[1]) if found else None
        return cls(path, pair, search, crop, _subwords(path.parent, pair), notes)

    def needed_vocabs(self, model: Path) -> tuple[Path, Path]:
        """The vocabularies of a model for which the user names none.

        Raises:
            UsageError: the settings name none either.
            DataError: those that they name are not there.
        """
        if self.vocabs is None:
            beside = f"there is no {model.name}{ENDING} beside it that names them"
            where = beside if self.file is None else f"{self.file} names none"
            raise UsageError(f"data: a Marian model: name its vocabularies with `vocabs` A B ({where})")
        for path in self.vocabs:
            if not os.path.isfile(path):
                raise DataError(f"{path}: no such file ({self.file} names it): name the vocabularies with `vocabs` A B")
        return self.vocabs


def _values(path: Path) -> dict[str, Any]:
    """Keys and values, scalars as they are written.

    Raises:
        CheckpointError: no mapping, or a key that stands twice.
    """
    node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    if not isinstance(node, yaml.MappingNode):
        raise CheckpointError(f"{path}: holds no settings of a decoder ('KEY: VALUE' in every line)")
    keys = [str(key.value) for key, _ in node.value]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise CheckpointError.of_faults(str(path), [f"{key} stands twice" for key in twice])
    return {key: _value(value) for key, (_, value) in zip(keys, node.value, strict=True)}


def _value(node: yaml.Node) -> Any:
    """A scalar as text, None for one that is left empty, a list of them, or what it is called."""
    if isinstance(node, yaml.ScalarNode):
        return None if node.style is None and node.value in ("", "~", "null", "Null", "NULL") else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(child) for child in node.value]
    return {"a mapping": None}


def _number(value: Any) -> float | int | None:
    if value in _TRUE or value in _FALSE:
        return int(value in _TRUE)
    if not isinstance(value, str) or not _FLOAT.fullmatch(value) or not math.isfinite(float(value)):
        return None
    return int(value) if re.fullmatch(r"[+-]?\d+", value) else float(value)


def _whole(value: Any) -> int | None:
    number = None if value in _TRUE or value in _FALSE else _number(value)
    return int(number) if number is not None and number == int(number) and number > 0 else None


def _flag(value: Any) -> bool | None:
    if value in ("1", *_TRUE, *(word.capitalize() for word in _TRUE)):
        return True
    return False if value in ("0", *_FALSE, *(word.capitalize() for word in _FALSE)) else None


_NUMBER, _WHOLE, _FLAG = "no number", "no whole number from 1 on", "not true or false"
_FORMS: tuple[tuple[Mapping[str, str], Callable[[Any], Any], str], ...] = (
    (_NUMBERS, _number, _NUMBER),
    (_INTEGERS, _whole, _WHOLE),
    (_FLAGS, _flag, _FLAG),
)


def _parsed(
    values: Mapping[str, Any], keys: Mapping[str, str], parse: Callable[[Any], Any], what: str, faults: list[str]
) -> Iterator[tuple[str, Any]]:
    """Options and their values; a fault for each value of another type."""
    for key, option in keys.items():
        if key in values:
            value = parse(values[key])
            if value is None:
                faults.append(f"{key} is {_shown(values[key])}, {what}")
            else:
                yield option, value


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    return f"'{value}'" if isinstance(value, str) else "a mapping" if isinstance(value, dict) else "a list"


def _paths(values: Mapping[str, Any], key: str, faults: list[str], *, variables: bool) -> list[str]:
    value = values.get(key, [])
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        faults.append(f"{key} is {_shown(value)}, not a list of files ('{key}: [FILE, FILE]')")
        return []
    if not variables:
        return value
    missing = {name for text in value for name in _VARIABLE.findall(text) if name not in os.environ}
    faults.extend(f"{key} name the environment variable {name}, which is not set" for name in sorted(missing))
    return [_VARIABLE.sub(lambda match: os.environ.get(match[1], ""), text) for text in value]


def _found(folder: Path, name: str, *, relative: bool) -> Path:
    """A file: relative to the folder or to the current one, or in the folder, if all was moved there."""
    named = folder / name if relative else Path(name)
    moved = folder / Path(name).name
    return moved if not os.path.exists(named) and os.path.exists(moved) else named


def _names(path: Path, model: Path) -> bool:
    """Whether settings in the folder of a model are its own; what cannot be read is not."""
    try:
        models = _values(path).get("models")
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError, CheckpointError):
        return False
    return isinstance(models, list) and model.name in [Path(name).name for name in models if isinstance(name, str)]


def _subwords(folder: Path, vocabs: tuple[Path, Path] | None) -> tuple[Path | None, Path | None]:
    if vocabs is None:
        return None, None
    named = ((vocab, folder / name) for vocab, name in zip(vocabs, _SUBWORDS, strict=True))
    source, target = (model if vocab.suffix != ".spm" and model.is_file() else None for vocab, model in named)
    return source, target


def _model_notes(path: Path, model: Path, models: list[str]) -> Iterator[str]:
    names = [Path(name).name for name in models]
    if len(names) > 1:
        yield f"{path}: settings of an ensemble of {len(names)} models: {model.name} is run alone"
    elif names and model.name not in names:
        yield f"{path}: settings of another model, {names[0]}"


def _ignored_note(path: Path, values: Mapping[str, Any]) -> Iterator[str]:
    groups = list(_ignored(values))
    if groups:
        yield f"{path}: ignored: {'; '.join(groups)}"


def _ignored(values: Mapping[str, Any]) -> Iterator[str]:
    """What a settings file says that is not used, in up to four groups.

    Args:
        values: key to value; scalars are text, lists are lists.
    """
    used = {*_NUMBERS, *_INTEGERS, *_FLAGS, *_READ}
    rest = [key for key in values if key not in used]
    if "max-length" in values and not _is_on(values.get("max-length-crop")):
        rest.append("max-length")
    changing = [key for key in rest if key in _CHANGING]
    yield from _group([key for key in changing if _is_on(values[key])], "Marian may translate otherwise with them")
    rest = [key for key in rest if key not in _CHANGING or key not in changing]
    model = [key for key in rest if key in _MODEL or key.startswith(_MODEL_STARTS)]
    yield from _group(model, "the options in the model's own file count")
    yield from _group([key for key in rest if key in _RUNNING], "without effect on texts")
    unknown = [key for key in rest if key not in _RUNNING and key not in model]
    yield from _group(unknown, "no options of Marian's decoder")


def _is_on(value: Any) -> bool:
    """Whether a value switches something on."""
    return bool(value) and value not in _OFF


def _group(keys: list[str], what: str) -> Iterator[str]:
    if keys:
        yield f"{', '.join(keys)} ({what})"
