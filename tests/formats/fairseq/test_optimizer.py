"""Optimizer state by parameter, against the order in which fairseq's own model has its parameters."""

import json
from pathlib import Path

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.fairseq_variants import VARIANTS, difference
from tests.support.thinned import thinned

ELEMENTWISE = [
    name
    for name, options in VARIANTS.items()
    if options.get("updates")
    and name not in ("adafactor", "no optimizer state", "fairseq does not save optimizer state")
]
FLAT = ["fp16, one flat vector", "moving average in fp32"]
MOMENTS = {"momentum": ["momentum_buffer"], "adagrad": ["sum"], "adamax": ["exp_avg", "exp_inf"]}


def read(path: Path) -> FairseqCheckpoint:
    checkpoint = load(path)
    assert isinstance(checkpoint, FairseqCheckpoint)
    return checkpoint


@pytest.mark.parametrize("name", thinned(ELEMENTWISE))
def test_moments_have_the_names_of_fairseqs_parameters(build: Build, name: str) -> None:
    path = build(**VARIANTS[name])
    state = fairseq_files.load(path)["last_optimizer_state"]["state"]
    stored = json.loads((path.parent / fairseq_files.PARAMETERS).read_text())
    shapes = {own: tuple(shape) for own, shape in stored.items()}
    moments = MOMENTS.get(name, ["exp_avg", "exp_avg_sq"])
    tensors = read(path).optimizer.tensors
    assert sorted(tensors) == sorted(f"optimizer/{moment}/{own}" for moment in moments for own in shapes)
    for moment in moments:
        vectors = [state[0][moment]] if name in FLAT else [entry[moment] for entry in state.values()]
        ours = [tensors[f"optimizer/{moment}/{own}"] for own in shapes]
        assert [tuple(tensor.shape) for tensor in ours] == list(shapes.values())
        assert difference(torch.cat([v.reshape(-1) for v in vectors]), torch.cat([o.reshape(-1) for o in ours])) == ""


@pytest.mark.parametrize("name", [*FLAT, "pre-norm, shared tables", "adamax", "lm, adaptive, all tied"])
def test_moments_are_cut_like_their_parameters(build: Build, tmp_path: Path, name: str) -> None:
    checkpoint = read(build(**VARIANTS[name]))
    stand_in = dict(checkpoint.tensors)
    for own, tensor in checkpoint.parameters.items():
        stand_in[own] = torch.arange(tensor.numel()).view(tensor.shape).to(tensor.dtype)
    stand_in |= {alias: stand_in[first] for alias, first in checkpoint.aliases.items()}
    for moment in checkpoint.optimizer.tensors:
        stand_in[moment] = stand_in[moment.split("/")[2]].clone()
    marked = checkpoint.rewritten(stand_in, checkpoint.architecture, None)
    heads = [id for id in marked.architecture.head_ids() if id.number in (0, 2)]
    slim.apply(Plan.removing(marked.base, heads), marked).save(tmp_path / "cut.pt")
    cut = read(tmp_path / "cut.pt")
    assert cut.optimizer.tensors
    for moment, tensor in cut.optimizer.tensors.items():
        assert torch.equal(tensor, cut.model_tensors[moment.split("/")[2]].to(tensor.dtype))
    paths = checkpoint.path, tmp_path / "cut.pt"
    before, after = (fairseq_files.load(path)["last_optimizer_state"] for path in paths)
    assert difference(before["param_groups"], after["param_groups"]) == ""
    assert before.get("loss_scale") == after.get("loss_scale")
    assert [entry.get("step") for entry in before["state"].values()] == [e.get("step") for e in after["state"].values()]


def test_averages_are_cut_like_the_weights(build: Build, tmp_path: Path) -> None:
    checkpoint = read(build(**VARIANTS["moving average in fp32"]))
    plan = Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1"), UnitId.parse("cross.1.3")])
    slim.apply(plan, checkpoint).save(tmp_path / "cut.pt")
    state, before = fairseq_files.load(tmp_path / "cut.pt"), fairseq_files.load(checkpoint.path)
    name = "encoder.layers.0.self_attn.v_proj.weight"
    kept = [*range(4), *range(8, 16)]
    for average in ("ema", "ema_fp32_params"):
        assert torch.equal(state["extra_state"][average][name], before["extra_state"][average][name][kept])
        assert list(state["extra_state"][average]) == list(before["extra_state"][average])
    assert state["extra_state"]["ema"][name].shape == state["model"][name].shape


