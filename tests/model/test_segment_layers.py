"""Language models with a memory against a slow and obvious computation, token by token and head by head."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nmtprune.model.relative_attention import RelativeAttention, RelativeShape, distance_sinusoids, future, shift
from nmtprune.model.segment_layers import SegmentLayer, run_layers

BATCH, SEGMENT, TEXT, WIDTH = 2, 3, 12, 6
SHAPE = RelativeShape(WIDTH, heads=2, head_dim=4, persistent=5)
PRECISELY = {"rtol": 0.0, "atol": 1e-10}


def layers_of(shape: RelativeShape, neurons: int, count: int = 2) -> nn.ModuleList:
    """Layers with random weights, biases and norms in double precision."""
    torch.manual_seed(1)
    layers = nn.ModuleList(SegmentLayer(shape, neurons, 0.0, 0.0) for _ in range(count)).double().eval()
    for parameter in layers.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layers


def embeddings() -> Tensor:
    return torch.randn(BATCH, TEXT, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def in_segments(layers: nn.ModuleList, text: Tensor, length: int, memory_length: int) -> Tensor:
    """States [B, T, D] of a text that is read in segments of a length."""
    outputs, memory = [], None
    for segment in text.split(length, dim=1):
        states, memory = run_layers(layers, segment, memory, memory_length)
        outputs.append(states)
    return torch.cat(outputs, dim=1)


def position(distance: int) -> Tensor:
    """r of a distance, number by number."""
    angles = [distance / 10000 ** (2 * pair / WIDTH) for pair in range(WIDTH // 2)]
    return torch.tensor(
        [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles], dtype=torch.float64
    )


def attended(attention: Any, states: Sequence[Tensor], place: int, first: int) -> Tensor:
    """Output [D] of attention for the query at a place, whose first visible state is `first`."""
    shape, contexts = attention.shape, []
    for head in range(shape.heads):
        rows = slice(head * shape.head_dim, (head + 1) * shape.head_dim)
        query = attention.q_proj.weight[rows] @ states[place]
        scores, values = [], []
        for key in range(first, place + 1):
            content = (query + attention.content_bias[head]) @ (attention.k_proj.weight[rows] @ states[key])
            distance = attention.position_proj.weight[rows] @ position(place - key)
            scores.append((content + (query + attention.position_bias[head]) @ distance) / math.sqrt(shape.head_dim))
            values.append(attention.v_proj.weight[rows] @ states[key])
        for vector in range(shape.persistent):
            key_vector = attention.persistent_keys[head, vector] * math.sqrt(shape.head_dim)
            scores.append((query + attention.content_bias[head]) @ key_vector / math.sqrt(shape.head_dim))
            values.append(attention.persistent_values[head, vector] * math.sqrt(shape.persistent))
        total = sum(math.exp(score) for score in scores)
        contexts.append(sum(math.exp(score) / total * value for score, value in zip(scores, values, strict=True)))
    return attention.out_proj.weight @ torch.cat(contexts)


def slowly(layers: nn.ModuleList, text: Tensor, length: int, memory_length: int) -> Tensor:
    """The same as `in_segments`, one token after the other."""
    rows = []
    for row in text:
        states = list(row)
        for layer in layers:
            normed = [layer.self_attn_layer_norm(state) for state in states]
            after = []
            for place, state in enumerate(states):
                begin = place // length * length
                x = state + attended(layer.self_attn, normed, place, max(begin - memory_length, 0))
                if layer.fc1 is not None:
                    x = x + layer.fc2(torch.relu(layer.fc1(layer.final_layer_norm(x))))
                after.append(x)
            states = after
        rows.append(torch.stack(states))
    return torch.stack(rows)


@pytest.mark.parametrize("memory", [0, 2, 3, 5, 100])
@pytest.mark.parametrize(
    ("persistent", "neurons"), [(5, 0), (0, 7), (0, 0)], ids=["all-attention", "transformer-xl", "attention alone"]
)
@torch.no_grad()
def test_four_segments_are_what_a_slow_computation_makes_of_them(persistent: int, neurons: int, memory: int) -> None:
    layers = layers_of(RelativeShape(WIDTH, 2, 4, persistent), neurons)
    found = in_segments(layers, embeddings(), SEGMENT, memory)
    torch.testing.assert_close(found, slowly(layers, embeddings(), SEGMENT, memory), **PRECISELY)


@torch.no_grad()
def test_a_memory_that_is_large_enough_makes_one_long_segment() -> None:
    layers = layers_of(SHAPE, 0)
    whole = in_segments(layers, embeddings(), TEXT, 0)
    for length in (1, 3, 5):
        torch.testing.assert_close(in_segments(layers, embeddings(), length, TEXT), whole, **PRECISELY)
    assert not torch.allclose(in_segments(layers, embeddings(), 3, 2), whole)


@torch.no_grad()
def test_without_a_memory_segments_do_not_see_each_other() -> None:
    layers, text = layers_of(SHAPE, 0), embeddings()
    alone = torch.cat([run_layers(layers, part, None, 0)[0] for part in text.split(SEGMENT, dim=1)], dim=1)
    torch.testing.assert_close(in_segments(layers, text, SEGMENT, 0), alone, **PRECISELY)


def test_no_gradient_passes_through_a_memory() -> None:
    layers, first = layers_of(SHAPE, 0), embeddings()[:, :SEGMENT].requires_grad_()
    second = embeddings()[:, SEGMENT : 2 * SEGMENT].requires_grad_()
    states, memory = run_layers(layers, first, None, SEGMENT)
    run_layers(layers, second, memory, SEGMENT)[0].sum().backward()
    assert first.grad is None and second.grad is not None
    assert [each.shape for each in memory] == [(BATCH, SEGMENT, WIDTH)] * 2
    torch.testing.assert_close(memory[0], first.detach(), rtol=0, atol=0)
    assert states.shape == first.shape


def test_scores_by_distance_are_shifted_to_their_keys() -> None:
    queries, keys = 3, 7
    by_distance = torch.randn(2, queries, keys)
    shifted, hidden = shift(by_distance), future(queries, keys, torch.device("cpu"))
    for query in range(queries):
        for key in range(keys):
            distance = query + keys - queries - key
            assert hidden[query, key] == (distance < 0)
            if distance >= 0:
                assert torch.equal(shifted[:, query, key], by_distance[:, query, keys - 1 - distance])


def test_sinusoids_are_of_falling_distances() -> None:
    found = distance_sinusoids(5, WIDTH, torch.empty(0, dtype=torch.float64))
    torch.testing.assert_close(found, torch.stack([position(distance) for distance in (4, 3, 2, 1, 0)]), **PRECISELY)


@torch.no_grad()
def test_a_head_is_gone_when_what_belongs_to_it_is() -> None:
    """Of two heads one is cut: rows of the projections, columns of W_O, biases and persistent vectors."""
    (full,) = layers_of(SHAPE, 0, count=1)
    (cut,) = layers_of(RelativeShape(WIDTH, 1, 4, 5), 0, count=1)
    for name, tensor in full.state_dict().items():
        if name.endswith("out_proj.weight"):
            part = tensor[:, 4:]
        elif name.startswith("self_attn."):
            part = tensor[4:] if name.endswith("proj.weight") else tensor[1:]
        else:
            part = tensor
        cut.state_dict()[name].copy_(part)
    full.self_attn.out_proj.weight[:, :4] = 0
    torch.testing.assert_close(
        in_segments(nn.ModuleList([cut]), embeddings(), SEGMENT, 3),
        in_segments(nn.ModuleList([full]), embeddings(), SEGMENT, 3),
        **PRECISELY,
    )


@torch.no_grad()
def test_a_layer_without_heads_changes_nothing() -> None:
    layers = layers_of(RelativeShape(WIDTH, 0, 4, 5), 0)
    assert torch.equal(in_segments(layers, embeddings(), SEGMENT, 3), embeddings())


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_half_of_the_heads_are_half_of_the_parameters() -> None:
    """Figure 1 of Shim et al. 2021: 50 % of an All-attention layer, 81 % of a Transformer-XL layer."""
    width, neurons, vectors = 512, 2048, 2048
    attention, half = (RelativeAttention(RelativeShape(width, heads, 64, vectors)) for heads in (8, 4))
    assert 2 * parameters(half) == parameters(attention) == 8 * (5 * 64 * width + 2 * vectors * 64 + 2 * 64)
    full, pruned = (SegmentLayer(RelativeShape(width, heads, 64, vectors), 0, 0.0, 0.0) for heads in (8, 4))
    norm = 2 * width
    assert 2 * (parameters(pruned) - norm) == parameters(full) - norm
    full, pruned = (SegmentLayer(RelativeShape(width, heads, 64), neurons, 0.0, 0.0) for heads in (8, 4))
    assert round(100 * parameters(pruned) / parameters(full)) == 81


def test_the_papers_models_have_the_papers_parameters() -> None:
    """Tables 1 and 2: 54.6M in 16 layers, 40.9M in 12, and 45.2M with 17.2 % of the 128 heads removed."""
    one = parameters(SegmentLayer(RelativeShape(512, 8, 64, 2048), 0, 0.0, 0.0))
    assert [round(layers * one / 1e6, 1) for layers in (16, 12)] == [54.6, 40.9]
    head = parameters(RelativeAttention(RelativeShape(512, 1, 64, 2048)))
    assert round((16 * one - 22 * head) / 1e6, 1) == 45.2


def test_dropout_is_off_in_evaluation_and_drops_attention_in_training() -> None:
    torch.manual_seed(3)
    attention = RelativeAttention(SHAPE, dropout=0.5).double()
    states = embeddings()
    positions = distance_sinusoids(TEXT, WIDTH, states)
    assert not torch.equal(attention(states, states, positions), attention(states, states, positions))
    attention.eval()
    assert torch.equal(attention(states, states, positions), attention(states, states, positions))
