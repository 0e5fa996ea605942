"""From the settings of a model to the description of the network that the native model runs, and its tensors."""

import math
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING

from nmtprune.formats.huggingface import layout
from nmtprune.formats.huggingface.config import Config
from nmtprune.formats.huggingface.families import ACTIVATIONS
from nmtprune.network import Network, Positions, Stack

if TYPE_CHECKING:
    from torch import Tensor


def describe_network(config: Config, names: Container[str]) -> Network:
    """The network of a model whose files have tensors of these names."""
    return Network(
        encoder=_stack(config, "encoder", names),
        decoder=_stack(config, "decoder", names),
        activation=ACTIVATIONS[config.settings["activation_function"]],
        padding=int(config.settings["pad_token_id"]),
        eos=int(config.settings["eos_token_id"]),
        output_bias=config.family.logits_bias,
        start=int(config.settings["decoder_start_token_id"]),
    )


def _stack(config: Config, stack: str, names: Container[str]) -> Stack:
    family, settings = config.family, config.settings
    return Stack(
        layers=settings[f"{stack}_layers"],
        preprocess="n" if family.pre_norm else "",
        postprocess="a" if family.pre_norm else "an",
        final_norm=family.final_norm,
        embedding_scale=math.sqrt(settings["d_model"]) if settings["scale_embedding"] else 1.0,
        max_positions=settings["max_position_embeddings"],
        embedding_norm=family.embedding_norm,
        positions=Positions(family.position_table or layout.POSITIONS.format(stack) in names, config.first_position),
    )


def native_tensors(config: Config, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors as the native model names them.

    Tables that transformers shares are one tensor; what it computes where a file has none is computed here too.
    """
    natives = {name: layout.native_of(name, config) for name in tensors}
    found = {native: tensors[name] for name, native in natives.items() if native is not None}
    tables: dict[str, Tensor] = {}
    for names in layout.shared_tables(config, tensors):
        own = next((tensors[name] for name in names if name in tensors), None)
        tables |= dict.fromkeys(names, own) if own is not None else {}
    source, target = (tables.get(layout.TABLES[stack]) for stack in ("encoder", "decoder"))
    if source is not None:
        found["encoder.embedding.tokens.weight"] = source
    if target is not None:
        found["decoder.embedding.tokens.weight"] = target
        like = target
    if (head := tables.get(config.family.head)) is not None:
        found["output.weight"] = head
        like = head
    if config.family.logits_bias and target is not None:
        bias = tensors.get(layout.LOGITS_BIAS)
        found["output.bias"] = like.new_zeros(config.words[1]) if bias is None else bias[0]
    for stack in ("encoder", "decoder"):
        name = f"{stack}.embedding.positions.weight"
        if config.family.position_table and name not in found and target is not None:
            rows, width = int(config.settings["max_position_embeddings"]), int(config.settings["d_model"])
            found[name] = marian_sinusoids(
                rows, width
            )  # single precision, whatever the file has, as transformers computes
    return found


def marian_sinusoids(rows: int, width: int) -> "Tensor":
    """Positions of Marian's models as transformers computes them, [rows, width]: sines, then cosines.

    The rates are 10000 ** (-2 i / width), unlike those of Marian itself, 10000 ** (-i / (width / 2 - 1)).
    """
    import torch

    columns = torch.arange(width, dtype=torch.float64) // 2
    angles = torch.arange(rows, dtype=torch.float64).unsqueeze(1) / 10000 ** (2 * columns / width)
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=1).float()
