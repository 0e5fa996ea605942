"""Folders of Hugging Face's transformers: ``config.json`` and weights."""

from nmtprune.formats.huggingface.checkpoint import HuggingFaceCheckpoint

__all__ = ["HuggingFaceCheckpoint"]
