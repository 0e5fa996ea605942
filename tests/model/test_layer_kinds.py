"""A new kind of decoder layer is one class: searches, head masks and losses run it as they are."""

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.model import Transformer, transformer
from nmtprune.model.ablation import MaskedSearch, reference_losses
from nmtprune.model.attention import SelfAttention
from nmtprune.model.kernels import linear
from nmtprune.model.layers import Blueprint, DecoderLayer
from nmtprune.model.recurrence import CellUpdate
from nmtprune.model.scope import Probe, Scope, Visible
from nmtprune.model.search import SearchOptions, Symbols, translate_batch
from nmtprune.model.search.batched_greedy import BatchedGreedySearch
from nmtprune.model.sublayers import Body
from nmtprune.model.weights import Weights
from nmtprune.network import Network, Positions, Stack
from tests.support.thinned import thinned

WIDTH, INNER, WORDS, HEADS, HEAD_DIM, LAYERS, PERSISTENT = 12, 20, 23, 3, 4, 2, 5
SYMBOLS = Symbols(pad=1, eos=2, unk=3)
SOURCE = torch.tensor([[1, 1, 7, 9, 4, 2], [5, 6, 4, 8, 8, 2], [1, 1, 1, 1, 10, 2], [1, 4, 12, 11, 6, 2]])
LENGTHS = [4, 6, 2, 5]
Masks = dict[GroupId, Tensor]


class WithoutFeedForward(DecoderLayer):
    """Self-attention and cross-attention."""

    def build(self, blueprint: Blueprint, prefix: str) -> None:
        self.add_self_attention(blueprint, prefix)
        self.add_cross_attention(blueprint, prefix)


class PersistentAttention(SelfAttention):
    """Self-attention that also sees keys and values of the model (Sukhbaatar et al. 2019)."""

    def __init__(self, module: AttentionModule, weights: Weights, prefix: str, width: int) -> None:
        super().__init__(module, weights, prefix, width)
        self.persistent = weights.take(f"{prefix}.persistent", 2, PERSISTENT, self.heads, self.head_dim)

    def context(self, queries: Tensor, keys_values: Tensor, visible: Visible, probe: Probe) -> Tensor:
        front = self.persistent.unsqueeze(1).expand(-1, keys_values.shape[1], -1, -1, -1)
        columns, places = keys_values.shape[2], queries[:, :, 0, 0]
        visible = visible.behind(Visible(), PERSISTENT, places, columns, queries.dtype)
        return super().context(queries, torch.cat([front, keys_values], dim=2), visible, probe)


class AllAttention(DecoderLayer):
    """Self-attention with persistent vectors in place of feed-forward, and cross-attention."""

    def build(self, blueprint: Blueprint, prefix: str) -> None:
        module, name = blueprint.architecture[GroupId("decoder", self.number)], f"{prefix}.self_attention"
        attention = PersistentAttention(module, blueprint.weights, name, blueprint.decoder_width)
        self.add_around(blueprint, prefix, attention, "self_attention")
        self.add_cross_attention(blueprint, prefix)


class Average(Body):
    """The mean of the states so far, projected (Zhang et al. 2018); what is kept is their sum and their number."""

    output_weight: nn.Parameter
    output_bias: nn.Parameter

    def __init__(self, weights: Weights, prefix: str, width: int) -> None:
        super().__init__()
        self.output_weight, self.output_bias = weights.linear(f"{prefix}.output", width, width)

    def inner_values(self, x: Tensor, normed: Tensor, scope: Scope, position: int) -> Tensor:
        added = torch.cat([normed, torch.ones_like(normed[..., :1])], dim=-1)
        sums = scope.recur(CellUpdate(torch.ones_like(added), added), position)
        return sums[..., :-1] / sums[..., -1:]

    def output(self, inner: Tensor, probe: Probe) -> Tensor:
        return linear(inner, self.output_weight, self.output_bias)

    def kept_shape(self) -> tuple[int, int, int] | None:
        return (1, 1, self.output_bias.shape[0] + 1)


