"""Importance is the derivative by the masks: of a loop over sentences, of finite differences, of the chain rule."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import Batch, BatchLimits
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.formats import load
from nmtprune.methods.importance import (
    UNITS,
    ImportanceSettings,
    importance,
    module_norms,
    normalized,
)
from nmtprune.methods.measuring import batches, drawn
from nmtprune.model import Transformer
from nmtprune.model.attention import Attention
from nmtprune.model.sublayers import FeedForward
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support import fairseq_files, networks
from tests.support.examples import ALONE, LEARNED, MODELS, Example, close
from tests.support.fairseq_files import Build
from tests.support.oracles import measures as slow
from tests.support.thinned import thinned

EPS = 0.1
GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(scope="module", params=thinned(MODELS, 2))
def example(request: pytest.FixtureRequest, build: Build) -> Example:
    return Example.of(build, request.param)


@pytest.fixture(scope="module")
def plain(build: Build) -> Example:
    return Example.of(build, "pre-norm, shared tables")


def loss(model: Transformer, batch: Batch, masks: dict[GroupId, Tensor], eps: float = EPS) -> Tensor:
    """torch's own label smoothing gives the right word a part of eps too."""
    assert batch.target is not None and batch.previous is not None
    scores, words = model(batch.source, batch.previous, masks), model.words[1]
    own = eps * words / (words - 1)
    return F.cross_entropy(scores.flatten(0, 1), batch.target.flatten(), ignore_index=1, label_smoothing=own,
                           reduction="sum")  # fmt: skip


@pytest.mark.parametrize(("unit", "eps"), zip(UNITS, (0.0, EPS), strict=True))
def test_both_units_are_those_of_plain_loops(example: Example, unit: str, eps: float) -> None:
    found = importance(example.model, batches(example.corpus), ImportanceSettings(unit, eps))
    network, architecture = example.checkpoint.network(), example.checkpoint.architecture
    expected = slow.importance(network, architecture, example.tensors, example.pairs, eps, unit)
    assert close(found, expected)
    assert tuple(found) == example.heads
    assert max(found.values()) > 0.01


def test_the_sentence_unit_is_autograd_sentence_by_sentence(example: Example) -> None:
    model = example.model
    sums = dict.fromkeys(example.heads, 0.0)
    for batch in batches(example.corpus, ALONE):
        masks = {module.id: torch.ones(module.heads, dtype=torch.float64, requires_grad=True)
                 for module in model.architecture if module.heads}  # fmt: skip
        torch.autograd.backward(loss(model, batch, masks))
        for id in sums:
            gradient = masks[id.group].grad
            assert gradient is not None
            sums[id] += abs(float(gradient[id.number]))
    expected = {id: total / len(example.corpus) for id, total in sums.items()}
    assert close(importance(model, batches(example.corpus), ImportanceSettings("sentence", EPS)), expected)


def test_the_sentence_unit_is_that_of_finite_differences(build: Build) -> None:
    # A smooth activation: the kink of a ReLU may lie between two points.
    checkpoint = load(networks.randomized(build(activation_fn="tanh", heads=2, layers=(2, 1), joined=False)))
    example = Example(checkpoint)
    model, step = example.model, 0.01
    stencil = {1: 45, 2: -9, 3: 1}  # seven points: the error is of the order of step^6

    def at(batch: Batch, id: UnitId, value: float) -> float:
        mask = torch.ones(2, dtype=torch.float64)
        mask[id.number] = value
        return float(loss(model, batch, {id.group: mask}))

    sums = dict.fromkeys(example.heads, 0.0)
    corpus = drawn(example.corpus, 4, seed=1)
    with torch.no_grad():
        for batch in batches(corpus, ALONE):
            for id in sums:
                pairs = [(weight, at(batch, id, 1 + n * step), at(batch, id, 1 - n * step))
                         for n, weight in stencil.items()]  # fmt: skip
                sums[id] += abs(sum(weight * (up - down) for weight, up, down in pairs) / (60 * step))
    expected = {id: total / len(corpus) for id, total in sums.items()}
    assert close(importance(model, batches(corpus), ImportanceSettings("sentence", EPS)), expected)


