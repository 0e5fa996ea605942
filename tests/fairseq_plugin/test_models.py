"""Models that `nmtprune` and `nmtprune_lm` build, against fairseq's own."""

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import nmtprune.fairseq_plugin  # noqa: F401  # registers the models
from nmtprune.errors import CheckpointError
from nmtprune.fairseq_plugin.prunable_attention import PrunableAttention
from nmtprune.fairseq_plugin.surgery import attention_modules
from tests.support import fairseq_files

FULL = {"encoder": [4, 4], "decoder": [4, 4], "cross": [4, 4]}
RAGGED = {"encoder": [3, 0], "decoder": [1, 4], "cross": [0, 2]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fairseq_files.data_bin(tmp_path_factory.mktemp("data") / "data-bin")


@pytest.fixture(scope="module")
def lm_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fairseq_files.data_bin(tmp_path_factory.mktemp("lm") / "data-bin", language_model=True)


def slim_settings(model: Any, heads: Mapping[str, list[int]], **changes: Any) -> Namespace:
    """Settings of a checkpoint whose modules have these heads, from those of a stock model."""
    from omegaconf import OmegaConf

    given = dict(vars(model)) if isinstance(model, Namespace) else OmegaConf.to_container(model, resolve=True)
    base = given["_name"]
    name = "nmtprune_lm" if base.startswith("transformer_lm") else "nmtprune"
    fields = {
        "arch": name,
        "_name": name,
        "nmtprune_base_arch": base,
        "nmtprune_heads": json.dumps(heads),
        "encoder_head_dim": 4,
        "decoder_head_dim": 4,
    }
    return Namespace(**{**given, **fields, **changes})


def build(data: Path, slim: Mapping[str, list[int]] = FULL, changes: Any = None, **options: Any) -> Any:
    """Task, stock model and the model of those settings with other heads."""
    cfg = fairseq_files.fairseq_config(data, **({"arch": "transformer"} | options))
    task, stock, _ = fairseq_files.fairseq_model(cfg)
    return task, stock, task.build_model(slim_settings(cfg.model, slim, **(changes or {})))


def batch(task: Any) -> Any:
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return dataset.collater([dataset[index] for index in range(5)])


VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "pre-norm, shared tables": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_all_embeddings": True,
    },
    "encoder wider, deeper and with other heads": {"width": (24, 16), "layers": (3, 2), "heads": (6, 4)},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True},
    "layer drop": {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5},
    "checkpointed activations": {"checkpoint_activations": True},
    "attention dropout": {"attention_dropout": 0.3, "dropout": 0.2},
    "alignment": {"arch": "transformer_align", "alignment_layer": 1},
    "no cross-attention": {"no_cross_attention": True},
    "keys of encoder and decoder together": {"no_cross_attention": True, "cross_self_attention": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_full_heads_compute_what_fairseq_computes(data: Path, variant: str) -> None:
    options = VARIANTS[variant]
    encoder_layers, decoder_layers = options.get("layers", (2, 2))
    encoder_heads, decoder_heads = options.get("heads", (4, 4))
    heads = {
        "encoder": [encoder_heads] * encoder_layers,
        "decoder": [decoder_heads] * decoder_layers,
        "cross": [] if options.get("no_cross_attention") else [decoder_heads] * decoder_layers,
    }
    task, stock, own = build(data, heads, **options)
    assert type(own) is type(stock)
    assert all(isinstance(getattr(holder, name), PrunableAttention) for _, holder, name in attention_modules(own))
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in stock.named_parameters()]
    own.load_state_dict(stock.state_dict())
    sample = batch(task)
    results = []
    for model in (stock, own):
        torch.manual_seed(5)  # the same units are dropped
        logits, extra = model.train()(**sample["net_input"])
        logits.logsumexp(dim=-1).sum().backward()
        gradients = [torch.zeros(1) if p.grad is None else p.grad for p in model.parameters()]
        attention = [] if extra["attn"][0] is None else [extra["attn"][0]]
        results.append([logits, *attention, model.eval()(**sample["net_input"])[0], *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


LM_VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gpt": {"arch": "transformer_lm_gpt"},
    "adaptive": {
        "arch": "transformer_lm_wiki103",
        "adaptive_input_cutoff": "8,16",
        "adaptive_softmax_cutoff": "8,16",
        "criterion": "adaptive_loss",
    },
}


@pytest.mark.parametrize("container", ["namespace", "omegaconf"])
@pytest.mark.parametrize("variant", LM_VARIANTS)
def test_full_heads_of_language_models(lm_data: Path, variant: str, container: str) -> None:
    from omegaconf import OmegaConf

    cfg = fairseq_files.fairseq_config(lm_data, **({"arch": "transformer_lm"} | LM_VARIANTS[variant]))
    task, stock, _ = fairseq_files.fairseq_model(cfg)
    settings: Any = slim_settings(cfg.model, {"encoder": [], "decoder": [4, 4], "cross": []})
    if container == "omegaconf":
        settings = OmegaConf.create(vars(settings))
        OmegaConf.set_struct(settings, True)
    own = task.build_model(settings)
    own.load_state_dict(stock.state_dict())
    tokens = torch.randint(4, 20, (3, 7))
    expected, _ = stock.eval()(tokens)
    found, _ = own.eval()(tokens)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_ragged_heads_have_ragged_shapes_and_train(data: Path) -> None:
    task, _, own = build(data, RAGGED)
    shapes = {
        str(id): tuple(getattr(holder, name).out_proj.weight.shape) for id, holder, name in attention_modules(own)
    }
    assert shapes == {
        "encoder.0": (16, 12), "encoder.1": (16, 0), "decoder.0": (16, 4), "decoder.1": (16, 16),
        "cross.0": (16, 0), "cross.1": (16, 8),
    }  # fmt: skip
    logits, _ = own(**batch(task)["net_input"])
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in own.parameters())


