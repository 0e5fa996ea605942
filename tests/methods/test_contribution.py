"""Variance and mean size of what heads and neurons add to the output of their sublayer, against explicit values."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import GroupId, UnitId
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError
from nmtprune.methods.contribution import Variance, contributions
from nmtprune.model.layers import DecoderLayer
from tests.support.fairseq_files import Build
from tests.support.joint import NAMES, Passed, Tiny, alone, passed

BOTH = ("heads", "neurons")


@pytest.fixture(scope="module", params=NAMES)
def tiny(request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of(request.param, build, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of("pre-norm, shared tables", build, tmp_path_factory.mktemp("plain"))


def added(own: Passed, number: int) -> Tensor:
    """What a unit adds to the output of its sublayer at every token, [N, D]."""
    width = own.contexts.shape[2]
    return own.contexts[:, number] @ own.weight[:, number * width : (number + 1) * width].T


def test_they_are_those_of_explicit_outputs(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found, groups = contributions(tiny.model, tiny.sentences, sorts=BOTH), passed(tiny, monkeypatch)
    units = [UnitId(group.id, n) for group in tiny.model.architecture.groups for n in range(group.units)]
    assert list(found.variance) == list(found.activation) == units
    for unit in units:
        output = added(groups[unit.group], unit.number)
        expected = float(output.var(0, correction=0).sum())
        assert found.variance[unit] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert found.activation[unit] == pytest.approx(float(output.norm(dim=1).mean()), rel=1e-9, abs=1e-12)
    assert min(max(found.variance.values()), max(found.activation.values())) > 1e-3


def test_of_a_neuron_they_are_the_formulas_of_one_column(plain: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = contributions(plain.model, plain.sentences, sorts=["neurons"])
    for id, own in passed(plain, monkeypatch).items():
        if id.sort == "neurons":
            for number, column in enumerate(own.weight.T):
                values = own.contexts[:, number, 0]
                variance = float(values.var(correction=0) * column.square().sum())
                assert found.variance[UnitId(id, number)] == pytest.approx(variance, rel=1e-9, abs=1e-12)
                size = float(values.abs().mean() * column.norm())
                assert found.activation[UnitId(id, number)] == pytest.approx(size, rel=1e-9, abs=1e-12)


def test_batches_and_padding_make_no_difference(plain: Tiny) -> None:
    found, expected = (
        contributions(plain.model, each, sorts=BOTH) for each in (alone(plain.sentences), plain.sentences)
    )
    assert found.variance == pytest.approx(expected.variance, rel=1e-9, abs=1e-12)
    assert found.activation == pytest.approx(expected.activation, rel=1e-9, abs=1e-12)


def test_units_removed_before_have_none(plain: Tiny) -> None:
    ffn, cross = GroupId("encoder-ffn", 0), GroupId("cross", 1)
    kept = {ffn: range(2, 24), cross: (0, 3)}
    model, masks = native.with_kept(plain.model, kept)
    found = contributions(model, plain.sentences, masks, BOTH)
    assert [unit.number for unit in found.variance if unit.group == ffn] == list(range(2, 24))
    assert [unit.number for unit in found.variance if unit.group == cross] == [0, 3]
    before = contributions(plain.model, plain.sentences, sorts=BOTH)
    assert found.variance[UnitId(ffn, 5)] == pytest.approx(before.variance[UnitId(ffn, 5)], rel=1e-9)
    late = UnitId(GroupId("decoder-ffn", 1), 0)
    assert found.activation[late] != pytest.approx(before.activation[late], rel=1e-6)


def test_what_never_varies_has_no_variance(plain: Tiny) -> None:
    model = native.load(plain.checkpoint, dtype=torch.float64)
    layer = model.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    layer.feed_forward.input_weight.data[:4] = 0
    layer.feed_forward.input_bias.data[:4] = 3.0
    found = contributions(model, plain.sentences, sorts=["neurons"])
    constant = [UnitId(GroupId("decoder-ffn", 0), number) for number in range(4)]
    assert [found.variance[unit] for unit in constant] == pytest.approx([0.0] * 4, abs=1e-12)
    assert all(found.activation[unit] > 0.1 for unit in constant)


def test_what_cannot_be_measured_is_refused(plain: Tiny, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no sentences to measure them on"):
        contributions(plain.model, [])
    model = native.load(plain.checkpoint, dtype=torch.float64)
    layer = model.decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    layer.feed_forward.input_bias.data[0] = torch.inf
    with pytest.raises(CheckpointError, match=r"values of .*decoder-ffn.0.* are no finite numbers"):
        contributions(model, plain.sentences, sorts=BOTH)


def test_orders_compare_shares_of_what_a_sublayer_gives() -> None:
    first, second = GroupId("encoder-ffn", 0), GroupId("decoder-ffn", 1)
    scores = {UnitId(first, 0): 1.0, UnitId(first, 1): 3.0, UnitId(second, 0): 500.0, UnitId(second, 1): 500.0}
    assert [*Variance().ranked(scores, scores).values()] == [0.25, 0.75, 0.5, 0.5]
    # Of a later step, on a model that lost units, by what the sublayer gave at first.
    left = {UnitId(first, 1): 2.0, UnitId(second, 1): 100.0}
    assert [*Variance().ranked(left, scores).values()] == [0.5, 0.1]
    silent = dict.fromkeys(scores, 0.0)
    assert Variance().ranked(silent, silent) == silent
