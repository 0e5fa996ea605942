"""Why a toolkit cannot say a model: what the refusals of several toolkits have in common."""

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields

from nmtprune.convert.portable import Portable
from nmtprune.data.huggingface_vocabulary import FsmtTokenizerText
from nmtprune.network import Stack


def unusual(model: Portable) -> Iterator[str]:
    """What a model has that is written for no other toolkit."""
    network = model.network
    if model.checkpoint.right_to_left:
        yield "sentences from right to left (right-left)"
    if network.joint_attention:
        yield "joint attention of the decoder"
    if network.output_bands or network.output_projection:
        yield "an adaptive softmax or a projection before the output"
    if network.decoder.recurrent:
        yield "an SSRU decoder"
    if network.decoder.tied and len(set(network.decoder.tied)) < network.decoder.layers:
        yield "tied decoder layers"
    if any(isinstance(each, FsmtTokenizerText) for each in model.corpus.codec.segmenters.values()):
        yield "text of FSMTTokenizer, which no other toolkit splits"
    for name, stack in model.stacks.items():
        yield from _unusual_in(name, stack)


def _unusual_in(name: str, stack: Stack) -> Iterator[str]:
    if stack.embedding_bands or stack.embedding_projection:
        yield f"adaptive or projected embeddings of the {name}"
    if stack.attention_norm or stack.feed_forward_norm or stack.residual_scale:
        yield f"norms or scales inside the {name}'s sublayers (NormFormer)"


def scale_faults(model: Portable, *, one: bool) -> Iterator[str]:
    """Factors of token embeddings other than the root of the width; 1 is allowed where `one` says so."""
    for name, stack in model.stacks.items():
        scale, width = stack.embedding_scale, model.width if name == "decoder" else model.width_of_encoder
        if not math.isclose(scale, math.sqrt(width), rel_tol=1e-6) and not (one and scale == 1.0):
            yield f"token embeddings of the {name} times {scale:g}"
    scales = {stack.embedding_scale for stack in model.stacks.values()}
    if len(scales) > 1:
        yield "embeddings scaled in one stack and not in the other"


def head_faults(model: Portable) -> Iterator[str]:
    """Heads whose width does not divide the width of the model, and stacks with heads of several widths."""
    for stack in model.stacks:
        widths = sorted(model.head_dims(stack))
        if len(widths) > 1:
            yield f"heads of {' and '.join(map(str, widths))} in the {stack}"
        elif widths and (model.width % widths[0] or _most_heads(model, stack) * widths[0] > model.width):
            yield f"heads of {widths[0]} in a model of {model.width}"


def _most_heads(model: Portable, stack: str) -> int:
    return max((module.units for module in model.architecture if module.id.stack == stack), default=0)


def full_heads(model: Portable) -> dict[str, int]:
    """Heads by stack that fill the width of a model without `head_faults`."""
    return {stack: model.width // next(iter(model.head_dims(stack)), model.width) for stack in model.stacks}


def frame_faults(model: Portable, known: str = "") -> Iterator[str]:
    """Tokens around the words of every sentence."""
    tokens, frame = model.corpus.model.language_tokens, model.corpus.frame
    if tokens is not None:
        yield f"language tokens of {tokens.models}{known}"
    elif frame.source_front or frame.target_front or frame.source_end or frame.target_end:
        yield "`source_prefix` and `target_prefix`: name them when the converted model is run"


def activation_fault(model: Portable, known: Mapping[str, str]) -> Iterator[str]:
    """An activation that a toolkit does not have."""
    if model.network.activation not in known:
        yield f"activation {model.network.activation}"


def epsilon_notes(model: Portable, theirs: float) -> Iterator[str]:
    """A remark where layer norms add another number to the variance."""
    own = model.network.layer_norm_epsilon
    if own != theirs:
        yield f"layer norms add {theirs:g} to the variance there, {own:g} here: scores differ in their last digits"


def search_notes(model: Portable, written: Collection[str], barred: Collection[int]) -> Iterator[str]:
    """A remark on settings of the search that the files of a toolkit do not say.

    Args:
        model: the model.
        written: names of the options that they say.
        barred: ids that the toolkit is kept from choosing.
    """
    own, default = model.search, type(model.search)()
    unsaid = {each.name: getattr(own, each.name) for each in fields(own) if each.name not in written}
    lost = [f"{name} {value}" for name, value in unsaid.items() if name != "never" and value != getattr(default, name)]
    never = [str(id) for id in unsaid.get("never", ()) if id not in barred]
    lost += [f"never {' '.join(never)}"] if never else []
    if lost:
        yield f"settings of the search that are not written, so that translations may differ: {', '.join(lost)}"
