"""Masks of neurons in whole models: masking is cutting; gradients are those of finite differences."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import Architecture, GroupId
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.model import Masks, Pass, Transformer
from nmtprune.model.attention import Attention
from nmtprune.model.sublayers import Body, FeedForward
from tests.support import networks
from tests.support.fairseq_files import Build

CHOSEN = ["post-norm, separate embeddings", "pre-norm, all embeddings shared", "encoder and decoder of other sizes",
          "gelu_accurate", "joint and cross-attention", "adaptive language model, tied"]  # fmt: skip


@pytest.fixture(params=CHOSEN)
def path(request: pytest.FixtureRequest, build: Build) -> Path:
    return networks.randomized(build(**networks.VARIANTS[request.param]))


def kept_neurons(model: Transformer, seed: int) -> dict[GroupId, list[int]]:
    """About half of the neurons of every feed-forward layer, none of the first, whatever its stack."""
    generator, kept = torch.Generator().manual_seed(seed), {}
    for number, group in enumerate(model.architecture.feed_forwards):
        chosen = torch.rand(group.units, generator=generator) < 0.5
        kept[group.id] = chosen.nonzero()[:, 0].tolist() if number else []
    return kept


def rebuilt(path: Path, kept: dict[GroupId, list[int]], padding: int, cut: bool) -> Transformer:
    """The model with the other neurons' columns zeroed, or with their rows and columns cut and zeros behind them."""
    checkpoint = load(path)
    tensors, groups = dict(checkpoint.native_tensors()), []
    for group in checkpoint.architecture.feed_forwards:
        prefix = f"{group.id.stack}.layers.{group.id.layer}.feed_forward"
        names = [f"{prefix}.{name}" for name in ("input.weight", "input.bias", "output.weight")]
        first, bias, second = (tensors[name] for name in names)
        if cut:
            own = kept[group.id]
            first, bias = first[own], bias[own]
            first = torch.nn.functional.pad(first, (0, 0, 0, padding))
            bias, second = (torch.nn.functional.pad(each, (0, padding)) for each in (bias, second[:, own]))
            groups.append(replace(group, units=len(own), padding=padding))
        else:
            factor = torch.zeros(group.units)
            factor[kept[group.id]] = 1
            second = second * factor
            groups.append(group)
        tensors.update(zip(names, (first, bias, second), strict=True))
    return Transformer(checkpoint.network(), Architecture(checkpoint.architecture.modules, tuple(groups)), tensors)


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize(("padding", "cut"), [(0, False), (0, True), (3, True)], ids=["zeroed", "cut", "padded"])
@torch.inference_mode()
def test_masking_is_cutting(path: Path, padding: int, cut: bool) -> None:
    model = native.load(load(path))
    kept = kept_neurons(model, seed=1)
    source, target = networks.batch(model)
    expected = model(source, target, native.masks_of(model, kept))
    found = rebuilt(path, kept, padding, cut)
    assert close(found(source, target), expected)
    assert not torch.allclose(expected, model(source, target), atol=1e-3)
    full = {group.id: torch.ones(group.units) for group in found.architecture.feed_forwards}
    assert torch.equal(found(source, target, full), found(source, target))


@torch.inference_mode()
def test_masks_by_row_and_by_token_are_those_of_each_row_alone(path: Path) -> None:
    model = native.load(load(path))
    source, target = networks.batch(model)
    generator = torch.Generator().manual_seed(2)
    by_row, by_token = {}, {}
    for group in model.architecture.feed_forwards:
        length = 10 if group.id.stack == "encoder" else target.shape[1]
        by_row[group.id] = torch.rand(len(target), group.units, generator=generator)
        by_token[group.id] = by_row[group.id].unsqueeze(-1).expand(-1, -1, length)
    expected = model(source, target, by_row)
    assert close(model(source, target, by_token), expected)
    for row in range(len(target)):
        alone = {id: mask[row] for id, mask in by_row.items()}
        one = None if source is None else source[row : row + 1]
        assert close(model(one, target[row : row + 1], alone)[0], expected[row])


