"""Loading, changing and writing fairseq checkpoints of every variant."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError, OutputError
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Lineage, Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.fairseq_variants import VARIANTS, difference, sharing
from tests.support.thinned import thinned


def read(path: Path) -> FairseqCheckpoint:
    checkpoint = load(path)
    assert isinstance(checkpoint, FairseqCheckpoint)
    return checkpoint


@pytest.fixture(params=thinned(VARIANTS), scope="module")
def variant(request: pytest.FixtureRequest, build: Build) -> FairseqCheckpoint:
    return read(build(**VARIANTS[request.param]))


def odd_heads(checkpoint: FairseqCheckpoint) -> list[UnitId]:
    """Every second head, and all heads of the first module."""
    first = next(iter(checkpoint.architecture)).id
    return [id for id in checkpoint.architecture.head_ids() if id.number % 2 or id.group == first]


def test_heads_are_those_that_fairseq_was_asked_for(build: Build) -> None:
    checkpoint = read(build(**VARIANTS["other depth, heads and width"]))
    assert checkpoint.architecture.heads_by_kind() == {"encoder": [2, 2, 2], "decoder": [3], "cross": [3]}
    assert {module.head_dim for module in checkpoint.architecture} == {8}
    assert checkpoint.architecture_name == "transformer"
    assert checkpoint.lineage is None


def test_a_file_that_loses_nothing_stays_the_same(variant: FairseqCheckpoint, tmp_path: Path) -> None:
    kept = slim.apply(Plan.keep_all(variant.base), variant)
    assert kept is variant
    kept.save(tmp_path / "kept.pt")
    clones = {name: tensor.clone() for name, tensor in variant.tensors.items()}
    variant.rewritten(clones, variant.architecture, None).save(tmp_path / "same.pt")
    before, after = fairseq_files.load(variant.path), fairseq_files.load(tmp_path / "kept.pt")
    assert difference(before, after) == ""
    assert sharing(before["model"]) == sharing(after["model"])
    del before["extra_state"]["best"]
    assert difference(before, fairseq_files.load(tmp_path / "same.pt")) == ""


def test_a_cut_changes_heads_and_the_fields_that_say_so(variant: FairseqCheckpoint, tmp_path: Path) -> None:
    checkpoint = variant.without_optimizer() if variant.optimizer.problem else variant
    plan = Plan.removing(checkpoint.base, odd_heads(checkpoint))
    cut = slim.apply(plan, checkpoint)
    cut.save(tmp_path / "cut.pt", provenance={"why": "test"})
    again = read(tmp_path / "cut.pt")
    assert again.architecture == cut.architecture
    assert again.architecture.heads_by_kind() == {k: list(v) for k, v in plan.heads_by_kind().items()}
    assert again.lineage == Lineage.start(checkpoint.base).after(plan)
    assert again.sha256 == cut.sha256
    assert again.architecture_name == checkpoint.architecture_name
    assert json.loads(again.provenance or "") == {"why": "test"}
    assert (tmp_path / "cut.pt").stat().st_size < variant.path.stat().st_size
    assert "best" not in again.state["extra_state"]
    before, after = fairseq_files.load(variant.path)["model"], again.model_tensors
    assert sharing(before) == sharing(dict(after))
    touched = {axis.tensor for module in checkpoint.architecture for axis in checkpoint.unit_axes[module.id]} & set(
        before
    )
    for name, tensor in before.items():
        expected = rows_of_kept_heads(tensor, name, plan, checkpoint) if name in touched else tensor
        assert difference(expected, after[name], name) == ""


def rows_of_kept_heads(tensor: torch.Tensor, name: str, plan: Plan, checkpoint: FairseqCheckpoint) -> torch.Tensor:
    """What is left of a tensor of an attention module, entry by entry."""
    stack, _, layer, submodule = name.split(".")[:4]
    kind = "cross" if submodule == "encoder_attn" else stack
    module = GroupId(kind, int(layer))
    width = checkpoint.architecture[module].head_dim
    heads = checkpoint.architecture[module].heads
    entries = [head * width + offset for head in plan.kept(module) for offset in range(width)]
    if "out_proj" in name:
        return tensor[:, entries]
    if "in_proj" in name:
        entries = [block * heads * width + entry for block in range(3) for entry in entries]
    return tensor[entries]


def test_a_cut_leaves_the_loaded_checkpoint_as_it_was(build: Build) -> None:
    path = build(updates=2, stored={"cfg": "omegaconf"})
    checkpoint, untouched = read(path), read(path)
    slim.apply(Plan.removing(checkpoint.base, odd_heads(checkpoint)), checkpoint)
    for key in ("model", "last_optimizer_state", "extra_state"):
        assert difference(checkpoint.state[key], untouched.state[key]) == ""
    assert checkpoint.section("model") == untouched.section("model")


def test_settings_of_a_cut_say_nothing_else(build: Build, tmp_path: Path) -> None:
    checkpoint = read(build(heads=(4, 2)))
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.1.2")]), checkpoint).save(tmp_path / "cut.pt")
    before = vars(fairseq_files.load(checkpoint.path)["cfg"]["model"])
    after = vars(fairseq_files.load(tmp_path / "cut.pt")["cfg"]["model"])
    assert {name: value for name, value in after.items() if value != before.get(name, "absent")} == {
        "arch": "nmtprune",
        "_name": "nmtprune",
        "nmtprune_base_arch": "transformer",
        "nmtprune_heads": '{"encoder": [4, 3], "decoder": [2, 2], "cross": [2, 2]}',
        "nmtprune_lineage": after["nmtprune_lineage"],
        "encoder_head_dim": 4,
        "decoder_head_dim": 8,
    }
    assert set(before) <= set(after)


@pytest.mark.parametrize("kind", ["dict", "namespace", "omegaconf", "args"])
def test_fields_go_where_the_settings_are(build: Build, tmp_path: Path, kind: str) -> None:
    path = build(stored={"cfg": kind})
    checkpoint = read(path)
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("cross.0.1")]), checkpoint).save(tmp_path / "cut.pt")
    before, after = fairseq_files.load(path), fairseq_files.load(tmp_path / "cut.pt")
    holder = after["args"] if kind == "args" else after["cfg"]
    assert type(holder) is type(before["args"] if kind == "args" else before["cfg"])
    model = holder if kind == "args" else holder.model if kind != "dict" else holder["model"]
    value = model["nmtprune_heads"] if isinstance(model, dict) else model.nmtprune_heads
    assert json.loads(value)["cross"] == [3, 4]
    assert (model["arch"] if isinstance(model, dict) else model.arch) == "nmtprune"


def test_a_language_model_is_cut_under_its_own_architecture(build: Build, tmp_path: Path) -> None:
    checkpoint = read(build(arch="transformer_lm_gpt2_tiny"))
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("decoder.0.1")]), checkpoint).save(tmp_path / "cut.pt")
    model = fairseq_files.load(tmp_path / "cut.pt")["cfg"]["model"]
    assert (model["_name"], model["nmtprune_base_arch"]) == ("nmtprune_lm", "transformer_lm_gpt2_tiny")
    assert read(tmp_path / "cut.pt").architecture.heads_by_kind() == {"encoder": [], "decoder": [3, 4], "cross": []}


def test_padding_heads_survive_the_file(tiny: Path, tmp_path: Path) -> None:
    checkpoint = read(tiny)
    plan = Plan.removing(checkpoint.base, [UnitId.parse(text) for text in ("encoder.0.1", "cross.1.0", "cross.1.3")])
    padded = slim.apply(plan, checkpoint, mode="uniform")
    padded.save(tmp_path / "uniform.pt")
    again = read(tmp_path / "uniform.pt")
    assert again.architecture == padded.architecture
    assert again.architecture[GroupId("cross", 1)].padding_heads == 2
    assert again.architecture.heads_by_kind() == {"encoder": [3, 4], "decoder": [4, 4], "cross": [4, 2]}


def test_masked_keeps_the_settings(tiny: Path, tmp_path: Path) -> None:
    checkpoint = read(tiny)
    plan = Plan.removing(checkpoint.base, odd_heads(checkpoint))
    slim.apply(plan, checkpoint, mode="masked").save(tmp_path / "masked.pt")
    before, after = fairseq_files.load(tiny), fairseq_files.load(tmp_path / "masked.pt")
    assert difference(before["cfg"], after["cfg"]) == ""
    assert difference(before["last_optimizer_state"], after["last_optimizer_state"]) == ""
    assert "best" not in after["extra_state"]
    changed = {name for name in before["model"] if difference(before["model"][name], after["model"][name])}
    assert changed == {name for name in before["model"] if "out_proj.weight" in name}


def test_views_of_a_storage_that_was_cut_do_not_carry_the_removed_heads_along(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(build(seed=5))
    flat = torch.cat([tensor.reshape(-1) for tensor in state["model"].values()])
    offset = 0
    for name, tensor in state["model"].items():
        state["model"][name] = flat[offset : offset + tensor.numel()].view(tensor.shape)
        offset += tensor.numel()
    torch.save(state, tmp_path / "flat.pt")
    checkpoint = read(tmp_path / "flat.pt")
    plan = Plan.removing(checkpoint.base, checkpoint.architecture.head_ids())
    slim.apply(plan, checkpoint).save(tmp_path / "cut.pt")
    removed = state["model"]["decoder.layers.1.encoder_attn.q_proj.weight"].numpy().tobytes()
    assert removed in (tmp_path / "flat.pt").read_bytes()
    assert removed not in (tmp_path / "cut.pt").read_bytes()
    assert read(tmp_path / "cut.pt").architecture.count() == 0


def test_the_input_is_never_written(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "link.pt").symlink_to(tiny)
    with pytest.raises(OutputError, match="is the input file"):
        read(tiny).save(tmp_path / "link.pt", force=True)


def test_kept_layers_are_the_model(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(build(layers=4, seed=3, updates=1))
    state["cfg"]["model"].encoder_layers_to_keep = "3,1"
    torch.save(state, tmp_path / "kept.pt")
    checkpoint = read(tmp_path / "kept.pt")
    assert checkpoint.architecture.heads_by_kind()["encoder"] == [4, 4]
    assert (checkpoint.settings["encoder_layers"], checkpoint.settings["encoder_layers_to_keep"]) == (2, None)
    assert checkpoint.unit_axes[GroupId("encoder", 1)][0].tensor == "encoder.layers.3.self_attn.k_proj.weight"
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.1.0")]), checkpoint).save(tmp_path / "cut.pt")
    model = fairseq_files.load(tmp_path / "cut.pt")["model"]
    assert [len(model[f"encoder.layers.{n}.self_attn.k_proj.weight"]) for n in range(4)] == [16, 16, 16, 12]
    assert len(checkpoint.parameters) < len(model)
    assert checkpoint.network().encoder is not None


def test_parts_cover_the_parameters(variant: FairseqCheckpoint) -> None:
    checkpoint = variant
    parts = {checkpoint.part_of(name) for name in checkpoint.parameters}
    known = {"embeddings", "output", "feed-forward", "norms"} | {
        f"attention.{k}" for k in checkpoint.architecture.kinds
    }
    assert {"embeddings", "feed-forward", "norms"} <= parts <= known
    with_buffers = {name for name, spec in checkpoint.specs.items() if spec.draw is None and spec.part == ""}
    assert set(checkpoint.model_tensors) == set(checkpoint.parameters) | set(checkpoint.aliases) | (
        with_buffers & set(checkpoint.model_tensors)
    )


@pytest.mark.parametrize("field", ["nmtprune_heads", "nmtprune_lineage", "encoder_head_dim", "nmtprune_base_arch"])
def test_fields_of_a_slim_checkpoint_that_contradict_its_tensors(tiny: Path, tmp_path: Path, field: str) -> None:
    checkpoint = read(tiny)
    path = tmp_path / "cut.pt"
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")]), checkpoint).save(path)
    state = fairseq_files.load(path)
    model = state["cfg"]["model"]
    lineage = json.loads(model.nmtprune_lineage)
    lineage["keep"]["encoder.1"] = [0, 1, 2, 3]
    lineage["keep"]["encoder.0"] = [0, 1, 2, 3]
    wrong: dict[str, Any] = {
        "nmtprune_heads": '{"encoder": [4, 4], "decoder": [4, 4], "cross": [4, 4]}',
        "nmtprune_lineage": json.dumps(lineage),
        "encoder_head_dim": 0,
        "nmtprune_base_arch": "fconv",
    }
    setattr(model, field, wrong[field])
    torch.save(state, path)
    messages = {
        "nmtprune_heads": f"{path}: the tensors do not fit the settings: "
        "encoder.layers.0.self_attn.k_proj.weight has shape [12, 16], not [16, 16]; ",
        "nmtprune_lineage": f"{path}: settings: nmtprune_lineage has 4 heads of encoder.0, nmtprune_heads 3",
        "encoder_head_dim": f"{path}: settings: encoder_head_dim is 0, no whole number from 1",
        "nmtprune_base_arch": f"{path}: unsupported: nmtprune_base_arch is 'fconv', "
        "no architecture that a model of 'nmtprune' can be cut from",
    }
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(messages[field])


def test_the_real_model(shared_model: Path, tmp_path: Path) -> None:
    checkpoint = read(shared_model)
    assert checkpoint.architecture.heads_by_kind() == {kind: [8] * 6 for kind in ("encoder", "decoder", "cross")}
    checkpoint.save(tmp_path / "same.pt")
    assert difference(fairseq_files.load(shared_model), fairseq_files.load(tmp_path / "same.pt")) == ""
    cut = slim.apply(Plan.removing(checkpoint.base, odd_heads(checkpoint)), checkpoint)
    cut.save(tmp_path / "cut.pt")
    assert read(tmp_path / "cut.pt").architecture.count() == checkpoint.architecture.count() - len(
        odd_heads(checkpoint)
    )
