"""Rounds begin after equal shares of the removal, and each measures an order once."""

import pytest

from nmtprune.architecture import GroupId, UnitId
from nmtprune.budget import Limits
from nmtprune.methods.joint_order import ranks
from nmtprune.methods.sweep import CountedUnits, Goal, sweep
from nmtprune.plan import Base, Plan
from nmtprune.runs.greedy.rounds import Rounds, round_starts


@pytest.mark.parametrize(
    ("last", "rounds", "expected"),
    [
        (104, 8, (0, 13, 26, 39, 52, 65, 78, 91)),
        (10, 4, (0, 3, 5, 8)),
        (3, 8, (0, 1, 2)),
        (2, 1, (0,)),
        (0, 8, (0,)),
    ],
)
def test_rounds_begin_after_equal_shares(last: int, rounds: int, expected: tuple[int, ...]) -> None:
    assert round_starts((0, last), rounds, False) == expected


def test_rounds_of_a_uniform_sweep_begin_where_it_comes_by() -> None:
    assert round_starts((0, 6, 18, 24, 36), 4, True) == (0, 6, 18, 24)
    assert round_starts((0, 12, 24), 8, True) == (0, 12)


def test_each_round_measures_once_and_goes_on_from_its_plan() -> None:
    base = Base.model_validate(
        {"format": "fairseq", "sha256": "0" * 64, "heads": {"encoder": [8], "decoder": [], "cross": []}}
    )
    measured: list[tuple[int, ...]] = []

    def scores(plan: Plan) -> dict[UnitId, float]:
        """The last heads first in the first round, the first ones first in the second round."""
        measured.append(plan.kept(GroupId("encoder", 0)))
        left = [*plan.kept_ids()]
        return ranks(left[::-1] if len(left) == 8 else left)

    numbers = (0, 1, 2, 4, 5, 6)
    course = CountedUnits(Limits())
    rounds, goals = Rounds((0, 4), course.reached, scores), [Goal(number, str(number)) for number in numbers]
    plans = [[head.number for head in plan.removed()] for _, plan in sweep(base, course, rounds, goals)]
    assert plans == [[], [7], [6, 7], [4, 5, 6, 7], [0, 4, 5, 6, 7], [0, 1, 4, 5, 6, 7]]
    assert measured == [(0, 1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 3)]
