"""A walk through a model, sub-layer by sub-layer, that stops at every output projection.

Between two stops a batch is a `Place`; at a stop, what the output projection reads can be looked at and the projection
replaced. `refit.fit_projections` walks two models through the same batches side by side: `matched` says which sub-layer
of a pruned model stands for which of the unpruned one, and which were removed behind it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from nmtprune.methods.texts import ENCODER, SentencePairs, Texts
from nmtprune.model import EncoderOutput, Model, Pass, Transformer
from nmtprune.model.attention import Attention, CrossAttention, SelfAttention
from nmtprune.model.recurrence import Recurrence
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.sublayers import LayerNorm, Sublayer

HEADS, FFN, RECURRENCE = "heads", "ffn", "recurrence"
"""Inputs of an output projection: heads of attention, neurons, or the cells of a recurrence."""

_SMALL_GAIN = 0.01
"""Share of the mean square of a norm's gain below which the change of its input for one of its output is damped."""


@dataclass(frozen=True)
class Place:
    """A batch between two sub-layers of a stack.

    Attributes:
        states: [B, T, D] (in the encoder [B, S, D]).
        scope: what its tokens see.
    """

    states: Tensor
    scope: Scope

    def at(self, states: Tensor) -> "Place":
        """The same batch with other states."""
        return replace(self, states=states)


@dataclass(frozen=True)
class ProjectionStop:
    """A sub-layer at one of its places in a stack.

    Attributes:
        name: of the units that the output projection joins: ``encoder.0``, ``cross.5``, ``decoder-ffn.1``. Tied
            sub-layers, which share their parameters, have one name.
        kind: HEADS, FFN or RECURRENCE.
        sublayer: of the model.
        layer: number of its layer, which tied layers share.
        position: place of its layer in the stack.
    """

    name: str
    kind: str
    sublayer: Sublayer
    layer: int
    position: int

    @property
    def role(self) -> str:
        """What the sub-layer is in its layer: ``self_attention``, ``feed_forward``, ..."""
        return self.sublayer.name.rpartition(".")[2]

    @property
    def parameter(self) -> str:
        """Native name of the output projection, without ``.weight`` and ``.bias``."""
        return f"{self.sublayer.name}.output"

    @property
    def weight(self) -> nn.Parameter | None:
        """Output projection [D, E]; None for a recurrence without one."""
        return self.sublayer.body.output_weight

    @property
    def bias(self) -> nn.Parameter | None:
        """Its bias [D]; None where there is none."""
        return self.sublayer.body.output_bias

    @property
    def units(self) -> int:
        """Number of equal shares of the columns of `weight` that are removed as a whole: heads, or single columns."""
        body = self.sublayer.body
        if isinstance(body, Attention):
            return body.heads
        return 0 if self.weight is None else self.weight.shape[1]

    def inputs(self, place: Place) -> Tensor:
        """What the output projection reads, [B, T, E]."""
        return self.sublayer.until(place.states, place.scope, self.position).flatten(2)

    def output(self, inputs: Tensor) -> Tensor:
        """Output [B, T, D] of the projection, before norms and residual connection."""
        return self.sublayer.body.output(inputs, Probe())

    def after(self, states: Tensor, output: Tensor) -> Tensor:
        """States [B, T, D] after the sub-layer, from those before it and its output."""
        return self.sublayer.around.after(states, output)

    def summed(self, states: Tensor, output: Tensor) -> Tensor:
        """The last value [B, T, D] after the projection that depends on its output linearly.

        That is the output plus the residual connection, or the output alone if a norm comes between them.
        """
        around = self.sublayer.around
        if around.output_norm is not None or not around.postprocess.startswith("a"):
            return output
        return output + (states if around.scale is None else states * around.scale)

    def moved(self, place: Place) -> Place:
        """The batch behind the sub-layer."""
        return place.at(self.after(place.states, self.output(self.inputs(place))))

    def aim(self, states: Tensor, output: Tensor, wanted: Tensor) -> Tensor:
        """What `summed` should be for the states after the sub-layer to be `wanted`, [B, T, D].

        Where a norm of gain g follows, that is `summed` for these states and this output, plus the change that moves
        what comes out of the norm by the difference d to `wanted`, to first order and with the scale s of its input
        held fixed: s g d / (g^2 + c mean g^2), which a small c keeps finite where the gain vanishes.
        """
        summed, difference = self.summed(states, output), wanted - self.after(states, output)
        norm = self.sublayer.around.output_norm or self.sublayer.around.post_norm
        if norm is None:
            return summed + difference
        scale = (summed.var(-1, correction=0, keepdim=True) + norm.epsilon).sqrt()
        squares = norm.weight.square()
        return summed + scale * difference * norm.weight / (squares + _SMALL_GAIN * squares.mean())

    @property
    def last_norm(self) -> LayerNorm | None:
        """The norm that gives the states after the sub-layer; None where nothing comes between sum and states."""
        around = self.sublayer.around
        return around.post_norm if around.postprocess.endswith("n") else None


