"""Replace the attention modules, and the feed-forward layers of other widths, of a model that fairseq has built."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nmtprune.architecture import KINDS, STACKS, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.fairseq_plugin.heads import StoredHeads
from nmtprune.fairseq_plugin.neurons import StoredNeurons
from nmtprune.fairseq_plugin.prunable_attention import PrunableAttention, empty_linear
from nmtprune.fairseq_plugin.unit_gates import GateSet, UnitGates, draw_gates, start_open
from nmtprune.formats.fairseq.slim_settings import HEADS, NEURONS
from nmtprune.gates import GateSettings, number_faults

_ATTRIBUTES = {"encoder": "self_attn", "decoder": "self_attn", "cross": "encoder_attn"}


def attention_modules(model: Any) -> Iterator[tuple[GroupId, nn.Module, str]]:
    """Every attention module of a fairseq transformer: id, the layer that holds it, its name in the layer.

    Raises:
        CheckpointError: a layer that holds its attention elsewhere.
    """
    for kind, attribute in _ATTRIBUTES.items():
        stack = _stack(model, "encoder" if kind == "encoder" else "decoder")
        if stack is None:
            continue
        # The list itself skips layers at random in training mode when it is a LayerDropModuleList.
        for layer, holder in enumerate(stack.layers._modules.values()):
            if "self_attn" not in holder._modules:
                raise CheckpointError(f"{kind} layer {layer} is a {type(holder).__name__}, which has no self_attn")
            if holder._modules.get(attribute) is not None:
                yield GroupId(kind, layer), holder, attribute


def _stack(model: Any, name: str) -> Any:
    """The module with the layers of a stack, which RoBERTa has inside of another; None where there is no such stack."""
    found = getattr(model, name, None)
    return getattr(found, "sentence_encoder", found)


def replace_attention(
    model: Any,
    heads: StoredHeads,
    gates: GateSettings | None = None,
    draw: Callable[[nn.Module], None] | None = None,
) -> None:
    """Give every attention module of a model the stated heads, and let the model refuse weights of other shapes.

    Args:
        model: of fairseq.
        heads: of all its attention modules.
        gates: of heads and neurons; None for none.
        draw: draws the weights of linear maps of other shapes, after `PrunableAttention`.

    Raises:
        CheckpointError: the heads are of a model with other layers.
    """
    modules = list(attention_modules(model))
    faults = []
    for kind in KINDS:
        found, stated = sum(id.kind == kind for id, _, _ in modules), len(heads.counts[kind])
        if found != stated:
            faults.append(f"{HEADS} lists {stated} {kind} modules, the model has {found}")
    if faults:
        raise CheckpointError.of_faults("settings of the model", faults)
    # What is drawn afterwards (sampled translations) must not depend on how many weights are drawn here.
    with torch.random.fork_rng(devices=[]):
        for id, holder, attribute in modules:
            stock = getattr(holder, attribute)
            own = PrunableAttention.replacing(stock, *heads.of_module(id))
            if draw is not None and own.k_proj is not stock.k_proj:
                own.apply(draw)
            setattr(holder, attribute, own)
    model.register_load_state_dict_pre_hook(refuse_other_shapes)
    if gates is not None:
        add_gates(model, gates)


def resize_feed_forwards(model: Any, neurons: StoredNeurons, draw: Callable[[nn.Module], None] | None = None) -> None:
    """Give the feed-forward layers of a model the stated widths; those that have them stay as they are.

    Args:
        model: of fairseq, in which all layers of a stack have one width.
        neurons: of its feed-forward layers.
        draw: draws the weights of linear maps of other shapes, after torch.

    Raises:
        CheckpointError: the neurons are of a model with other layers, or of layers with a norm of their neurons.
    """
    layers = dict(_feed_forwards(model))
    faults = []
    for kind, counts in neurons.counts.items():
        found = sum(id.kind == kind for id in layers)
        if found != len(counts):
            faults.append(f"{NEURONS} lists {len(counts)} {kind} layers, the model has {found}")
        elif any(
            getattr(holder, "ffn_layernorm", None) is not None for id, holder in layers.items() if id.kind == kind
        ):
            faults.append(f"{NEURONS} lists {kind}, whose neurons cannot be cut")
    if faults:
        raise CheckpointError.of_faults("settings of the model", faults)
    with torch.random.fork_rng(devices=[]):
        for id, holder in layers.items():
            width = neurons.of_layer(id)
            if width is not None and holder.fc1.out_features != width:
                holder.fc1, holder.fc2 = _map(holder.fc1.in_features, width), _map(width, holder.fc2.out_features)
                for own in (holder.fc1, holder.fc2) if draw is not None else ():
                    own.apply(draw)


def _feed_forwards(model: Any) -> Iterator[tuple[GroupId, Any]]:
    """Every feed-forward layer of a fairseq transformer: id, and the layer that holds it."""
    for stack in STACKS:
        part = _stack(model, stack)
        for layer, holder in enumerate(part.layers._modules.values() if part is not None else ()):
            yield GroupId(f"{stack}-ffn", layer), holder


def _map(inputs: int, outputs: int) -> nn.Linear:
    """A linear map as torch draws it by default, which fairseq leaves as it is."""
    if inputs and outputs:
        return nn.Linear(inputs, outputs)
    return empty_linear(inputs, outputs)


def add_gates(model: Any, settings: GateSettings) -> GateSet:
    """Put gates on the heads and neurons of all attention modules and feed-forward layers of the selected kinds.

    Raises:
        CheckpointError: more heads shall stay open than have gates, or neurons that depend on each other have some.
    """
    gates = GateSet(settings)
    for id, holder, attribute in attention_modules(model):
        if id.kind in settings.kinds:
            own = getattr(holder, attribute)
            own.gates = gates.add(id, own.num_heads)
    for id, holder in _feed_forwards(model):
        if id.kind in settings.kinds:
            if getattr(holder, "ffn_layernorm", None) is not None:
                raise CheckpointError(f"{id} has a norm of its neurons: they can have no gates")
            holder.gates = gates.add(id, holder.fc2.in_features)
            holder.fc2.register_forward_pre_hook(functools.partial(_multiply_neurons, holder.gates))
    faults = number_faults(settings.target_heads, settings.min_heads, gates.heads_of_modules)
    if faults:
        raise CheckpointError.of_faults("gates", faults)
    model.register_load_state_dict_pre_hook(start_open)
    model.register_forward_pre_hook(draw_gates)
    return gates


def _multiply_neurons(gates: UnitGates, _: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Before the second matrix of a feed-forward layer: its input [..., F] times the gates [F]."""
    (neurons,) = inputs
    return (neurons * gates().to(neurons.dtype),)


def refuse_other_shapes(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Before weights are loaded: check that every module has the heads, or neurons, that the settings say.

    Raises:
        CheckpointError: naming every tensor of another shape.
    """
    faults = []
    for parameter, own, units in _cut_parameters(model, prefix):
        given = state_dict.get(parameter)
        if given is not None and given.shape != own.shape:
            faults.append(f"{parameter} is {_shape(given)}, {units} make it {_shape(own)}")
    if faults:
        raise CheckpointError.of_faults("weights and settings are of different models", faults)


def _cut_parameters(model: nn.Module, prefix: str) -> Iterator[tuple[str, Tensor, str]]:
    """Name, value and units, in words, of the parameters of attention modules and feed-forward layers."""
    for name, module in model.named_modules(prefix=prefix.rstrip(".")):
        if isinstance(module, PrunableAttention):
            units = f"{module.num_heads} heads of {module.head_dim}"
            yield from ((parameter, own, units) for parameter, own in module.named_parameters(name))
        elif isinstance(inner := getattr(module, "fc1", None), nn.Linear):
            for part in ("fc1", "fc2"):
                found = getattr(module, part).named_parameters(f"{name}.{part}")
                yield from ((parameter, own, f"{inner.out_features} neurons") for parameter, own in found)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
