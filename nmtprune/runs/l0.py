"""`l0`: train gates on a converged model, cut the heads whose gates have closed, and measure what is left.

Voita et al. 2019, section 6; Shim et al. 2021, sections 3.2 and 3.3. The state is written after each stage of a lambda;
fairseq-train goes on from its own last checkpoint.
"""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nmtprune import files, plots, provenance, slim
from nmtprune.architecture import KINDS, Architecture, UnitId, parse_kinds
from nmtprune.data.databin import DataBin
from nmtprune.data.options import TRAINING_SUBSET
from nmtprune.errors import CheckpointError, UsageError
from nmtprune.evaluate.significance import Difference
from nmtprune.formats.trainable import TrainableCheckpoint
from nmtprune.plan import Plan
from nmtprune.plots import Pruned
from nmtprune.process import program
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device, training_environment
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.report import (
    Cell,
    GatesOf,
    L0File,
    QualityOf,
    Report,
    ReportFiles,
    SlimOf,
    Unpruned,
    quality_of,
    tsv,
)
from nmtprune.runs.run import FolderRun, MeasuringRun, Session, started
from nmtprune.runs.state import NO_SETTING, State, pack
from nmtprune.training.fairseq_train import Trainer, Training, load_trained
from nmtprune.training.options import ARCH, Options, as_trained, check_given, value_of, with_defaults

if TYPE_CHECKING:
    from nmtprune.evaluate.metrics import Scored
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

TASK, CRITERION = "translation_l0", "label_smoothed_cross_entropy_l0"
DEFAULT_EPOCHS = 10
"""With which training ends where the user names no end."""

_RESERVED = ("--task", "--criterion", "--l0-weight")
_DATA = "data"
_JSON = "l0.json"
_PLAN, _SLIM, _CHECKPOINTS = "plan.json", "slim.pt", "checkpoints"
_STATISTICS, _UNPRUNED = "statistics", "unpruned"
_WATCHED = ("open_heads", *(f"open_{kind}" for kind in KINDS))


@dataclass(frozen=True, kw_only=True)
class L0Run(FolderRun, MeasuringRun):
    """What `l0` is given: binarized data to train on, and the sentences on which quality is measured.

    Attributes:
        checkpoint: a converged model, full or slim.
        weights: of the penalty, lambda; one training each.
        gates: options of fairseq-train that say how gates work and what learns, with their values.
        kinds: comma-separated; None for all that the model has.
        best: take the checkpoint with the lowest validation loss among those with the gates of the last one.
        given: options for fairseq-train as the user typed them.
    """

    prints: ClassVar[str] = "table"

    checkpoint: Path = field(metadata=NO_SETTING)
    weights: tuple[float, ...] = field(metadata=NO_SETTING)
    gates: Options = field(default=(), metadata=NO_SETTING)
    kinds: str | None = field(default=None, metadata=NO_SETTING)
    best: bool = False
    given: tuple[str, ...] = field(default=(), metadata=NO_SETTING)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *super().inputs]

    @property
    def outputs(self) -> ReportFiles:
        """Result, table and picture."""
        return ReportFiles.beside(self.output / _JSON)

    @property
    def written(self) -> list[str]:
        """Names of files in the run folder."""
        return [*(path.name for path in self.outputs), _PLAN, _SLIM]

    @property
    def on_cpu(self) -> bool:
        """Whether trainings have no GPU."""
        return choose_device(self.device).type == "cpu"

    def folder(self, weight: float) -> Path:
        """Where the results of a weight lie: the run folder itself where there is only one."""
        return self.output if len(self.weights) == 1 else self.output / f"l0-weight-{weight:g}"

    def check(self) -> None:
        """Refuse options that no training can have, and what any measuring run refuses."""
        if self.data.data_bin is None:
            raise UsageError("l0 trains on binarized data: name --data-bin DIR")
        check_given(self.given, (*ARCH, *_RESERVED, "--l0-kinds", *(option[0] for option in self.gates)))
        bad = [f"{weight:g}" for weight in self.weights if not 0 <= weight < math.inf]
        if bad:
            raise UsageError(f"--l0-weight {', '.join(bad)}: give a number from 0 on")
        if len(set(self.weights)) < len(self.weights):
            weights = ", ".join(f"{weight:g}" for weight in self.weights)
            raise UsageError(f"--l0-weight {weights}: the same weight twice")
        super().check()
        self.significance.resamples_for(1)