@pytest.mark.parametrize("shape", ["[F]", "[B, F]", "[B, F, T]"])
def test_gradients_are_those_of_finite_differences(path: Path, shape: str) -> None:
    model = native.load(load(path), dtype=torch.float64)
    source, target = networks.batch(model)
    real, generator = target != model.network.padding, torch.Generator().manual_seed(3)
    masks: dict[GroupId, Tensor] = {}
    for group in model.architecture.feed_forwards:
        length = 10 if group.id.stack == "encoder" else target.shape[1]
        size = (len(target), group.units, length)
        size = {"[F]": size[1:2], "[B, F]": size[:2]}.get(shape, size)
        masks[group.id] = torch.ones(size, dtype=torch.float64, requires_grad=True)

    def loss(own: dict[GroupId, Tensor]) -> Tensor:
        return model(source, target, own).log_softmax(-1)[real].square().mean()

    loss(masks).backward()
    for id, mask in masks.items():
        assert mask.grad is not None and mask.grad.any()
        direction = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            up, down = (loss({**masks, id: mask + step * direction}) for step in (1e-6, -1e-6))
        slope = float((mask.grad * direction).sum())
        assert float(up - down) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-9)


@torch.inference_mode()
def test_a_tap_sees_what_second_matrices_read(path: Path) -> None:
    model = native.load(load(path))
    source, target = networks.batch(model)
    masks: Masks = native.masks_of(model, kept_neurons(model, seed=4))
    seen: list[GroupId | None] = []

    def tap(body: Body, inner: Tensor, output: Tensor) -> Tensor:
        seen.append(body.id)
        if isinstance(body, Attention):
            return output
        assert isinstance(body, FeedForward) and body.id is not None
        torch.testing.assert_close(inner * masks[body.id], inner)
        torch.testing.assert_close(inner @ body.output_weight.T + body.output_bias, output)
        return torch.zeros_like(output)

    run = Pass(masks, tap=tap)
    encoded = None if source is None else model.encode(source, run=run)
    found = model.decode(target, encoded, run=run)
    assert sorted(filter(None, seen)) == sorted(group.id for group in model.architecture.groups)
    for group in model.architecture.feed_forwards:
        stack = model.encoder if group.id.stack == "encoder" else model.decoder
        assert stack is not None
        body = stack.layers[group.id.layer].feed_forward  # type: ignore[union-attr]
        body.output_bias = torch.nn.Parameter(torch.zeros_like(body.output_bias), requires_grad=False)
    nothing = native.masks_of(model, {group.id: [] for group in model.architecture.feed_forwards})
    assert close(found, model(source, target, nothing))


def test_masks_of_another_shape_are_refused(build: Build) -> None:
    model = native.load(load(build()))
    source, target = networks.batch(model)
    with pytest.raises(ValueError) as caught:
        model(source, target, {GroupId("decoder-ffn", 1): torch.ones(7)})
    message = "mask of decoder-ffn.1 has shape (7,), not one of (24,), (5, 24) or (5, 24, 10)"
    assert str(caught.value) == message


@torch.inference_mode()
def test_neurons_behind_a_norm_have_no_masks(build: Build, tmp_path: Path) -> None:
    """NormFormer's decoder normalizes its neurons together, so that none can go alone; its layers can."""
    model = native.load(load(networks.randomized(networks.normformer(build, tmp_path))))
    _, target = networks.batch(model)
    assert model.network.decoder.feed_forward_norm and not model.architecture.feed_forwards
    assert [layer.feed_forward.id for layer in model.decoder.layers] == [None, None]
    with pytest.raises(ValueError, match=r"^masks for modules that the model does not have: decoder-ffn\.0$"):
        model(None, target, {GroupId("decoder-ffn", 0): torch.ones(24)})
    found, masks = native.with_kept(model, {GroupId("decoder", 1): [0, 2], GroupId("decoder-layers"): [1]})
    assert [layer.number for layer in found.decoder.layers] == [1] and list(masks) == [GroupId("decoder", 1)]
    assert not torch.allclose(found(None, target, masks), model(None, target), atol=1e-3)
