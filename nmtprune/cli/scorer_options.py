"""Options that come from the table of scorers: which scorers there are, and what each of them can be told."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click

from nmtprune.cli.options import given, spelled
from nmtprune.cli.panels import Panel, PanelCommand, PanelOption
from nmtprune.methods.scorer import Scorer
from nmtprune.runs import scorers
from nmtprune.runs.scorers import SCORERS

Kind = type[Scorer[Any]]

PAPERS_ORDER = "confidence"
"""By which Behnke and Heafield remove heads."""


class ScorerCommand(PanelCommand):
    """A command with options that come from the table of scorers as it is when the command is used."""

    def __init__(self, *args: Any, scorer_options: Callable[[], list[click.Parameter]], **attributes: Any) -> None:
        self._scorer_options = scorer_options
        self._listed: tuple[Kind, ...] = ()
        self._merged: list[click.Parameter] = []
        super().__init__(*args, **attributes)

    @property
    def params(self) -> list[click.Parameter]:
        """Arguments, options of scorers, and all others; one list, which click itself changes for a moment."""
        if self._listed != tuple(SCORERS.values()):
            self._listed = tuple(SCORERS.values())
            arguments = sum(isinstance(parameter, click.Argument) for parameter in self._own)
            self._merged = [*self._own[:arguments], *self._scorer_options(), *self._own[arguments:]]
        return self._merged

    @params.setter
    def params(self, value: list[click.Parameter]) -> None:
        self._own = value


def metric_options() -> list[click.Parameter]:
    """Options of `score`: ``--metric``, and the settings of all scorers."""
    untested = scorers.either([each.name for each in _of_metric() if not each.masks], "and")
    described = " ".join(f"{each.name}: {each.summary}" for each in _of_metric())
    metric = PanelOption(
        ["--metric"],
        panel=Panel.SCORING,
        type=click.Choice(scorers.metrics()),
        metavar="METRIC",
        show_default="bleu; of classifiers accuracy",
        help=f"{described} {untested} take one pass over the sentences and are not tested for significance.",
    )
    return [metric, *_settings(_of_metric(), ordering=False)]


def order_options() -> list[click.Parameter]:
    """Options of `greedy`: ``--order``, and the settings of all scorers."""
    explained = {each.name: each.brief for each in _of_order()}
    explained |= {each.name + scorers.REESTIMATED: "measured again after every step" for each in _of_order()}
    explained[scorers.BY_LOSS] = "of layers: lowest loss without it; measured again after every layer"
    explained[scorers.AUTO] = "at every step the best of --auto-orders"
    listed = ", ".join(f"{name} ({explained[name]})" if explained.get(name) else name for name in scorers.orders())
    order = PanelOption(
        ["--order", "orders"],
        panel=Panel.REMOVAL,
        multiple=True,
        default=("importance",),
        show_default="importance",
        metavar="ORDER|FILE",
        help=f"Removal order: {listed}, or a score FILE; lowest first. Repeat the option for one curve per order.",
    )
    return [order, *_settings(_of_order(), ordering=True)]


def head_order_options() -> list[click.Parameter]:
    """Options of `lottery`: ``--order``, and the settings of the scorers of heads."""
    offered = scorers.head_scorers()
    listed = ", ".join(f"{each.name} ({each.brief})" if each.brief else each.name for each in offered)
    on_text = scorers.either([each.name for each in offered if each.on_training_text], "and")
    order = PanelOption(
        ["--order"],
        panel=Panel.REMOVAL,
        type=click.Choice([each.name for each in offered]),
        default=PAPERS_ORDER,
        show_default=True,
        metavar="ORDER",
        help=f"Heads to remove in each iteration, lowest first: {listed}. The paper takes {PAPERS_ORDER}, on DATA; "
        f"{on_text} are measured on --importance-subset.",
    )
    return [order, *_settings(offered, ordering=True)]


def taken(values: dict[str, Any], chosen: Iterable[Kind]) -> list[Scorer[Any]]:
    """The chosen scorers with their options; removes the options of all scorers from the values of a command."""
    found = [scorers.configured(scorer, values) for scorer in chosen]
    for _, field, _ in scorers.options_of(SCORERS.values()):
        values.pop(field.name, None)
    return found


def foreign_to_metric(metric: str) -> list[str]:
    """Given options that belong to other scorers of `score`."""
    return _foreign([SCORERS[metric]], _of_metric(), "--metric")


def foreign_to_orders(orders: Sequence[str], also: Sequence[str], offered: Sequence[Kind] | None = None) -> list[str]:
    """Given options that belong to other scorers of `greedy` or `lottery`.

    Args:
        orders: that were chosen.
        also: further parameters that go with scorers that are measured on training text.
        offered: the scorers of the command; None: those of `greedy`.
    """
    offered = _of_order() if offered is None else offered
    chosen = [scorer for scorer in map(scorers.scorer_of, orders) if scorer is not None]
    faults = _foreign(chosen, offered, "--order")
    if not any(scorer.on_training_text for scorer in chosen):
        owners = scorers.names_of(scorer for scorer in offered if scorer.on_training_text)
        faults += [f"{spelled(name)} goes with --order {owners}" for name in given(also)]
    return faults


def _foreign(chosen: Sequence[Kind], offered: Sequence[Kind], flag: str) -> list[str]:
    names = [field.name for _, field, _ in scorers.options_of(offered)]
    return [
        f"{spelled(name)} goes with {flag} {scorers.names_of(scorers.owners_of(name, offered))}"
        for name in given(names)
        if not scorers.owners_of(name, chosen)
    ]


def _of_metric() -> list[Kind]:
    return [each for each in SCORERS.values() if each.of_metric]


def _of_order() -> list[Kind]:
    return [each for each in SCORERS.values() if each.of_order]


def _settings(offered: Sequence[Kind], *, ordering: bool) -> list[click.Parameter]:
    """Options of scorers; `ordering` for commands that measure many models."""
    return [
        PanelOption([spelled(field.name)], panel=_panel(scorer), **_attributes(field, kind, ordering))
        for scorer, field, kind in scorers.options_of(offered)
    ]


def _panel(scorer: Kind) -> Panel:
    return Panel(scorer.panel)


def _attributes(field: "Field[Any]", kind: Any, ordering: bool) -> dict[str, Any]:
    """What click must know of a setting."""
    option = field.metadata["click"]
    default = field.default
    if ordering and option["in_greedy"] is not None:
        default = option["in_greedy"]
    found: dict[str, Any] = {"help": option["help"], "metavar": option["metavar"]}
    if kind is bool:
        return {**found, "is_flag": True}
    shown = option["shown"] if option["shown"] and default == field.default else True
    return {**found, "type": _values(kind, option["minimum"]), "default": default, "show_default": shown}


def _values(kind: Any, minimum: int | None) -> Any:
    """The type of an option with a value: a number, a text or a choice, which may be left out."""
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    return click.IntRange(min=minimum) if kind is int else kind
