"""Some sentences of a batch and their recorded search: what translations under head masks start from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nmtprune.architecture import ModuleId
from nmtprune.model.memory import EncoderOutput, Memory
from nmtprune.model.search.nodes import NodeCache
from nmtprune.model.search.passes import EncoderPass, HeadMasks, TreePass
from nmtprune.model.search.trellis import Trellis
from nmtprune.model.transformer import Transformer

Tokens = tuple[int, ...]

Positions = tuple[int, ...]
"""Places of sentences in the corpus."""

Found = list[list[Tokens]]
"""For each system of masks the translations of a chunk's sentences; empty for a sentence that has none."""


@dataclass(frozen=True)
class Chunk:
    """Some sentences of a batch and their recorded search.

    Attributes:
        positions: places of the sentences in the corpus.
        source: [B, S] token ids.
        encoded: the encoder's output without masks.
        max_len: [B], tokens that each translation may have before its last one.
        trellis: the recorded search.
        baseline: translations without masks, the last word included; empty for none.
    """

    positions: Positions
    source: Tensor
    encoded: EncoderOutput
    max_len: Tensor
    trellis: Trellis
    baseline: tuple[Tokens, ...]


class MaskedPasses:
    """Runs a chunk's hypotheses through the decoder under several systems of masks.

    Attributes:
        tree: the pass; says which layers all systems share.
        memories: the memory of all systems, or one of each where masks begin in the encoder; complete when all features
            have been taken.
    """

    def __init__(
        self, model: Transformer, chunk: Chunk, systems: Sequence[HeadMasks], *, raw_keys: bool = False
    ) -> None:
        """Prepare for systems that all mask something; `raw_keys` as for `DecoderLayer.project`."""
        self._model, self._chunk, self._systems = model, chunk, systems
        modules = {module for masks in systems for module in masks}
        self.tree = TreePass(model, chunk.trellis, modules, raw_keys=raw_keys)
        self.memories: tuple[Memory, ...] = ()

    def features(self, below: NodeCache | None = None, above: NodeCache | None = None) -> Iterator[Tensor]:
        """Features [N, E] of all hypotheses, system by system.

        Args:
            below: gets what the shared layers keep, in the rows of the trellis.
            above: gets those of the other layers, in rows ``system * N + row``.
        """
        model, chunk = self._model, self._chunk
        plain = model.remember(chunk.encoded)
        self.tree.enter(plain, below)
        encoders = [module for masks in self._systems for module in masks if module.kind == "encoder"]
        encoder = EncoderPass(model, chunk.source, min(encoders)) if encoders else None
        self.memories = () if encoder else (plain,)
        for number, masks in enumerate(self._systems):
            memory = plain if encoder is None else model.remember(encoder.masked(masks), by_head=False)
            if encoder:
                self.memories += (memory,)
            yield self.tree.masked(memory, masks, above, number * chunk.trellis.size)

    def sources(self) -> tuple[Tensor, Tensor]:
        """Which sentence of the memories each system's searches translate, and the systems, both [systems * B].

        Sources rise; the searches of one sentence come together where systems share its memory.
        """
        size, count, device = len(self._chunk.positions), len(self._systems), self._model.device
        sentence, number = torch.arange(size, device=device), torch.arange(count, device=device)
        if len(self.memories) == 1:
            return sentence.repeat_interleave(count), number.repeat(size)
        return torch.arange(size * count, device=device), number.repeat_interleave(size)


def stacked_masks(systems: Sequence[HeadMasks]) -> dict[ModuleId, Tensor]:
    """Masks of the decoder's modules, [systems, H]."""
    found: dict[ModuleId, Tensor] = {}
    for masks in systems:
        for module, mask in masks.items():
            if module.kind != "encoder" and module not in found:
                found[module] = torch.stack([other.get(module, torch.ones_like(mask)) for other in systems])
    return found
