"""Refit of models without some layers: the last projection before a gap aims at the state behind it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.architecture import GroupId
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.refit import RefitSettings, fit_projections, mean_loss
from nmtprune.methods.texts import SentencePairs
from nmtprune.methods.walk import ProjectionStop, entered, matched, stops
from nmtprune.model import Transformer
from nmtprune.plan import Plan
from tests.support.calibration import texts_of
from tests.support.depth import without_layers
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_model
from tests.support.networks import NORMFORMER, PRE_NORM, SHARED, as_normformer, randomized

Kept = Mapping[str, Sequence[int]]

DEEP = {"layers": 4, "activation_fn": "gelu"}
LAYERS = {
    "inside": {"encoder": (0, 3), "decoder": (0, 2, 3)},
    "at the end": {"encoder": (0, 1), "decoder": (0,)},
    "at the beginning": {"encoder": (2, 3), "decoder": (3,)},
    "everywhere": {"encoder": (1, 3), "decoder": (0, 2)},
    "in the decoder": {"decoder": (1, 2)},
}


def states(model: Transformer, texts: SentencePairs) -> Iterator[tuple[str, dict[int, Tensor]]]:
    """By stack, the states after each number of layers, 0: those before the first one."""
    end = None
    for stack in model.stacks:
        place = entered(model, texts, stack, end)
        found = {0: place.states}
        for stop in stops(model, stack):
            place = stop.moved(place)
            found[stop.position + 1] = place.states
        yield stack, found
        end = place.states


def before_and_read(model: Transformer, texts: SentencePairs, wanted: str) -> tuple[Tensor, Tensor, ProjectionStop]:
    """States before a sub-layer, and what its projection reads."""
    end = None
    for stack in model.stacks:
        place = entered(model, texts, stack, end)
        for stop in stops(model, stack):
            if stop.name == wanted:
                return place.states, stop.inputs(place), stop
            place = stop.moved(place)
        end = place.states
    raise KeyError(wanted)


def check_last_before_gaps(checkpoint: Checkpoint, kept: Kept) -> int:
    """Of a model that adds up sub-layers, by an orthogonal solver from whole-model states; the number of gaps."""
    base = native.load(checkpoint, dtype=torch.float64)
    pruned = without_layers(checkpoint, kept)
    texts = texts_of(base, 14)
    fit = fit_projections(base, pruned, texts, RefitSettings(ridge=0.0), kept)
    by_stack = [dict(states(base, text)) for text in texts]
    errors = {each.name: each.error_after for each in fit.projections}
    gaps = 0
    for stack, layers in kept.items():
        for place, number in enumerate(layers):
            follows = layers[place + 1] if place + 1 < len(layers) else len(getattr(base, stack).layers)
            name = f"{stack}-ffn.{place}"
            inputs, targets = [], []
            for text, own in zip(texts, by_stack, strict=True):
                real = text.real(stack)
                states_before, read, stop = before_and_read(pruned, text, name)
                inputs.append(read[real])
                targets.append((own[stack][follows] - states_before)[real])
            x, t = torch.cat(inputs), torch.cat(targets)
            ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
            expected = ones @ torch.linalg.lstsq(ones, t, driver="gelsd").solution
            found = stop.output(x.unsqueeze(0)).squeeze(0)
            torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)
            assert errors[name] == pytest.approx(float((t - expected).square().mean()), rel=1e-6, abs=1e-9)
            gaps += follows > number + 1
    return gaps


@pytest.mark.parametrize("case", LAYERS)
def test_the_last_projection_before_a_gap_is_fitted_to_the_state_behind_it(build: Build, case: str) -> None:
    checkpoint = load(randomized(build(**PRE_NORM, **DEEP)))
    gaps = {"inside": 2, "at the end": 2, "at the beginning": 0, "everywhere": 3, "in the decoder": 1}
    assert check_last_before_gaps(checkpoint, LAYERS[case]) == gaps[case]


def test_a_language_model_without_layers_is_fitted_too(build: Build) -> None:
    checkpoint = load(randomized(build(arch="transformer_lm_gpt", **DEEP)))
    assert check_last_before_gaps(checkpoint, {"decoder": (0, 2)}) == 2


def test_normformer_scales_the_residual_connection_in_front_of_a_gap(build: Build) -> None:
    checkpoint = load(randomized(as_normformer(build(**NORMFORMER, **DEEP))))
    base, kept = native.load(checkpoint, dtype=torch.float64), {"decoder": (0, 2)}
    pruned, texts = without_layers(checkpoint, kept), texts_of(base, 14)
    fit = fit_projections(base, pruned, texts, RefitSettings(ridge=0.0), kept)
    inputs, targets = [], []
    for text in texts:
        (_, own), (before, read, stop) = next(states(base, text)), before_and_read(pruned, text, "decoder-ffn.0")
        scale = stop.sublayer.around.scale
        assert scale is not None
        inputs.append(read[text.real_target])
        targets.append((own[2] - scale * before)[text.real_target])
    x, t = torch.cat(inputs), torch.cat(targets)
    ones = torch.cat([x, x.new_ones(len(x), 1)], 1)
    error = float((t - ones @ torch.linalg.lstsq(ones, t, driver="gelsd").solution).square().mean())
    assert next(each for each in fit.projections if each.name == "decoder-ffn.0").error_after == pytest.approx(error)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_states_behind_a_gap_are_those_of_the_base_where_nothing_was_lost(build: Build, norm: str) -> None:
    """Layers whose parts give nothing (post-norm: whose last norm alone does something) leave nothing to repair."""
    checkpoint = load(randomized(build(**(PRE_NORM if norm == "pre" else {}), **DEEP, **SHARED)))
    kept = {"encoder": (0, 3), "decoder": (0, 1)}
    models = native.load(checkpoint, dtype=torch.float64), without_layers(checkpoint, kept)
    for stack, gone in (("encoder", (1, 2)), ("decoder", (2, 3))):
        for layer in gone:
            for sublayer in getattr(models[0], stack).layers[layer].sublayers:
                for parameter in (sublayer.body.output_weight, sublayer.body.output_bias):
                    parameter.data = torch.zeros_like(parameter)
    texts = texts_of(models[0], 14)
    fit = fit_projections(*models, texts, RefitSettings(ridge=0.0), kept)
    assert set(fit.norms) == (set() if norm == "pre" else {"encoder-ffn.0", "decoder-ffn.1"})
    loss = [mean_loss(model, texts) for model in models]
    if norm == "pre":
        assert loss[1] == pytest.approx(loss[0], abs=1e-9)
        return
    for stack, name in (("encoder", "encoder.layers.0"), ("decoder", "decoder.layers.1")):
        end = getattr(models[0], stack).layers[2 if stack == "encoder" else 3].sublayers[-1].around.post_norm
        for part in ("weight", "bias"):
            assert torch.equal(fit.tensors[f"{name}.feed_forward_post_norm.{part}"], getattr(end, part))


def test_post_norm_models_aim_at_what_the_norm_maps_to_the_state_behind_the_gap(build: Build) -> None:
    """Of the targets, not of the solution: the norm takes them to the base's states."""
    checkpoint = load(randomized(build(**DEEP)))
    base, kept = native.load(checkpoint, dtype=torch.float64), {"decoder": (0, 3)}
    pruned = without_layers(checkpoint, kept)
    text = texts_of(base, 1)[0]
    _, matches = matched(base, pruned, "decoder", kept["decoder"])
    match = matches[2]
    assert [stop.name for stop in match.gap] == [
        f"{kind}.{n}" for n in (1, 2) for kind in ("decoder", "cross", "decoder-ffn")
    ]
    norm, end = match.pruned.last_norm, match.gap[-1].last_norm
    assert norm is not None and end is not None
    norm.weight.data, norm.bias.data = end.weight.data, end.bias.data
    place = entered(base, text, "decoder", dict(states(base, text))["encoder"][4])
    for stop in [each.own for each in matches[:2]]:
        place = stop.moved(place)
    output = match.own.output(match.own.inputs(place))
    behind = match.own.moved(place)
    for stop in match.gap:
        behind = stop.moved(behind)
    aim = match.pruned.aim(place.states, output, behind.states)
    got = norm(aim)[text.real_target]
    torch.testing.assert_close(got, behind.states[text.real_target], rtol=0.05, atol=0.05)


