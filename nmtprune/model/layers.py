"""Encoder and decoder layers, and stacks of them: sequences of sublayers at which a pass may stop and be resumed."""

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from torch import Tensor, nn

from nmtprune.architecture import Architecture, Group, GroupId
from nmtprune.model.attention import CrossAttention, SelfAttention
from nmtprune.model.recurrence import Recurrence
from nmtprune.model.scope import Scope
from nmtprune.model.sublayers import Body, FeedForward, LayerNorm, Residual, Sublayer
from nmtprune.model.weights import Weights
from nmtprune.network import EncoderNetwork, Network, Stack


@dataclass(frozen=True)
class EncoderBlueprint:
    """What an encoder's layers are built from: the description of the model, its tensors and its width."""

    network: EncoderNetwork
    architecture: Architecture
    weights: Weights
    encoder_width: int

    def neurons(self, id: GroupId) -> Group | None:
        """The group of a feed-forward layer's neurons; None where they cannot be masked one by one."""
        return next((group for group in self.architecture.feed_forwards if group.id == id), None)


@dataclass(frozen=True)
class Blueprint(EncoderBlueprint):
    """What layers are built from: the description of the model, its tensors and its widths."""

    network: Network
    decoder_width: int


@dataclass(frozen=True, order=True)
class Stop:
    """A point of a stack of layers at which passes stop, to be resumed under different masks.

    Attributes:
        position: place of the layer in its stack.
        sublayer: number of the sublayer in its layer.
        inside: the stop is between the halves of the sublayer's body, where its masks apply; otherwise before it.
    """

    position: int
    sublayer: int
    inside: bool


@dataclass(frozen=True)
class Stopped:
    """A pass that has stopped.

    Attributes:
        states: [R, T, D], before the sublayer of the stop.
        inner: inner values of that sublayer; None where the pass stopped before it.
    """

    states: Tensor
    inner: Tensor | None


