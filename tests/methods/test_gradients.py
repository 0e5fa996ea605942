"""The loss is fairseq's; half precision, blocks of words and broken weights."""

import math
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nmtprune.architecture import GroupId
from nmtprune.data.batching import BatchLimits
from nmtprune.engines import native
from nmtprune.errors import CheckpointError
from nmtprune.formats import load
from nmtprune.methods import gradients
from nmtprune.methods.importance import ImportanceSettings, importance
from nmtprune.methods.measuring import batches
from nmtprune.model.layers import DecoderLayer
from tests.support import networks
from tests.support.examples import ALONE, Example, close
from tests.support.fairseq_files import Build

EPS = 0.1


@pytest.fixture(scope="module")
def plain(build: Build) -> Example:
    return Example.of(build, "pre-norm, shared tables")


def test_the_loss_is_that_of_fairseq(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    import fairseq.utils
    from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
    from fairseq.data import Dictionary

    networks.in_double_precision(monkeypatch)
    monkeypatch.setattr(fairseq.utils, "log_softmax", lambda x, dim, onnx_trace=False: F.log_softmax(x, dim))
    path = networks.randomized(build(**networks.PRE_NORM, **networks.SHARED))
    example, reference = Example(load(path)), networks.fairseq_model(path, torch.float64)
    criterion = LabelSmoothedCrossEntropyCriterion(_Task(Dictionary()), sentence_avg=False, label_smoothing=EPS)
    for batch in batches(example.corpus, BatchLimits(max_tokens=80)):
        assert batch.target is not None and batch.previous is not None
        inputs = {"src_tokens": batch.source, "src_lengths": batch.source_lengths, "prev_output_tokens": batch.previous}
        sample = {"net_input": inputs, "target": batch.target, "ntokens": int((batch.target != 1).sum())}
        with torch.no_grad():
            expected = float(criterion(reference, sample)[0])
            real = batch.target != 1
            scores = example.model(batch.source, batch.previous)[real]
            found = gradients.label_smoothed_loss(scores, batch.target[real], EPS)
        assert found.shape == (int(real.sum()),)
        assert float(found.sum()) == pytest.approx(expected, abs=1e-9)
        log_probabilities = scores.log_softmax(-1)
        again = gradients.label_smoothed_loss(log_probabilities, batch.target[real], EPS, normalized=True)
        assert torch.allclose(again, found, rtol=0, atol=1e-9)


class _Task:
    """As much of a task as a criterion asks for."""

    def __init__(self, dictionary: Any) -> None:
        self.target_dictionary = dictionary


def test_blocks_of_words_make_no_difference(plain: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ImportanceSettings("token", EPS)
    expected = importance(plain.model, batches(plain.corpus), settings)
    monkeypatch.setattr(gradients, "_BLOCK_BYTES", {"cpu": 7 * 8 * plain.model.words[1]})
    assert close(importance(plain.model, batches(plain.corpus), settings), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_close_and_keeps_masks_in_single_precision(plain: Example, dtype: torch.dtype) -> None:
    model = native.load(plain.checkpoint, dtype=torch.float32)
    exact = importance(model, batches(plain.corpus), ImportanceSettings("sentence", EPS))
    found = importance(model, batches(plain.corpus), ImportanceSettings("sentence", EPS, dtype))
    largest, tolerance = max(exact.values()), 0.05 if dtype == torch.bfloat16 else 0.01
    assert all(abs(found[id] - exact[id]) <= tolerance * largest for id in exact)
    assert found != exact


def test_float16_tries_smaller_scales_where_derivatives_overflow(
    plain: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = native.load(plain.checkpoint, dtype=torch.float32)
    compute, scales = gradients.MaskGradients._scaled, []
    largest = 4.0

    def overflowing(self: gradients.MaskGradients, texts: Any, scale: float) -> Any:
        scales.append(scale)
        return ((id, gradient if scale <= largest else gradient / 0) for id, gradient in compute(self, texts, scale))

    settings = ImportanceSettings("sentence", EPS, torch.float16)
    expected = importance(model, batches(plain.corpus), settings)
    monkeypatch.setattr(gradients.MaskGradients, "_scaled", overflowing)
    found = importance(model, batches(plain.corpus), settings)
    assert scales == [2.0**10, 2.0**6, 2.0**2]
    assert all(found[id] == pytest.approx(expected[id], rel=0.02, abs=1e-3) for id in expected)
    largest = 0.0
    with pytest.raises(CheckpointError, match="are no finite numbers: compute without autocast"):
        importance(model, batches(plain.corpus), settings)


def test_weights_that_are_no_numbers_are_named(plain: Example) -> None:
    model = native.load(plain.checkpoint, dtype=torch.float64)
    layer = cast(DecoderLayer, model.decoder.layers[1])
    layer.feed_forward.output_bias.data = torch.full_like(layer.feed_forward.output_bias, math.nan)
    message = "derivatives by the heads of encoder.0, .*cross.1 are no finite numbers: check the model's weights"
    with pytest.raises(CheckpointError, match=message):
        importance(model, batches(plain.corpus), ImportanceSettings())


def test_one_batch_at_a_time(plain: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    measure = gradients.MaskGradients.of

    def counted(self: gradients.MaskGradients, texts: Any) -> dict[GroupId, Tensor]:
        alive.append(taken)
        return measure(self, texts)

    taken, source = 0, batches(plain.corpus, ALONE)
    monkeypatch.setattr(gradients.MaskGradients, "of", counted)

    def one_by_one() -> Any:
        nonlocal taken
        for batch in source:
            taken += 1
            yield batch

    importance(plain.model, one_by_one(), ImportanceSettings())
    assert alive == list(range(1, len(plain.corpus) + 1))
