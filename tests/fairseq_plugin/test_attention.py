"""PrunableAttention against fairseq's own module, and against itself with heads masked."""

from typing import Any

import pytest
import torch
from fairseq.modules import MultiheadAttention
from torch import Tensor

from nmtprune.fairseq_plugin.prunable_attention import AttentionShape, PrunableAttention

T, S, B, D, H, K = 5, 7, 4, 24, 4, 6
ROLES = ("encoder", "decoder", "cross")


def stock_module(role: str, dropout: float = 0.0, source_width: int = D) -> Any:
    torch.manual_seed(1)
    if role == "cross":
        return MultiheadAttention(
            D, H, kdim=source_width, vdim=source_width, dropout=dropout, encoder_decoder_attention=True
        )
    return MultiheadAttention(D, H, dropout=dropout, self_attention=True)


def prunable(stock: Any, heads: int = H, head_dim: int = K) -> PrunableAttention:
    own = PrunableAttention.replacing(stock, heads, head_dim)
    own.train(stock.training)
    return own


def copy_of(stock: Any) -> PrunableAttention:
    """The same weights in other storage."""
    shape = AttentionShape(D, stock.kdim, stock.vdim, H, K)
    own = PrunableAttention(
        shape,
        stock.dropout_module.p,
        self_attention=stock.self_attention,
        encoder_decoder_attention=stock.encoder_decoder_attention,
    )
    own.load_state_dict(stock.state_dict())
    own.train(stock.training)
    return own


def inputs(role: str, source_width: int = D) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(T, B, D, generator=generator)
    return query, torch.randn(S, B, source_width, generator=generator) if role == "cross" else query