class Layer(nn.Module):
    """Sublayers one after the other. A kind of layer is a class that builds its own.

    Attributes:
        number: number of its groups in the architecture, and of its tensors.
        position: place in its stack; tied layers, which share parameters and number, differ in it.
        sublayers: in order; at most one of them keeps anything of a token for later tokens.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = self.position = number
        self.sublayers: tuple[Sublayer, ...] = ()

    def add(self, prefix: str, name: str, body: Body, around: Residual) -> None:
        """Append a sublayer, whose parts become the attributes `name` and ``around_`` + `name` of the layer."""
        if body.kept_shape() is not None and self.kept_shape() is not None:
            raise ValueError(f"{prefix}.{name}: two sublayers of a layer keep something of each token")
        setattr(self, name, body)
        setattr(self, f"around_{name}", around)
        self.sublayers = (*self.sublayers, Sublayer(f"{prefix}.{name}", around, body))

    def at(self, position: int) -> Self:
        """The layer, with the same parameters, at another place of its stack."""
        return self if position == self.position else with_attributes(self, position=position)

    def forward(self, x: Tensor, scope: Scope) -> Tensor:
        """States [R, T, D] of the next layer."""
        for sublayer in self.sublayers:
            x = sublayer(x, scope, self.position)
        return x

    def until(self, stop: Stop, x: Tensor, scope: Scope) -> Stopped:
        """Run states [R, T, D] up to a stop in this layer."""
        for sublayer in self.sublayers[: stop.sublayer]:
            x = sublayer(x, scope, self.position)
        inner = self.sublayers[stop.sublayer].until(x, scope, self.position) if stop.inside else None
        return Stopped(x, inner)

    def after(self, stop: Stop, stopped: Stopped, scope: Scope) -> Tensor:
        """States [R, T, D] of the next layer, resumed from a stop in this layer."""
        x, left = stopped.states, self.sublayers[stop.sublayer :]
        if stopped.inner is not None:
            x, left = left[0].after(x, stopped.inner, scope.probe), left[1:]
        for sublayer in left:
            x = sublayer(x, scope, self.position)
        return x

    def kept_shape(self) -> tuple[int, int, int] | None:
        """Shape [parts, heads, width] of what is kept of each token for later ones; None where nothing is."""
        shapes = (sublayer.body.kept_shape() for sublayer in self.sublayers)
        return next((shape for shape in shapes if shape is not None), None)

    def has_kept(self, stop: Stop) -> bool:
        """Whether all that the layer keeps of the tokens is kept before a stop in it."""
        later = self.sublayers[stop.sublayer + stop.inside :]
        return all(sublayer.body.kept_shape() is None for sublayer in later)


class EncoderLayer(Layer):
    """Self-attention, then feed-forward."""

    self_attention: SelfAttention
    feed_forward: FeedForward

    def __init__(self, blueprint: EncoderBlueprint, stack: Stack, number: int) -> None:
        super().__init__(number)
        network, weights, width = blueprint.network, blueprint.weights, blueprint.encoder_width
        prefix, epsilon = f"encoder.layers.{number}", network.layer_norm_epsilon
        module, name = blueprint.architecture[GroupId("encoder", number)], f"{prefix}.self_attention"
        attention = SelfAttention(module, weights, name, width)
        self.add(prefix, "self_attention", attention, Residual(stack, weights, name, width, epsilon))
        name = f"{prefix}.feed_forward"
        neurons = blueprint.neurons(GroupId("encoder-ffn", number))
        feed_forward = FeedForward(network, stack, weights, name, width, neurons)
        self.add(prefix, "feed_forward", feed_forward, Residual(stack, weights, name, width, epsilon))


class DecoderLayer(Layer):
    """Self-attention, cross-attention where the model has it, then feed-forward."""

    self_attention: SelfAttention
    feed_forward: FeedForward

    def __init__(self, blueprint: Blueprint, number: int) -> None:
        super().__init__(number)
        self.cross_attention: CrossAttention | None = None
        self.build(blueprint, f"decoder.layers.{number}")

    def build(self, blueprint: Blueprint, prefix: str) -> None:
        """Add the sublayers."""
        self.add_self_attention(blueprint, prefix)
        self.add_cross_attention(blueprint, prefix)
        self.add_feed_forward(blueprint, prefix)

    def add_self_attention(self, blueprint: Blueprint, prefix: str) -> None:
        """Add self-attention, which is joint if the network says so."""
        module, name = blueprint.architecture[GroupId("decoder", self.number)], f"{prefix}.self_attention"
        joint, width = blueprint.network.joint_attention, blueprint.decoder_width
        body = SelfAttention(module, blueprint.weights, name, width, joint=joint)
        self.add_around(blueprint, prefix, body, "self_attention")

    def add_cross_attention(self, blueprint: Blueprint, prefix: str) -> None:
        """Add cross-attention if the architecture has it in this layer."""
        cross = GroupId("cross", self.number)
        if cross in blueprint.architecture:
            module, name = blueprint.architecture[cross], f"{prefix}.cross_attention"
            widths = blueprint.decoder_width, blueprint.encoder_width
            body = CrossAttention(module, blueprint.weights, name, widths)
            self.add_around(blueprint, prefix, body, "cross_attention")

    def add_feed_forward(self, blueprint: Blueprint, prefix: str) -> None:
        """Add a feed-forward sublayer."""
        network, width = blueprint.network, blueprint.decoder_width
        neurons = blueprint.neurons(GroupId("decoder-ffn", self.number))
        body = FeedForward(network, network.decoder, blueprint.weights, f"{prefix}.feed_forward", width, neurons)
        self.add_around(blueprint, prefix, body, "feed_forward")

    def add_around(self, blueprint: Blueprint, prefix: str, body: Body, name: str) -> None:
        """Add a sublayer with norms and residual connection as the decoder has them."""
        network, width = blueprint.network, blueprint.decoder_width
        around = Residual(network.decoder, blueprint.weights, f"{prefix}.{name}", width, network.layer_norm_epsilon)
        self.add(prefix, name, body, around)

    def cache_source(self, states: Tensor, *, by_head: bool) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values of the encoder's output [B, S, D] for cross-attention and for joint self-attention."""
        cross = joint = None
        for sublayer in self.sublayers:
            if isinstance(sublayer.body, CrossAttention):
                cross = sublayer.body.keys_values(states, by_head=by_head)
            elif isinstance(sublayer.body, SelfAttention) and sublayer.body.sees_source:
                joint = sublayer.body.keys_values(states)
        return cross, joint


