"""Prices in time: what was measured at the points, additive between parts, and honest where groups are padded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import (
    KINDS,
    LAYER_KINDS,
    NEURON_KINDS,
    Architecture,
    AttentionModule,
    GroupId,
    Neurons,
    UnitId,
)
from nmtprune.budget import Limits
from nmtprune.errors import BudgetError, DataError
from nmtprune.evaluate.cost import Spread
from nmtprune.evaluate.milliseconds import Milliseconds, ModelSize, TimeAxis, TimePoint, check_fit
from nmtprune.formats import load
from nmtprune.methods.priced import Budget, choose
from tests.support.fairseq_files import Build

HEADS, NEURONS, LAYERS, WHOLE = 4, 8, 3, 50.0
ARCHITECTURE = Architecture(
    tuple(AttentionModule(GroupId(kind, layer), HEADS, 4) for kind in KINDS for layer in range(LAYERS)),
    tuple(Neurons(GroupId(kind, layer), NEURONS) for kind in NEURON_KINDS for layer in range(LAYERS)),
)


def axis(kinds: tuple[str, ...], times: dict[float, float], *, padded: bool = False) -> TimeAxis:
    points = (TimePoint(left, Spread(time, time, time)) for left, time in sorted(times.items()))
    return TimeAxis(kinds, padded, tuple(points))


def kept(share: float, *kinds: str) -> dict[GroupId, range]:
    """That share of the units of kinds."""
    return {id: range(round(share * len(own))) for id, own in ARCHITECTURE.units.items() if id.kind in kinds}


TIMES = {0.25: 0.7, 0.5: 0.8, 0.75: 0.9}
AXES = (
    *(axis((kind,), TIMES) for kind in (*KINDS, *NEURON_KINDS)),
    *(axis((kind,), {1 / 3: 0.6, 2 / 3: 0.8}) for kind in LAYER_KINDS),
)
PRICES = Milliseconds(WHOLE, AXES, ARCHITECTURE)


def test_the_whole_model_costs_what_was_measured() -> None:
    assert PRICES.total({}) == WHOLE == PRICES.total(ARCHITECTURE.units)


@pytest.mark.parametrize("kind", [*KINDS, *NEURON_KINDS])
def test_points_of_an_axis_are_met(kind: str) -> None:
    for left, time in TIMES.items():
        assert PRICES.total(kept(left, kind)) == pytest.approx(WHOLE * time)
    assert PRICES.total(kept(0, kind)) == pytest.approx(WHOLE * 0.7)


@given(st.fixed_dictionaries({kind: st.sampled_from([0.25, 0.5, 0.75, 1.0]) for kind in (*KINDS, *NEURON_KINDS)}))
def test_parts_add_up(shares: dict[str, float]) -> None:
    model = {id: units for kind, share in shares.items() for id, units in kept(share, kind).items()}
    saved = sum(1 - TIMES.get(share, 1.0) for share in shares.values())
    assert PRICES.total(model) == pytest.approx(WHOLE * max(0.0, 1 - saved))


def test_a_layer_takes_what_is_left_of_it() -> None:
    decoder = GroupId.layers_of("decoder")
    whole, halved = {}, kept(0.5, "decoder")
    without = {decoder: (0, 2)}
    assert PRICES.of_unit(UnitId(decoder, 1), whole) == pytest.approx(WHOLE * 0.2)
    assert PRICES.total(without) == pytest.approx(WHOLE * 0.8)
    # A third of what all halved heads save goes with the layer.
    assert PRICES.of_unit(UnitId(decoder, 1), halved) == pytest.approx(WHOLE * (0.2 - 0.2 / 3))
    assert PRICES.of_unit(UnitId(decoder, 1), without) == 0 == PRICES.of_group(GroupId("decoder", 1), without)


def test_units_cost_their_share() -> None:
    for kind, count in (("encoder", HEADS), ("decoder-ffn", NEURONS)):
        assert PRICES.of_group(GroupId(kind, 0), {}) == pytest.approx(WHOLE * 0.4 / count / LAYERS)
        assert PRICES.of_unit(UnitId(GroupId(kind, 0), 1), {}) == PRICES.of_group(GroupId(kind, 0), {})


def test_noise_is_levelled() -> None:
    """Fewer units never take longer: times are those of the isotonic regression."""
    prices = Milliseconds(WHOLE, [axis(("encoder",), {0.25: 0.9, 0.5: 0.8, 0.75: 1.1})], ARCHITECTURE)
    found = [prices.total(kept(share, "encoder")) / WHOLE for share in (0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.85, 0.85, 1.0, 1.0])


def test_beyond_a_plateau_units_are_worth_their_way() -> None:
    """The first quarter saves nothing, the next ones do: each is worth the mean, so that one gets there at all."""
    prices = Milliseconds(WHOLE, [axis(("decoder-ffn",), {0.25: 0.7, 0.5: 0.8, 0.75: 1.0})], ARCHITECTURE)
    group = GroupId("decoder-ffn", 0)
    assert prices.of_group(group, {}) == pytest.approx(WHOLE * 0.3 / 0.75 / NEURONS / LAYERS)
    assert prices.of_group(group, kept(0.25, "decoder-ffn")) == 0.0
    scores = {UnitId(id, n): 1.0 for id, own in ARCHITECTURE.units.items() if id.kind == "decoder-ffn" for n in own}
    removed = choose(scores, prices, 0.8 * WHOLE, ARCHITECTURE.units, Limits(("decoder-ffn",)))
    assert len(removed) == LAYERS * NEURONS / 2


PADDED = (
    axis(("encoder",), TIMES, padded=True),
    axis(("decoder", "cross"), TIMES, padded=True),
    *(axis((kind,), TIMES) for kind in NEURON_KINDS),
)


def test_padded_groups_cost_what_the_largest_does() -> None:
    prices = Milliseconds(WHOLE, PADDED, ARCHITECTURE)
    assert prices.together == (("encoder",), ("decoder", "cross"))
    ragged = kept(0.25, "decoder", "cross")
    ragged[GroupId("cross", 1)] = range(3)
    assert prices.total(ragged) == pytest.approx(WHOLE * 0.9)
    assert prices.of_group(GroupId("cross", 0), ragged) == 0 < prices.of_group(GroupId("cross", 1), ragged)


@given(st.data(), st.floats(1.0, 2.0))
def test_budgets_of_speed_are_met(data: st.DataObject, speed: float) -> None:
    prices = Milliseconds(WHOLE, PADDED, ARCHITECTURE)
    kinds = (*KINDS, *NEURON_KINDS)
    ids = [UnitId(id, n) for id, own in ARCHITECTURE.units.items() if id.kind in kinds for n in own]
    scores = dict(zip(ids, data.draw(st.lists(st.floats(0.1, 9), min_size=len(ids), max_size=len(ids))), strict=True))
    target = Budget.parse(f"speed={speed:.3f}x").target(prices.total({}))
    removed = set(choose(scores, prices, target, ARCHITECTURE.units, Limits(kinds)))
    model = {id: [n for n in own if UnitId(id, n) not in removed] for id, own in ARCHITECTURE.units.items()}
    assert prices.total(model) <= target
    for stack in prices.together:
        assert len({len(own) for id, own in model.items() if id.kind in stack}) == 1


def test_a_speed_out_of_reach() -> None:
    scores = {UnitId(id, n): 1.0 for id, own in ARCHITECTURE.units.items() if id.kind == "encoder" for n in own}
    with pytest.raises(BudgetError, match=r"the smallest possible is 70\.0% \(speed=1\.42x\)"):
        choose(scores, PRICES, WHOLE / 2, ARCHITECTURE.units, Limits(("encoder",)))


def test_tables_are_for_models_of_one_size(build: Build) -> None:
    first, other = load(build()), load(build(heads=(4, 2), layers=(1, 3), width=(16, 24), ffn=(24, 40), joined=False))
    size = ModelSize.of(first)
    check_fit(size, first, "table.json")
    with pytest.raises(DataError) as refusal:
        check_fit(size, other, "table.json")
    text = str(refusal.value)
    assert text.startswith(
        f"table.json: measured on a model of another size than {other.path}: heads, cross: 4 4, not 2 2 2;"
    )
    for part in (
        "widths of heads, decoder: 4 4, not 12 12 12",
        "neurons, encoder-ffn: 24 24, not 24;",
        "layers, encoder: 2, not 1",
        "parameters: ",
    ):
        assert part in text
