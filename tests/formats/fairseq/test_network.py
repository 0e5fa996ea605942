"""Descriptions of fairseq models and native names of their tensors, also of files that old versions wrote."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune.errors import CheckpointError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.formats.fairseq.architectures import complete
from nmtprune.formats.fairseq.network import describe_network, native_tensors
from nmtprune.model import Transformer
from nmtprune.network import Network, Positions, Stack
from tests.support import fairseq_files, networks
from tests.support.fairseq_files import Build

Tensors = dict[str, Tensor]


def pair(path: Path) -> tuple[dict[str, Any], Tensors]:
    return networks.settings_of(path), dict(fairseq_files.load(path)["model"])


def scores(settings: dict[str, Any], tensors: Tensors, architecture: Any) -> Tensor:
    model = Transformer(describe_network(settings, tensors), architecture, native_tensors(settings, tensors))
    with torch.inference_mode():
        return model(*networks.batch(model))


def test_description_of_a_translation_model(build: Build) -> None:
    settings, tensors = pair(build(encoder_normalize_before=True, decoder_learned_pos=True, width=(16, 24)))
    assert describe_network(settings, tensors) == Network(
        encoder=Stack(2, "n", "a", True, 4.0, 40, positions=Positions(learned=False, first=2)),
        decoder=Stack(2, "", "an", False, math.sqrt(24), 40, positions=Positions(learned=True, first=2)),
        activation="relu",
        padding=1,
        eos=2,
    )


def test_description_of_an_adaptive_language_model(build: Build) -> None:
    settings, tensors = pair(build(**networks.VARIANTS["adaptive language model, projections"]))
    assert describe_network(settings, tensors) == Network(
        encoder=None,
        decoder=Stack(2, "", "an", False, 4.0, 32, embedding_bands=3, positions=Positions(False, 2)),
        activation="relu",
        padding=1,
        eos=2,
        output_projection=True,
        output_bands=3,
    )


def test_nothing_is_copied(build: Build) -> None:
    settings, tensors = pair(build(**networks.PRE_NORM, **networks.SHARED))
    stored = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    native = native_tensors(settings, tensors)
    assert {tensor.untyped_storage().data_ptr() for tensor in native.values()} <= stored
    assert native["output.weight"] is native["encoder.embedding.tokens.weight"]


def packed(tensors: Tensors) -> Tensors:
    found: Tensors = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"(.*_attn)\.([qkv])_proj\.(weight|bias)", name)
        if match is None:
            found[name] = tensor
        elif match[2] == "q":
            parts = [tensors[f"{match[1]}.{part}_proj.{match[3]}"] for part in "qkv"]
            found[f"{match[1]}.in_proj_{match[3]}"] = torch.cat(parts)
    return found


def numbered_norms(tensors: Tensors) -> Tensors:
    names = {
        "encoder": {"self_attn_layer_norm": 0, "final_layer_norm": 1},
        "decoder": {"self_attn_layer_norm": 0, "encoder_attn_layer_norm": 1, "final_layer_norm": 2},
    }
    found: Tensors = {}
    for name, tensor in tensors.items():
        match = re.fullmatch(r"((encoder|decoder)\.layers\.\d+)\.(\w+_layer_norm)\.(weight|bias)", name)
        found[f"{match[1]}.layer_norms.{names[match[2]][match[3]]}.{match[4]}" if match else name] = tensor
    return found


def without_output(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "decoder.output_projection.weight"}


def with_embed_out(tensors: Tensors) -> Tensors:
    return {name.replace("output_projection.weight", "embed_out"): tensor for name, tensor in tensors.items()}


def with_old_sinusoids(tensors: Tensors) -> Tensors:
    old = {
        "encoder.embed_positions._float_tensor": torch.zeros(1),
        "decoder.embed_positions.weights": torch.ones(9, 16),
    }
    return {**tensors, **old}


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({}, packed),
        (networks.PRE_NORM, numbered_norms),
        (networks.SHARED, without_output),
        ({"share_decoder_input_output_embed": True}, without_output),
        ({"joined": False}, with_embed_out),
        ({}, with_old_sinusoids),
    ],
)
def test_old_files_are_what_they_became(
    build: Build, options: dict[str, Any], change: Callable[[Tensors], Tensors]
) -> None:
    settings, tensors = pair(networks.randomized(build(**options)))
    architecture = networks.architecture(settings, tensors)
    old = change(tensors)
    assert list(old) != list(tensors)
    assert torch.equal(scores(settings, old, architecture), scores(settings, tensors, architecture))


def test_files_before_the_final_norm_are_run_as_fairseq_runs_them(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(networks.randomized(build(**networks.PRE_NORM)))
    for side in ("encoder", "decoder"):
        state["model"][f"{side}.version"] = torch.tensor([1.0])
        for kind in ("weight", "bias"):
            del state["model"][f"{side}.layer_norm.{kind}"]
    path = tmp_path / "old.pt"
    torch.save(state, path)
    model, reference = networks.native_model(path), networks.fairseq_model(path)
    source, target = networks.batch(model)
    with torch.inference_mode():
        expected = networks.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_layers_chosen_by_the_settings_are_those_that_fairseq_loads(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(networks.randomized(build(layers=(4, 3))))
    state["cfg"]["model"].encoder_layers_to_keep, state["cfg"]["model"].decoder_layers_to_keep = "0,3", "1"
    path = tmp_path / "chosen.pt"
    torch.save(state, path)
    checkpoint = FairseqCheckpoint.load(path)
    found = checkpoint.network()
    assert found.encoder is not None
    assert (found.encoder.layers, found.decoder.layers) == (2, 1)
    model = Transformer(found, checkpoint.architecture, checkpoint.native_tensors())
    source, target = networks.batch(model)
    with torch.inference_mode():
        expected = networks.fairseq_scores(networks.fairseq_model(path), source, target)[1]
        assert float((model(source, target) - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_shared_tables_that_differ_in_the_file_are_the_output_layers(build: Build, tmp_path: Path) -> None:
    state = fairseq_files.load(networks.randomized(build(**networks.SHARED)))
    table = state["model"]["decoder.output_projection.weight"]
    state["model"]["encoder.embed_tokens.weight"] = table + 1
    state["model"]["decoder.embed_tokens.weight"] = table - 1
    path = tmp_path / "unequal.pt"
    torch.save(state, path)
    model, reference = networks.native_model(path), networks.fairseq_model(path)
    source, target = networks.batch(model)
    with torch.inference_mode():
        expected = networks.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"quant_noise_pq": 0.1}, "quantization noise (quant_noise_pq = 0.1)"),
        ({"base_layers": 1}, "BASE layers (base_layers = 1)"),
        ({"character_embeddings": True}, "character embeddings (character_embeddings = True)"),
        ({"decoder_xformers_att_config": "{}"}, "xformers attention (decoder_xformers_att_config = {})"),
        (
            {"activation_fn": "mish"},
            "activation 'mish' (known: relu, relu_squared, gelu, gelu_fast, gelu_accurate, tanh, linear, swish, silu)",
        ),
    ],
)
def test_settings_that_are_refused(build: Build, settings: dict[str, Any], fault: str) -> None:
    given, tensors = pair(build())
    with pytest.raises(CheckpointError) as caught:
        describe_network(given | settings, tensors)
    assert str(caught.value) == f"the native model cannot run this checkpoint: {fault}"


def test_every_reason_is_named_at_once(build: Build) -> None:
    settings, tensors = pair(build(**networks.PRE_NORM))
    del tensors["decoder.layers.1.fc1.weight"]
    tensors |= {"decoder.layers.0.c_attn": torch.ones(4), "encoder.version": torch.ones(1)}
    with pytest.raises(CheckpointError) as caught:
        describe_network(settings | {"quant_noise_scalar": 0.5}, tensors)
    assert caught.value.faults == (
        "quantization noise (quant_noise_scalar = 0.5)",
        "tensors that it has no place for: decoder.layers.0.c_attn",
        "encoder.layer_norm.weight in a file of encoder version 1, which has no such norm",
        "decoder.layers.1 has no fc1.weight",
    )
    assert str(caught.value) == "the native model cannot run this checkpoint: " + "; ".join(caught.value.faults)


def test_joint_attention_over_two_widths_is_refused(build: Build) -> None:
    settings, tensors = pair(build(width=(16, 24)))
    with pytest.raises(CheckpointError) as caught:
        describe_network(settings | {"cross_self_attention": True}, tensors)
    assert caught.value.faults == ("cross_self_attention with an encoder of width 16 and a decoder of width 24",)


def test_settings_of_an_old_language_model(build: Build) -> None:
    settings, tensors = pair(build(arch="transformer_lm_gpt"))
    assert describe_network(settings, tensors).decoder.final_norm
    old = complete("transformer_lm_gpt", {**settings, "no_tie_adaptive_proj": True})
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("decoder.layer_norm.")}
    assert not describe_network(old, without).decoder.final_norm
