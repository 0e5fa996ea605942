"""What `greedy` is asked for, and everything that can be wrong with it before long work begins."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nmtprune import files
from nmtprune.architecture import LAYER_KINDS, Architecture, UnitId, parse_kinds
from nmtprune.budget import Amount, Limits
from nmtprune.data.corpus import Corpus
from nmtprune.data.directions import MEAN, Sets
from nmtprune.data.examples import Examples
from nmtprune.errors import EngineError, UsageError
from nmtprune.evaluate.metrics import Metric
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.priced import Budget
from nmtprune.methods.scorer import CLASSIFIES, TRANSLATES, Scorer
from nmtprune.plan import Base
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.functions_file import Protection
from nmtprune.runs.greedy import orders
from nmtprune.runs.greedy.costs import SPEED
from nmtprune.runs.greedy.measured_plans import MeasuredPlans
from nmtprune.runs.greedy.one_shape import check_one_shape
from nmtprune.runs.greedy.orders import Curve, Order
from nmtprune.runs.greedy.removal import Removal, numbers_or_all, parse_budgets, shares_removed
from nmtprune.runs.greedy.score_files import check_score_files
from nmtprune.runs.greedy.sweeper import OpenCheckpoint
from nmtprune.runs.quality import DropRule, contents, measure
from nmtprune.runs.refitted_plans import DEFAULT_CALIBRATION, RefittedPlans, open_refitted_plans
from nmtprune.runs.run import FolderRun, MeasuringRun, Session
from nmtprune.runs.scorers import AUTO
from nmtprune.runs.sorts import kinds_of, parse_sorts
from nmtprune.runs.state import NO_SETTING, settings_of
from nmtprune.runs.subject import NativeModel, ScoredModel
from nmtprune.runs.subject_directions import AnySubject, open_scored

if TYPE_CHECKING:
    from nmtprune.evaluate.milliseconds import Milliseconds
    from nmtprune.formats.base import Checkpoint

PLAN = "plan.json"
CURVE_JSON = "curve.json"
PLANS = "plans"
FILES = (PLAN, CURVE_JSON, "curve.tsv", "curve.png")
"""What a run writes beside its plans."""

_DATA = "data"

_MOST_SHARED = 0.1
"""Share of the sentences of DATA that models may also be refitted on; a few short ones are in every text."""

DEFAULT_ROUNDS = 8

HEADS, WITHIN_LAYERS = "heads", "heads,neurons"
"""What is removed unless the run says otherwise: step by step, and for a budget."""

_RUNS_CUT = ("native", "ctranslate2")
"""Engines that run cut models as they are in memory."""


@dataclass(frozen=True, kw_only=True)
class GreedyRun(FolderRun, MeasuringRun):
    """What `greedy` is given.

    Attributes:
        checkpoints: models with the same heads, neurons and layers; of one training run, for example.
        scorers: of the orders, with their options; those that are missing have their defaults.
        importance_data: sentences for scorers that are measured on training text.
        orders: names of orders, or score files.
        reestimate: units are scored again after each step.
        samples: curves of the random order.
        kinds: comma-separated, each a sweep of its own; empty for all that the model has, together.
        group: what is removed, of `architecture.SORTS`, comma-separated; None: heads, and for a budget neurons too.
        step: per step, as the user wrote it: units of one sort; of several a share of what they cost.
        until: in all, likewise; None: until nothing more can be removed.
        budgets: what models may cost, each a step; they take the place of `step` and `until`.
        cost_table: measured costs for budgets of speed.
        min_heads_per_module: heads to keep in every module.
        uniform: all modules of a stack keep the same number of heads, all feed-forward layers that of neurons.
        multiple_of: of which the number of neurons of every feed-forward layer is a multiple.
        protect: ``FILE:FUNCTIONS``: heads with these functions in a `functions` file stay; None: no head is protected.
        max_drop: points of the metric, or ``significant``, that end a curve; None for no such limit.
        refit: measure refitted models instead of masked ones.
        rounds: number of times that the reconstruction order is measured.
        auto_orders: names of orders, or score files, among which ``auto`` chooses; empty for the usual ones.
        calibration_sentences: sentences to refit on, drawn from `importance_data`.
        calibration_data: raw text to refit on instead; without references on the checkpoint's own translations.
        across: what plans and units are chosen by where there are several directions, of `data.directions.ACROSS`.
    """

    prints: ClassVar[str] = "curves"

    checkpoints: tuple[Path, ...] = field(metadata=NO_SETTING)
    scorers: tuple[Scorer[Any], ...] = field(default=(), metadata=NO_SETTING)
    importance_data: Sets = field(metadata=NO_SETTING)
    orders: tuple[str, ...] = field(metadata={"option": "--order"})
    reestimate: bool = field(default=False, metadata=NO_SETTING)
    samples: int
    kinds: tuple[str, ...] = ()
    group: str | None = field(default=None, metadata=NO_SETTING)
    step: str
    until: str | None
    budgets: tuple[str, ...] = field(default=(), metadata=NO_SETTING)
    cost_table: Path | None = field(default=None, metadata=NO_SETTING)
    min_heads_per_module: int = 0
    uniform: bool = False
    multiple_of: int = field(default=1, metadata=NO_SETTING)
    protect: str | None = field(default=None, metadata=NO_SETTING)
    max_drop: str | None = None
    refit: bool = False
    rounds: int = DEFAULT_ROUNDS
    auto_orders: tuple[str, ...] = ()
    calibration_sentences: int = DEFAULT_CALIBRATION
    calibration_data: Sets | None = field(default=None, metadata=NO_SETTING)
    across: str = field(default=MEAN, metadata=NO_SETTING)

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
        calibration = () if self.calibration_data is None else self.calibration_data.files
        read = [*self.data.files, *self.importance_data.files, *calibration]
        tables = [] if self.cost_table is None else [self.cost_table]
        functions = [] if self.protection is None else [self.protection.path]
        return [*self.checkpoints, *orders.files_among([*self.orders, *self.auto_orders]), *read, *tables, *functions]

    @property
    def protection(self) -> Protection | None:
        """Which heads stay because of what they do.

        Raises:
            UsageError: `protect` has another form.
        """
        return None if self.protect is None else Protection.parse(self.protect)

    def sentences(self, scorer: Scorer[Any]) -> Sets:
        """What a scorer reads."""
        return self.importance_data if scorer.on_training_text else self.data

    @property
    def sorts(self) -> tuple[str, ...]:
        """What is removed, of `architecture.SORTS`.

        Raises:
            UsageError: `group` names something else.
        """
        return parse_sorts(self.group or (WITHIN_LAYERS if self.budgets else HEADS))

    @property
    def allowed(self) -> tuple[Budget, ...]:
        """The budgets.

        Raises:
            UsageError: texts that are no budgets, budgets of several kinds, or of a speed that nothing tells.
        """
        found = parse_budgets(self.budgets)
        by_speed = any(budget.kind == SPEED for budget in found)
        if by_speed and self.cost_table is None:
            raise UsageError(
                f"--budget {found[0]}: how fast models are is measured, not counted: give --cost-table FILE, which "
                "nmtprune bench --cost-table writes"
            )
        if self.cost_table is not None and not by_speed:
            raise UsageError("--cost-table goes with --budget speed=...")
        return found

    @property
    def costed(self) -> bool:
        """Whether costs are counted: unless the steps are numbers of heads."""
        return bool(self.budgets) or self.sorts != (HEADS,)

    @property
    def amounts(self) -> tuple[Amount, Amount | None]:
        """Units per step, and in all; None for all that can be removed.

        Raises:
            UsageError: texts that are no amounts.
        """
        what = self.sorts[0] if len(self.sorts) == 1 else "multiply-accumulates"
        return Amount.parse(self.step, what), None if self.until is None else Amount.parse(self.until, what)

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
        _ = self.amounts, self.allowed, self.rule
        self._check_limits()
        self.significance.resamples_for(1)
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UsageError("the same checkpoint twice: " + ", ".join(map(str, self.checkpoints)))
        if self.refit and self.engine not in _RUNS_CUT:
            raise EngineError(
                f"--refit measures models that are cut, which the engine {self.engine} does not run: take --engine "
                f"{' or '.join(_RUNS_CUT)}"
            )

    def _check_limits(self) -> None:
        """Refuse limits of units that are not removed."""
        faults = []
        if self.multiple_of != 1 and "neurons" not in self.sorts:
            faults.append("--multiple-of goes with --group neurons")
        if self.min_heads_per_module and HEADS not in self.sorts:
            faults.append("--min-heads-per-module goes with --group heads")
        if self.uniform and self.sorts == ("layers",):
            faults.append("--uniform goes with --group heads or neurons")
        if self.protect is not None and self.sorts == ("neurons",):
            faults.append("--protect goes with --group heads or layers")
        if self.protect is not None and len(self.checkpoints) > 1:
            faults.append("--protect goes with one CHECKPOINT, since functions are those of one model")
        if faults:
            raise UsageError("; ".join(faults), faults)


class Subjects:
    """The checkpoints of a run, each read once; one model at a time is open, for several may not fit into memory."""

    def __init__(self, run: GreedyRun, chosen: tuple[Order, ...], corpora: Corpora) -> None:
        from nmtprune.formats import load

        self._run, self._corpora = run, corpora
        self._scorers = scorers_of(chosen)
        self._competing = any(order.contenders for order in chosen)
        sorts = run.sorts
        layers = "layers" in sorts
        self._by_loss = layers and any(order.layers_by_loss(LAYER_KINDS) for order in orders.every(chosen))
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
        quality = measure(checkpoint, {_DATA: run.data}, run, self._corpora, run.across)[_DATA]
        native = NativeModel(checkpoint, run)
        subjects: dict[str, AnySubject] = {
            scorer.name: ScoredModel(native, quality.corpus, run.seed, run, quality)
            if scorer.masks
            else open_scored(scorer, native, run.sentences(scorer), run.seed, self._corpora, run.across)
            for scorer in self._scorers
        }
        refitted = self._refitted_plans(native) if self._refits else None
        plans = MeasuredPlans(quality, checkpoint, run.data, run, self._corpora, refitted if run.refit else None)
        if self._competing or self._by_loss:
            plans.prepare_losses()
        return OpenCheckpoint(checkpoint, quality, subjects, plans, native, refitted)

    def _refitted_plans(self, native: NativeModel) -> RefittedPlans:
        """Refits models on sentences that are drawn from the training text, or from a text of their own."""
        run = self._run
        # The models of all orders that compete are measured one after the other, first their loss, then translations.
        kept = len(run.contenders) if AUTO in run.orders else 1
        data = run.calibration_data or run.importance_data
        return open_refitted_plans(native, data, run.calibration_sentences, self._corpora, run, kept)


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
        removals: what is removed and where steps end, by the kinds of a curve.
        bases: the checkpoints.
        facts: on what and how quality is measured, JSON values.
        inputs: SHA-256 of the data that were read, by path.
        settings: what the state belongs to.
        subjects: opens checkpoints.
        times: measured costs by the number of a checkpoint; empty without a table.
    """

    run: GreedyRun
    curves: tuple[Curve, ...]
    removals: Mapping[tuple[str, ...], Removal]
    bases: tuple[Base, ...]
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    subjects: Subjects
    times: "Mapping[int, Milliseconds]"


