"""Clearly worse plans are not translated; of the others the best translation decides."""

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from nmtprune.evaluate.metrics import Scored
from nmtprune.plan import Plan
from nmtprune.runs.greedy.auto import Candidate, decided, shortlisted
from nmtprune.runs.greedy.orders import Order, curves


@dataclass(frozen=True)
class Fixed:
    """A result with a known score."""

    score: float


def contender(order: str, score: float | None, loss: float = 1.0) -> Candidate:
    return Candidate(order, cast(Plan, None), loss, None if score is None else cast(Scored, Fixed(score)))


def test_losses_that_rise_twice_as_much_are_not_worth_a_translation() -> None:
    losses = {"importance": 2.1, "fisher": 1.9, "reconstruction": 1.7, "random": 2.31}
    assert shortlisted(losses, 1.5) == ("fisher", "reconstruction")
    assert shortlisted({**losses, "reconstruction": 1.8}, 1.5) == ("importance", "fisher", "reconstruction")


def test_two_orders_are_always_compared() -> None:
    assert shortlisted({"importance": 1.6, "fisher": 9.0, "random": 8.0}, 1.5) == ("importance", "random")
    assert shortlisted({"fisher": 1.6}, 1.5) == ("fisher",)


def test_small_rises_say_nothing() -> None:
    losses = {"importance": 1.55, "fisher": 1.4, "reconstruction": 1.59, "random": 1.7}
    assert shortlisted(losses, 1.5) == ("importance", "fisher", "reconstruction")


def test_the_best_translation_decides() -> None:
    entrants = [contender("importance", 30.0), contender("fisher", 31.5), contender("random", None, 9.0)]
    found = decided(entrants)
    assert found.chosen.order == "fisher" and found.lead == 1.5
    assert [each.order for each in found.contenders] == ["importance", "fisher", "random"]


def test_no_two_curves_have_one_name() -> None:
    orders = [Order("random", "random"), Order("my/random-1.json", "random-1")]
    found = curves([Path("a.pt")], orders, [("encoder",)], 2)
    assert [each.name for each in found] == ["random-1", "random-2", "random-1-2"]
    orders = [Order("x.json", "x"), Order("b-x.json", "b-x")]
    names = [each.name for each in curves([Path("a.pt"), Path("a-b.pt")], orders, [("encoder",)], 1)]
    assert len(set(names)) == 4


def test_the_first_of_equals_is_chosen() -> None:
    found = decided([contender("importance", 30.0), contender("fisher", 30.0)])
    assert (found.chosen.order, found.lead) == ("importance", 0.0)
    assert decided([contender("fisher", 30.0)]).lead is None
    with pytest.raises(ValueError, match="no contender was translated"):
        decided([contender("fisher", None)])
