"""What a lottery run does once: make the late-resetting checkpoint, an iteration, a converged model.

A stage that the state has is not done again. Files of a stage are written before the state says that it is done, and
checkpoints go afterwards, so that a run can be killed anywhere.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from nmtprune import files, plots, provenance, slim
from nmtprune.architecture import UnitId
from nmtprune.evaluate.metrics import Scored
from nmtprune.methods.chance import same_counts
from nmtprune.methods.sweep import next_plan
from nmtprune.plan import Plan
from nmtprune.runs.device import training_environment
from nmtprune.runs.lottery import folder, outcomes
from nmtprune.runs.lottery.job import LotteryJob, check_can_go_on
from nmtprune.runs.lottery.schedule import LOTTERY, RANDOM, REINIT, Ticket, iteration_name
from nmtprune.runs.quality import measure, metric_of
from nmtprune.runs.refitted_plans import RefittedPlans, open_refitted_plans
from nmtprune.runs.report import Report, ReportFiles
from nmtprune.runs.run import Session
from nmtprune.runs.state import State, pack, settings_of
from nmtprune.runs.subject import NativeModel, open_subject
from nmtprune.scores import HeadScore, Scores
from nmtprune.training.bar import TrainingBar
from nmtprune.training.fairseq_train import Patience, Target, Trainer, Training, converging, load_trained
from nmtprune.training.options import with_defaults

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.formats.trainable import TrainableCheckpoint

_EVERY_EPOCH = 1_000_000
"""Epochs between validations, where they are between updates."""

STATISTICS = "statistics"
_SCORES, _LATE_RESET = "scores", "late-reset"


class Stages:
    """The stages of one run."""

    def __init__(self, job: LotteryJob, state: State, session: Session) -> None:
        """Take what is done from the state; the late-resetting checkpoint is made or read first of all."""
        self._job, self._state, self._progress, self._corpora = job, state, session.progress, session.corpora
        self._run, self._folder, self._scorer = job.run, job.run.output, job.run.scorer
        environment = training_environment(job.run.device, job.run.threads)
        self._trainer = Trainer(session.progress, environment)
        self._models: dict[Ticket, TrainableCheckpoint] = {}
        session.progress.begin_all("lottery", sum(self._weights()))
        self.late_reset = self._late_reset()

    def iteration(self, number: int, plan: Plan, heads: int | None) -> tuple[Plan, float | None, Scored | None]:
        """Train a rewound model and remove its heads of the lowest scores.

        Args:
            number: of the iteration.
            plan: the model's heads.
            heads: to be gone afterwards; None removes none and scores none.

        Returns:
            The heads that are left, fairseq's validation of the trained model, its quality where the run has a rule.
        """
        own, name = folder.iteration_folder(self._folder, number), iteration_name(number)
        training = iteration(self._job, number, plan.count_kept())
        started = time.monotonic()
        if f"{name}/trained" not in self._state:
            self._write_start(training, plan, LOTTERY)
            spent = self._trainer.reach(
                training, training.first_update + self._run.prune_updates, self._job.schedule.prune_updates
            )
            at = self._read(training.last).progress
            validation = math.nan if at.validation is None else at.validation
            other = time.monotonic() - started - spent.seconds
            self._state.add(f"{name}/trained", pack(_numbers(validation=validation, other=other, **vars(spent))))
        quality = None
        if self._run.rule is not None:
            read = partial(self._read, training.last)
            quality = self._measured(f"{name}/quality", read, folder.DATA, baseline=number == 1)
        left = plan
        if heads is not None:
            scores = self._scores(number, training, plan)
            left = next_plan(plan, scores, heads, self._job.limits)
            if not (own / folder.PLAN).exists():
                self._write_iteration(own, number, plan, left, scores)
        self._drop_checkpoints(own)
        value = float(self._state[f"{name}/trained"]["validation"])
        return left, None if math.isnan(value) else value, quality

    def converged(self, ticket: Ticket, plan: Plan) -> Plan:
        """Train a model to convergence; its heads are those of `plan`, or others where the ticket says so."""
        own, name = folder.converged_folder(self._folder, ticket), f"converge-{ticket.name}"
        if ticket.variant == RANDOM:
            plan = same_counts(plan, self._run.seed)
        if f"{name}/trained" in self._state:
            self._drop_checkpoints(own)
            return plan
        training = convergence(self._job, ticket, plan.count_kept())
        self._write_start(training, plan, ticket.variant)
        self._train_to_convergence(ticket, training)
        best, last = self._read(training.best), self._read(training.last)
        made = self._provenance(iteration=ticket.iteration, variant=ticket.variant)
        plan.with_provenance(made).write(own / folder.PLAN, force=True, inputs=self._run.inputs)
        best.without_optimizer().save(own / folder.MODEL, force=True, provenance={**made, "plan": plan.as_json()})
        at = best.progress
        figures = _numbers(best=at.updates, last=last.progress.updates, validation=cast(float, at.validation))
        self._state.add(f"{name}/trained", pack(figures))
        self._drop_checkpoints(own)
        return plan

    def quality(self, ticket: Ticket) -> Scored:
        """The metric of a converged model on TEST DATA, or DATA where there are none."""
        read, key = partial(self.model, ticket), f"converge-{ticket.name}/quality"
        return self._measured(key, read, folder.TEST, baseline=not ticket.iteration)

    def model(self, ticket: Ticket) -> "TrainableCheckpoint":
        """A converged model, read once."""
        if ticket not in self._models:
            self._models[ticket] = load_trained(folder.converged_folder(self._folder, ticket) / folder.MODEL)
        return self._models[ticket]

    def write_ticket(self, plan: Plan) -> None:
        """Write the plan that was found and the late-resetting checkpoint's weights and moments that it keeps."""
        path = self._folder / folder.TICKET
        made = self._provenance()
        if not path.exists() or Plan.read(self._folder / folder.PLAN).kept_ids() != plan.kept_ids():
            plan.with_provenance(made).write(self._folder / folder.PLAN, force=True, inputs=self._run.inputs)
            self._rewound(plan, refit=self._run.refit).save(
                path, force=True, provenance={**made, "mode": "cut", "plan": plan.as_json()}
            )

    def times(self, iterations: int) -> dict[str, Any]:
        """Where the seconds of the iterations went: those of calls that were killed are not in them."""
        found = {}
        for number in range(1, iterations + 1):
            name = iteration_name(number)
            trained = self._state[f"{name}/trained"]
            seconds, start_up = float(trained["seconds"]), float(trained["start_up"])
            parts = {"training": seconds - start_up, "start_up": start_up, "other": float(trained["other"])}
            if _scores_key(number) in self._state:
                parts[self._scorer.name] = float(self._state[_scores_key(number)]["seconds"])
            found[name] = {part: round(value, 2) for part, value in parts.items()}
        return found

    def _weights(self) -> list[int]:
        """Updates of what is not done yet, as far as they are known."""
        schedule, found = self._job.schedule, []
        if schedule.pretrains and _LATE_RESET not in self._state:
            found.append(schedule.late_reset)
        names = [iteration_name(number) for number in range(1, schedule.pruning_trainings + 1)]
        found += [schedule.prune_updates for name in names if f"{name}/trained" not in self._state]
        tickets = [ticket for ticket in schedule.tickets if f"converge-{ticket.name}/trained" not in self._state]
        return [*found, *(self._weight(ticket) for ticket in tickets)]

    def _weight(self, ticket: Ticket) -> int:
        schedule = self._job.schedule
        return schedule.expected(ticket) or schedule.late_reset + schedule.prune_updates

    def _late_reset(self) -> "TrainableCheckpoint":
        if self._job.late_reset is not None:
            return self._job.late_reset
        path = self._folder / folder.LATE_RESET
        if _LATE_RESET not in self._state:
            if not path.exists():
                training, updates = pretraining(self._job), self._job.schedule.late_reset
                self._trainer.reach(training, updates, updates)
                os.replace(training.last, path)
            check_can_go_on(self._read(path), reset=self._run.reset_optimizer)
            self._state.add(_LATE_RESET, pack({}))
        found = self._read(path)
        self._drop_checkpoints(folder.pretraining_folder(self._folder))
        return found

    def _rewound(self, plan: Plan, *, refit: bool) -> "TrainableCheckpoint":
        """The late-resetting checkpoint's weights and moments of the heads that a plan keeps.

        Fitted weights keep their moments, which say how far they move, not where they are.
        """
        late = self.late_reset.with_new_moments() if self._run.reset_optimizer else self.late_reset
        cut = slim.apply(plan, late).trainable()
        if not refit or not plan.removed():
            return cut
        return self._refitted_plans.of(plan).checkpoint.trainable().with_optimizer_of(cut)

    @cached_property
    def _refitted_plans(self) -> RefittedPlans:
        """Cuts the late-resetting checkpoint and fits what is left; made when the first plan is needed."""
        run, native = self._run, NativeModel(self.late_reset, self._run)
        return open_refitted_plans(native, run.calibration, run.calibration_sentences, self._corpora, run)

    def _write_start(self, training: Training, plan: Plan, variant: str) -> None:
        """The file from which a training starts, unless it is there or training is under way."""
        start = training.start
        if start is None or start.exists() or training.last.exists():
            return
        files.make_folder(start.parent)
        # Fresh weights have nothing to follow.
        checkpoint: Checkpoint = self._rewound(plan, refit=self._run.refit and variant != REINIT)
        if variant == REINIT:
            checkpoint = checkpoint.reinitialized(self._run.seed)
        checkpoint.save(start, force=True, provenance={"plan": plan.as_json()})

    def _train_to_convergence(self, ticket: Ticket, training: Training) -> None:
        schedule, key = self._job.schedule, f"{training.name}/targets"
        patience = Patience(
            validations=self._run.patience,
            every=self._job.validates_every,
            first_update=schedule.first_update(ticket),
            most_updates=self._run.converge_updates,
            maximizes=self._job.maximizes,
        )
        bar = TrainingBar(self._progress, training.title, self._weight(ticket))
        first = Target(patience.first + self._run.patience, patience.worst)
        while True:
            # On disk before it is trained for: a resumed run must know what the best one was before.
            target = first if key not in self._state else _target(self._state[key])
            following = self._trainer.converge(training, patience, target, bar)
            if following is None:
                return
            self._state.add(key, pack(_numbers(**vars(following))))

    def _scores(self, number: int, training: Training, plan: Plan) -> Mapping[UnitId, float]:
        """Scores of the heads that a plan leaves, as they are compared, by their ids in the late-resetting checkpoint.

        Heads of kinds that lose none may have no score.
        """
        key = _scores_key(number)
        if key not in self._state:
            started = time.monotonic()
            found = self._measured_scores(self._read(training.last), plan)
            values = np.array([found.get(head, math.nan) for head in plan.kept_ids()])
            self._state.add(key, pack({_SCORES: values, "seconds": np.array(time.monotonic() - started)}))
        first = self._stored_scores(1, Plan.keep_all(plan.base))
        return self._scorer.ranked(self._stored_scores(number, plan), first)

    def _measured_scores(self, trained: "TrainableCheckpoint", plan: Plan) -> Mapping[UnitId, float]:
        """What the scorer says of the heads of a trained model, which is cut by a plan."""
        scorer, native = self._scorer, NativeModel(trained, self._run)
        subject = open_subject(scorer, native, self._run.scored_on, self._run.seed, self._corpora)
        found = scorer.scores(subject, None, self._job.limits)
        for remark in scorer.remarks(found):
            self._progress.note(f"{scorer.name}: {remark}")
        # The cut model counts the heads that it has: the plan says which they are.
        cut = (UnitId(id, place) for id in plan.base.modules for place in range(len(plan.kept(id))))
        return {head: found[own] for head, own in zip(plan.kept_ids(), cut, strict=True) if own in found}

    def _stored_scores(self, number: int, plan: Plan) -> dict[UnitId, float]:
        """The scores of an iteration that the state has; `plan` is that of the model."""
        values = self._state[_scores_key(number)][_SCORES].tolist()
        return {head: value for head, value in zip(plan.kept_ids(), values, strict=True) if not math.isnan(value)}

    def _write_iteration(
        self, own: Path, number: int, before: Plan, left: Plan, values: Mapping[UnitId, float]
    ) -> None:
        """Scores as table and picture, and last of all the plan."""
        removed = sorted(set(left.removed()) - set(before.removed()))
        name, inputs = self._scorer.name, self._run.inputs
        scored_on = self._job.sets.get(folder.SCORED, self._job.sets[folder.DATA])
        scores = Scores(
            metric=name,
            mode="ablate",
            baseline={"data": scored_on.name, **settings_of(self._run.scoring)},
            heads=tuple(HeadScore(head=str(head), score=value) for head, value in sorted(values.items())),
            base=left.base,
            provenance=self._provenance(iteration=number),
        )
        report = Report(
            json=scores.to_json(),
            tsv=outcomes.scores_tsv(name, values, removed),
            png=plots.scores_png(scores, alpha=0.0, removed=removed),
        )
        report.write(ReportFiles.beside(own / f"{name}.json"), force=True, inputs=inputs)
        made = self._provenance(iteration=number)
        left.with_provenance(made).write(own / folder.PLAN, force=True, inputs=inputs)

    def _measured(self, key: str, read: "Callable[[], TrainableCheckpoint]", name: str, *, baseline: bool) -> Scored:
        """The metric of a model, from the state where it is there; what others are compared with must mean something.

        Raises:
            DataError: nothing can be compared with it; the state is kept.
        """
        data = self._run.data if name == folder.DATA else self._run.evaluated
        if key not in self._state:
            own = measure(read(), {name: data}, self._run, self._corpora)[name]
            model = key.rpartition("/")[0]
            self._progress.begin(f"{own.name} of {model}", 1)
            for remark in own.check_baseline(f"the baseline {model}") if baseline else ():
                self._progress.note(remark)
            self._state.add(key, pack({STATISTICS: own.baseline().statistics}))
            self._progress.advance(own.name)
        corpus = self._job.sets.get(name, self._job.sets[folder.DATA])
        return Scored(metric_of(corpus, self._run), self._state[key][STATISTICS])

    def _read(self, path: Path) -> "TrainableCheckpoint":
        """A checkpoint of a training, once for all that its stage needs of it."""
        return converging(self._trainer.read(path))

    def _drop_checkpoints(self, stage: Path) -> None:
        self._trainer.forget()
        folder.drop_checkpoints(stage)

    def _provenance(self, **facts: Any) -> dict[str, Any]:
        late = {"late_reset": {"sha256": self.late_reset.base.sha256, "updates": self._job.schedule.late_reset}}
        return provenance.collect(seed=self._run.seed, method="lottery", **late, **facts)


