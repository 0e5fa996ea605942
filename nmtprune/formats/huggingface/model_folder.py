"""The files of a folder: which of them hold weights, what they hold, and how the folder is written anew."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import strictjson
from nmtprune.errors import CheckpointError
from nmtprune.files import atomic_output
from nmtprune.files.folders import folder_beside, put_in_place, writing
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.formats.huggingface.safetensors_file import TensorFile, read_safetensors, write_safetensors
from nmtprune.formats.huggingface.torch_file import read_torch, write_torch

if TYPE_CHECKING:
    from torch import Tensor

_SAFETENSORS, _TORCH = "model.safetensors", "pytorch_model.bin"
_INDEX = ".index.json"
_WEIGHTS = (".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".onnx_data", ".pt", ".pth", ".ckpt", ".gguf",
            ".npz", _INDEX)  # fmt: skip
"""Endings of weights, which a rewritten folder has once and in one format."""

_TRAINING = ("optimizer", "scheduler", "rng_state", "scaler", "training_args")
"""Beginnings of the names of files of a training, which fit the model before the cut alone."""

_FORMAT = {"format": "pt"}
"""What transformers asks of the metadata of a safetensors file."""


@dataclass(frozen=True, eq=False)
class WeightFiles:
    """The files with the weights of a folder.

    Attributes:
        files: name -> names of the tensors in it, in its order; those of a sharded model one after the other.
        metadata: name -> metadata of a safetensors file.
        index: content of the index of a sharded model; None for a single file.
        name: of the single file, or of the index.
    """

    files: Mapping[str, tuple[str, ...]]
    metadata: Mapping[str, Mapping[str, str]]
    index: Mapping[str, Any] | None
    name: str

    def renamed(self, names: Mapping[str, str]) -> "WeightFiles":
        """The files with other names of the tensors; those that `names` does not have go, and files that get empty."""
        files = {file: tuple(names[own] for own in inside if own in names) for file, inside in self.files.items()}
        return replace(self, files={file: inside for file, inside in files.items() if inside})


def read_config(folder: Path) -> Any:
    """What ``config.json`` holds.

    Raises:
        CheckpointError: it cannot be read or is no JSON.
    """
    path = folder / FILE
    return strictjson.loads(strictjson.read(path, CheckpointError), str(path), CheckpointError)


def read_weights(folder: Path) -> "tuple[WeightFiles, dict[str, Tensor]]":
    """The files that transformers would load, safetensors first, and their tensors by name.

    Raises:
        CheckpointError: there are none, a shard is missing, or one is damaged; all faults.
    """
    for name in (_SAFETENSORS, _SAFETENSORS + _INDEX, _TORCH, _TORCH + _INDEX):
        if (folder / name).is_file():
            return _sharded(folder, name) if name.endswith(_INDEX) else _single(folder, name)
    there = sorted(path.name for path in folder.iterdir() if path.name.endswith(_WEIGHTS))
    instead = f"; {there[0]} is a format that nmtprune does not read" if there else ""
    raise CheckpointError(f"{folder}: has no weights ({_SAFETENSORS} or {_TORCH}){instead}")


def _single(folder: Path, name: str) -> "tuple[WeightFiles, dict[str, Tensor]]":
    found = _read(folder / name)
    return WeightFiles({name: tuple(found.tensors)}, {name: found.metadata}, None, name), dict(found.tensors)


def _read(path: Path) -> TensorFile:
    return read_safetensors(path) if path.name.endswith(".safetensors") else read_torch(path)


def _sharded(folder: Path, name: str) -> "tuple[WeightFiles, dict[str, Tensor]]":
    path = folder / name
    index = strictjson.loads(strictjson.read(path, CheckpointError), str(path), CheckpointError)
    places = index.get("weight_map") if isinstance(index, dict) else None
    ending = ".safetensors" if name.startswith(_SAFETENSORS) else ".bin"
    if not isinstance(places, dict) or not places or not all(_is_shard(file, ending) for file in places.values()):
        raise CheckpointError(f"{path}: its weight_map does not name files of the folder by tensor")
    shards = sorted(set(places.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(f"{folder}: {', '.join(missing)}, which {name} names, are missing: download them again")
    read = {shard: _read(folder / shard) for shard in shards}
    faults = [f"{own} is not in {places[own]}" for own in places if own not in read[places[own]].tensors]
    faults += [
        f"{own} is in {shard}, the index says {places.get(own) or 'nothing of it'}"
        for shard in shards
        for own in read[shard].tensors
        if places.get(own) != shard
    ]
    if faults:
        raise CheckpointError.of_faults(f"{path}: does not describe the shards", faults)
    tensors = {own: tensor for shard in shards for own, tensor in read[shard].tensors.items()}
    files = {shard: tuple(read[shard].tensors) for shard in shards}
    return WeightFiles(files, {shard: read[shard].metadata for shard in shards}, index, name), tensors


def _is_shard(name: Any, ending: str) -> bool:
    return isinstance(name, str) and name.endswith(ending) and os.path.basename(name) == name


def is_of_training(name: str) -> bool:
    """Whether a file that is left out is the state of a training."""
    return name.startswith(_TRAINING)


def others(folder: Path) -> tuple[list[Path], list[str]]:
    """What is copied with a model: its files and folders without weights; and names of what is left out."""
    copied: list[Path] = []
    left_out: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == FILE:
            continue
        weights = path.name.endswith(_WEIGHTS)
        if path.is_dir():
            weights = any(inside.name.endswith(_WEIGHTS) for inside in path.rglob("*"))
        (left_out if weights else copied).append(path)
    return copied, [path.name for path in left_out]


def write_folder(
    source: Path, target: Path, values: Mapping[str, Any], weights: WeightFiles, tensors: "Mapping[str, Tensor]"
) -> None:
    """Write a folder, whole or not at all; what else is in the source is copied.

    Args:
        source: the folder that the model was read from.
        target: the folder, which is replaced if it is there.
        values: of ``config.json``.
        weights: files to write.
        tensors: by name.

    Raises:
        OutputError: it cannot be written; an old folder is as it was.
    """
    with folder_beside(target) as folder:
        with writing(target):
            for path in others(source)[0]:
                if path.is_dir():
                    shutil.copytree(path, folder / path.name)
                else:
                    shutil.copyfile(path, folder / path.name)
            write_weights(folder, weights, tensors)
            text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
            (folder / FILE).write_text(text, encoding="utf-8")
        put_in_place(folder, target)


def write_weights(folder: Path, weights: WeightFiles, tensors: "Mapping[str, Tensor]") -> None:
    """Write the files of weights, and the index of shards, into a folder."""
    for name, inside in weights.files.items():
        own = {each: tensors[each] for each in inside}
        with atomic_output(folder / name) as file:
            if name.endswith(".safetensors"):
                write_safetensors(file, TensorFile(own, {**_FORMAT, **weights.metadata[name]}))
            else:
                write_torch(file, TensorFile(own))
    if weights.index is not None:
        places = {own: name for name, inside in weights.files.items() for own in inside}
        size = sum(tensors[own].numel() * tensors[own].element_size() for own in places)
        about = weights.index.get("metadata")
        metadata = {**(about if isinstance(about, dict) else {}), "total_size": size}
        index = {**weights.index, "metadata": metadata, "weight_map": places}
        (folder / weights.name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