@dataclass(frozen=True)
class _Checked:
    """A checked run: everything that can be refused without training has been accepted.

    Attributes:
        run: what the command was given.
        base: the checkpoint from which every training starts.
        quality: on DATA, of the unpruned model.
        trainings: by weight.
    """

    run: L0Run
    base: TrainableCheckpoint
    quality: Quality
    trainings: Mapping[float, Training]


def _prepare(run: L0Run, corpora: Corpora) -> _Checked:
    """Check everything that can be wrong with checkpoint and data, the cheapest first."""
    from nmtprune.formats import load

    base = load(run.checkpoint).trainable("with gates: l0 needs fairseq's")
    kinds = base.architecture.kinds if run.kinds is None else parse_kinds(run.kinds, base.architecture)
    if not base.architecture.head_ids(kinds):
        raise UsageError(f"{run.checkpoint}: there is no head to put a gate on ({', '.join(kinds) or 'no attention'})")
    trained = value_of(run.given, "--train-subset") or TRAINING_SUBSET
    DataBin(run.data.data_bin or Path()).check_subsets((trained,))
    quality = measure(base, {_DATA: run.data}, run, corpora)[_DATA]
    trainings = {weight: _training(run, base, kinds, weight) for weight in run.weights}
    program("fairseq-train")  # what is not installed shall not show after the first measurement
    return _Checked(run, base, quality, trainings)


def _facts(job: _Checked) -> dict[str, Any]:
    """What the state belongs to besides the options of `l0`; other options are among the words of fairseq-train."""
    return {
        "model": job.base.base.sha256,
        **job.quality.identity(),
        "fairseq-train": [" ".join(each.words) for each in job.trainings.values()],
        "--threads": job.run.threads if job.run.on_cpu else None,
    }


def _training(run: L0Run, base: TrainableCheckpoint, kinds: Sequence[str], weight: float) -> Training:
    smoothing = base.label_smoothing()
    # A run with --best chooses among the checkpoints of all epochs.
    saved: Options = () if run.best else (("--no-epoch-checkpoints",),)
    defaults = (
        *as_trained(base),
        *(("--label-smoothing", repr(smoothing)), ("--seed", str(run.seed))),
        *(("--max-epoch", str(DEFAULT_EPOCHS)), ("--log-interval", "20"), *saved),
    )
    folder = run.folder(weight)
    options = (
        *(("--task", TASK), ("--criterion", CRITERION), ("--l0-weight", repr(weight))),
        *(("--l0-kinds", ",".join(kinds)), *run.gates),
        *with_defaults(defaults, run.given),
    )
    return Training(
        name=f"l0-weight-{weight:g}",
        title=f"Train gates with lambda {weight:g}",
        data_bin=run.data.data_bin or Path(),
        start=run.checkpoint,
        folder=folder / _CHECKPOINTS,
        options=options,
        given=run.given,
        on_cpu=run.on_cpu,
    )


def load_gated(path: Path) -> tuple[TrainableCheckpoint, Plan]:
    """A checkpoint as the model that its gates make at test time, and the plan that keeps its open heads.

    Raises:
        CheckpointError: it cannot be read, or has no gates.
        TrainingError: its training diverged.
    """
    checkpoint = load_trained(path)
    if checkpoint.open_heads is None:
        raise CheckpointError(f"{path}: there are no gates in it")
    closed = [
        UnitId(module, head)
        for module, opened in checkpoint.open_heads.items()
        for head in range(checkpoint.architecture[module].heads)
        if head not in opened
    ]
    return checkpoint, Plan.removing(checkpoint.base, closed)


def chosen_checkpoint(last: Path, *, best: bool) -> tuple[TrainableCheckpoint, Plan]:
    """The checkpoint that a training is known by: the last, or of those with its open gates the best one.

    The lowest validation loss of a whole training is normally that of the least pruned model.

    Args:
        last: of the training; the others lie beside it.
        best: choose by validation loss.

    Raises:
        CheckpointError: a checkpoint cannot be read.
    """
    chosen, plan = load_gated(last)
    others = sorted({*last.parent.glob("checkpoint*.pt")} - {last}) if best else ()
    for path in others:
        checkpoint, other = load_gated(path)
        if other.keep == plan.keep and _validation_loss(checkpoint) < _validation_loss(chosen):
            chosen, plan = checkpoint, other
    return chosen, plan


