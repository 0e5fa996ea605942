"""Adaptive input and softmax of fairseq's language models: bands of words, the rarer the narrower."""

import ast
from collections.abc import Mapping
from typing import Any

from nmtprune.formats.fairseq.tensor_specs import BUFFER, TensorSpec, glorot_spec, table_spec

_INPUT = "decoder.embed_tokens"
_SOFTMAX = "decoder.adaptive_softmax"


def cutoffs(value: Any) -> list[int]:
    """Ends of the bands, the last one excepted, from a list or its text; empty where it is neither."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return []
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values if all(type(end) is int and end > 0 for end in values) else []


def cutoff_faults(settings: Mapping[str, Any]) -> list[str]:
    """Faults of the settings that the bands follow from."""
    found = []
    names = ["adaptive_softmax"] if settings["adaptive_softmax_cutoff"] is not None else []
    names += ["adaptive_input"] if settings["adaptive_input"] else []
    for name in names:
        ends, factor = cutoffs(settings[f"{name}_cutoff"]), settings[f"{name}_factor"]
        if not ends or ends != sorted(set(ends)):
            found.append(f"{name}_cutoff is {settings[f'{name}_cutoff']!r}, no rising list of whole numbers")
        if type(factor) not in (int, float) or not factor > 0:
            found.append(f"{name}_factor is {factor!r}, no positive number")
    return found


def input_specs(settings: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Tables and projections of the adaptive input, [words, width of the band] and [D, width of the band]."""
    outputs = settings["decoder_embed_dim"]
    found: dict[str, TensorSpec] = {}
    ends = cutoffs(settings["adaptive_input_cutoff"])
    for band, words in enumerate(_bands(ends, f"{_INPUT}.embeddings.{len(ends)}.0.weight" in names)):
        width = int(settings["decoder_input_dim"] // settings["adaptive_input_factor"] ** band)
        prefix = f"{_INPUT}.embeddings.{band}"
        # fairseq zeroes row 1 of every band, though padding is in the first one only.
        found[f"{prefix}.0.weight"] = table_spec(words, width, "embeddings", padding_row=True)
        found[f"{prefix}.1.weight"] = glorot_spec((outputs, width), outputs, width, "embeddings")
    return found | {f"{_INPUT}._float_tensor": BUFFER}


def softmax_specs(settings: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, TensorSpec]:
    """Head and tail of the adaptive softmax."""
    ends, inputs = cutoffs(settings["adaptive_softmax_cutoff"]), settings["decoder_output_dim"]
    bands = _bands(ends, f"{_SOFTMAX}.tail.{len(ends) - 1}.2.weight" in names)
    found = {f"{_SOFTMAX}.version": BUFFER}
    if settings["tie_adaptive_weights"]:
        width = settings["decoder_input_dim"]
        found[f"{_SOFTMAX}.head.word_proj.weight"] = table_spec(bands[0], width, "output", padding_row=True)
        found[f"{_SOFTMAX}.head.class_proj.weight"] = _map(len(bands) - 1, inputs)
        found[f"{_SOFTMAX}.head._float_tensor"] = BUFFER
    else:
        found[f"{_SOFTMAX}.head.weight"] = _map(ends[0] + len(bands) - 1, inputs)
    for band, words in enumerate(bands[1:]):
        width = int(inputs // settings["adaptive_softmax_factor"] ** (band + 1))
        prefix = f"{_SOFTMAX}.tail.{band}"
        transposed = settings["tie_adaptive_weights"] and settings["tie_adaptive_proj"]
        found[f"{prefix}.0.weight"] = _map(inputs, width) if transposed else _map(width, inputs)
        found[f"{prefix}.2.weight"] = glorot_spec((words, width), words or 0, width, "output")
    return found


def tied_bands(settings: Mapping[str, Any]) -> dict[str, str]:
    """Tensor of the softmax -> tensor of the input that is the same parameter."""
    if not settings["tie_adaptive_weights"]:
        return {}
    found = {f"{_SOFTMAX}.head.word_proj.weight": f"{_INPUT}.embeddings.0.0.weight"}
    for band in range(len(cutoffs(settings["adaptive_softmax_cutoff"]))):
        found[f"{_SOFTMAX}.tail.{band}.2.weight"] = f"{_INPUT}.embeddings.{band + 1}.0.weight"
        if settings["tie_adaptive_proj"]:
            found[f"{_SOFTMAX}.tail.{band}.0.weight"] = f"{_INPUT}.embeddings.{band + 1}.1.weight"
    return found


def _bands(ends: list[int], has_last: bool) -> list[int | None]:
    """Words per band; the last one ends with the vocabulary, which the settings do not say."""
    sizes: list[int | None] = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    return [*sizes, None] if has_last else sizes


def _map(outputs: int, inputs: int) -> TensorSpec:
    return glorot_spec((outputs, inputs), outputs, inputs, "output")
