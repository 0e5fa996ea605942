"""A transformer in plain steps, one sentence at a time without padding, from the native model's tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import Architecture, GroupId
from nmtprune.model import Transformer
from nmtprune.network import Network, Stack

Tensors = Mapping[str, Tensor]
FUNCTIONS = {"relu": torch.relu, "swish": lambda x: x * torch.sigmoid(x), "tanh": torch.tanh}


@dataclass(frozen=True)
class Heads:
    """Factors [1, H, T] of the heads' outputs by module, and attention weights [1, H, T, S], which a pass fills in."""

    masks: Mapping[GroupId, Tensor] = field(default_factory=dict)
    observed: dict[GroupId, Tensor] = field(default_factory=dict)


def scores(
    network: Network, architecture: Architecture, tensors: Tensors, source: Tensor, target: Tensor,
    heads: Heads | None = None,
) -> Tensor:  # fmt: skip
    """Logits [T, V] of one sentence pair: tokens [S] and [T]."""
    assert network.encoder is not None
    heads = heads or Heads()
    x = embed("encoder", network.encoder, network, tensors, source)
    for layer in range(network.encoder.layers):
        x = sublayers("encoder", layer, network, architecture, tensors, x, None, heads)
    memory = finish("encoder", network.encoder, network, tensors, x)
    x = embed("decoder", network.decoder, network, tensors, target)
    for layer in range(network.decoder.layers):
        x = sublayers("decoder", layer, network, architecture, tensors, x, memory, heads)
    x = finish("decoder", network.decoder, network, tensors, x)
    return x @ tensors["output.weight"].T + (tensors["output.bias"] if network.output_bias else 0)


def norm(name: str, network: Network, tensors: Tensors, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + network.layer_norm_epsilon).sqrt()
    return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def embed(side: str, stack: Stack, network: Network, tensors: Tensors, tokens: Tensor) -> Tensor:
    table = tensors[f"{side}.embedding.tokens.weight"]
    x = table[tokens] * stack.embedding_scale
    if stack.positions is not None and stack.positions.learned:
        x = x + tensors[f"{side}.embedding.positions.weight"][stack.positions.first :][: len(tokens)]
    elif stack.positions is not None:
        half = table.shape[1] // 2
        for position in range(len(tokens)):
            for column in range(half):
                angle = torch.tensor((position + stack.positions.first) / 10000 ** (column / (half - 1)))
                x[position, column] += torch.sin(angle)
                x[position, half + column] += torch.cos(angle)
    return norm(f"{side}.embedding.norm", network, tensors, x) if stack.embedding_norm else x


def finish(side: str, stack: Stack, network: Network, tensors: Tensors, x: Tensor) -> Tensor:
    return norm(f"{side}.final_norm", network, tensors, x) if stack.final_norm else x


def sublayers(
    side: str, layer: int, network: Network, architecture: Architecture, tensors: Tensors, x: Tensor,
    memory: Tensor | None, heads: Heads,
) -> Tensor:  # fmt: skip
    stack = network.encoder if side == "encoder" else network.decoder
    assert stack is not None
    for name in ("self_attention", *(["cross_attention"] if side == "decoder" else []), "feed_forward"):
        prefix, before = f"{side}.layers.{layer}.{name}", x
        if "n" in stack.preprocess:
            x = norm(f"{prefix}_pre_norm", network, tensors, x)
        if name == "feed_forward":
            x = F.linear(x, tensors[f"{prefix}.input.weight"], tensors[f"{prefix}.input.bias"])
            x = FUNCTIONS[network.activation](x)
            x = F.linear(x, tensors[f"{prefix}.output.weight"], tensors[f"{prefix}.output.bias"])
        else:
            own = {key[len(prefix) + 1 :]: tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
            keys = x if memory is None or name == "self_attention" else memory
            causal = torch.ones(1, len(x), len(x), dtype=torch.bool).tril()
            seen = causal if side == "decoder" and name == "self_attention" else None
            id = GroupId("cross" if name == "cross_attention" else side, layer)
            mask = heads.masks.get(id)
            output, heads.observed[id] = attend(own, x[None], keys[None], architecture[id].head_dim, seen, mask)
            x = output[0]
        for operation in stack.postprocess:
            x = before + x if operation == "a" else norm(f"{prefix}_post_norm", network, tensors, x)
    return x


def attend(
    parameters: Mapping[str, Tensor],
    queries: Tensor,
    keys: Tensor,
    head_dim: int,
    seen: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, T, D] and attention weights [B, H, T, S] of one module.

    Args:
        parameters: ``query.weight`` [H * K, D], ``query.bias`` and the same for ``key``, ``value``, ``output``.
        queries: states [B, T, D].
        keys: states [B, S, D'].
        head_dim: K.
        seen: [B, T, S], the keys that each query sees; None: all.
        mask: factor of each head's output, [B, H, T]; None: ones.
    """
    (rows, length, width), heads = queries.shape, parameters["query.weight"].shape[0] // head_dim
    output = torch.zeros(rows, length, width, dtype=queries.dtype)
    weights = torch.zeros(rows, heads, length, keys.shape[1], dtype=queries.dtype)
    for row in range(rows):
        for query in range(length):
            output[row, query] = parameters["output.bias"]
            for head in range(heads):
                own = slice(head * head_dim, (head + 1) * head_dim)
                q = parameters["query.weight"][own] @ queries[row, query] + parameters["query.bias"][own]
                k = keys[row] @ parameters["key.weight"][own].T + parameters["key.bias"][own]
                v = keys[row] @ parameters["value.weight"][own].T + parameters["value.bias"][own]
                scores = k @ q / math.sqrt(head_dim)
                if seen is not None:
                    scores[~seen[row, query]] = -math.inf
                attention = torch.softmax(scores, 0)
                weights[row, head, query] = attention
                found = attention @ v
                if mask is not None:
                    found = found * mask[row, head, query]
                output[row, query] += parameters["output.weight"][:, own] @ found
    return output, weights


@torch.no_grad()
def reference_loss(
    model: Transformer, source: Sequence[int], target: Sequence[int], masks: Mapping[GroupId, Tensor]
) -> float:
    """Negative log-likelihood of a target in nats, summed over its tokens."""
    previous = torch.tensor([[2, *target[:-1]]])
    scores = model(torch.tensor([list(source)]), previous, masks)[0].double()
    found = scores if model.normalized else scores.log_softmax(-1)
    return -float(sum(found[place, word] for place, word in enumerate(target)))
