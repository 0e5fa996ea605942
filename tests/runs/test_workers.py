"""Sharing work: units that depend on model and data only, and processes that take them in turns.

Threads with a common store stand for processes; torchrun itself is tested with `score`.
"""

import threading
from collections.abc import Callable

import pytest
import torch.distributed
from hypothesis import given
from hypothesis import strategies as st

from nmtprune.architecture import Architecture, AttentionModule, GroupId
from nmtprune.errors import DataError, NmtpruneError, UsageError
from nmtprune.runs.workers import (
    UNIT_OPERATIONS,
    Alone,
    Joined,
    Processes,
    ProcessFailed,
    heads_together,
    local_rank,
    of_best_heads,
    processes,
    units,
)


def _groups(*heads: int) -> dict[GroupId, tuple[int, ...]]:
    return {GroupId("encoder", layer): tuple(range(count)) for layer, count in enumerate(heads)}


def _modules(*heads: int) -> tuple[AttentionModule, ...]:
    return tuple(AttentionModule(GroupId("encoder", layer), count, 4) for layer, count in enumerate(heads))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 25))
def test_every_head_is_in_one_unit(heads: list[int], together: int) -> None:
    groups = _groups(*heads)
    found = list(units("dev", groups, together))
    assert [(unit.group, head) for unit in found for head in unit.numbers] == [
        (group, head) for group, numbers in groups.items() for head in numbers
    ]
    assert all(1 <= len(unit.numbers) <= together for unit in found)
    assert len({unit.key for unit in found}) == len(found)


def test_names() -> None:
    groups = _groups(5)
    assert [unit.name for unit in units("dev", groups, 5)] == ["encoder.0"]
    assert [unit.name for unit in units("dev", groups, 2)] == ["encoder.0.0-1", "encoder.0.2-3", "encoder.0.4"]
    (best,) = of_best_heads("test", groups, {"encoder.0": 3})
    assert (best.key, best.numbers) == ("test encoder.0.3", (3,))


def test_layers_are_units_of_their_own() -> None:
    groups = {GroupId.layers_of("decoder"): (0, 2, 3), **_groups(2)}
    found = list(units("dev", groups, 8))
    assert [(unit.key, unit.numbers) for unit in found] == [
        ("dev decoder-layers.0", (0,)), ("dev decoder-layers.2", (2,)), ("dev decoder-layers.3", (3,)),
        ("dev encoder.0", (0, 1)),
    ]  # fmt: skip
    assert {unit.every for unit in found[:3]} == {(0, 2, 3)}


@pytest.mark.parametrize(("tokens", "together"), [(1, 8), (10**6, 5), (10**7, 1), (10**12, 1)])
def test_cheap_heads_come_together_and_dear_ones_alone(tokens: int, together: int) -> None:
    architecture = Architecture(_modules(3, 8))
    assert UNIT_OPERATIONS == 1e13
    assert heads_together(architecture, 10**6, tokens) == together


def together(work: Callable[[Processes], object], size: int = 3) -> list[object]:
    """What `work` gives, or raises, in each of several processes."""
    store = torch.distributed.HashStore()
    results: list[object] = [None] * size

    def run(rank: int) -> None:
        own = Joined(store, rank, size)
        try:
            with own.ending_together():
                results[rank] = work(own)
        except NmtpruneError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


def test_everyone_gets_the_leaders_value() -> None:
    assert together(lambda own: own.share("done", ["a", own.rank] if own.leads else None)) == [["a", 0]] * 3


def test_every_number_is_dealt_once() -> None:
    dealt = together(lambda own: list(own.deal("units", 20)))
    assert sorted(number for own in dealt for number in own) == list(range(20))  # type: ignore[attr-defined]


def test_results_reach_the_leader() -> None:
    def work(own: Processes) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        if own.leads:
            while len(found) < 2:
                found |= own.handed_in(["unit1", "unit2"])
                own.pause()
            assert own.handed_in(["unit1", "unit2"]) == {}
        else:
            own.hand_in(f"unit{own.rank}", b"\x00\xff" * own.rank)
        own.finish()
        return found

    assert together(work)[0] == {"unit1": b"\x00\xff", "unit2": b"\x00\xff\x00\xff"}


def test_one_failure_ends_all_and_is_told_once() -> None:
    def work(own: Processes) -> None:
        if own.rank == 1:
            raise DataError("no such subset")
        own.share("never", None)

    first, second, third = together(work)
    assert isinstance(second, DataError) and str(second) == "no such subset"
    for ended in (first, third):
        assert isinstance(ended, ProcessFailed) and ended.exit_code == 5
        assert str(ended) == "process 1 failed: no such subset"


def test_the_same_failure_everywhere_is_told_once() -> None:
    def work(own: Processes) -> None:
        raise DataError("no such subset")

    kinds = [type(result) for result in together(work)]
    assert sorted(kinds, key=lambda kind: kind.__name__) == [DataError, ProcessFailed, ProcessFailed]


def test_alone() -> None:
    own = processes()
    assert isinstance(own, Alone) and own.leads and own.size == 1
    with own.ending_together():
        assert own.share("done", [1]) == [1]
        assert list(own.deal("units", 3)) == [0, 1, 2]
        own.check()
        own.finish()


def test_contradictory_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"^WORLD_SIZE is 2, but: .*RANK expected.* \(start with torchrun\)$"):
        processes()


def test_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3
    monkeypatch.delenv("LOCAL_RANK")
    assert local_rank() == 0
