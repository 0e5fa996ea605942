"""The native forward pass is fairseq's, for everything that the native model supports."""

from pathlib import Path

import pytest
import torch

from nmtprune.formats.fairseq.architectures import complete
from tests import builders
from tests.conftest import Build
from tests.model import support


@pytest.fixture(params=support.VARIANTS.values(), ids=support.VARIANTS)
def checkpoint(request: pytest.FixtureRequest, build: Build) -> Path:
    return support.randomized(build(**request.param))


def test_scores_are_those_of_fairseq(checkpoint: Path) -> None:
    model, reference = support.native_model(checkpoint), support.fairseq_model(checkpoint)
    source, target = support.batch(model)
    with torch.inference_mode():
        states, scores = support.fairseq_scores(reference, source, target)
        found = model(source, target)
        assert model.normalized == (reference.decoder.adaptive_softmax is not None)
        assert found.shape == (*target.shape, model.words[1])
        assert float((found - scores).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
        if source is not None:
            assert float((model.encode(source).states - states).abs().max()) <= 1e-5


def test_scores_in_double_precision(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support.in_double_precision(monkeypatch)
    model, reference = support.native_model(checkpoint, torch.float64), support.fairseq_model(checkpoint, torch.float64)
    source, target = support.batch(model, seed=2)
    with torch.inference_mode():
        scores = support.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - scores).abs().max()) <= 1e-9


def test_limits_are_those_of_fairseq(checkpoint: Path) -> None:
    model, reference = support.native_model(checkpoint), support.fairseq_model(checkpoint)
    assert model.max_positions[1] == reference.decoder.max_positions()
    if model.encoder is not None:
        assert model.max_positions[0] == reference.encoder.max_positions()


def test_normformer_decoder_is_that_of_fairseq(tmp_path: Path) -> None:
    cfg = builders.fairseq_config(builders.data_bin(tmp_path / "data"), arch="transformer", **support.PRE_NORM)
    cfg.model.scale_attn = cfg.model.scale_fc = cfg.model.scale_resids = True
    reference = builders.fairseq_model(cfg)[1].eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith(("attn_ln.weight", "ffn_layernorm.bias", "w_resid")):
                parameter.uniform_(0.5, 1.5)
    model = support.native_of(complete("transformer", vars(cfg.model)), reference.state_dict())
    assert model.network.decoder.attention_norm
    source, target = support.batch(model)
    with torch.inference_mode():
        scores = support.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - scores).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
