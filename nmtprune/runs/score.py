"""`score`: what every head, neuron or layer is worth.

Scorers that mask units measure the model without one head or layer at a time, and every difference is tested (Michel et
al. 2019, section 3). The work unit is a module, whose heads share much, or a part of it where a head takes long, or a
layer: the state is kept after each. Units are dealt to the processes of the run one by one; each process translates
with the full model first, which fixes the drafts and batches that every unit starts from, so that a result depends
neither on the number of processes nor on what was resumed. All other scorers take one pass over the sentences, and are
not tested.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nmtprune import plots
from nmtprune.architecture import SORTS, GroupId, UnitId, parse_kinds
from nmtprune.budget import Limits
from nmtprune.data.directions import MEAN, WORST, Directions, Sets
from nmtprune.data.options import DataOptions
from nmtprune.errors import EngineError, UsageError
from nmtprune.evaluate.label_metrics import Accuracy
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.over_directions import OverDirections, split
from nmtprune.evaluate.significance import Difference, SignificanceTest
from nmtprune.methods.scorer import Scorer
from nmtprune.runs.quality import Quality, measure
from nmtprune.runs.report import Report
from nmtprune.runs.run import MeasuringRun, ReportRun, Session, started
from nmtprune.runs.scorers import SCORERS, check_model
from nmtprune.runs.sorts import kinds_of, parse_sorts
from nmtprune.runs.state import NO_SETTING, State, pack, settings_of
from nmtprune.runs.subject import NativeModel, ScoredModel
from nmtprune.runs.subject_directions import AnySubject, ScoredDirections, combined, open_scored
from nmtprune.runs.tsv import Cell, tsv
from nmtprune.runs.workers import Collector, Unit, of_best_heads, units
from nmtprune.scores import DirectionScores, HeadScore, HeldOut, Scores

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
        group: sorts of units, comma-separated.
        kinds: kinds of attention, comma-separated; None for all that the model has.
        options: of the scorer; None for their defaults.
        across: what a unit's score is where there are several directions, of `data.directions.ACROSS`.
    """

    checkpoint: Path = field(metadata=NO_SETTING)
    test_data: DataOptions | None = field(default=None, metadata=NO_SETTING)
    all_but_one: bool = False
    group: str = field(default="heads", metadata=NO_SETTING)
    kinds: str | None = None
    options: Any = field(default=None, metadata=NO_SETTING)
    across: str = field(default=MEAN, metadata=NO_SETTING)

    @cached_property
    def scorer(self) -> Scorer[Any]:
        """What scores the units."""
        return SCORERS[self.metric](self.options)

    @cached_property
    def sorts(self) -> tuple[str, ...]:
        """What is scored, of SORTS."""
        return parse_sorts(self.group)

    @property
    def mode(self) -> Mode:
        """As the score file names it."""
        return ALL_BUT_ONE if self.all_but_one else ABLATE

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        sets = [self.data] if self.test_data is None else [self.data, self.test_data]
        return [self.checkpoint, *(path for data in sets for path in data.files)]

    def check(self) -> None:
        """Refuse units and engines that the scorer has no use for, and what goes with other options."""
        super().check()
        self.scorer.check_kinds([kind for sort in self.sorts for kind in SORTS[sort]])
        if self.all_but_one and self.sorts != ("heads",):
            raise UsageError(
                "--all-but-one goes with --group heads: it leaves one head in a module, and no model works with one "
                "layer in a stack or one neuron in a layer"
            )
        if self.engine != "native" and not (self.scorer.masks or self.scorer.needs.search):
            raise EngineError(
                f"the engine {self.engine} measures no {self.metric}: --metric {self.metric} runs on --engine native"
            )
        if self.test_data is not None and not self.all_but_one:
            raise UsageError(
                "test data goes with --all-but-one: the best head of a module is chosen on DATA and tested there"
            )
        if self.across != MEAN and self.scorer.mixes:
            raise UsageError(
                f"--across {self.across}: {self.metric} measures all directions together, in equal parts: it goes with "
                "metrics that score each direction"
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


def _open(run: ScoreRun, session: Session) -> "tuple[Checkpoint, dict[GroupId, tuple[int, ...]]]":
    """The checkpoint, and the units of its groups of the selected sorts and kinds that have any."""
    from nmtprune.formats import load

    checkpoint = load(run.checkpoint)
    check_model(run.metric, checkpoint)
    architecture = checkpoint.architecture
    if run.sorts == ("heads",):
        kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    else:
        kinds = kinds_of(run.sorts, checkpoint.base, run.kinds)
    groups = {id: numbers for id, numbers in architecture.units.items() if id.kind in kinds and numbers}
    for id in [id for id, numbers in groups.items() if id.sort == "layers" and len(numbers) == 1]:
        session.remark(f"{run.checkpoint}: the {id.stack} has one layer, which cannot be removed: it is not scored")
        del groups[id]
    if not groups:
        what = run.group.removesuffix("s") if len(run.sorts) == 1 else "unit"
        raise UsageError(f"{run.checkpoint}: there is no {what} to score ({', '.join(kinds) or 'the model has none'})")
    return checkpoint, groups


def _in_one_pass(run: ScoreRun, session: Session) -> Scores:
    """Scores that need no masking, and no test."""
    checkpoint, groups = _open(run, session)
    scorer = run.scorer
    subject = open_scored(scorer, NativeModel(checkpoint, run), run.data, run.seed, session.corpora, run.across)
    session.note(subject.corpus)
    session.progress.begin(run.metric, 1)
    limits = Limits(tuple(dict.fromkeys(group.kind for group in groups)))
    units = [UnitId(group, number) for group, numbers in groups.items() for number in numbers]
    measured, each = _measured_once(scorer, subject, limits)
    for remark in scorer.remarks(measured):
        session.remark(f"{scorer.name}: {remark}")
    facts = subject.facts(scorer)
    further = subject.details_by_direction(scorer, limits) if isinstance(subject, ScoredDirections) else {}
    parts = [
        DirectionScores.of(name, facts["directions"][name], _plain(units, scorer.ranked(own, own), further[name]))
        for name, own in each.items()
    ]
    return Scores.of(
        _plain(units, scorer.ranked(measured, measured), subject.details(scorer, limits)),
        metric=run.metric,
        mode=ABLATE,
        baseline=without_directions(facts),
        **({"directions": parts} if parts else {}),
        base=checkpoint.base,
        provenance=session.provenance(
            seed=run.seed if scorer.uses_seed else None,
            checkpoint=str(run.checkpoint),
            data=dict(subject.corpus.inputs),
        ),
    )


def _measured_once(
    scorer: Scorer[Any], subject: AnySubject, limits: Limits
) -> tuple[Mapping[UnitId, float], dict[str, Mapping[UnitId, float]]]:
    """Scores of units, and of several directions those of each by its name."""
    if isinstance(subject, ScoredModel):
        return subject.scores(scorer, None, limits), {}
    each = subject.by_direction(scorer, None, limits)
    return subject.scores(scorer, None, limits) if scorer.mixes else combined(each.values(), subject.across), each


def _plain(
    units: Sequence[UnitId],
    scores: Mapping[UnitId, float],
    details: Mapping[str, Mapping[UnitId, float]] | None = None,
) -> list[HeadScore]:
    """Scores without a test."""
    named = details or {}
    return [
        HeadScore(
            head=str(unit),
            score=scores[unit],
            details={name: values[unit] for name, values in named.items()} or None,
        )
        for unit in units
    ]


def without_directions(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of all directions together: those of each stand next to its scores."""
    return {key: value for key, value in facts.items() if key != "directions"}


@dataclass(frozen=True)
class _Measured:
    """What a metric says of the full model and of models without some units, on one set of sentences.

    Attributes:
        baseline: the full model.
        masked: by unit: the model without it, or without the others of its group.
        facts: how and on what it was measured, JSON values.
    """

    baseline: Scored
    masked: Mapping[UnitId, Scored]
    facts: Mapping[str, Any]

    def describe(self, test: SignificanceTest, directions: int = 1) -> dict[str, Any]:
        """The `baseline` object of a score file, whose tests are those of so many directions together."""
        metric = self.baseline.metric
        significance = {
            "method": test.method_of(metric),
            "resamples": test.resamples_for(directions * len(self.masked), exact=metric.discordant),
            "seed": test.seed,
            "alpha": test.alpha,
            "correction": test.correction,
        }
        value = metric.sign * self.baseline.score
        return {"value": value, "signature": metric.signature, **self.facts, "significance": significance}

    def scores(self, test: SignificanceTest, mode: Mode) -> tuple[HeadScore, ...]:
        """Score, delta and significance of every unit (Michel et al. 2019, sections 3.2 and 3.3)."""
        heads = sorted(self.masked)
        return self.entries(heads, test.compare(self.baseline, [self.masked[head] for head in heads]), mode)

    def entries(self, heads: Sequence[UnitId], differences: Sequence[Difference], mode: Mode) -> tuple[HeadScore, ...]:
        """Every unit with its difference from the full model."""
        # Without the unit things should get worse, with it alone they should not.
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
    """A run that masks units; everything that can be refused has been accepted."""

    run: ScoreRun
    checkpoint: "Checkpoint"
    groups: Mapping[GroupId, tuple[int, ...]]
    measures: Mapping[str, Quality]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """What to score, as it is computed together."""
        parameters = sum(tensor.numel() for tensor in self.checkpoint.model_tensors.values())
        together = self.measures[_DEV].heads_together(self.checkpoint.architecture, parameters)
        return tuple(units(_DEV, self.groups, together))


def _by_masking(run: ScoreRun, session: Session) -> Scores | None:
    """Scores from the model without single units, with their tests; None in processes that do not lead."""
    job = _prepare(run, session)
    state = session.open_state(_facts(job)) if session.leads else None
    _work(job, session)
    return None if state is None else _assemble(job, state, session)


def _prepare(run: ScoreRun, session: Session) -> _Checked:
    """Check everything that can be wrong, the cheapest first."""
    checkpoint, groups = _open(run, session)
    directions = len(run.data.each) if isinstance(run.data, Directions) else 1
    exact = run.metric == Accuracy.name
    run.significance.resamples_for(directions * sum(map(len, groups.values())), exact=exact)
    sets: dict[str, Sets] = {_DEV: run.data} | ({_TEST: run.test_data} if run.test_data else {})
    if run.test_data:
        run.significance.resamples_for(len(groups), exact=exact)
    measures = measure(checkpoint, sets, run, session.corpora, run.across)
    for part in measures.values():
        session.note(part.corpus)
    return _Checked(run, checkpoint, groups, measures)


def _facts(job: _Checked) -> dict[str, Any]:
    """What the results depend on besides the options."""
    facts = {
        **settings_of(job.run.scorer.options),
        "model": job.checkpoint.base.as_json()["sha256"],
        "--kinds": sorted({group.kind for group in job.groups}),
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
        tested = [unit for unit in of_best_heads(_TEST, job.groups, best) if unit.key not in done]
        _stage(job, session, tested)


def _stage(job: _Checked, session: Session, left: Sequence[Unit]) -> None:
    """Compute some units."""
    if not left:
        return
    stage = " and ".join(job.run.sorts) if left[0].data == _DEV else "best heads on the test data"
    collector = Collector(session.processes, session.state, stage, left, session.progress)
    for number in session.processes.deal(left[0].data, len(left)):
        unit = left[number]
        collector.add(unit, pack({"statistics": _statistics(job, unit)}))
    collector.wait()


def _best_heads(job: _Checked, state: State) -> dict[str, int]:
    """The head of each module that does best alone on the development set."""
    masked = _measured(job, state, _DEV, job.units).masked
    return {str(group): _best_head(group, masked).number for group in job.groups}


def _statistics(job: _Checked, unit: Unit) -> NDArray[Any]:
    """Statistics of the heads or layers of a unit, [heads, sentences, stats]."""
    found = job.measures[unit.data].unit(unit, alone=job.run.all_but_one)
    return np.stack([scored.statistics for scored in found])


def _assemble(job: _Checked, state: State, session: Session) -> Scores:
    """The score file from all units."""
    run, mode = job.run, job.run.mode
    session.progress.begin("resampling", 1)
    dev = _measured(job, state, _DEV, job.units)
    test = None
    if _TEST in job.measures:
        held_out = _measured(job, state, _TEST, of_best_heads(_TEST, job.groups, _best_heads(job, state)))
        test = HeldOut(baseline=held_out.describe(run.significance), heads=held_out.scores(run.significance, mode))
    entries, parts = _over_directions(dev, run.significance, mode)
    return Scores.of(
        entries or dev.scores(run.significance, mode),
        metric=run.metric,
        mode=mode,
        baseline=without_directions(dev.describe(run.significance, len(parts) if run.across == WORST else 1)),
        **({"directions": parts} if parts else {}),
        **({} if test is None else {"test": test}),
        base=job.checkpoint.base,
        provenance=session.provenance(
            seed=run.seed,
            checkpoint=str(run.checkpoint),
            data={path: sha for part in job.measures.values() for path, sha in part.corpus.inputs.items()},
        ),
    )


def _over_directions(
    dev: _Measured, test: SignificanceTest, mode: Mode
) -> tuple[tuple[HeadScore, ...], list[DirectionScores]]:
    """Scores over several directions, and those of each; nothing of one direction.

    The tests of all units in all directions are corrected together; those of the mean over directions by themselves.
    What is said of the direction that loses most is said of it alone, so corrected as its own tests are.
    """
    baselines, heads = split(dev.baseline), sorted(dev.masked)
    if not baselines:
        return (), []
    masked = [split(dev.masked[head]) for head in heads]
    metric = dev.baseline.metric
    tested = test.compare_each([(own, [each[name] for each in masked]) for name, own in baselines.items()])
    differences = dict(zip(baselines, tested, strict=True))
    parts = []
    for name, own in baselines.items():
        part = _Measured(own, {head: each[name] for head, each in zip(heads, masked, strict=True)}, {})
        described = {**part.describe(test, len(baselines)), **dev.facts["directions"][name]}
        parts.append(DirectionScores.of(name, described, part.entries(heads, differences[name], mode)))
    if isinstance(metric, OverDirections) and metric.across == WORST:
        places, sign = range(len(heads)), metric.sign
        found = [
            min((own[place] for own in differences.values()), key=lambda each: sign * each.delta) for place in places
        ]
    else:
        found = [*test.compare(dev.baseline, [dev.masked[head] for head in heads])]
    return dev.entries(heads, found, mode), parts


def _measured(job: _Checked, state: State, name: str, done: Iterable[Unit]) -> _Measured:
    """What the state holds of one set of sentences."""
    part = job.measures[name]
    masked: dict[UnitId, Scored] = {}
    for unit in done:
        statistics = state[unit.key]["statistics"]
        for number, own in zip(unit.numbers, statistics, strict=True):
            masked[UnitId(unit.group, number)] = part.scored(own)
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
    """One row per unit, in full precision; then those of each direction or of the test data.

    Further numbers of units are the last columns.
    """
    details = list(dict.fromkeys(name for entry in scores.entries for name in entry.details or ()))
    columns = _COLUMNS if scores.version == 1 else tuple("unit" if name == "head" else name for name in _COLUMNS)
    return tsv((*columns, *details), _rows(scores, details))


def _rows(scores: Scores, details: Sequence[str]) -> Iterator[tuple[Cell, ...]]:
    parts = [(scores.baseline, scores.entries)]
    parts += [({**own.baseline, "data": own.name}, own.entries) for own in scores.directions or ()]
    if scores.test is not None:
        parts.append((scores.test.baseline, scores.test.heads))
    for baseline, heads in parts:
        test = baseline.get("significance")
        for entry in heads:
            id, (low, high) = entry.id, entry.ci or (None, None)
            layer = None if id.group.sort == "layers" else id.group.layer
            significant = None if entry.p_corrected is None or not test else int(entry.p_corrected < test["alpha"])
            yield (
                baseline["data"], entry.head, id.group.kind, layer, id.number, entry.score, entry.delta,
                low, high, entry.p, entry.p_corrected, entry.p_sacrebleu, significant,
                *((entry.details or {}).get(name) for name in details),
            )  # fmt: skip


def report(scores: Scores) -> Report:
    """The score file, its table and its picture."""
    alpha = scores.baseline.get("significance", {}).get("alpha", 0.0)
    picture = plots.scores_png(scores, alpha=alpha)
    each = {name: plots.scores_png(own, alpha=alpha) for name, own in scores.by_direction().items()}
    if each:
        picture = plots.stacked_png({f"{scores.baseline['across']} of {scores.baseline['data']}": picture, **each})
    return Report(json=scores.to_json(), tsv=table(scores), png=picture)