def test_amsgrad_is_cut_too(tiny: Path, tmp_path: Path) -> None:
    state = fairseq_files.load(tiny)
    for entry in state["last_optimizer_state"]["state"].values():
        entry["max_exp_avg_sq"] = entry["exp_avg_sq"].clone()
    torch.save(state, tmp_path / "amsgrad.pt")
    checkpoint = read(tmp_path / "amsgrad.pt")
    cut = slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")]), checkpoint)
    name = "encoder.layers.0.self_attn.q_proj.weight"
    assert cut.tensors[f"optimizer/max_exp_avg_sq/{name}"].shape == (12, 16)


def test_a_state_that_cannot_be_cut_is_kept_until_heads_go(build: Build, tmp_path: Path) -> None:
    path = build(**VARIANTS["adafactor"])
    checkpoint = read(path)
    plan = Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")])
    slim.apply(plan, checkpoint, mode="masked").save(tmp_path / "masked.pt")
    before, after = fairseq_files.load(path), fairseq_files.load(tmp_path / "masked.pt")
    assert difference(before["last_optimizer_state"], after["last_optimizer_state"]) == ""
    with pytest.raises(CheckpointError) as caught:
        slim.apply(plan, checkpoint)
    assert str(caught.value) == (
        f"{path}: the optimizer state has other sizes than the parameters, so it cannot be cut with the weights: "
        "leave it out with `drop_optimizer`"
    )
    slim.apply(plan, checkpoint.without_optimizer()).save(tmp_path / "cut.pt")
    assert "last_optimizer_state" not in fairseq_files.load(tmp_path / "cut.pt")


@pytest.mark.parametrize("damage", ["composite", "two groups", "sharded", "one parameter short"])
def test_states_of_other_optimizers_are_not_cut(tiny: Path, tmp_path: Path, damage: str) -> None:
    state = fairseq_files.load(tiny)
    optimizer = state["last_optimizer_state"]
    if damage == "composite":
        state["last_optimizer_state"] = {"encoder": optimizer}
    elif damage == "two groups":
        optimizer["param_groups"] = [
            {**optimizer["param_groups"][0], "params": part} for part in (list(range(9)), list(range(9, 80)))
        ]
    elif damage == "sharded":
        state["cfg"]["distributed_training"]["zero_sharding"] = "os"
    else:
        optimizer["param_groups"][0]["params"].pop()
        del optimizer["state"][len(optimizer["state"]) - 1]
    torch.save(state, tmp_path / "other.pt")
    checkpoint = read(tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="`drop_optimizer`"):
        slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")]), checkpoint)


@pytest.mark.parametrize("frozen", ["decoder layers", "encoder layers", "tables", "encoder"])
def test_moments_of_a_model_whose_parts_were_frozen(build: Build, tmp_path: Path, frozen: str) -> None:
    state = fairseq_files.load(build(updates=2, joined=False))
    names = list(read(build(updates=2, joined=False)).parameters)
    tables = {name for name in names if "embed_tokens" in name}
    parts = {
        "decoder layers": {name for name in names if name.startswith("decoder.")} - tables,
        "encoder layers": {name for name in names if name.startswith("encoder.")} - tables,
        "tables": tables,
        "encoder": {name for name in names if name.startswith("encoder.")} | tables,
    }
    trained = [index for index, name in enumerate(names) if name not in parts[frozen]]
    optimizer = state["last_optimizer_state"]
    optimizer["state"] = {position: optimizer["state"][index] for position, index in enumerate(trained)}
    optimizer["param_groups"][0]["params"] = list(range(len(trained)))
    torch.save(state, tmp_path / "frozen.pt")
    found = read(tmp_path / "frozen.pt").optimizer
    assert found.problem == ""
    assert {name.split("/")[2] for name in found.tensors} == {names[index] for index in trained}


@pytest.mark.parametrize("place", ["history", "top level"])
def test_states_where_early_versions_put_them(tiny: Path, tmp_path: Path, place: str) -> None:
    state = fairseq_files.load(tiny)
    moved = state.pop("last_optimizer_state")
    (state["optimizer_history"][-1] if place == "history" else state)["optimizer"] = moved
    torch.save(state, tmp_path / "early.pt")
    checkpoint = read(tmp_path / "early.pt")
    plan = Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")])
    with pytest.raises(CheckpointError, match="of an early version"):
        slim.apply(plan, checkpoint)
    slim.apply(plan, checkpoint.without_optimizer()).save(tmp_path / "cut.pt")
    after = fairseq_files.load(tmp_path / "cut.pt")
    assert not after.get("optimizer")
    assert "optimizer" not in after["optimizer_history"][-1]
