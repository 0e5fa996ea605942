"""Checks of the score files that order the units of a `greedy` run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nmtprune.architecture import LAYER_KINDS
from nmtprune.errors import UsageError
from nmtprune.runs.greedy import orders
from nmtprune.runs.greedy.orders import Order
from nmtprune.runs.greedy.removal import Removal
from nmtprune.runs.run import Session

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint


def check_score_files(
    chosen: Sequence[Order],
    removals: Mapping[tuple[str, ...], Removal],
    checkpoints: "Sequence[Checkpoint]",
    session: Session,
) -> None:
    """Check that each file has scores of every unit, and that they can be used where costs count.

    Raises:
        DataError: scores of another model.
        UsageError: an order, made without prices, in which units of several sorts count alike.
    """
    known = {checkpoint.base.sha256 for checkpoint in checkpoints}
    for order in orders.every(chosen):
        if order.scores is None:
            continue
        order.scores.check(checkpoints[0].architecture, _scored_kinds(order, removals), order.name)
        base = order.scores.base
        if base is not None and base.sha256 not in known:
            same = base.has_shape_of(checkpoints[0].base)
            which = "other weights of the same shape" if same else "a model of another shape"
            session.progress.note(f"{order.name}: scores of {which}")
        if order.by_rank:
            _check_rank(order, order.scores.metric, removals, session)


def _check_rank(order: Order, metric: str, removals: Mapping[tuple[str, ...], Removal], session: Session) -> None:
    sorts = {sort for removal in removals.values() if removal.cost for sort in removal.within_layers.sorts}
    if len(sorts) > 1:
        raise UsageError(
            f"{order.name}: an order of {metric} in which {' and '.join(sorted(sorts))} count alike, whatever they "
            f"cost: give --order {metric}"
        )
    if sorts:
        session.progress.note(f"{order.name}: an order that knows of no costs; --order {metric} goes by them")


def _scored_kinds(order: Order, removals: Mapping[tuple[str, ...], Removal]) -> set[str]:
    """The kinds of which a score file must have every unit: layers may go by the loss."""
    return {
        kind
        for selected in removals
        for kind in selected
        if kind not in LAYER_KINDS or not order.layers_by_loss(selected)
    }
