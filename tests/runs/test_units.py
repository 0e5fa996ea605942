"""What `score` keeps together: all heads once, in pieces that depend on model and data only."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import Architecture, AttentionModule, ModuleId
from nmtprune.runs.units import UNIT_OPERATIONS, heads_together, of_best_heads, units


def _modules(*heads: int) -> tuple[AttentionModule, ...]:
    return tuple(AttentionModule(ModuleId("encoder", layer), count, 4) for layer, count in enumerate(heads))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 25))
def test_every_head_is_in_one_unit(heads: list[int], together: int) -> None:
    modules = _modules(*heads)
    found = list(units("dev", modules, together))
    assert [(unit.module, head) for unit in found for head in unit.heads] == [
        (module, head) for module in modules for head in range(module.heads)
    ]
    assert all(1 <= len(unit.heads) <= together for unit in found)
    assert len({unit.key for unit in found}) == len(found)


def test_names() -> None:
    (module,) = _modules(5)
    assert [unit.name for unit in units("dev", (module,), 5)] == ["encoder.0"]
    assert [unit.name for unit in units("dev", (module,), 2)] == ["encoder.0.0-1", "encoder.0.2-3", "encoder.0.4"]
    (best,) = of_best_heads("test", (module,), {"encoder.0": 3})
    assert (best.key, best.heads) == ("test encoder.0.3", (3,))


@pytest.mark.parametrize(("tokens", "together"), [(1, 8), (10**6, 5), (10**7, 1), (10**12, 1)])
def test_cheap_heads_come_together_and_dear_ones_alone(tokens: int, together: int) -> None:
    architecture = Architecture(_modules(3, 8))
    assert UNIT_OPERATIONS == 1e13
    assert heads_together(architecture, 10**6, tokens) == together
