"""Models without some of their layers: other layers are the identity, weights are shared, masks keep their names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.model import DecoderState, Masks, Pass, Transformer
from tests.support import networks
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_model

CHOSEN = {
    "post-norm, separate embeddings": {"joined": False},
    "pre-norm, all embeddings shared": {**networks.PRE_NORM, **networks.SHARED},
    "joint and cross-attention": {"cross_self_attention": True},
    "language model": {"arch": "transformer_lm_gpt"},
}


MARIAN = {
    "SSRU": {"transformer_decoder_autoreg": "rnn", "dec_cell": "ssru"},
    "tied": {"transformer_tied_layers": [1, 2, 2, 4]},
}


@pytest.fixture(params=[*CHOSEN, *MARIAN])
def model(request: pytest.FixtureRequest, build: Build, tmp_path: Path) -> Transformer:
    if request.param in CHOSEN:
        path = networks.randomized(build(**CHOSEN[request.param], layers=4))
    else:
        path = marian_model(tmp_path / "model.npz", enc_depth=4, dec_depth=4, **MARIAN[request.param])
    return native.load(load(path), dtype=torch.float64)


def by_hand(model: Transformer, kept: dict[str, tuple[int, ...]], masks: Masks) -> Tensor:
    """Scores of the batch, the other layers left out one after the other."""
    source, target = networks.batch(model)
    run, encoded = Pass(masks), None
    if source is not None and model.encoder is not None:
        x, scope = model.encoder.begin(source, run.probe)
        for layer in model.encoder.layers:
            x = layer(x, scope) if layer.number in kept.get("encoder", model.encoder.numbers) else x
        encoded = model.cache_source(type(model.encode(source))(model.encoder.finish(x), scope.padding))
    x, scope = model.decoder.begin(target, encoded, run)
    for layer in model.decoder.layers:
        x = layer(x, scope) if layer.number in kept.get("decoder", model.decoder.numbers) else x
    return model.output(model.decoder.finish(x))  # type: ignore[no-any-return]


def choices(model: Transformer) -> list[dict[str, tuple[int, ...]]]:
    numbers = model.decoder.numbers
    own = [
        {"decoder": (numbers[0], numbers[-1])},
        {"decoder": (numbers[1],)},
        {"decoder": tuple(dict.fromkeys(numbers))},
    ]
    if model.encoder is not None:
        own += [{"encoder": (1, 3)}, {"encoder": (2,), "decoder": (numbers[1], numbers[-1])}]
    return own


@torch.inference_mode()
def test_other_layers_are_the_identity(model: Transformer) -> None:
    source, target = networks.batch(model)
    everything = model(source, target)
    generator = torch.Generator().manual_seed(1)
    for kept in choices(model):
        found = model.with_layers(kept)
        assert found.architecture.layers("decoder") == tuple(dict.fromkeys(kept.get("decoder", model.decoder.numbers)))
        masks = {group.id: torch.rand(group.units, generator=generator) for group in found.architecture.groups}
        for own in ({}, masks):
            torch.testing.assert_close(found(source, target, own), by_hand(model, kept, own), rtol=1e-12, atol=1e-12)
        assert found.network.decoder.layers == len(found.decoder.layers) == len(found.new_state().caches)
        assert [layer.position for layer in found.decoder.layers] == list(range(len(found.decoder.layers)))
    assert torch.equal(model(source, target), everything)
    assert [layer.position for layer in model.decoder.layers] == list(range(4))


@torch.inference_mode()
def test_step_by_step_is_all_at_once(model: Transformer) -> None:
    source, target = networks.batch(model)
    for kept in choices(model):
        found = model.with_layers(kept)
        encoded = None if source is None else found.cache_source(found.encode(source))
        state: DecoderState = found.new_state()
        steps = [found.decode(target[:, [place]], encoded, run=Pass(state=state)) for place in range(target.shape[1])]
        real = target != model.network.padding
        torch.testing.assert_close(torch.cat(steps, 1)[real], found(source, target)[real], rtol=1e-9, atol=1e-9)


def test_weights_are_shared_and_masks_of_layers_that_went_are_refused(build: Build) -> None:
    model = native.load(load(build(layers=4)))
    found = model.with_layers({"decoder": (0, 3)})
    own = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in found.parameters()} < own
    source, target = networks.batch(model)
    with pytest.raises(ValueError, match=r"^masks for modules that the model does not have: cross\.1$"):
        found(source, target, {GroupId("cross", 1): torch.ones(4)})
    twice = found.with_layers({"decoder": (3,), "encoder": (0, 1)})
    assert torch.equal(twice(source, target), model.with_layers({"decoder": (3,), "encoder": (0, 1)})(source, target))


def test_what_makes_no_sense_is_refused(build: Build) -> None:
    model, language_model = native.load(load(build())), native.load(load(build(arch="transformer_lm")))
    for own, kept, message in (
        (model, {"decoder": ()}, "a stack without layers"),
        (model, {"decoder": (0, 5, 7)}, "there are no layers [5, 7]"),
        (language_model, {"encoder": (0,)}, "the model has no stack encoder"),
    ):
        with pytest.raises(ValueError) as caught:
            own.with_layers(kept)  # type: ignore[arg-type]
        assert str(caught.value) == message
