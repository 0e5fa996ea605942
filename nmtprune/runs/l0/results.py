"""What comes out of `l0`: the pruned model of every lambda, its quality, and the files that say so."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmtprune.architecture import Architecture
from nmtprune.evaluate.significance import Difference
from nmtprune.plan import Plan
from nmtprune.plots import Pruned
from nmtprune.runs.report import Cell, GatesOf, L0File, QualityOf, SlimOf, Unpruned, quality_of

DATA = "data"
JSON = "l0.json"
PLAN, SLIM, CHECKPOINTS = "plan.json", "slim.pt", "checkpoints"


@dataclass(frozen=True)
class Outcome:
    """The result of one lambda.

    Attributes:
        weight: lambda.
        folder: of its files, as the user would name it.
        checkpoint: the gated checkpoint that was taken.
        plan: the heads whose gates are open.
        gated: the metric of the gated model with its gates at test time.
        slim: the metric of the slim model.
        difference: of the slim model from the unpruned one.
        parameters: of the slim model.
    """

    weight: float
    folder: str
    checkpoint: str
    plan: Plan
    gated: float
    slim: float
    difference: Difference
    parameters: int

    def kept(self, architecture: Architecture) -> dict[str, int]:
        """Heads kept per kind of the model."""
        return {kind: self.plan.count_kept((kind,)) for kind in architecture.kinds}


@dataclass(frozen=True)
class Baseline:
    """The unpruned model: its attention, parameters, and the metric."""

    architecture: Architecture
    parameters: int
    value: float


def columns(metric: str, base: Baseline) -> tuple[str, ...]:
    """Columns of the table."""
    between = (f"{metric}_gated", f"{metric}_slim", "delta", "ci_low", "ci_high", "p", "parameters")
    return ("l0_weight", "kept", *base.architecture.kinds, *between)


def rows(base: Baseline, outcomes: Sequence[Outcome]) -> Iterator[tuple[Cell, ...]]:
    """A row of `columns` for every lambda, in full precision."""
    for each in outcomes:
        yield (
            each.weight, each.plan.count_kept(), *each.kept(base.architecture).values(), each.gated, each.slim,
            each.difference.delta, *each.difference.ci, each.difference.p, each.parameters,
        )  # fmt: skip


def l0_file(
    metric: str, base: Baseline, outcomes: Sequence[Outcome], facts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> L0File:
    """The table as ``l0.json`` has it."""
    unpruned = Unpruned(heads=base.architecture.count(), parameters=base.parameters, **quality_of(metric, base.value))
    return L0File(
        format="nmtprune-l0",
        version=1,
        metric=metric,
        **facts,
        unpruned=unpruned,
        runs=[_gates(metric, base, each) for each in outcomes],
        provenance=dict(provenance),
    )


def _gates(metric: str, base: Baseline, each: Outcome) -> GatesOf:
    return GatesOf(
        l0_weight=each.weight,
        folder=each.folder,
        checkpoint=each.checkpoint,
        kept=each.plan.count_kept(),
        kept_per_kind=each.kept(base.architecture),
        gated=QualityOf(**quality_of(metric, each.gated)),
        slim=SlimOf(parameters=each.parameters, **quality_of(metric, each.slim)),
        delta=each.difference.delta,
        ci=each.difference.ci,
        p=each.difference.p,
    )


def points(base: Baseline, outcomes: Sequence[Outcome]) -> list[Pruned]:
    """What the picture shows: the pruned models, each with the interval of its change around the unpruned value."""
    return [
        Pruned(
            f"{each.weight:g}",
            each.kept(base.architecture),
            each.slim,
            (base.value + each.difference.ci[0], base.value + each.difference.ci[1]),
        )
        for each in outcomes
    ]
