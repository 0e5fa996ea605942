"""Head masks in whole models: masking is zeroing W_O is cutting; gradients are those of finite differences."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.formats.fairseq.network import describe_network, native_tensors
from nmtprune.model import Pass, Transformer
from tests.support import fairseq_files, networks
from tests.support.fairseq_files import Build

CHOSEN = ["post-norm, separate embeddings", "encoder and decoder of other sizes", "joint and cross-attention",
          "adaptive language model, tied"]  # fmt: skip
NAMES = {"encoder": "encoder.layers.{}.self_attention", "decoder": "decoder.layers.{}.self_attention",
         "cross": "decoder.layers.{}.cross_attention"}  # fmt: skip


@pytest.fixture(params=CHOSEN)
def checkpoint(request: pytest.FixtureRequest, build: Build) -> Path:
    return networks.randomized(build(**networks.VARIANTS[request.param]))


def kept_ids(model: Transformer, seed: int) -> dict[GroupId, list[int]]:
    """About half of the heads of every module, none of the first."""
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for number, module in enumerate(model.architecture):
        chosen = torch.rand(module.heads, generator=generator) < 0.5
        kept[module.id] = [head for head in range(module.heads) if chosen[head]] if number else []
    return kept


def rebuilt(path: Path, kept: dict[GroupId, list[int]], padding: int, cut: bool) -> Transformer:
    """The model with the other heads' columns of W_O zeroed, or their rows and columns cut and zero heads appended."""
    settings, stored = networks.settings_of(path), fairseq_files.load(path)["model"]
    tensors, modules = native_tensors(settings, stored), []
    for module in networks.architecture(settings, stored):
        prefix, rows = NAMES[module.id.kind].format(module.id.layer), torch.zeros(module.heads, module.head_dim)
        rows[kept[module.id]] = 1
        keep = rows.flatten() == 1
        output = tensors[f"{prefix}.output.weight"]
        if not cut:
            tensors[f"{prefix}.output.weight"] = output * keep
            modules.append(module)
            continue
        extra = padding * module.head_dim
        tensors[f"{prefix}.output.weight"] = torch.nn.functional.pad(output[:, keep], (0, extra))
        for part in ("query", "key", "value"):
            for kind, pad in (("weight", (0, 0, 0, extra)), ("bias", (0, extra))):
                name = f"{prefix}.{part}.{kind}"
                tensors[name] = torch.nn.functional.pad(tensors[name][keep], pad)
        modules.append(AttentionModule(module.id, len(kept[module.id]), module.head_dim, padding))
    return Transformer(describe_network(settings, stored), Architecture(tuple(modules)), tensors)


@pytest.mark.parametrize(("padding", "cut"), [(0, False), (0, True), (2, True)], ids=["zeroed", "cut", "padded"])
@torch.inference_mode()
def test_masking_is_cutting(checkpoint: Path, padding: int, cut: bool) -> None:
    model = networks.native_model(checkpoint)
    kept = kept_ids(model, seed=1)
    masks = {id: torch.zeros(model.architecture[id].heads).index_fill(0, torch.tensor(heads, dtype=torch.long), 1.0)
             for id, heads in kept.items()}  # fmt: skip
    source, target = networks.batch(model)
    expected = model(source, target, masks)
    found = rebuilt(checkpoint, kept, padding, cut)(source, target)
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert not torch.allclose(expected, model(source, target), atol=1e-3)


