"""Prices are those of models that were really cut: equalities, for plans over heads, neurons and layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmtprune import slim
from nmtprune.architecture import LAYER_KINDS, NEURON_KINDS, UNIFORM, GroupId, UnitId
from nmtprune.engines import native
from nmtprune.evaluate.cost import Lengths, multiply_accumulates
from nmtprune.evaluate.prices import MultiplyAccumulates, Parameters, Prices
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.plan import Plan
from nmtprune.summary import parameter_count
from tests.support import marian_files, networks
from tests.support.fairseq_files import Build
from tests.support.thinned import thinned

SOURCES, TARGETS, BEAM = [5, 9, 1], [3, 12, 2], 3
FAIRSEQ = (
    "pre-norm, all embeddings shared",
    "encoder and decoder of other sizes",
    "no cross-attention",
    "joint and cross-attention",
    "adaptive softmax",
    "language model, pre-norm",
    "adaptive language model, tied",
)
MARIAN = ("SSRU decoder of tied layers", "uneven depths and widths")


@pytest.fixture(scope="module", params=thinned([*FAIRSEQ, *MARIAN], 2))
def base(request: pytest.FixtureRequest, build: Build, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    if request.param in MARIAN:
        shape: dict[str, Any] = marian_files.VARIANTS[request.param]
        path = tmp_path_factory.mktemp("marian") / "model.npz"
        return MarianCheckpoint.load(marian_files.marian_model(path, **shape))
    return load(build(**networks.VARIANTS[request.param]))


def kept_of(base: Checkpoint) -> st.SearchStrategy[Mapping[GroupId, tuple[int, ...]]]:
    """What stays of every group: nothing, all or some; at least one layer of a stack."""
    architecture = base.architecture

    def some(id: GroupId, numbers: tuple[int, ...]) -> st.SearchStrategy[tuple[int, ...]]:
        least = 1 if id.kind in LAYER_KINDS else 0
        chosen = st.sets(st.sampled_from(numbers), min_size=least).map(lambda found: tuple(sorted(found)))
        return st.one_of(st.just(numbers), chosen) if least else st.one_of(st.just(()), st.just(numbers), chosen)

    every = st.fixed_dictionaries({id: some(id, numbers) for id, numbers in architecture.units.items() if numbers})
    return every if base.format != "marian" else every.map(_of_one_width)


def _of_one_width(kept: Mapping[GroupId, tuple[int, ...]]) -> Mapping[GroupId, tuple[int, ...]]:
    """The same with what the first feed-forward layer of each stack keeps in all of them, as Marian needs it."""
    first: dict[str, tuple[int, ...]] = {}
    return {
        id: first.setdefault(id.kind, numbers) if id.kind in NEURON_KINDS else numbers for id, numbers in kept.items()
    }


def macs(checkpoint: Checkpoint) -> float:
    model = native.load(checkpoint)
    sources = SOURCES if model.encoder is not None else [0] * len(TARGETS)
    return sum(multiply_accumulates(model, sources, TARGETS, BEAM).values())


def macs_of(checkpoint: Checkpoint) -> MultiplyAccumulates:
    sources = SOURCES if checkpoint.network().encoder is not None else [0] * len(TARGETS)
    return MultiplyAccumulates.of(checkpoint, Lengths.of(sources, TARGETS, BEAM))


@pytest.mark.parametrize("of", [MultiplyAccumulates, Parameters])
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_totals_are_those_of_models_that_were_cut(base: Checkpoint, of: type[Prices], data: st.DataObject) -> None:
    kept = data.draw(kept_of(base))
    cut = slim.apply(Plan.of(base.base, kept), base, "cut")
    if of is Parameters:
        assert Parameters.of(base).total(kept) == parameter_count(cut)
    else:
        assert macs_of(base).total(kept) == macs(cut)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_unit_costs_what_its_removal_saves(base: Checkpoint, data: st.DataObject) -> None:
    kept = data.draw(kept_of(base))
    left = [UnitId(id, number) for id, numbers in kept.items() for number in numbers]
    unit = data.draw(st.sampled_from(left))
    for prices in (macs_of(base), Parameters.of(base)):
        without = {**kept, unit.group: tuple(own for own in kept[unit.group] if own != unit.number)}
        assert prices.of_unit(unit, kept) == prices.total(kept) - prices.total(without)
        if unit.group.kind not in LAYER_KINDS:
            assert prices.of_group(unit.group, kept) == prices.of_unit(unit, kept)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_padded_and_masked_files_cost_what_they_store(base: Checkpoint, data: st.DataObject) -> None:
    """A uniform file has as many units in every group of a stack as the largest, a masked one all of its layers'."""
    kept = data.draw(kept_of(base))
    layers = {id: numbers for id, numbers in kept.items() if id.kind in LAYER_KINDS}
    left = base.architecture.full(kept)
    padded: dict[GroupId, Sequence[int]] = dict(layers)
    for kinds in UNIFORM:
        groups = [id for id in left if id.kind in kinds and id.layer in layers[GroupId.layers_of(id.stack)]]
        most = max([1, *(len(left[id]) for id in groups)])
        padded |= {id: range(most) for id in groups}
    plan, prices = Plan.of(base.base, kept), macs_of(base)
    assert prices.total(padded) == macs(slim.apply(plan, base, "uniform"))
    assert prices.total(layers) == macs(slim.apply(plan, base, "masked"))
