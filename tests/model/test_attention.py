"""Attention with head masks, against plain loops and against finite differences."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import AttentionModule, GroupId
from nmtprune.model.attention import CrossAttention, SelfAttention
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.source_cache import SourceCache
from nmtprune.model.weights import Weights
from tests.support.oracles.transformer import attend

WIDTH, OTHER_WIDTH, HEAD_DIM, ROWS, LENGTH, KEYS = 10, 7, 3, 3, 4, 5


def parameters(heads: int, memory_width: int = WIDTH, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inner, found = heads * HEAD_DIM, {}
    for name, width in (("query", WIDTH), ("key", memory_width), ("value", memory_width)):
        found |= {f"{name}.weight": random(inner, width), f"{name}.bias": random(inner)}
    return found | {"output.weight": random(WIDTH, inner), "output.bias": random(WIDTH)}


def weights(found: dict[str, Tensor]) -> Weights:
    return Weights({f"x.{name}": tensor for name, tensor in found.items()}, torch.device("cpu"), None)


def module(heads: int, padding: int = 0, kind: str = "encoder") -> AttentionModule:
    return AttentionModule(GroupId(kind, 0), heads, HEAD_DIM, padding)


def states(rows: int = ROWS, length: int = LENGTH, width: int = WIDTH, seed: int = 1) -> Tensor:
    return torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(heads: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = {"[H]": (heads,), "[B, H]": (ROWS, heads), "[B, H, T]": (ROWS, heads, LENGTH)}
    return {name: torch.rand(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def self_attend(attention: SelfAttention, x: Tensor, visible: Visible, probe: Probe) -> Tensor:
    """Output for states without a norm before it."""
    return attention.output(attention.inner_values(x, x, Scope(probe=probe, visible=visible), 0), probe)


def cross_attend(attention: CrossAttention, x: Tensor, keys_values: Tensor, visible: Visible, probe: Probe) -> Tensor:
    """Output for states without a norm before it, and keys and values of a source."""
    source = SourceCache((keys_values,), (None,), None, visible)
    scope = Scope(probe=probe, visible=Visible(), source=source)
    return attention.output(attention.inner_values(x, x, scope, 0), probe)


def full(mask: Tensor, heads: int) -> Tensor:
    by_query = mask if mask.dim() == 3 else mask.unsqueeze(-1)
    return by_query.expand(ROWS, heads, LENGTH)


@pytest.mark.parametrize("heads", [1, 2, 5])
@pytest.mark.parametrize("shape", ["[H]", "[B, H]", "[B, H, T]"])
def test_masks_in_self_attention(heads: int, shape: str) -> None:
    found, x, mask = parameters(heads), states(), masks(heads)[shape]
    attention = SelfAttention(module(heads), weights(found), "x", WIDTH)
    causal = torch.ones(ROWS, LENGTH, LENGTH, dtype=torch.bool).tril()
    expected = attend(found, x, x, HEAD_DIM, causal, full(mask, heads))[0]
    probe = Probe({GroupId("encoder", 0): mask})
    for visible in (Visible(causal=True), Visible.where(causal, torch.float64)):
        torch.testing.assert_close(self_attend(attention, x, visible, probe), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", ["[H]", "[B, H]", "[B, H, T]"])
def test_masks_in_cross_attention_with_padding_and_another_width(shape: str) -> None:
    found, x, source_cache, mask = (
        parameters(4, OTHER_WIDTH),
        states(),
        states(ROWS, KEYS, OTHER_WIDTH, 3),
        masks(4)[shape],
    )
    padding = torch.zeros(ROWS, KEYS, dtype=torch.bool)
    padding[0, :2] = padding[2, :4] = True
    attention = CrossAttention(module(4, kind="cross"), weights(found), "x", (WIDTH, OTHER_WIDTH))
    seen = ~padding.unsqueeze(1).expand(ROWS, LENGTH, KEYS)
    expected = attend(found, x, source_cache, HEAD_DIM, seen, full(mask, 4))[0]
    visible, probe = Visible.all_but(padding, torch.float64), Probe({GroupId("cross", 0): mask})
    actual = cross_attend(attention, x, attention.keys_values(source_cache), visible, probe)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_observed_weights_are_those_after_the_softmax() -> None:
    found, x = parameters(3), states()
    attention = SelfAttention(module(3), weights(found), "x", WIDTH)
    padding = torch.zeros(ROWS, LENGTH, dtype=torch.bool)
    padding[1, 2:] = True
    seen = torch.ones(ROWS, LENGTH, LENGTH, dtype=torch.bool).tril() & ~padding.unsqueeze(1)
    expected, expected_weights = attend(found, x, x, HEAD_DIM, seen)
    observed: dict[GroupId, Tensor] = {}
    actual = self_attend(attention, x, Visible.where(seen, torch.float64), Probe(observe=observed.__setitem__))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(observed[GroupId("encoder", 0)], expected_weights, rtol=0, atol=1e-12)


def test_several_rows_may_share_the_keys_of_a_sentence() -> None:
    found, source_cache, x = parameters(2, OTHER_WIDTH), states(ROWS, KEYS, OTHER_WIDTH, 3), states(2 * ROWS)
    mask = torch.rand(2 * ROWS, 2, LENGTH, generator=torch.Generator().manual_seed(4))
    attention = CrossAttention(module(2, kind="cross"), weights(found), "x", (WIDTH, OTHER_WIDTH))
    padding = torch.zeros(ROWS, KEYS, dtype=torch.bool)
    padding[1, 0] = True
    observed: dict[GroupId, Tensor] = {}
    for observe in (None, observed.__setitem__):
        probe = Probe({GroupId("cross", 0): mask}, observe)
        folded = cross_attend(
            attention, x, attention.keys_values(source_cache), Visible.all_but(padding, torch.float64), probe
        )
        repeated = cross_attend(
            attention,
            x,
            attention.keys_values(source_cache.repeat_interleave(2, 0)),
            Visible.all_but(padding.repeat_interleave(2, 0), torch.float64),
            Probe({GroupId("cross", 0): mask}, None if observe is None else _check_equal(observed)),
        )
        torch.testing.assert_close(folded, repeated, rtol=0, atol=1e-12)


def _check_equal(observed: dict[GroupId, Tensor]) -> Any:
    def observe(module: GroupId, found: Tensor) -> None:
        torch.testing.assert_close(found, observed[module], rtol=0, atol=1e-12)

    return observe


def test_a_module_without_heads_gives_its_bias() -> None:
    found = parameters(0)
    attention = SelfAttention(module(0), weights(found), "x", WIDTH)
    torch.testing.assert_close(
        self_attend(attention, states(), Visible(), Probe()), found["output.bias"].expand(ROWS, LENGTH, -1)
    )


def test_padding_heads_are_computed_but_not_masked_nor_observed() -> None:
    found = parameters(5)
    attention = SelfAttention(module(3, padding=2), weights(found), "x", WIDTH)
    x, mask = states(), masks(3)
    observed: dict[GroupId, Tensor] = {}
    for own in mask.values():
        whole = torch.cat([full(own, 3), torch.ones(ROWS, 2, LENGTH, dtype=torch.float64)], dim=1)
        probe = Probe({GroupId("encoder", 0): own}, observed.__setitem__)
        expected, expected_weights = attend(found, x, x, HEAD_DIM, None, whole)
        torch.testing.assert_close(self_attend(attention, x, Visible(), probe), expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(observed[GroupId("encoder", 0)], expected_weights[:, :3], rtol=0, atol=1e-12)


def test_a_query_that_sees_nothing_gives_numbers() -> None:
    attention = SelfAttention(module(2), weights(parameters(2)), "x", WIDTH)
    seen = torch.zeros(ROWS, LENGTH, LENGTH, dtype=torch.bool)
    for observe in (None, lambda module, found: None):
        assert (
            self_attend(attention, states(), Visible.where(seen, torch.float64), Probe(observe=observe))
            .isfinite()
            .all()
        )


@pytest.mark.parametrize("shape", ["[H]", "[B, H]", "[B, H, T]"])
def test_gradients_of_masks(shape: str) -> None:
    mask = masks(3)[shape].requires_grad_()
    attention = SelfAttention(module(3), weights(parameters(3)), "x", WIDTH)
    x = states()

    def loss(own: Tensor) -> Tensor:
        return self_attend(attention, x, Visible(causal=True), Probe({GroupId("encoder", 0): own})).square().sum()

    assert torch.autograd.gradcheck(loss, (mask,), atol=1e-6)


def test_a_mask_of_another_shape_is_refused() -> None:
    attention = SelfAttention(module(3), weights(parameters(3)), "x", WIDTH)
    with pytest.raises(ValueError) as caught:
        self_attend(attention, states(), Visible(), Probe({GroupId("encoder", 0): torch.ones(4)}))
    assert str(caught.value) == "mask of encoder.0 has shape (4,), not one of (3,), (3, 3) or (3, 3, 4)"


def test_one_query_per_row() -> None:
    found, x, source_cache = parameters(4, OTHER_WIDTH), states(length=1), states(ROWS, KEYS, OTHER_WIDTH, 3)
    padding = torch.zeros(ROWS, KEYS, dtype=torch.bool)
    padding[0, :2] = padding[2, :4] = True
    attention = CrossAttention(module(4, kind="cross"), weights(found), "x", (WIDTH, OTHER_WIDTH))
    for own in (padding, None):
        seen = None if own is None else ~own.unsqueeze(1)
        expected = attend(found, x, source_cache, HEAD_DIM, seen)[0]
        actual = cross_attend(
            attention, x, attention.keys_values(source_cache), Visible.all_but(own, torch.float64), Probe()
        )
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