def call_options(role: str) -> dict[str, Any]:
    if role == "decoder":
        return {"attn_mask": torch.full((T, T), float("-inf")).triu(1)}
    keys = S if role == "cross" else T
    padding = torch.zeros(B, keys, dtype=torch.bool)
    padding[0, -2:] = True
    padding[2, :1] = True
    return {"key_padding_mask": padding, "static_kv": role == "cross"}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize(
    ("role", "weights"), [(role, "none") for role in ROLES] + [("cross", "mean"), ("cross", "heads")]
)
def test_same_outputs_weights_and_gradients_as_fairseq(role: str, weights: str, dropout: float) -> None:
    stock = stock_module(role, dropout, source_width=16 if role == "cross" else D)
    own = copy_of(stock)
    options = call_options(role) | {"need_weights": weights != "none", "need_head_weights": weights == "heads"}
    results = []
    for module in (stock, own):
        query, key = (x.clone().requires_grad_() for x in inputs(role, source_width=stock.kdim))
        if role != "cross":
            key = query
        torch.manual_seed(3)  # the same weights are dropped
        output, attention = module(query, key, key, **options)
        (output.square().sum() + (0 if attention is None else attention.square().sum())).backward()
        grads = [parameter.grad for parameter in module.parameters()]
        results.append([output, attention, query.grad, key.grad, *grads])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_long_keys_take_the_fused_path_and_agree() -> None:
    stock = stock_module("cross").eval()
    own = prunable(stock)
    query, key = torch.randn(3, B, D), torch.randn(150, B, D)
    padding = torch.zeros(B, 150, dtype=torch.bool)
    padding[1, 100:] = True
    expected, _ = stock(query, key, key, key_padding_mask=padding, static_kv=True, need_weights=True)
    found, nothing = own(query, key, key, key_padding_mask=padding, static_kv=True, need_weights=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert nothing is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_takes_the_softmax_in_fp32(dtype: torch.dtype) -> None:
    stock = stock_module("cross").to(dtype)
    own = prunable(stock)
    query, key = (x.to(dtype) for x in inputs("cross"))
    options = call_options("cross") | {"need_head_weights": True}
    expected, expected_weights = stock(query, key, key, **options)
    found, weights = own(query, key, key, **options)
    assert found.dtype == dtype
    assert weights.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("kept", [(0, 1, 2, 3), (1, 3), (2,), ()])
def test_cut_equals_masked(role: str, kept: tuple[int, ...]) -> None:
    stock = stock_module(role).eval()
    rows = [head * K + entry for head in kept for entry in range(K)]
    cut = prunable(stock, len(kept), K)
    state = stock.state_dict()
    for name in ("k_proj", "v_proj", "q_proj"):
        state[f"{name}.weight"], state[f"{name}.bias"] = state[f"{name}.weight"][rows], state[f"{name}.bias"][rows]
    state["out_proj.weight"] = state["out_proj.weight"][:, rows]
    cut.load_state_dict(state)
    removed = sorted(set(range(D)) - set(rows))
    with torch.no_grad():
        stock.out_proj.weight[:, removed] = 0
    query, key = inputs(role)
    expected, _ = stock(query, key, key, **call_options(role), need_weights=False)
    found, _ = cut(query, key, key, **call_options(role), need_weights=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [0, 1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_every_parameter_gets_a_gradient(heads: int, training: bool) -> None:
    module = PrunableAttention(AttentionShape(D, 16, 16, heads, 10), 0.2, encoder_decoder_attention=True)
    module.train(training)
    output, _ = module(torch.randn(T, B, D), torch.randn(S, B, 16), None, static_kv=True, need_weights=False)
    assert output.shape == (T, B, D)
    output.sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.shape == parameter.shape


def test_no_head_outputs_the_bias() -> None:
    module = PrunableAttention(AttentionShape(D, D, D, 0, K), self_attention=True)
    torch.nn.init.normal_(module.out_proj.bias)
    query = torch.randn(T, B, D)
    output, _ = module(query, query, query, need_weights=False)
    assert torch.equal(output, module.out_proj.bias.expand(T, B, D))


@pytest.mark.parametrize("need_head_weights", [True, False])
def test_no_head_has_uniform_weights_over_what_is_visible(need_head_weights: bool) -> None:
    module = PrunableAttention(AttentionShape(D, D, D, 0, K), encoder_decoder_attention=True)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[0, 4:] = True
    padding[1, :] = True
    _, weights = module(
        torch.randn(T, B, D), torch.randn(S, B, D), None, key_padding_mask=padding, need_head_weights=need_head_weights
    )
    expected = torch.full((B, T, S), 1 / S)
    expected[0] = torch.tensor([0.25] * 4 + [0.0] * 3)
    expected[1] = 0
    torch.testing.assert_close(weights, expected[None] if need_head_weights else expected)


@pytest.mark.parametrize("heads", [0, 1, H])
@pytest.mark.parametrize("padded", [False, True])
def test_self_attention_step_by_step_equals_all_at_once(heads: int, padded: bool) -> None:
    module = PrunableAttention(AttentionShape(D, D, D, heads, 10), self_attention=True).eval()
    query = torch.randn(T, B, D)
    padding = torch.zeros(B, T, dtype=torch.bool)
    if padded:
        padding[1, 2], padding[2, 3] = True, True  # padding comes and goes
    future = torch.full((T, T), float("-inf")).triu(1)
    expected, _ = module(query, query, query, key_padding_mask=padding, attn_mask=future, need_weights=False)
    state: dict[str, Any] = {}
    steps = []
    for step in range(T):
        x, mask = query[step : step + 1], padding[:, step : step + 1]
        given = mask if mask.any() else None
        output, _ = module(x, x, x, key_padding_mask=given, incremental_state=state, need_weights=False)
        steps.append(output)
    torch.testing.assert_close(torch.cat(steps), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [0, H])
def test_reordering_selects_the_cache_of_hypotheses(heads: int) -> None:
    module = PrunableAttention(AttentionShape(D, D, D, heads, K), self_attention=True).eval()
    past, now = torch.randn(3, B, D), torch.randn(1, B, D)
    order = torch.tensor([3, 3, 0])
    state: dict[str, Any] = {}
    for step in torch.split(past, 1):
        module(step, step, step, incremental_state=state, need_weights=False)
    module.reorder_incremental_state(state, order)
    found, _ = module(now[:, order], None, None, incremental_state=state, need_weights=False)
    whole = torch.cat([past, now])[:, order]
    expected, _ = module(whole, whole, whole, attn_mask=torch.full((4, 4), float("-inf")).triu(1), need_weights=False)
    torch.testing.assert_close(found, expected[-1:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", [0, H])
@pytest.mark.parametrize("shared", [False, True])
def test_static_keys_of_beams_as_in_fairseq(heads: int, shared: bool) -> None:
    """Encoder output comes once per hypothesis, beams share its keys after ``set_beam_size``, a sentence leaves."""
    beam = 3
    stock = stock_module("cross", source_width=16).eval()
    own = copy_of(stock) if heads else prunable(stock, 0, K)
    query, encoder = torch.randn(1, 2 * beam, D), torch.randn(S, 2, 16)
    padding = torch.zeros(2, S, dtype=torch.bool)
    padding[1, 3:] = True
    expand = torch.arange(2).repeat_interleave(beam)
    results = []
    for module in (stock, own) if heads else (own, own):
        if shared:
            module.set_beam_size(beam)
        state: dict[str, Any] = {}
        outputs = []
        keys, mask, x = encoder[:, expand], padding[expand], query
        for order in (None, torch.tensor([1, 0, 0, 3, 4, 4]), torch.tensor([3, 5, 4])):
            if order is not None:
                module.reorder_incremental_state(state, order)
                keys, mask, x = keys[:, order], mask[order], x[:, order]
            outputs += module(
                x, keys, keys, key_padding_mask=mask, incremental_state=state, static_kv=True, need_head_weights=True
            )
        results.append(outputs)
    cache = own._get_input_buffer(state)
    assert cache["prev_key"] is not None
    assert cache["prev_key"].size(0) == (1 if shared else beam)
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_sharing_beams_leaves_training_alone() -> None:
    """After generating with a beam, a batch whose size the beam divides is still a batch of sentences."""
    module = PrunableAttention(AttentionShape(D, D, D, H, K), encoder_decoder_attention=True)
    query, key = inputs("cross")
    expected, _ = module(query, key, key, static_kv=True)
    module.set_beam_size(2)
    found, _ = module(query, key, key, static_kv=True)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("heads", [0, 3])
def test_packed_matrices_of_old_checkpoints_are_unpacked(heads: int) -> None:
    module = PrunableAttention(AttentionShape(D, D, D, heads, 10), self_attention=True)
    weight, bias = torch.randn(3 * heads * 10, D), torch.randn(3 * heads * 10)
    state = {"layer.in_proj_weight": weight, "layer.in_proj_bias": bias, "other.in_proj_weight": weight}
    module.upgrade_state_dict_named(state, "layer")
    assert torch.equal(state.pop("other.in_proj_weight"), weight)
    for part, packed in (("weight", weight), ("bias", bias)):
        assert torch.equal(torch.cat([state[f"layer.{p}_proj.{part}"] for p in "qkv"]), packed)
    own = {name.removeprefix("layer."): tensor for name, tensor in state.items()}
    module.load_state_dict(own | module.out_proj.state_dict(prefix="out_proj."))


def test_parameters_have_fairseqs_names_and_order() -> None:
    own = PrunableAttention(AttentionShape(D, D, D, 2, 10), self_attention=True)
    stock = stock_module("encoder")
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in stock.named_parameters()]


def test_replacing_takes_over_weights_of_the_same_shape_and_draws_nothing() -> None:
    stock = stock_module("encoder", dropout=0.1)
    before = torch.get_rng_state()
    own = prunable(stock)
    assert torch.equal(torch.get_rng_state(), before)
    assert own.q_proj is stock.q_proj
    assert own.dropout_module.p == 0.1
    assert own.dropout_module.module_name == stock.dropout_module.module_name


def test_fresh_weights_follow_fairseqs_distribution() -> None:
    torch.manual_seed(4)
    wide = PrunableAttention(AttentionShape(256, 256, 256, 4, 128), self_attention=True)
    bound = (6 / (256 + 512)) ** 0.5
    assert 0.99 * bound / 2**0.5 < wide.q_proj.weight.abs().max().item() <= bound / 2**0.5
    assert 0.99 * bound < wide.out_proj.weight.abs().max().item() <= bound
    assert not wide.out_proj.bias.any()
    assert wide.k_proj.bias.abs().max().item() <= 256**-0.5


def test_keys_that_are_neither_given_nor_cached_are_an_error() -> None:
    module = PrunableAttention(AttentionShape(D, D, D, 2, 10), encoder_decoder_attention=True)
    with pytest.raises(ValueError, match="attention needs keys and values: none were given and none are cached"):
        module(torch.randn(T, B, D), None, None, static_kv=True)
