"""Slimming: masked = cut, cutting twice = cutting by the composed plan, and nothing else changes."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune import slim
from nmtprune.architecture import NEURON_KINDS, Architecture, GroupId, UnitId
from nmtprune.errors import PlanError, UsageError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Lineage, Plan
from tests.support.fairseq_files import Build

SHAPES = {
    "pre-norm, shared embeddings": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
    },
    "post-norm, separate embeddings, other widths, depths and head counts": {
        "joined": False,
        "layers": (1, 2),
        "heads": (2, 4),
        "width": (12, 16),
    },
}


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES.keys())
def base(request: pytest.FixtureRequest, build: Build) -> Checkpoint:
    return load(build(updates=2, dropout=0.0, **request.param))


def plans_for(architecture: Architecture) -> st.SearchStrategy[Mapping[GroupId, tuple[int, ...]]]:
    """Kept heads per module: empty and full modules are as likely as anything between them."""

    def kept(heads: int) -> st.SearchStrategy[tuple[int, ...]]:
        some = st.sets(st.integers(0, heads - 1)).map(lambda chosen: tuple(sorted(chosen)))
        return st.one_of(st.just(()), st.just(tuple(range(heads))), some) if heads else st.just(())

    return st.fixed_dictionaries({module.id: kept(module.heads) for module in architecture})


def as_plan(checkpoint: Checkpoint, kept: Mapping[GroupId, tuple[int, ...]]) -> Plan:
    removed = [head for head in checkpoint.architecture.head_ids() if head.number not in kept[head.group]]
    return Plan.removing(checkpoint.base, removed)


@cache
def _batch(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A padded batch: sources are padded on the left, targets on the right, as fairseq does."""
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(4, vocabulary, (3, 7), generator=generator)
    previous = torch.randint(4, vocabulary, (3, 6), generator=generator)
    source[1, :3], previous[2, 4:] = 1, 1
    return source, previous


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    from nmtprune.engines.native import load as native

    with torch.inference_mode():
        result: torch.Tensor = native(checkpoint)(*_batch(24))
    return result


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_masked_cut_and_uniform_compute_the_same(base: Checkpoint, data: st.DataObject) -> None:
    plan = as_plan(base, data.draw(plans_for(base.architecture)))
    masked = logits(slim.apply(plan, base, "masked"))
    bound = 1e-5 * max(1.0, masked.abs().max().item())
    for mode in ("cut", "uniform"):
        result = slim.apply(plan, base, mode)
        assert result.architecture.count() == plan.count_kept()
        assert (logits(result) - masked).abs().max().item() <= bound


def plans_of_all_groups(checkpoint: Checkpoint) -> st.SearchStrategy[Plan]:
    """Plans of heads, neurons and layers: a group is as likely to be empty or full as anything between."""

    def kept(id: GroupId, numbers: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
        some = st.sets(st.sampled_from(numbers), min_size=id.sort == "layers").map(lambda chosen: tuple(sorted(chosen)))
        return st.one_of(some, st.just(numbers), *([] if id.sort == "layers" else [st.just(())]))

    groups = {id: kept(id, numbers) for id, numbers in checkpoint.architecture.units.items()}
    return st.fixed_dictionaries(groups).map(lambda units: Plan.of(checkpoint.base, units))


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_all_modes_compute_what_masks_and_skipped_layers_do(base: Checkpoint, data: st.DataObject) -> None:
    """The reference knows nothing of slimming: masks of heads and neurons, and layers that are the identity."""
    from nmtprune.engines import native

    plan = data.draw(plans_of_all_groups(base))
    model, masks = native.with_kept(native.load(base), plan.kept_units)
    with torch.inference_mode():
        expected = model(*_batch(24), masks)
    bound = 1e-5 * max(1.0, expected.abs().max().item())
    for mode in slim.MODES:
        result = slim.apply(plan, base, mode)
        assert (logits(result) - expected).abs().max().item() <= bound
        stored = {id: len(numbers) for id, numbers in result.architecture.units.items() if id.sort == "layers"}
        assert stored == {id: len(plan.kept(id)) for id in stored}
        if mode != "masked":
            assert sum(group.units for group in result.architecture.feed_forwards) == plan.count_kept(NEURON_KINDS)


@given(st.data())
@settings(max_examples=20, deadline=None)
def test_cutting_twice_is_cutting_once_by_what_both_plans_keep(base: Checkpoint, data: st.DataObject) -> None:
    first = as_plan(base, data.draw(plans_for(base.architecture)))
    between = slim.apply(first, base, data.draw(st.sampled_from(["cut", "uniform"])))
    second = as_plan(between, data.draw(plans_for(between.architecture)))
    mode = data.draw(st.sampled_from(["cut", "uniform"]))
    both = {module: [first.kept(module)[place] for place in second.kept(module)] for module in base.base.modules}
    twice, once = slim.apply(second, between, mode), slim.apply(Plan.of(base.base, both), base, mode)
    assert same(twice.tensors, once.tensors)
    assert twice.architecture == once.architecture
    assert (twice.lineage or Lineage.start(base.base)) == (once.lineage or Lineage.start(base.base))


@pytest.mark.parametrize("mode", slim.MODES)
def test_a_plan_that_keeps_everything_changes_no_tensor(base: Checkpoint, mode: str) -> None:
    result = slim.apply(Plan.keep_all(base.base), base, mode)
    assert all(result.tensors[name] is tensor for name, tensor in base.tensors.items())
    assert result.lineage is None


def test_slim_parameters_are_as_computed_by_hand(base: Checkpoint) -> None:
    from nmtprune.summary import parameter_count

    head = UnitId(GroupId("cross", 1), 2)
    result = slim.apply(Plan.removing(base.base, [head]), base)
    width, encoder_width, head_dim = 16, base.tensors["encoder.layers.0.fc2.bias"].numel(), 4
    queries, keys_and_values, outputs = head_dim * (width + 1), 2 * head_dim * (encoder_width + 1), head_dim * width
    assert parameter_count(base) - parameter_count(result) == queries + keys_and_values + outputs


def test_a_slice_owns_its_storage(base: Checkpoint) -> None:
    result = slim.apply(Plan.removing(base.base, [UnitId(GroupId("encoder", 0), 0)]), base)
    cut = result.tensors["encoder.layers.0.self_attn.q_proj.weight"]
    assert cut.untyped_storage().nbytes() == cut.nbytes


def test_the_base_is_left_as_it_was(base: Checkpoint) -> None:
    before = {name: tensor.clone() for name, tensor in base.tensors.items()}
    for mode in slim.MODES:
        slim.apply(Plan.removing(base.base, [UnitId(GroupId("cross", 0), 1)]), base, mode)
    assert same(before, base.tensors)


def test_other_weights_of_the_same_shape_need_to_be_asked_for(build: Build, tiny: Path) -> None:
    base, other = load(tiny), load(build(seed=2, **SHAPES["pre-norm, shared embeddings"]))
    plan = Plan.removing(base.base, [UnitId(GroupId("encoder", 1), 3)])
    with pytest.raises(PlanError, match="`other_weights`"):
        slim.apply(plan, other)
    assert slim.apply(plan, other, other_weights=True).architecture.count() == base.architecture.count() - 1


def test_an_unknown_mode_is_refused(base: Checkpoint) -> None:
    with pytest.raises(UsageError) as error:
        slim.apply(Plan.keep_all(base.base), base, "zero")
    assert str(error.value) == "unknown mode 'zero': choose among cut, masked, uniform"
