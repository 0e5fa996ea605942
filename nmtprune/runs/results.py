"""From the statistics of ablated models to scores with their significance, and to rows of a table."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nmtprune import plots
from nmtprune.architecture import HeadId, ModuleId
from nmtprune.evaluate.metrics import Scored
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.runs.report import Cell, Report, tsv
from nmtprune.scores import HeadScore, Scores

Mode = Literal["ablate", "all-but-one"]

ABLATE: Mode = "ablate"
ALL_BUT_ONE: Mode = "all-but-one"

TSV_COLUMNS = (
    "data", "head", "kind", "layer", "index", "score", "delta", "ci_low", "ci_high", "p", "p_corrected",
    "p_sacrebleu", "significant",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What a metric says of the full model and of models with heads masked, on one set of sentences.

    Attributes:
        baseline: the full model.
        masked: by head: the model without it, or without the others of its module.
        facts: how and on what it was measured, JSON values.
    """

    baseline: Scored
    masked: Mapping[HeadId, Scored]
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

    def values(self, mode: Mode) -> dict[HeadId, float]:
        """The scores of `scores` alone, which takes no test."""
        sign = 1 if mode == ALL_BUT_ONE else -1
        return {head: sign * (scored.score - self.baseline.score) + 0.0 for head, scored in self.masked.items()}

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


def best_head(module: ModuleId, masked: Mapping[HeadId, Scored]) -> HeadId:
    """The head of a module that does best alone; the first of those that do equally well."""
    return max(
        (head for head in sorted(masked) if head.module == module), key=lambda head: masked[head].score
    )  # fmt: skip


def best_heads(scores: Scores) -> dict[ModuleId, HeadScore]:
    """The highest-scored head of every module, the first of equals."""
    best: dict[ModuleId, HeadScore] = {}
    for entry in scores.heads:
        known = best.get(entry.id.module)
        if known is None or entry.score > known.score:
            best[entry.id.module] = entry
    return best


def rows(scores: Scores) -> Iterator[tuple[Cell, ...]]:
    """One row of TSV_COLUMNS per head, in full precision; those of the test data last."""
    parts = [(scores.baseline, scores.heads)]
    if scores.test is not None:
        parts.append((scores.test.baseline, scores.test.heads))
    for baseline, heads in parts:
        test = baseline.get("significance")
        for entry in heads:
            module, (low, high) = entry.id.module, entry.ci or (None, None)
            significant = None if entry.p_corrected is None or not test else int(entry.p_corrected < test["alpha"])
            yield (
                baseline["data"], entry.head, module.kind, module.layer, entry.id.head, entry.score, entry.delta,
                low, high, entry.p, entry.p_corrected, entry.p_sacrebleu, significant,
            )  # fmt: skip


def report(scores: Scores) -> Report:
    """The score file, its table and its picture."""
    alpha = scores.baseline.get("significance", {}).get("alpha", 0.0)
    return Report(json=scores.to_json(), tsv=tsv(TSV_COLUMNS, rows(scores)), png=plots.scores_png(scores, alpha=alpha))