@pytest.mark.parametrize("heads", [RAGGED, {"encoder": [0, 0], "decoder": [0, 0], "cross": [0, 0]}])
def test_step_by_step_equals_teacher_forced(data: Path, heads: Mapping[str, list[int]]) -> None:
    task, _, own = build(data, heads)
    own.eval()
    net_input = batch(task)["net_input"]
    expected, _ = own(**net_input)
    encoder_out = own.encoder(net_input["src_tokens"], net_input["src_lengths"])
    state: dict[str, Any] = {}
    tokens = net_input["prev_output_tokens"]
    steps = [own.decoder(tokens[:, : n + 1], encoder_out, incremental_state=state)[0] for n in range(tokens.size(1))]
    visible = tokens.ne(task.target_dictionary.pad())
    torch.testing.assert_close(torch.cat(steps, dim=1)[visible], expected[visible], rtol=1e-5, atol=1e-5)


def test_heads_need_not_divide_the_width(data: Path) -> None:
    heads = {"encoder": [3, 3], "decoder": [5, 5], "cross": [5, 5]}
    _, _, own = build(data, heads, {"encoder_attention_heads": 3, "decoder_attention_heads": 5, "encoder_head_dim": 7})
    assert own.encoder.layers[0].self_attn.q_proj.weight.shape == (21, 16)
    assert own.decoder.layers[1].encoder_attn.q_proj.weight.shape == (20, 16)


