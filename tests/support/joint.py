"""Tiny models of every shape with random sentences, and what their heads read and change, taken without taps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import GroupId, UnitId, parse_heads
from nmtprune.data.batching import Batch, collate, shift_right
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.model import Masks, Transformer
from nmtprune.model.attention import Attention
from nmtprune.model.sublayers import Body, FeedForward
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support.examples import MODELS, Example
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_model
from tests.support.networks import PRE_NORM, randomized

SSRU = {"transformer_decoder_autoreg": "rnn", "dec_cell": "ssru", "transformer_no_projection": True, "dec_depth": 2}
MARIAN: dict[str, dict[str, Any]] = {
    "Marian, post-norm": {},
    "Marian, tied decoder layers": {"dec_depth": 3, "transformer_tied_layers": [1, 1, 3]},
    "Marian, tied SSRU decoder": {**SSRU, "transformer_tied_layers": [1, 1]},
}
FAIRSEQ: dict[str, dict[str, Any]] = {
    "one head a module": {**PRE_NORM, "heads": 1},
    "joint attention": {"cross_self_attention": True},
}
UNIFORM = "uniform, with padding heads"
NAMES = (*MODELS, *FAIRSEQ, *MARIAN, UNIFORM)
EPS = 0.1
"""Label smoothing."""


@dataclass(frozen=True)
class Tiny:
    """A model in double precision and sentences of several lengths in two batches."""

    checkpoint: Checkpoint
    model: Transformer
    sentences: list[Batch]

    @classmethod
    def of(cls, name: str, build: Build, folder: Path) -> "Tiny":
        """One of NAMES."""
        if name in MARIAN:
            found = load(marian_model(folder / "model.npz", **MARIAN[name]))
        elif name in FAIRSEQ:
            found = load(randomized(build(**FAIRSEQ[name])))
        elif name == UNIFORM:
            base = Example.of(build, "pre-norm, shared tables")
            found = apply(base.plan("encoder.0.1 encoder.1.0,3 decoder.0.2 cross.1.0-2"), base.checkpoint, "uniform")
        else:
            found = Example.of(build, name).checkpoint
        model = native.load(found, dtype=torch.float64)
        return cls(found, model, [*random_batches(model)])

    def masks(self, removed: str) -> dict[GroupId, Tensor]:
        plan = Plan.removing(self.checkpoint.base, parse_heads(removed, self.checkpoint.architecture))
        return native.masks_of(self.model, {id: plan.kept(id) for id in plan.base.modules})

    @property
    def heads(self) -> tuple[UnitId, ...]:
        return self.checkpoint.architecture.head_ids()


def random_batches(model: Transformer, seed: int = 1) -> Iterator[Batch]:
    """Two batches of random sentences; the second one has padding."""
    rng = np.random.default_rng(seed)
    padding, eos = model.network.padding, model.network.eos
    start = eos if padding >= 0 else model.words[1]  # Marian begins with a zero vector behind the vocabulary
    first = 4 if padding >= 0 else 1
    for lengths in ([5] * 6, [2, 7, 9, 4, 1, 3, 8, 8, 6, 5, 2, 4]):
        sides = [
            [np.array([*rng.integers(first, words, length + change), eos]) for length in lengths]
            for words, change in zip(model.words, (0, 1), strict=True)
        ]
        source, target = (collate(side, padding, left_pad=False) for side in sides)
        previous = collate(shift_right(sides[1], start), padding, left_pad=False)
        sizes = torch.tensor([len(sentence) for sentence in sides[0]])
        yield Batch(np.arange(len(lengths)), source, sizes, target, previous)


def alone(batches: list[Batch]) -> Iterator[Batch]:
    """Each sentence as a batch of its own, without padding."""
    for batch in batches:
        assert batch.target is not None and batch.previous is not None
        for row in range(len(batch.source)):
            real = batch.target[row] != batch.target.new_tensor(_padding(batch))
            size = int(batch.source_lengths[row])
            yield Batch(
                batch.positions[row : row + 1],
                batch.source[row : row + 1, :size],
                batch.source_lengths[row : row + 1],
                batch.target[row : row + 1, real],
                batch.previous[row : row + 1, real],
            )


def _padding(batch: Batch) -> int:
    """Padding is 1 in fairseq's sentences and -1 in Marian's; no sentence here has a word with the id 1 in fairseq."""
    return -1 if bool((batch.source == -1).any()) or int(batch.source[0, -1]) == 0 else 1


def loss(model: Transformer, batch: Batch, masks: Masks) -> Tensor:
    """Of a single sentence without padding."""
    assert batch.target is not None and batch.previous is not None
    scores, words = model(batch.source, batch.previous, masks), model.words[1]
    own = EPS * words / (words - 1)  # torch gives the right word a part of eps too
    return F.cross_entropy(scores[0], batch.target[0], label_smoothing=own, reduction="sum")


@dataclass(frozen=True)
class Passed:
    """What one group computed for all sentences: contexts [N, H, K] or neurons [N, F, 1], and the derivatives of the
    loss by its output."""

    contexts: Tensor
    slopes: Tensor
    weight: Tensor


def passed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, masks: Masks | None = None) -> dict[GroupId, Passed]:
    """What every group with units computed, one sentence at a time, by torch's own backward pass."""
    model = native.load(tiny.checkpoint, dtype=torch.float64).requires_grad_(True)
    calls: list[tuple[GroupId, Body, Tensor, Tensor]] = []

    def watched(compute: Callable[[Any, Tensor, Any], Tensor]) -> Callable[[Any, Tensor, Any], Tensor]:
        def output(self: Any, inner: Tensor, probe: Any) -> Tensor:
            found = compute(self, inner, probe)
            if self.id is not None:
                found.retain_grad()
                calls.append(
                    (self.id, self, inner.detach() if inner.dim() == 4 else inner.detach().unsqueeze(3), found)
                )
            return found

        return output

    found: dict[GroupId, list[tuple[Tensor, Tensor]]] = {}
    weights: dict[GroupId, Tensor] = {}
    with monkeypatch.context() as patch:
        for kind in (Attention, FeedForward):
            patch.setattr(kind, "output", watched(kind.output))
        for batch in alone(tiny.sentences):
            calls.clear()
            torch.autograd.backward(loss(model, batch, masks or {}))
            for id, body, inner, result in calls:
                slope = torch.zeros_like(result) if result.grad is None else result.grad
                found.setdefault(id, []).append((inner[0], slope[0]))
                assert body.output_weight is not None
                weights[id] = body.output_weight.detach()
    return {
        id: Passed(torch.cat([context for context, _ in own]), torch.cat([slope for _, slope in own]), weights[id])
        for id, own in found.items()
    }
