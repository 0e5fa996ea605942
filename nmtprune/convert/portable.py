"""A model without its file format: network, tensors under the native model's names, vocabularies, search."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nmtprune.architecture import STACKS, Architecture, Group, GroupId
from nmtprune.data.corpus import Corpus
from nmtprune.data.vocabulary import Vocabulary
from nmtprune.errors import UsageError
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.huggingface.network import marian_sinusoids
from nmtprune.formats.storage import same_bits
from nmtprune.model.embedding import sinusoids
from nmtprune.network import Network, Positions, Stack

if TYPE_CHECKING:
    from pathlib import Path

    from nmtprune.model.search.options import Search

UNBOUNDED = 50_000
"""Longest sentence from which on a limit is none: toolkits that compute positions name such numbers."""

_SUBLAYERS = {"encoder": "self_attention", "decoder": "self_attention", "cross": "cross_attention"}


@dataclass(frozen=True, eq=False)
class Portable:
    """A translation model, and what is needed to feed it.

    Attributes:
        checkpoint: where it comes from.
        network: what it computes.
        architecture: its groups of units, as `tensors` store them.
        tensors: by the native model's names.
        corpus: vocabularies, frame and codec of its sentences.
        subwords: SentencePiece models of source and target; None where there is none.
        search: how its translations are searched.
        max_positions: positions that are written for a model without a limit of its own.
    """

    checkpoint: Checkpoint
    network: Network
    architecture: Architecture
    tensors: Mapping[str, Tensor]
    corpus: Corpus
    subwords: "tuple[Path | None, Path | None]"
    search: "Search"
    max_positions: int

    @property
    def stacks(self) -> dict[str, Stack]:
        """Encoder and decoder."""
        encoder = self.network.encoder
        return ({} if encoder is None else {"encoder": encoder}) | {"decoder": self.network.decoder}

    @property
    def source(self) -> Vocabulary:
        """Vocabulary of the source side."""
        return self.corpus.source_vocabulary

    @property
    def target(self) -> Vocabulary:
        """Vocabulary of the target side."""
        return self.corpus.target_vocabulary

    @property
    def source_table(self) -> Tensor:
        """Embeddings [V, D] of source symbols."""
        return self.tensors["encoder.embedding.tokens.weight"]

    @property
    def target_table(self) -> Tensor:
        """Embeddings [V, D] of target symbols, without a row of its own for what stands before the first word."""
        return self.tensors["decoder.embedding.tokens.weight"][: len(self.output_table)]

    @property
    def output_table(self) -> Tensor:
        """The output layer's matrix [V, D]."""
        return self.tensors["output.weight"]

    @property
    def output_bias(self) -> Tensor | None:
        """The output layer's bias [V]; None without one, or where it is zero."""
        bias = self.tensors.get("output.bias")
        return None if bias is None or not bool(bias.any()) else bias

    @property
    def start_row(self) -> Tensor:
        """Embedding [D] of what the decoder reads before the first word."""
        table, start = self.tensors["decoder.embedding.tokens.weight"], self.corpus.frame.start
        row = self.target.start if start is None else start
        stood_for = row == len(table) and self.network.start is not None
        return table[self.network.start if stood_for else row]

    @cached_property
    def shares_tables(self) -> bool:
        """Source and target embeddings are one table."""
        return same_table(self.source_table, self.target_table)

    @cached_property
    def ties_output(self) -> bool:
        """Target embeddings and the output layer are one table."""
        return same_table(self.target_table, self.output_table)

    @property
    def same_vocabulary(self) -> bool:
        """Both sides have the same symbols."""
        return self.source.symbols == self.target.symbols

    @property
    def width(self) -> int:
        """D of the decoder."""
        return int(self.output_table.shape[1])

    @property
    def width_of_encoder(self) -> int:
        """D of the encoder."""
        return int(self.source_table.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.output_table.dtype

    def head_dims(self, stack: str) -> set[int]:
        """Widths of the heads of a stack."""
        return {module.head_dim for module in self.architecture if module.id.stack == stack}

    def length_limit(self, stack: str) -> int:
        """Longest sentence, in tokens, for which positions are written."""
        own = self.stacks[stack].max_positions
        return self.max_positions if own >= UNBOUNDED else own

    @property
    def limits_length(self) -> bool:
        """Whether a table of positions makes a model limited that was not."""
        return any(own.max_positions >= UNBOUNDED and own.positions is not None for own in self.stacks.values())

    def positions(self, stack: str, rows: int) -> Tensor:
        """Rows [P, D] that are added to the first P tokens, at most `rows`; zeros for a model without positions."""
        found, width = self.stacks[stack].positions, self.width if stack == "decoder" else self.width_of_encoder
        if found is None:
            return torch.zeros(rows, width)
        if found.learned:
            return self.tensors[f"{stack}.embedding.positions.weight"][found.first : found.first + rows]
        return sinusoids(found.first + rows, width, found.first - 1)[found.first :]

    def are_sinusoids(self, stack: str, first: int) -> bool:
        """Whether positions are tensor2tensor's sinusoids, of which row `first` belongs to the first token."""
        found = self.stacks[stack].positions
        if found is None:
            return False
        if not found.learned:
            return found.first == first
        own = self.positions(stack, self.length_limit(stack)).float()
        expected = sinusoids(first + len(own), own.shape[1], first - 1)[first:]
        return bool((own - expected.to(self.dtype_of_positions(stack)).float()).abs().max() < _ROUNDING)

    def dtype_of_positions(self, stack: str) -> torch.dtype:
        """Type of a table of positions, or of the weights."""
        table = self.tensors.get(f"{stack}.embedding.positions.weight")
        return self.dtype if table is None else table.dtype

    def uniform(self, heads: Mapping[str, int]) -> "Portable":
        """The same model with zero heads and neurons, so that the modules and layers of a stack are equal in size.

        Args:
            heads: stored heads of each module, by stack.
        """
        neurons = {
            stack: max([1, *(group.stored for group in self.architecture.feed_forwards if group.id.stack == stack)])
            for stack in STACKS
        }
        stored = {module.id: heads[module.id.stack] for module in self.architecture}
        stored |= {group.id: neurons[group.id.stack] for group in self.architecture.feed_forwards}
        return self._resized(stored)

    def compact(self) -> "Portable":
        """The same model without the zero units that pad it."""
        return self._resized({group.id: group.units for group in self.architecture.groups})

    def _resized(self, stored: Mapping[GroupId, int]) -> "Portable":
        """The same model with these numbers of stored units: zero units are added behind or taken away there."""
        tensors = dict(self.tensors)
        units, padding = {}, {}
        for group in self.architecture.groups:
            units[group.id], padding[group.id] = group.units, stored[group.id] - group.units
            if group.stored != stored[group.id]:
                for name, axis in unit_places(group):
                    tensors[name] = _with_length(tensors[name], axis, stored[group.id] * group.width)
        return replace(self, tensors=tensors, architecture=self.architecture.with_units(units, padding))


_ROUNDING = 1e-6
"""Sinusoids of other programs differ in their last bits."""


def unit_places(group: Group) -> Iterator[tuple[str, int]]:
    """Native names of the tensors in which the units of a group lie, with the axis."""
    layer = f"{group.id.stack}.layers.{group.id.layer}"
    if group.id.kind not in _SUBLAYERS:
        own = f"{layer}.feed_forward"
        yield from ((f"{own}.input.weight", 0), (f"{own}.input.bias", 0), (f"{own}.output.weight", 1))
        return
    own = f"{layer}.{_SUBLAYERS[group.id.kind]}"
    yield from ((f"{own}.{name}.{kind}", 0) for name in ("query", "key", "value") for kind in ("weight", "bias"))
    yield f"{own}.output.weight", 1


def _with_length(tensor: Tensor, axis: int, length: int) -> Tensor:
    """A tensor cut off, or filled up with zeros, along an axis."""
    there = tensor.shape[axis]
    if length <= there:
        return tensor.narrow(axis, 0, length).contiguous()
    shape = list(tensor.shape)
    shape[axis] = length - there
    return torch.cat([tensor, tensor.new_zeros(shape)], axis)


def are_computed(model: Portable, stack: str) -> bool:
    """Whether positions are those that transformers computes for models of Marian's where a file has none."""
    found = model.stacks[stack].positions
    if found is None or not found.learned or found.first:
        return False
    own = model.positions(stack, model.length_limit(stack))
    expected = marian_sinusoids(*own.shape).to(own.dtype)
    return bool((own.float() - expected.float()).abs().max() < _ROUNDING)


def with_marian_positions(model: Portable) -> Portable:
    """A folder of transformers with the positions that its model was trained with: Marian's own sinusoids.

    Raises:
        UsageError: its positions are not those that transformers computes.
    """
    if not all(are_computed(model, stack) for stack in model.stacks):
        raise UsageError(
            "`marian_positions`: the positions of the model are not those that transformers computes for MarianMTModel"
        )
    encoder, decoder = (replace(own, positions=Positions(False, 0)) for own in model.stacks.values())
    tensors = {name: each for name, each in model.tensors.items() if "embedding.positions" not in name}
    return replace(model, network=replace(model.network, encoder=encoder, decoder=decoder), tensors=tensors)


def same_table(first: Tensor, second: Tensor) -> bool:
    """Whether two tables hold the same numbers."""
    return first.shape == second.shape and same_bits(first.contiguous(), second.contiguous())
