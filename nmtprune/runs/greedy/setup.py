"""What `greedy` is asked for, and everything that can be wrong with it before long work begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import parse_kinds
from nmtprune.budget import Amount, Limits
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.sweep import numbers_removed
from nmtprune.plan import Base
from nmtprune.runs import run_folder
from nmtprune.runs.drop import DropRule
from nmtprune.runs.greedy import folder, orders
from nmtprune.runs.greedy.orders import Curve, Order
from nmtprune.runs.greedy.sweeper import Subject
from nmtprune.runs.measure import MeasureSettings, check_metric_options, contents, measure
from nmtprune.runs.meters import (
    CONFIDENCE,
    IMPORTANCE,
    MeterSettings,
    confidence_meter,
    importance_meter,
)

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

_DATA = "data"


@dataclass(frozen=True)
class GreedyRun:
    """What `greedy` is asked for.

    Attributes:
        checkpoints: models with the same heads; of one training run, for example.
        data: sentences on which quality, ablation and confidence are measured.
        output: the run folder.
        measure: metric, engine and search.
        meters: how importance and confidence are measured.
        importance_data: sentences on which importance is measured.
        orders: names of orders, or score files.
        reestimate: importance is measured again after each step.
        samples: curves of the random order.
        kinds: comma-separated, each a sweep of its own; empty for all that the model has, together.
        step: heads per step, as the user wrote it.
        until: heads in all.
        min_heads_per_module: that stay.
        uniform: all modules of a stack keep the same number of heads.
        max_drop: points of the metric, or ``significant``; None removes on to the end.
        significance: how differences are tested.
        resume: go on where an interrupted run stopped.
        force: start over in a folder that is not empty.
    """

    checkpoints: tuple[Path, ...]
    data: DataOptions
    output: Path
    measure: MeasureSettings
    meters: MeterSettings
    importance_data: DataOptions
    orders: tuple[str, ...]
    reestimate: bool
    samples: int
    kinds: tuple[str, ...]
    step: str
    until: str
    min_heads_per_module: int
    uniform: bool
    max_drop: str | None
    significance: SignificanceTest
    resume: bool
    force: bool

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        files = [Path(name) for name in self.orders if name not in orders.MEASURED]
        texts = [*self.data.texts, *self.importance_data.texts]
        return [*self.checkpoints, *files, *texts]


class Subjects:
    """The checkpoints of a run, of which one is open at a time: several large models do not fit into the memory."""

    def __init__(self, run: GreedyRun, chosen: tuple[Order, ...]) -> None:
        self._run, self._orders = run, {order.name for order in chosen}
        self._loaded: tuple[int, Checkpoint] | None = None
        self._opened: tuple[int, Subject] | None = None

    def load(self, number: int) -> "Checkpoint":
        """The checkpoint alone."""
        from nmtprune.formats import load

        if self._loaded is None or self._loaded[0] != number:
            self._loaded = self._opened = None
            self._loaded = number, load(self._run.checkpoints[number])
        return self._loaded[1]

    def open(self, number: int) -> Subject:
        """A checkpoint with its data.

        Raises:
            NmtpruneError: bad checkpoint or data.
        """
        if self._opened is None or self._opened[0] != number:
            self._opened = number, self._open(self.load(number))
        return self._opened[1]

    def _open(self, checkpoint: "Checkpoint") -> Subject:
        run = self._run
        importance = confidence = None
        part = measure(checkpoint, {_DATA: run.data}, run.measure)[_DATA]
        if self._orders & {orders.IMPORTANCE, orders.REESTIMATED}:
            importance = importance_meter(
                checkpoint, run.importance_data, run.meters, run.measure, run.significance.seed
            )
        if orders.CONFIDENCE in self._orders:
            confidence = confidence_meter(checkpoint, run.data, run.meters, run.measure)
        return Subject(checkpoint, part, importance, confidence)


@dataclass(frozen=True)
class Job:
    """A checked run: everything that can be refused has been accepted.

    Attributes:
        run: what was asked for.
        curves: what is swept.
        numbers: heads removed at each step, by the kinds of a curve.
        limits: which heads may go, likewise.
        rule: when a curve ends early.
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
    rule: DropRule | None
    bases: tuple[Base, ...]
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    subjects: Subjects


