"""What lambdas have led to, as objects, table, file and picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nmtprune.architecture import NEURON_KINDS, Architecture
from nmtprune.evaluate.significance import Difference
from nmtprune.plan import Plan
from nmtprune.plots import Pruned
from nmtprune.runs.l0.lambda_trace import LambdaAt
from nmtprune.runs.report import GatesOf, L0File, QualityOf, Report, SlimOf, TraceOf, Unpruned, quality_of
from nmtprune.runs.tsv import Cell


@dataclass(frozen=True)
class Outcome:
    """The result of one lambda.

    Attributes:
        weight: lambda.
        folder: of its files, as the user would name it.
        checkpoint: the gated checkpoint that was taken.
        plan: the units whose gates are open.
        gated: the metric of the gated model with its gates at test time.
        slim: the metric of the slim model.
        difference: of the slim model from the unpruned one.
        parameters: of the slim model.
        expected: heads with gates that were open on average at the end of training; None where no heads had gates.
        trace: of lambda, where it adapts to a number of heads.
        macs: multiply-accumulates of the slim model as a share of the unpruned one's; None if only heads have gates.
    """

    weight: float
    folder: str
    checkpoint: str
    plan: Plan
    gated: float
    slim: float
    difference: Difference
    parameters: int
    expected: float | None = None
    macs: float | None = None
    trace: tuple[LambdaAt, ...] = ()

    def kept(self, architecture: Architecture) -> dict[str, int]:
        """Heads kept per kind of the model."""
        return {kind: self.plan.count_kept((kind,)) for kind in architecture.kinds}

    def kept_neurons(self, architecture: Architecture) -> dict[str, int]:
        """Neurons kept per kind of feed-forward layer."""
        return {kind: self.plan.count_kept((kind,)) for kind in architecture.neurons_by_kind()}


@dataclass(frozen=True)
class Baseline:
    """The unpruned model: its units, parameters, and the metric; and whether nothing but heads had gates."""

    architecture: Architecture
    parameters: int
    value: float
    heads_alone: bool = True


def l0_columns(metric: str, base: Baseline) -> tuple[str, ...]:
    """Columns of the table."""
    between = (f"{metric}_gated", f"{metric}_slim", "delta", "ci_low", "ci_high", "p", "parameters")
    return (
        "l0_weight",
        "kept",
        *base.architecture.kinds,
        *neuron_columns(base),
        *between,
        "expected_heads",
        "lambda_trace",
    )


def neuron_columns(base: Baseline) -> tuple[str, ...]:
    """Columns of neurons, where they have gates."""
    return () if base.heads_alone else ("neurons", *base.architecture.neurons_by_kind(), "macs")


def neuron_cells(base: Baseline, each: Outcome) -> tuple[Cell, ...]:
    """The same in the row of an outcome."""
    if base.heads_alone:
        return ()
    return each.plan.count_kept(NEURON_KINDS), *each.kept_neurons(base.architecture).values(), each.macs


def l0_rows(base: Baseline, outcomes: Sequence[Outcome]) -> Iterator[tuple[Cell, ...]]:
    """A row of `_columns` for every lambda, in full precision."""
    for each in outcomes:
        yield (
            *(each.weight, each.plan.count_kept(), *each.kept(base.architecture).values()),
            *(*neuron_cells(base, each), each.gated, each.slim),
            *(each.difference.delta, *each.difference.ci, each.difference.p, each.parameters, each.expected),
            " ".join(map(str, each.trace)) or None,
        )


def l0_file(
    metric: str, base: Baseline, outcomes: Sequence[Outcome], facts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> L0File:
    """The table as ``l0.json`` has it."""
    neurons = sum(group.units for group in base.architecture.feed_forwards)
    unpruned = Unpruned(
        heads=base.architecture.count(),
        **({} if base.heads_alone else {"neurons": neurons}),
        parameters=base.parameters,
        **quality_of(metric, base.value),
    )
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
    neurons: dict[str, Any] = (
        {}
        if base.heads_alone
        else {
            "kept_neurons": each.plan.count_kept(NEURON_KINDS),
            "kept_neurons_per_kind": each.kept_neurons(base.architecture),
            "macs": each.macs,
        }
    )
    return GatesOf(
        l0_weight=each.weight,
        folder=each.folder,
        checkpoint=each.checkpoint,
        kept=each.plan.count_kept(),
        kept_per_kind=each.kept(base.architecture),
        **neurons,
        expected_heads=each.expected,
        lambda_trace=[TraceOf(update=at.update, l0_weight=at.weight, expected_heads=at.expected) for at in each.trace]
        or None,
        gated=QualityOf(**quality_of(metric, each.gated)),
        slim=SlimOf(parameters=each.parameters, **quality_of(metric, each.slim)),
        delta=each.difference.delta,
        ci=each.difference.ci,
        p=each.difference.p,
    )


def l0_points(base: Baseline, outcomes: Sequence[Outcome]) -> list[Pruned]:
    """What the picture shows: the pruned models, each with the interval of its change around the unpruned value."""
    return [
        Pruned(
            f"{each.weight:g}",
            each.kept(base.architecture),
            each.slim,
            (base.value + each.difference.ci[0], base.value + each.difference.ci[1]),
            {} if base.heads_alone else each.kept_neurons(base.architecture),
            each.macs,
        )
        for each in outcomes
    ]


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
