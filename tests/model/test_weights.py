"""Tensors that do not fit are named, all of them; types are those of the weights, but not half precision on a CPU."""

from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune.errors import CheckpointError, DataError
from nmtprune.formats.fairseq.network import describe_network, native_tensors
from nmtprune.model import Transformer
from nmtprune.model.embedding import sinusoids
from tests.support import fairseq_files, networks
from tests.support.fairseq_files import Build


def parts(build: Build, **options: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    path = build(**options)
    settings, stored = networks.settings_of(path), fairseq_files.load(path)["model"]
    return describe_network(settings, stored), networks.architecture(settings, stored), native_tensors(settings, stored)


def test_every_fault_is_named(build: Build) -> None:
    network, architecture, tensors = parts(build)
    del tensors["encoder.layers.0.feed_forward.input.weight"]
    tensors["decoder.layers.1.cross_attention.key.weight"] = torch.zeros(12, 16)
    tensors["decoder.layers.0.self_attention.output.bias"] = torch.zeros(())
    tensors["extra"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as caught:
        Transformer(network, architecture, tensors)
    assert str(caught.value) == (
        "the tensors do not fit the network: encoder.layers.0.feed_forward.input.weight is missing; "
        "decoder.layers.0.self_attention.output.bias is a scalar, not 16; "
        "decoder.layers.1.cross_attention.key.weight is 12 x 16, not 16 x 16; the model has no place for extra"
    )


def test_a_missing_table_is_named_alone(build: Build) -> None:
    network, architecture, tensors = parts(build)
    del tensors["decoder.embedding.tokens.weight"]
    with pytest.raises(CheckpointError) as caught:
        Transformer(network, architecture, tensors)
    assert caught.value.faults == ("decoder.embedding.tokens.weight is missing",)


@pytest.mark.parametrize(
    ("stored", "asked", "computed"),
    [
        (torch.float32, None, torch.float32),
        (torch.float16, None, torch.float32),
        (torch.bfloat16, None, torch.float32),
        (torch.float64, None, torch.float64),
        (torch.float16, torch.float64, torch.float64),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_types(build: Build, stored: torch.dtype, asked: torch.dtype | None, computed: torch.dtype) -> None:
    network, architecture, tensors = parts(build, **networks.SHARED)
    table = tensors["output.weight"].to(stored)
    of_type = {name: tensor.to(stored) for name, tensor in tensors.items()}
    shared = ("output.weight", "encoder.embedding.tokens.weight", "decoder.embedding.tokens.weight")
    model = Transformer(network, architecture, of_type | dict.fromkeys(shared, table), dtype=asked)
    assert model.dtype == computed
    assert model(*networks.batch(model)).dtype == computed
    assert {parameter.dtype for parameter in model.parameters()} == {computed}
    tables = [model.output.weight, model.decoder.embedding.tokens.weight]
    assert tables[0].data_ptr() == tables[1].data_ptr()
    assert (tables[0].data_ptr() == table.data_ptr()) == (stored == computed)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_sentences_beyond_learned_positions_are_refused(build: Build) -> None:
    model = networks.native_model(build(encoder_learned_pos=True, decoder_learned_pos=True))
    longest = torch.full((1, 40), 5)
    model(longest, longest)
    for source, target in ((torch.full((1, 41), 5), longest), (longest, torch.full((1, 41), 5))):
        with pytest.raises(DataError) as caught:
            model(source, target)
        assert str(caught.value) == (
            "a sentence of 41 tokens: the model has learned positions for 40; leave it out or shorten it"
        )


def test_sinusoids_go_as_far_as_needed(build: Build) -> None:
    path = build()
    model, reference = networks.native_model(path), networks.fairseq_model(path)
    tokens = torch.randint(4, model.words[0], (1, 700), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = reference.encoder(tokens, None)["encoder_out"][0].transpose(0, 1)
        torch.testing.assert_close(model.encode(tokens).states, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rows", "width", "padding"), [(1030, 512, 1), (9, 15, 1), (300, 4, 0), (20, 6, -1)])
def test_sinusoids_are_those_of_fairseq_bit_by_bit(rows: int, width: int, padding: int) -> None:
    from fairseq.modules import SinusoidalPositionalEmbedding

    expected = SinusoidalPositionalEmbedding.get_embedding(rows, width, padding if padding >= 0 else None)
    assert torch.equal(sinusoids(rows, width, padding), expected)
