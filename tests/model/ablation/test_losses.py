"""Losses of references under masks of heads and neurons: equal to a loop over sentences, and nothing computed twice."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import GroupId, parse_heads
from nmtprune.data.batching import collate, shift_right
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.model import Transformer
from nmtprune.model.ablation import losses as losses_module
from nmtprune.model.ablation.losses import reference_losses
from nmtprune.model.scope import Scope
from nmtprune.model.sublayers import FeedForward
from nmtprune.plan import Plan
from tests.support import networks
from tests.support.fairseq_files import Build
from tests.support.oracles.transformer import reference_loss
from tests.support.thinned import thinned

VARIANTS = (
    "post-norm, separate embeddings",
    "pre-norm, all embeddings shared",
    "encoder and decoder of other sizes",
    "no cross-attention",
    "joint attention alone",
    "joint and cross-attention",
    "adaptive softmax",
    "output width of its own",
)
NO_HEADS = "encoder.0.1 encoder.1 decoder.0 cross.0.0 cross.1"
Systems = list[dict[GroupId, Tensor]]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch falls into several parts, and their logits into several blocks."""
    _set_parts(monkeypatch, 30)


def _set_parts(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(losses_module, "_PART_TOKENS", {"cpu": tokens})
    monkeypatch.setattr(losses_module, "_BLOCK_BYTES", {"cpu": tokens * 40})


def _sentences(model: Transformer, seed: int = 1) -> tuple[list[Any], list[Any]]:
    random = np.random.default_rng(seed)

    def drawn(words: int, length: int) -> Any:
        return np.array([*random.integers(4, words, length - 1), 2])

    sizes = ((7, 4), (3, 9), (1, 1), (9, 6), (5, 9), (2, 12), (9, 2))
    source = [drawn(model.words[0], length) for length, _ in sizes]
    return source, [drawn(model.words[1], length) for _, length in sizes]


def _losses(model: Transformer, systems: Systems, left_pad: bool = False) -> Tensor:
    source, target = _sentences(model)
    previous = collate(shift_right(target, 2), 1, left_pad=left_pad)
    padded = collate(source, 1, left_pad=not left_pad)
    return reference_losses(model, padded, previous, collate(target, 1, left_pad=left_pad), systems)


def _expected(model: Transformer, systems: Systems) -> Tensor:
    pairs = list(zip(*_sentences(model), strict=True))
    losses = [[reference_loss(model, source, target, masks) for source, target in pairs] for masks in systems]
    return torch.tensor(losses, dtype=torch.float64)


def _one_head_each(model: Transformer) -> Systems:
    """Every head masked by itself, module by module."""
    systems = []
    for module in model.architecture:
        for head in range(module.heads):
            mask = torch.ones(module.heads)
            mask[head] = 0
            systems.append({module.id: mask})
    return systems


def _some_neurons(model: Transformer, seed: int = 1) -> Systems:
    """Half of the neurons of every feed-forward layer masked by itself, and all of them."""
    generator, systems = torch.Generator().manual_seed(seed), []
    for group in model.architecture.feed_forwards:
        systems += [{group.id: (torch.rand(group.units, generator=generator) < share).float()} for share in (0.5, 0.0)]
    return systems


def _whole_plans(model: Transformer, seed: int = 1) -> Systems:
    """Systems that mask heads in many modules, in few, and in none."""
    generator = torch.Generator().manual_seed(seed)
    shares = (0.5, 0.9, 0.1, 1.0, 0.0)
    return [
        {
            group.id: (torch.rand(group.units, generator=generator) < share).float()
            for group in model.architecture.groups
            if share != 0.9 or group.id.layer == 1
        }
        for share in shares
    ]


def _close(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    assert found.dtype == torch.float64 and found.shape == expected.shape
    return bool(((found - expected).abs() <= tolerance * expected.abs().clamp_min(1)).all())


@pytest.mark.parametrize("variant", thinned(VARIANTS))
def test_every_system_equals_a_loop_over_sentences(build: Build, variant: str) -> None:
    path = networks.randomized(build(**networks.VARIANTS[variant]))
    model = native.load(load(path), dtype=torch.float64)
    systems = [{}, *_one_head_each(model), *_some_neurons(model), *_whole_plans(model)]
    expected = _expected(model, systems)
    assert _close(_losses(model, systems), expected, 1e-9)
    assert _close(_losses(native.load(load(path)), systems), expected, 1e-5)
    assert len(set(expected[:, 0].tolist())) > len(systems) // 2


@pytest.mark.parametrize(("mode", "variant"), thinned(itertools.product(
    ["cut", "uniform", "masked"], ["pre-norm, all embeddings shared", "joint and cross-attention"]
)))  # fmt: skip
def test_slim_models(build: Build, variant: str, mode: str) -> None:
    base = load(networks.randomized(build(**networks.VARIANTS[variant])))
    plan = Plan.removing(base.base, parse_heads(NO_HEADS, base.architecture))
    result = slim.apply(plan, base, mode)
    model = native.load(result, dtype=torch.float64)
    systems = [*_one_head_each(model), *_some_neurons(model), *_whole_plans(model)]
    expected = _expected(model, systems)
    assert _close(_losses(model, systems), expected, 1e-9)
    assert _close(_losses(native.load(result), systems), expected, 1e-5)


@pytest.mark.parametrize("tokens", [1, 10_000])
def test_the_size_of_parts_makes_no_difference(build: Build, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    model = networks.native_model(build(**networks.VARIANTS["post-norm, separate embeddings"]), torch.float64)
    systems = [{}, *_one_head_each(model)]
    expected = _losses(model, systems)
    _set_parts(monkeypatch, tokens)
    assert _close(_losses(model, systems), expected, 1e-12)


def test_padding_on_the_other_sides(build: Build) -> None:
    model = networks.native_model(build(**networks.VARIANTS["post-norm, separate embeddings"]), torch.float64)
    systems = [{}, *_one_head_each(model)]
    assert _close(_losses(model, systems, left_pad=True), _expected(model, systems), 1e-9)


@pytest.mark.parametrize(
    ("name", "once"),
    [
        ("encoder.0", []),
        ("encoder.1", ["encoder.0"]),
        ("decoder.0", ["encoder.0", "encoder.1"]),
        ("decoder.1", ["encoder.0", "encoder.1", "decoder.0"]),
        ("cross.1", ["encoder.0", "encoder.1", "decoder.0"]),
        ("encoder-ffn.0", ["encoder.0"]),
        ("decoder-ffn.0", ["encoder.0", "encoder.1", "decoder.0"]),
        ("decoder-ffn.1", ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]),
    ],
)
def test_what_masks_leave_as_it_is_is_computed_once(
    build: Build, monkeypatch: pytest.MonkeyPatch, name: str, once: list[str]
) -> None:
    model = native.load(load(build(**networks.VARIANTS["pre-norm, all embeddings shared"])))
    layers: dict[str, Any] = {
        f"{stack}.{number}": layer
        for stack, own in (("encoder", model.encoder), ("decoder", model.decoder))
        for number, layer in enumerate(own.layers if own else ())
    }
    names = {layer.feed_forward: name for name, layer in layers.items()}
    positions: Counter[str] = Counter()
    compute = FeedForward.inner_values

    def counting(self: FeedForward, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        positions[names[self]] += x[..., 0].numel()
        return compute(self, x, normed, scope, position)

    monkeypatch.setattr(FeedForward, "inner_values", counting)
    _losses(model, [{}])
    plain = dict(positions)
    positions.clear()
    systems = [*_one_head_each(model), *_some_neurons(model), *_some_neurons(model, seed=2)]
    _losses(model, [masks for masks in systems if str(next(iter(masks))) == name])
    for layer in layers:
        assert positions[layer] <= (1 if layer in once else 4) * plain[layer]
        assert layer in once or positions[layer] > plain[layer]
