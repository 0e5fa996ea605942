"""Layers taken out of a fairseq checkpoint: tensors, moments, averages, settings."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import FairseqCheckpoint, containers
from nmtprune.plan import Lineage, Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build

STORED: dict[str, dict[str, Any]] = {
    "as fairseq-train writes it": {},
    "legacy args": {"cfg": "args"},
    "settings as dicts": {"cfg": "dict"},
    "settings of OmegaConf": {"cfg": "omegaconf"},
    "packed projections": {"packed": True, "without_optimizer": True},
    "average": {"ema": 0.5},
}


def without_layers(base: FairseqCheckpoint, *names: str) -> FairseqCheckpoint:
    removed = [UnitId.parse(name, ("encoder-layers", "decoder-layers")) for name in names]
    found = slim.apply(Plan.removing(base.base, removed), base)
    assert isinstance(found, FairseqCheckpoint)
    return found


def settings_of(checkpoint: FairseqCheckpoint, *names: str) -> dict[str, Any]:
    given = containers.section(checkpoint.state, "model")
    return {name: given.get(name) for name in names}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED.keys())
def test_what_stays_is_what_it_was_under_a_lower_number(build: Build, stored: dict[str, Any]) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3), stored=stored))
    result = without_layers(base, "encoder-layers.0", "decoder-layers.1")
    numbers = {"encoder": {1: 0}, "decoder": {0: 0, 2: 1}}
    expected = {}
    for name, tensor in base.tensors.items():
        prefix, _, own = name.rpartition("/")
        parts = own.split(".")
        if parts[1] == "layers":
            if int(parts[2]) not in numbers[parts[0]]:
                continue
            parts[2] = str(numbers[parts[0]][int(parts[2])])
        expected[f"{prefix}/{'.'.join(parts)}" if prefix else ".".join(parts)] = tensor
    assert list(result.tensors) == list(expected)
    assert all(torch.equal(result.tensors[name], tensor) for name, tensor in expected.items())
    assert settings_of(result, "encoder_layers", "decoder_layers") == {"encoder_layers": 1, "decoder_layers": 2}
    assert "best" not in result.state["extra_state"]
    assert "best" in base.state["extra_state"]


def test_the_architecture_stays_that_of_stock_fairseq(build: Build, tmp_path: Path) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3)))
    result = without_layers(base, "decoder-layers.1")
    result.save(tmp_path / "slim.pt")
    found = FairseqCheckpoint.load(tmp_path / "slim.pt")
    assert not found.description.needs_plugin
    assert found.lineage is not None
    assert found.lineage.layers("decoder") == (0, 2)
    assert found.lineage.units(GroupId("cross", 1)) == (0, 1, 2, 3)
    assert settings_of(found, "_name", "nmtprune_heads") == {"_name": "transformer", "nmtprune_heads": None}


def test_moments_are_those_of_the_parameters_that_stay(build: Build, tmp_path: Path) -> None:
    """fairseq finds them by position: the list of parameters is as long as the model's."""
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3)))
    without_layers(base, "encoder-layers.1", "decoder-layers.0").save(tmp_path / "slim.pt")
    found = FairseqCheckpoint.load(tmp_path / "slim.pt")
    assert found.optimizer.problem == ""
    state = found.state["last_optimizer_state"]
    assert state["param_groups"][0]["params"] == list(range(len(found.parameters)))
    for number, (name, parameter) in enumerate(found.parameters.items()):
        assert state["state"][number]["exp_avg"].shape == parameter.shape
        assert torch.equal(state["state"][number]["exp_avg"], found.tensors[f"optimizer/exp_avg/{name}"])
        assert state["state"][number]["step"] == base.state["last_optimizer_state"]["state"][0]["step"]


def test_a_flat_vector_of_moments_loses_the_part_of_a_layer(build: Build) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3), fp16=True))
    result = without_layers(base, "decoder-layers.1")
    (entry,) = result.state["last_optimizer_state"]["state"].values()
    assert len(entry["exp_avg"]) == sum(tensor.numel() for tensor in result.parameters.values())
    there = base.tensors["optimizer/exp_avg/decoder.layers.2.fc1.weight"]
    assert torch.equal(result.tensors["optimizer/exp_avg/decoder.layers.1.fc1.weight"], there)


def test_an_optimizer_without_steps_loses_its_parameters_too(build: Build) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3))).with_new_moments()
    result = without_layers(base, "decoder-layers.1")
    assert len(result.state["last_optimizer_state"]["param_groups"][0]["params"]) == len(result.parameters)


def test_parameters_that_nobody_knows_cannot_be_left_out(build: Build) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3))).with_new_moments()
    saved = base.state["last_optimizer_state"]
    group = {**saved["param_groups"][0], "params": [0, 1, 2]}
    state = {**base.state, "last_optimizer_state": {**saved, "param_groups": [group]}}
    odd = FairseqCheckpoint.of_state(base.path, state)
    with pytest.raises(CheckpointError) as error:
        without_layers(odd, "decoder-layers.1")
    assert str(error.value) == (
        f"{base.path}: the optimizer state lists 3 parameters, which are not those of the model: leave it out with "
        "`drop_optimizer`"
    )


def test_a_state_that_cannot_be_cut_is_refused(build: Build) -> None:
    base = FairseqCheckpoint.load(build(updates=2, layers=(2, 3), optimizer="sgd", momentum=0.9))
    state = {**base.state["last_optimizer_state"], "param_groups": []}
    odd = FairseqCheckpoint.of_state(base.path, {**base.state, "last_optimizer_state": state})
    with pytest.raises(CheckpointError, match="so it cannot be cut with the weights: leave it out with"):
        without_layers(odd, "decoder-layers.1")
    assert without_layers(odd.without_optimizer(), "decoder-layers.1").architecture.layers("decoder") == (0, 1)