def test_layers_to_keep_select_heads(data: Path) -> None:
    cfg = fairseq_files.fairseq_config(data, arch="transformer", layers=(3, 2))
    task, _, _ = fairseq_files.fairseq_model(cfg)
    heads = {"encoder": [3, 0, 2], "decoder": [1, 4], "cross": [0, 2]}
    whole = task.build_model(slim_settings(cfg.model, heads))
    settings = slim_settings(cfg.model, heads, encoder_layers_to_keep="0,2", decoder_layers_to_keep="0,1")
    part = task.build_model(settings)
    assert json.loads(settings.nmtprune_heads)["encoder"] == [3, 2]
    part.load_state_dict(whole.state_dict(), model_cfg=settings)
    assert torch.equal(part.encoder.layers[1].self_attn.q_proj.weight, whole.encoder.layers[2].self_attn.q_proj.weight)


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"nmtprune_heads": "{"}, "settings of the model: nmtprune_heads is no JSON text (Expecting property name enclosed"
     " in double quotes: line 1 column 2 (char 1))"),
    ({"nmtprune_heads": '{"encoder": [1, 2]}'},
     "settings of the model: nmtprune_heads must be an object with the keys encoder, decoder, cross"),
    ({"nmtprune_heads": '{"encoder": [-1, 2], "decoder": 3, "cross": [1, true]}'},
     "settings of the model: nmtprune_heads: encoder must be a list of head counts, one a layer; nmtprune_heads:"
     " decoder must be a list of head counts, one a layer; nmtprune_heads: cross must be a list of head counts, one a"
     " layer"),
    ({"nmtprune_heads": '{"encoder": [1], "decoder": [1, 2], "cross": [1, 2, 3]}'},
     "settings of the model: nmtprune_heads lists 1 encoder modules, the model has 2; nmtprune_heads lists 3 cross"
     " modules, the model has 2"),
    ({"encoder_head_dim": None, "decoder_head_dim": 0}, "settings of the model: encoder_head_dim is None, not a width"
     " of heads; decoder_head_dim is 0, not a width of heads"),
    ({"nmtprune_base_arch": "fconv"}, "settings of the model: unsupported: nmtprune_base_arch is 'fconv', no"
     " architecture that a model of 'nmtprune' can be cut from"),
    ({"quant_noise_pq": 0.1}, "settings of the model: unsupported: quant_noise_pq 0.1 (quantization noise)"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), FAULTS)
def test_settings_that_do_not_fit_are_one_line(data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        build(data, FULL, changes)
    assert str(caught.value) == message


def test_weights_that_do_not_fit_are_one_line(data: Path) -> None:
    _, stock, own = build(data, FULL | {"encoder": [4, 3]})
    with pytest.raises(CheckpointError) as caught:
        own.load_state_dict(stock.state_dict())
    where = "encoder.layers.1.self_attn."
    assert str(caught.value) == "weights and settings are of different models: " + "; ".join(
        f"{where}{name} is {given}, 3 heads of 4 make it {own_shape}"
        for name, given, own_shape in (
            ("k_proj.weight", "16 x 16", "12 x 16"), ("k_proj.bias", "16", "12"),
            ("v_proj.weight", "16 x 16", "12 x 16"), ("v_proj.bias", "16", "12"),
            ("q_proj.weight", "16 x 16", "12 x 16"), ("q_proj.bias", "16", "12"),
            ("out_proj.weight", "16 x 16", "16 x 12"),
        )
    )  # fmt: skip


def test_settings_of_a_checkpoint_never_start_a_search_for_other_checkpoints(data: Path, tmp_path: Path) -> None:
    cfg = fairseq_files.fairseq_config(data, arch="transformer")
    task, _, _ = fairseq_files.fairseq_model(cfg)
    settings = slim_settings(cfg.model, FULL, restore_file=str(tmp_path / "other.pt"))
    del settings.nmtprune_heads
    with pytest.raises(CheckpointError, match="nmtprune_heads is no JSON text"):
        task.build_model(settings)


def test_registering_twice_is_no_error() -> None:
    from fairseq.models import ARCH_MODEL_REGISTRY

    from nmtprune.fairseq_plugin import models

    before = dict(ARCH_MODEL_REGISTRY)
    models.register_architectures()
    assert {"nmtprune", "nmtprune_lm"} <= before.keys() and before == ARCH_MODEL_REGISTRY
