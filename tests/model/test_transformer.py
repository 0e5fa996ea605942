"""The native forward pass is fairseq's, for everything that the native model supports."""

from pathlib import Path

import pytest
import torch

from nmtprune.formats.fairseq.architectures import complete
from tests.support import fairseq_files, networks
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned


@pytest.fixture(params=thinned(networks.VARIANTS.values()), ids=networks.VARIANTS)
def checkpoint(request: pytest.FixtureRequest, build: Build) -> Path:
    return networks.randomized(build(**request.param))


def test_scores_are_those_of_fairseq(checkpoint: Path) -> None:
    model, reference = networks.native_model(checkpoint), networks.fairseq_model(checkpoint)
    source, target = networks.batch(model)
    with torch.inference_mode():
        states, scores = networks.fairseq_scores(reference, source, target)
        found = model(source, target)
        assert model.normalized == (reference.decoder.adaptive_softmax is not None)
        assert found.shape == (*target.shape, model.words[1])
        assert float((found - scores).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
        if source is not None:
            assert float((model.encode(source).states - states).abs().max()) <= 1e-5


def test_scores_in_double_precision(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks.in_double_precision(monkeypatch)
    model = networks.native_model(checkpoint, torch.float64)
    reference = networks.fairseq_model(checkpoint, torch.float64)
    source, target = networks.batch(model, seed=2)
    with torch.inference_mode():
        scores = networks.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - scores).abs().max()) <= 1e-9


def test_limits_are_those_of_fairseq(checkpoint: Path) -> None:
    model, reference = networks.native_model(checkpoint), networks.fairseq_model(checkpoint)
    assert model.max_positions[1] == reference.decoder.max_positions()
    if model.encoder is not None:
        assert model.max_positions[0] == reference.encoder.max_positions()


def test_normformer_decoder_is_that_of_fairseq(tmp_path: Path) -> None:
    data = fairseq_files.data_bin(tmp_path / "data")
    cfg = fairseq_files.fairseq_config(data, arch="transformer", **networks.PRE_NORM)
    cfg.model.scale_attn = cfg.model.scale_fc = cfg.model.scale_resids = True
    reference = fairseq_files.fairseq_model(cfg)[1].eval()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if name.endswith(("attn_ln.weight", "ffn_layernorm.bias", "w_resid")):
                parameter.uniform_(0.5, 1.5)
    model = networks.native_of(complete("transformer", vars(cfg.model)), reference.state_dict())
    assert model.network.decoder.attention_norm
    source, target = networks.batch(model)
    with torch.inference_mode():
        scores = networks.fairseq_scores(reference, source, target)[1]
        assert float((model(source, target) - scores).abs().max()) <= 1e-5 * max(1.0, float(scores.abs().max()))
