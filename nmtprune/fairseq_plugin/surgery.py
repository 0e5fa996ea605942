"""Replace the attention modules of a model that fairseq has built."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nmtprune.architecture import KINDS, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.fairseq_plugin.head_gates import GateSet, draw_gates, start_open
from nmtprune.fairseq_plugin.heads import HEADS, StoredHeads
from nmtprune.fairseq_plugin.prunable_attention import PrunableAttention
from nmtprune.gates import GateSettings

_ATTRIBUTES = {"encoder": "self_attn", "decoder": "self_attn", "cross": "encoder_attn"}


def attention_modules(model: Any) -> Iterator[tuple[GroupId, nn.Module, str]]:
    """Every attention module of a fairseq transformer: id, the layer that holds it, its name in the layer.

    Raises:
        CheckpointError: a layer that holds its attention elsewhere.
    """
    for kind, attribute in _ATTRIBUTES.items():
        stack = getattr(model, "encoder" if kind == "encoder" else "decoder", None)
        if stack is None:
            continue
        # The list itself skips layers at random in training mode when it is a LayerDropModuleList.
        for layer, holder in enumerate(stack.layers._modules.values()):
            if "self_attn" not in holder._modules:
                raise CheckpointError(f"{kind} layer {layer} is a {type(holder).__name__}, which has no self_attn")
            if holder._modules.get(attribute) is not None:
                yield GroupId(kind, layer), holder, attribute


def replace_attention(model: Any, heads: StoredHeads, gates: GateSettings | None = None) -> None:
    """Give every attention module of a model the stated heads, and let the model refuse weights of other shapes.

    Args:
        model: of fairseq.
        heads: of all its attention modules.
        gates: of the heads; None for none.

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
            own = PrunableAttention.replacing(getattr(holder, attribute), *heads.of_module(id))
            setattr(holder, attribute, own)
    model.register_load_state_dict_pre_hook(refuse_other_shapes)
    if gates is not None:
        add_gates(model, gates)


def add_gates(model: Any, settings: GateSettings) -> GateSet:
    """Put gates on the heads of all attention modules of the selected kinds.

    Raises:
        CheckpointError: more heads shall stay open than have gates.
    """
    gates = GateSet(settings)
    for id, holder, attribute in attention_modules(model):
        if id.kind in settings.kinds:
            own = getattr(holder, attribute)
            own.gates = gates.add(id, own.num_heads)
    if settings.target_heads is not None and settings.target_heads > gates.heads:
        raise CheckpointError(f"{settings.target_heads} heads shall stay open, {gates.heads} have gates")
    model.register_load_state_dict_pre_hook(start_open)
    model.register_forward_pre_hook(draw_gates)
    return gates


def refuse_other_shapes(model: nn.Module, state_dict: Mapping[str, Tensor], prefix: str = "", *_: Any) -> None:
    """Before weights are loaded: check that every attention module has the heads that the settings say.

    Raises:
        CheckpointError: naming every tensor of another shape.
    """
    faults = []
    for name, module in model.named_modules():
        if not isinstance(module, PrunableAttention):
            continue
        for parameter, own in module.named_parameters(prefix + name):
            given = state_dict.get(parameter)
            if given is not None and given.shape != own.shape:
                heads = f"{module.num_heads} heads of {module.head_dim}"
                faults.append(f"{parameter} is {_shape(given)}, {heads} make it {_shape(own)}")
    if faults:
        raise CheckpointError.of_faults("weights and settings are of different models", faults)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
