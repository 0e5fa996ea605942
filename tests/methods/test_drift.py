"""Drift: the change of every head's and neuron's weights, matched through the lineage."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.drift import Drift, HeadDrift, drift
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build


def head(text: str) -> UnitId:
    return UnitId.parse(text)


def changed(checkpoint: Checkpoint, amounts: Mapping[str, float], seed: int | None = None) -> Checkpoint:
    """The checkpoint with constants added to tensors of these names, and noise to every tensor if there is a seed."""
    tensors = dict(checkpoint.tensors)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in checkpoint.model_tensors.items():
            if tensor.is_floating_point():
                tensors[name] = tensor + torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    for name, amount in amounts.items():
        tensors[name] = tensors[name] + amount
    return checkpoint.rewritten(tensors, checkpoint.architecture, checkpoint.lineage)


def by_head(found: Drift) -> dict[UnitId, HeadDrift]:
    return {entry.head: entry for entry in found.heads}


def brute_force(before: Mapping[str, Tensor], after: Mapping[str, Tensor], module: str, number: int) -> list[float]:
    """Mean |change| of the 4 rows of one head, by the names that fairseq gives to the projections."""
    kind, layer = module.split(".")
    place = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn",
             "cross": "decoder.layers.{}.encoder_attn"}[kind].format(layer)  # fmt: skip
    changes = []
    for part in ("q_proj", "k_proj", "v_proj"):
        rows = slice(4 * number, 4 * number + 4)
        name = f"{place}.{part}.weight"
        changes.append((after[name][rows].double() - before[name][rows].double()).abs())
    return [*(change.mean().item() for change in changes), torch.cat([c.flatten() for c in changes]).mean().item()]


@pytest.fixture(scope="module")
def base(build: Build) -> Checkpoint:
    """Encoder 12 wide, decoder 16 wide, heads of 4: cross keys and values have other widths than queries."""
    return load(build(joined=False, layers=(1, 2), heads=(3, 4), width=(12, 16)))


def test_nothing_moved(base: Checkpoint) -> None:
    found = drift(base, base)
    assert [entry.head for entry in found.heads] == list(base.architecture.head_ids())
    assert all(entry == HeadDrift(entry.head, 0, 0, 0, 0) for entry in found.heads)
    assert found.related


def test_every_head_against_a_loop(base: Checkpoint) -> None:
    after = changed(base, {}, seed=1)
    found = by_head(drift(base, after))
    assert len(found) == 3 + 8 + 8
    for id, entry in found.items():
        expected = brute_force(base.model_tensors, after.model_tensors, str(id.group), id.number)
        assert [entry.query, entry.key, entry.value, entry.mean] == pytest.approx(expected, rel=1e-12)


def test_only_projections_count(base: Checkpoint) -> None:
    """Output projections and biases are no part of the figure."""
    prefix = "decoder.layers.1.encoder_attn"
    after = changed(
        base, {f"{prefix}.out_proj.weight": 1.0, f"{prefix}.q_proj.bias": 1.0, f"{prefix}.k_proj.weight": 0.5}
    )
    for id, entry in by_head(drift(base, after)).items():
        moved = str(id.group) == "cross.1"
        assert (entry.query, entry.value) == (0, 0)
        assert entry.key == pytest.approx(0.5 if moved else 0)
        assert entry.mean == pytest.approx(0.5 * 12 / (16 + 12 + 12) if moved else 0)


def test_slim_descendants_are_compared_by_root_ids(base: Checkpoint) -> None:
    removed = [head("encoder.0.1"), head("decoder.0.0"), head("decoder.0.3"), *(head(f"cross.1.{i}") for i in range(4))]
    trained = changed(base, {}, seed=2)
    full = by_head(drift(base, trained))
    expected = {id: entry for id, entry in full.items() if id not in removed}
    for mode in ("cut", "uniform"):
        pruned = slim.apply(Plan.removing(base.base, removed), base, mode)
        pruned_trained = slim.apply(Plan.removing(trained.base, removed), trained, mode)
        # The root of a descendant that was trained after the cut is the base, not what its weights would have been.
        line = pruned_trained.rewritten(pruned_trained.tensors, pruned_trained.architecture, pruned.lineage)
        for before in (base, pruned):
            found = drift(before, line)
            assert by_head(found) == expected
            assert found.related
        assert by_head(drift(line, base)) == expected
    assert not drift(base, pruned_trained).related


def test_two_cuts_have_their_common_heads(base: Checkpoint) -> None:
    first = slim.apply(Plan.removing(base.base, [head("encoder.0.0")]), base)
    second = slim.apply(Plan.removing(first.base, [head("encoder.0.0")]), first)
    other = slim.apply(Plan.removing(base.base, [head("encoder.0.2"), head("decoder.1.1")]), base)
    found = drift(second, other)
    names = [str(entry.head) for entry in found.heads if entry.head.group.kind == "encoder"]
    assert names == []
    assert head("decoder.1.1") not in by_head(found)
    assert all(entry.mean == 0 for entry in found.heads)


def neuron_changes(before: Checkpoint, after: Checkpoint, group: str) -> list[float]:
    """Mean |change| of row, bias and column of every neuron of a feed-forward layer, one by one, in stock files."""
    stack, layer = group.split("-ffn.")
    names = [f"{stack}.layers.{layer}.{name}" for name in ("fc1.weight", "fc1.bias", "fc2.weight")]
    changes = [(after.model_tensors[name].double() - before.model_tensors[name].double()).abs() for name in names]
    first, bias, second = changes
    return [torch.cat([first[number], bias[number, None], second[:, number]]).mean().item()
            for number in range(len(bias))]  # fmt: skip


def test_every_neuron_against_a_loop(base: Checkpoint) -> None:
    after = changed(base, {}, seed=4)
    found = drift(base, after).neurons
    assert [str(layer.group) for layer in found] == ["encoder-ffn.0", "decoder-ffn.0", "decoder-ffn.1"]
    for layer in found:
        assert layer.neurons == tuple(range(24))
        assert list(layer.changes) == pytest.approx(neuron_changes(base, after, str(layer.group)), rel=1e-12)


@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_neurons_and_layers_are_matched_by_root_ids(base: Checkpoint, mode: str) -> None:
    removed = [f"encoder-ffn.0.{number}" for number in (0, 7, 23)] + [f"decoder-ffn.1.{number}" for number in range(5)]
    units = [UnitId.parse(name, EVERY_KIND) for name in (*removed, "decoder-layers.0", "decoder.1.2")]
    trained = changed(base, {}, seed=5)
    pruned = slim.apply(Plan.removing(base.base, units), base, mode)
    line = slim.apply(Plan.removing(trained.base, units), trained, mode)
    line = line.rewritten(line.tensors, line.architecture, pruned.lineage)
    found, full = drift(base, line), drift(base, trained)
    assert found == drift(pruned, line) and found.related
    assert found.heads == tuple(
        entry for entry in full.heads
        if entry.head != head("decoder.1.2") and str(entry.head.group) not in ("decoder.0", "cross.0")
    )  # fmt: skip
    assert [str(layer.group) for layer in found.neurons] == ["encoder-ffn.0", "decoder-ffn.1"]
    for layer, whole in zip(found.neurons, (full.neurons[0], full.neurons[2]), strict=True):
        kept = [number for number in range(24) if f"{layer.group}.{number}" not in removed]
        assert list(layer.neurons) == kept
        assert layer.changes == tuple(whole.changes[number] for number in kept)
    broken = changed(line, {"decoder.layers.0.fc1.bias": float("nan")})
    with pytest.raises(
        CheckpointError, match=r"weights of neuron decoder-ffn\.1\.5 \(root id\) are no finite numbers$"
    ):
        drift(base, broken)


def test_feed_forward_layers_of_other_widths(base: Checkpoint, build: Build) -> None:
    other = load(build(joined=False, layers=(1, 2), heads=(3, 4), width=(12, 16), ffn=(24, 32)))
    with pytest.raises(CheckpointError) as caught:
        drift(base, other)
    assert caught.value.faults == ("decoder-ffn neurons are 24 24 and 32 32 (before any cut)",)


def test_packed_and_half_precision_files(tiny: Path, tmp_path: Path) -> None:
    packed = load(fairseq_files.store_as(tiny, tmp_path / "packed.pt", packed=True))
    assert all(entry.mean == 0 for entry in drift(load(tiny), packed).heads)
    half = load(fairseq_files.store_as(tiny, tmp_path / "half.pt", dtype=torch.float16))
    assert all(0 < entry.mean < 1e-3 for entry in drift(load(tiny), half).heads)


def test_language_models(tiny_lm: Path) -> None:
    model = load(tiny_lm)
    assert {entry.head.group.kind for entry in drift(model, model).heads} == {"decoder"}


def test_checkpoints_that_cannot_be_compared(base: Checkpoint, build: Build, tiny: Path, tiny_lm: Path) -> None:
    def message(before: Checkpoint, after: Checkpoint) -> str:
        with pytest.raises(CheckpointError) as caught:
            drift(before, after)
        return str(caught.value).removeprefix(f"{before.path} and {after.path} cannot be compared: ")

    assert message(base, load(tiny)) == ("encoder heads are 3 and 4 4 (before any cut)")
    assert message(base, load(tiny_lm)) == (
        "encoder heads are 3 and none (before any cut); cross heads are 4 4 and none (before any cut)"
    )
    wider = load(build(joined=False, layers=(1, 2), heads=(3, 4), width=(24, 16)))
    assert message(base, wider) == (
        "query weights of a head of encoder.0 are 4 x 12 and 8 x 24; key weights of a head of encoder.0 are 4 x 12 and "
        "8 x 24; value weights of a head of encoder.0 are 4 x 12 and 8 x 24; key weights of a head of cross.0 are "
        "4 x 12 and 4 x 24; value weights of a head of cross.0 are 4 x 12 and 4 x 24; key weights of a head of cross.1 "
        "are 4 x 12 and 4 x 24; value weights of a head of cross.1 are 4 x 12 and 4 x 24"
    )
    broken = changed(base, {"decoder.layers.0.self_attn.v_proj.weight": float("nan")})
    assert message(base, broken) == "weights of head decoder.0.0 (root id) are no finite numbers"


def test_real_model(shared_model: Path) -> None:
    model = load(shared_model)
    found = drift(model, changed(model, {}, seed=3))
    assert len(found.heads) == 144
    assert all(entry.mean == pytest.approx((2 / torch.pi) ** 0.5, abs=0.05) for entry in found.heads)
