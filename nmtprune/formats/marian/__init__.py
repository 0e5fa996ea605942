"""Marian's transformer models: ``.npz`` files of parameters with the model's options in them."""

from nmtprune.formats.marian.checkpoint import MarianCheckpoint

__all__ = ["MarianCheckpoint"]
