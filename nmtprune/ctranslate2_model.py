"""The CTranslate2 model of a checkpoint, full or slim.

CTranslate2 has one number of heads per stack and derives their width from it: a slim model that its own converters take
computes something else, without a word. Here modules are padded with heads of zeros to the largest number of their
stack, which changes nothing, and the width of heads is stated.

Layers may have any number of neurons, which CTranslate2 reads from the weights. Where neurons were cut, zeros fill them
up to a multiple of 8, for which kernels are made; other zero neurons are left out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import AttentionModule, Group, GroupId
from nmtprune.data.huggingface_vocabulary import HuggingFaceVocabulary
from nmtprune.data.vocabulary import FairseqVocabulary, Vocabulary
from nmtprune.errors import CheckpointError, EngineError
from nmtprune.formats.base import Checkpoint
from nmtprune.model import Transformer
from nmtprune.model.attention import Attention, CrossAttention, SelfAttention
from nmtprune.model.embedding import Embedding, PlainTable, PositionTable, sinusoids
from nmtprune.model.output import LinearOutput
from nmtprune.model.sublayers import FeedForward, LayerNorm, Residual
from nmtprune.network import Network, Stack

if TYPE_CHECKING:
    from ctranslate2.specs import TransformerSpec

QUANTIZATIONS = ("float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16")
"""How CTranslate2 can store weights."""

_NEURONS_MULTIPLE = 8
_MOST_POSITIONS = 2048
_NEVER = -1e4  # no probability is left of it, and half precision has it
_ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_tanh": "GELUTanh", "swish": "SWISH", "tanh": "Tanh"}


def uniform_heads(checkpoint: Checkpoint) -> tuple[int, int]:
    """Heads per module of the encoder and of the decoder after padding: the most that one of them has, at least one."""
    stacks = _stacks(checkpoint)
    return max(1, *(module.heads for module in stacks[0])), max(1, *(module.heads for module in stacks[1]))


def padding_heads(checkpoint: Checkpoint) -> int:
    """How many heads of zeros the exported model has."""
    found = zip(_stacks(checkpoint), uniform_heads(checkpoint), strict=True)
    return sum(most - module.heads for modules, most in found for module in modules)


def stored_neurons(checkpoint: Checkpoint, group: Group) -> int:
    """Neurons of a feed-forward layer in the exported model, zero ones included."""
    lineage = checkpoint.lineage
    root = {} if lineage is None else lineage.root.feed_forwards
    if lineage is None or group.units == root.get(lineage.in_root(group.id), group.units):
        return group.units
    return max(1, -(-group.units // _NEURONS_MULTIPLE)) * _NEURONS_MULTIPLE


def check_exportable(checkpoint: Checkpoint) -> None:
    """Check that CTranslate2 is there and can run a model.

    Raises:
        EngineError: it cannot, all reasons; or it is not installed.
        CheckpointError: an encoder alone, with which no engine translates.
    """
    import importlib.util

    if importlib.util.find_spec("ctranslate2") is None:
        raise EngineError("CTranslate2 is not installed: pip install 'nmtprune[ct2]'")
    if checkpoint.encoder_only:
        checkpoint.profile()  # refuses it as a model: no other engine translates with it either
    try:
        network = checkpoint.network()
    except CheckpointError as error:
        raise EngineError(f"{checkpoint.path}: {error}", error.faults) from error
    faults = list(_faults(network, checkpoint))
    if faults:
        raise EngineError.of_faults(f"{checkpoint.path}: CTranslate2 cannot run this model", faults)


def write_ctranslate2(
    checkpoint: Checkpoint, vocabularies: tuple[Vocabulary, Vocabulary], folder: Path, quantization: str
) -> None:
    """Write a model for CTranslate2 into a folder that is there.

    Args:
        checkpoint: that passed `check_exportable`.
        vocabularies: of source and target.
        folder: gets ``model.bin``, ``config.json`` and the vocabularies.
        quantization: one of QUANTIZATIONS.

    Raises:
        CheckpointError: tensors are missing or misshapen.
    """
    spec = _specification(checkpoint, vocabularies)
    spec.validate()
    spec.optimize(quantization=quantization)
    spec.save(str(folder))


def _stacks(checkpoint: Checkpoint) -> tuple[list[AttentionModule], list[AttentionModule]]:
    modules = list(checkpoint.architecture)
    encoder = [module for module in modules if module.id.kind == "encoder"]
    return encoder, [module for module in modules if module.id.kind != "encoder"]


def _faults(network: Network, checkpoint: Checkpoint) -> Iterator[str]:
    """Why CTranslate2 cannot run a network."""
    if checkpoint.right_to_left:
        yield "sentences from right to left (right-left)"
    if network.encoder is None:
        yield "a language model (translation models are exported)"
        return
    if network.decoder.recurrent:
        yield "an SSRU decoder"
    if network.joint_attention:
        yield "joint attention of the decoder"
    if network.output_bands or network.output_projection:
        yield "an adaptive softmax or a projection before the output"
    if network.activation not in _ACTIVATIONS:
        yield f"activation {network.activation}"
    yield from _stack_faults({"encoder": network.encoder, "decoder": network.decoder})
    for name, modules in zip(("encoder", "decoder"), _stacks(checkpoint), strict=True):
        widths = sorted({module.head_dim for module in modules})
        if len(widths) > 1:
            yield f"heads of {' and '.join(map(str, widths))} in one {name}"


def _stack_faults(stacks: Mapping[str, Stack]) -> Iterator[str]:
    for name, stack in stacks.items():
        if (stack.preprocess, stack.postprocess) not in (("n", "a"), ("", "an")):
            yield f"{name} sublayers with '{stack.preprocess}' before and '{stack.postprocess}' after them"
        if stack.embedding_bands or stack.embedding_projection:
            yield f"adaptive or projected embeddings of the {name}"
        if stack.attention_norm or stack.feed_forward_norm or stack.residual_scale:
            yield f"norms or scales inside the {name}'s sublayers (NormFormer)"


def _specification(checkpoint: Checkpoint, vocabularies: tuple[Vocabulary, Vocabulary]) -> "TransformerSpec":
    from ctranslate2.specs import TransformerSpec, common_spec, transformer_spec

    network = checkpoint.network()
    # Copies: CTranslate2 rounds weights in place.
    tensors = {name: tensor.clone() for name, tensor in checkpoint.native_tensors().items()}
    model = Transformer(network, checkpoint.architecture, tensors, "cpu", torch.float32)
    heads = uniform_heads(checkpoint)
    activation = getattr(common_spec.Activation, _ACTIVATIONS[network.activation])

    def stack(kind: Any, own: Stack, number: int) -> Any:
        modules = _stacks(checkpoint)[number]
        return kind(
            own.layers,
            heads[number],
            pre_norm="n" in own.preprocess,
            no_final_norm=not own.final_norm,
            activation=activation,
            layernorm_embedding=own.embedding_norm,
            head_dim=modules[0].head_dim if modules else None,
        )

    output = model.output
    if network.encoder is None or model.encoder is None or not isinstance(output, LinearOutput):
        raise ValueError("a model that check_exportable refuses")
    encoder = stack(transformer_spec.TransformerEncoderSpec, network.encoder, 0)
    decoder = stack(transformer_spec.TransformerDecoderSpec, network.decoder, 1)
    neurons = {group.id: stored_neurons(checkpoint, group) for group in checkpoint.architecture.feed_forwards}
    _set_stack(encoder, encoder.embeddings[0], model.encoder, network.encoder, neurons)
    _set_stack(decoder, decoder.embeddings, model.decoder, network.decoder, neurons)
    decoder.embeddings.weight = decoder.embeddings.weight[: output.words]  # Marian's zero vector stands behind them
    decoder.projection.weight = output.weight.numpy()
    decoder.projection.bias = _output_bias(output, vocabularies[1].pad)
    return _with_vocabularies(TransformerSpec(encoder, decoder), network, vocabularies)


def _output_bias(output: LinearOutput, pad: int) -> Any:
    """The output layer's bias [V], by which padding is never chosen: CTranslate2 takes it for a word like others."""
    bias = torch.zeros(output.words) if output.bias is None else output.bias.clone()
    if pad >= 0:
        bias[pad] = _NEVER
    return bias.numpy()


