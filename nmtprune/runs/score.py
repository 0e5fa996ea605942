"""`score`: mask heads one at a time and test what that changes (Michel et al. 2019, section 3).

The work unit is a module, whose heads share much, or a part of it where a head takes long: the state is kept after
each. Units are dealt to the processes of the run one by one; each process translates with the full model first, which
fixes the drafts and batches that every unit starts from, so that a result depends neither on the number of processes
nor on what was resumed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import AttentionModule, HeadId, parse_kinds
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.evaluate.metrics import Scored
from nmtprune.runs import results
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.results import ABLATE, ALL_BUT_ONE, Measured, Mode, best_head
from nmtprune.runs.run import MeasuringRun, ReportRun, Session, started
from nmtprune.runs.state import NO_SETTING, State, pack
from nmtprune.runs.workers import Collector, Unit, of_best_heads, units
from nmtprune.scores import HeldOut, Scores

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

_BASELINE = "baseline"
_DEV, _TEST = "dev", "test"


@dataclass(frozen=True, kw_only=True)
class ScoreRun(ReportRun, MeasuringRun):
    """What `score` is given.

    Attributes:
        checkpoint: the model.
        test_data: sentences on which the best head of each module is reported, with `all_but_one`.
        all_but_one: mask all heads of a module except one, instead of one.
        kinds: comma-separated; None for all that the model has.
    """

    checkpoint: Path = field(metadata=NO_SETTING)
    test_data: DataOptions | None = field(default=None, metadata=NO_SETTING)
    all_but_one: bool = False
    kinds: str | None = None

    @property
    def mode(self) -> Mode:
        """As the score file names it."""
        return ALL_BUT_ONE if self.all_but_one else ABLATE

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        sets = [self.data] if self.test_data is None else [self.data, self.test_data]
        return [self.checkpoint, *(path for data in sets for path in data.texts)]

    def check(self) -> None:
        """Refuse test data without `all_but_one`, and what any measuring run refuses."""
        super().check()
        if self.test_data is not None and not self.all_but_one:
            raise UsageError(
                "test data goes with --all-but-one: the best head of a module is chosen on DATA and tested there"
            )


@dataclass(frozen=True)
class _Checked:
    """A checked run: everything that can be refused has been accepted."""

    run: ScoreRun
    checkpoint: "Checkpoint"
    modules: tuple[AttentionModule, ...]
    measures: Mapping[str, Quality]

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
    with started(run, progress, shared=True) as session:
        job = _prepare(run, session)
        state = session.open_state(_facts(job)) if session.leads else None
        _work(job, session)
        if state is None:
            return None
        scores = _assemble(job, state, session)
        results.report(scores).write(run.outputs, force=run.force, inputs=run.inputs)
        state.remove()
    return scores


def _prepare(run: ScoreRun, session: Session) -> _Checked:
    """Check everything that can be wrong, the cheapest first."""
    from nmtprune.formats import load

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
    measures = measure(checkpoint, sets, run, session.corpora)
    for part in measures.values():
        session.note(part.corpus)
    return _Checked(run, checkpoint, modules, measures)


def _facts(job: _Checked) -> dict[str, Any]:
    """What the results depend on besides the options."""
    facts = {
        "model": job.checkpoint.base.as_json()["sha256"],
        "--kinds": sorted({module.id.kind for module in job.modules}),
    }
    for name, part in job.measures.items():
        facts |= {f"{name} {key}": value for key, value in part.identity().items()}
    return facts


def _work(job: _Checked, session: Session) -> None:
    """Compute the units that are not done; the leader collects them into the state."""
    own, state = session.processes, session.state
    done = set(own.share("done", list(state.units) if state else None))
    left = [unit for unit in job.units if unit.key not in done]
    if not left and _TEST not in job.measures:
        return
    baseline = {name: part.baseline().statistics for name, part in job.measures.items()}
    if state is not None:
        for part in job.measures.values():
            for remark in part.check_baseline(f"the baseline {job.run.checkpoint}"):
                session.progress.note(remark)
        state.keep_same(_BASELINE, baseline)
    _stage(job, session, left)
    if _TEST in job.measures:
        best = own.share("best", None if state is None else _best_heads(job, state))
        tested = [unit for unit in of_best_heads(_TEST, job.modules, best) if unit.key not in done]
        _stage(job, session, tested)


def _stage(job: _Checked, session: Session, left: Sequence[Unit]) -> None:
    """Compute some units."""
    if not left:
        return
    stage = "heads" if left[0].data == _DEV else "best heads on the test data"
    collector = Collector(session.processes, session.state, stage, left, session.progress)
    for number in session.processes.deal(left[0].data, len(left)):
        unit = left[number]
        collector.add(unit, pack({"statistics": _statistics(job, unit)}))
    collector.wait()


def _best_heads(job: _Checked, state: State) -> dict[str, int]:
    """The head of each module that does best alone on the development set."""
    masked = _measured(job, state, _DEV, job.units).masked
    return {str(module.id): best_head(module.id, masked).head for module in job.modules}


def _statistics(job: _Checked, unit: Unit) -> NDArray[Any]:
    """Statistics of a unit's heads, [heads, sentences, stats]."""
    found = job.measures[unit.data].unit(unit, alone=job.run.all_but_one)
    return np.stack([scored.statistics for scored in found])


def _assemble(job: _Checked, state: State, session: Session) -> Scores:
    """The score file from all units."""
    run, mode = job.run, job.run.mode
    session.progress.begin("resampling", 1)
    dev = _measured(job, state, _DEV, job.units)
    test = None
    if _TEST in job.measures:
        held_out = _measured(job, state, _TEST, of_best_heads(_TEST, job.modules, _best_heads(job, state)))
        test = HeldOut(baseline=held_out.describe(run.significance), heads=held_out.scores(run.significance, mode))
    return Scores(
        metric=run.metric,
        mode=mode,
        baseline=dev.describe(run.significance),
        heads=dev.scores(run.significance, mode),
        test=test,
        base=job.checkpoint.base,
        provenance=session.provenance(
            seed=run.seed,
            checkpoint=str(run.checkpoint),
            data={path: sha for part in job.measures.values() for path, sha in part.corpus.inputs.items()},
        ),
    )


def _measured(job: _Checked, state: State, name: str, done: Iterable[Unit]) -> Measured:
    """What the state holds of one set of sentences."""
    part = job.measures[name]
    masked: dict[HeadId, Scored] = {}
    for unit in done:
        statistics = state[unit.key]["statistics"]
        for head, own in zip(unit.heads, statistics, strict=True):
            masked[HeadId(unit.module.id, head)] = part.scored(own)
    return Measured(part.scored(state[_BASELINE][name]), masked, part.facts())