@torch.inference_mode()
def test_masks_by_row_and_by_query_are_those_of_each_row_alone(checkpoint: Path) -> None:
    model = networks.native_model(checkpoint)
    source, target = networks.batch(model)
    generator = torch.Generator().manual_seed(2)
    by_row, by_query = {}, {}
    for module in model.architecture:
        length = 10 if module.id.kind == "encoder" else target.shape[1]
        by_row[module.id] = torch.rand(len(target), module.heads, generator=generator)
        by_query[module.id] = by_row[module.id].unsqueeze(-1).expand(-1, -1, length)
    expected = model(source, target, by_row)
    assert float((model(source, target, by_query) - expected).abs().max()) <= 1e-5
    for row in range(len(target)):
        alone = {id: mask[row] for id, mask in by_row.items()}
        one = None if source is None else source[row : row + 1]
        found = model(one, target[row : row + 1], alone)
        assert float((found[0] - expected[row]).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("shape", ["[H]", "[B, H]", "[B, H, T]"])
def test_gradients_are_those_of_finite_differences(checkpoint: Path, shape: str) -> None:
    model = networks.native_model(checkpoint, torch.float64)
    source, target = networks.batch(model)
    real, generator = target != model.network.padding, torch.Generator().manual_seed(3)
    masks: dict[GroupId, Tensor] = {}
    for module in model.architecture:
        length = 10 if module.id.kind == "encoder" else target.shape[1]
        size = {"[H]": (module.heads,), "[B, H]": (len(target), module.heads)}.get(
            shape, (len(target), module.heads, length)
        )
        masks[module.id] = torch.ones(size, dtype=torch.float64, requires_grad=True)

    def loss(own: dict[GroupId, Tensor]) -> Tensor:
        return model(source, target, own).log_softmax(-1)[real].square().mean()

    loss(masks).backward()
    for id, mask in masks.items():
        assert mask.grad is not None
        direction = torch.randn(mask.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            up, down = (loss({**masks, id: mask + step * direction}) for step in (1e-5, -1e-5))
        slope = float((mask.grad * direction).sum())
        assert float(up - down) / 2e-5 == pytest.approx(slope, rel=1e-5, abs=1e-9)
        assert mask.grad.any()


def test_what_makes_no_sense_is_refused(build: Build) -> None:
    model = networks.native_model(build())
    source, target = networks.batch(model)
    assert source is not None
    one = {GroupId("cross", 7): torch.ones(4), GroupId("encoder", 0): torch.ones(4)}
    language_model = networks.native_model(build(arch="transformer_lm"))
    encoded = model.encode(source)
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: model(source, target, one), "masks for modules that the model does not have: cross.7"),
        (lambda: model.encode(source, {}, Pass()), "give masks either alone or in the pass"),
        (lambda: model.decode(target), "a translation model decodes with an encoded source"),
        (lambda: language_model.encode(source), "a language model has no encoder"),
        (lambda: language_model.decode(target, encoded), "a language model decodes without a source"),
    ]
    for call, message in calls:
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == message


def test_a_model_that_was_used_for_inference_gives_gradients(checkpoint: Path) -> None:
    model = networks.native_of(networks.settings_of(checkpoint), fairseq_files.load(checkpoint)["model"])
    source, target = networks.batch(model)
    long = torch.full((1, 300), 5)
    with torch.inference_mode():
        model(None if source is None else long, long)
    masks = {module.id: torch.ones(module.heads, requires_grad=True) for module in model.architecture}
    model(source, target, masks).square().mean().backward()
    assert all(mask.grad is not None and mask.grad.isfinite().all() for mask in masks.values())


def test_attention_weights_are_given_on_request(checkpoint: Path) -> None:
    model = networks.native_model(checkpoint)
    source, target = networks.batch(model)
    observed: dict[GroupId, Tensor] = {}
    run = Pass(observe=observed.__setitem__)
    encoded = None if source is None else model.encode(source, run=run)
    scores = model.decode(target, encoded, run=run)
    assert float((scores - model(source, target)).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
    assert set(observed) == {module.id for module in model.architecture}
    for module in model.architecture:
        weights = observed[module.id]
        assert weights.shape[:2] == (len(target), module.heads)
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
        if module.id.kind == "decoder" and not model.network.joint_attention:
            assert not weights.triu(1).any()
        elif source is not None and module.id.kind != "decoder":
            assert not weights.masked_select((source == 1)[:, None, None, :].expand_as(weights)).any()