def prepare(run: GreedyRun, progress: "Progress") -> Job:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoints or data.
    """
    if str(run.output) == "-":
        raise UsageError("-o -: a run has many files: name a folder (--format json prints the curves too)")
    amounts = Amount.parse(run.step), Amount.parse(run.until)
    rule = None if run.max_drop is None else DropRule.parse(run.max_drop)
    check_metric_options(run.measure)
    run.significance.resamples_for(1)
    chosen = orders.parse_orders(run.orders, reestimate=run.reestimate)
    run_folder.check(run.output, folder.FILES, resume=run.resume, force=run.force, inputs=run.inputs)
    subjects = Subjects(run, chosen)
    bases = _bases(run, subjects)
    architecture = subjects.load(0).architecture
    kinds = tuple(parse_kinds(text, architecture) for text in run.kinds) or (architecture.kinds,)
    if len(set(kinds)) < len(kinds):
        raise UsageError(f"--kinds {', '.join(run.kinds)}: the same kinds twice")
    limits = {selected: Limits(selected, run.min_heads_per_module, run.uniform) for selected in kinds}
    modules = bases[0].modules
    numbers = {selected: numbers_removed(modules, *amounts, limits[selected]) for selected in kinds}
    _check_score_files(chosen, kinds, subjects, bases, progress)
    facts, inputs, settings = _described(run, chosen, subjects, progress)
    settings |= {"--kinds": [list(selected) for selected in kinds]}
    found = orders.curves(run.checkpoints, chosen, kinds, run.samples)
    return Job(run, found, numbers, limits, rule, bases, facts, inputs, settings, subjects)


def _bases(run: GreedyRun, subjects: Subjects) -> tuple[Base, ...]:
    """The models, which must have the same heads."""
    if len(set(run.checkpoints)) < len(run.checkpoints):
        raise UsageError("the same checkpoint twice: " + ", ".join(map(str, run.checkpoints)))
    bases = tuple(subjects.load(number).base for number in range(len(run.checkpoints)))
    faults = [
        f"{path}: {fault}"
        for path, base in zip(run.checkpoints, bases, strict=True)
        for fault in _shape_faults(bases[0], base)
    ]
    if faults:
        raise UsageError.of_faults(
            f"checkpoints of one training run have the same heads as {run.checkpoints[0]}", faults
        )
    return bases


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
    subjects: Subjects,
    bases: tuple[Base, ...],
    progress: "Progress",
) -> None:
    architecture = subjects.load(0).architecture if any(order.scores for order in chosen) else None
    for order in chosen:
        if order.scores is None or architecture is None:
            continue
        order.scores.check(architecture, {kind for selected in kinds for kind in selected}, order.name)
        base = order.scores.base
        if base is not None and base.sha256 not in {each.sha256 for each in bases}:
            progress.note(f"{order.name}: scores of other weights of the same shape")


def _described(
    run: GreedyRun, chosen: tuple[Order, ...], subjects: Subjects, progress: "Progress"
) -> tuple[dict[str, Any], dict[str, str], dict[str, Any]]:
    """Facts for the files, data that were read, and settings of the state, with every checkpoint opened once."""
    test = run.significance
    facts: dict[str, Any] = {}
    inputs: dict[str, str] = {}
    settings: dict[str, Any] = {
        **run.measure.as_settings(),
        **orders.as_settings(chosen),
        **{"--step": run.step, "--until": run.until, "--max-drop": run.max_drop, "--samples": run.samples},
        **{"--min-heads-per-module": run.min_heads_per_module, "--resamples": test.resamples},
        **({"--uniform": True} if run.uniform else {}),
        **{"--alpha": test.alpha, "--seed": test.seed},
    }
    notes: dict[str, None] = {}
    for number in range(len(run.checkpoints)):
        subject = subjects.open(number)
        part = subject.measure
        settings |= {f"model {number + 1}" if number else "model": subject.checkpoint.base.sha256}
        settings |= {f"data {key}" if key != "data" else key: value for key, value in part.identity().items()}
        facts |= {"signature": part.signature, **part.facts(), "significance": _significance(test)}
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
            notes |= dict.fromkeys(f"{corpus.name}: {note}" for note in corpus.notes)
    for note in notes:
        progress.note(note)
    return facts, inputs, settings


def _significance(test: SignificanceTest) -> dict[str, Any]:
    resamples = {"resamples": test.resamples_for(1), "seed": test.seed, "alpha": test.alpha}
    return {"method": test.method, **resamples, "correction": test.correction}
