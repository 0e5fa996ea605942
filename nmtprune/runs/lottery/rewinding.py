"""`lottery`: train, remove the lowest heads, rewind what is left, again; then train the winner to convergence.

Behnke and Heafield 2020, section 3. The state is written after each stage; fairseq-train goes on from its own last
checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nmtprune import files, plots
from nmtprune.evaluate.cost import words_per_second
from nmtprune.evaluate.metrics import Scored
from nmtprune.methods.confidence import Confidence
from nmtprune.methods.measuring import drawn
from nmtprune.plan import Plan
from nmtprune.progress import Progress, Silent
from nmtprune.runs.lottery import folder, outcomes
from nmtprune.runs.lottery.job import LotteryJob, LotteryRun, prepare
from nmtprune.runs.lottery.outcomes import Converged, Iteration
from nmtprune.runs.lottery.schedule import Schedule, Ticket, tickets
from nmtprune.runs.lottery.stages import Stages
from nmtprune.runs.quality import measure, metric_of
from nmtprune.runs.refit_sentences import REFERENCES, TRANSLATIONS, has_targets
from nmtprune.runs.report import Report
from nmtprune.runs.run import Session, started
from nmtprune.runs.state import State, pack
from nmtprune.runs.tsv import tsv

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint

_BEGUN, _SPEED = "begun", "speed"
_SPEED_SENTENCES, _SPEED_ROUNDS = 200, 3


@dataclass(frozen=True)
class LotteryResult:
    """What a run found.

    Attributes:
        plan: the last one that is within ``--max-drop``.
        kinds: whose heads were removed.
        iterations: in order.
        converged: the unpruned model first; empty where none was asked for.
        report: ``lottery.json``, its tables and its picture.
        times: seconds of each iteration by what they went into.
        facts: on what and how it was measured.
        seconds: how long it took.
    """

    plan: Plan
    kinds: tuple[str, ...]
    iterations: tuple[Iteration, ...]
    converged: tuple[Converged, ...]
    report: Report
    times: Mapping[str, Mapping[str, float]]
    facts: Mapping[str, Any]
    seconds: float

    @property
    def table(self) -> str:
        """Converged models as tab-separated values, or iterations where there are none."""
        return self.report.tsv or self.report.tables[folder.ITERATIONS]


def schedule_of(run: LotteryRun) -> Schedule:
    """What a run would train; everything is checked and nothing is written.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data.
    """
    with started(run, Silent()) as session:
        return prepare(run, session.corpora).schedule


def lottery(run: LotteryRun, progress: Progress) -> LotteryResult:
    """Run the loop, converge the chosen models, and write the run folder.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
        TrainingError: fairseq-train failed, or training diverged; the state is kept.
        OutputError: the disk is full; the state is kept.
        Interrupted: Ctrl-C or SIGTERM; what was trained and measured is kept.
    """
    with started(run, progress) as session:
        job = prepare(run, session.corpora)
        for corpus in job.sets.values():
            session.note(corpus)
        state = session.open_state(job.facts)
        if _BEGUN not in state:
            _check_late_reset(job, session)
        files.make_folder(run.output)
        if _BEGUN not in state:
            if run.force:
                folder.start_over(run.output)
            # Before the first training, so that what goes on there is held against the settings.
            state.add(_BEGUN, pack({}))
        return _Lottery(job, state, session).result()


def _check_late_reset(job: LotteryJob, session: Session) -> None:
    """Translate with the late-resetting checkpoint, before anything is trained, on what is measured later.

    Raises:
        DataError: its translations mean nothing, and those of the models that are trained from it probably neither.
    """
    run = job.run
    sets = {folder.DATA: run.data} if run.rule is not None else {}
    if job.schedule.tickets and (run.test_data is not None or not sets):
        sets[folder.TEST] = run.evaluated
    if job.late_reset is None or not sets:
        return
    for part in measure(job.late_reset, sets, run, session.corpora).values():
        for remark in part.check_baseline(f"the late-resetting checkpoint {run.late_reset}"):
            session.progress.note(remark)


class _Lottery:
    """One run."""

    def __init__(self, job: LotteryJob, state: State, session: Session) -> None:
        self._job, self._run, self._state, self._session = job, job.run, state, session
        self._progress, self._stages = session.progress, Stages(job, state, session)

    def result(self) -> LotteryResult:
        """Every stage in turn; then the files."""
        plans = [Plan.keep_all(self._stages.late_reset.base)]
        iterations = tuple(self._iterations(plans))
        accepted = len(plans) - 1
        self._stages.write_ticket(plans[accepted])
        run = self._run
        chosen = [number for number in run.converge_iterations if number <= accepted]
        left_out = sorted(set(run.converge_iterations) - set(chosen))
        if left_out:
            self._progress.note(f"--max-drop ended the loop: no iteration {', '.join(map(str, left_out))} to converge")
        asked = tickets(accepted, last=run.converge, chosen=chosen, controls=run.controls if accepted else ())
        converged = self._compared([(ticket, self._converged(ticket, plans[ticket.iteration])) for ticket in asked])
        return self._finish(plans[accepted], iterations, converged)

    def _converged(self, ticket: Ticket, plan: Plan) -> Plan:
        """Train a model to convergence; measure the unpruned one at once: what means nothing ends the run there."""
        found = self._stages.converged(ticket, plan)
        if not ticket.iteration:
            self._stages.quality(ticket)
        return found

    def _iterations(self, plans: list[Plan]) -> Iterator[Iteration]:
        """Grow the list of plans, each with fewer heads, until the end or until one has dropped too far, which goes."""
        removed = self._job.schedule.removed
        first: Scored | None = None
        for number in range(1, self._job.schedule.pruning_trainings + 1):
            heads = removed[number] if number < len(removed) else None
            trained = plans[-1]
            left, validation, quality = self._stages.iteration(number, trained, heads)
            first = first or quality
            broken = self._drops_too_far(first, quality)
            if broken:
                plans.pop()
                left = plans[-1]
            elif heads is not None:
                plans.append(left)
            value = None if quality is None else quality.score
            yield Iteration(number, trained, left, validation, value, broken)
            if broken:
                self._progress.note(f"iteration {number}: {trained.count_kept()} heads are beyond --max-drop")
                return

    def _drops_too_far(self, first: Scored | None, quality: Scored | None) -> bool:
        if first is None or quality is None or self._run.rule is None:
            return False
        (difference,) = self._run.significance.compare(first, [quality])
        return self._run.rule.broken_by(difference)

    def _compared(self, trained: Sequence[tuple[Ticket, Plan]]) -> tuple[Converged, ...]:
        """Quality, significance and speed of the converged models."""
        if not trained:
            return ()
        scored = [self._stages.quality(ticket) for ticket, _ in trained]
        differences = [None, *self._run.significance.compare(scored[0], scored[1:])]
        names = [ticket.name for ticket, _ in trained]
        paths = [folder.converged_folder(self._run.output, ticket) / folder.MODEL for ticket, _ in trained]
        models = [self._stages.model(ticket) for ticket, _ in trained]
        rates = self._rates(names, models)
        found = []
        for (ticket, plan), path, model, quality, difference, rate in zip(
            trained, paths, models, scored, differences, rates, strict=True
        ):
            figures = self._state[f"converge-{ticket.name}/trained"]
            found.append(
                Converged(
                    ticket=ticket,
                    plan=plan,
                    model=str(path.relative_to(self._run.output)),
                    value=quality.score,
                    difference=difference,
                    parameters=sum(tensor.numel() for tensor in model.parameters.values()),
                    file_bytes=path.stat().st_size,
                    words_per_second=rate,
                    updates=int(figures["best"]),
                    last_update=int(figures["last"]),
                    validation=float(figures["validation"]),
                )
            )
        return tuple(found)

    def _rates(self, names: Sequence[str], models: "Sequence[Checkpoint]") -> list[float]:
        from nmtprune.engines import open_engine

        if _SPEED not in self._state or len(self._state[_SPEED]["rates"]) != len(names):
            self._progress.begin("words per second", 1)
            # Other engines are processes, whose start-up would be counted.
            engines = [open_engine("native", model, self._run.for_engine()) for model in models]
            profile = models[0].profile()
            sentences = self._session.corpora.read(self._run.evaluated, profile, references=False)
            corpus = drawn(sentences, _SPEED_SENTENCES, self._run.seed)
            rates = words_per_second(engines, corpus, _SPEED_ROUNDS)
            self._state.add(_SPEED, pack({"rates": np.array(rates)}))
            self._progress.advance("speed")
        return [float(rate) for rate in self._state[_SPEED]["rates"]]

    def _finish(self, plan: Plan, iterations: tuple[Iteration, ...], converged: tuple[Converged, ...]) -> LotteryResult:
        """Write the files."""
        run, job = self._run, self._job
        times = self._stages.times(len(iterations))
        provenance = self._session.provenance(
            seed=run.seed,
            late_reset={"sha256": self._stages.late_reset.base.sha256, "updates": job.schedule.late_reset},
            data={path: digest for corpus in job.sets.values() for path, digest in corpus.inputs.items()},
            fairseq_train=list(job.given),
        )
        made = {
            "file_bytes": {each.ticket.name: each.file_bytes for each in converged},
            "words_per_second": {each.ticket.name: each.words_per_second for each in converged},
            "times": times,
            "provenance": provenance,
        }
        metric, facts = run.metric, self._facts()
        table = picture = None
        if converged:
            table = tsv(outcomes.converged_columns(converged, metric), outcomes.converged_rows(converged))
            heads = job.schedule.of_all
            picture = plots.curves_png(outcomes.curve_lines(converged), metric=metric, total=heads, from_zero=False)
        report = Report(
            json=outcomes.lottery_file(metric, iterations, converged, facts, made).to_json(),
            tsv=table,
            png=picture,
            tables={folder.ITERATIONS: outcomes.iterations_tsv(iterations, metric, job.limits.kinds)},
        )
        report.write(folder.report_files(run.output), force=True, inputs=run.inputs)
        seconds = provenance["seconds"]
        return LotteryResult(plan, job.limits.kinds, iterations, converged, report, times, facts, seconds)

    def _facts(self) -> dict[str, Any]:
        run = self._run
        name = folder.TEST if folder.TEST in self._job.sets else folder.DATA
        corpus = self._job.sets[name]
        quality = {} if corpus.references is None else {"signature": metric_of(corpus, run).signature}
        heads = {"heads": self._job.schedule.of_all}
        return {**quality, **corpus.describe(), **run.described(), **heads, **self._differences()}

    def _differences(self) -> dict[str, Any]:
        """In what the run differs from that of the paper."""
        run, found = self._run, dict[str, Any]()
        if run.order != Confidence.name:
            found["order"] = run.order
        if run.refit:
            text = self._job.sets[folder.CALIBRATION]
            number = min(run.calibration_sentences, len(text))
            on = REFERENCES if has_targets(run.calibration) else TRANSLATIONS
            found["refit"] = {**text.describe(), "sentences": number, "on": on, "seed": run.seed}
        return found
