"""A tiny checkpoint as fairseq's own model and as the native one, and batches for both."""

from argparse import Namespace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.formats.fairseq.architectures import complete
from nmtprune.formats.fairseq.network import describe_network, native_tensors
from nmtprune.model import Transformer
from tests.support import fairseq_files

PRE_NORM = {"encoder_normalize_before": True, "decoder_normalize_before": True}
SHARED = {"share_all_embeddings": True}
ADAPTIVE_LM = {
    "arch": "transformer_lm",
    "adaptive_input": True,
    "adaptive_input_cutoff": "8,16",
    "adaptive_softmax_cutoff": "8,16",
    "adaptive_input_factor": 2,
    "adaptive_softmax_factor": 2,
}
NORMFORMER = {
    "arch": "transformer_lm", "decoder_normalize_before": True,
    "scale_attn": True, "scale_fc": True, "scale_resids": True,
}  # fmt: skip
"""Options of a language model that `as_normformer` completes."""

VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm, separate embeddings": {"joined": False},
    "pre-norm, all embeddings shared": {**PRE_NORM, **SHARED},
    "pre-norm encoder, post-norm decoder": {"encoder_normalize_before": True},
    "learned positions, embedding norm": {
        "encoder_learned_pos": True,
        "decoder_learned_pos": True,
        "layernorm_embedding": True,
    },
    "no embedding scale, gelu": {"no_scale_embedding": True, "activation_fn": "gelu"},
    "gelu_accurate": {"activation_fn": "gelu_accurate", **PRE_NORM},
    "gelu_fast": {"activation_fn": "gelu_fast"},
    "tanh, shared decoder table": {"activation_fn": "tanh", "share_decoder_input_output_embed": True, "joined": False},
    "linear, merged tables": {"activation_fn": "linear", "merge_src_tgt_embed": True},
    "encoder and decoder of other sizes": {
        "heads": (4, 2), "layers": (1, 3), "width": (16, 24), "ffn": (24, 40), "joined": False,
    },
    "odd width, no positions in one": {"heads": 3, "width": 15, "decoder_learned_pos": True},
    "no positions": {"no_token_positional_embeddings": True},
    "no cross-attention": {"no_cross_attention": True},
    "joint attention alone": {"cross_self_attention": True, "no_cross_attention": True, **PRE_NORM},
    "joint and cross-attention": {"cross_self_attention": True},
    "adaptive softmax": {"adaptive_softmax_cutoff": "8,16", "joined": False},
    "output width of its own": {"decoder_output_dim": 20},
    "LayerDrop": {"encoder_layerdrop": 0.5, "decoder_layerdrop": 0.5, "layers": 3},
    "language model, post-norm": {"arch": "transformer_lm"},
    "language model, pre-norm": {"arch": "transformer_lm_gpt"},
    "language model without final norm": {"arch": "transformer_lm_gpt2_tiny", "no_decoder_final_norm": True},
    "language model, learned positions, shared": {"arch": "transformer_lm_gpt3_small"},
    "language model, projections": {"arch": "transformer_lm_big", "decoder_input_dim": 12, "decoder_output_dim": 20},
    "adaptive language model": ADAPTIVE_LM,
    "adaptive language model, tied": {**ADAPTIVE_LM, "tie_adaptive_weights": True},
    "adaptive language model, all tied": {
        **ADAPTIVE_LM, "tie_adaptive_weights": True, "tie_adaptive_proj": True, "arch": "transformer_lm_wiki103",
    },
    "adaptive language model, tied in one width": {
        **ADAPTIVE_LM, "tie_adaptive_weights": True, "tie_adaptive_proj": True,
        "adaptive_input_factor": 1, "adaptive_softmax_factor": 1,
    },
    "adaptive language model, projections": {
        **ADAPTIVE_LM, "decoder_input_dim": 24, "decoder_output_dim": 20,
    },
}  # fmt: skip
"""Options of `fairseq_files.fairseq_checkpoint` for everything that the native model supports."""


def randomized(path: Path, seed: int = 1) -> Path:
    """A copy of a checkpoint, beside it, whose biases and norms are no longer the zeros and ones that they begin as."""
    copy = path.with_name(f"randomized-{seed}.pt")
    if not copy.exists():
        state = fairseq_files.load(path)
        generator = torch.Generator().manual_seed(seed)
        done: dict[int, Tensor] = {}
        for name, tensor in state["model"].items():
            if not name.endswith(("version", "_float_tensor")):
                noise = torch.rand(tensor.shape, generator=generator) * 0.6 - 0.3
                state["model"][name] = done.setdefault(tensor.data_ptr(), tensor + noise.to(tensor))
        torch.save(state, copy)
    return copy


