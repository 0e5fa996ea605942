"""Classifiers of stock transformers, in double precision, with factors on what their output projections read."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmtprune.architecture import GroupId
from nmtprune.formats.huggingface.folder_config import FILE
from nmtprune.methods.texts import LabelledTexts
from tests.support import huggingface_folders

Read = Callable[[GroupId, nn.Linear, Tensor], Tensor]
"""Gets what an output projection reads, [B, S, I]; returns what it should read instead."""


class Stock:
    """A model of stock transformers.

    Attributes:
        projections: W_O of every attention module, and the second matrix of every feed-forward layer.
    """

    def __init__(self, folder: Path) -> None:
        kind = json.loads((folder / FILE).read_text())["architectures"][0]
        found = getattr(huggingface_folders.transformers(), kind).from_pretrained(folder, attn_implementation="eager")
        self._model = found.double().eval()
        self.projections: dict[GroupId, nn.Linear] = {}
        distil = kind.startswith("Distil")
        layers = found.distilbert.transformer.layer if distil else found.base_model.encoder.layer
        for number, layer in enumerate(layers):
            heads, second = (
                (layer.attention.out_lin, layer.ffn.lin2)
                if distil
                else (layer.attention.output.dense, layer.output.dense)
            )
            self.projections[GroupId("encoder", number)] = heads
            self.projections[GroupId("encoder-ffn", number)] = second

    def logits(self, texts: LabelledTexts) -> Tensor:
        """[B, C]."""
        segments = {} if texts.segments is None else {"token_type_ids": texts.segments}
        found: Tensor = self._model(texts.tokens, attention_mask=texts.real_tokens.long(), **segments).logits
        return found

    def losses(self, texts: LabelledTexts) -> Tensor:
        """Cross entropy [B] of the labels."""
        return nn.functional.cross_entropy(self.logits(texts), texts.expected, reduction="none")

    @contextmanager
    def reading(self, read: Read) -> Iterator[None]:
        """Let every output projection read something else."""

        def hook(id: GroupId) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Tensor]]:
            return lambda module, given: (read(id, module, given[0]),)  # type: ignore[arg-type]

        handles = [module.register_forward_pre_hook(hook(id)) for id, module in self.projections.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def slopes(self, texts: LabelledTexts, units: Mapping[GroupId, int]) -> dict[GroupId, Tensor]:
        """Derivatives of each text's loss by the factors of its units at each position, [B, U, S], by autograd."""
        factors = {
            id: torch.ones(*texts.tokens.shape, count, dtype=torch.float64, requires_grad=True)
            for id, count in units.items()
        }

        def read(id: GroupId, _: nn.Linear, x: Tensor) -> Tensor:
            factor = factors[id]
            return x * factor.repeat_interleave(x.shape[2] // factor.shape[2], 2)

        with torch.enable_grad(), self.reading(read):
            found = torch.autograd.grad(self.losses(texts).sum(), list(factors.values()))
        return {id: slope.transpose(1, 2) for id, slope in zip(factors, found, strict=True)}