def test_that_of_neurons_is_that_of_finite_differences(build: Build) -> None:
    checkpoint = load(networks.randomized(build(activation_fn="tanh", ffn=6, layers=(2, 1), joined=False)))
    example = Example(checkpoint)
    model, step = example.model, 0.01
    stencil = {1: 45, 2: -9, 3: 1}
    corpus = drawn(example.corpus, 4, seed=1)
    found = importance(model, batches(corpus), ImportanceSettings("sentence", EPS), sorts=["neurons"])
    assert list(found) == [UnitId(group.id, n) for group in model.architecture.feed_forwards for n in range(6)]

    def at(batch: Batch, id: UnitId, value: float) -> float:
        mask = torch.ones(6, dtype=torch.float64)
        mask[id.number] = value
        return float(loss(model, batch, {id.group: mask}))

    sums = dict.fromkeys(found, 0.0)
    with torch.no_grad():
        for batch in batches(corpus, ALONE):
            for id in sums:
                pairs = [(weight, at(batch, id, 1 + n * step), at(batch, id, 1 - n * step))
                         for n, weight in stencil.items()]  # fmt: skip
                sums[id] += abs(sum(weight * (up - down) for weight, up, down in pairs) / (60 * step))
    assert close(found, {id: total / len(corpus) for id, total in sums.items()})
    assert max(found.values()) > 0.001