def test_tied_layers_with_a_gap_behind_one_of_their_places(tmp_path: Path) -> None:
    """Their norm stays, since it has to serve both places; the projection is fitted on both."""
    changes = {"dec_depth": 4, "transformer_tied_layers": [1, 1, 3, 3]}
    checkpoint = load(marian_model(tmp_path / "model.npz", **changes))
    kept = {"decoder": (0,)}
    base, pruned = native.load(checkpoint, dtype=torch.float64), without_layers(checkpoint, kept)
    texts = texts_of(base, 10)
    fit = fit_projections(base, pruned, texts, RefitSettings(), kept)
    names = [each.name for each in fit.projections if each.name.startswith("decoder")]
    assert names == ["decoder.0", "decoder-ffn.0"] or names == ["decoder-ffn.0"]
    tokens = sum(int(text.real_target.sum()) for text in texts)
    assert {each.tokens for each in fit.projections if each.name.startswith("decoder")} == {2 * tokens}
    assert fit.norms == ()


def test_inputs_that_are_computed_twice_are_those_that_are_kept(build: Build) -> None:
    checkpoint = load(randomized(build(**DEEP)))
    kept, fits = {"encoder": (0, 3), "decoder": (1, 2)}, []
    for few in (1 << 28, 7000, 0):
        base, pruned = native.load(checkpoint, dtype=torch.float64), without_layers(checkpoint, kept)
        fits.append(fit_projections(base, pruned, texts_of(base, 5), RefitSettings(kept_bytes=few), kept))
    for other in fits[1:]:
        assert other.norms == fits[0].norms and other.tensors.keys() == fits[0].tensors.keys()
        for name, tensor in fits[0].tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-12, atol=1e-12)


