"""What comes out of `bench`: a row per model and batch size, as text, TSV, JSON and picture."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nmtprune.evaluate.speed import Spread
from nmtprune.plots import SpeedBar
from nmtprune.summary import model_bytes, parameter_count

if TYPE_CHECKING:
    from nmtprune.evaluate.metric import Scored
    from nmtprune.evaluate.significance import Difference
    from nmtprune.runs.bench.contenders import Contender, Timing
    from nmtprune.runs.bench.loop import BenchRun

Cell = str | int | float | None

COLUMNS = (
    "model", "batch_size", "sentences_per_second", "sentences_low", "sentences_high", "words_per_second", "ratio",
    "ratio_low", "ratio_high", "predicted", "certain", "peak_bytes", "latency_ms", "heads", "parameters", "model_bytes",
    "file_bytes", "bleu", "delta", "ci_low", "ci_high", "p",
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """All that was measured of one model.

    Attributes:
        name: its file, as the user named it.
        heads: real ones.
        parameters: numbers in its tensors.
        model_bytes: of these tensors.
        file_bytes: of the file.
        timings: by batch size.
        latency_ms: for one sentence alone; None where the engine is a process.
        bleu: None without references.
        difference: from the first model; None for that one, without references, and on too few sentences to test it.
    """

    name: str
    heads: int
    parameters: int
    model_bytes: int
    file_bytes: int
    timings: "tuple[Timing, ...]"
    latency_ms: Spread | None
    bleu: float | None
    difference: "Difference | None"

    @property
    def noisy(self) -> "list[Timing]":
        """Timings whose difference from the first model may be noise."""
        return [timing for timing in self.timings if not timing.ratio.certain]


@dataclass(frozen=True)
class Benched:
    """All models and how they were measured.

    Attributes:
        models: the first is what the others are compared with.
        facts: data, search, engine, and the metric's signature where there is one.
    """

    models: tuple[Model, ...]
    facts: Mapping[str, Any]

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """A row of COLUMNS for every model and batch size, in full precision."""
        for model in self.models:
            quality = _quality_cells(model)
            latency = model.latency_ms.median if model.latency_ms else None
            for timing in model.timings:
                rate, ratio = timing.sentences_per_second, timing.ratio
                yield (
                    model.name, timing.batch_size, rate.median, rate.low, rate.high, timing.words_per_second.median,
                    ratio.median, ratio.low, ratio.high, timing.predicted, ratio.certain, timing.peak_bytes, latency,
                    model.heads, model.parameters, model.model_bytes, model.file_bytes, *quality,
                )  # fmt: skip

    def to_tsv(self) -> str:
        """The rows as tab-separated values under a header line."""
        lines = [COLUMNS, *self.rows()]
        return "".join("\t".join("" if cell is None else str(cell) for cell in line) + "\n" for line in lines)

    def as_json(self) -> dict[str, Any]:
        """Everything in full precision."""
        return {
            "format": "nmtprune-bench",
            "version": 1,
            **self.facts,
            "models": [asdict(model) for model in self.models],
        }

    def to_json(self, provenance: Mapping[str, Any]) -> str:
        """The same as text, with where it comes from."""
        found = {**self.as_json(), "provenance": provenance}
        return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def bars(self) -> list[SpeedBar]:
        """What the picture shows."""
        return [
            SpeedBar(
                model.name, timing.batch_size, (timing.ratio.median, timing.ratio.low, timing.ratio.high),
                timing.predicted,
            )
            for model in self.models[1:] or self.models
            for timing in model.timings
        ]  # fmt: skip


def benched(
    run: "BenchRun",
    opened: "Sequence[Contender]",
    timings: "Sequence[Sequence[Timing]]",
    latencies: Sequence[Spread | None],
    quality: "tuple[list[Scored], list[Difference | None]] | None",
) -> Benched:
    """Put together what was measured."""
    nothing: list[None] = [None] * len(opened)
    scored: Sequence[Scored | None] = quality[0] if quality else nothing
    differences: Sequence[Difference | None] = quality[1] if quality else nothing
    models = [
        Model(
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
    ]
    facts: dict[str, Any] = {**opened[0].corpus.describe(), "engine": run.engine, "search": asdict(run.search)}
    facts |= {"threads": run.threads, "repeat": run.repeat, **run.facts}
    if scored[0] is not None:
        facts["signature"] = scored[0].metric.signature
    return Benched(tuple(models), facts)


def _quality_cells(model: Model) -> tuple[Cell, ...]:
    difference = model.difference
    if difference is None:
        return model.bleu, None, None, None, None
    return model.bleu, difference.delta, *difference.ci, difference.p
