"""`score`: mask heads one at a time and test what that changes (Michel et al. 2019, section 3).

The work unit is a module, whose heads share much, or a part of it where a head takes long: the state is kept after
each. Units are dealt to the processes of the run one by one; each process translates with the full model first, which
fixes the drafts and batches that every unit starts from, so that a result depends neither on the number of processes
nor on what was resumed.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune import files, provenance
from nmtprune.architecture import AttentionModule, HeadId, parse_kinds
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.metrics import Scored
from nmtprune.runs import results
from nmtprune.runs.collect import Collector, termination_as_interrupt
from nmtprune.runs.device import choose_device
from nmtprune.runs.measure import Measure, MeasureSettings, check_metric_options, measure
from nmtprune.runs.processes import Processes, processes
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.results import ABLATE, ALL_BUT_ONE, Measured, Mode, best_head
from nmtprune.runs.state import Interrupted, State, check_state, pack, state_path
from nmtprune.runs.units import Unit, of_best_heads, units
from nmtprune.scores import HeldOut, Scores

if TYPE_CHECKING:
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.formats.base import Checkpoint
    from nmtprune.runs.progress import Progress

_BASELINE = "baseline"
_DEV, _TEST = "dev", "test"


@dataclass(frozen=True)
class ScoreRun:
    """What `score` is asked for.

    Attributes:
        checkpoint: the model.
        data: sentences on which heads are scored.
        test_data: sentences on which the best head of each module is reported, with `all_but_one`.
        output: the score file; tables and pictures go beside it.
        measure: metric, engine and search.
        all_but_one: mask all heads of a module but one, instead of one.
        kinds: comma-separated; None for all that the model has.
        significance: how differences are tested.
        resume: go on where an interrupted run stopped.
        force: replace outputs, start over.
    """

    checkpoint: Path
    data: DataOptions
    test_data: DataOptions | None
    output: Path
    measure: MeasureSettings
    all_but_one: bool
    kinds: str | None
    significance: "SignificanceTest"
    resume: bool
    force: bool

    @property
    def mode(self) -> Mode:
        """As the score file names it."""
        return ALL_BUT_ONE if self.all_but_one else ABLATE

    @property
    def outputs(self) -> ReportFiles:
        """The files that are written."""
        return ReportFiles.beside(self.output)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        sets = [self.data] if self.test_data is None else [self.data, self.test_data]
        return [self.checkpoint, *(path for data in sets for path in data.texts)]


@dataclass(frozen=True)
class _Job:
    """A checked run: everything that can be refused has been accepted."""

    run: ScoreRun
    checkpoint: "Checkpoint"
    modules: tuple[AttentionModule, ...]
    measures: Mapping[str, Measure]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """The heads to score, as they are computed together."""
        parameters = sum(tensor.numel() for tensor in self.checkpoint.model_tensors.values())
        together = self.measures[_DEV].heads_together(self.checkpoint.architecture, parameters)
        return tuple(units(_DEV, self.modules, together))

    @property
    def heads(self) -> tuple[HeadId, ...]:
        return tuple(HeadId(module.id, head) for module in self.modules for head in range(module.heads))


def score(run: ScoreRun, progress: "Progress") -> Scores | None:
    """Score every head and write the files; None in processes that do not lead.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
    """
    started = time.monotonic()
    own = processes()
    with own.ending_together(), termination_as_interrupt():
        job = _prepare(run, progress)
        state = State.open(state_path(run.output), _settings(job), resume=run.resume) if own.leads else None
        try:
            _work(job, own, state, progress)
            if state is None:
                own.finish()
                return None
            scores = _assemble(job, state, time.monotonic() - started, progress)
            results.report(scores).write(run.outputs, force=run.force, inputs=run.inputs)
        except KeyboardInterrupt:
            raise _interrupted(job, state) from None
        state.remove()
        own.finish()
    return scores


def _prepare(run: ScoreRun, progress: "Progress") -> _Job:
    """Check everything that can be wrong, the cheapest first."""
    from nmtprune.formats import load

    _check_options(run)
    for output in run.outputs:
        files.check_output(output, force=run.force, inputs=run.inputs)
    check_state(run.output, resume=run.resume, force=run.force)
    checkpoint = load(run.checkpoint)
    architecture = checkpoint.architecture
    kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    modules = tuple(module for module in architecture if module.id.kind in kinds and module.heads)
    if not modules:
        raise UsageError(f"{run.checkpoint}: there is no head to score ({', '.join(kinds) or 'the model has none'})")
    run.significance.resamples_for(sum(module.heads for module in modules))
    sets = {_DEV: run.data} | ({_TEST: run.test_data} if run.test_data else {})
    if run.test_data:
        run.significance.resamples_for(len(modules))
    measures = measure(checkpoint, sets, run.measure)
    for part in measures.values():
        for note in part.corpus.notes:
            progress.note(f"{part.corpus.name}: {note}")
    return _Job(run, checkpoint, modules, measures)


def _check_options(run: ScoreRun) -> None:
    check_metric_options(run.measure)
    if run.test_data is not None and not run.all_but_one:
        raise UsageError(
            "test data goes with --all-but-one: the best head of a module is chosen on DATA and tested there"
        )
    if str(run.output) == "-":
        raise UsageError("-o -: the run keeps its state beside the output: name a file (--format json prints it too)")


def _settings(job: _Job) -> dict[str, Any]:
    """What the results depend on, by the names that the user knows."""
    run = job.run
    test = run.significance
    settings: dict[str, Any] = {
        "model": job.checkpoint.base.as_json()["sha256"],
        "--all-but-one": run.all_but_one,
        "--kinds": sorted({module.id.kind for module in job.modules}),
        **run.measure.as_settings(),
        "--resamples": test.resamples,
        "--correction": test.correction,
        "--alpha": test.alpha,
        "--seed": test.seed,
    }
    for name, part in job.measures.items():
        settings |= {f"{name} {key}": value for key, value in part.identity().items()}
    return settings


def _work(job: _Job, own: Processes, state: State | None, progress: "Progress") -> None:
    """Compute the units that are not done; the leader collects them into the state."""
    done = set(own.share("done", list(state.units) if state else None))
    left = [unit for unit in job.units if unit.key not in done]
    if not left and _TEST not in job.measures:
        return
    baseline = {name: part.baseline().statistics for name, part in job.measures.items()}
    if state is not None:
        for part in job.measures.values():
            for remark in part.check_baseline(f"the baseline {job.run.checkpoint}"):
                progress.note(remark)
        state.keep_same(_BASELINE, baseline)
    _stage(job, own, state, left, progress)
    if _TEST in job.measures:
        best = own.share("best", None if state is None else _best_heads(job, state))
        tested = [unit for unit in of_best_heads(_TEST, job.modules, best) if unit.key not in done]
        _stage(job, own, state, tested, progress)


def _stage(job: _Job, own: Processes, state: State | None, left: Sequence[Unit], progress: "Progress") -> None:
    """Compute some units."""
    if not left:
        return
    stage = "heads" if left[0].data == _DEV else "best heads on the test data"
    collector = Collector(own, state, stage, left, progress)
    for number in own.deal(left[0].data, len(left)):
        unit = left[number]
        collector.add(unit, pack({"statistics": _statistics(job, unit)}))
    collector.wait()


def _best_heads(job: _Job, state: State) -> dict[str, int]:
    """The head of each module that does best alone on the development set."""
    masked = _measured(job, state, _DEV, job.units).masked
    return {str(module.id): best_head(module.id, masked).head for module in job.modules}


def _statistics(job: _Job, unit: Unit) -> NDArray[Any]:
    """Statistics of a unit's heads, [heads, sentences, stats]."""
    found = job.measures[unit.data].unit(unit, alone=job.run.all_but_one)
    return np.stack([scored.statistics for scored in found])


