"""`l0`: train gates on a converged model, cut the heads whose gates have closed, and measure what is left.

Voita et al. 2019, section 6; Shim et al. 2021, sections 3.2 and 3.3. The state is written after each stage of a lambda;
fairseq-train goes on from its own last checkpoint.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nmtprune import files, plots, provenance, slim
from nmtprune.architecture import KINDS
from nmtprune.evaluate.prices import MultiplyAccumulates, Prices
from nmtprune.gates import missed_remark
from nmtprune.plan import Plan
from nmtprune.runs.device import training_environment
from nmtprune.runs.greedy.costs import keep_lengths, known_lengths
from nmtprune.runs.l0.gated_checkpoints import chosen_checkpoint
from nmtprune.runs.l0.l0_results import Baseline, L0Result, Outcome, l0_columns, l0_file, l0_points, l0_rows
from nmtprune.runs.l0.l0_setup import DATA, L0Job, L0Run, gated_heads, l0_facts, prepare_l0, with_gate_costs
from nmtprune.runs.l0.lambda_trace import lambda_trace
from nmtprune.runs.l0.run_folder import PLAN, SLIM, start_afresh
from nmtprune.runs.quality import measure
from nmtprune.runs.refitted_plans import RefittedPlans, open_refitted_plans
from nmtprune.runs.report import Report
from nmtprune.runs.run import Session, started
from nmtprune.runs.state import State, pack
from nmtprune.runs.subject import NativeModel
from nmtprune.runs.tsv import tsv
from nmtprune.training.fairseq_train import Trainer

if TYPE_CHECKING:
    from nmtprune.evaluate.metrics import Scored
    from nmtprune.formats.base import Checkpoint
    from nmtprune.formats.trainable import TrainableCheckpoint
    from nmtprune.progress import Progress

_STATISTICS, _UNPRUNED = "statistics", "unpruned"
_CALIBRATION = 1000
"""Sentences of the text that a training learns from, to refit on."""

_WATCHED = ("open_heads", *(f"open_{kind}" for kind in KINDS), "open_neurons")


def l0(run: L0Run, progress: "Progress") -> L0Result:
    """Train, cut and measure for every lambda, and write the run folder.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
        TrainingError: fairseq-train failed.
        Interrupted: Ctrl-C or SIGTERM; what was trained and measured is kept.
    """
    with started(run, progress) as session:
        job = prepare_l0(run, session.corpora)
        session.note(job.quality.corpus)
        state = session.open_state(l0_facts(job))
        for remark in job.remarks:
            progress.note(remark)
        for remark in job.quality.check_baseline(f"the baseline {run.checkpoint}"):
            progress.note(remark)
        files.make_folder(run.output)
        if not run.resume:
            start_afresh(run.output)
        state.keep_same(_UNPRUNED, {_STATISTICS: job.quality.baseline().statistics})
        prices = None if run.heads_alone else _prices(job, state)
        job = job if prices is None else with_gate_costs(job, prices)
        refits = _refits(job, session) if run.refit else None
        outcomes = tuple(_Lambda(job, weight, state, session, prices, refits).outcome() for weight in run.weights)
        return _finish(job, state, outcomes, session)


def _prices(job: L0Job, state: State) -> Prices:
    """Multiply-accumulates of the units, with the lengths of the sentences and of the unpruned model's translations."""
    lengths = known_lengths(state, _UNPRUNED, job.quality)
    keep_lengths(state, _UNPRUNED, lengths)
    return MultiplyAccumulates.of(job.base, lengths)


def _refits(job: L0Job, session: Session) -> RefittedPlans:
    """Fits slim models to the unpruned one, on a part of the text that they learn from."""
    run = job.run
    return open_refitted_plans(NativeModel(job.base, run), run.training_text, _CALIBRATION, session.corpora, run)


class _Lambda:
    """One lambda of a run."""

    def __init__(  # noqa: PLR0913  # what one lambda shares with the others
        self,
        job: L0Job,
        weight: float,
        state: State,
        session: Session,
        prices: Prices | None,
        refits: RefittedPlans | None,
    ) -> None:
        self._job, self._run, self._weight, self._state, self._session = job, job.run, weight, state, session
        self._prices, self._refits = prices, refits
        self._training = job.trainings[weight]
        self._name, self._folder = self._training.name, job.run.folder(weight)

    def outcome(self) -> Outcome:
        """The slim model and its quality; whatever the state holds is not done again."""
        job = self._job
        self._train()
        gated, plan = chosen_checkpoint(self._training.last, best=self._run.best)
        self._remark(gated)
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
            expected=gated.expected_heads,
            trace=lambda_trace(self._training),
            macs=None if self._prices is None else self._prices.total(plan.kept_units) / self._prices.total({}),
        )

    def _remark(self, gated: "TrainableCheckpoint") -> None:
        """Say if the gates had not come to the number of heads that is cut."""
        target = None if gated.gate_settings is None else gated.gate_settings.target_heads
        heads = sum(gated_heads(gated, self._job.kinds))
        remark = missed_remark(self._name, gated.expected_heads, target, heads, "--gate-freeze-updates")
        if remark:
            self._session.remark(remark)

    def _train(self) -> None:
        if f"{self._name}/trained" in self._state:
            return
        environment = training_environment(self._run.device, self._run.threads)
        Trainer(self._session.progress, environment).complete(self._training, _WATCHED)
        self._state.add(f"{self._name}/trained", pack({"updates": np.array(0)}))

    def _cut(self, gated: "Checkpoint", plan: Plan) -> "Checkpoint":
        """The slim checkpoint, verified and written with its plan."""
        from nmtprune.evaluate.verify import verify

        cut = slim.apply(plan, gated)
        verify(gated, cut, plan).raise_if_different()
        if self._refits is not None:
            cut = self._refits.fitted(cut.without_optimizer(), plan).checkpoint
        inputs = self._run.inputs
        record = provenance.collect(checkpoint=str(gated.path), l0_weight=self._weight)
        files.write_text(self._folder / PLAN, plan.with_provenance(record).to_json(), force=True, inputs=inputs)
        cut.save(self._folder / SLIM, force=True, provenance={**record, "mode": "cut", "plan": plan.as_json()})
        return cut

    def _measured(self, what: str, model: "Checkpoint") -> "Scored":
        run, key = self._run, f"{self._name}/{what}"
        if key not in self._state:
            own = measure(model, {DATA: run.data}, run, self._session.corpora)[DATA]
            self._state.add(key, pack({_STATISTICS: own.baseline().statistics}))
        statistics: NDArray[Any] = self._state[key][_STATISTICS]
        return self._job.quality.scored(statistics)


def _finish(job: L0Job, state: State, outcomes: tuple[Outcome, ...], session: Session) -> L0Result:
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
    base = Baseline(job.base.architecture, parameters, unpruned.score, run.heads_alone)
    facts = {"signature": quality.signature, **quality.facts()}
    report = Report(
        json=l0_file(run.metric, base, outcomes, facts, made).to_json(),
        tsv=tsv(l0_columns(run.metric, base), l0_rows(base, outcomes)),
        png=plots.pruned_png(l0_points(base, outcomes), metric=run.metric, unpruned=base.value),
    )
    report.write(run.outputs, force=True, inputs=run.inputs)
    return L0Result(base, outcomes, report, facts, made["seconds"])
