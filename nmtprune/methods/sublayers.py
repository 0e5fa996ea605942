"""A model as a list of sub-layers, each split where its output projection begins.

A model computes sub-layer after sub-layer: states -> what the output projection reads -> its output -> states. `refit`
walks two models through this list side by side.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from nmtprune.methods.measuring import Texts
from nmtprune.model import EncoderOutput, Pass, Transformer
from nmtprune.model.attention import Attention, CrossAttention, Probe, Visible
from nmtprune.model.decoder_state import Step
from nmtprune.model.kernels import linear
from nmtprune.model.layers import DecoderLayer, EncoderLayer, RecurrentDecoderLayer, Residual

ENCODER, DECODER = "encoder", "decoder"
HEADS, FFN, RECURRENCE = "heads", "ffn", "recurrence"
"""What a sub-layer's output projection joins: heads of attention, neurons, or the cells of a recurrence."""


@dataclass(frozen=True)
class Place:
    """Where a batch stands between two sub-layers of a stack.

    Attributes:
        states: [B, T, D] (the source's [B, S, D] in the encoder).
        visible: the source's keys that attention of the encoder, or cross-attention, sees.
        encoded: the encoder's output; None in the encoder and in language models.
        step: positions of the decoder's tokens; None in the encoder.
    """

    states: Tensor
    visible: Visible
    encoded: EncoderOutput | None = None
    step: Step | None = None

    def at(self, states: Tensor) -> "Place":
        """The same batch with other states."""
        return replace(self, states=states)


class Sublayer(ABC):
    """One sub-layer.

    Attributes:
        name: of what its output projection joins, as messages write it: ``encoder.0``, ``cross.5``, ``decoder-ffn.1``.
            Tied sub-layers, which share their parameters, have one name.
        kind: HEADS, FFN or RECURRENCE.
        parameter: native name of the output projection, without ``.weight`` and ``.bias``.
        around: normalization and residual connection.
        weight: [D, E] of the output projection; None for a recurrence without one.
        bias: [D]; None where the projection has none.
        units: what the columns of `weight` belong to, in equal shares: heads, or single neurons or cells.
    """

    def __init__(
        self,
        id: tuple[str, str, str],
        around: Residual,
        projection: tuple[nn.Parameter | None, nn.Parameter | None],
        heads: int | None = None,
    ) -> None:
        """Take name, kind and parameter, what is around the sub-layer, weight and bias; `heads` of attention."""
        self.name, self.kind, self.parameter = id
        self.around = around
        self.weight, self.bias = projection
        self.units = heads if heads is not None else 0 if self.weight is None else self.weight.shape[1]

    @abstractmethod
    def inputs(self, place: Place) -> Tensor:
        """What the output projection reads, [B, T, E]."""

    def output(self, inputs: Tensor) -> Tensor:
        """Output [B, T, D] of the sub-layer, before what stands around it, from what its projection reads."""
        return inputs if self.weight is None else linear(inputs, self.weight, self.bias)

    def after(self, states: Tensor, output: Tensor) -> Tensor:
        """States [B, T, D] after the sub-layer, from those before it and its output."""
        return self.around.after(states, output)

    def summed(self, states: Tensor, output: Tensor) -> Tensor:
        """The last value [B, T, D] behind the output projection that its output enters linearly.

        That is the output plus the residual connection, or the output alone where a norm comes between them.
        """
        around = self.around
        if around.output_norm is not None or not around.postprocess.startswith("a"):
            return output
        return output + (states if around.scale is None else states * around.scale)


class _Attention(Sublayer):
    """Attention of any kind."""

    def __init__(self, parameter: str, attention: Attention, around: Residual) -> None:
        projection = attention.output_weight, attention.output_bias
        super().__init__((str(attention.id), HEADS, f"{parameter}.output"), around, projection, attention.heads)
        self._heads = attention.heads

    def inputs(self, place: Place) -> Tensor:
        if not self._heads:
            return place.states.new_zeros(*place.states.shape[:2], 0)
        return self.contexts(place).flatten(2)

    @abstractmethod
    def contexts(self, place: Place) -> Tensor:
        """What each head makes of the values, [B, T, H, K]."""


class _EncoderAttention(_Attention):
    def __init__(self, prefix: str, layer: EncoderLayer) -> None:
        super().__init__(f"{prefix}.self_attention", layer.self_attention, layer.around_self)
        self._attention = layer.self_attention

    def contexts(self, place: Place) -> Tensor:
        queries, keys_values = self._attention.project(self.around.before(place.states))
        return self._attention.context(queries, keys_values, place.visible, Probe())


