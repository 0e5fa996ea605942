"""Verification finds cutting equal to masking and skipping, and finds what is not."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune.architecture import EVERY_KIND, GroupId, UnitId, parse_heads
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.evaluate.verify import Verification, batch, verify
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Plan
from nmtprune.slim import MODES, apply
from tests.support import networks
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS as MARIAN
from tests.support.marian_files import marian_model

CHOSEN = ["post-norm, separate embeddings", "encoder and decoder of other sizes", "learned positions, embedding norm",
          "joint and cross-attention", "adaptive softmax", "language model, pre-norm",
          "adaptive language model, all tied"]  # fmt: skip


def half(base: Checkpoint) -> Plan:
    """Every second head is removed, and every head of the first module."""
    heads = base.architecture.head_ids()
    return Plan.removing(base.base, {*heads[::2], *(head for head in heads if head.group == heads[0].group)})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", CHOSEN)
def test_slimming_passes(build: Build, variant: str, mode: str) -> None:
    base = load(networks.randomized(build(**networks.VARIANTS[variant])))
    plan = half(base)
    found = verify(base, apply(plan, base, mode), plan)
    assert found.ok
    assert found.max_delta <= found.tolerance == 1e-5 * max(1.0, found.max_logit)
    assert found.max_logit > 0.1
    found.raise_if_different()
    assert list(asdict(found)) == ["max_delta", "max_logit", "tolerance", "ok"]


def of_all_groups(base: Checkpoint) -> Plan:
    """Every second head, most of the neurons, all of those of one layer, and a layer of each stack go."""
    heads = base.architecture.head_ids()[::2]
    neurons = [UnitId(group.id, number) for group in base.architecture.feed_forwards for number in range(group.units)]
    some = [unit for unit in neurons if unit.number % 5 or unit.group == neurons[-1].group]
    layers = [UnitId(GroupId.layers_of(stack), 0) for stack in ("encoder", "decoder")
              if len(base.architecture.layers(stack)) > 1]  # fmt: skip
    return Plan.removing(base.base, [*heads, *some, *layers])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", CHOSEN)
def test_slimming_neurons_and_layers_passes(build: Build, variant: str, mode: str) -> None:
    base = load(networks.randomized(build(**networks.VARIANTS[variant])))
    plan = of_all_groups(base)
    result = apply(plan, base, mode)
    found = verify(base, result, plan)
    assert found.ok and found.max_logit > 0.1
    layers = {stack: len(numbers) for stack, numbers in plan.kept_layers().items()}
    assert layers and all(len(result.architecture.layers(stack)) == count for stack, count in layers.items())


@pytest.mark.parametrize("variant", ["post-norm, all tied", "tied decoder layers", "pre-norm SSRU decoder"])
def test_marian_models(tmp_path: Path, variant: str) -> None:
    base = load(marian_model(tmp_path / "model.npz", **MARIAN[variant]))
    plan = of_all_groups(base)
    for mode in ("masked", "uniform"):
        assert verify(base, apply(plan, base, mode), plan).ok


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("unit", ["encoder-ffn.1.2", "decoder-ffn.0.3", "decoder-layers.1"])
def test_one_wrong_neuron_or_layer_is_found(build: Build, unit: str, mode: str) -> None:
    base = load(networks.randomized(build(layers=3)))
    plans = [Plan.removing(base.base, [UnitId.parse(name, EVERY_KIND)]) for name in (unit, unit[:-1] + "0")]
    right, wrong = plans
    assert not verify(base, apply(wrong, base, mode), right).ok
    assert verify(base, apply(right, base, mode), right).ok


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(build: Build, dtype: torch.dtype) -> None:
    base = load(build(**networks.SHARED, stored={"dtype": dtype}))
    plan = half(base)
    found = verify(base, apply(plan, base), plan)
    assert found.ok
    assert found.tolerance == pytest.approx((1e-9 if dtype == torch.float64 else 1e-5) * max(1.0, found.max_logit))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("head", ["encoder.1.2", "decoder.0.3", "cross.1.0"])
def test_one_wrong_head_is_found(build: Build, head: str, mode: str) -> None:
    base = load(networks.randomized(build()))
    right, wrong = (Plan.removing(base.base, parse_heads(name, base.architecture)) for name in (head, head[:-1] + "1"))
    found = verify(base, apply(wrong, base, mode), right)
    assert not found.ok
    assert found.max_delta > found.tolerance
    with pytest.raises(CheckpointError) as caught:
        found.raise_if_different()
    assert str(caught.value).startswith(
        f"verification failed: logits of the result differ by up to {found.max_delta:.3g} from those of the masked "
        f"checkpoint (allowed {found.tolerance:.3g}); are there weights that are not finite?"
    )


def test_padding_heads_that_are_not_zero_are_found(build: Build) -> None:
    base = load(networks.randomized(build()))
    plan = Plan.removing(base.base, parse_heads("encoder.0.1", base.architecture))
    uniform = apply(plan, base, "uniform")
    names = {axis.tensor for axis in uniform.unit_axes[plan.removed()[0].group]}
    generator = torch.Generator().manual_seed(1)
    tensors = dict(uniform.tensors)
    for name in names:
        noise = torch.rand(tensors[name].shape, generator=generator)
        tensors[name] = torch.where(tensors[name] == 0, noise, tensors[name])
    assert verify(base, uniform, plan).ok
    assert not verify(base, uniform.rewritten(tensors, uniform.architecture, uniform.lineage), plan).ok


def test_scores_that_are_no_numbers_do_not_pass(build: Build) -> None:
    base = load(build())
    name = "decoder.layers.0.fc1.bias"
    tensors = {**base.tensors, name: base.tensors[name] * math.nan}
    broken = base.rewritten(tensors, base.architecture, base.lineage)
    plan = Plan.keep_all(broken.base)
    found = verify(broken, broken, plan)
    assert math.isnan(found.max_delta)
    assert not found.ok


def test_large_vocabularies_are_compared_in_parts(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(networks.randomized(build()))
    plan = half(base)
    slim = apply(plan, base)
    whole = verify(base, slim, plan)
    monkeypatch.setattr("nmtprune.evaluate.verify._CHUNK", 1)
    parts = verify(base, slim, plan)
    assert parts.max_logit == pytest.approx(whole.max_logit)
    assert parts.ok


@pytest.mark.parametrize(
    "options", [{}, {"max_source_positions": 5, "max_target_positions": 7}, {"arch": "transformer_lm"}], ids=str
)
def test_batches_are_padded_and_fit_the_model(build: Build, options: dict[str, Any]) -> None:
    model = native.load(load(build(joined=False, **options)))
    source, target = batch(model, seed=3)
    for tokens, words, limit in zip((source, target), model.words, model.max_positions, strict=True):
        if tokens is None:
            assert model.encoder is None
            continue
        lengths = (tokens != 1).sum(1).tolist()
        assert max(lengths) == min(limit, 24)
        assert len(set(lengths)) > 1
        assert int(tokens.max()) < words
    assert (target[:, 0] == 2).all()
    assert source is None or (source[:, -1] == 2).all()
    again = batch(model, seed=3)[1], batch(model, seed=4)[1]
    assert torch.equal(target, again[0])
    assert not torch.equal(target, again[1])


def test_verification_of_a_failed_comparison_says_so() -> None:
    with pytest.raises(CheckpointError, match=r"differ by up to 0.5 from .* \(allowed 1e-05\)"):
        Verification(0.5, 1.0, 1e-5, ok=False).raise_if_different()


def test_real_model(shared_model: Path) -> None:
    base = load(shared_model)
    plan = half(base)
    assert verify(base, apply(plan, base), plan).ok
