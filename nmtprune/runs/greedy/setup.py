"""What `greedy` is asked for, and everything that can be wrong with it before long work begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune.architecture import Architecture, parse_kinds
from nmtprune.budget import Amount, Limits
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.sweep import numbers_removed
from nmtprune.plan import Base
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.greedy import orders
from nmtprune.runs.greedy.folder import FILES
from nmtprune.runs.greedy.orders import Curve, Order
from nmtprune.runs.greedy.sweeper import Subject
from nmtprune.runs.meters import (
    CONFIDENCE,
    IMPORTANCE,
    MeterSettings,
    confidence_meter,
    importance_meter,
)
from nmtprune.runs.quality import DropRule, contents, measure
from nmtprune.runs.run import FolderRun, MeasuringRun, Session
from nmtprune.runs.state import NO_SETTING

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint

_DATA = "data"


@dataclass(frozen=True, kw_only=True)
class GreedyRun(FolderRun, MeasuringRun):
    """What `greedy` is given.

    Attributes:
        checkpoints: models with the same heads; of one training run, for example.
        meters: how importance and confidence are measured.
        importance_data: sentences on which importance is measured.
        orders: names of orders, or score files.
        reestimate: importance is measured again after each step.
        samples: curves of the random order.
        kinds: comma-separated, each a sweep of its own; empty for all that the model has, together.
        step: heads per step, as the user wrote it.
        until: heads in all.
        min_heads_per_module: heads to keep in every module.
        uniform: all modules of a stack keep the same number of heads.
        max_drop: points of the metric, or ``significant``, that end a curve; None for no such limit.
    """

    prints: ClassVar[str] = "curves"

    checkpoints: tuple[Path, ...] = field(metadata=NO_SETTING)
    meters: MeterSettings = field(metadata=NO_SETTING)
    importance_data: DataOptions = field(metadata=NO_SETTING)
    orders: tuple[str, ...] = field(metadata={"option": "--order"})
    reestimate: bool = field(default=False, metadata=NO_SETTING)
    samples: int
    kinds: tuple[str, ...] = ()
    step: str
    until: str
    min_heads_per_module: int = 0
    uniform: bool = False
    max_drop: str | None = None

    @property
    def written(self) -> list[str]:
        """Names of the files next to the plans."""
        return [*FILES]

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        files = [Path(name) for name in self.orders if name not in orders.MEASURED]
        texts = [*self.data.texts, *self.importance_data.texts]
        return [*self.checkpoints, *files, *texts]

    @property
    def amounts(self) -> tuple[Amount, Amount]:
        """Heads per step, and in all.

        Raises:
            UsageError: texts that are no amounts.
        """
        return Amount.parse(self.step), Amount.parse(self.until)

    @property
    def rule(self) -> DropRule | None:
        """When a curve ends early.

        Raises:
            UsageError: `max_drop` is no rule.
        """
        return None if self.max_drop is None else DropRule.parse(self.max_drop)

    def check(self) -> None:
        """Refuse amounts and rules that are none, checkpoints and orders given twice, and what any run refuses."""
        super().check()
        _ = self.amounts, self.rule
        self.significance.resamples_for(1)
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UsageError("the same checkpoint twice: " + ", ".join(map(str, self.checkpoints)))


class Subjects:
    """The checkpoints of a run, each read once; one model at a time is open, for several may not fit into memory."""

    def __init__(self, run: GreedyRun, chosen: tuple[Order, ...], corpora: Corpora) -> None:
        from nmtprune.formats import load

        self._run, self._orders, self._corpora = run, {order.name for order in chosen}, corpora
        self.checkpoints = tuple(load(path) for path in run.checkpoints)
        self._opened: tuple[int, Subject] | None = None

    def open(self, number: int) -> Subject:
        """A checkpoint with its data.

        Raises:
            NmtpruneError: bad checkpoint or data.
        """
        if self._opened is None or self._opened[0] != number:
            self._opened = None
            self._opened = number, self._open(self.checkpoints[number])
        return self._opened[1]

    def _open(self, checkpoint: "Checkpoint") -> Subject:
        run = self._run
        importance = confidence = None
        part = measure(checkpoint, {_DATA: run.data}, run, self._corpora)[_DATA]
        if self._orders & {orders.IMPORTANCE, orders.REESTIMATED}:
            importance = importance_meter(checkpoint, run.importance_data, run.meters, run, run.seed, self._corpora)
        if orders.CONFIDENCE in self._orders:
            confidence = confidence_meter(checkpoint, run.data, run.meters, run, self._corpora)
        return Subject(checkpoint, part, importance, confidence)


@dataclass(frozen=True)
class Job:
    """A checked run: everything that can be refused has been accepted.

    Attributes:
        run: what was asked for.
        curves: what is swept.
        numbers: heads removed at each step, by the kinds of a curve.
        limits: which heads may go, likewise.
        bases: the checkpoints.
        facts: on what and how quality is measured, JSON values.
        inputs: SHA-256 of the data that were read, by path.
        settings: what the state belongs to.
        subjects: opens checkpoints.
    """

    run: GreedyRun
    curves: tuple[Curve, ...]
    numbers: Mapping[tuple[str, ...], tuple[int, ...]]
    limits: Mapping[tuple[str, ...], Limits]
    bases: tuple[Base, ...]
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    subjects: Subjects


def prepare(run: GreedyRun, session: Session) -> Job:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with orders, checkpoints or data.
    """
    chosen = orders.parse_orders(run.orders, reestimate=run.reestimate)
    _expect(run, chosen, session.corpora)
    subjects = Subjects(run, chosen, session.corpora)
    bases = tuple(checkpoint.base for checkpoint in subjects.checkpoints)
    _check_shapes(run, bases)
    architecture = subjects.checkpoints[0].architecture
    kinds = tuple(parse_kinds(text, architecture) for text in run.kinds) or (architecture.kinds,)
    if len(set(kinds)) < len(kinds):
        raise UsageError(f"--kinds {', '.join(run.kinds)}: the same kinds twice")
    limits = {selected: Limits(selected, run.min_heads_per_module, run.uniform) for selected in kinds}
    modules = bases[0].modules
    numbers = {selected: numbers_removed(modules, *run.amounts, limits[selected]) for selected in kinds}
    _check_score_files(chosen, kinds, architecture, bases, session)
    facts, inputs, settings = _described(run, chosen, subjects, session)
    settings |= {"--kinds": [list(selected) for selected in kinds]}
    found = orders.curves(run.checkpoints, chosen, kinds, run.samples)
    return Job(run, found, numbers, limits, bases, facts, inputs, settings, subjects)