def as_normformer(path: Path) -> Path:
    """A copy of a checkpoint, beside it, whose decoder has what NormFormer adds.

    fairseq's own language models are saved with these settings, but without the tensors.
    """
    state = fairseq_files.load(path)
    width, neurons = (state["model"]["decoder.layers.0.fc2.weight"].shape[axis] for axis in (0, 1))
    for layer in {name.split(".")[2] for name in state["model"] if name.startswith("decoder.layers.")}:
        prefix = f"decoder.layers.{layer}"
        sizes = {"attn_ln.weight": width, "attn_ln.bias": width, "w_resid": width}
        sizes |= {"ffn_layernorm.weight": neurons, "ffn_layernorm.bias": neurons}
        for name, size in sizes.items():
            state["model"][f"{prefix}.{name}"] = torch.zeros(size) if name.endswith("bias") else torch.ones(size)
    copy = path.with_name("normformer.pt")
    torch.save(state, copy)
    return copy


def fairseq_model(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The model that fairseq makes of a checkpoint, in evaluation mode."""
    from fairseq import checkpoint_utils

    with mock.patch.dict("os.environ", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1"):
        beside = path.parent / "data-bin"
        overrides = {"data": str(beside)} if beside.exists() else {}
        models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return models[0].eval().to(dtype)


def architecture(settings: dict[str, Any], tensors: dict[str, Tensor]) -> Architecture:
    """The attention modules of an unpruned fairseq model."""
    modules = []
    for kind, stack, name in (("encoder", "encoder", "self_attn"), ("decoder", "decoder", "self_attn"),
                              ("cross", "decoder", "encoder_attn")):  # fmt: skip
        for layer in range(64):
            if f"{stack}.layers.{layer}.{name}.out_proj.weight" in tensors:
                heads = settings[f"{stack}_attention_heads"]
                modules.append(AttentionModule(GroupId(kind, layer), heads, settings[f"{stack}_embed_dim"] // heads))
    return Architecture(tuple(modules))


def settings_of(path: Path) -> dict[str, Any]:
    """The model's settings in a checkpoint, completed."""
    state = fairseq_files.load(path)
    holder = state["cfg"]["model"] if state.get("cfg") is not None else state["args"]
    given = holder if isinstance(holder, dict) else dict(getattr(holder, "_content", None) or vars(holder))
    given = {name: getattr(value, "_val", value) for name, value in given.items()}
    return complete(given.get("_name") or given["arch"], given)


@cache
def native_model(path: Path, dtype: torch.dtype | None = None) -> Transformer:
    """The native model of a checkpoint."""
    return native_of(settings_of(path), fairseq_files.load(path)["model"], dtype)


def native_of(settings: dict[str, Any], tensors: dict[str, Tensor], dtype: torch.dtype | None = None) -> Transformer:
    """The native model of an unpruned fairseq model's settings and tensors."""
    found = describe_network(settings, tensors)
    return Transformer(found, architecture(settings, tensors), native_tensors(settings, tensors), dtype=dtype)


def normformer(build: fairseq_files.Build, folder: Path) -> Path:
    """A language model of NormFormer, which fairseq makes of settings in a namespace alone."""
    path = build(arch="transformer_lm", scale_attn=True, scale_fc=True, scale_resids=True)
    state = fairseq_files.load(path)
    with fairseq_files.on_cpu():
        cfg = fairseq_files.fairseq_config(path.parent / "data-bin", arch="transformer_lm")
        task, _, _ = fairseq_files.fairseq_model(cfg)
        settings = Namespace(**state["cfg"]["model"])
        state["model"] = task.build_model(settings).state_dict()
    state["cfg"]["model"] = settings
    torch.save(state, folder / "normformer.pt")
    return folder / "normformer.pt"


def batch(model: Transformer, seed: int = 1) -> tuple[Tensor | None, Tensor]:
    """Source [B, S], padded on the left, and target [B, T], padded on the right: five sentences of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    source, target = [], []
    for source_length, target_length in ((7, 4), (3, 9), (1, 1), (9, 6), (5, 9)):
        words = torch.randint(4, max(5, model.words[0]), (source_length,), generator=generator)
        source.append(F.pad(torch.cat([words, torch.tensor([2])]), (9 - source_length, 0), value=1))
        words = torch.randint(4, model.words[1], (target_length,), generator=generator)
        target.append(F.pad(torch.cat([torch.tensor([2]), words]), (0, 9 - target_length), value=1))
    return (None if model.encoder is None else torch.stack(source)), torch.stack(target)


def fairseq_scores(model: Any, source: Tensor | None, target: Tensor) -> tuple[Tensor | None, Tensor]:
    """Encoder states [B, S, D] and scores [B, T, V]: logits, or log-probabilities of an adaptive softmax."""
    encoded = None if source is None else model.encoder(source, src_lengths=None)
    output = model.decoder(target, encoder_out=encoded)
    scores = output[0] if model.decoder.adaptive_softmax is None else model.get_normalized_probs(output, log_probs=True)
    return (None if encoded is None else encoded["encoder_out"][0].transpose(0, 1)), scores


def in_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fairseq compute softmax and gelu in the type of the model; it takes single precision for both."""
    import fairseq.utils

    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: F.softmax(x, dim))
    choose = fairseq.utils.get_activation_fn
    monkeypatch.setattr(
        fairseq.utils, "get_activation_fn", lambda activation: F.gelu if activation == "gelu" else choose(activation)
    )
