"""What a network may be beyond fairseq's choices: other orders of norms, positions from 0, no padding token."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.model import Transformer
from nmtprune.network import Network, Positions, Stack
from tests.support.oracles.transformer import scores

WIDTH, INNER, SOURCE, TARGET = 8, 12, 11, 13
HEADS = {"encoder.0": 3, "encoder.1": 0, "decoder.0": 1, "cross.0": 2}
ARCHITECTURE = Architecture(tuple(AttentionModule(GroupId.parse(name), heads, 4) for name, heads in HEADS.items()))
PLAIN = Network(
    encoder=Stack(2, "n", "a", True, 2.0, 50, positions=Positions(False, 0)),
    decoder=Stack(1, "n", "a", True, 2.0, 50, positions=Positions(False, 0)),
    activation="swish",
    padding=-1,
    eos=0,
    layer_norm_epsilon=1e-3,
    output_bias=True,
)


def with_stacks(**changes: object) -> Network:
    assert PLAIN.encoder is not None
    return replace(PLAIN, encoder=replace(PLAIN.encoder, **changes), decoder=replace(PLAIN.decoder, **changes))  # type: ignore[arg-type]


NETWORKS = {
    "norm before": PLAIN,
    "norm after": with_stacks(preprocess="", postprocess="an", final_norm=False),
    "norm before and after": with_stacks(postprocess="an"),
    "norm of the update": with_stacks(preprocess="", postprocess="na"),
    "no residual connection": with_stacks(postprocess="", embedding_norm=True),
    "learned positions from 1": with_stacks(positions=Positions(True, 1), embedding_scale=1.0),
    "another epsilon": replace(PLAIN, layer_norm_epsilon=0.5, output_bias=False, activation="tanh"),
    "with padding": replace(PLAIN, padding=5),
}


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor; ``x:`` names a linear layer with bias and ``x=`` a norm."""
    assert network.encoder is not None
    found: dict[str, tuple[int, ...]] = {"output:": (TARGET, WIDTH)}
    for side, stack, words in (("encoder", network.encoder, SOURCE), ("decoder", network.decoder, TARGET)):
        found[f"{side}.embedding.tokens.weight"] = (words, WIDTH)
        if stack.positions is not None and stack.positions.learned:
            found[f"{side}.embedding.positions.weight"] = (20, WIDTH)
        found |= {f"{side}.embedding.norm=": ()} if stack.embedding_norm else {}
        found |= {f"{side}.final_norm=": ()} if stack.final_norm else {}
        for layer in range(stack.layers):
            found |= layer_shapes(f"{side}.layers.{layer}", layer, stack)
    return found


def layer_shapes(prefix: str, layer: int, stack: Stack) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {f"{prefix}.feed_forward.input:": (INNER, WIDTH)}
    found[f"{prefix}.feed_forward.output:"] = (WIDTH, INNER)
    side = prefix.split(".")[0]
    kinds = {"self_attention": side} | ({"cross_attention": "cross"} if side == "decoder" else {})
    for name, kind in kinds.items():
        inner = ARCHITECTURE[GroupId(kind, layer)].heads * 4
        found |= {f"{prefix}.{name}.{part}:": (inner, WIDTH) for part in ("query", "key", "value")}
        found[f"{prefix}.{name}.output:"] = (WIDTH, inner)
    for place, operations in (("pre", stack.preprocess), ("post", stack.postprocess)):
        if "n" in operations:
            found |= {f"{prefix}.{name}_{place}_norm=": () for name in (*kinds, "feed_forward")}
    return found


def tensors_of(network: Network) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}
    for name, shape in shapes_of(network).items():
        own = {name: shape}
        if name[-1] in ":=":
            weight = (WIDTH,) if name[-1] == "=" else shape
            own = {f"{name[:-1]}.weight": weight, f"{name[:-1]}.bias": weight[:1]}
        for full, size in own.items():
            found[full] = torch.randn(size, generator=generator, dtype=torch.float64)
    if not network.output_bias:
        del found["output.bias"]
    return found


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@torch.inference_mode()
def test_scores_are_those_of_plain_steps(network: Network) -> None:
    tensors = tensors_of(network)
    model = Transformer(network, ARCHITECTURE, tensors)
    assert model.dtype == torch.float64
    pairs = [([3, 0], [2, 4, 1]), ([1, 2, 3, 4, 7, 0], [12, 3]), ([8], [6, 7, 8, 9, 10, 11])]
    source = torch.tensor([[network.padding] * (6 - len(tokens)) + tokens for tokens, _ in pairs])
    target = torch.tensor([tokens + [network.padding] * (6 - len(tokens)) for _, tokens in pairs])
    found = model(source, target)
    for row, (left, right) in enumerate(pairs):
        expected = scores(network, ARCHITECTURE, tensors, torch.tensor(left), torch.tensor(right))
        torch.testing.assert_close(found[row, : len(right)], expected, rtol=0, atol=1e-6)
