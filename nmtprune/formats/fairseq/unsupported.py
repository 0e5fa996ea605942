"""What in a checkpoint nmtprune does not prune, and strings that fairseq would run: every reason at once."""

import ast
from collections.abc import Mapping
from typing import Any

from nmtprune.formats.fairseq.architectures import LANGUAGE_MODELS, TRANSLATION
from nmtprune.formats.fairseq.containers import State, section, walk

SLIM = {"nmtprune": TRANSLATION, "nmtprune_lm": LANGUAGE_MODELS}
"""Architectures of slim checkpoints -> the architectures that they can be cut from."""

EVALUATED = frozenset(
    (
        "adam_betas",
        "adamax_betas",
        "adafactor_eps",
        "lamb_betas",
        "wer_args",
        "model_overrides",
        "optimizer_overrides",
        "adaptive_softmax_cutoff",
        "adaptive_input_cutoff",
        "character_filters",
        "xformers_att_config",
        "encoder_xformers_att_config",
        "decoder_xformers_att_config",
        "pipeline_balance",
        "pipeline_devices",
        "pipeline_encoder_balance",
        "pipeline_encoder_devices",
        "pipeline_decoder_balance",
        "pipeline_decoder_devices",
        "left_pad_source",
        "left_pad_target",
        "encoder_layers",
        "decoder_layers",
        "encoder_attention",
        "decoder_attention",
        "self_attention",
        "project_input",
        "gated_attention",
        "downsample",
        "conv_feature_layers",
        "conv_aggregator_layers",
    )
)
"""Settings that fairseq, for one architecture or another, passes to `eval` where they are strings."""

_MODEL = {
    "scale_heads": "scale_heads (a learned factor per head)",
    "char_inputs": "char_inputs (character embeddings)",
    "character_embeddings": "character_embeddings",
    "base_layers": "base_layers (mixture of experts)",
    "quant_noise_pq": "quant_noise_pq (quantization noise)",
    "quant_noise_scalar": "quant_noise_scalar (quantization noise)",
    "encoder_xformers_att_config": "encoder_xformers_att_config (xformers attention)",
    "decoder_xformers_att_config": "decoder_xformers_att_config (xformers attention)",
}
"""Model settings that must be off, and what a message calls them."""

_PARALLEL = {
    "pipeline_model_parallel": "pipeline_model_parallel (a model in stages)",
    "use_sharded_state": "use_sharded_state (FSDP: one of several shards)",
}
_MULTILINGUAL = (
    "multilingual",
    "translation_multi_simple_epoch",
    "semisupervised_translation",
    "online_backtranslation",
)
_SHOWN = 60


def architecture_of(given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Name of the architecture that fairseq builds, and of the one that the model had before it was cut."""
    name = given.get("_name") or given.get("arch")
    if isinstance(name, str) and name in SLIM:
        return name, given.get("nmtprune_base_arch")
    return name, name


def unsupported(state: State) -> list[str]:
    """Every reason why a checkpoint cannot be handled; an empty list where there is none."""
    given = section(state, "model")
    faults = _architecture_faults(given)
    faults += [text for name, text in _MODEL.items() if given.get(name)]
    faults += _parallel_faults(state)
    task = section(state, "task").get("_name")
    if isinstance(task, str) and task.startswith(_MULTILINGUAL):
        faults.append(f"task '{task}' (multilingual or with several models)")
    return faults + _code_faults(state)


def is_literal(text: str) -> bool:
    """Whether a string is a plain Python literal, which evaluates to itself."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def show(value: Any) -> str:
    """A value as a message shows it: on one line, not too long."""
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _architecture_faults(given: Mapping[str, Any]) -> list[str]:
    name, base = architecture_of(given)
    if isinstance(name, str) and name in SLIM:
        if isinstance(base, str) and base in SLIM[name]:
            return []
        return [f"nmtprune_base_arch is {show(base)}, no architecture that a model of '{name}' can be cut from"]
    if isinstance(name, str) and (name in TRANSLATION or name in LANGUAGE_MODELS):
        return []
    return [f"architecture {show(name)} (fairseq's transformer and transformer_lm architectures are supported)"]


def _parallel_faults(state: State) -> list[str]:
    distributed, common = section(state, "distributed_training"), section(state, "common")
    faults = [text for name, text in _PARALLEL.items() if distributed.get(name) is True]
    flat = any("flat_param" in str(name) for name in state["model"])
    if flat or "fsdp_metadata" in state or "shard_metadata" in state:
        faults.append("FSDP (fully sharded data parallel) state")
    shards = section(state, "checkpoint").get("checkpoint_shard_count")
    if isinstance(shards, int) and shards > 1:
        faults.append(f"checkpoint_shard_count {shards} (one of several shards)")
    parts = common.get("model_parallel_size")
    if isinstance(parts, int) and parts > 1:
        faults.append(f"model_parallel_size {parts} (Megatron, one of several parts)")
    if common.get("quantization_config_path"):
        faults.append("quantization_config_path (quantized weights)")
    return faults


def _code_faults(state: State) -> list[str]:
    """Strings that fairseq would evaluate and that are more than a literal; each once."""
    found: dict[str, None] = {}
    for container in (state.get("args"), state.get("cfg")):
        for name, value in walk(container):
            if name in EVALUATED and isinstance(value, str) and not is_literal(value):
                found[f"{name} is {show(value)}, no plain literal: fairseq would run it as code"] = None
    return list(found)