@pytest.mark.parametrize("unit", UNITS)
def test_that_of_neurons_is_the_product_of_a_value_and_its_gradient(
    example: Example, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native.load(example.checkpoint, dtype=torch.float64).requires_grad_(True)
    values: dict[GroupId, Tensor] = {}
    compute = FeedForward.inner_values

    def inner(self: FeedForward, *arguments: Any) -> Tensor:
        assert self.id is not None
        values[self.id] = compute(self, *arguments)
        values[self.id].retain_grad()
        return values[self.id]

    neurons = [UnitId(group.id, n) for group in model.architecture.feed_forwards for n in range(group.units)]
    sums, counts = dict.fromkeys(neurons, 0.0), dict.fromkeys(neurons, 0)
    with monkeypatch.context() as patch:
        patch.setattr(FeedForward, "inner_values", inner)
        for batch in batches(example.corpus, ALONE):
            torch.autograd.backward(loss(model, batch, {}))
            for id in sums:
                gradient = values[id.group].grad
                assert gradient is not None
                by_token = (values[id.group] * gradient)[0, :, id.number]
                sums[id] += float(by_token.sum().abs() if unit == "sentence" else by_token.abs().sum())
                counts[id] += 1 if unit == "sentence" else len(by_token)
    settings = ImportanceSettings(unit, EPS)
    found = importance(example.model, batches(example.corpus), settings, sorts=["heads", "neurons"])
    assert close({id: found[id] for id in neurons}, {id: sums[id] / counts[id] for id in sums})
    assert close(
        {id: score for id, score in found.items() if id.group.sort == "heads"},
        importance(example.model, batches(example.corpus), settings),
    )


@pytest.mark.parametrize("unit", UNITS)
def test_neurons_and_layers_that_are_gone_are_gone(plain: Example, unit: str) -> None:
    settings, sorts = ImportanceSettings(unit, EPS), ("heads", "neurons")
    ffn = GroupId("decoder-ffn", 1)
    kept = {ffn: (0, 3, 9), GroupId("cross", 1): (1, 2), GroupId.layers_of("encoder"): (1,)}
    model, masks = native.with_kept(plain.model, kept)
    found = importance(model, batches(plain.corpus), settings, masks, sorts)
    plan = Plan.of(plain.checkpoint.base, plain.checkpoint.architecture.full(kept))
    slim = Example(apply(plan, plain.checkpoint))
    cut = importance(slim.model, batches(slim.corpus), settings, sorts=sorts)
    lineage = slim.checkpoint.lineage
    expected = {UnitId(lineage.in_root(id.group), lineage.units(id.group)[id.number]): own for id, own in cut.items()}
    assert close(found, expected)
    assert {id.number for id in found if id.group == ffn} == {0, 3, 9}
    assert not any(id.group == GroupId("encoder-ffn", 0) for id in found)


@pytest.mark.parametrize("unit", UNITS)
def test_importance_is_the_product_of_a_heads_output_and_its_gradient(
    example: Example, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native.load(example.checkpoint, dtype=torch.float64).requires_grad_(True)
    outputs: dict[GroupId, Tensor] = {}
    compute = Attention.context

    def context(self: Attention, *arguments: Any) -> Tensor:
        outputs[self.id] = compute(self, *arguments)
        outputs[self.id].retain_grad()
        return outputs[self.id]

    sums, counts = dict.fromkeys(example.heads, 0.0), dict.fromkeys(example.heads, 0)
    with monkeypatch.context() as patch:
        patch.setattr(Attention, "context", context)
        for batch in batches(example.corpus, ALONE):
            torch.autograd.backward(loss(model, batch, {}))
            for id in sums:
                output = outputs[id.group]
                assert output.grad is not None
                by_query = (output * output.grad).sum(-1)[0, :, id.number]
                sums[id] += float(by_query.sum().abs() if unit == "sentence" else by_query.abs().sum())
                counts[id] += 1 if unit == "sentence" else len(by_query)
    expected = {id: sums[id] / counts[id] for id in sums}
    assert close(importance(example.model, batches(example.corpus), ImportanceSettings(unit, EPS)), expected)


@pytest.mark.parametrize("unit", UNITS)
def test_batches_make_no_difference(example: Example, unit: str) -> None:
    settings = ImportanceSettings(unit, EPS)
    expected = importance(example.model, batches(example.corpus), settings)
    for limits in (ALONE, BatchLimits(max_tokens=50, multiple=1), BatchLimits(max_sentences=5, multiple=1)):
        assert close(importance(example.model, batches(example.corpus, limits), settings), expected)


def test_an_adaptive_softmax_has_its_loss_too(build: Build) -> None:
    example = Example(load(networks.randomized(build(**networks.VARIANTS["adaptive softmax"]))))
    assert example.model.normalized
    found = importance(example.model, batches(example.corpus), ImportanceSettings())
    sums = dict.fromkeys(example.heads, 0.0)
    for batch in batches(example.corpus, ALONE):
        assert batch.target is not None and batch.previous is not None
        masks = {module.id: torch.ones(module.heads, dtype=torch.float64, requires_grad=True)
                 for module in example.model.architecture}  # fmt: skip
        scores = example.model(batch.source, batch.previous, masks)
        torch.autograd.backward(-scores[0].gather(1, batch.target[0].unsqueeze(1)).sum())
        for id in sums:
            sums[id] += abs(float(masks[id.group].grad[id.number]))  # type: ignore[index]
    assert close(found, {id: total / len(example.corpus) for id, total in sums.items()})


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_masked_heads_are_gone(plain: Example, unit: str, mode: str) -> None:
    removed = "encoder.0.1 encoder.1.0,3 decoder.0 decoder.1.2 cross.1.0-2"
    settings, plan = ImportanceSettings(unit, EPS), plain.plan(removed)
    found = importance(plain.model, batches(plain.corpus), settings, plain.masks(removed))
    slim = Example(apply(plan, plain.checkpoint, mode))
    cut = importance(slim.model, batches(slim.corpus), settings)
    expected = {UnitId(id.group, plan.kept(id.group)[id.number]): score for id, score in cut.items()}
    assert close(found, expected)
    assert len(found) == len(plain.heads) - 11


def test_heads_that_nothing_leads_to_have_no_importance(build: Build) -> None:
    alone = Example(load(networks.randomized(build(no_cross_attention=True))))
    found = importance(alone.model, batches(alone.corpus), ImportanceSettings())
    assert {id.group.kind for id in found if not found[id]} == {"encoder"}
    assert {id.group.kind for id in found if found[id]} == {"decoder"}
    base = Example(load(networks.randomized(build())))
    slim = Example(apply(base.plan("decoder.0 decoder.1 cross.0 cross.1"), base.checkpoint))
    found = importance(slim.model, batches(slim.corpus), ImportanceSettings("token"))
    assert found == dict.fromkeys(slim.heads, 0.0)
    empty = Example(apply(base.plan("encoder.0 encoder.1 decoder.0 decoder.1 cross.0 cross.1"), base.checkpoint))
    assert importance(empty.model, batches(empty.corpus), ImportanceSettings()) == {}


def test_normalization_is_per_layer_and_kind(example: Example) -> None:
    scores = importance(example.model, batches(example.corpus), ImportanceSettings())
    found, norms = normalized(scores), module_norms(scores)
    assert list(norms) == [module.id for module in example.checkpoint.architecture if module.heads]
    for module, norm in norms.items():
        own = [id for id in scores if id.group == module]
        assert norm == pytest.approx(math.sqrt(sum(scores[id] ** 2 for id in own)), rel=1e-12)
        assert sum(found[id] ** 2 for id in own) == pytest.approx(1, rel=1e-12)
        assert all(found[id] * norm == pytest.approx(scores[id], rel=1e-12) for id in own)


def test_a_later_pass_is_normalized_by_the_norms_of_the_first(plain: Example) -> None:
    settings, last = ImportanceSettings("sentence", EPS), UnitId(GroupId("cross", 0), 2)
    norms = module_norms(importance(plain.model, batches(plain.corpus), settings))
    scores = importance(plain.model, batches(plain.corpus), settings, plain.masks("cross.0.0-1,3 encoder.1"))
    assert normalized(scores)[last] == 1
    found = normalized(scores, norms)
    assert list(found) == list(scores)
    assert found == {id: scores[id] / norms[id.group] for id in scores}
    assert 0 < found[last] != 1


def test_a_zero_norm_leaves_zeros() -> None:
    dead, alive = (GroupId("encoder", layer) for layer in (0, 1))
    scores = {UnitId(dead, 0): 0.0, UnitId(dead, 1): 0.0, UnitId(alive, 0): 3.0, UnitId(alive, 1): 4.0}
    assert module_norms(scores) == {dead: 0.0, alive: 5.0}
    assert list(normalized(scores).values()) == [0.0, 0.0, 0.6, 0.8]
    assert list(normalized(scores, {dead: 2.0, alive: 0.0}).values()) == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("stored", [{}, {"cfg": "omegaconf"}, {"cfg": "dict"}, {"cfg": "args"}], ids=str)
def test_label_smoothing_is_that_of_the_checkpoint(build: Build, stored: dict[str, str]) -> None:
    smoothed = build(criterion="label_smoothed_cross_entropy", label_smoothing=0.15, stored=stored)
    assert load(smoothed).label_smoothing() == 0.15
    assert load(build(stored=stored)).label_smoothing() == 0.0


@pytest.mark.parametrize(("criterion", "expected"), [("label_smoothed_cross_entropy", 0.2), ("cross_entropy", 0.0)])
def test_label_smoothing_counts_for_the_chosen_criterion(
    build: Build, tmp_path: Path, criterion: str, expected: float
) -> None:
    state = fairseq_files.load(build(stored={"cfg": "args"}))
    state["args"].criterion, state["args"].label_smoothing = criterion, "0.2"
    torch.save(state, tmp_path / "old.pt")
    assert load(tmp_path / "old.pt").label_smoothing() == expected
    state["args"].criterion, state["args"].label_smoothing = "label_smoothed_cross_entropy", "much"
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match="bad.pt: label_smoothing is 'much', not a number from 0 to below 1"):
        load(tmp_path / "bad.pt").label_smoothing()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_have_turned_gradients_off(plain: Example, mode: Callable[[], Any]) -> None:
    settings = ImportanceSettings("token", EPS)
    expected = importance(plain.model, batches(plain.corpus), settings)
    with mode():
        assert importance(plain.model, batches(plain.corpus), settings) == expected
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in plain.model.parameters())