def _validation_loss(checkpoint: TrainableCheckpoint) -> float:
    value = checkpoint.progress.validation
    return math.inf if value is None else value


@dataclass(frozen=True)
class Outcome:
    """The result of one lambda.

    Attributes:
        weight: lambda.
        folder: of its files, as the user would name it.
        checkpoint: the gated checkpoint that was taken.
        plan: the heads whose gates are open.
        gated: the metric of the gated model with its gates at test time.
        slim: the metric of the slim model.
        difference: of the slim model from the unpruned one.
        parameters: of the slim model.
    """

    weight: float
    folder: str
    checkpoint: str
    plan: Plan
    gated: float
    slim: float
    difference: Difference
    parameters: int

    def kept(self, architecture: Architecture) -> dict[str, int]:
        """Heads kept per kind of the model."""
        return {kind: self.plan.count_kept((kind,)) for kind in architecture.kinds}


@dataclass(frozen=True)
class Baseline:
    """The unpruned model: its attention, parameters, and the metric."""

    architecture: Architecture
    parameters: int
    value: float


def _columns(metric: str, base: Baseline) -> tuple[str, ...]:
    """Columns of the table."""
    between = (f"{metric}_gated", f"{metric}_slim", "delta", "ci_low", "ci_high", "p", "parameters")
    return ("l0_weight", "kept", *base.architecture.kinds, *between)


def _rows(base: Baseline, outcomes: Sequence[Outcome]) -> Iterator[tuple[Cell, ...]]:
    """A row of `_columns` for every lambda, in full precision."""
    for each in outcomes:
        yield (
            each.weight, each.plan.count_kept(), *each.kept(base.architecture).values(), each.gated, each.slim,
            each.difference.delta, *each.difference.ci, each.difference.p, each.parameters,
        )  # fmt: skip


