"""Settings that say what is left of a model: which are written, and what is wrong with damaged ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import FairseqCheckpoint, containers
from nmtprune.plan import Plan
from tests.support.fairseq_files import Build

NAMES = ("_name", "encoder_ffn_embed_dim", "decoder_ffn_embed_dim", "nmtprune_neurons", "nmtprune_heads")


@pytest.fixture(scope="module")
def base(build: Build) -> FairseqCheckpoint:
    return FairseqCheckpoint.load(build(updates=2, ffn=(6, 8)))


def left(base: FairseqCheckpoint, *removed: str, mode: str = "cut") -> FairseqCheckpoint:
    units = [UnitId.parse(name, EVERY_KIND) for name in removed]
    found = slim.apply(Plan.removing(base.base, units), base, mode)
    assert isinstance(found, FairseqCheckpoint)
    return found


def said(checkpoint: FairseqCheckpoint) -> dict[str, Any]:
    given = containers.section(checkpoint.state, "model")
    return {name: given[name] for name in NAMES if given.get(name) is not None}


RAGGED = ("encoder-ffn.0.1", "decoder-ffn.1.0", "decoder-ffn.1.7")
UNIFORM = ("encoder-ffn.0.1", "encoder-ffn.1.5")


def test_uniform_widths_are_numbers_of_the_stock_architecture(base: FairseqCheckpoint) -> None:
    """Both are written: a decoder's width that is not given is taken from the encoder's."""
    assert said(left(base, *UNIFORM)) == {
        "_name": "transformer",
        "encoder_ffn_embed_dim": 5,
        "decoder_ffn_embed_dim": 8,
    }


def test_ragged_widths_are_listed(base: FairseqCheckpoint) -> None:
    found = said(left(base, *RAGGED))
    assert json.loads(found.pop("nmtprune_neurons")) == {"encoder-ffn": [5, 6], "decoder-ffn": [8, 6]}
    assert json.loads(found.pop("nmtprune_heads"))["cross"] == [4, 4]
    assert found == {"_name": "nmtprune", "encoder_ffn_embed_dim": 6, "decoder_ffn_embed_dim": 8}


def test_only_ragged_stacks_are_listed(base: FairseqCheckpoint) -> None:
    found = said(left(base, *UNIFORM, "decoder-ffn.1.0", "cross.0.2"))
    assert json.loads(found["nmtprune_neurons"]) == {"decoder-ffn": [8, 7]}
    assert found["encoder_ffn_embed_dim"] == 5


def test_padded_widths_are_those_of_the_stock_architecture(base: FairseqCheckpoint, tmp_path: Path) -> None:
    left(base, *RAGGED, "decoder-ffn.0.3", mode="uniform").save(tmp_path / "slim.pt")
    found = FairseqCheckpoint.load(tmp_path / "slim.pt")
    assert said(found) == {"_name": "transformer", "encoder_ffn_embed_dim": 6, "decoder_ffn_embed_dim": 7}
    widths = {str(group.id): (group.units, group.padding) for group in found.architecture.feed_forwards}
    assert widths == {
        "encoder-ffn.0": (5, 1),
        "encoder-ffn.1": (6, 0),
        "decoder-ffn.0": (7, 0),
        "decoder-ffn.1": (6, 1),
    }


def test_padding_of_a_ragged_model_without_lineage_is_remembered(base: FairseqCheckpoint) -> None:
    root = with_fields(left(base, *RAGGED), nmtprune_lineage=None)
    result = left(root, mode="uniform")
    assert [(group.units, group.padding) for group in result.architecture.feed_forwards][:2] == [(5, 1), (6, 0)]


def test_a_ragged_model_that_becomes_uniform_is_a_stock_one_again(base: FairseqCheckpoint) -> None:
    between = left(base, "encoder-ffn.0.1")
    result = left(between, "encoder-ffn.1.5")
    assert said(result) == said(left(base, *UNIFORM))
    assert result.lineage == left(base, *UNIFORM).lineage
    assert not {"encoder_head_dim", "nmtprune_base_arch"} & containers.section(result.state, "model").keys()


def test_files_with_fewer_heads_alone_say_nothing_of_neurons(base: FairseqCheckpoint) -> None:
    result = left(base, "cross.0.2")
    assert "nmtprune_neurons" not in containers.section(result.state, "model")
    lineage = json.loads(containers.section(result.state, "model")["nmtprune_lineage"])
    assert set(lineage) == {"root", "keep"}
    assert set(lineage["root"]) == {"format", "sha256", "heads"}
    assert set(lineage["keep"]) == {f"{kind}.{layer}" for kind in ("encoder", "decoder", "cross") for layer in (0, 1)}


def with_fields(checkpoint: FairseqCheckpoint, **fields: Any) -> FairseqCheckpoint:
    return FairseqCheckpoint.of_state(checkpoint.path, containers.with_model_fields(checkpoint.state, fields))


BROKEN = {
    "{": "nmtprune_neurons is '{', no list of neuron counts per kind",
    '{"cross": [1, 2]}': "nmtprune_neurons is '{\"cross\": [1, 2]}', no list of neuron counts per kind",
    '{"encoder-ffn": [5, -6]}': "nmtprune_neurons is '{\"encoder-ffn\": [5, -6]}', no list of neuron counts per kind",
    '{"encoder-ffn": [5], "decoder-ffn": [8, 6, 1]}':
        "nmtprune_neurons lists 1 encoder-ffn layers, the model has 2; nmtprune_neurons lists 3 decoder-ffn layers, the"
        " model has 2",
    '{"encoder-ffn": [4, 6], "decoder-ffn": [8, 5]}':
        "nmtprune_lineage has 5 neurons of encoder-ffn.0, the model 4; nmtprune_lineage has 6 neurons of decoder-ffn.1,"
        " the model 5",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN)
def test_damaged_widths_are_one_line(base: FairseqCheckpoint, text: str) -> None:
    cut = left(base, *RAGGED)
    with pytest.raises(CheckpointError) as error:
        with_fields(cut, nmtprune_neurons=text)
    assert str(error.value) == f"{base.path}: settings: {BROKEN[text]}"


def test_damaged_heads_and_neurons_are_named_together(base: FairseqCheckpoint) -> None:
    with pytest.raises(CheckpointError) as error:
        with_fields(left(base, *RAGGED), nmtprune_neurons="{", nmtprune_heads="[", decoder_head_dim=0)
    assert str(error.value) == (
        f"{base.path}: settings: nmtprune_heads is '[', no list of head counts per kind; decoder_head_dim is 0, no "
        "whole number from 1; nmtprune_neurons is '{', no list of neuron counts per kind"
    )


def test_widths_that_are_not_those_of_the_tensors_are_refused(base: FairseqCheckpoint) -> None:
    with pytest.raises(CheckpointError) as error:
        with_fields(left(base, *RAGGED), nmtprune_neurons='{"encoder-ffn": [6, 6], "decoder-ffn": [8, 6]}')
    assert str(error.value) == (
        f"{base.path}: the tensors do not fit the settings: encoder.layers.0.fc1.weight has shape [5, 16], not [6, 16];"
        " encoder.layers.0.fc1.bias has shape [5], not [6]; encoder.layers.0.fc2.weight has shape [16, 5], not [16, 6]"
    )


def test_the_lineage_of_another_depth_is_refused(base: FairseqCheckpoint) -> None:
    shallow = left(base, "decoder-layers.0")
    lineage = shallow.lineage
    assert lineage is not None
    with pytest.raises(CheckpointError) as error:
        with_fields(base, nmtprune_lineage=lineage.to_json())
    assert str(error.value) == (
        f"{base.path}: settings: nmtprune_lineage and the settings name different modules; nmtprune_lineage and the"
        " model name different feed-forward layers"
    )


def test_fresh_weights_have_the_shape_of_what_is_left(base: FairseqCheckpoint) -> None:
    removed = (*RAGGED, "cross.0.1", "encoder-layers.1", *(f"decoder-ffn.0.{number}" for number in range(8)))
    result = left(base, *removed)
    fresh = result.reinitialized(3)
    assert fresh.architecture == result.architecture
    assert fresh.lineage == result.lineage
    assert {n: t.shape for n, t in fresh.model_tensors.items()} == {n: t.shape for n, t in result.model_tensors.items()}
    weights = fresh.model_tensors["decoder.layers.1.fc2.weight"]
    assert 0.5 / 6**0.5 < weights.abs().max().item() <= 1 / 6**0.5
    assert not fresh.has_optimizer


def test_fresh_padding_stays_zero_and_does_not_count(base: FairseqCheckpoint) -> None:
    padded = left(base, *RAGGED, "decoder-ffn.0.3", mode="uniform").reinitialized(3)
    weights = padded.model_tensors["decoder.layers.1.fc2.weight"]
    assert not weights[:, 6:].any()
    assert not padded.model_tensors["decoder.layers.1.fc1.weight"][6:].any()
    assert 1 / 7**0.5 < weights.abs().max().item() <= 1 / 6**0.5


def test_a_layer_without_neurons_adds_the_bias_of_its_second_matrix(base: FairseqCheckpoint) -> None:
    from nmtprune.engines.native import load as native
    from nmtprune.model.scope import Probe

    result = left(base, *(f"encoder-ffn.0.{number}" for number in range(6)))
    layer = native(result).encoder.layers[0].feed_forward
    x = torch.randn(2, 3, 16)
    assert torch.equal(layer.output(x[..., :0], Probe()), result.tensors["encoder.layers.0.fc2.bias"].expand(2, 3, 16))


def test_optimizer_state_that_cannot_be_cut_can_be_left_out(base: FairseqCheckpoint) -> None:
    broken = {**base.state["last_optimizer_state"], "param_groups": []}
    odd = FairseqCheckpoint.of_state(base.path, {**base.state, "last_optimizer_state": broken})
    with pytest.raises(CheckpointError, match="cannot be cut with the weights: leave it out with `drop_optimizer`"):
        left(odd, "encoder-ffn.0.1")
    result = left(odd.without_optimizer(), "encoder-ffn.0.1")
    assert result.architecture.group(GroupId("encoder-ffn", 0)).units == 5
    assert not result.has_optimizer
