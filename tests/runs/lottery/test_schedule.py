"""What a lottery run is going to train: heads per iteration, models to converge, updates, and when one converged."""

import math

import pytest

from nmtprune.architecture import GroupId
from nmtprune.budget import Limits
from nmtprune.errors import BudgetError, UsageError
from nmtprune.formats.trainable import TrainingProgress
from nmtprune.runs.lottery.schedule import Schedule, Ticket, removals, tickets
from nmtprune.training.fairseq_train import Patience

BIG = {GroupId(kind, layer): 8 for kind in ("encoder", "decoder", "cross") for layer in range(6)}  # type: ignore[arg-type]


def _schedule(**changes: object) -> Schedule:
    values: dict[str, object] = {
        "late_reset": 25,
        "pretrains": True,
        "prune_updates": 15,
        "removed": (0, 3, 6, 7),
        "of_kinds": 48,
        "of_all": 64,
        "tickets": (Ticket(0), Ticket(3), Ticket(3, "random"), Ticket(3, "reinit")),
        "converge_updates": 425,
        "tries_last": False,
    }
    return Schedule(**{**values, **changes})  # type: ignore[arg-type]


def test_heads_per_iteration_of_the_paper() -> None:
    """Behnke and Heafield 2020, sections 7.1 and 7.2, and 72 % with the default of half the modules."""
    assert removals(BIG, 8, "104", Limits())[1:] == tuple(range(8, 105, 8))
    default = removals(BIG, None, "72%", Limits())
    assert default == (*range(0, 100, 9), 104) and len(default) - 1 == 12
    assert removals(BIG, None, "75%", Limits(("encoder",))) == tuple(range(0, 37, 3))
    assert removals(BIG, 50, None, Limits()) == (0, 50, 100, 144)
    assert removals(BIG, 50, None, Limits(min_heads_per_module=1)) == (0, 50, 100, 126)
    assert removals(BIG, None, "2", Limits()) == (0, 2)


@pytest.mark.parametrize(
    ("step", "until", "limits", "message"),
    [
        (20, "10", Limits(), "--heads-per-iteration 20 is more than the 10 that --until removes in all"),
        (None, "0", Limits(), "--until 0: that removes no heads (encoder, decoder, cross)"),
        (None, "90%", Limits(min_heads_per_module=1), "130 heads cannot be removed: 0 to 126 of the 144 heads"),
    ],
)
def test_heads_that_cannot_be_removed(step: int | None, until: str, limits: Limits, message: str) -> None:
    with pytest.raises(BudgetError) as raised:
        removals(BIG, step, until, limits)
    assert str(raised.value).startswith(message)


def test_what_is_converged() -> None:
    assert tickets(5, last=False, chosen=(), controls=()) == ()
    assert tickets(5, last=False, chosen=(0,), controls=()) == (Ticket(0),)
    found = tickets(5, last=True, chosen=(2, 5, 0), controls=("reinit", "random"))
    assert [ticket.name for ticket in found] == [
        "iteration-00", "iteration-02", "iteration-02-random", "iteration-02-reinit",
        "iteration-05", "iteration-05-random", "iteration-05-reinit",
    ]  # fmt: skip
    with pytest.raises(UsageError) as raised:
        tickets(5, last=False, chosen=(6, 9), controls=("random", "random"))
    assert str(raised.value) == (
        "convergence: --converge-iterations 6: there are 0 to 5; --converge-iterations 9: there are 0 to 5; "
        "--control random: given twice"
    )
    with pytest.raises(UsageError, match="--control goes with --converge or --converge-iterations"):
        tickets(5, last=False, chosen=(), controls=("random",))


def test_updates_in_all() -> None:
    """Table 6 of the paper in thousands: 25 + 15 x iterations + 400 for each model."""
    schedule = _schedule()
    assert (schedule.convergence, schedule.total) == (3 * 400 + 425, 25 + 45 + 1625)
    assert _schedule(tries_last=True, pretrains=False).total == 60 + 1625
    assert _schedule(converge_updates=None).total is None
    assert _schedule(tickets=(), converge_updates=None).total == 70
    rows = {row[0]: row[1:] for row in schedule.rows()}
    assert rows["pretraining"] == (64, 0, 25, 25, None, 0, 0.0, 0.0)
    assert rows["iteration-03"] == (58, 25, 40, 15, 1, 7, 7 / 48, 7 / 64)
    assert rows["converge iteration-03-reinit"] == (57, 0, 425, 425, None, 7, 7 / 48, 7 / 64)
    (*_, last) = _schedule(tickets=(), tries_last=True).rows()
    assert last == ("iteration-04", 57, 25, 40, 15, 0, 7, 7 / 48, 7 / 64)


def _at(updates: int, epochs: int = 0, *, within: bool = False) -> TrainingProgress:
    return TrainingProgress(updates, epochs, within, 1.0)


def test_patience_in_epochs() -> None:
    patience = Patience(3, None, 100, 1000, maximizes=False)
    assert patience.first == 1 and patience.worst == math.inf and patience.better(1.0, 2.0)
    assert [patience.number(_at(0, 4)), patience.number(_at(0, 4, within=True))] == [4, 5]
    assert not patience.reached(None, 4) and not patience.reached(_at(500, 3), 4) and patience.reached(_at(500, 4), 4)
    assert patience.reached(_at(1000, 2), 4)
    assert patience.ends(4) == (("--max-epoch", "4"), ("--max-update", "1000"))
    assert Patience(3, None, 0, None, maximizes=True).ends(9) == (("--max-epoch", "9"),)


def test_patience_in_updates() -> None:
    patience = Patience(2, 50, 120, 260, maximizes=True)
    assert patience.first == 3 and patience.worst == -math.inf and patience.better(2.0, 1.0)
    assert patience.number(_at(150)) == 3 and patience.number(_at(260)) == 6
    assert not patience.reached(_at(199, 9), 4) and patience.reached(_at(200), 4) and patience.reached(_at(260), 9)
    assert patience.ends(5) == (("--max-update", "250"),) and patience.ends(6) == (("--max-update", "260"),)
    assert Patience(2, 50, 120, None, maximizes=True).ends(6) == (("--max-update", "300"),)
