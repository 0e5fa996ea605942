"""What RoBERTa's class has besides a transformer's encoder: a head for masked words, and heads that give labels."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from nmtprune.formats.fairseq.tensor_specs import Draw, TensorSpec, linear_specs, norm_specs

if TYPE_CHECKING:
    from nmtprune.formats.fairseq.settings import Description

LABEL_HEADS = "classification_heads"
"""Beginning of the names of the heads that give labels."""

_BERT = 0.02
"""Standard deviation of the weights of a fresh BERT (Devlin et al. 2019), which fairseq's RoBERTa follows."""


def word_head(description: "Description") -> str:
    """Beginning of the names of the head that predicts masked words."""
    return description.stems["encoder"].replace("sentence_encoder", "lm_head")


def word_table(description: "Description") -> str:
    """Name of the table of embeddings."""
    return f"{description.stems['encoder']}.embed_tokens.weight"


def tied_output(description: "Description") -> dict[str, str]:
    """Name of the masked words' output layer -> that of the table, where the settings tie them."""
    if description.settings["untie_weights_roberta"]:
        return {}
    return {f"{word_head(description)}.weight": word_table(description)}


def label_heads(names: Iterable[str]) -> tuple[str, ...]:
    """Names of the heads that give labels, in the order of the file."""
    inside = [name.removeprefix(f"{LABEL_HEADS}.") for name in names if name.startswith(f"{LABEL_HEADS}.")]
    ends = (".dense.weight", ".dense.bias", ".out_proj.weight", ".out_proj.bias")
    return tuple(dict.fromkeys(name.removesuffix(end) for name in inside for end in ends if name.endswith(end)))


def head_specs(description: "Description", tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Tensors of the head for masked words, and of every head that gives labels."""
    settings, own = description.settings, word_head(description)
    width = settings["encoder_embed_dim"]
    words = tensors[word_table(description)].shape[0] if word_table(description) in tensors else None
    drawn = Draw("uniform", 1 / math.sqrt(width))
    found = {f"{own}.weight": TensorSpec((words, width), "output", drawn)}
    if not settings["untie_weights_roberta"]:
        found = {f"{own}.weight": TensorSpec((words, width), "embeddings", None)}
    found[f"{own}.bias"] = TensorSpec((words,), "output", Draw("constant", 0.0))
    found |= drawn_as_bert(linear_specs(f"{own}.dense", width, width, "output"))
    found |= norm_specs(f"{own}.layer_norm", width)
    for head in label_heads(tensors):
        found |= _label_head(f"{LABEL_HEADS}.{head}", width, tensors)
    return found


def _label_head(own: str, width: int, tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """Two linear layers, of any inner width and number of labels."""
    inner, labels = (_rows(tensors.get(f"{own}.{part}.weight")) for part in ("dense", "out_proj"))
    return linear_specs(f"{own}.dense", inner, width, "output") | linear_specs(
        f"{own}.out_proj", labels, inner, "output"
    )


def _rows(tensor: Tensor | None) -> int:
    return int(tensor.shape[0]) if tensor is not None and tensor.dim() else 1


def drawn_as_bert(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The same tensors, drawn as BERT's: matrices from one normal distribution, biases zero; norms as they were."""
    return {name: _as_bert(spec) for name, spec in specs.items()}


def _as_bert(spec: TensorSpec) -> TensorSpec:
    if spec.draw is None or spec.shape is None or spec.part == "norms":
        return spec
    draw = Draw("constant", 0.0) if len(spec.shape) == 1 else Draw("normal", _BERT, spec.draw.padding_row)
    return replace(spec, draw=draw)