def _assemble(job: _Job, state: State, seconds: float, progress: "Progress") -> Scores:
    """The score file from all units."""
    run, mode = job.run, job.run.mode
    progress.begin("resampling", 1)
    dev = _measured(job, state, _DEV, job.units)
    test = None
    if _TEST in job.measures:
        held_out = _measured(job, state, _TEST, of_best_heads(_TEST, job.modules, _best_heads(job, state)))
        test = HeldOut(baseline=held_out.describe(run.significance), heads=held_out.scores(run.significance, mode))
    return Scores(
        metric=run.measure.metric,
        mode=mode,
        baseline=dev.describe(run.significance),
        heads=dev.scores(run.significance, mode),
        test=test,
        base=job.checkpoint.base,
        provenance=provenance.collect(
            seed=run.significance.seed,
            checkpoint=str(run.checkpoint),
            data={path: sha for part in job.measures.values() for path, sha in part.corpus.inputs.items()},
            seconds=round(seconds, 3),
            device=str(choose_device(run.measure.device)),
        ),
    )


def _measured(job: _Job, state: State, name: str, done: Iterable[Unit]) -> Measured:
    """What the state holds of one set of sentences."""
    part = job.measures[name]
    masked: dict[HeadId, Scored] = {}
    for unit in done:
        statistics = state[unit.key]["statistics"]
        for head, own in zip(unit.heads, statistics, strict=True):
            masked[HeadId(unit.module.id, head)] = part.scored(own)
    return Measured(part.scored(state[_BASELINE][name]), masked, part.facts())


def _interrupted(job: _Job, state: State | None) -> Interrupted:
    kept = 0 if state is None else sum(len(unit.heads) for unit in job.units if unit.key in state)
    where = state_path(job.run.output)
    return Interrupted(
        f"interrupted: {kept} of {len(job.heads)} heads are kept in {where}; the same command with --resume goes on"
    )