def _with_vocabularies(
    spec: "TransformerSpec", network: Network, vocabularies: tuple[Vocabulary, Vocabulary]
) -> "TransformerSpec":
    """The specification with vocabularies, and what it must know of how sentences begin and end."""
    source, target = vocabularies
    spec.register_source_vocabulary(list(source.symbols))
    spec.register_target_vocabulary(list(target.symbols))
    config = spec.config
    config.unk_token, config.eos_token = target.symbols[target.unk], target.symbols[target.eos]
    config.add_source_eos, config.layer_norm_epsilon = not ends_otherwise(source), network.layer_norm_epsilon
    if target.start_symbol is not None:
        config.decoder_start_token = target.start_symbol
    else:
        # Marian's first word follows a zero vector; the token that stands for it is not looked up.
        spec.decoder.start_from_zero_embedding = True
        config.decoder_start_token = config.bos_token = config.eos_token
    return spec


def ends_otherwise(vocabulary: Vocabulary) -> bool:
    """Whether another symbol than ``</s>`` ends the source sentences of a model: CTranslate2 adds none to them then."""
    if isinstance(vocabulary, HuggingFaceVocabulary):
        return vocabulary.eos in vocabulary.hidden
    return isinstance(vocabulary, FairseqVocabulary) and vocabulary.eos != FairseqVocabulary.eos


