"""F is E[g g^T] of derivatives taken sentence by sentence, and the joint order that of sums over removed heads."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nmtprune.architecture import KINDS, NEURON_KINDS, GroupId, UnitId, parse_heads
from nmtprune.budget import Limits
from nmtprune.data.batching import Batch
from nmtprune.engines import native
from nmtprune.errors import DataError
from nmtprune.methods import fisher as fisher_module
from nmtprune.methods import fisher_costs
from nmtprune.methods.fisher import fisher
from nmtprune.methods.fisher_costs import Fisher, SentenceFisher
from nmtprune.methods.importance import ImportanceSettings, importance
from nmtprune.methods.joint_order import RemovalCosts, removal_order
from tests.support.fairseq_files import Build
from tests.support.joint import EPS, NAMES, Tiny, alone, loss
from tests.support.thinned import thinned

SOME = "encoder.0.0-1 cross.1.3 decoder.0"


@pytest.fixture(scope="module", params=thinned(NAMES, 2))
def tiny(request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of(request.param, build, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny.of("pre-norm, shared tables", build, tmp_path_factory.mktemp("plain"))


def derivatives(tiny: Tiny, units: Sequence[UnitId] | None = None) -> NDArray[np.float64]:
    """G [sentences, units], by torch's backward pass for one sentence at a time; heads unless units are named."""
    rows = []
    for batch in alone(tiny.sentences):
        masks = {group.id: torch.ones(group.units, dtype=torch.float64, requires_grad=True)
                 for group in tiny.model.architecture.groups if group.units}  # fmt: skip
        torch.autograd.backward(loss(tiny.model, batch, masks))
        rows.append([float(masks[unit.group].grad[unit.number]) for unit in units or tiny.heads])  # type: ignore[index]
    return np.array(rows)


def every_unit(tiny: Tiny) -> tuple[UnitId, ...]:
    groups = tiny.model.architecture.groups
    return tuple(UnitId(group.id, number) for group in groups for number in range(group.units))


def test_moments_are_those_of_single_sentences(tiny: Tiny) -> None:
    found = fisher(tiny.model, tiny.sentences, label_smoothing=EPS)
    slopes = derivatives(tiny)
    assert found.heads == tiny.heads and len(slopes) == 18
    assert np.allclose(found.moments, slopes.T @ slopes / len(slopes), rtol=0, atol=1e-9)
    assert found.diagonal == pytest.approx(
        {head: float(own) for head, own in zip(tiny.heads, (slopes**2).mean(0) / 2, strict=True)}, abs=1e-9
    )
    again = fisher(tiny.model, alone(tiny.sentences), label_smoothing=EPS)
    assert np.allclose(found.moments, again.moments, rtol=0, atol=1e-9)


def test_the_order_is_that_of_sums_over_removed_heads(tiny: Tiny) -> None:
    found, slopes = fisher(tiny.model, tiny.sentences, label_smoothing=EPS), derivatives(tiny)

    def cost(removed: list[UnitId]) -> float:
        places = [tiny.heads.index(head) for head in removed]
        return float((slopes[:, places].sum(1) ** 2).mean()) / 2

    for pair in itertools.combinations(tiny.heads, 2):
        assert found.cost_of(pair) == pytest.approx(cost([*pair]), abs=1e-9)
        assert found.without(pair[0]).costs()[pair[1]] == pytest.approx(cost([*pair]) - cost([pair[0]]), abs=1e-9)
    removed: list[UnitId] = []
    for head in removal_order(found, tiny.checkpoint.base.modules, Limits()):
        costs = {other: cost([*removed, other]) for other in tiny.heads if other not in removed}
        assert costs[head] <= min(costs.values()) + 1e-9
        removed.append(head)
    assert sorted(removed) == list(tiny.heads)
    assert found.cost_of(removed) == pytest.approx(float((slopes.sum(1) ** 2).mean()) / 2, abs=1e-9)


EVERYTHING = Limits((*KINDS, *NEURON_KINDS))


def test_the_order_of_heads_and_neurons_is_that_of_brute_force(tiny: Tiny) -> None:
    units = every_unit(tiny)
    found = fisher(tiny.model, tiny.sentences, label_smoothing=EPS, sorts=["heads", "neurons"])
    slopes = derivatives(tiny, units)
    assert isinstance(found, Fisher) and found.heads == units
    assert np.allclose(found.moments, slopes.T @ slopes / len(slopes), rtol=0, atol=1e-9)
    groups = {group.id: group.units for group in tiny.model.architecture.groups}
    order = removal_order(found, groups, EVERYTHING)
    assert sorted(order) == list(units)
    gone = np.zeros(len(units), dtype=np.bool_)
    for unit in order:
        together = slopes[:, gone].sum(1)
        totals = ((slopes + together[:, None]) ** 2).mean(0) / 2
        place = units.index(unit)
        assert totals[place] <= totals[~gone].min() + 1e-9
        gone[place] = True