def _l0_file(
    metric: str, base: Baseline, outcomes: Sequence[Outcome], facts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> L0File:
    """The table as ``l0.json`` has it."""
    unpruned = Unpruned(heads=base.architecture.count(), parameters=base.parameters, **quality_of(metric, base.value))
    return L0File(
        format="nmtprune-l0",
        version=1,
        metric=metric,
        **facts,
        unpruned=unpruned,
        runs=[_gates(metric, base, each) for each in outcomes],
        provenance=dict(provenance),
    )


def _gates(metric: str, base: Baseline, each: Outcome) -> GatesOf:
    return GatesOf(
        l0_weight=each.weight,
        folder=each.folder,
        checkpoint=each.checkpoint,
        kept=each.plan.count_kept(),
        kept_per_kind=each.kept(base.architecture),
        gated=QualityOf(**quality_of(metric, each.gated)),
        slim=SlimOf(parameters=each.parameters, **quality_of(metric, each.slim)),
        delta=each.difference.delta,
        ci=each.difference.ci,
        p=each.difference.p,
    )


def _points(base: Baseline, outcomes: Sequence[Outcome]) -> list[Pruned]:
    """What the picture shows: the pruned models, each with the interval of its change around the unpruned value."""
    return [
        Pruned(
            f"{each.weight:g}",
            each.kept(base.architecture),
            each.slim,
            (base.value + each.difference.ci[0], base.value + each.difference.ci[1]),
        )
        for each in outcomes
    ]


@dataclass(frozen=True)
class L0Result:
    """What a run found.

    Attributes:
        base: the unpruned model.
        outcomes: one for each lambda.
        report: ``l0.json``, its table and its picture.
        facts: on what and how quality was measured.
        seconds: how long it took.
    """

    base: Baseline
    outcomes: tuple[Outcome, ...]
    report: Report
    facts: Mapping[str, Any]
    seconds: float


def l0(run: L0Run, progress: "Progress") -> L0Result:
    """Train, cut and measure for every lambda, and write the run folder.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
        TrainingError: fairseq-train failed.
        Interrupted: Ctrl-C or SIGTERM; what was trained and measured is kept.
    """
    with started(run, progress) as session:
        job = _prepare(run, session.corpora)
        session.note(job.quality.corpus)
        state = session.open_state(_facts(job))
        for remark in job.quality.check_baseline(f"the baseline {run.checkpoint}"):
            progress.note(remark)
        files.make_folder(run.output)
        state.keep_same(_UNPRUNED, {_STATISTICS: job.quality.baseline().statistics})
        outcomes = tuple(_Lambda(job, weight, state, session).outcome() for weight in run.weights)
        return _finish(job, state, outcomes, session)


class _Lambda:
    """One lambda of a run."""

    def __init__(self, job: _Checked, weight: float, state: State, session: Session) -> None:
        self._job, self._run, self._weight, self._state, self._session = job, job.run, weight, state, session
        self._training = job.trainings[weight]
        self._name, self._folder = self._training.name, job.run.folder(weight)

    def outcome(self) -> Outcome:
        """The slim model and its quality; whatever the state holds is not done again."""
        job = self._job
        self._train()
        gated, plan = chosen_checkpoint(self._training.last, best=self._run.best)
        cut = self._cut(gated, plan)
        of_gated, of_cut = (self._measured(name, model) for name, model in (("gated", gated), ("slim", cut)))
        unpruned = job.quality.scored(self._state[_UNPRUNED][_STATISTICS])
        (difference,) = self._run.significance.compare(unpruned, [of_cut])
        return Outcome(
            weight=self._weight,
            folder=str(self._folder),
            checkpoint=str(gated.path),
            plan=plan,
            gated=of_gated.score,
            slim=of_cut.score,
            difference=difference,
            parameters=sum(tensor.numel() for tensor in cut.parameters.values()),
        )

    def _train(self) -> None:
        if f"{self._name}/trained" in self._state:
            return
        if not self._run.resume and self._training.folder.exists():
            shutil.rmtree(self._training.folder)  # fairseq would go on from what another run left
        environment = training_environment(self._run.device, self._run.threads)
        Trainer(self._session.progress, environment).complete(self._training, _WATCHED)
        self._state.add(f"{self._name}/trained", pack({"updates": np.array(0)}))

    def _cut(self, gated: "Checkpoint", plan: Plan) -> "Checkpoint":
        """The slim checkpoint, verified and written with its plan."""
        from nmtprune.evaluate.verify import verify

        cut = slim.apply(plan, gated)
        verify(gated, cut, plan).raise_if_different()
        inputs = self._run.inputs
        record = provenance.collect(checkpoint=str(gated.path), l0_weight=self._weight)
        files.write_text(self._folder / _PLAN, plan.with_provenance(record).to_json(), force=True, inputs=inputs)
        cut.save(self._folder / _SLIM, force=True, provenance={**record, "mode": "cut", "plan": plan.as_json()})
        return cut

    def _measured(self, what: str, model: "Checkpoint") -> "Scored":
        run, key = self._run, f"{self._name}/{what}"
        if key not in self._state:
            own = measure(model, {_DATA: run.data}, run, self._session.corpora)[_DATA]
            self._state.add(key, pack({_STATISTICS: own.baseline().statistics}))
        statistics: NDArray[Any] = self._state[key][_STATISTICS]
        return self._job.quality.scored(statistics)


def _finish(job: _Checked, state: State, outcomes: tuple[Outcome, ...], session: Session) -> L0Result:
    """Write the files."""
    run, quality = job.run, job.quality
    made = session.provenance(
        seed=run.seed,
        checkpoint={"path": str(run.checkpoint), "sha256": job.base.base.sha256},
        data=dict(quality.corpus.inputs),
        fairseq_train={each.name: list(each.command().argv) for each in job.trainings.values()},
    )
    unpruned = quality.scored(state[_UNPRUNED][_STATISTICS])
    parameters = sum(tensor.numel() for tensor in job.base.parameters.values())
    base = Baseline(job.base.architecture, parameters, unpruned.score)
    facts = {"signature": quality.signature, **quality.facts()}
    report = Report(
        json=_l0_file(run.metric, base, outcomes, facts, made).to_json(),
        tsv=tsv(_columns(run.metric, base), _rows(base, outcomes)),
        png=plots.pruned_png(_points(base, outcomes), metric=run.metric, unpruned=base.value),
    )
    report.write(run.outputs, force=True, inputs=run.inputs)
    return L0Result(base, outcomes, report, facts, made["seconds"])
