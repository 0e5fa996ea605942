"""What in a checkpoint nmtprune does not prune, and strings that fairseq would run: every reason at once."""

import ast
from collections.abc import Mapping
from typing import Any

from nmtprune.formats.fairseq import fields, tasks
from nmtprune.formats.fairseq.architectures import (
    ENCODERS,
    OF_OTHER_MODELS,
    needed_sizes,
    stock,
)
from nmtprune.formats.fairseq.containers import State, quoted, section, walk
from nmtprune.formats.fairseq.segment_settings import SEGMENT_MODELS
from nmtprune.formats.fairseq.slim_settings import SLIM

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

_OTHER_CLASSES = ("megatron", "pipeline", "from_pretrained", "ulm", "monotonic", "_ctc", "_nat", "modular", "_aug")
"""Parts of names of fairseq's architectures that are no settings of its transformer but models of their own."""

_PER_LANGUAGE = ("multilingual_transformer", "latent_multilingual_transformer")

_PARALLEL = {
    "pipeline_model_parallel": "pipeline_model_parallel (a model in stages)",
    "use_sharded_state": "use_sharded_state (FSDP: one of several shards; without this option models are saved whole)",
}


def architecture_of(given: Mapping[str, Any]) -> tuple[Any, Any]:
    """Name of the architecture that fairseq builds, and of the one that the model had before it was cut."""
    name = given.get("_name") or given.get("arch")
    if isinstance(name, str) and name in SLIM:
        return name, given.get("nmtprune_base_arch")
    return name, name


def unsupported(state: State) -> list[str]:
    """Every reason why a checkpoint cannot be handled; an empty list where there is none."""
    given = section(state, "model")
    name, _ = architecture_of(given)
    if isinstance(name, str) and name in SEGMENT_MODELS:
        return [
            f"architecture {quoted(name)} (trained by nmtprune's plug-in: fairseq-train and fairseq-eval-lm run it, "
            "nmtprune's commands do not read it yet)"
        ]
    task = section(state, "task")
    faults = _architecture_faults(given) + fields.model_faults(given) + _parallel_faults(state)
    _, base = architecture_of(given)
    encoder = isinstance(base, str) and stock(base) in ENCODERS
    return faults + tasks.task_refusals(task, encoder=encoder) + _code_faults(state)


def is_literal(text: str) -> bool:
    """Whether a string is a plain Python literal, which evaluates to itself."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return True


def _architecture_faults(given: Mapping[str, Any]) -> list[str]:
    name, base = architecture_of(given)
    if isinstance(name, str) and name in SLIM:
        if isinstance(base, str) and stock(base) in SLIM[name] and not _name_faults(base, given):
            return []
        return [f"nmtprune_base_arch is {quoted(base)}, no architecture that a model of '{name}' can be cut from"]
    return _name_faults(name, given)


def _name_faults(name: Any, given: Mapping[str, Any]) -> list[str]:
    """Why a model of this architecture is not fairseq's transformer: an unknown name is one of it with other sizes."""
    if isinstance(name, str) and stock(name) == name:
        return []
    if isinstance(name, str) and name.startswith(_PER_LANGUAGE):
        return [
            f"architecture {quoted(name)} (an encoder and a decoder of its own for each language or direction: "
            "one model with language tokens is supported)"
        ]
    missing = [size for size in needed_sizes(str(name)) if given.get(size) is None]
    if not isinstance(name, str) or not name or _is_another_model(name) or len(missing) == len(needed_sizes(name)):
        return [f"architecture {quoted(name)} (fairseq's transformer, transformer_lm and roberta models are supported)"]
    if missing:
        return [
            f"architecture {quoted(name)} is not fairseq's own, and the settings do not hold {', '.join(missing)}: "
            f"with all sizes in them it is read as {_what_is_read(name)}"
        ]
    return []


def _is_another_model(name: str) -> bool:
    return name in OF_OTHER_MODELS or any(part in name for part in _OTHER_CLASSES)


def architecture_note(given: Mapping[str, Any]) -> str | None:
    """A remark on an architecture that fairseq does not have, whose code may compute something else."""
    _, base = architecture_of(given)
    if stock(base) == base:
        return None
    return (
        f"architecture {quoted(base)} is not one of fairseq's: it is taken for {_what_is_read(base)} with the sizes in "
        "the file"
    )


def _what_is_read(name: Any) -> str:
    """What of fairseq's a model of an unknown architecture is taken for."""
    return "fairseq's RoBERTa" if isinstance(name, str) and stock(name) in ENCODERS else "fairseq's transformer"


def _parallel_faults(state: State) -> list[str]:
    distributed, common = section(state, "distributed_training"), section(state, "common")
    faults = [text for name, text in _PARALLEL.items() if distributed.get(name) is True]
    flat = any("flat_param" in str(name) for name in state["model"])
    if flat or "fsdp_metadata" in state or "shard_metadata" in state:
        faults.append("FSDP (fully sharded data parallel) state, a part of a model")
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
                found[f"{name} is {quoted(value)}, no plain literal: fairseq would run it as code"] = None
    return list(found)
