"""A walk from output projection to output projection is a run of the model."""

from pathlib import Path

import pytest
import torch

from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.methods.walk import entered, stops
from nmtprune.model import Transformer
from tests.support.calibration import texts_of
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS as MARIAN
from tests.support.marian_files import marian_model
from tests.support.networks import NORMFORMER, VARIANTS, as_normformer, randomized


def check(model: Transformer) -> None:
    for texts in texts_of(model, 2):
        end = None
        for stack in model.stacks:
            place = entered(model, texts, stack, end)
            for stop in stops(model, stack):
                output = stop.output(stop.inputs(place))
                summed, after = stop.summed(place.states, output), stop.after(place.states, output)
                if not stop.sublayer.around.postprocess.endswith("n") and stop.sublayer.around.output_norm is None:
                    torch.testing.assert_close(summed, after)
                place = place.at(after)
            end = place.states
        assert end is not None
        norm, projection = model.decoder.final_norm, model.decoder.projection
        features = end if norm is None else norm(end)
        features = features if projection is None else features @ projection.T
        expected = model.features(texts.previous, None if model.encoder is None else model.encode(texts.source))
        torch.testing.assert_close(features[texts.real_target], expected[texts.real_target])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_walk_through_the_sublayers_of_a_fairseq_model_is_its_computation(build: Build, variant: str) -> None:
    check(native.load(load(randomized(build(**VARIANTS[variant]))), dtype=torch.float64))


@pytest.mark.parametrize("variant", MARIAN)
def test_a_walk_through_the_sublayers_of_a_marian_model_is_its_computation(tmp_path: Path, variant: str) -> None:
    check(native.load(load(marian_model(tmp_path / "model.npz", **MARIAN[variant])), dtype=torch.float64))


def test_normformer_is_walked_through_too(build: Build) -> None:
    model = native.load(load(randomized(as_normformer(build(**NORMFORMER)))), dtype=torch.float64)
    assert model.network.decoder.attention_norm and model.network.decoder.residual_scale
    check(model)


def test_tied_layers_have_one_name_at_each_of_their_places(tmp_path: Path) -> None:
    path = marian_model(tmp_path / "model.npz", transformer_tied_layers=[1, 1])
    names = [stop.name for stop in stops(native.load(load(path)), "decoder")]
    assert names == ["decoder.0", "cross.0", "decoder-ffn.0"] * 2
