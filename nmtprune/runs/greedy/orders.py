"""Orders in which `greedy` removes units, and the curves that they give: one for each checkpoint, kinds and sample."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nmtprune.architecture import KINDS, LAYER_KINDS, SORTS
from nmtprune.errors import UsageError
from nmtprune.files import sha256_file
from nmtprune.methods.scorer import JointScorer, Scorer
from nmtprune.runs import scorers
from nmtprune.runs.scorers import AUTO, BY_LOSS, RANDOM, REESTIMATED, SCORERS
from nmtprune.scores import Scores

DEFAULT_CONTENDERS = ("importance", "fisher", "reconstruction")
"""Orders among which AUTO chooses."""


@dataclass(frozen=True)
class Order:
    """What decides which units are removed first.

    Attributes:
        name: one of `scorers.orders`, or the path of a score file.
        short: for names of curves.
        scorer: gives the scores; None for random numbers, losses and score files.
        scores: of the file.
        sha256: of the file.
        contenders: orders of whose plans the best one is taken.
    """

    name: str
    short: str
    scorer: Scorer[Any] | None = None
    scores: Scores | None = None
    sha256: str | None = None
    contenders: "tuple[Order, ...]" = ()

    @property
    def reestimated(self) -> bool:
        """Units are scored again after every step."""
        return self.scorer is not None and self.name.endswith(REESTIMATED)

    @property
    def in_rounds(self) -> bool:
        """Units are scored again after each share of the removal."""
        return isinstance(self.scorer, JointScorer) and self.scorer.in_rounds

    @property
    def by_rank(self) -> bool:
        """Scores are places in an order of removal, which are not divided by prices."""
        if self.scores is not None:
            known = SCORERS.get(self.scores.metric)
            return known is not None and known.joint
        return self.name == RANDOM or isinstance(self.scorer, JointScorer)

    @property
    def sorts(self) -> tuple[str, ...]:
        """What it orders by itself, of `architecture.SORTS`."""
        if self.scores is not None:
            return self.scores.sorts
        if self.scorer is not None:
            return self.scorer.sorts
        return ("layers",) if self.name == BY_LOSS else tuple(SORTS)

    def layers_by_loss(self, kinds: Sequence[str]) -> bool:
        """Whether layers of these kinds are chosen by the loss without them, since the order scores none."""
        return bool({*LAYER_KINDS}.intersection(kinds)) and (self.name == BY_LOSS or "layers" not in self.sorts)

    def check_kinds(self, kinds: Sequence[str]) -> None:
        """Check that it orders the units of some kinds of groups; layers next to other units go by the loss.

        Raises:
            UsageError: it does not; every sort of unit that is to blame.
        """
        sorts = [sort for sort, own in SORTS.items() if {*own}.intersection(kinds)]
        for each in self.contenders:
            each.check_kinds(kinds)
        if self.scores is None and self.scorer is not None and sorts != ["layers"]:
            self.scorer.check_kinds([kind for kind in kinds if kind not in LAYER_KINDS])
        absent = [sort for sort in sorts if sort not in self.sorts and (sort != "layers" or sorts == ["layers"])]
        if absent and not self.contenders:
            instead = f"; layers alone go by --order {BY_LOSS}, {RANDOM} or a score file" if sorts == ["layers"] else ""
            raise UsageError(f"--order {self.name}: has no scores of {' and '.join(absent)}{instead}")


@dataclass(frozen=True)
class Curve:
    """One sweep.

    Attributes:
        name: unique, and fit for a folder.
        checkpoint: number of the checkpoint.
        order: what decides which heads go first.
        kinds: kinds of the groups that lose units.
        sample: from 1 where the order is random.
        entrants: where several orders compete, the curve of the same checkpoint and kinds in each of them.
    """

    name: str
    checkpoint: int
    order: Order
    kinds: tuple[str, ...]
    sample: int | None = None
    entrants: "tuple[Curve, ...]" = ()


def parse_orders(
    names: Sequence[str],
    *,
    reestimate: bool = False,
    chosen: Sequence[Scorer[Any]] = (),
    auto: Sequence[str] = DEFAULT_CONTENDERS,
) -> tuple[Order, ...]:
    """The orders by their names: those of `scorers.orders`, or score files.

    Args:
        names: as the user gave them.
        reestimate: heads are scored again after every step, by the scorers that offer that.
        chosen: scorers with options; others have their defaults.
        auto: names of the orders among which AUTO chooses.

    Raises:
        UsageError: an order twice, an order that cannot compete, or nothing that can be scored again.
        DataError: a score file that cannot be read.
    """
    known = scorers.orders()
    if reestimate:
        again = [name for name in names if name + REESTIMATED in known]
        if not again:
            able = [scorer for scorer in scorers.SCORERS.values() if scorer.of_order and scorer.reestimates]
            raise UsageError(f"--reestimate goes with --order {scorers.names_of(able)}")
        names = [name + REESTIMATED if name in again else name for name in names]
    ready = {scorer.name: scorer for scorer in chosen}
    _check_once(names, "--order")
    if AUTO not in names:
        return _named_orders(names, distinct([_short(name) for name in names]), ready)
    _check_once(auto, "--auto-orders")
    unfit = [name for name in auto if name in (AUTO, RANDOM)]
    if unfit or len(auto) < 2:
        what = f"{', '.join(unfit)} cannot compete" if unfit else "one order has nothing to compete with"
        raise UsageError(f"--auto-orders: {what}: give at least two of the other orders")
    # Keys of the state begin with these names: a file must not share one with another order, competing or not.
    every = sorted(dict.fromkeys([*names, *auto]), key=lambda name: name not in known)
    shorts = dict(zip(every, distinct([_short(name) for name in every]), strict=True))
    found, contenders = (_named_orders(some, [shorts[name] for name in some], ready) for some in (names, auto))
    return tuple(replace(order, contenders=contenders) if order.name == AUTO else order for order in found)


def _check_once(names: Sequence[str], option: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"{option} {', '.join(twice)}: given twice")


def _short(name: str) -> str:
    return name if name in scorers.orders() else Path(name).stem


def _named_orders(names: Sequence[str], shorts: Sequence[str], ready: Mapping[str, Scorer[Any]]) -> tuple[Order, ...]:
    return tuple(_order(name, short, ready) for name, short in zip(names, shorts, strict=True))


def _order(name: str, short: str, ready: Mapping[str, Scorer[Any]]) -> Order:
    known = scorers.orders()
    if name in known:
        kind = scorers.scorer_of(name)
        return Order(name, short, None if kind is None else ready.get(kind.name) or kind())
    if not Path(name).exists() and "." not in name and "/" not in name:
        raise UsageError(f"--order '{name}': choose {', '.join(known)} or a score file")
    return Order(name, short, None, Scores.read(name), sha256_file(name))


def every(chosen: Sequence[Order]) -> list[Order]:
    """The orders, and those among which AUTO chooses."""
    return [each for order in chosen for each in (order, *order.contenders)]


def files_among(names: Sequence[str]) -> list[Path]:
    """The score files among the names of orders."""
    return [Path(name) for name in names if name not in scorers.orders()]


def curves(
    checkpoints: Sequence[Path], orders: Sequence[Order], kinds: Sequence[tuple[str, ...]], samples: int
) -> tuple[Curve, ...]:
    """All curves, checkpoint by checkpoint; several names of checkpoints or kinds become part of a curve's name."""
    listed: list[Curve] = []
    competing: dict[tuple[int, tuple[str, ...], str], Curve] = {}
    for number, stem in enumerate(distinct([path.stem for path in checkpoints])):
        for selected in kinds:
            parts = [stem] if len(checkpoints) > 1 else []
            parts += [kinds_name(selected)] if len(kinds) > 1 else []
            for order in orders:
                for sample in range(1, samples + 1) if order.name == RANDOM else (None,):
                    name = "-".join([*parts, order.short, *([] if sample is None else [str(sample)])])
                    listed.append(Curve(name, number, order, selected, sample))
                for each in order.contenders:
                    competing[number, selected, each.name] = Curve(
                        "-".join([*parts, each.short]), number, each, selected
                    )
    # An order that is listed and competes has one curve, and what is measured of it serves both.
    own = {(curve.checkpoint, curve.kinds, curve.order.name) for curve in listed}
    others = [curve for key, curve in competing.items() if key not in own]
    # A score file may be called random-1.json, and a checkpoint as another one with a kind.
    names = distinct([curve.name for curve in (*listed, *others)])
    named = [replace(curve, name=name) for curve, name in zip((*listed, *others), names, strict=True)]
    by_order = {(curve.checkpoint, curve.kinds, curve.order.name): curve for curve in named}
    return tuple(
        replace(
            curve,
            entrants=tuple(by_order[curve.checkpoint, curve.kinds, each.name] for each in curve.order.contenders),
        )
        for curve in named[: len(listed)]
    )


def kinds_name(kinds: Sequence[str]) -> str:
    """Kinds as part of a name: ``all`` for all heads, or ``encoder+cross``."""
    return "all" if tuple(kinds) == KINDS else "+".join(kinds)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that are there already."""
    found: list[str] = []
    for name in names:
        found.append(next(each for each in _numbered(name) if each not in found))
    return found


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1


def as_settings(orders: Sequence[Order]) -> Mapping[str, object]:
    """What results depend on."""
    files = {f"score file {order.name}": order.sha256 for order in every(orders) if order.sha256}
    return {"--order": [order.name for order in orders], **files}