def _expect(run: GreedyRun, chosen: Sequence[Order], corpora: Corpora) -> None:
    """Announce what is needed of each set of sentences, so that each is read once."""
    names = {order.name for order in chosen}
    corpora.expect(run.data, references=True, targets=CONFIDENCE in names and not run.meters.translates)
    if names & {orders.IMPORTANCE, orders.REESTIMATED}:
        corpora.expect(run.importance_data, targets=True)


def _check_shapes(run: GreedyRun, bases: Sequence[Base]) -> None:
    """Check that all models have the same heads."""
    faults = [
        f"{path}: {fault}"
        for path, base in zip(run.checkpoints, bases, strict=True)
        for fault in _shape_faults(bases[0], base)
    ]
    if faults:
        raise UsageError.of_faults(
            f"checkpoints of one training run have the same heads as {run.checkpoints[0]}", faults
        )


def _shape_faults(first: Base, other: Base) -> list[str]:
    faults = []
    for kind, heads in other.heads.items():
        if heads != first.heads[kind]:
            faults.append(f"{kind} heads {', '.join(map(str, heads))}, not {', '.join(map(str, first.heads[kind]))}")
        elif other.layers.get(kind) != first.layers.get(kind):
            faults.append(f"{kind} layers are tied in another way")
    return faults


def _check_score_files(
    chosen: tuple[Order, ...],
    kinds: tuple[tuple[str, ...], ...],
    architecture: Architecture,
    bases: tuple[Base, ...],
    session: Session,
) -> None:
    for order in chosen:
        if order.scores is None:
            continue
        order.scores.check(architecture, {kind for selected in kinds for kind in selected}, order.name)
        base = order.scores.base
        if base is not None and base.sha256 not in {each.sha256 for each in bases}:
            session.progress.note(f"{order.name}: scores of other weights of the same shape")


def _described(
    run: GreedyRun, chosen: tuple[Order, ...], subjects: Subjects, session: Session
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Facts for the files, data that were read, and settings of the state, with every checkpoint opened once."""
    facts: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    settings: dict[str, Any] = dict(orders.as_settings(chosen))
    for number in range(len(run.checkpoints)):
        subject = subjects.open(number)
        part = subject.measure
        settings |= {f"model {number + 1}" if number else "model": subject.checkpoint.base.sha256}
        settings |= {f"data {key}" if key != "data" else key: value for key, value in part.identity().items()}
        facts |= {"signature": part.signature, **part.facts(), "significance": _significance(run.significance)}
        corpora = [part.corpus]
        for name, meter in ((IMPORTANCE, subject.importance), (CONFIDENCE, subject.confidence)):
            if meter is not None:
                facts[name] = meter.facts(name)
                settings |= meter.settings.of(name)
                corpora.append(meter.corpus)
                if name == IMPORTANCE:
                    settings["sentences for importance"] = contents(meter.corpus)
        for corpus in corpora:
            inputs.update(corpus.inputs)
            session.note(corpus)
    return facts, inputs, settings


def _significance(test: SignificanceTest) -> dict[str, Any]:
    resamples = {"resamples": test.resamples_for(1), "seed": test.seed, "alpha": test.alpha}
    return {"method": test.method, **resamples, "correction": test.correction}
