"""The trainings of a lottery run as calls of fairseq-train: from which file, in which order of the data."""

import hashlib
from dataclasses import replace
from pathlib import Path

from nmtprune.runs.lottery import folder
from nmtprune.runs.lottery.schedule import REINIT, Ticket, iteration_name
from nmtprune.runs.lottery.setup import Job
from nmtprune.runs.training import Training
from nmtprune.runs.training_options import with_defaults

_EVERY_EPOCH = 1_000_000
"""Epochs between validations, where they are between updates."""


def pretraining(job: Job) -> Training:
    """Of the late-resetting checkpoint, from scratch."""
    own = folder.pretraining(job.run.output)
    return replace(_training(job, "pretraining", "Pretrain", own, job.run.given), start=None)


def iteration(job: Job, number: int, heads: int) -> Training:
    """Of the model that iteration `number` finds, rewound."""
    own = folder.iteration(job.run.output, number)
    title = f"Iteration {number} of {job.schedule.pruning_trainings}, {heads} heads"
    return _rewound(job, _training(job, iteration_name(number), title, own, job.given))


def convergence(job: Job, ticket: Ticket, heads: int) -> Training:
    """Of a model from late resetting on, or of its reinitialized control from the first update on."""
    own = folder.converged(job.run.output, ticket)
    training = _training(job, f"converge-{ticket.name}", f"Converge {ticket.name}, {heads} heads", own, job.given)
    # What converges sees the data in one order, so that models differ in nothing but their heads and weights.
    fixed: list[tuple[str, ...]] = [("--seed", str(order_seed(job.run.significance.seed, "convergence")))]
    if job.validates_every is not None:
        every, rare = str(job.validates_every), str(_EVERY_EPOCH)
        fixed += [("--save-interval-updates", every), ("--save-interval", rare), ("--validate-interval", rare)]
    training = replace(training, options=(*training.options, *fixed))
    return training if ticket.variant == REINIT else _rewound(job, training)


def _training(job: Job, name: str, title: str, own: Path, given: tuple[str, ...]) -> Training:
    """What all trainings have in common."""
    fixed = (
        ("--seed", str(order_seed(job.run.significance.seed, name))),
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


def _rewound(job: Job, training: Training) -> Training:
    return replace(training, rewinds=True, first_update=job.schedule.late_reset)


def order_seed(seed: int, name: str) -> int:
    """Seed of a training: fairseq adds epochs and updates to it, so that neighbours would repeat each other's draws."""
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
