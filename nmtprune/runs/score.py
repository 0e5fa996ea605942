"""`score`: what every head is worth.

Scorers that mask heads measure the model without one head at a time, and every difference is tested (Michel et al.
2019, section 3). The work unit is a module, whose heads share much, or a part of it where a head takes long: the state
is kept after each. Units are dealt to the processes of the run one by one; each process translates with the full model
first, which fixes the drafts and batches that every unit starts from, so that a result depends neither on the number of
processes nor on what was resumed. All other scorers take one pass over the sentences, and are not tested.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nmtprune import plots
from nmtprune.architecture import AttentionModule, GroupId, UnitId, parse_kinds
from nmtprune.budget import Limits
from nmtprune.data.options import DataOptions
from nmtprune.errors import EngineError, UsageError
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.methods.scorer import Scorer
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.report import Cell, Report, tsv
from nmtprune.runs.run import MeasuringRun, ReportRun, Session, started
from nmtprune.runs.scorers import SCORERS
from nmtprune.runs.state import NO_SETTING, State, pack, settings_of
from nmtprune.runs.subject import NativeModel, open_subject
from nmtprune.runs.workers import Collector, Unit, of_best_heads, units
from nmtprune.scores import HeadScore, HeldOut, Scores

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

Mode = Literal["ablate", "all-but-one"]

ABLATE: Mode = "ablate"
ALL_BUT_ONE: Mode = "all-but-one"

_COLUMNS = (
    "data", "head", "kind", "layer", "index", "score", "delta", "ci_low", "ci_high", "p", "p_corrected",
    "p_sacrebleu", "significant",
)  # fmt: skip
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
        options: of the scorer; None for their defaults.
    """

    checkpoint: Path = field(metadata=NO_SETTING)
    test_data: DataOptions | None = field(default=None, metadata=NO_SETTING)
    all_but_one: bool = False
    kinds: str | None = None
    options: Any = field(default=None, metadata=NO_SETTING)

    @cached_property
    def scorer(self) -> Scorer[Any]:
        """What scores the heads."""
        return SCORERS[self.metric](self.options)

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
        """Refuse test data without `all_but_one`, an engine that cannot score, and what any measuring run refuses."""
        super().check()
        if self.engine != "native" and not (self.scorer.masks or self.scorer.needs.search):
            raise EngineError(
                f"the engine {self.engine} measures no {self.metric}: --metric {self.metric} runs on --engine native"
            )
        if self.test_data is not None and not self.all_but_one:
            raise UsageError(
                "test data goes with --all-but-one: the best head of a module is chosen on DATA and tested there"
            )


def score(run: ScoreRun, progress: "Progress") -> Scores | None:
    """Score every head and write the files; None in processes that do not lead.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
    """
    with started(run, progress, shared=True) as session:
        if run.scorer.masks:
            scores = _by_masking(run, session)
        else:
            scores = _in_one_pass(run, session) if session.leads else None
        if scores is not None:
            report(scores).write(run.outputs, force=run.force, inputs=run.inputs)
        if session.state is not None:
            session.state.remove()
    return scores


def _open(run: ScoreRun) -> "tuple[Checkpoint, tuple[AttentionModule, ...]]":
    """The checkpoint, and its modules of the selected kinds that have heads."""
    from nmtprune.formats import load

    checkpoint = load(run.checkpoint)
    architecture = checkpoint.architecture
    kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    modules = tuple(module for module in architecture if module.id.kind in kinds and module.heads)
    if not modules:
        raise UsageError(f"{run.checkpoint}: there is no head to score ({', '.join(kinds) or 'the model has none'})")
    return checkpoint, modules


def _in_one_pass(run: ScoreRun, session: Session) -> Scores:
    """Scores that need no masking, and no test."""
    checkpoint, modules = _open(run)
    scorer = run.scorer
    subject = open_subject(scorer, NativeModel(checkpoint, run), run.data, run.seed, session.corpora)
    session.note(subject.corpus)
    session.progress.begin(run.metric, 1)
    limits = Limits(tuple(dict.fromkeys(module.id.kind for module in modules)))
    measured = scorer.scores(subject, None, limits)
    found, details = scorer.ranked(measured, measured), scorer.details(subject)
    heads = [UnitId(module.id, head) for module in modules for head in range(module.heads)]
    return Scores(
        metric=run.metric,
        mode=ABLATE,
        baseline=subject.facts(scorer),
        heads=tuple(
            HeadScore(
                head=str(head),
                score=found[head],
                details={name: values[head] for name, values in details.items()} or None,
            )
            for head in heads
        ),
        base=checkpoint.base,
        provenance=session.provenance(
            seed=run.seed if scorer.uses_seed else None,
            checkpoint=str(run.checkpoint),
            data=dict(subject.corpus.inputs),
        ),
    )


