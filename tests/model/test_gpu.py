"""On a GPU the native model computes what it computes on a CPU."""

import pytest
import torch

from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.model import Pass
from tests.support import networks
from tests.support.fairseq_files import Build

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("variant", networks.VARIANTS)
@torch.inference_mode()
def test_scores_and_steps(build: Build, variant: str) -> None:
    checkpoint = load(networks.randomized(build(**networks.VARIANTS[variant])))
    there, here = native.load(checkpoint, "cuda", torch.float64), native.load(checkpoint, dtype=torch.float64)
    source, target = networks.batch(here)
    masks = {group.id: torch.linspace(0, 1, group.units) for group in checkpoint.architecture.groups}
    expected = here(source, target, masks)
    moved = None if source is None else source.cuda()
    found = there(moved, target.cuda(), {id: mask.cuda() for id, mask in masks.items()})
    assert float((found.cpu() - expected).abs().max()) <= 1e-9
    encoded, state = None if moved is None else there.encode(moved), there.new_state()
    source_cache = None if encoded is None else there.cache_source(encoded)
    there.decode(target.cuda(), source_cache, run=Pass(state=state))
    state.reorder(torch.tensor([4, 3, 2, 1, 0], device="cuda"))
    source_cache = None if source_cache is None else source_cache.select(torch.tensor([4, 3, 2, 1, 0], device="cuda"))
    assert there.decode(torch.full((5, 1), 5, device="cuda"), source_cache, run=Pass(state=state)).isfinite().all()


@torch.inference_mode()
def test_half_precision_stays_half_precision(build: Build) -> None:
    checkpoint = load(build(stored={"dtype": torch.float16}))
    model, exact = native.load(checkpoint, "cuda"), native.load(checkpoint)
    assert (model.dtype, exact.dtype) == (torch.float16, torch.float32)
    source, target = networks.batch(exact)
    assert source is not None
    found, expected = model(source.cuda(), target.cuda()).float().cpu(), exact(source, target)
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())
