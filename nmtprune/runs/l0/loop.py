"""`l0`: train gates on a converged model, cut the heads whose gates have closed, and measure what is left.

Voita et al. 2019, section 6; Shim et al. 2021, sections 3.2 and 3.3. The state is written after each stage of a lambda;
fairseq-train goes on from its own last checkpoint.
"""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune import files, plots, provenance, slim
from nmtprune.architecture import KINDS
from nmtprune.plan import Plan
from nmtprune.runs import run_folder
from nmtprune.runs.collect import termination_as_interrupt
from nmtprune.runs.device import choose_device, training_environment
from nmtprune.runs.l0 import results
from nmtprune.runs.l0.gated import chosen_checkpoint, load_gated
from nmtprune.runs.l0.results import Baseline, Outcome
from nmtprune.runs.l0.setup import Job, L0Run, prepare
from nmtprune.runs.measure import measure
from nmtprune.runs.report import Report, ReportFiles, tsv
from nmtprune.runs.state import Interrupted, State, pack
from nmtprune.runs.steps import StepFailed, run_step
from nmtprune.runs.training_bar import TrainingBar

if TYPE_CHECKING:
    from nmtprune.evaluate.metrics import Scored
    from nmtprune.formats.base import Checkpoint
    from nmtprune.runs.progress import Progress

_STATISTICS, _UNPRUNED = "statistics", "unpruned"
_WATCHED = ("open_heads", *(f"open_{kind}" for kind in KINDS))


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
    started = time.monotonic()
    with termination_as_interrupt():
        job = prepare(run)
        for note in job.measure.corpus.notes:
            progress.note(f"{job.measure.corpus.name}: {note}")
        state = State.open(run_folder.state_path(run.output), job.settings, resume=run.resume)
        try:
            for remark in job.measure.check_baseline(f"the baseline {run.checkpoint}"):
                progress.note(remark)
            run_folder.create(run.output)
            state.keep_same(_UNPRUNED, {_STATISTICS: job.measure.baseline().statistics})
            outcomes = tuple(_Lambda(job, weight, state, progress).outcome() for weight in run.weights)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted: what was trained and measured is kept in {run.output}; the same command with --resume "
                "goes on"
            ) from None
        return _finish(job, state, outcomes, started)


class _Lambda:
    """One lambda of a run."""

    def __init__(self, job: Job, weight: float, state: State, progress: "Progress") -> None:
        self._job, self._weight, self._state, self._progress = job, weight, state, progress
        self._training = job.trainings[weight]
        self._name, self._folder = self._training.name, job.run.folder(weight)

    def outcome(self) -> Outcome:
        """The slim model and its quality; whatever the state holds is not done again."""
        job = self._job
        self._train()
        path = chosen_checkpoint(self._training.last, best=job.run.best)
        gated, plan = load_gated(path)
        cut = self._cut(gated, plan)
        of_gated, of_cut = (self._measured(name, model) for name, model in (("gated", gated), ("slim", cut)))
        unpruned = job.measure.scored(self._state[_UNPRUNED][_STATISTICS])
        (difference,) = job.run.significance.compare(unpruned, [of_cut])
        return Outcome(
            weight=self._weight,
            folder=str(self._folder),
            checkpoint=str(path),
            plan=plan,
            gated=of_gated.score,
            slim=of_cut.score,
            difference=difference,
            parameters=sum(tensor.numel() for tensor in cut.parameters.values()),
        )

    def _train(self) -> None:
        if f"{self._name}/trained" in self._state:
            return
        run_folder.create(self._folder)
        if not self._job.run.resume and self._training.folder.exists():
            shutil.rmtree(self._training.folder)  # fairseq would go on from what another run left
        repaired = self._training.repair()
        if repaired:
            self._progress.note(repaired)
        log = self._training.next_log()
        bar = TrainingBar(self._progress, self._training.title)
        bar.call()
        measured = self._job.run.measure
        environment = training_environment(measured.device, measured.threads)
        try:
            run_step(self._training.step(_WATCHED), log, bar, environment)
        except StepFailed as failed:
            raise type(failed.reason)(f"{failed.reason}; all that it said is in {log}") from None
        self._state.add(f"{self._name}/trained", pack({"updates": np.array(0)}))

    def _cut(self, gated: "Checkpoint", plan: Plan) -> "Checkpoint":
        """The slim checkpoint, verified and written with its plan."""
        from nmtprune.evaluate.verify import verify

        cut = slim.apply(plan, gated)
        verify(gated, cut, plan).raise_if_different()
        inputs = self._job.run.inputs
        record = provenance.collect(checkpoint=str(gated.path), l0_weight=self._weight)
        files.write_text(self._folder / results.PLAN, plan.with_provenance(record).to_json(), force=True, inputs=inputs)
        cut.save(self._folder / results.SLIM, force=True, provenance={**record, "mode": "cut", "plan": plan.as_json()})
        return cut

    def _measured(self, what: str, model: "Checkpoint") -> "Scored":
        run, key = self._job.run, f"{self._name}/{what}"
        if key not in self._state:
            own = measure(model, {results.DATA: run.data}, run.measure)[results.DATA]
            self._state.add(key, pack({_STATISTICS: own.baseline().statistics}))
        statistics: NDArray[Any] = self._state[key][_STATISTICS]
        return self._job.measure.scored(statistics)


def _finish(job: Job, state: State, outcomes: tuple[Outcome, ...], started: float) -> L0Result:
    """Write the files."""
    run = job.run
    seconds = round(time.monotonic() - started, 3)
    made = provenance.collect(
        seed=run.significance.seed,
        checkpoint={"path": str(run.checkpoint), "sha256": job.base.base.sha256},
        data=dict(job.measure.corpus.inputs),
        fairseq_train={each.name: list(each.step().argv) for each in job.trainings.values()},
        seconds=seconds,
        device=str(choose_device(run.measure.device)),
    )
    unpruned = job.measure.scored(state[_UNPRUNED][_STATISTICS])
    parameters = sum(tensor.numel() for tensor in job.base.parameters.values())
    base = Baseline(job.base.architecture, parameters, unpruned.score)
    metric, facts = run.measure.metric, {"signature": job.measure.signature, **job.measure.facts()}
    report = Report(
        json=results.l0_file(metric, base, outcomes, facts, made).to_json(),
        tsv=tsv(results.columns(metric, base), results.rows(base, outcomes)),
        png=plots.pruned_png(results.points(base, outcomes), metric=metric, unpruned=base.value),
    )
    report.write(ReportFiles.beside(run.output / results.JSON), force=True, inputs=run.inputs)
    return L0Result(base, outcomes, report, facts, seconds)
