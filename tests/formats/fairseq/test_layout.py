"""Files of earlier versions of fairseq: other names, packed matrices, missing tensors; fairseq loads them too."""

from argparse import Namespace
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build

State = dict[str, Any]


def read(path: Path) -> FairseqCheckpoint:
    checkpoint = load(path)
    assert isinstance(checkpoint, FairseqCheckpoint)
    return checkpoint


def loads_in_fairseq(path: Path) -> bool:
    from fairseq import checkpoint_utils

    with fairseq_files.on_cpu(), mock.patch("torch.load", partial(torch.load, weights_only=False)):
        try:
            checkpoint_utils.load_model_ensemble([str(path)])
        except (RuntimeError, KeyError):
            return False
    return True


def renamed(state: State, names: dict[str, str]) -> None:
    model = OrderedDict()
    for name, tensor in state["model"].items():
        for old, new in names.items():
            name = name.replace(old, new)
        model[name] = tensor
    state["model"] = model


def numbered_norms(state: State) -> None:
    renamed(state, {"encoder_attn_layer_norm": "layer_norms.1", "self_attn_layer_norm": "layer_norms.0"})
    names = {f"encoder.layers.{n}.final_layer_norm": f"encoder.layers.{n}.layer_norms.1" for n in range(2)}
    renamed(state, names | {"final_layer_norm": "layer_norms.2"})


def first_version(state: State) -> None:
    for stack, version in (("encoder", 1), ("decoder", 2)):
        state["model"][f"{stack}.version"] = torch.Tensor([version])
        for part in ("weight", "bias"):
            state["model"].pop(f"{stack}.layer_norm.{part}", None)


def no_version(state: State) -> None:
    first_version(state)
    del state["model"]["encoder.version"], state["model"]["decoder.version"]


def sinusoids(state: State) -> None:
    state["model"]["encoder.embed_positions._float_tensor"] = torch.zeros(1)
    state["model"]["decoder.embed_positions.weights"] = torch.zeros(42, 16)


def no_output(state: State) -> None:
    del state["model"]["decoder.output_projection.weight"]


OLD = {
    "numbered norms": ({}, numbered_norms),
    "no norm after the last layer": (
        {"encoder_normalize_before": True, "decoder_normalize_before": True},
        first_version,
    ),
    "no version": ({"encoder_normalize_before": True, "decoder_normalize_before": True}, no_version),
    "sinusoids": ({}, sinusoids),
    "embed_out": ({}, lambda state: renamed(state, {"output_projection.weight": "embed_out"})),
    "shared table named once": ({"share_decoder_input_output_embed": True}, no_output),
}


@pytest.mark.parametrize("name", OLD)
def test_files_of_earlier_versions(build: Build, tmp_path: Path, name: str) -> None:
    options, change = OLD[name]
    state = fairseq_files.load(build(**options))
    change(state)
    torch.save(state, tmp_path / "old.pt")
    assert loads_in_fairseq(tmp_path / "old.pt")
    checkpoint = read(tmp_path / "old.pt")
    assert checkpoint.architecture.count() == 24
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("cross.0.0")]), checkpoint).save(tmp_path / "cut.pt")
    assert list(read(tmp_path / "cut.pt").model_tensors) == list(state["model"])


def test_a_norm_that_fairseq_would_pass_over_is_refused(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(build(encoder_normalize_before=True, decoder_normalize_before=True))
    state["model"]["decoder.version"] = torch.Tensor([2])
    torch.save(state, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"decoder\.layer_norm\.weight is no part of such a model"):
        load(tmp_path / "old.pt")


def test_packed_matrices_stay_packed(build: Build, tmp_path: Path) -> None:
    path = build(stored={"packed": True, "without_optimizer": True})
    assert loads_in_fairseq(path)
    checkpoint = read(path)
    axes, width = checkpoint.unit_axes[GroupId("cross", 1)], checkpoint.architecture[GroupId("cross", 1)].head_dim
    assert [(axis.tensor.rpartition(".")[2], axis.axis, axis.width, axis.blocks, axis.output) for axis in axes] == [
        ("in_proj_weight", 0, width, 3, False),
        ("in_proj_bias", 0, width, 3, False),
        ("weight", 1, width, 1, True),
    ]
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("cross.1.2")]), checkpoint).save(tmp_path / "cut.pt")
    before, after = fairseq_files.load(path)["model"], fairseq_files.load(tmp_path / "cut.pt")["model"]
    name = "decoder.layers.1.encoder_attn.in_proj_weight"
    q, k, v = before[name].chunk(3)
    kept = [*range(8), *range(12, 16)]
    assert torch.equal(after[name], torch.cat([q[kept], k[kept], v[kept]]))
    fresh = read(tmp_path / "cut.pt").reinitialized(1)
    assert fresh.model_tensors[name].shape == (36, 16)


def test_norm_former_with_settings_in_a_namespace(build: Build, tmp_path: Path) -> None:
    path = build(arch="transformer_lm", scale_attn=True, scale_fc=True, scale_resids=True)
    state = fairseq_files.load(path)
    assert read(path).settings["scale_attn"] is False
    with fairseq_files.on_cpu():
        cfg = fairseq_files.fairseq_config(path.parent / "data-bin", arch="transformer_lm")
        task, _, _ = fairseq_files.fairseq_model(cfg)
        settings = Namespace(**state["cfg"]["model"])
        state["model"] = task.build_model(settings).state_dict()
    state["cfg"]["model"] = settings
    torch.save(state, tmp_path / "normformer.pt")
    checkpoint = read(tmp_path / "normformer.pt")
    assert [checkpoint.settings[name] for name in ("scale_attn", "scale_fc", "scale_resids")] == [True] * 3
    assert checkpoint.part_of("decoder.layers.1.w_resid") == "norms"
    fresh = checkpoint.reinitialized(0)
    assert torch.equal(fresh.model_tensors["decoder.layers.0.w_resid"], torch.ones(16))


def test_settings_of_other_parts(build: Build) -> None:
    for stored in ({}, {"cfg": "omegaconf"}, {"cfg": "namespace"}, {"cfg": "args"}):
        checkpoint = read(build(stored=stored, label_smoothing=0.1, criterion="label_smoothed_cross_entropy"))
        assert checkpoint.section("criterion")["label_smoothing"] == 0.1
        assert checkpoint.section("task")["source_lang"] == "xx"
        assert checkpoint.settings["max_source_positions"] == 40
        with pytest.raises(TypeError):
            checkpoint.settings["dropout"] = 0  # type: ignore[index]


def test_shared_tables_are_parameters_once(tiny: Path) -> None:
    checkpoint = read(tiny)
    assert checkpoint.aliases == {
        "decoder.embed_tokens.weight": "encoder.embed_tokens.weight",
        "decoder.output_projection.weight": "encoder.embed_tokens.weight",
    }
    assert not set(checkpoint.aliases) & set(checkpoint.parameters)
    assert checkpoint.part_of("decoder.output_projection.weight") == "embeddings"


def test_tensors_are_mapped_not_copied(tiny: Path) -> None:
    """A checkpoint in memory is the file: two loads give equal tensors without owning a byte of them."""
    checkpoint = read(tiny)
    table = checkpoint.model_tensors["encoder.embed_tokens.weight"]
    mapped = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()
              if line.endswith(str(tiny))]  # fmt: skip
    assert any(int(start, 16) <= table.data_ptr() < int(end, 16) for start, end in mapped)
