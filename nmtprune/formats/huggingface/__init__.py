"""Folders of Hugging Face's transformers: ``config.json`` and weights."""

from pathlib import Path

from nmtprune.errors import CheckpointError
from nmtprune.formats.huggingface import model_folder
from nmtprune.formats.huggingface.checkpoint import HuggingFaceCheckpoint
from nmtprune.formats.huggingface.classifier_checkpoint import HuggingFaceClassifier
from nmtprune.formats.huggingface.classifier_families import CLASSIFIERS
from nmtprune.formats.huggingface.folder_checkpoint import FolderCheckpoint

__all__ = ["HuggingFaceCheckpoint", "HuggingFaceClassifier", "class_of_folder"]


def class_of_folder(path: Path) -> type[FolderCheckpoint]:
    """Whether the model of a folder is a classifier or translates; what cannot be read counts as the latter."""
    try:
        values = model_folder.read_config(path)
    except CheckpointError:
        return HuggingFaceCheckpoint
    kind = values.get("model_type") if isinstance(values, dict) else None
    return HuggingFaceClassifier if isinstance(kind, str) and kind in CLASSIFIERS else HuggingFaceCheckpoint
