"""Models without some of their layers, made from tensors by name: an oracle for whatever removes layers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from nmtprune.formats.base import Checkpoint
from nmtprune.model import Transformer


def without_layers(
    checkpoint: Checkpoint, kept: Mapping[str, Sequence[int]], dtype: torch.dtype = torch.float64
) -> Transformer:
    """The native model of a checkpoint with these layers only, by stack that loses some."""
    network, tensors = checkpoint.network(), {}
    for name, tensor in checkpoint.native_tensors().items():
        match = re.match(r"(encoder|decoder)\.layers\.(\d+)\.(.*)", name)
        if match is not None and match[1] in kept:
            if int(match[2]) not in kept[match[1]]:
                continue
            name = f"{match[1]}.layers.{list(kept[match[1]]).index(int(match[2]))}.{match[3]}"
        tensors[name] = tensor
    for stack, layers in kept.items():
        own = network.encoder if stack == "encoder" else network.decoder
        assert own is not None
        places = [layers.index(number) for number in own.tied or range(own.layers) if number in layers]
        tied = tuple(places) if own.tied else ()
        network = replace(network, **{stack: replace(own, layers=len(places), tied=tied)})
    return Transformer(network, checkpoint.architecture.with_layers(kept), tensors, dtype=dtype)
