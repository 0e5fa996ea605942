"""fairseq's transformer checkpoints: translation models and language models, stock and slim."""

from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint

__all__ = ["FairseqCheckpoint"]
