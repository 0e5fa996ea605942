"""Costs of removing heads are errors of least-squares refits, weighed by the derivatives of the loss."""

import itertools
import math
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from nmtprune.architecture import KINDS, NEURON_KINDS, GroupId, UnitId
from nmtprune.budget import Limits
from nmtprune.engines import native
from nmtprune.errors import CheckpointError, DataError
from nmtprune.formats import load
from nmtprune.methods import reconstruction_costs
from nmtprune.methods.joint_order import RemovalCosts, removal_order
from nmtprune.methods.reconstruction import RIDGE, reconstruction
from nmtprune.methods.reconstruction_costs import Reconstruction
from nmtprune.model import Transformer
from nmtprune.model.attention import SelfAttention
from nmtprune.model.layers import DecoderLayer, EncoderLayer
from tests.support.fairseq_files import Build
from tests.support.joint import EPS, NAMES, Passed, Tiny, alone, passed, random_batches
from tests.support.networks import randomized
from tests.support.thinned import thinned

SOME = "encoder.0.0-1 cross.1.3 decoder.0"
SENTENCES = 18


@pytest.fixture(scope="module", params=thinned(NAMES, 2))
def tiny(request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of(request.param, build, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of("pre-norm, shared tables", build, tmp_path_factory.mktemp("plain"))


def measured(tiny: Tiny, ridge: float = 0.0, removed: str = "", sorts: Sequence[str] = ("heads",)) -> Reconstruction:
    masks = tiny.masks(removed) if removed else None
    return reconstruction(tiny.model, tiny.sentences, label_smoothing=EPS, ridge=ridge, masks=masks, sorts=sorts)


def cost(own: Passed, present: Sequence[int], removed: Sequence[int], ridge: float = 0.0) -> float:
    """Of removing heads from those present: the error of torch's least squares, weighed by G, per sentence.

    With a ridge the columns that go are drawn to zero and the others to where they are, by rows that are added.
    """
    count, _, width = own.contexts.shape
    x = own.contexts[:, present].flatten(1)
    columns = own.weight.view(len(own.weight), -1, width)[:, present].flatten(1)
    x = x - x.mean(0)
    added = ridge * float((x**2).mean()) * count
    x = torch.cat([x, math.sqrt(added) * torch.eye(x.shape[1], dtype=x.dtype)])
    places = [place for place, head in enumerate(present) if head not in removed]
    kept = [place * width + entry for place in places for entry in range(width)]
    target = x @ columns.T
    found = torch.linalg.lstsq(x[:, kept], target, driver="gelsd").solution if kept else target[:0]
    errors = target - x[:, kept] @ found
    weights = own.slopes.T @ own.slopes / len(own.slopes)
    return float((errors @ weights * errors).sum()) / SENTENCES / 2


def remove(found: Reconstruction, heads: Sequence[UnitId]) -> float:
    """The summed costs of removing heads one after the other."""
    total = 0.0
    for head in heads:
        total += found.costs()[head]
        found = found.without(head)
    return total


def first_attention(model: Transformer) -> SelfAttention:
    assert model.encoder is not None
    return cast(EncoderLayer, model.encoder.layers[0]).self_attention


@pytest.mark.parametrize("ridge", thinned([RIDGE, 1e-5]))
def test_costs_are_those_of_least_squares(tiny: Tiny, ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found, modules = measured(tiny, ridge), passed(tiny, monkeypatch)
    assert tuple(found.costs()) == tiny.heads
    assert max(found.costs().values()) > 1e-3
    for module in tiny.model.architecture:
        every = range(module.heads)
        for size in range(1, module.heads + 1):
            for removed in itertools.combinations(every, size):
                expected = cost(modules[module.id], every, removed, ridge)
                ways = [[*removed], [*reversed(removed)]]
                for way in ways:
                    total = remove(found, [UnitId(module.id, head) for head in way])
                    assert total == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_the_order_is_that_of_brute_force(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found, modules = measured(tiny, RIDGE), passed(tiny, monkeypatch)
    removed: dict[GroupId, list[int]] = {module.id: [] for module in tiny.model.architecture}
    order = removal_order(found, tiny.checkpoint.base.modules, Limits())
    assert sorted(order) == list(tiny.heads)
    for head in order:
        increases = {}
        for other in tiny.heads:
            own, gone = modules[other.group], removed[other.group]
            if other.number not in gone:
                every = range(tiny.model.architecture[other.group].heads)
                before = cost(own, every, gone, RIDGE) if gone else 0.0
                increases[other] = cost(own, every, [*gone, other.number], RIDGE) - before
        assert increases[head] <= min(increases.values()) + 1e-8
        removed[head.group].append(head.number)


@pytest.mark.parametrize("block", thinned([3, 64]))
def test_the_order_of_neurons_is_that_of_brute_force(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(reconstruction_costs, "BLOCK", block)
    groups = {group.id: group.units for group in tiny.model.architecture.feed_forwards}
    first = next(iter(groups))
    found, own = measured(tiny, RIDGE, sorts=["neurons"]), passed(tiny, monkeypatch)[first]
    assert {unit.group for unit in found.costs()} == set(groups)
    every, removed = range(groups[first]), list[int]()
    for unit in removal_order(found, groups, Limits(NEURON_KINDS)):
        if unit.group != first or len(removed) > 10:
            continue
        before = cost(own, every, removed, RIDGE) if removed else 0.0
        increases = {
            neuron: cost(own, every, [*removed, neuron], RIDGE) - before for neuron in every if neuron not in removed
        }
        known = {other.number: value for other, value in found.costs().items() if other.group == first}
        assert known == pytest.approx(increases, rel=1e-6, abs=1e-8)
        assert increases[unit.number] <= min(increases.values()) + 1e-8
        found = found.without(unit)
        removed.append(unit.number)
    assert len(removed) > 10


def test_pairs_of_neurons_cost_what_least_squares_say(plain: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    id = GroupId("decoder-ffn", 1)
    found, own = measured(plain, RIDGE, sorts=["heads", "neurons"]), passed(plain, monkeypatch)[id]
    count = plain.model.architecture.group(id).units
    for pair in itertools.permutations(range(count), 2):
        total = remove(found, [UnitId(id, neuron) for neuron in pair])
        assert total == pytest.approx(cost(own, range(count), pair, RIDGE), rel=1e-6, abs=1e-8)


def test_heads_and_neurons_are_ordered_as_each_alone_by_cost(plain: Tiny) -> None:
    """Groups know nothing of each other: the cheapest of all goes next."""
    architecture = plain.model.architecture
    groups = {group.id: group.units for group in architecture.groups}
    order = removal_order(measured(plain, RIDGE, sorts=["heads", "neurons"]), groups, Limits((*KINDS, *NEURON_KINDS)))
    assert len(order) == sum(groups.values())
    for sort, kinds in (("heads", KINDS), ("neurons", NEURON_KINDS)):
        alone = removal_order(measured(plain, RIDGE, sorts=[sort]), groups, Limits(kinds))
        assert alone == tuple(unit for unit in order if unit.group.sort == sort)
    found, costs = measured(plain, RIDGE, sorts=["heads", "neurons"]), []
    for unit in order[:12]:
        costs.append(found.costs()[unit])
        assert costs[-1] == min(found.costs().values())
        found = found.without(unit)


def test_heads_that_are_spared_are_not_the_cheapest(plain: Tiny) -> None:
    found = measured(plain)
    for spared in ([each for _, each in found.cheapest().values()], list(found.costs()), []):
        assert found.cheapest(spared) == RemovalCosts.cheapest(found, spared)


def test_batches_and_padding_make_no_difference(tiny: Tiny) -> None:
    found = reconstruction(tiny.model, alone(tiny.sentences), label_smoothing=EPS)
    assert found.costs() == pytest.approx(measured(tiny, RIDGE).costs(), rel=1e-7, abs=1e-9)


def test_heads_removed_before_are_gone(plain: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(plain, RIDGE, SOME)
    modules = passed(plain, monkeypatch, plain.masks(SOME))
    left = {id: [head.number for head in found.costs() if head.group == id] for id in found.groups}
    assert left[GroupId("encoder", 0)] == [2, 3] and left[GroupId("cross", 1)] == [0, 1, 2]
    assert GroupId("decoder", 0) not in left
    for id, present in left.items():
        for head in present:
            expected = cost(modules[id], present, [head], RIDGE)
            assert found.costs()[UnitId(id, head)] == pytest.approx(expected, rel=1e-8, abs=1e-8)
        total = remove(found, [UnitId(id, head) for head in present])
        assert total == pytest.approx(cost(modules[id], present, present, RIDGE), rel=1e-8, abs=1e-8)


def test_a_head_that_others_replace_costs_nothing(plain: Tiny) -> None:
    """The context of a head that is a copy of another one can be made of that one's."""
    model = native.load(plain.checkpoint, dtype=torch.float64)
    attention = first_attention(model)
    width = attention.head_dim
    for tensor in (attention.input_weight, attention.input_bias):
        for part in range(3):
            begin = part * attention.inner
            tensor.data[begin + width : begin + 2 * width] = tensor.data[begin : begin + width]
    found = reconstruction(model, plain.sentences, ridge=1e-9)
    twins = [UnitId(GroupId("encoder", 0), head) for head in (0, 1)]
    costs = found.costs()
    assert all(costs[head] < 1e-6 for head in twins)
    assert found.without(twins[0]).costs()[twins[1]] > 1e-3
    assert min(cost for head, cost in costs.items() if head not in twins) > 1e-5


def test_contexts_that_never_vary_cost_nothing(plain: Tiny) -> None:
    """The bias replaces them."""
    model = native.load(plain.checkpoint, dtype=torch.float64)
    attention = first_attention(model)
    attention.input_weight.data[2 * attention.inner :] = 0
    found = reconstruction(model, plain.sentences)
    assert [cost for head, cost in found.costs().items() if head.group == GroupId("encoder", 0)] == pytest.approx(
        [0.0] * 4, abs=1e-8
    )


def test_heads_that_nothing_leads_to_cost_nothing(build: Build) -> None:

    checkpoint = load(randomized(build(no_cross_attention=True)))
    model = native.load(checkpoint, dtype=torch.float64)
    costs = reconstruction(model, random_batches(model)).costs()
    assert all((cost == 0) == (head.group.kind == "encoder") for head, cost in costs.items())


def test_single_precision_is_close(plain: Tiny) -> None:
    model = native.load(plain.checkpoint, dtype=torch.float32)
    found = reconstruction(model, plain.sentences, label_smoothing=EPS)
    assert found.costs() == pytest.approx(measured(plain, RIDGE).costs(), rel=1e-3)


def test_what_cannot_be_measured_is_refused(plain: Tiny) -> None:
    with pytest.raises(DataError, match="reconstruction: there are no sentences"):
        reconstruction(plain.model, [])
    with pytest.raises(ValueError, match="build the model in single precision"):
        reconstruction(native.load(plain.checkpoint, dtype=torch.bfloat16), plain.sentences)
    model = native.load(plain.checkpoint, dtype=torch.float64)
    bias = cast(DecoderLayer, model.decoder.layers[1]).feed_forward.output_bias
    bias.data = torch.full_like(bias, math.nan)
    with pytest.raises(CheckpointError, match="encoder.0 or derivatives by its output are no finite numbers"):
        reconstruction(model, plain.sentences)


def test_masks_of_zeros_leave_nothing_to_remove(plain: Tiny) -> None:
    nothing: dict[GroupId, Tensor] = {module.id: torch.zeros(module.heads) for module in plain.model.architecture}
    assert reconstruction(plain.model, plain.sentences, masks=nothing).costs() == {}
