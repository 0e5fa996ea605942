"""Comparison of everything in two checkpoint files, and the variants of checkpoints that the tests go through."""

from argparse import Namespace
from typing import Any

import torch

LM = {"arch": "transformer_lm"}
ADAPTIVE = {
    **LM,
    "adaptive_input": True,
    "adaptive_input_cutoff": "6,16",
    "adaptive_input_factor": 2,
    "adaptive_softmax_cutoff": "6,16",
    "adaptive_softmax_factor": 2,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm, separate tables": {"updates": 2, "joined": False},
    "pre-norm, shared tables": {
        "updates": 2,
        "share_all_embeddings": True,
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
    },
    "shared output table": {"updates": 1, "share_decoder_input_output_embed": True, "joined": False},
    "merged tables": {"merge_src_tgt_embed": True},
    "other depth, heads and width": {"updates": 1, "heads": (2, 3), "layers": (3, 1), "width": (16, 24), "ffn": (9, 7)},
    "learned positions": {"encoder_learned_pos": True, "decoder_learned_pos": True},
    "no positions": {"no_token_positional_embeddings": True},
    "norm of embeddings": {"layernorm_embedding": True, "activation_fn": "gelu", "no_scale_embedding": True},
    "no cross-attention": {"no_cross_attention": True},
    "joint attention": {"cross_self_attention": True, "no_cross_attention": True},
    "narrow output": {"decoder_output_dim": 12},
    "adaptive softmax": {"adaptive_softmax_cutoff": "6,16", "updates": 1},
    "layerdrop": {"encoder_layerdrop": 0.2, "decoder_layerdrop": 0.2, "updates": 2},
    "align": {"arch": "transformer_align"},
    "big_t2t": {"arch": "transformer_wmt_en_de_big_t2t", "layers": 1},
    "fp16, one flat vector": {"fp16": True, "updates": 2},
    "fp16, memory efficient": {"memory_efficient_fp16": True, "updates": 2},
    "fp16, not flat": {"fp16": True, "fp16_no_flatten_grads": True, "updates": 2},
    "bf16": {"bf16": True, "updates": 2},
    "moving average": {"store_ema": True, "ema_decay": 0.5, "updates": 2},
    "moving average in fp32": {"store_ema": True, "ema_fp32": True, "fp16": True, "updates": 2},
    "momentum": {"optimizer": "nag", "updates": 2},
    "adagrad": {"optimizer": "adagrad", "updates": 2},
    "adamax": {"optimizer": "adamax", "updates": 2},
    "adafactor": {"optimizer": "adafactor", "updates": 2},
    "lm": {**LM, "updates": 2},
    "lm, shared table": {**LM, "share_decoder_input_output_embed": True, "updates": 1},
    "lm, projections": {**LM, "decoder_input_dim": 8, "decoder_output_dim": 12},
    "lm, adaptive": {**ADAPTIVE, "updates": 1},
    "lm, adaptive, tied": {**ADAPTIVE, "tie_adaptive_weights": True, "updates": 1},
    "lm, adaptive, all tied": {**ADAPTIVE, "tie_adaptive_weights": True, "tie_adaptive_proj": True, "updates": 1},
    "lm, adaptive, narrow": {**ADAPTIVE, "decoder_input_dim": 12, "decoder_output_dim": 12},
    "lm, gpt": {"arch": "transformer_lm_gpt", "decoder_learned_pos": True},
    "lm, gpt3": {"arch": "transformer_lm_gpt3_small", "ffn": 24},
    "lm, NormFormer": {**LM, "scale_attn": True, "scale_fc": True, "scale_resids": True, "updates": 1},
    "omegaconf": {"stored": {"cfg": "omegaconf"}, "updates": 1},
    "lm, omegaconf": {**LM, "stored": {"cfg": "omegaconf"}},
    "dict": {"stored": {"cfg": "dict"}},
    "namespace": {"stored": {"cfg": "namespace"}},
    "args": {"stored": {"cfg": "args"}, "updates": 1},
    "lm, args": {**LM, "stored": {"cfg": "args"}},
    "args, early settings missing": {
        "stored": {"cfg": "args", "without_settings": ("layernorm_embedding", "no_cross_attention", "activation_fn")}
    },
    "packed": {"stored": {"packed": True, "without_optimizer": True}, "heads": (4, 2)},
    "packed, args": {"stored": {"packed": True, "cfg": "args"}},
    "half": {"stored": {"dtype": torch.float16}, "share_all_embeddings": True},
    "bfloat16": {"stored": {"dtype": torch.bfloat16}},
    "tables stored apart": {"stored": {"cloned": True}, "share_all_embeddings": True, "updates": 1},
    "file format before torch 1.6": {"stored": {"old_zip": True}, "updates": 1, "share_all_embeddings": True},
    "no optimizer state": {"stored": {"without_optimizer": True}, "updates": 1},
    "fairseq does not save optimizer state": {"no_save_optimizer_state": True, "updates": 1},
}  # fmt: skip


def difference(first: Any, second: Any, where: str = "") -> str:
    """The first place where two values differ in type, order, dtype, shape or bits; empty where they are the same."""
    if type(first) is not type(second):
        return f"{where}: {type(first)} and {type(second)}"
    if isinstance(first, torch.Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape and _bytes(first) == _bytes(second)
        return "" if same else f"{where}: tensors differ"
    if isinstance(first, Namespace):
        return difference(vars(first), vars(second), where)
    if isinstance(first, dict):
        if list(first) != list(second):
            return f"{where}: keys {sorted(set(map(str, first)) ^ set(map(str, second))) or 'in another order'}"
        attributes = difference(getattr(first, "__dict__", {}), getattr(second, "__dict__", {}), f"{where}.__dict__") \
            if type(first) is not dict else ""  # fmt: skip
        return attributes or next(filter(None, (difference(first[k], second[k], f"{where}.{k}") for k in first)), "")
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return f"{where}: {len(first)} and {len(second)} entries"
        pairs = enumerate(zip(first, second, strict=True))
        return next(filter(None, (difference(a, b, f"{where}[{i}]") for i, (a, b) in pairs)), "")
    return "" if first == second or first != first else f"{where}: {first!r} and {second!r}"


def _bytes(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())


def sharing(tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """Names of tensors that share a storage."""
    found: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        found.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    return [names for names in found.values() if len(names) > 1]