def test_chosen_layers_are_chosen_no_longer(build: Build) -> None:
    """Of LayerDrop's layers those that the settings leave out go too; numbers in plans are those of the used ones."""
    path = build(updates=2, layers=(3, 4))
    state = fairseq_files.load(path)
    fields = {"encoder_layers_to_keep": "0,2", "decoder_layers_to_keep": "1,2,3"}
    base = FairseqCheckpoint.of_state(path, containers.with_model_fields(state, fields))
    assert base.architecture.layers("decoder") == (0, 1, 2)
    result = without_layers(base, "decoder-layers.1")
    assert not result.description.chosen_layers
    names = ("encoder_layers", "decoder_layers", "encoder_layers_to_keep", "decoder_layers_to_keep")
    assert settings_of(result, *names) == dict(zip(names, (2, 2, None, None), strict=True))
    moved = {"encoder.layers.1": "encoder.layers.2", "decoder.layers.0": "decoder.layers.1"}
    moved["decoder.layers.1"] = "decoder.layers.3"
    for new, old in moved.items():
        for tensor in ("fc1.weight", "fc2.bias"):
            assert torch.equal(result.tensors[f"{new}.{tensor}"], base.tensors[f"{old}.{tensor}"])
    assert len(result.optimizer.trained) == len(result.parameters) == len(result.optimizer.tensors) // 2


def test_language_models_lose_layers(build: Build) -> None:
    base = FairseqCheckpoint.load(build(arch="transformer_lm_gpt", updates=2, layers=3))
    result = without_layers(base, "decoder-layers.0")
    assert result.architecture.layers("decoder") == (0, 1)
    assert torch.equal(result.tensors["decoder.layers.0.fc1.bias"], base.tensors["decoder.layers.1.fc1.bias"])
    assert not result.description.needs_plugin


def test_memory_of_what_stays_holds_nothing_of_what_goes(build: Build) -> None:
    """Tensors that are views of one storage, as some tools save them, would be written with all of it."""
    path = build(layers=(2, 3), stored={"without_optimizer": True})
    state = fairseq_files.load(path)
    sizes = [tensor.numel() for tensor in state["model"].values()]
    flat = torch.cat([tensor.reshape(-1).float() for tensor in state["model"].values()])
    views = [part.view_as(tensor) for part, tensor in zip(flat.split(sizes), state["model"].values(), strict=True)]
    state["model"] = OrderedDict(zip(state["model"], views, strict=True))
    base = FairseqCheckpoint.of_state(path, state)
    result = without_layers(base, "decoder-layers.1")
    assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in result.model_tensors.values())


def test_what_torch_notes_of_modules_is_named_anew(build: Build) -> None:
    path = build(layers=(2, 3))
    state = fairseq_files.load(path)
    notes = OrderedDict(
        {"": {"version": 1}, "decoder.layers.1.fc1": {"version": 2}, "decoder.layers.2": {"version": 3}}
    )
    state["model"]._metadata = notes
    result = without_layers(FairseqCheckpoint.of_state(path, state), "decoder-layers.1")
    assert result.state["model"]._metadata == {"": {"version": 1}, "decoder.layers.1": {"version": 3}}


def test_layers_go_from_a_model_with_fewer_heads(build: Build) -> None:
    base = FairseqCheckpoint.load(build(layers=(2, 3)))
    heads = [UnitId.parse(name) for name in ("decoder.0.1", "decoder.2.0", "cross.2.3")]
    cut = slim.apply(Plan.removing(base.base, heads), base)
    assert isinstance(cut, FairseqCheckpoint)
    result = without_layers(cut, "decoder-layers.0")
    stored = json.loads(settings_of(result, "nmtprune_heads")["nmtprune_heads"])
    assert stored == {"encoder": [4, 4], "decoder": [4, 3], "cross": [4, 3]}
    both = [*heads, UnitId(GroupId.layers_of("decoder"), 0)]
    assert result.lineage == Lineage.start(base.base).after(Plan.removing(base.base, both))


@pytest.mark.parametrize("mode", slim.MODES)
def test_masked_heads_of_a_shallower_model_stay(build: Build, mode: str, tmp_path: Path) -> None:
    """Masking says nothing of heads in the lineage: of layers alone."""
    base = FairseqCheckpoint.load(build(layers=(2, 3)))
    removed = [UnitId.parse(name) for name in ("decoder.2.0", "cross.2.3")] + [UnitId(GroupId.layers_of("decoder"), 0)]
    result = slim.apply(Plan.removing(base.base, removed), base, mode)
    result.save(tmp_path / "slim.pt")
    read = FairseqCheckpoint.load(tmp_path / "slim.pt")
    assert read.architecture == result.architecture
    assert read.architecture.count(["decoder", "cross"]) == (16 if mode == "masked" else 14)


@pytest.mark.parametrize(
    ("removed", "layer"), [("decoder-layers.0", 0), ("decoder-layers.1", 0), ("decoder-layers.2", 1)]
)
def test_alignments_come_from_the_same_layer_or_the_one_before(build: Build, removed: str, layer: int) -> None:
    base = FairseqCheckpoint.load(build(arch="transformer_align", layers=(1, 3), alignment_layer=1))
    assert settings_of(without_layers(base, removed), "alignment_layer") == {"alignment_layer": layer}
