"""The native model of checkpoints as they are read from files: stock, old, slim and real ones."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.conftest import Build
from tests.model import support


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("variant", support.VARIANTS)
@torch.inference_mode()
def test_scores_of_a_loaded_file_are_those_of_fairseq(build: Build, variant: str) -> None:
    path = support.randomized(build(**support.VARIANTS[variant]))
    model = native.load(load(path))
    source, target = support.batch(model)
    assert close(model(source, target), support.fairseq_scores(support.fairseq_model(path), source, target)[1])


@pytest.mark.parametrize(
    "stored",
    [{"cfg": "omegaconf"}, {"cfg": "args", "packed": True}, {"cloned": True}, {"old_zip": True},
     {"cfg": "args", "without_settings": ("activation_fn", "no_cross_attention", "decoder_output_dim")}],
    ids=str,
)  # fmt: skip
@torch.inference_mode()
def test_the_way_of_storing_makes_no_difference(build: Build, stored: dict[str, Any]) -> None:
    options = {**support.PRE_NORM, **support.SHARED}
    plain, other = native.load(load(build(**options))), native.load(load(build(**options, stored=stored)))
    batch = support.batch(plain)
    assert torch.equal(plain(*batch), other(*batch))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_half_precision_weights_are_computed_in_single_precision(build: Build, dtype: torch.dtype) -> None:
    path = build(**support.SHARED, stored={"dtype": dtype})
    model = native.load(load(path))
    assert model.dtype == torch.float32
    source, target = support.batch(model)
    expected = support.fairseq_scores(support.fairseq_model(path), source, target)[1]
    assert close(model(source, target), expected)
    rough = native.load(load(path), dtype=dtype)
    assert rough.dtype == dtype
    assert float((rough(source, target) - expected).abs().max()) < 0.1 * float(expected.abs().max())


@torch.inference_mode()
def test_slim_files_of_every_mode(build: Build, tmp_path: Path) -> None:
    base = load(support.randomized(build(**support.PRE_NORM)))
    plan = removing(base, "encoder.0.1", "encoder.1.0-3", "decoder.0.0,2", "cross.1.3")
    masks = {module.id: torch.tensor([float(head in plan.kept(module.id)) for head in range(module.heads)])
             for module in base.architecture}  # fmt: skip
    batch = support.batch(native.load(base))
    expected = native.load(base)(*batch, masks)
    for mode in ("cut", "masked", "uniform"):
        path = tmp_path / f"{mode}.pt"
        apply(plan, base, mode).save(path)
        assert close(native.load(load(path))(*batch), expected)


def removing(base: Checkpoint, *names: str) -> Plan:
    from nmtprune.architecture import parse_heads

    return Plan.removing(base.base, parse_heads(" ".join(names), base.architecture))


def test_what_cannot_be_run_is_named_with_the_file(build: Build, tmp_path: Path) -> None:
    checkpoint = load(build())

    class Damaged:
        path, architecture, network = checkpoint.path, checkpoint.architecture, checkpoint.network

        def native_tensors(self) -> dict[str, Tensor]:
            tensors = dict(checkpoint.native_tensors())
            del tensors["encoder.layers.0.feed_forward.input.bias"]
            return tensors

    with pytest.raises(CheckpointError) as caught:
        native.load(Damaged())  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"{checkpoint.path}: the tensors do not fit the network: encoder.layers.0.feed_forward.input.bias is missing"
    )


@torch.inference_mode()
def test_real_model(shared_model: Path) -> None:
    checkpoint = load(shared_model)
    for dtype in (torch.float32, torch.float64):
        model = native.load(checkpoint, dtype=dtype)
        generator = torch.Generator().manual_seed(1)
        source = torch.randint(4, 6000, (16, 30), generator=generator)
        target = torch.randint(4, 6000, (16, 28), generator=generator)
        for row in range(16):
            source[row, : row % 7], target[row, 28 - row % 5 :] = 1, 1
        states, expected = support.fairseq_scores(support.fairseq_model(shared_model), source, target)
        assert close(model(source, target), expected)
        assert close(model.encode(source).states, states)