class AverageAttention(DecoderLayer):
    """An average in place of self-attention."""

    def build(self, blueprint: Blueprint, prefix: str) -> None:
        average = Average(blueprint.weights, f"{prefix}.average", blueprint.decoder_width)
        self.add_around(blueprint, prefix, average, "average")
        self.add_cross_attention(blueprint, prefix)
        self.add_feed_forward(blueprint, prefix)


KINDS = (WithoutFeedForward, AllAttention, AverageAttention)


@pytest.fixture(params=["an", "n"], ids=["post-norm", "pre-norm"])
def network(request: pytest.FixtureRequest) -> Network:
    pre = request.param == "n"
    stack = Stack(LAYERS, "n" if pre else "", "a" if pre else "an", pre, 1.0, 40, positions=Positions(False, 2))
    return Network(encoder=stack, decoder=stack, activation="relu", padding=SYMBOLS.pad, eos=SYMBOLS.eos)


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def model(request: pytest.FixtureRequest, network: Network, monkeypatch: pytest.MonkeyPatch) -> Transformer:
    kind: type[DecoderLayer] = request.param
    monkeypatch.setattr(transformer, "decoder_layer", lambda _: kind)
    kinds = ("encoder", "cross") if kind is AverageAttention else ("encoder", "decoder", "cross")
    ids = [GroupId(each, layer) for each in kinds for layer in range(LAYERS)]
    architecture = Architecture(tuple(AttentionModule(id, HEADS, HEAD_DIM) for id in ids))
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, shape in _shapes(network, kind):
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        tensors[name] = 1 + 0.2 * noise if name.endswith("norm.weight") else (0.1 if "bias" in name else 0.6) * noise
    return Transformer(network, architecture, tensors)


