"""Fresh weights of a checkpoint's shape, distributed as fairseq draws them for a new model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from nmtprune.formats.fairseq.slots import Slot

PADDING = 1
"""Row of the padding token in every table."""


def weights(
    tensors: Mapping[str, Tensor], slots: Mapping[str, Slot], aliases: Mapping[str, str], seed: int
) -> dict[str, Tensor]:
    """Draw every parameter of a model; buffers stay, shared tables are one tensor.

    Drawn in fp32 in the order of the file and then rounded to the stored type, from one generator: the same seed and
    shape give the same weights. A cut module is drawn as one of its own size: Glorot's fans are those of the heads
    that are there.

    Args:
        tensors: the model's tensors by name.
        slots: what is known of each.
        aliases: name -> the first name of the same parameter.
        seed: of the generator; 0 is a seed.
    """
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, Tensor] = {}
    drawn: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        first = aliases.get(name, name)
        slot = slots.get(first)
        if first not in drawn:
            drawn[first] = tensor if slot is None else _drawn(tensor, slot, generator)
        fresh[name] = drawn[first]
    return fresh


def _drawn(tensor: Tensor, slot: Slot, generator: torch.Generator) -> Tensor:
    draw = slot.draw
    if draw is None:
        return tensor
    values = torch.empty(tensor.shape, dtype=torch.float32)
    if draw.kind == "uniform":
        values.uniform_(-draw.scale, draw.scale, generator=generator)
    elif draw.kind == "normal":
        values.normal_(0.0, draw.scale, generator=generator)
    else:
        values.fill_(draw.scale)
    if draw.padding_row and len(values) > PADDING:
        values[PADDING] = 0
    return values.to(tensor.dtype)
