"""What `l0` is asked for, and everything that can be refused before anything is trained."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from nmtprune.architecture import KINDS, parse_kinds
from nmtprune.data.databin import DataBin
from nmtprune.data.options import TRAINING_SUBSET, DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.prices import Prices
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.trainable import TrainableCheckpoint
from nmtprune.gates import GATED_SORTS, TASK, GateSettings, idle_remark, number_faults
from nmtprune.methods.gate_search import UPDATES
from nmtprune.process import program
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.device import choose_device, training_processes
from nmtprune.runs.l0.gate_schedule import GateSchedule, gate_schedule
from nmtprune.runs.l0.run_folder import CHECKPOINTS, PLAN, SLIM, check_fresh_start, folder_of, l0_report_files
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.run import FolderRun, MeasuringRun
from nmtprune.runs.sorts import kinds_of, parse_sorts
from nmtprune.runs.state import NO_SETTING
from nmtprune.training.fairseq_train import Training
from nmtprune.training.options import ARCH, Options, as_trained, check_given, value_of, with_defaults
from nmtprune.training.planned import planned_updates

CRITERION = "label_smoothed_cross_entropy_l0"
DEFAULT_EPOCHS = 10
"""With which training ends where the user names no end."""

DATA = "data"
HEADS = "heads"

_RESERVED = ("--task", "--criterion", "--l0-weight", "--l0-kinds", "--l0-groups", "--gate-costs")


@dataclass(frozen=True, kw_only=True)
class L0Run(FolderRun, MeasuringRun):
    """What `l0` is given: binarized data to train on, and the sentences on which quality is measured.

    Attributes:
        checkpoint: a converged model, full or slim.
        weights: of the penalty, lambda; one training each.
        gates: options of fairseq-train that say how gates work and what learns, with their values.
        groups: what has gates, heads or neurons or both, comma-separated.
        kinds: of attention, comma-separated; ``encoder`` and ``decoder`` also stand for the neurons of these stacks.
            None for all that the model has.
        search_only: search a plan natively, without training weights.
        search_updates: of the gates in such a search.
        refit: fit the output projections of slim models to the unpruned model.
        best: take the checkpoint with the lowest validation loss among those with the gates of the last one.
        given: options for fairseq-train as the user typed them.
    """

    prints: ClassVar[str] = "table"

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path = field(metadata=NO_SETTING)
    weights: tuple[float, ...] = field(metadata=NO_SETTING)
    gates: Options = field(default=(), metadata=NO_SETTING)
    groups: str = field(default=HEADS, metadata=NO_SETTING)
    kinds: str | None = field(default=None, metadata=NO_SETTING)
    search_only: bool = field(default=False, metadata=NO_SETTING)
    search_updates: int = field(default=UPDATES, metadata=NO_SETTING)
    refit: bool = field(default=False, metadata=NO_SETTING)
    best: bool = False
    given: tuple[str, ...] = field(default=(), metadata=NO_SETTING)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *super().inputs]

    @property
    def outputs(self) -> ReportFiles:
        """Result, table and picture."""
        return l0_report_files(self.output)

    @property
    def written(self) -> list[str]:
        """Names of files in the run folder."""
        return [PLAN] if self.search_only else [*(path.name for path in self.outputs), PLAN, SLIM]

    @property
    def sorts(self) -> tuple[str, ...]:
        """What has gates.

        Raises:
            UsageError: an unknown word, or layers, which have none.
        """
        return parse_sorts(self.groups, "--l0-groups", GATED_SORTS)

    @property
    def heads_alone(self) -> bool:
        """Whether nothing but heads has gates."""
        return self.sorts == (HEADS,)

    @property
    def on_cpu(self) -> bool:
        """Whether trainings have no GPU."""
        return choose_device(self.device).type == "cpu"

    @property
    def trained(self) -> str:
        """Name of the subset on which fairseq-train trains."""
        return value_of(self.given, "--train-subset") or TRAINING_SUBSET

    @property
    def training_text(self) -> DataOptions:
        """What gates and weights learn from: the training set; in a search raw text, where the user names it."""
        if self.search_only and self.data.source is not None:
            return replace(self.data, skip_invalid=True)
        return replace(self.data.training_text(self.trained), join_shards=True)

    def folder(self, weight: float) -> Path:
        """Where the results of a weight lie: the run folder itself where there is only one."""
        return folder_of(self.output, weight, len(self.weights))

    def check_output(self) -> None:
        """Check that the folder is new, empty, or may be written into, and that starting over removes no input."""
        super().check_output()
        if self.force and not self.resume:
            check_fresh_start(self.output, self.inputs)

    def check(self) -> None:
        """Refuse options that no training can have, and what any measuring run refuses."""
        if self.data.data_bin is None and not self.search_only:
            raise UsageError("l0 trains on binarized data: name --data-bin DIR")
        if not self.search_only:
            self.data.check_trains()
        _ = self.sorts
        check_given(self.given, (*ARCH, *_RESERVED, *(option[0] for option in self.gates)))
        bad = [f"{weight:g}" for weight in self.weights if not 0 <= weight < math.inf]
        if bad:
            raise UsageError(f"--l0-weight {', '.join(bad)}: give a number from 0 on")
        if len(set(self.weights)) < len(self.weights):
            weights = ", ".join(f"{weight:g}" for weight in self.weights)
            raise UsageError(f"--l0-weight {weights}: the same weight twice")
        super().check()
        self.significance.resamples_for(1)


@dataclass(frozen=True)
class L0Job:
    """A checked run: everything that can be refused without training has been accepted.

    Attributes:
        run: what the command was given.
        base: the checkpoint from which every training starts.
        quality: on DATA, of the unpruned model.
        kinds: of groups with gates.
        trainings: by weight.
        remarks: on how gates learn, one line each.
    """

    run: L0Run
    base: TrainableCheckpoint
    quality: Quality
    kinds: tuple[str, ...]
    trainings: Mapping[float, Training]
    remarks: tuple[str, ...]


def prepare_l0(run: L0Run, corpora: Corpora) -> L0Job:
    """Check everything that can be wrong with checkpoint and data, the cheapest first."""
    from nmtprune.formats import load

    base = load(run.checkpoint).trainable("with gates: l0 needs fairseq's")
    kinds, learned = gated_kinds(run, base), base.gate_settings
    target = _checked_target(run, base, kinds, learned)
    DataBin(run.data.data_bin or Path()).check_subsets((run.trained,))
    quality = measure(base, {DATA: run.data}, run, corpora)[DATA]
    trainings = {weight: _training(run, base, kinds, weight) for weight in run.weights}
    first, processes = trainings[run.weights[0]], training_processes(run.device)
    schedule = gate_schedule(run.gates, run.given, lambda: planned_updates(first, base, processes), learned)
    trainings = {weight: _scheduled(each, schedule) for weight, each in trainings.items()}
    program("fairseq-train")  # what is not installed shall not show after the first measurement
    idle = idle_remark(run.weights, target)
    return L0Job(run, base, quality, kinds, trainings, (*schedule.remarks, *([idle] if idle else [])))


def _checked_target(run: L0Run, base: Checkpoint, kinds: Sequence[str], learned: GateSettings | None) -> int | None:
    """The number of heads that shall stay open, as given or as the gates of the checkpoint have it; None for any.

    Raises:
        UsageError: so many cannot.
    """
    words = (*(word for option in run.gates for word in option), *run.given)
    known = {"--target-heads": None, "--min-heads-per-module": 0}
    if learned is not None:
        known = {"--target-heads": learned.target_heads, "--min-heads-per-module": learned.min_heads}
    texts = {name: value_of(words, name) or "" for name in known}
    target, least = (int(texts[name]) if texts[name].isdecimal() else own for name, own in known.items())
    faults = number_faults(target, least or 0, gated_heads(base, kinds))
    if faults:
        raise UsageError.of_faults("gates", faults)
    return target


def gated_heads(base: Checkpoint, kinds: Sequence[str]) -> list[int]:
    """Heads of every attention module of some kinds."""
    return [module.heads for module in base.architecture if module.id.kind in kinds]


def gated_kinds(run: L0Run, base: Checkpoint) -> tuple[str, ...]:
    """Kinds of groups whose units get gates."""
    architecture = base.architecture
    if run.heads_alone:
        kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    else:
        kinds = kinds_of(run.sorts, base.base, run.kinds, "--l0-groups")
    if not any(group.units for group in architecture.groups if group.id.kind in kinds):
        raise UsageError(f"{run.checkpoint}: there is no head to put a gate on ({', '.join(kinds) or 'no attention'})")
    return kinds


def _scheduled(training: Training, schedule: GateSchedule) -> Training:
    return replace(training, options=(*training.options, *schedule.options))


def with_gate_costs(job: L0Job, prices: Prices) -> L0Job:
    """The same run, where every gate weighs what its units cost.

    Args:
        job: with neurons among what has gates.
        prices: multiply-accumulates of the units.
    """
    costs = relative_costs(job.base, job.kinds, prices)
    option = ("--gate-costs", ",".join(f"{kind}={cost!r}" for kind, cost in costs.items()))
    trainings = {weight: replace(each, options=(*each.options, option)) for weight, each in job.trainings.items()}
    return replace(job, trainings=trainings)


def relative_costs(base: Checkpoint, kinds: Sequence[str], prices: Prices) -> dict[str, float]:
    """What a unit of every kind costs, relative to the average head of these kinds, or of the model without any."""
    groups = [group for group in base.architecture.groups if group.id.kind in kinds]
    heads = [module for module in base.architecture.modules if module.id.kind in kinds] or base.architecture.modules
    count = sum(module.heads for module in heads)
    average = sum(prices.of_group(module.id, {}) * module.heads for module in heads) / count if count else 1.0
    return {
        kind: statistics.fmean(prices.of_group(group.id, {}) for group in groups if group.id.kind == kind) / average
        for kind in kinds
    }


def l0_facts(job: L0Job) -> dict[str, Any]:
    """What the state belongs to besides the options of `l0`; other options are among the words of fairseq-train."""
    return {
        "model": job.base.base.sha256,
        **({"refit": True} if job.run.refit else {}),
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
    groups: Options = () if run.heads_alone else (("--l0-groups", ",".join(run.sorts)),)
    attention = [kind for kind in KINDS if kind in {each.partition("-")[0] for each in kinds}]
    options = (
        *(("--task", TASK), ("--criterion", CRITERION), ("--l0-weight", repr(weight))),
        *(*groups, ("--l0-kinds", ",".join(attention)), *run.gates),
        *with_defaults(defaults, run.given),
    )
    return Training(
        name=f"l0-weight-{weight:g}",
        title=f"Train gates with lambda {weight:g}",
        data_bin=run.data.data_bin or Path(),
        start=run.checkpoint,
        folder=folder / CHECKPOINTS,
        options=options,
        given=run.given,
        on_cpu=run.on_cpu,
    )