@dataclass(frozen=True)
class _Measured:
    """What a metric says of the full model and of models with heads masked, on one set of sentences.

    Attributes:
        baseline: the full model.
        masked: by head: the model without it, or without the others of its module.
        facts: how and on what it was measured, JSON values.
    """

    baseline: Scored
    masked: Mapping[UnitId, Scored]
    facts: Mapping[str, Any]

    def describe(self, test: SignificanceTest) -> dict[str, Any]:
        """The `baseline` object of a score file."""
        metric = self.baseline.metric
        significance = {
            "method": test.method,
            "resamples": test.resamples_for(len(self.masked)),
            "seed": test.seed,
            "alpha": test.alpha,
            "correction": test.correction,
        }
        value = metric.sign * self.baseline.score
        return {"value": value, "signature": metric.signature, **self.facts, "significance": significance}

    def scores(self, test: SignificanceTest, mode: Mode) -> tuple[HeadScore, ...]:
        """Score, delta and significance of every head (Michel et al. 2019, sections 3.2 and 3.3)."""
        heads = sorted(self.masked)
        differences = test.compare(self.baseline, [self.masked[head] for head in heads])
        # Without the head things should get worse, with it alone they should not.
        sign = self.baseline.metric.sign * (1 if mode == ALL_BUT_ONE else -1)
        return tuple(
            HeadScore(
                head=str(head),
                score=sign * found.delta + 0.0,
                delta=found.delta + 0.0,
                ci=found.ci,
                p=found.p,
                p_corrected=found.p_corrected,
                p_sacrebleu=found.p_sacrebleu,
            )
            for head, found in zip(heads, differences, strict=True)
        )


@dataclass(frozen=True)
class _Checked:
    """A run that masks heads; everything that can be refused has been accepted."""

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
    def heads(self) -> tuple[UnitId, ...]:
        return tuple(UnitId(module.id, head) for module in self.modules for head in range(module.heads))


def _by_masking(run: ScoreRun, session: Session) -> Scores | None:
    """Scores from the model with heads masked, with their tests; None in processes that do not lead."""
    job = _prepare(run, session)
    state = session.open_state(_facts(job)) if session.leads else None
    _work(job, session)
    return None if state is None else _assemble(job, state, session)


def _prepare(run: ScoreRun, session: Session) -> _Checked:
    """Check everything that can be wrong, the cheapest first."""
    checkpoint, modules = _open(run)
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
        **settings_of(job.run.scorer.options),
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
    return {str(module.id): _best_head(module.id, masked).number for module in job.modules}


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


def _measured(job: _Checked, state: State, name: str, done: Iterable[Unit]) -> _Measured:
    """What the state holds of one set of sentences."""
    part = job.measures[name]
    masked: dict[UnitId, Scored] = {}
    for unit in done:
        statistics = state[unit.key]["statistics"]
        for head, own in zip(unit.heads, statistics, strict=True):
            masked[UnitId(unit.module.id, head)] = part.scored(own)
    return _Measured(part.scored(state[_BASELINE][name]), masked, part.facts())


def _best_head(module: GroupId, masked: Mapping[UnitId, Scored]) -> UnitId:
    """The head of a module that does best alone; the first of those that do equally well."""
    return max(
        (head for head in sorted(masked) if head.group == module), key=lambda head: masked[head].score
    )  # fmt: skip


def best_heads(scores: Scores) -> dict[GroupId, HeadScore]:
    """The highest-scored head of every module, the first of equals."""
    best: dict[GroupId, HeadScore] = {}
    for entry in scores.heads:
        known = best.get(entry.id.group)
        if known is None or entry.score > known.score:
            best[entry.id.group] = entry
    return best


def table(scores: Scores) -> str:
    """One row per head, in full precision; those of the test data last, and further numbers of heads at the end."""
    details = list(dict.fromkeys(name for entry in scores.heads for name in entry.details or ()))
    return tsv((*_COLUMNS, *details), _rows(scores, details))


def _rows(scores: Scores, details: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    parts = [(scores.baseline, scores.heads)]
    if scores.test is not None:
        parts.append((scores.test.baseline, scores.test.heads))
    for baseline, heads in parts:
        test = baseline.get("significance")
        for entry in heads:
            module, (low, high) = entry.id.group, entry.ci or (None, None)
            significant = None if entry.p_corrected is None or not test else int(entry.p_corrected < test["alpha"])
            yield (
                baseline["data"], entry.head, module.kind, module.layer, entry.id.number, entry.score, entry.delta,
                low, high, entry.p, entry.p_corrected, entry.p_sacrebleu, significant,
                *((entry.details or {}).get(name) for name in details),
            )  # fmt: skip


def report(scores: Scores) -> Report:
    """The score file, its table and its picture."""
    alpha = scores.baseline.get("significance", {}).get("alpha", 0.0)
    return Report(json=scores.to_json(), tsv=table(scores), png=plots.scores_png(scores, alpha=alpha))