def test_models_without_layers_in_files_are_those_of_the_oracle(build: Build, tmp_path: Path) -> None:
    """Refit through files and through tensors by name: one fit."""
    fairseq = load(randomized(build(**DEEP))).without_optimizer()
    marian = load(marian_model(tmp_path / "model.npz", enc_depth=3, dec_depth=3))
    for checkpoint, kept in ((fairseq, {"encoder": (0, 3), "decoder": (1, 2)}), (marian, {"decoder": (0, 2)})):
        keep = {GroupId.layers_of(stack): layers for stack, layers in kept.items()}
        cut = slim.apply(Plan.of(checkpoint.base, {**checkpoint.base.units, **keep}), checkpoint)
        models = native.load(cut, dtype=torch.float64), without_layers(checkpoint, kept)
        base = native.load(checkpoint, dtype=torch.float64)
        first, second = (fit_projections(base, model, texts_of(base, 5), layers=kept) for model in models)
        assert first.tensors.keys() == second.tensors.keys() and first.norms == second.norms
        assert all(torch.equal(tensor, second.tensors[name]) for name, tensor in first.tensors.items())


def test_other_layers_than_those_of_the_base_are_refused(build: Build) -> None:
    checkpoint = load(randomized(build(**PRE_NORM, **DEEP)))
    base, pruned = native.load(checkpoint, dtype=torch.float64), without_layers(checkpoint, {"decoder": (0, 1)})
    with pytest.raises(ValueError, match=r"decoder of the pruned model has no self_attention for decoder\.2"):
        fit_projections(base, pruned, texts_of(base, 1))
    with pytest.raises(ValueError, match=r"the decoder of the pruned model has decoder\.1 beyond"):
        fit_projections(base, pruned, texts_of(base, 1), layers={"decoder": (3,)})