def _shapes(network: Network, kind: type[DecoderLayer]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "output.weight", (WORDS, WIDTH)
    for side in ("encoder", "decoder"):
        yield f"{side}.embedding.tokens.weight", (WORDS, WIDTH)
        if network.decoder.final_norm:
            yield from _affine(f"{side}.final_norm", WIDTH)
        for layer in range(LAYERS):
            for name in _names(side, kind):
                prefix = f"{side}.layers.{layer}.{name}"
                yield from _affine(f"{prefix}_{'pre' if network.decoder.preprocess else 'post'}_norm", WIDTH)
                inner = {"feed_forward": INNER, "average": WIDTH}.get(name, HEADS * HEAD_DIM)
                yield from _affine(f"{prefix}.output", WIDTH, inner)
                inputs = {"feed_forward": ("input",), "average": ()}.get(name, ("query", "key", "value"))
                for part in inputs:
                    yield from _affine(f"{prefix}.{part}", inner, WIDTH)
                if kind is AllAttention and (side, name) == ("decoder", "self_attention"):
                    yield f"{prefix}.persistent", (2, PERSISTENT, HEADS, HEAD_DIM)


def _names(side: str, kind: type[DecoderLayer]) -> tuple[str, ...]:
    if side == "encoder":
        return ("self_attention", "feed_forward")
    if kind is AverageAttention:
        return ("average", "cross_attention", "feed_forward")
    return ("self_attention", "cross_attention")


def _affine(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _systems(model: Transformer) -> list[Masks]:
    """No masks, every head alone, a whole module, and heads of all modules."""
    systems: list[Masks] = [{}]
    for module in model.architecture:
        for head in range(HEADS):
            systems.append({module.id: torch.ones(HEADS, dtype=model.dtype).index_fill(0, torch.tensor(head), 0.0)})
        systems.append({module.id: torch.zeros(HEADS, dtype=model.dtype)})
    first = torch.tensor([0.0, 1.0, 1.0], dtype=model.dtype)
    return [*systems, {module.id: first for module in model.architecture}]


@torch.no_grad()
def _log_probabilities(
    model: Transformer, source: Tensor, words: tuple[int, ...], masks: Mapping[GroupId, Tensor]
) -> Tensor:
    """Of each word [T] of one sentence, all at once and without anything kept."""
    scores = model(source[source != SYMBOLS.pad].unsqueeze(0), torch.tensor([[SYMBOLS.eos, *words[:-1]]]), masks)
    return scores[0].log_softmax(-1).gather(1, torch.tensor(words).unsqueeze(1))[:, 0]


@pytest.mark.parametrize("beam", thinned([4, 1]))
def test_searches_score_as_whole_sequences_do(model: Transformer, beam: int) -> None:
    texts = set()
    for masks in _systems(model)[::3]:
        found = translate_batch(model, SOURCE, LENGTHS, SearchOptions(beam=beam, max_len_b=9), SYMBOLS, masks)
        for source, hypotheses in zip(SOURCE, found, strict=True):
            for hypothesis in hypotheses:
                expected = float(_log_probabilities(model, source, hypothesis.tokens, masks).mean())
                assert hypothesis.score == pytest.approx(expected, abs=1e-9)
                texts.add(hypothesis.tokens)
    assert len(texts) > 2


@pytest.mark.parametrize("beam", thinned([4, 1]))
def test_recorded_searches_under_masks_are_searches_from_scratch(model: Transformer, beam: int) -> None:
    options, systems = SearchOptions(beam=beam, max_len_b=9), _systems(model)[::2]
    search = MaskedSearch(model, options, SYMBOLS)
    records = search.record(SOURCE, LENGTHS, range(len(SOURCE)))
    found: list[list[tuple[int, ...]]] = [[()] * len(SOURCE) for _ in systems]
    for system, places, texts in search.translations(records, systems):
        for place, text in zip(places, texts, strict=True):
            found[system][place] = text
    expected = [
        [own[0].tokens for own in translate_batch(model, SOURCE, LENGTHS, options, SYMBOLS, masks)] for masks in systems
    ]
    assert found == expected
    assert len({tuple(texts) for texts in expected}) > 2


def test_batched_greedy_search_finds_the_same(model: Transformer) -> None:
    options = SearchOptions(beam=1, max_len_b=9)
    search = BatchedGreedySearch(model, options, SYMBOLS, {})
    for begin in (0, 2):
        search.translate(SOURCE[begin : begin + 2], LENGTHS[begin : begin + 2], (begin, begin + 1))
    found = search.finish()
    expected = translate_batch(model, SOURCE, LENGTHS, options, SYMBOLS)
    assert [found[place][0].tokens for place in range(4)] == [own[0].tokens for own in expected]


def test_losses_under_masks_are_those_of_each_sentence_alone(model: Transformer) -> None:
    targets = [(5, 9, 2), (4, 2), (7, 8, 9, 10, 11, 2), (12, 13, 2)]
    width = max(map(len, targets))
    target = torch.tensor([[*words, *[SYMBOLS.pad] * (width - len(words))] for words in targets])
    previous = torch.tensor([[2, *words[:-1], *[SYMBOLS.pad] * (width - len(words))] for words in targets])
    systems = _systems(model)
    found = reference_losses(model, SOURCE, previous, target, systems)
    expected = [
        [
            -float(_log_probabilities(model, source, words, masks).sum())
            for source, words in zip(SOURCE, targets, strict=True)
        ]
        for masks in systems
    ]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert len({round(row[0], 6) for row in expected}) > len(systems) // 2


@torch.no_grad()
def test_an_average_is_that_of_the_states_so_far() -> None:
    tensors = {"x.output.weight": torch.zeros(WIDTH, WIDTH), "x.output.bias": torch.zeros(WIDTH)}
    average = Average(Weights(tensors, torch.device("cpu"), None), "x", WIDTH)
    x = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(1))
    found = average.inner_values(x, x, Scope(probe=Probe(), visible=Visible(causal=True)), 0)
    for token in range(5):
        torch.testing.assert_close(found[:, token], x[:, : token + 1].mean(1))
