"""Random plans over heads, neurons and layers: masked = cut = uniform, twice = once, copies of the weights follow."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune import slim
from nmtprune.architecture import KINDS, LAYER_KINDS, GroupId, UnitId
from nmtprune.errors import PlanError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Lineage, Plan
from tests.support import networks
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

SHAPES: dict[str, dict[str, Any]] = {
    "pre-norm, average": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
        "layers": (2, 3),
        "ffn": (6, 8),
        "stored": {"ema": 0.5},
    },
    "post-norm, packed, legacy settings": {
        "joined": False,
        "layers": (3, 2),
        "heads": (2, 4),
        "ffn": (5, 7),
        "stored": {"cfg": "args", "packed": True, "without_optimizer": True},
    },
    "language model": {"arch": "transformer_lm_gpt", "layers": 3, "ffn": 7},
    "language model, post-norm": {"arch": "transformer_lm", "layers": 2, "ffn": 8},
}

Kept = Mapping[GroupId, tuple[int, ...]]


@pytest.fixture(scope="module", params=thinned(SHAPES.values(), 2), ids=SHAPES.keys())
def base(request: pytest.FixtureRequest, build: Build) -> FairseqCheckpoint:
    return FairseqCheckpoint.load(build(updates=2, dropout=0.0, **request.param))


@st.composite
def kept_units(draw: st.DrawFn, checkpoint: FairseqCheckpoint) -> Kept:
    """What stays of every group, layers among them: nothing and everything are as likely as anything in between."""
    found: dict[GroupId, tuple[int, ...]] = {}
    for id, numbers in checkpoint.base.units.items():
        some = st.sets(st.sampled_from(numbers), min_size=1).map(lambda own: tuple(sorted(own)))
        ends = [st.just(numbers)] if id.kind in LAYER_KINDS else [st.just(()), st.just(numbers)]
        found[id] = draw(st.one_of(*ends, some)) if numbers else ()
    return found


@cache
def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(4, 24, (2, 6), generator=generator)
    previous = torch.randint(4, 24, (2, 5), generator=generator)
    source[1, :3], previous[1, 4:] = 1, 1
    return source, previous


def logits(checkpoint: FairseqCheckpoint) -> torch.Tensor:
    from nmtprune.engines.native import load as native

    source, previous = _batch()
    with torch.inference_mode():
        result: torch.Tensor = native(checkpoint)(
            source if checkpoint.architecture.of_kind("encoder") else None, previous
        )
    return result


def applied(plan: Plan, checkpoint: FairseqCheckpoint, mode: str) -> FairseqCheckpoint:
    found = slim.apply(plan, checkpoint, mode)
    assert isinstance(found, FairseqCheckpoint)
    return found


def written(checkpoint: FairseqCheckpoint, folder: Path) -> FairseqCheckpoint:
    path = folder / "slim.pt"
    checkpoint.save(path, force=True)
    return FairseqCheckpoint.load(path)


def assert_same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> None:
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype
        assert torch.equal(tensor, second[name]), name


@given(st.data())
@settings(max_examples=14, deadline=None)
def test_masked_cut_and_uniform_compute_the_same(base: FairseqCheckpoint, data: st.DataObject) -> None:
    plan = Plan.of(base.base, data.draw(kept_units(base)))
    masked = logits(applied(plan, base, "masked"))
    bound = 1e-5 * max(1.0, masked.abs().max().item())
    for mode in ("cut", "uniform"):
        assert (logits(applied(plan, base, mode)) - masked).abs().max().item() <= bound


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_files_say_what_is_left(
    base: FairseqCheckpoint, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    plan = Plan.of(base.base, data.draw(kept_units(base)))
    kept = {str(id): len(numbers) for id, numbers in plan.kept_units.items()}
    for mode in ("cut", "uniform"):
        result = applied(plan, base, mode)
        read = written(result, tmp_path_factory.getbasetemp())
        assert read.architecture == result.architecture
        assert read.lineage == result.lineage
        assert_same(read.tensors, result.tensors)
        lineage = read.lineage or Lineage.start(base.base)
        for id, numbers in read.architecture.units.items():
            assert len(numbers) == kept[str(lineage.in_root(id))]


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_cutting_twice_is_cutting_once_by_what_both_plans_keep(base: FairseqCheckpoint, data: st.DataObject) -> None:
    modes = st.sampled_from(["cut", "uniform"])
    first = Plan.of(base.base, data.draw(kept_units(base)))
    between = applied(first, base, data.draw(modes))
    second = Plan.of(between.base, data.draw(kept_units(between)))
    mode = data.draw(modes)
    lineage = (between.lineage or Lineage.start(base.base)).after(second)
    both = {GroupId.parse(name, tuple(id.kind for id in base.base.units)): own for name, own in lineage.keep.items()}
    twice, once = applied(second, between, mode), applied(Plan.of(base.base, both), base, mode)
    assert_same(twice.tensors, once.tensors)
    assert twice.architecture == once.architecture
    assert (twice.lineage or Lineage.start(base.base)) == (once.lineage or Lineage.start(base.base))
    assert twice.description.needs_plugin == once.description.needs_plugin
    assert shown(twice) == shown(once)


def shown(checkpoint: FairseqCheckpoint) -> dict[str, Any]:
    """The settings of the model that say something, however the file was made; `_name` says what `arch` does."""
    found = checkpoint.section("model")
    return {
        name: value for name, value in found.items() if value is not None and name not in ("nmtprune_lineage", "arch")
    }


@given(st.data())
@settings(max_examples=8, deadline=None)
def test_weights_moments_and_averages_are_selected_by_number(base: FairseqCheckpoint, data: st.DataObject) -> None:
    kept = base.architecture.full(data.draw(kept_units(base)))
    result = applied(Plan.of(base.base, kept), base, "cut")
    expected = {}
    for name, tensor in base.tensors.items():
        prefix, _, own = name.rpartition("/")
        found = _selected(own, tensor, kept, base)
        if found is not None:
            expected[f"{prefix}/{found[0]}" if prefix else found[0]] = found[1]
    assert_same(result.tensors, expected)


def _selected(name: str, tensor: torch.Tensor, kept: Kept, base: FairseqCheckpoint) -> tuple[str, torch.Tensor] | None:
    """New name and values of a tensor, by the names of fairseq alone."""
    parts = name.split(".")
    if parts[1] != "layers":
        return name, tensor
    stack, layer, module = parts[0], int(parts[2]), parts[3]
    stays = kept[GroupId.layers_of(stack)]
    if layer not in stays:
        return None
    parts[2] = str(stays.index(layer))
    kind = {"self_attn": stack, "encoder_attn": "cross"}.get(module, f"{stack}-ffn")
    group = GroupId(kind, layer)
    if group not in kept:
        return ".".join(parts), tensor
    width = base.architecture.group(group).width
    rows = torch.tensor([unit * width + entry for unit in kept[group] for entry in range(width)], dtype=torch.long)
    last = parts[-1]
    if kind in KINDS and parts[4] == "out_proj" or module == "fc2":
        return ".".join(parts), tensor if last == "bias" else tensor[:, rows]
    if kind in KINDS and parts[4].startswith("in_proj"):
        return ".".join(parts), torch.cat([third[rows] for third in tensor.chunk(3)])
    if kind in KINDS or module == "fc1":
        return ".".join(parts), tensor[rows]
    return ".".join(parts), tensor


def test_normed_neurons_are_no_units(build: Build, tmp_path: Path) -> None:
    base = FairseqCheckpoint.load(networks.normformer(build, tmp_path))
    assert base.architecture.feed_forwards == ()
    with pytest.raises(PlanError, match=r"the base has no neuron decoder-ffn\.0\.1"):
        Plan.removing(base.base, [UnitId(GroupId("decoder-ffn", 0), 1)])
