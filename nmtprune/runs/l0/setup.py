"""What `l0` is asked for, and everything that can be wrong with it before long work begins."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.architecture import parse_kinds
from nmtprune.data.databin import DataBin
from nmtprune.data.options import TRAINING_SUBSET, DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.runs import run_folder
from nmtprune.runs.device import choose_device
from nmtprune.runs.l0 import results
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.run import MeasureSettings
from nmtprune.runs.steps import program
from nmtprune.runs.training import Training
from nmtprune.runs.training_options import ARCH, Options, as_trained, check_given, value_of, with_defaults

if TYPE_CHECKING:
    from nmtprune.formats.trainable import TrainableCheckpoint

TASK, CRITERION = "translation_l0", "label_smoothed_cross_entropy_l0"
DEFAULT_EPOCHS = 10
"""With which training ends where the user names no end."""

_RESERVED = ("--task", "--criterion", "--l0-weight")


@dataclass(frozen=True)
class L0Run:
    """What `l0` is asked for.

    Attributes:
        checkpoint: a converged model, full or slim.
        data: binarized data to train on, and the sentences on which quality is measured.
        output: the run folder.
        weights: of the penalty, lambda; one training each.
        gates: options of fairseq-train that say how gates work and what learns, with their values.
        kinds: comma-separated; None for all that the model has.
        best: take the checkpoint with the lowest validation loss among those with the gates of the last one.
        given: options for fairseq-train as the user typed them.
        measure: metric, engine and search.
        significance: how differences are tested.
        resume: go on where an interrupted run stopped.
        force: start over in a folder that is not empty.
    """

    checkpoint: Path
    data: DataOptions
    output: Path
    weights: tuple[float, ...]
    gates: Options
    kinds: str | None
    best: bool
    given: tuple[str, ...]
    measure: MeasureSettings
    significance: SignificanceTest
    resume: bool
    force: bool

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *self.data.texts]

    def folder(self, weight: float) -> Path:
        """Where the results of a weight lie: the run folder itself where there is only one."""
        return self.output if len(self.weights) == 1 else self.output / f"l0-weight-{weight:g}"


@dataclass(frozen=True)
class Job:
    """A checked run: everything that can be refused without training has been accepted.

    Attributes:
        run: what was asked for.
        base: the checkpoint from which every training starts.
        measure: quality on DATA, of the unpruned model.
        trainings: by weight.
        settings: what the state belongs to.
    """

    run: L0Run
    base: "TrainableCheckpoint"
    measure: Quality
    trainings: Mapping[float, Training]
    settings: Mapping[str, Any]


def prepare(run: L0Run) -> Job:
    """Check everything that can be wrong, the cheapest first.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data.
    """
    from nmtprune.formats import load

    _check_options(run)
    run.measure.check_settings()
    run.significance.resamples_for(1)
    names = [*(path.name for path in ReportFiles.beside(run.output / results.JSON)), results.PLAN, results.SLIM]
    run_folder.check(run.output, names, resume=run.resume, force=run.force, inputs=run.inputs)
    base = load(run.checkpoint).trainable("with gates: l0 needs fairseq's")
    kinds = base.architecture.kinds if run.kinds is None else parse_kinds(run.kinds, base.architecture)
    if not base.architecture.head_ids(kinds):
        raise UsageError(f"{run.checkpoint}: there is no head to put a gate on ({', '.join(kinds) or 'no attention'})")
    trained = value_of(run.given, "--train-subset") or TRAINING_SUBSET
    DataBin(run.data.data_bin or Path()).check_subsets((trained,))
    own = measure(base, {results.DATA: run.data}, run.measure)[results.DATA]
    trainings = {weight: _training(run, base, kinds, weight) for weight in run.weights}
    program("fairseq-train")  # what is not installed shall not show after the first measurement
    words = [" ".join(each.words) for each in trainings.values()]
    settings = {
        "model": base.base.sha256,
        **run.measure.settings(),
        **own.identity(),
        "fairseq-train": words,
        "--threads": run.measure.threads if choose_device(run.measure.device).type == "cpu" else None,
        **{"--best": run.best, "--resamples": run.significance.resamples, "--alpha": run.significance.alpha},
        "--seed": run.significance.seed,
    }
    return Job(run, base, own, trainings, settings)


def _check_options(run: L0Run) -> None:
    if str(run.output) == "-":
        raise UsageError("-o -: a run has many files: name a folder (--format json prints the table too)")
    if run.data.data_bin is None:
        raise UsageError("l0 trains on binarized data: name --data-bin DIR")
    check_given(run.given, (*ARCH, *_RESERVED, "--l0-kinds", *(option[0] for option in run.gates)))
    bad = [weight for weight in run.weights if not 0 <= weight < math.inf]
    if bad:
        raise UsageError(f"--l0-weight {', '.join(f'{weight:g}' for weight in bad)}: give a number from 0 on")
    if len(set(run.weights)) < len(run.weights):
        raise UsageError(f"--l0-weight {', '.join(f'{weight:g}' for weight in run.weights)}: the same weight twice")


def _training(run: L0Run, base: "TrainableCheckpoint", kinds: Sequence[str], weight: float) -> Training:
    smoothing = base.label_smoothing()
    # A run with --best chooses among the checkpoints of all epochs.
    saved: Options = () if run.best else (("--no-epoch-checkpoints",),)
    defaults = (
        *as_trained(base),
        *(("--label-smoothing", repr(smoothing)), ("--seed", str(run.significance.seed))),
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
        folder=folder / results.CHECKPOINTS,
        options=options,
        given=run.given,
        on_cpu=choose_device(run.measure.device).type == "cpu",
    )