def _scores_key(number: int) -> str:
    return f"{iteration_name(number)}/{_SCORES}"


def _numbers(**values: float) -> dict[str, NDArray[Any]]:
    return {name: np.array(value) for name, value in values.items()}


def _target(stored: Mapping[str, NDArray[Any]]) -> Target:
    return Target(int(stored["validation"]), float(stored["better_than"]))


def pretraining(job: LotteryJob) -> Training:
    """Of the late-resetting checkpoint, from scratch."""
    own = folder.pretraining_folder(job.run.output)
    return replace(_training(job, "pretraining", "Pretrain", own, job.run.given), start=None)


def iteration(job: LotteryJob, number: int, heads: int) -> Training:
    """Of the model that iteration `number` finds, rewound."""
    own = folder.iteration_folder(job.run.output, number)
    title = f"Iteration {number} of {job.schedule.pruning_trainings}, {heads} heads"
    return _rewound(job, _training(job, iteration_name(number), title, own, job.given))


def convergence(job: LotteryJob, ticket: Ticket, heads: int) -> Training:
    """Of a model from late resetting on, or of its reinitialized control from the first update on."""
    own = folder.converged_folder(job.run.output, ticket)
    training = _training(job, f"converge-{ticket.name}", f"Converge {ticket.name}, {heads} heads", own, job.given)
    # What converges sees the data in one order, so that models differ in nothing but their heads and weights.
    fixed: list[tuple[str, ...]] = [("--seed", str(order_seed(job.run.seed, "convergence")))]
    if job.validates_every is not None:
        every, rare = str(job.validates_every), str(_EVERY_EPOCH)
        fixed += [("--save-interval-updates", every), ("--save-interval", rare), ("--validate-interval", rare)]
    training = replace(training, options=(*training.options, *fixed))
    return training if ticket.variant == REINIT else _rewound(job, training)


def _training(job: LotteryJob, name: str, title: str, own: Path, given: tuple[str, ...]) -> Training:
    """What all trainings have in common."""
    fixed = (
        ("--seed", str(order_seed(job.run.seed, name))),
        ("--no-epoch-checkpoints",),
        ("--keep-interval-updates", "1"),
    )
    return Training(
        name=name,
        title=title,
        data_bin=job.run.data_bin,
        start=own / folder.START,
        folder=own / folder.CHECKPOINTS,
        options=(*with_defaults((("--log-interval", "20"),), given), *fixed),
        given=given,
        on_cpu=job.run.on_cpu,
    )


def _rewound(job: LotteryJob, training: Training) -> Training:
    return replace(training, rewinds=True, first_update=job.schedule.late_reset)


def order_seed(seed: int, name: str) -> int:
    """Seed of a training: fairseq adds epochs and updates to it, so that neighbours would repeat each other's draws."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
