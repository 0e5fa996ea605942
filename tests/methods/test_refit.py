"""Refit: what it fits is the least-squares solution, in every kind of model, and nothing else changes."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nmtprune import slim
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.refit import Fit, RefitSettings, fit_projections, mean_loss
from nmtprune.methods.texts import SentencePairs, Texts
from nmtprune.methods.walk import Place, ProjectionStop, entered, stops
from nmtprune.model import Model, Transformer
from nmtprune.plan import Plan
from tests.support.calibration import alone, joined, texts_of
from tests.support.classifier_folders import SETTINGS as CLASSIFIERS
from tests.support.classifier_folders import classifier_folder
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS as MARIAN
from tests.support.marian_files import marian_arrays, marian_model, write
from tests.support.networks import NORMFORMER, PRE_NORM, VARIANTS, as_normformer, randomized
from tests.support.thinned import thinned

SMOOTH = {"activation_fn": "gelu"}
"""An activation with which every neuron speaks, so that solutions are unique."""


def double(checkpoint: Checkpoint) -> Any:
    return native.load_model(checkpoint, dtype=torch.float64)


def halved(checkpoint: Checkpoint, mode: str = "cut") -> Checkpoint:
    """The checkpoint without every other head, and without any head in its first module."""
    first = checkpoint.architecture.modules[0].id
    gone = [head for head in checkpoint.architecture.head_ids() if head.number % 2 or head.group == first]
    return slim.apply(Plan.removing(checkpoint.base, gone), checkpoint.without_optimizer(), mode)


def narrowed(checkpoint: Checkpoint, mode: str = "cut") -> Checkpoint:
    """The checkpoint with every third of its heads and a third of its neurons gone, all neurons of its last layer."""
    units = checkpoint.base.units
    keep = {id: [n for n in own if n % 3 != 1] if id.sort != "layers" else own for id, own in units.items()}
    keep[max(id for id in keep if id.sort == "neurons")] = []
    return slim.apply(Plan.of(checkpoint.base, keep), checkpoint.without_optimizer(), mode)


def one_headed(checkpoint: Checkpoint) -> Checkpoint:
    gone = [head for head in checkpoint.architecture.head_ids() if head.number]
    return slim.apply(Plan.removing(checkpoint.base, gone), checkpoint.without_optimizer())


@pytest.fixture(scope="module")
def full(build: Build) -> Checkpoint:
    return load(randomized(build(**PRE_NORM, **SMOOTH)))


def walked(
    base: Model, pruned: Model, texts: Sequence[Texts]
) -> Iterator[tuple[ProjectionStop, list[tuple[Tensor, Tensor]]]]:
    """Every sub-layer of `pruned` with its inputs [N, E] and targets [N, D] in each batch."""
    ends: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(texts)
    for stack in base.stacks:
        places = [
            (entered(base, text, stack, end[0]), entered(pruned, text, stack, end[1]))
            for text, end in zip(texts, ends, strict=True)
        ]
        for own, other in zip(stops(base, stack), stops(pruned, stack), strict=True):
            found = []
            for number, (text, (first, second)) in enumerate(zip(texts, places, strict=True)):
                real = text.real(stack)
                found.append(observed(own, other, first, second, real))
                places[number] = (moved(own, first), moved(other, second))
            yield other, found
        ends = [(first.states, second.states) for first, second in places]


def observed(
    own: ProjectionStop, other: ProjectionStop, first: Place, second: Place, real: Tensor
) -> tuple[Tensor, Tensor]:
    """What the projection of `other` reads, and what it should give, by the definition of the target."""
    wanted = own.summed(first.states, own.output(own.inputs(first)))
    inputs = other.inputs(second)
    beside = other.summed(second.states, torch.zeros_like(second.states))
    return inputs[real], (wanted - beside)[real]


def moved(stop: ProjectionStop, place: Place) -> Place:
    return place.at(stop.after(place.states, stop.output(stop.inputs(place))))


def predicted(stop: ProjectionStop, inputs: Tensor) -> Tensor:
    """Outputs [N, D] of a projection for inputs [N, E]."""
    return stop.output(inputs.unsqueeze(0)).squeeze(0)


def with_ones(inputs: Tensor) -> Tensor:
    return torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)


def squared_condition(inputs: Tensor) -> float:
    """The condition number of the covariance of inputs [N, E], by which a solution from moments loses digits.

    Directions in which the inputs do not vary do not count.
    """
    values = torch.linalg.svdvals(inputs - inputs.mean(0))
    there = values[values > 1e-10 * values.max()] if len(values) else values
    return float((there[0] / there[-1]) ** 2) if len(there) else 1.0


def check_closed_form(checkpoint: Checkpoint, pruned: Checkpoint, batches: int = 12) -> None:
    """Every fitted projection predicts what an orthogonal least-squares solver predicts on stacked activations."""
    base, model = double(checkpoint), double(pruned)
    texts = texts_of(base, batches)
    fit = fit_projections(base, model, texts, RefitSettings(ridge=0.0))
    names = {each.name: each for each in fit.projections}
    assert names
    for stop, found in walked(base, model, texts):
        if stop.name not in names:
            continue
        inputs, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
        weight = stop.weight
        there = inputs if weight is None else inputs[:, (weight != 0).any(0)]
        solution = torch.linalg.lstsq(with_ones(there), targets, driver="gelsd").solution
        expected = with_ones(there) @ solution
        bound = max(1e-8, squared_condition(there) * torch.finfo(there.dtype).eps)
        torch.testing.assert_close(predicted(stop, inputs), expected, rtol=bound, atol=bound)
        error = float((targets - expected).square().mean())
        assert names[stop.name].error_after == pytest.approx(error, rel=1e-6, abs=1e-9)
        assert error <= names[stop.name].error_before + 1e-12
        assert names[stop.name].tokens == len(inputs)


@pytest.mark.parametrize("variant", thinned(VARIANTS))
def test_fits_of_fairseq_models_are_least_squares(build: Build, variant: str) -> None:
    checkpoint = load(randomized(build(**VARIANTS[variant])))
    check_closed_form(checkpoint, halved(checkpoint))


@pytest.mark.parametrize("kind", thinned(CLASSIFIERS))
def test_fits_of_classifiers_are_least_squares(tmp_path: Path, kind: str) -> None:
    checkpoint = load(classifier_folder(tmp_path / "model", kind))
    check_closed_form(checkpoint, narrowed(checkpoint, "uniform") if kind == "bert" else halved(checkpoint))


@pytest.mark.parametrize(
    "variant", [name for name in MARIAN if "tied decoder" not in name and "tied layers" not in name]
)
def test_fits_of_marian_models_are_least_squares(tmp_path: Path, variant: str) -> None:
    checkpoint = load(marian_model(tmp_path / "model.npz", **MARIAN[variant]))
    check_closed_form(checkpoint, halved(checkpoint))


@pytest.mark.parametrize(
    "variant", ["post-norm, separate embeddings", "gelu_accurate", "encoder and decoder of other sizes"]
)
def test_fits_of_narrow_fairseq_models_are_least_squares(build: Build, variant: str) -> None:
    checkpoint = load(randomized(build(**VARIANTS[variant])))
    check_closed_form(checkpoint, narrowed(checkpoint))


@pytest.mark.parametrize("variant", ["post-norm, all tied", "pre-norm SSRU decoder"])
def test_fits_of_narrow_marian_models_are_least_squares(tmp_path: Path, variant: str) -> None:
    checkpoint = load(marian_model(tmp_path / "model.npz", **MARIAN[variant]))
    check_closed_form(checkpoint, narrowed(checkpoint, "masked"))


def test_normformer_is_fitted_in_front_of_its_norms(build: Build) -> None:
    checkpoint = load(randomized(as_normformer(build(**NORMFORMER))))
    assert checkpoint.network().decoder.attention_norm and checkpoint.network().decoder.residual_scale
    check_closed_form(checkpoint, halved(checkpoint))


def test_modules_of_one_head_are_least_squares(full: Checkpoint) -> None:
    check_closed_form(full, one_headed(full))


def test_a_ridge_draws_matrices_towards_what_they_were(full: Checkpoint) -> None:
    """As rows of the system: sqrt(n l) W = sqrt(n l) W0 below the centred activations."""
    pruned = halved(full)
    base, model, before = double(full), double(pruned), double(pruned)
    texts = texts_of(base, 6)
    fit_projections(base, model, texts, RefitSettings(ridge=0.3))
    old = {each.parameter: each for stack in before.stacks for each in stops(before, stack)}
    for stop, found in walked(base, model, texts):
        inputs, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
        weight, bias = stop.weight, stop.bias
        original = old[stop.parameter].weight
        assert weight is not None and bias is not None and original is not None
        if not weight.shape[1]:
            continue
        centred = inputs - inputs.mean(0)
        penalty = (len(inputs) * 0.3 * centred.square().mean(0).mean()).sqrt()
        rows = torch.cat([centred, penalty * torch.eye(len(weight.T), dtype=torch.float64)])
        wanted = torch.cat([targets - targets.mean(0), penalty * original.T])
        expected = torch.linalg.lstsq(rows, wanted).solution.T
        torch.testing.assert_close(weight.data, expected, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(bias.data, targets.mean(0) - expected @ inputs.mean(0), rtol=1e-8, atol=1e-8)


def test_tied_layers_are_fitted_once_on_all_their_places(tmp_path: Path) -> None:
    """Oracle: the decoder as it is when the first of its tied feed-forward layers is met, at both places."""
    changes = {"dec_depth": 3, "transformer_tied_layers": [1, 1, 3]}
    checkpoint = load(marian_model(tmp_path / "model.npz", **changes))
    pruned = halved(checkpoint)
    base, model, unfitted = double(checkpoint), double(pruned), double(pruned)
    texts = texts_of(base, 12)
    fit = fit_projections(base, model, texts, RefitSettings(ridge=0.0, only="ffn"))
    assert [each.name for each in fit.projections if each.name.startswith("decoder")] == [
        "decoder-ffn.0",
        "decoder-ffn.2",
    ]
    for own, fitted in zip(stops(unfitted, "encoder"), stops(model, "encoder"), strict=True):
        assert own.weight is not None and own.bias is not None and fitted.weight is not None and fitted.bias is not None
        own.weight.data, own.bias.data = fitted.weight.data, fitted.bias.data
    seen = [parts for stop, parts in walked(base, unfitted, texts) if stop.name == "decoder-ffn.0"]
    assert len(seen) == 2
    inputs, targets = (torch.cat(side) for side in zip(*[part for parts in seen for part in parts], strict=True))
    solution = torch.linalg.lstsq(with_ones(inputs), targets, driver="gelsd").solution
    tied = next(each for each in stops(model, "decoder") if each.name == "decoder-ffn.0")
    torch.testing.assert_close(predicted(tied, inputs), with_ones(inputs) @ solution, rtol=1e-8, atol=1e-8)
    assert fit.projections[[each.name for each in fit.projections].index("decoder-ffn.0")].tokens == len(inputs)


def test_a_recurrence_without_a_projection_is_left(tmp_path: Path) -> None:
    checkpoint = load(marian_model(tmp_path / "model.npz", **MARIAN["pre-norm SSRU decoder"]))
    base = double(checkpoint)
    fit = fit_projections(base, double(halved(checkpoint)), texts_of(base, 3))
    assert fit.left == ("decoder-recurrence.0", "decoder-recurrence.1")
    assert not any("recurrence" in name for name in fit.tensors)


def test_the_projection_of_a_recurrence_is_fitted(tmp_path: Path) -> None:
    arrays = marian_arrays(**MARIAN["pre-norm SSRU decoder"], transformer_rnn_projection=True)
    rng = np.random.default_rng(1)
    for layer in (1, 2):
        arrays[f"decoder_l{layer}_rnn_Wo"] = rng.normal(0, 0.3, (16, 16)).astype(np.float32)
        arrays[f"decoder_l{layer}_rnn_bo"] = rng.normal(0, 0.3, (1, 16)).astype(np.float32)
    checkpoint = load(write(tmp_path / "model.npz", arrays))
    check_closed_form(checkpoint, halved(checkpoint))
    base = double(checkpoint)
    fit = fit_projections(base, double(halved(checkpoint)), texts_of(base, 3))
    assert not fit.left and "decoder.layers.1.recurrence.output.weight" in fit.tensors


@pytest.mark.parametrize(
    "variant", ["pre-norm, all embeddings shared", "post-norm, separate embeddings", "adaptive language model"]
)
def test_refit_of_an_unpruned_model_changes_nothing(build: Build, variant: str) -> None:
    checkpoint = load(randomized(build(**VARIANTS[variant])))
    base, same = native.load(checkpoint), native.load(checkpoint)
    before = {name: value.clone() for name, value in checkpoint.native_tensors().items()}
    fit = fit_projections(base, same, texts_of(base, 4))
    assert fit.tensors
    for name, tensor in fit.tensors.items():
        assert float((tensor - before[name]).abs().max()) <= 1e-4 * float(before[name].abs().max()), name


def test_neither_the_base_nor_what_the_slim_model_was_built_from_changes(full: Checkpoint) -> None:
    pruned = halved(full)
    base, model = native.load(full), native.load(pruned)
    kept = [{name: value.clone() for name, value in each.native_tensors().items()} for each in (full, pruned)]
    own = [value.clone() for value in base.parameters()]
    fit = fit_projections(base, model, texts_of(base, 3))
    for before, checkpoint in zip(kept, (full, pruned), strict=True):
        assert all(torch.equal(value, before[name]) for name, value in checkpoint.native_tensors().items())
    assert all(torch.equal(value, before) for value, before in zip(base.parameters(), own, strict=True))
    assert any(not torch.equal(value, kept[1][name]) for name, value in fit.tensors.items())


def fitted(full: Checkpoint, texts: Callable[[Transformer], list[SentencePairs]], **settings: object) -> Fit:
    base = double(full)
    return fit_projections(base, double(halved(full)), texts(base), RefitSettings(**settings))  # type: ignore[arg-type]


def assert_equal(first: Fit, second: Fit, tolerance: float) -> None:
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(tensor, second.tensors[name], rtol=tolerance, atol=tolerance)


def test_inputs_that_are_computed_twice_are_those_that_are_kept(full: Checkpoint) -> None:
    kept = fitted(full, lambda base: texts_of(base, 5))
    for few in (0, 7000):
        assert_equal(kept, fitted(full, lambda base: texts_of(base, 5), kept_bytes=few), 1e-12)


def test_which_sentences_share_a_batch_makes_no_difference(full: Checkpoint) -> None:
    several = fitted(full, lambda base: texts_of(base, 5))
    assert_equal(several, fitted(full, lambda base: [joined(texts_of(base, 5), 1)]), 1e-8)
    assert_equal(several, fitted(full, lambda base: alone(texts_of(base, 5))), 1e-8)


@pytest.mark.parametrize("cut", [halved, narrowed], ids=["heads", "neurons"])
@pytest.mark.parametrize("mode", ["masked", "uniform"])
def test_padding_and_removed_units_stay_zero_and_others_are_fitted_as_in_a_cut_model(
    full: Checkpoint, mode: str, cut: Callable[..., Checkpoint]
) -> None:
    base = double(full)
    texts = texts_of(base, 8)
    expected = fit_projections(base, double(cut(full)), texts).tensors
    pruned = cut(full, mode)
    found = fit_projections(base, double(pruned), texts).tensors
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        columns = (pruned.native_tensors()[name] != 0).any(0) if tensor.dim() == 2 else slice(None)
        if tensor.dim() == 2:
            assert not tensor[:, ~columns].any()
            tensor = tensor[:, columns]
        torch.testing.assert_close(tensor, expected[name], rtol=1e-9, atol=1e-9)


def test_a_module_without_heads_gives_the_mean_of_its_target(full: Checkpoint) -> None:
    base, model = double(full), double(halved(full))
    texts = texts_of(base, 4)
    fit = fit_projections(base, model, texts)
    stop, found = next(walked(base, model, texts))
    assert stop.name == "encoder.0" and fit.projections[0].inputs == 0
    targets = torch.cat([target for _, target in found])
    torch.testing.assert_close(fit.tensors["encoder.layers.0.self_attention.output.bias"], targets.mean(0))
    assert fit.projections[0].error_after == pytest.approx(float((targets - targets.mean(0)).square().mean()))


def test_no_bias_is_invented_where_there_is_none(full: Checkpoint) -> None:
    base, model = double(full), double(halved(full))
    for each in (base, model):
        for layer in each.decoder.layers:
            layer.feed_forward.output_bias = None
    texts = texts_of(base, 12)
    fit = fit_projections(base, model, texts, RefitSettings(ridge=0.0))
    names = [name for name in fit.tensors if "decoder" in name and "feed_forward" in name]
    assert names == [f"decoder.layers.{layer}.feed_forward.output.weight" for layer in range(2)]
    assert [each.bias for each in fit.projections if each.name.startswith("decoder-ffn")] == [False, False]
    for stop, found in walked(base, model, texts):
        if stop.name.startswith("decoder-ffn"):
            inputs, targets = (torch.cat(parts) for parts in zip(*found, strict=True))
            expected = inputs @ torch.linalg.lstsq(inputs, targets, driver="gelsd").solution
            torch.testing.assert_close(predicted(stop, inputs), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("only", "kinds"), [("heads", {"self_attention", "cross_attention"}), ("ffn", {"feed_forward"})]
)
def test_parts_can_be_fitted_alone(full: Checkpoint, only: str, kinds: set[str]) -> None:
    fit = fitted(full, lambda base: texts_of(base, 3), only=only)
    assert {name.split(".")[3] for name in fit.tensors} == kinds


def test_fixed_projections_are_left_as_they_are(full: Checkpoint) -> None:
    fixed = "decoder.layers.1.cross_attention.output"
    fit = fitted(full, lambda base: texts_of(base, 3), fixed=frozenset({fixed}))
    assert fit.left == ("cross.1",) and f"{fixed}.weight" not in fit.tensors


def test_neurons_that_never_fire_keep_their_weights(build: Build) -> None:
    checkpoint = load(randomized(build(**PRE_NORM)))
    pruned = halved(checkpoint)
    base, model = double(checkpoint), double(pruned)
    silent = [3, 7]
    for each in (base, model):
        each.decoder.layers[0].feed_forward.input_bias.data = each.decoder.layers[0].feed_forward.input_bias.clone()
        each.decoder.layers[0].feed_forward.input_bias.data[silent] = -100.0
    before = pruned.native_tensors()["decoder.layers.0.feed_forward.output.weight"].double()
    for ridge in (0.0, 0.01):
        fit = fit_projections(base, model, texts_of(base, 6), RefitSettings(ridge=ridge))
        after = fit.tensors["decoder.layers.0.feed_forward.output.weight"]
        torch.testing.assert_close(after[:, silent], before[:, silent], rtol=0, atol=1e-12)
        assert next(each for each in fit.projections if each.name == "decoder-ffn.0").silent >= 2


def test_fewer_tokens_than_inputs_can_be_fitted(full: Checkpoint) -> None:
    fit = fitted(full, lambda base: texts_of(base, 1, sentences=1))
    assert all(bool(tensor.isfinite().all()) for tensor in fit.tensors.values())
    assert any(each.tokens < each.inputs for each in fit.projections)


@pytest.mark.parametrize("ridge", [0.0, 1e-9])
def test_directions_that_no_token_shows_get_no_weights_from_rounding(full: Checkpoint, ridge: float) -> None:
    fits = []
    for dtype in (torch.float64, torch.float32):
        base, model = native.load(full, dtype=dtype), native.load(halved(full), dtype=dtype)
        fits.append(fit_projections(base, model, texts_of(base, 1, sentences=2), RefitSettings(ridge=ridge)))
    exact, rounded = (fit.tensors["encoder.layers.0.feed_forward.output.weight"] for fit in fits)
    assert next(each for each in fits[0].projections if each.name == "encoder-ffn.0").tokens < exact.shape[1]
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=0.02 * float(exact.abs().max()))


@pytest.mark.parametrize("broken", ["base", "slim"])
def test_states_that_are_no_numbers_name_the_module(full: Checkpoint, broken: str) -> None:
    models = {"base": native.load(full), "slim": native.load(halved(full))}
    layer = models[broken].decoder.layers[1]
    layer.feed_forward.output_weight.data = torch.full_like(layer.feed_forward.output_weight, 3e38)
    with pytest.raises(CheckpointError, match=r"decoder-ffn\.1: its states are no finite numbers"):
        fit_projections(models["base"], models["slim"], texts_of(models["base"], 2))


def test_half_precision_files_get_what_was_evaluated(full: Checkpoint) -> None:
    base, model = native.load(full), native.load(halved(full))
    fit = fit_projections(base, model, texts_of(base, 3), RefitSettings(stored_as=torch.float16))
    assert all(torch.equal(tensor, tensor.half().float()) for tensor in fit.tensors.values())
    assert torch.equal(
        model.encoder.layers[1].feed_forward.output_weight, fit.tensors["encoder.layers.1.feed_forward.output.weight"]
    )


def test_the_loss_is_that_of_every_target_token(full: Checkpoint) -> None:
    model = double(full)
    texts = texts_of(model, 3)
    total, tokens = 0.0, 0
    for text in texts:
        scores = model(text.source, text.previous).log_softmax(-1)
        total -= float(scores.gather(-1, text.target.unsqueeze(-1)).squeeze(-1)[text.real_target].sum())
        tokens += int(text.real_target.sum())
    assert mean_loss(model, texts) == pytest.approx(total / tokens, rel=1e-12)


def test_what_cannot_be_fitted_is_refused(full: Checkpoint, build: Build) -> None:
    base = double(full)
    with pytest.raises(DataError, match="no sentences"):
        fit_projections(base, double(full), [])
    with pytest.raises(DataError, match="no sentences"):
        mean_loss(base, [])
    with pytest.raises(UsageError, match=r"ridge -1 .*unknown part 'all'"):
        RefitSettings(ridge=-1, only="all")
    with pytest.raises(UsageError, match="ridge nan"):
        RefitSettings(ridge=float("nan"))
    with pytest.raises(ValueError, match="two types"):
        fit_projections(base, native.load(full), texts_of(base, 1))
    with pytest.raises(ValueError, match="other stacks"):
        fit_projections(base, double(load(build(arch="transformer_lm"))), texts_of(base, 1))