class _DecoderAttention(_Attention):
    """Self-attention, of the words before, and of the source where attention is joint."""

    def __init__(self, prefix: str, layer: DecoderLayer) -> None:
        super().__init__(f"{prefix}.self_attention", layer.self_attention, layer.around_self)
        self._attention, self._joint = layer.self_attention, layer.joint

    def contexts(self, place: Place) -> Tensor:
        queries, keys_values = self._attention.project(self.around.before(place.states))
        if self._joint and place.encoded is not None:
            keys_values = torch.cat([self._attention.keys_values(place.encoded.states), keys_values], dim=2)
        return self._attention.context(queries, keys_values, cast(Step, place.step).visible, Probe())


class _CrossAttention(_Attention):
    def __init__(self, prefix: str, attention: CrossAttention, around: Residual) -> None:
        super().__init__(f"{prefix}.cross_attention", attention, around)
        self._attention = attention

    def contexts(self, place: Place) -> Tensor:
        queries = self._attention.queries(self.around.before(place.states))
        keys_values = self._attention.keys_values(cast(EncoderOutput, place.encoded).states, by_head=False)
        return self._attention.context(queries, keys_values, place.visible, Probe())


class _Recurrence(Sublayer):
    """An SSRU, with an output projection or without."""

    def __init__(self, prefix: str, layer: RecurrentDecoderLayer) -> None:
        own = layer.recurrence
        projection = (None, None) if own.output_weight is None else (own.output_weight, own.output_bias)
        id = f"decoder-recurrence.{layer.layer}", RECURRENCE, f"{prefix}.recurrence.output"
        super().__init__(id, layer.around_self, projection)
        self._recurrence, self._position = own, layer.position

    def inputs(self, place: Place) -> Tensor:
        update = self._recurrence.project(self.around.before(place.states))
        return torch.relu(cast(Step, place.step).recur(self._position, update))


class _FeedForward(Sublayer):
    def __init__(self, name: str, prefix: str, layer: EncoderLayer | DecoderLayer) -> None:
        own = layer.feed_forward
        id = name, FFN, f"{prefix}.feed_forward.output"
        super().__init__(id, layer.around_feed_forward, (own.output_weight, own.output_bias))
        self._feed_forward = own

    def inputs(self, place: Place) -> Tensor:
        own = self._feed_forward
        inner = own.activation(linear(self.around.before(place.states), own.input_weight, own.input_bias))
        return inner if own.norm is None else own.norm(inner)


def stacks(model: Transformer) -> tuple[str, ...]:
    """The stacks of a model in the order in which it computes them."""
    return (ENCODER, DECODER) if model.encoder is not None else (DECODER,)


def sublayers(model: Transformer, stack: str) -> list[Sublayer]:
    """The sub-layers of a stack in the order in which the model computes them; tied ones at each of their places."""
    if stack == ENCODER and model.encoder is not None:
        return list(_of_encoder(cast(Iterable[EncoderLayer], model.encoder.layers)))
    return list(_of_decoder(cast(Iterable[DecoderLayer], model.decoder.layers)))


def entered(model: Transformer, texts: Texts, stack: str, end_of_encoder: Tensor | None = None) -> Place:
    """Where a batch stands before the first sub-layer of a stack.

    Args:
        model: the model.
        texts: the batch; a language model takes nothing of its source.
        stack: one of `stacks`.
        end_of_encoder: states [B, S, D] after the encoder's last sub-layer, for the decoder of a translation model.
    """
    if stack == ENCODER and model.encoder is not None:
        states, padding = model.encoder.embed(texts.source)
        return Place(states, Visible.all_but(padding, states.dtype))
    encoded, source_cache, visible = None, None, Visible()
    if model.encoder is not None and end_of_encoder is not None:
        norm, padding = model.encoder.final_norm, model.encoder.embedding.padding_of(texts.source)
        encoded = EncoderOutput(end_of_encoder if norm is None else norm(end_of_encoder), padding)
        visible = Visible.all_but(padding, model.dtype)
        source_cache = model.cache_source(encoded, by_head=False) if model.network.joint_attention else None
    step, padding = model.decoder.place(texts.previous, source_cache, Pass())
    return Place(model.decoder.embedding(texts.previous, padding), visible, encoded, step)


def _of_encoder(layers: Iterable[EncoderLayer]) -> Iterator[Sublayer]:
    for number, layer in enumerate(layers):
        prefix = f"encoder.layers.{number}"
        yield _EncoderAttention(prefix, layer)
        yield _FeedForward(f"encoder-ffn.{number}", prefix, layer)


def _of_decoder(layers: Iterable[DecoderLayer]) -> Iterator[Sublayer]:
    for layer in layers:
        prefix = f"decoder.layers.{layer.layer}"
        if isinstance(layer, RecurrentDecoderLayer):
            yield _Recurrence(prefix, layer)
        else:
            yield _DecoderAttention(prefix, layer)
        if layer.cross_attention is not None and layer.around_cross is not None:
            yield _CrossAttention(prefix, layer.cross_attention, layer.around_cross)
        yield _FeedForward(f"decoder-ffn.{layer.layer}", prefix, layer)