def test_units_that_are_spared_are_not_the_cheapest(plain: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """However costs are kept, the cheapest of the others is the one that a look at all of them finds."""
    sorts, units = ["heads", "neurons"], every_unit(plain)
    exact = fisher(plain.model, plain.sentences, sorts=sorts)
    monkeypatch.setattr(fisher_module, "FEW_UNITS", 10)
    many = fisher(plain.model, plain.sentences, sorts=sorts)
    for found in (exact.without(units[0]), many.without(units[0])):
        for spared in (units[::2], [], [each for _, each in found.cheapest().values()]):
            expected = RemovalCosts.cheapest(found, spared)
            for group, (cost, unit) in found.cheapest(spared).items():
                assert (unit, unit in spared) == (expected[group][1], False)
                assert cost == pytest.approx(expected[group][0], rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("block", [1, 5, 64])
def test_many_units_are_ordered_from_their_derivatives(
    plain: Tiny, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    """Costs in a block are exact, and the cheapest of its units go; with blocks of one the order is that of F."""
    sorts, groups = ["heads", "neurons"], {group.id: group.units for group in plain.model.architecture.groups}
    exact = fisher(plain.model, plain.sentences, sorts=sorts)
    monkeypatch.setattr(fisher_module, "FEW_UNITS", 10)
    monkeypatch.setattr(fisher_costs, "BLOCK", block)
    found = fisher(plain.model, plain.sentences, sorts=sorts)
    assert isinstance(exact, Fisher) and isinstance(found, SentenceFisher)
    assert found.diagonal == pytest.approx(exact.diagonal, rel=1e-5)
    order = removal_order(found, groups, EVERYTHING)
    assert sorted(order) == sorted(every_unit(plain))
    own, other, scale = found, exact, max(exact.diagonal.values())
    for unit in order[:70]:
        assert own.costs() == pytest.approx(other.costs(), rel=1e-4, abs=1e-5 * scale)
        assert own.cheapest()[unit.group][1] == unit
        own, other = own.without(unit), other.without(unit)
    assert found.cost_of(order[:70]) == pytest.approx(exact.cost_of(order[:70]), rel=1e-4)
    if block == 1:
        best = exact.cost_of(removal_order(exact, groups, EVERYTHING)[:70])
        assert found.cost_of(order[:70]) == pytest.approx(best, rel=1e-3)


def test_a_unit_outside_of_a_block_may_go(plain: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = fisher(plain.model, plain.sentences, sorts=["neurons"])
    monkeypatch.setattr(fisher_module, "FEW_UNITS", 10)
    monkeypatch.setattr(fisher_costs, "BLOCK", 2)
    found = fisher(plain.model, plain.sentences, sorts=["neurons"])
    dearest = sorted(exact.diagonal, key=lambda unit: -exact.diagonal[unit])[:3]
    assert dearest[0] not in [found.units[place] for place in found.block.places]  # type: ignore[union-attr]
    for unit in dearest:
        found, exact = found.without(unit), exact.without(unit)
    assert found.costs() == pytest.approx(exact.costs(), rel=1e-4, abs=1e-6)


def test_heads_that_stand_in_for_each_other_do_not_both_go(plain: Tiny) -> None:
    """The diagonal does not see it."""
    found = fisher(plain.model, plain.sentences)
    joint = removal_order(found, plain.checkpoint.base.modules, Limits())
    alone = sorted(found.diagonal, key=lambda head: (found.diagonal[head], head))
    half = len(joint) // 2
    assert joint[0] == alone[0]
    assert found.cost_of(joint[:half]) < found.cost_of(alone[:half])


def test_moments_under_masks_are_those_of_the_heads_left(plain: Tiny) -> None:
    found = fisher(plain.model, plain.sentences, masks=plain.masks(SOME))
    gone = parse_heads(SOME, plain.checkpoint.architecture)
    assert len(gone) == 7 and found.heads == tuple(head for head in plain.heads if head not in gone)
    diagonal = fisher(plain.model, plain.sentences, label_smoothing=EPS).moments.diagonal()
    alone = importance(plain.model, alone_batches(plain), ImportanceSettings("sentence", EPS))
    assert all(own >= alone[head] ** 2 - 1e-9 for head, own in zip(plain.heads, diagonal, strict=True))  # Jensen
    masked = importance(plain.model, alone_batches(plain)[:1], ImportanceSettings(), plain.masks(SOME))
    one = fisher(plain.model, alone_batches(plain)[:1], masks=plain.masks(SOME))
    assert np.allclose(np.sqrt(one.moments.diagonal()), [*masked.values()], rtol=0, atol=1e-9)


def alone_batches(tiny: Tiny) -> list[Batch]:
    return [*alone(tiny.sentences)]


def test_a_model_without_heads_has_no_costs(plain: Tiny) -> None:
    nothing = {module.id: torch.zeros(module.heads) for module in plain.model.architecture}
    found = fisher(plain.model, plain.sentences, masks=nothing)
    assert found.heads == () and found.costs() == {}


def test_what_cannot_be_measured_is_refused(plain: Tiny) -> None:
    with pytest.raises(DataError, match="fisher: there are no sentences"):
        fisher(plain.model, [])
    half = native.load(plain.checkpoint, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="build the model in single precision"):
        fisher(half, plain.sentences)
    with pytest.raises(ValueError, match="modules that the model does not have: cross.9"):
        fisher(plain.model, plain.sentences, masks={GroupId("cross", 9): torch.ones(4)})