@dataclass(frozen=True)
class Match:
    """A sub-layer of a pruned model and what it stands for in the unpruned one.

    Attributes:
        own: the same sub-layer in the unpruned model.
        pruned: in the pruned model.
        gap: sub-layers of the unpruned model behind `own` whose layers the pruned model has not, up to the next one
            that it has.
    """

    own: ProjectionStop
    pruned: ProjectionStop
    gap: tuple[ProjectionStop, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Uncached(Scope):
    """Whole sequences whose layers compute the source's keys and values anew.

    Those of all layers of a calibration text would take more memory than its states.

    Attributes:
        encoded: the encoder's output.
        visible_source: keys of the source that are seen.
    """

    encoded: EncoderOutput
    visible_source: Visible

    def attend(self, attention: Attention, queries: Tensor, keys_values: Tensor, position: int) -> Tensor:
        """Contexts of self-attention, with the source in front where attention is joint."""
        if attention.sees_source:
            front = cast(SelfAttention, attention).keys_values(self.encoded.states)
            keys_values = torch.cat([front, keys_values], dim=2)
        return attention.context(queries, keys_values, self.visible, self.probe)

    def attend_to_source(self, attention: Attention, queries: Tensor, position: int) -> Tensor:
        """Contexts of cross-attention."""
        keys_values = cast(CrossAttention, attention).keys_values(self.encoded.states, by_head=False)
        return attention.context(queries, keys_values, self.visible_source, self.probe)


def stops(model: Model, stack: str) -> Iterator[ProjectionStop]:
    """The sub-layers of a stack in the order in which the model computes them; tied ones at each of their places."""
    for layer in model.stacks[stack].layers:
        for sublayer in layer.sublayers:
            body = sublayer.body
            if isinstance(body, Attention):
                name, kind = str(body.id), HEADS
            else:
                kind = RECURRENCE if isinstance(body, Recurrence) else FFN
                name = f"{stack}-{kind}.{layer.number}"
            yield ProjectionStop(name, kind, sublayer, layer.number, layer.position)


def matched(
    base: Model, pruned: Model, stack: str, layers: Sequence[int] | None = None
) -> tuple[tuple[ProjectionStop, ...], tuple[Match, ...]]:
    """The sub-layers of a stack of two models side by side.

    Args:
        base: the unpruned model.
        pruned: the same without some layers.
        stack: ``encoder`` or ``decoder``.
        layers: numbers in `base` of the layers that `pruned` has; None for all. Layers are matched in order, tied ones
            at each of their places.

    Returns:
        Sub-layers of `base` before the first one that `pruned` has, and the matches in order.

    Raises:
        ValueError: other layers than that.
    """
    there = list(stops(pruned, stack))
    front: list[ProjectionStop] = []
    found: list[Match] = []
    for stop in stops(base, stack):
        if layers is None or stop.layer in layers:
            if len(found) == len(there) or there[len(found)].role != stop.role:
                raise ValueError(f"the {stack} of the pruned model has no {stop.role} for {stop.name} in its place")
            found.append(Match(stop, there[len(found)]))
        elif found:
            found[-1] = replace(found[-1], gap=(*found[-1].gap, stop))
        else:
            front.append(stop)
    if len(found) < len(there):
        raise ValueError(f"the {stack} of the pruned model has {there[len(found)].name} beyond those of the base")
    return tuple(front), tuple(found)


def entered(model: Model, texts: Texts, stack: str, end_of_encoder: Tensor | None = None) -> Place:
    """Where a batch stands before the first sub-layer of a stack.

    Args:
        model: the model.
        texts: the batch; a language model takes nothing of its source.
        stack: ``encoder`` or ``decoder``.
        end_of_encoder: states [B, S, D] after the encoder's last sub-layer, for the decoder of a translation model.
    """
    if stack == ENCODER:
        return Place(*texts.enter(model))
    if not isinstance(model, Transformer) or not isinstance(texts, SentencePairs):
        raise ValueError("a classifier has no decoder")
    if model.encoder is None or end_of_encoder is None:
        return Place(*model.decoder.begin(texts.previous, None, Pass()))
    encoded = EncoderOutput(model.encoder.finish(end_of_encoder), model.encoder.embedding.padding_of(texts.source))
    joint = model.cache_source(encoded, by_head=False) if model.network.joint_attention else None
    states, scope = model.decoder.begin(texts.previous, joint, Pass())
    seen = Visible.all_but(encoded.padding, model.dtype)
    own = _Uncached(
        probe=scope.probe, visible=scope.visible, padding=scope.padding, encoded=encoded, visible_source=seen
    )
    return Place(states, own)