def check_greedy(run: GreedyRun, session: Session) -> Job:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with orders, checkpoints or data.
    """
    chosen = orders.parse_orders(run.orders, reestimate=run.reestimate, chosen=run.scorers, auto=run.contenders)
    subjects = Subjects(run, chosen, session.corpora)
    bases = tuple(checkpoint.base for checkpoint in subjects.checkpoints)
    check_one_shape(run.checkpoints, bases, neurons=run.costed)
    _check_orders(chosen, subjects)
    architecture = subjects.checkpoints[0].architecture
    kinds = _selected(run, architecture, bases[0])
    for order, selected in itertools.product(chosen, kinds):
        order.check_kinds(selected)
    protected = _protected(run, bases[0], session)
    removals = {selected: _removal(run, selected, bases[0], protected) for selected in kinds}
    _check_widths(run, subjects)
    check_score_files(chosen, removals, subjects.checkpoints, session)
    table = None if run.cost_table is None else CostTable.read(run.cost_table)
    times = _times(run, table, subjects, session)
    facts, inputs, settings = _described(run, chosen, subjects, session)
    facts |= {} if run.protect is None else {"protected": [str(head) for head in sorted(protected)]}
    facts |= {} if table is None else {"cost_table": table.conditions}
    more = [*([run.cost_table] if run.cost_table else []), *([run.protection.path] if run.protection else [])]
    inputs |= {str(path): files.sha256_file(path) for path in more}
    # Another file that protects the same heads is no other run.
    settings |= {} if run.protect is None else {"--protect": facts["protected"]}
    settings |= {"--kinds": [list(selected) for selected in kinds], **_cost_settings(run)}
    found = orders.curves(run.checkpoints, chosen, kinds, run.samples)
    return Job(run, found, removals, bases, facts, inputs, settings, subjects, times)


def _check_orders(chosen: Sequence[Order], subjects: Subjects) -> None:
    """Refuse orders that do not score such models.

    Raises:
        UsageError: an order of models that translate for a classifier, or the reverse.
    """
    for checkpoint, scorer in itertools.product(subjects.checkpoints, scorers_of(chosen)):
        kind, what = (CLASSIFIES, "is a classifier") if checkpoint.classifies else (TRANSLATES, "translates")
        if kind not in scorer.measures:
            raise UsageError(f"--order {scorer.name}: {checkpoint.path} {what}: choose another order")


def _check_widths(run: GreedyRun, subjects: Subjects) -> None:
    """Check that neurons counted one by one can be cut; budgets and shares of costs count what cut files have.

    Raises:
        UsageError: the format has one width for all feed-forward layers of a stack.
    """
    first = subjects.checkpoints[0]
    if run.sorts == ("neurons",) and not (run.budgets or run.uniform or first.ragged_neurons):
        raise UsageError(
            f"{run.checkpoints[0]}: {first.toolkit} has one width for all feed-forward layers of a stack: give "
            "--uniform"
        )


def _times(run: GreedyRun, table: CostTable | None, subjects: Subjects, session: Session) -> "dict[int, Milliseconds]":
    """Prices by the table of measured costs, of every checkpoint; says what they are of.

    Raises:
        DataError: a table that was measured on a model of another size, or too briefly.
    """
    if table is None:
        return {}
    found = {number: table.prices(each, str(run.cost_table)) for number, each in enumerate(subjects.checkpoints)}
    for remark in table.remarks(run.engine, run.search.beam):
        session.progress.note(f"{run.cost_table}: {remark}")
    return found


def _selected(run: GreedyRun, architecture: Architecture, base: Base) -> tuple[tuple[str, ...], ...]:
    """The kinds of groups that lose units, curve by curve."""
    if run.sorts == (HEADS,):
        kinds = tuple(parse_kinds(text, architecture) for text in run.kinds) or (architecture.kinds,)
    else:
        kinds = tuple(kinds_of(run.sorts, base, text) for text in run.kinds) or (kinds_of(run.sorts, base),)
    if len(set(kinds)) < len(kinds):
        raise UsageError(f"--kinds {', '.join(run.kinds)}: the same kinds twice")
    return kinds


def _protected(run: GreedyRun, base: Base, session: Session) -> frozenset[UnitId]:
    """The heads that stay in any case; says how many there are.

    Raises:
        UsageError: functions that there are not, or that were not measured.
        PlanError: a file that is damaged or of another model.
    """
    if run.protection is None:
        return frozenset()
    found, line = run.protection.heads(base)
    session.remark(line)
    return found


def _removal(run: GreedyRun, kinds: tuple[str, ...], base: Base, protected: frozenset[UnitId]) -> Removal:
    """What a curve of these kinds removes, and where its steps end.

    Raises:
        UsageError: steps that mean nothing for what is removed.
        BudgetError: numbers of units that cannot be removed.
    """
    (step, until), limits = run.amounts, Limits(kinds, run.min_heads_per_module, run.uniform, run.multiple_of)
    limits = limits.with_protected(protected)
    if run.allowed:
        return Removal(limits, budgets=run.allowed)
    if len(run.sorts) > 1:
        return Removal(limits, shares=shares_removed(step, until or Amount(Fraction(100), percent=True)))
    return Removal(limits, numbers=numbers_or_all(base, step, until, limits))


def _cost_settings(run: GreedyRun) -> dict[str, Any]:
    """Settings of the state that runs over numbers of heads have no use for."""
    found: dict[str, Any] = {}
    if run.costed:
        found |= {"--group": list(run.sorts)}
    if run.budgets:
        found |= {"--budget": [str(budget) for budget in run.allowed]}
    if run.multiple_of != 1:
        found |= {"--multiple-of": run.multiple_of}
    return found | ({} if run.cost_table is None else {"cost table": files.sha256_file(run.cost_table)})


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
        facts |= {
            "signature": part.signature,
            **part.facts(),
            "significance": _significance(run.significance, part.metric),
        }
        corpora: list[Corpus | Examples] = [part.corpus]
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
            what = "examples" if opened.checkpoint.classifies else "source"
            other = f"--importance-{what}" if run.calibration_data is None else f"--calibration-{what}"
            if run.refit and shared > _MOST_SHARED * len(part.corpus):
                session.remark(
                    f"{part.corpus.name}: {shared} of {len(part.corpus)} sentences are in the text that models are "
                    f"refitted on: other text will show a lower quality ({other} names other sentences)"
                )
        for corpus in corpora:
            inputs.update(corpus.inputs)
            session.note(corpus)
    return facts, inputs, settings


def _significance(test: SignificanceTest, metric: Metric) -> dict[str, Any]:
    resamples = {"resamples": test.resamples_for(1, exact=metric.discordant), "seed": test.seed, "alpha": test.alpha}
    return {"method": test.method_of(metric), **resamples, "correction": test.correction}
