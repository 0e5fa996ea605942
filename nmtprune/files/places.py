"""What a path is that names no file: a folder of some toolkit, several paths in one, the beginning of other names."""

import json
from collections.abc import Iterable
from pathlib import Path

_MODELS = (".pt", ".npz")
_SHOWN = 3
_TRANSFORMERS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def describe_folder(folder: Path) -> str:
    """What a folder is that was named instead of a model file, and which file of it to name."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        return f"is a folder that cannot be read: {error.strerror or error}"
    models = [name for name in names if name.endswith(_MODELS)]
    if models:
        return f"is a folder; name the checkpoint file in it: {some(sorted(models, key=_by_likelihood))}"
    return _of_a_toolkit(folder, set(names)) or _of_folders(folder, names)


def is_of_transformers(path: Path) -> bool:
    """Whether a path is a folder as Hugging Face's transformers writes models: settings of one, or weights."""
    return any((path / name).is_file() for name in _TRANSFORMERS) or _names_a_model(path / "config.json")


def _names_a_model(path: Path) -> bool:
    """Whether a file holds settings of a model of transformers."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and bool({"model_type", "architectures"} & found.keys())


def describe_missing(path: Path) -> str:
    """Why there is no such file, as far as the names around it tell."""
    several = parts(path)
    if several:
        return (
            f"there is no such file, and {' and '.join(several)} are several (fairseq joins paths by colons): name one "
            "checkpoint; an ensemble is pruned model by model"
        )
    return f"there is no such file{_that_begin_with(path)}"


def parts(path: Path) -> list[str]:
    """The paths that are there, of those that colons join as fairseq writes several; empty for a path of its own."""
    names = str(path).split(":")
    there = [name for name in names if name and Path(name).exists()]
    return there if len(names) > 1 and there and not path.exists() else []


def some(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return f"{', '.join(listed[:_SHOWN])}{more}"


def _by_likelihood(name: str) -> tuple[bool, bool, str]:
    """Best and last checkpoints before those of epochs, and files of an optimizer behind all."""
    return "optimizer" in name or "shard" in name, "best" not in name and "last" not in name, name


def _of_a_toolkit(folder: Path, names: set[str]) -> str | None:
    if {"snapshots", "blobs"} <= names:
        inside = some(sorted(path.name for path in (folder / "snapshots").iterdir()))
        return f"is a folder of the cache of Hugging Face's hub: name the model in its snapshots/ ({inside or 'empty'})"
    if "model.bin" in names and names & {"shared_vocabulary.json", "source_vocabulary.json", "shared_vocabulary.txt",
                                         "source_vocabulary.txt"}:  # fmt: skip
        return "is a model of CTranslate2: name the checkpoint that it was converted from"
    if "saved_model.pb" in names or "checkpoint" in names and any(name.endswith(".index") for name in names):
        return "is a model of TensorFlow: fairseq's (.pt) and Marian's (.npz) checkpoints are supported"
    if any(name.startswith("dict.") and name.endswith(".txt") for name in names):
        return "is a data folder of fairseq-preprocess: it goes with `data_bin`, and a model is a file"
    return None


def _of_folders(folder: Path, names: list[str]) -> str:
    below = [
        f"{name}/{path.name}"
        for name in names
        if (folder / name).is_dir()
        for ending in _MODELS
        for path in sorted((folder / name).glob(f"*{ending}"))
    ]
    if below:
        return f"is a folder; name a checkpoint file, such as {some(sorted(below, key=_by_likelihood))}"
    return "is a folder without a checkpoint in it (fairseq's .pt or Marian's .npz)"


def _that_begin_with(path: Path) -> str:
    """Files beside a path whose names go on where its name ends."""
    if not path.name:
        return ""
    stem = path.name.removesuffix(path.suffix) if path.suffix in _MODELS else path.name
    try:
        names = sorted(other.name for other in path.parent.iterdir() if other.name.startswith(stem))
    except OSError:
        return ""
    if any("-shard" in name for name in names):
        return f"; {some(names)} are parts of one model (FSDP): train without --use-sharded-state, which saves it whole"
    if any(name.endswith(".index") for name in names):
        return f"; {some(names)} are a TensorFlow checkpoint, which nmtprune does not read"
    return f"; there is {some(names)}" if names else ""