def _set_stack(spec: Any, embeddings: Any, stack: Any, own: Stack, neurons: Mapping[GroupId, int]) -> None:
    """Embeddings, positions, norms and layers, with these numbers of neurons, of the encoder or the decoder."""
    embedding: Embedding = stack.embedding
    if not isinstance(embedding.tokens, PlainTable):
        raise ValueError("adaptive embeddings")
    embeddings.weight = embedding.tokens.weight.numpy()
    spec.scale_embeddings = float(own.embedding_scale)
    spec.position_encodings.encodings = _positions(embedding, own).numpy()
    if embedding.norm is not None:
        _set_norm(spec.layernorm_embedding, embedding.norm)
    if stack.final_norm is not None:
        if not hasattr(spec, "layer_norm"):  # post-norm stacks seldom have one
            from ctranslate2.specs import common_spec

            spec.layer_norm = common_spec.LayerNormSpec()
        _set_norm(spec.layer_norm, stack.final_norm)
    for target, layer in zip(spec.layer, stack.layers, strict=True):
        heads = int(spec.num_heads)
        _set_self_attention(target.self_attention, layer.self_attention, heads)
        _set_norm(target.self_attention.layer_norm, _norm_of(layer.around_self_attention))
        if hasattr(target, "attention"):
            _set_cross_attention(target.attention, layer.cross_attention, heads)
            _set_norm(target.attention.layer_norm, _norm_of(layer.around_cross_attention))
        _set_feed_forward(target.ffn, layer.feed_forward, neurons)
        _set_norm(target.ffn.layer_norm, _norm_of(layer.around_feed_forward))


def _positions(embedding: Embedding, own: Stack) -> Tensor:
    """Rows [P, D] that are added to embeddings; zeros for a model without positions."""
    count, table = min(own.max_positions, _MOST_POSITIONS), embedding.positions
    if table is None:
        return torch.zeros(count, embedding.width)
    return _rows(table, count, embedding.width)


def _rows(table: PositionTable, count: int, width: int) -> Tensor:
    if table.learned:
        return table.rows[table.first :].float()
    return sinusoids(table.first + count, width, table.first - 1)[table.first :]


def _norm_of(residual: Residual) -> LayerNorm:
    found = residual.pre_norm or residual.post_norm
    if found is None:
        raise ValueError("a sublayer without a norm")
    return found


def _set_norm(spec: Any, norm: LayerNorm) -> None:
    spec.gamma, spec.beta = norm.weight.numpy(), norm.bias.numpy()


def _set_self_attention(spec: Any, attention: SelfAttention, heads: int) -> None:
    parts = zip(attention.input_weight.chunk(3), attention.input_bias.chunk(3), strict=True)
    _set_inputs(spec.linear[0], [(_padded(weight, attention, heads), _padded(bias, attention, heads))
                                 for weight, bias in parts])  # fmt: skip
    _set_output(spec.linear[1], attention, heads)


def _set_cross_attention(spec: Any, attention: CrossAttention, heads: int) -> None:
    query = _padded(attention.query_weight, attention, heads), _padded(attention.query_bias, attention, heads)
    parts = zip(attention.source_weight.chunk(2), attention.source_bias.chunk(2), strict=True)
    _set_inputs(spec.linear[0], [query])
    _set_inputs(spec.linear[1], [(_padded(weight, attention, heads), _padded(bias, attention, heads))
                                 for weight, bias in parts])  # fmt: skip
    _set_output(spec.linear[2], attention, heads)


def _set_inputs(spec: Any, parts: list[tuple[Tensor, Tensor]]) -> None:
    weights, biases = zip(*parts, strict=True)
    spec.weight, spec.bias = torch.cat(weights).numpy(), torch.cat(biases).numpy()


def _set_output(spec: Any, attention: Attention, heads: int) -> None:
    spec.weight = _padded(attention.output_weight.T, attention, heads).T.contiguous().numpy()
    spec.bias = attention.output_bias.numpy()


def _padded(rows: Tensor, attention: Attention, heads: int) -> Tensor:
    """Rows [H * K, ...] of a module's real heads, and zeros for those that it lacks."""
    own = rows[: attention.real_units * attention.head_dim]
    return torch.cat([own, own.new_zeros(heads * attention.head_dim - len(own), *rows.shape[1:])])


def _set_feed_forward(spec: Any, feed_forward: FeedForward, neurons: Mapping[GroupId, int]) -> None:
    """The real neurons of a layer, and zeros up to the number that `neurons` says; without a group all as they are."""
    own, missing = len(feed_forward.input_bias), 0
    if feed_forward.id is not None:
        own, missing = feed_forward.real_units, neurons[feed_forward.id] - feed_forward.real_units
    first, bias, columns = feed_forward.input_weight[:own], feed_forward.input_bias[:own], feed_forward.output_weight
    spec.linear_0.weight = F.pad(first, (0, 0, 0, missing)).numpy()
    spec.linear_0.bias = F.pad(bias, (0, missing)).numpy()
    spec.linear_1.weight = F.pad(columns[:, :own], (0, missing)).contiguous().numpy()
    spec.linear_1.bias = feed_forward.output_bias.numpy()