class RecurrentDecoderLayer(DecoderLayer):
    """A recurrence, cross-attention where the model has it, then feed-forward."""

    recurrence: Recurrence

    def build(self, blueprint: Blueprint, prefix: str) -> None:
        """Add the sublayers."""
        network, width = blueprint.network, blueprint.decoder_width
        recurrence = Recurrence(network.decoder, blueprint.weights, f"{prefix}.recurrence", width)
        self.add_around(blueprint, prefix, recurrence, "recurrence")
        self.add_cross_attention(blueprint, prefix)
        self.add_feed_forward(blueprint, prefix)


def decoder_layer(network: Network) -> type[DecoderLayer]:
    """The kind of layer that the decoder of a network has."""
    return RecurrentDecoderLayer if network.decoder.recurrent else DecoderLayer


class LayerStack(nn.Module):
    """Layers one after the other, with a norm after the last one where the model has it.

    Attributes:
        layers: in order.
        final_norm: follows the last layer; None without.
    """

    layers: Sequence[Layer]
    final_norm: LayerNorm | None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the layers in order; that of tied layers stands at each of their positions."""
        return tuple(layer.number for layer in self.layers)

    def with_layers(self, kept: Collection[int]) -> Self:
        """The stack of the layers with these numbers, at positions counted anew; weights are shared.

        Raises:
            ValueError: numbers that no layer has, or none at all.
        """
        unknown = sorted(set(kept).difference(self.numbers))
        if unknown or not kept:
            raise ValueError(f"there are no layers {unknown}" if unknown else "a stack without layers")
        layers = [layer for layer in self.layers if layer.number in kept]
        return with_attributes(self, layers=nn.ModuleList(layer.at(place) for place, layer in enumerate(layers)))

    def run(self, x: Tensor, scope: Scope) -> Tensor:
        """States [R, T, D] after the last layer, from those before the first."""
        for layer in self.layers:
            x = layer(x, scope)
        return x

    def until(self, stop: Stop, x: Tensor, scope: Scope) -> Stopped:
        """Run states [R, T, D] from before the first layer up to a stop."""
        for layer in self.layers[: stop.position]:
            x = layer(x, scope)
        return Stopped(x, None) if stop == self.end else self.layers[stop.position].until(stop, x, scope)

    def after(self, stop: Stop, stopped: Stopped, scope: Scope) -> Tensor:
        """States [R, T, D] after the last layer, resumed from a stop."""
        if stop == self.end:
            return stopped.states
        x = self.layers[stop.position].after(stop, stopped, scope)
        for layer in self.layers[stop.position + 1 :]:
            x = layer(x, scope)
        return x

    def finish(self, x: Tensor) -> Tensor:
        """What the stack gives, from the states [..., D] after the last layer."""
        return x if self.final_norm is None else self.final_norm(x)

    @property
    def end(self) -> Stop:
        """The stop after the last layer."""
        return Stop(len(self.layers), 0, inside=False)

    def layers_kept(self, stop: Stop) -> range:
        """Positions of the layers that keep all that they keep of the tokens before a stop."""
        inside = stop != self.end and self.layers[stop.position].has_kept(stop)
        return range(stop.position + inside)

    def first_change(self, groups: Collection[GroupId], *, of_source: bool = False) -> Stop:
        """The first stop whose sublayer masks change; the end where they change nothing.

        Args:
            groups: those that masks change.
            of_source: the encoder's output changes, too.
        """
        for stop, sublayer in self.stops():
            if of_source and sublayer.body.sees_source:
                return stop
            if sublayer.body.id in groups:
                return replace(stop, inside=True)
        return self.end

    def stops(self) -> Iterator[tuple[Stop, Sublayer]]:
        """The stop before each sublayer, in order, and the sublayer."""
        for layer in self.layers:
            for number, sublayer in enumerate(layer.sublayers):
                yield Stop(layer.position, number, inside=False), sublayer


M = TypeVar("M", bound=nn.Module)


def with_attributes(module: M, **changes: object) -> M:
    """A copy of a module with other values of some attributes; it shares all other parts, and parameters, with it."""
    found = copy.copy(module)
    found._modules = dict(module._modules)  # a plain copy would share the table of parts with the module
    for name, value in changes.items():
        setattr(found, name, value)
    return found
