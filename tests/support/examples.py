"""Tiny models, full and slim, in double precision, with the sentences beside them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nmtprune.architecture import GroupId, UnitId, parse_heads
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model import Transformer
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support.fairseq_files import Build
from tests.support.networks import PRE_NORM, SHARED, randomized
from tests.support.oracles.measures import Pair

# Sinusoids are computed in single precision, in steps that the reference takes otherwise: learned positions are exact.
LEARNED = {"encoder_learned_pos": True, "decoder_learned_pos": True}
DEEPER = {"heads": (4, 2), "layers": (1, 3), "width": (16, 24), "ffn": (24, 40), "joined": False}
MODELS: dict[str, tuple[dict[str, Any], str, str]] = {
    "pre-norm, shared tables": ({**PRE_NORM, **SHARED, **LEARNED}, "", ""),
    "post-norm, other depths": ({**DEEPER, **LEARNED}, "", ""),
    "ragged": ({**PRE_NORM, **SHARED, **LEARNED}, "encoder.0.1 encoder.1.0,3 decoder.0 decoder.1.2 cross.1.0-2", "cut"),
    "ragged, other depths": ({**DEEPER, **LEARNED}, "encoder.0.1,3 decoder.1 decoder.2.1 cross.0.0 cross.2", "cut"),
}
"""Options of the builder, heads to remove, mode of slimming."""

ALONE = BatchLimits(max_sentences=1)


@dataclass(frozen=True)
class Example:
    """A checkpoint and the data that it was made with."""

    checkpoint: Checkpoint

    @classmethod
    def of(cls, build: Build, name: str) -> "Example":
        """One of MODELS."""
        options, removed, mode = MODELS[name]
        base = cls(load(randomized(build(**options))))
        return cls(apply(base.plan(removed), base.checkpoint, mode)) if mode else base

    def plan(self, removed: str) -> Plan:
        return Plan.removing(self.checkpoint.base, parse_heads(removed, self.checkpoint.architecture))

    @cached_property
    def model(self) -> Transformer:
        return native.load(self.checkpoint, dtype=torch.float64)

    @cached_property
    def corpus(self) -> Corpus:
        return corpus(self.checkpoint.path.parent / "data-bin", self.checkpoint)

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {name: tensor.double() for name, tensor in self.checkpoint.native_tensors().items()}

    @property
    def heads(self) -> tuple[UnitId, ...]:
        return self.checkpoint.architecture.head_ids()

    @property
    def pairs(self) -> list[Pair]:
        assert self.corpus.target is not None
        sides = zip(self.corpus.source, self.corpus.target, strict=True)
        return [(source.tolist(), target.tolist()) for source, target in sides]

    def masks(self, removed: str) -> dict[GroupId, Tensor]:
        """Masks [H] that remove heads."""
        kept = {module.id: self.plan(removed).kept(module.id) for module in self.checkpoint.architecture}
        return native.masks_of(self.model, kept)


def corpus(folder: Path, checkpoint: Checkpoint, subset: str = "valid") -> Corpus:
    options = DataOptions(data_bin=folder, subset=subset, post_process="none")
    return load_corpus(options, checkpoint.profile(), references=False, targets=True)


def close(found: Mapping[UnitId, float], expected: Mapping[UnitId, float]) -> bool:
    """Whether two mappings name the same heads in the same order and differ by at most 1e-9."""
    return list(found) == list(expected) and all(abs(found[id] - expected[id]) <= 1e-9 for id in found)
