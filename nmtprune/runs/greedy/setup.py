"""What `greedy` is asked for, and everything that can be wrong with it before long work begins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune.architecture import Architecture, parse_kinds
from nmtprune.budget import Amount, Limits
from nmtprune.data.options import DataOptions
from nmtprune.errors import EngineError, UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.scorer import Scorer
from nmtprune.methods.sweep import numbers_removed
from nmtprune.plan import Base
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.greedy import orders
from nmtprune.runs.greedy.measured_plans import MeasuredPlans, RefittedPlans
from nmtprune.runs.greedy.orders import Curve, Order
from nmtprune.runs.greedy.sweeper import OpenCheckpoint
from nmtprune.runs.quality import DropRule, contents, measure
from nmtprune.runs.run import FolderRun, MeasuringRun, Session
from nmtprune.runs.scorers import AUTO
from nmtprune.runs.state import NO_SETTING, settings_of
from nmtprune.runs.subject import NativeModel, ScoredModel, open_subject

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint

PLAN = "plan.json"
CURVE_JSON = "curve.json"
PLANS = "plans"
FILES = (PLAN, CURVE_JSON, "curve.tsv", "curve.png")
"""What a run writes beside its plans."""

_DATA = "data"

_MOST_SHARED = 0.1
"""Share of the sentences of DATA that models may also be refitted on; a few short ones are in every text."""

DEFAULT_ROUNDS, DEFAULT_CALIBRATION = 8, 2000

_RUNS_CUT = ("native", "ctranslate2")
"""Engines that run cut models as they are in memory."""


@dataclass(frozen=True, kw_only=True)
class GreedyRun(FolderRun, MeasuringRun):
    """What `greedy` is given.

    Attributes:
        checkpoints: models with the same heads; of one training run, for example.
        scorers: of the orders, with their options; those that are missing have their defaults.
        importance_data: sentences for scorers that are measured on training text.
        orders: names of orders, or score files.
        reestimate: heads are scored again after each step.
        samples: curves of the random order.
        kinds: comma-separated, each a sweep of its own; empty for all that the model has, together.
        step: heads per step, as the user wrote it.
        until: heads in all.
        min_heads_per_module: heads to keep in every module.
        uniform: all modules of a stack keep the same number of heads.
        max_drop: points of the metric, or ``significant``, that end a curve; None for no such limit.
        refit: measure refitted models instead of masked ones.
        rounds: number of times that the reconstruction order is measured.
        auto_orders: names of orders, or score files, among which ``auto`` chooses; empty for the usual ones.
        calibration_sentences: sentences to refit on, drawn from `importance_data`.
        calibration_data: raw text to refit on instead; without references on the checkpoint's own translations.
    """

    prints: ClassVar[str] = "curves"

    checkpoints: tuple[Path, ...] = field(metadata=NO_SETTING)
    scorers: tuple[Scorer[Any], ...] = field(default=(), metadata=NO_SETTING)
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
    refit: bool = False
    rounds: int = DEFAULT_ROUNDS
    auto_orders: tuple[str, ...] = ()
    calibration_sentences: int = DEFAULT_CALIBRATION
    calibration_data: DataOptions | None = field(default=None, metadata=NO_SETTING)

    @property
    def written(self) -> list[str]:
        """Names of the files next to the plans."""
        return [*FILES, *([self.slim.name] if self.refit else [])]

    @property
    def slim(self) -> Path:
        """Where the refitted model of ``plan.json`` goes."""
        return self.output / f"slim{self.checkpoints[0].suffix}"

    @property
    def contenders(self) -> tuple[str, ...]:
        """Names of the orders among which ``auto`` chooses."""
        return self.auto_orders or orders.DEFAULT_CONTENDERS

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        calibration = () if self.calibration_data is None else self.calibration_data.texts
        texts = [*self.data.texts, *self.importance_data.texts, *calibration]
        return [*self.checkpoints, *orders.files_among([*self.orders, *self.auto_orders]), *texts]

    def sentences(self, scorer: Scorer[Any]) -> DataOptions:
        """What a scorer reads."""
        return self.importance_data if scorer.on_training_text else self.data

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
        if self.refit and self.engine not in _RUNS_CUT:
            raise EngineError(
                f"--refit measures models that are cut, which the engine {self.engine} does not run: take --engine "
                f"{' or '.join(_RUNS_CUT)}"
            )


class Subjects:
    """The checkpoints of a run, each read once; one model at a time is open, for several may not fit into memory."""

    def __init__(self, run: GreedyRun, chosen: tuple[Order, ...], corpora: Corpora) -> None:
        from nmtprune.formats import load

        self._run, self._corpora = run, corpora
        self._scorers = scorers_of(chosen)
        self._competing = any(order.contenders for order in chosen)
        self._refits = run.refit or any(order.in_rounds for order in orders.every(chosen)) and run.rounds > 1
        self.checkpoints = tuple(load(path) for path in run.checkpoints)
        self._opened: tuple[int, OpenCheckpoint] | None = None

    def open(self, number: int) -> OpenCheckpoint:
        """A checkpoint with everything that is measured of it.

        Raises:
            NmtpruneError: bad checkpoint or data.
        """
        if self._opened is None or self._opened[0] != number:
            self._opened = None
            self._opened = number, self._open(self.checkpoints[number])
        return self._opened[1]

    def _open(self, checkpoint: "Checkpoint") -> OpenCheckpoint:
        run = self._run
        quality = measure(checkpoint, {_DATA: run.data}, run, self._corpora)[_DATA]
        native = NativeModel(checkpoint, run)
        subjects = {
            scorer.name: ScoredModel(native, quality.corpus, run.seed, run, quality)
            if scorer.masks
            else open_subject(scorer, native, run.sentences(scorer), run.seed, self._corpora)
            for scorer in self._scorers
        }
        refitted = self._refitted_plans(native) if self._refits else None
        plans = MeasuredPlans(quality, checkpoint, run.data, run, self._corpora, refitted if run.refit else None)
        if self._competing:
            plans.prepare_losses()
        return OpenCheckpoint(checkpoint, quality, subjects, plans, refitted)

    def _refitted_plans(self, native: NativeModel) -> RefittedPlans:
        """Refits models on sentences that are drawn from the training text, or from a text of their own."""
        from nmtprune.methods.measuring import drawn
        from nmtprune.runs.refit import REFERENCES, TRANSLATIONS, has_targets, with_translations

        run, checkpoint = self._run, native.checkpoint
        data = run.calibration_data or run.importance_data
        targets = has_targets(data)
        corpus = self._corpora.read(data, checkpoint.profile(), references=False, targets=targets)
        corpus = drawn(corpus, run.calibration_sentences, run.seed)
        if not targets:
            corpus = with_translations(corpus, checkpoint, run, run.limits)
        # The models of all orders that compete are measured one after the other, first their loss, then translations.
        kept = len(run.contenders) if AUTO in run.orders else 1
        on = REFERENCES if targets else TRANSLATIONS
        return RefittedPlans(checkpoint, lambda: native.model, corpus, run.seed, kept, on)


def scorers_of(chosen: Sequence[Order]) -> tuple[Scorer[Any], ...]:
    """The scorers of orders, each once."""
    every = orders.every(chosen)
    return tuple({order.scorer.name: order.scorer for order in every if order.scorer is not None}.values())


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


def check_greedy(run: GreedyRun, session: Session) -> Job:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with orders, checkpoints or data.
    """
    chosen = orders.parse_orders(run.orders, reestimate=run.reestimate, chosen=run.scorers, auto=run.contenders)
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
    for order in orders.every(chosen):
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
        opened = subjects.open(number)
        part = opened.quality
        settings |= {f"model {number + 1}" if number else "model": opened.checkpoint.base.sha256}
        settings |= {f"data {key}" if key != "data" else key: value for key, value in part.identity().items()}
        facts |= {"signature": part.signature, **part.facts(), "significance": _significance(run.significance)}
        corpora = [part.corpus]
        for scorer in scorers_of(chosen):
            subject = opened.subjects[scorer.name]
            settings |= settings_of(scorer.options)
            if not scorer.masks:
                facts[scorer.name] = subject.facts(scorer)
                corpora.append(subject.corpus)
            if scorer.on_training_text:
                settings[f"sentences for {scorer.name}"] = contents(subject.corpus)
        if opened.refitted is not None:
            settings[f"refit {number + 1}"] = dict(opened.refitted.record)
            # The plan and the slim model are those of the first checkpoint.
            facts.setdefault("refit", dict(opened.refitted.record))
            inputs.update(opened.refitted.inputs)
            shared = opened.refitted.shared_with(part.corpus)
            other = "--importance-source" if run.calibration_data is None else "--calibration-source"
            if run.refit and shared > _MOST_SHARED * len(part.corpus):
                session.remark(
                    f"{part.corpus.name}: {shared} of {len(part.corpus)} sentences are in the text that models are "
                    f"refitted on: other text will show a lower quality ({other} names other sentences)"
                )
        for corpus in corpora:
            inputs.update(corpus.inputs)
            session.note(corpus)
    return facts, inputs, settings


def _significance(test: SignificanceTest) -> dict[str, Any]:
    resamples = {"resamples": test.resamples_for(1), "seed": test.seed, "alpha": test.alpha}
    return {"method": test.method, **resamples, "correction": test.correction}