def test_what_makes_no_sense_is_refused(plain: Example) -> None:
    model, settings = plain.model, ImportanceSettings()
    half = native.load(plain.checkpoint, dtype=torch.bfloat16)
    without = (replace(batch, target=None, previous=None) for batch in batches(plain.corpus))
    module, other = GroupId("cross", 1), GroupId("cross", 2)
    calls: list[tuple[type[Exception], Callable[[], object], str]] = [
        (DataError, lambda: importance(model, [], settings), "importance: there are no sentences to measure it on"),
        (ValueError, lambda: importance(half, batches(plain.corpus), settings), "importance in torch.bfloat16: "),
        (ValueError, lambda: importance(model, without, settings), "a batch without references"),
        (ValueError, lambda: importance(model, [], settings, {module: torch.ones(3)}), "cross.1 is not 4 zeros and"),
        (ValueError, lambda: importance(model, [], settings, {module: torch.full((4,), 0.5)}), "is not 4 zeros"),
        (ValueError, lambda: importance(model, [], settings, {other: torch.ones(4)}), "does not have: cross.2"),
        (UsageError, lambda: ImportanceSettings("word", 1.0, torch.int8), "unknown unit 'word' .*; label smoothing "
         "1.0 is not a number from 0 to below 1; cannot compute in torch.int8 .choose among float16, bfloat16"),
        (UsageError, lambda: ImportanceSettings(label_smoothing=math.nan), "label smoothing nan"),
    ]  # fmt: skip
    for error, call, message in calls:
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("unit", [pytest.param(unit, marks=GPU) for unit in UNITS])
def test_on_a_gpu(build: Build, unit: str) -> None:
    checkpoint = load(networks.randomized(build(**networks.PRE_NORM, **networks.SHARED, **LEARNED)))
    example, settings = Example(checkpoint), ImportanceSettings(unit, EPS)
    exact = importance(example.model, batches(example.corpus), settings, example.masks("encoder.1.0,3"))
    masks = {id: mask.cuda() for id, mask in example.masks("encoder.1.0,3").items()}
    there = native.load(checkpoint, "cuda", torch.float64)
    assert close(importance(there, batches(example.corpus), settings, masks), exact)
    single = native.load(checkpoint, "cuda", torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        found = importance(single, batches(example.corpus), ImportanceSettings(unit, EPS, dtype), masks)
        assert all(abs(found[id] - exact[id]) <= 0.05 * max(exact.values()) for id in exact)
