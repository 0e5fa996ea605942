"""What comes out of `bench`: all that was measured of every model, and its table and picture."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nmtprune.evaluate.cost import Spread
from nmtprune.plots import SpeedBar
from nmtprune.runs.report import BenchedModel, BenchFile, Cell
from nmtprune.summary import model_bytes, parameter_count

if TYPE_CHECKING:
    from nmtprune.evaluate.metrics import Scored
    from nmtprune.evaluate.significance import Difference
    from nmtprune.runs.bench.contenders import Contender, Timing
    from nmtprune.runs.bench.loop import BenchRun

COLUMNS = (
    "model", "batch_size", "sentences_per_second", "sentences_low", "sentences_high", "words_per_second", "ratio",
    "ratio_low", "ratio_high", "predicted", "certain", "peak_bytes", "latency_ms", "heads", "parameters", "model_bytes",
    "file_bytes", "bleu", "delta", "ci_low", "ci_high", "p",
)  # fmt: skip


def rows(found: BenchFile) -> Iterator[tuple[Cell, ...]]:
    """A row of COLUMNS for every model and batch size, in full precision."""
    for model in found.models:
        quality = _quality_cells(model)
        latency = model.latency_ms.median if model.latency_ms else None
        for timing in model.timings:
            rate, ratio = timing.sentences_per_second, timing.ratio
            yield (
                model.name, timing.batch_size, rate.median, rate.low, rate.high, timing.words_per_second.median,
                ratio.median, ratio.low, ratio.high, timing.predicted, ratio.certain, timing.peak_bytes, latency,
                model.heads, model.parameters, model.model_bytes, model.file_bytes, *quality,
            )  # fmt: skip


def bars(found: BenchFile) -> list[SpeedBar]:
    """What the picture shows."""
    return [
        SpeedBar(
            model.name, timing.batch_size, (timing.ratio.median, timing.ratio.low, timing.ratio.high), timing.predicted
        )
        for model in found.models[1:] or found.models
        for timing in model.timings
    ]


def bench_file(
    run: "BenchRun",
    opened: "Sequence[Contender]",
    timings: "Sequence[Sequence[Timing]]",
    latencies: Sequence[Spread | None],
    quality: "tuple[list[Scored], list[Difference | None]] | None",
) -> BenchFile:
    """Put together what was measured."""
    nothing: list[None] = [None] * len(opened)
    scored: Sequence[Scored | None] = quality[0] if quality else nothing
    differences: Sequence[Difference | None] = quality[1] if quality else nothing
    models = tuple(
        BenchedModel(
            name=own.name,
            heads=own.checkpoint.architecture.count(),
            parameters=parameter_count(own.checkpoint),
            model_bytes=model_bytes(own.checkpoint),
            file_bytes=own.path.stat().st_size,
            timings=tuple(of_model),
            latency_ms=latency,
            bleu=None if score is None else score.score,
            difference=difference,
        )
        for own, of_model, latency, score, difference in zip(
            opened, timings, latencies, scored, differences, strict=True
        )
    )
    facts: dict[str, Any] = {**opened[0].corpus.describe(), "engine": run.engine, "search": asdict(run.search)}
    facts |= {"threads": run.threads, "repeat": run.repeat, **run.facts}
    if scored[0] is not None:
        facts["signature"] = scored[0].metric.signature
    return BenchFile(format="nmtprune-bench", version=1, **facts, models=models)


def _quality_cells(model: BenchedModel) -> tuple[Cell, ...]:
    difference = model.difference
    if difference is None:
        return model.bleu, None, None, None, None
    return model.bleu, difference.delta, *difference.ci, difference.p
