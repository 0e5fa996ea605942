"""From Marian's options to the description of the network that the native model runs, or to what keeps it from it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from nmtprune.architecture import Architecture, GroupId
from nmtprune.errors import CheckpointError
from nmtprune.formats.marian import layout
from nmtprune.formats.marian.options import Options
from nmtprune.network import Network, Positions, Stack

if TYPE_CHECKING:
    from torch import Tensor

EOS = 0
"""Id that Marian's vocabularies give to the end of a sentence, which also pads batches."""

_EPSILON = 1e-6
_MAX_POSITIONS = 100_000
_NO_ACTIVATION = "linear"
_RECURRENCE = {"W": "input.weight", "Wf": "gate.weight", "bf": "gate.bias", "Wo": "output.weight", "bo": "output.bias"}
_RECURRENCE |= {"gamma": "input_norm.weight", "gammaf": "gate_norm.weight"}
_ONE_NORM = ("transformer-preprocess", "transformer-postprocess-emb", "transformer-postprocess-top")
"""Where the native model has room for a layer norm, and for nothing else."""
_LINEAR = {"q": "query", "k": "key", "v": "value", "o": "output", "1": "input", "2": "output"}
_SUBLAYERS = {"self": "self_attention", "context": "cross_attention", "rnn": "recurrence"}


def describe_network(options: Options) -> Network:
    """The network of a Marian transformer.

    Raises:
        CheckpointError: something that the native model does not compute; all reasons.
    """
    faults = list(_faults(options))
    if faults:
        raise CheckpointError.of_faults("the native model cannot run this checkpoint", faults)
    return Network(
        encoder=_stack(options, options.depths[0]),
        decoder=replace(
            _stack(options, options.depths[1]),
            recurrent=options.autoregression == "ssru",
            recurrence_norm=options.flag("layer-normalization"),
            recurrence_projection=options.flag("transformer-rnn-projection"),
            tied=tuple(number - 1 for number in options.tied),
        ),
        activation=options.settings["transformer-ffn-activation"] or _NO_ACTIVATION,
        padding=-1,
        eos=EOS,
        layer_norm_epsilon=_EPSILON,
        output_bias=not options.flag("output-omit-bias"),
    )


def _faults(options: Options) -> Iterator[str]:
    depths = {stack: options.feed_forward(stack)[1] for stack in ("encoder", "decoder")}
    for stack, depth in depths.items():
        if depth != 2:
            name = "transformer-decoder-ffn-depth" if stack == "decoder" else "transformer-ffn-depth"
            yield f"{depth} linear layers in the {stack}'s feed-forward ({name})"
    for name in _ONE_NORM:
        if options.sequence(name) not in ("", "n"):
            yield f"{name}: {options.settings[name]}"


def _stack(options: Options, layers: int) -> Stack:
    positions = not options.flag("transformer-disable-position-embeddings")
    return Stack(
        layers=layers,
        preprocess=options.sequence("transformer-preprocess"),
        postprocess=options.sequence("transformer-postprocess"),
        final_norm=options.sequence("transformer-postprocess-top") == "n",
        # Marian scales embeddings where it adds positions to them, and nowhere else.
        embedding_scale=math.sqrt(options.width) if positions else 1.0,
        max_positions=_MAX_POSITIONS,
        embedding_norm="n" in options.sequence("transformer-postprocess-emb"),
        positions=Positions(False, 0) if positions else None,
    )


def native_tensors(
    options: Options, architecture: Architecture, tensors: "Mapping[str, Tensor]"
) -> "dict[str, Tensor]":
    """The parameters as the native model names and lays them out: matrices transposed, vectors of one axis.

    The decoder's table has a row of zeros behind the vocabulary's: what Marian feeds before the first word.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        for native, value in _translated(name, tensor, options):
            found[native] = value
    if not options.projection:
        for module in architecture:
            found |= _identity(module.id, tensors[f"{layout.prefix(module.id)}_bv"][0])
    return found


def file_names(options: Options, tensors: "Mapping[str, Tensor]") -> dict[str, str]:
    """Native name -> name in the file, for the parameters of layers: tables and output layers are left out."""
    names = {name: [native for native, _ in _translated(name, tensors[name], options)] for name in tensors}
    return {natives[0]: name for name, natives in names.items() if ".layers." in natives[0]}


def _identity(id: GroupId, like: "Tensor") -> "dict[str, Tensor]":
    """W_O of a module whose heads are joined as they are."""
    own = native_parameter(f"{layout.prefix(id)}_Wo").removesuffix("weight")
    return {f"{own}weight": like.new_ones(len(like)).diag(), f"{own}bias": like.new_zeros(len(like))}


def _translated(name: str, tensor: "Tensor", options: Options) -> "Iterator[tuple[str, Tensor]]":
    if name in layout.TABLES:
        yield from _table(name, tensor, options)
    elif name == layout.OUTPUT_BIAS:
        yield "output.bias", tensor[0]
    elif name in layout.OUTPUT:
        yield "output.weight", tensor if name == layout.OUTPUT[0] else tensor.T
    else:
        rest = name.partition("_")[2]
        yield native_parameter(name), tensor[0] if tensor.shape[0] == 1 and not _is_matrix(rest) else tensor.T


def _table(name: str, tensor: "Tensor", options: Options) -> "Iterator[tuple[str, Tensor]]":
    if name != "decoder_Wemb":
        yield "encoder.embedding.tokens.weight", tensor
    if name != "encoder_Wemb":
        start = tensor.new_zeros(1, tensor.shape[1])
        import torch

        yield "decoder.embedding.tokens.weight", torch.cat([tensor, start])
        if options.flag("tied-embeddings") or options.flag("tied-embeddings-all"):
            yield "output.weight", tensor


def _is_matrix(rest: str) -> bool:
    return rest.rpartition("_")[2].startswith("W")


def native_parameter(name: str) -> str:
    """``encoder_l1_self_Wq`` -> ``encoder.layers.0.self_attention.query.weight``; not for tables and output layers."""
    stack, _, rest = name.partition("_")
    layer, _, part = rest.partition("_")
    if layer in ("emb", "top"):
        place = "embedding.norm" if layer == "emb" else "final_norm"
        return f"{stack}.{place}.{'weight' if 'scale' in part else 'bias'}"
    own = f"{stack}.layers.{int(layer[1:]) - 1}"
    sublayer, _, what = part.partition("_")
    inner = _SUBLAYERS.get(sublayer, "feed_forward")
    if "ln_" in what:
        place = "pre" if what.endswith("_pre") else "post"
        return f"{own}.{inner}_{place}_norm.{'weight' if 'scale' in what else 'bias'}"
    if sublayer == "rnn":
        return f"{own}.{inner}.{_RECURRENCE[what]}"
    kind = "weight" if what[0] == "W" else "bias"
    return f"{own}.{inner}.{_LINEAR[what[1:]]}.{kind}"
