"""`bench`: speed, size and quality of several models, in turns on the same sentences; its table and its picture."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, plots, provenance
from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Spread
from nmtprune.plots import SpeedBar
from nmtprune.process import termination_as_interrupt
from nmtprune.runs.baseline import carries_tests, check_translations, with_remarks
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import text_metric
from nmtprune.runs.report import BenchedModel, BenchFile, Cell, Report, ReportFiles, Timing, tsv
from nmtprune.runs.run import QualitySettings
from nmtprune.summary import model_bytes, parameter_count

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metrics import Scored, TextMetric
    from nmtprune.evaluate.significance import Difference, SignificanceTest
    from nmtprune.model.search.options import Hypothesis, Search
    from nmtprune.progress import Progress
    from nmtprune.runs.bench.contenders import Contender


@dataclass(frozen=True)
class BenchRun:
    """What `bench` is asked for.

    Attributes:
        checkpoints: the models; others are compared with the first.
        data: sentences; quality is measured where they have references.
        output: the JSON file, beside which table and picture go; None writes nothing.
        search: how translations are searched.
        batch_sizes: sentences per batch.
        engine: what runs the models.
        device: as `--device` names it.
        threads: CPU threads; None leaves the number to the engine.
        repeat: rounds that are counted.
        significance: how differences of quality are tested.
        quality: BLEU, and on how weak grounds it is compared.
        force: replace outputs.
        names: of the models, where their files say nothing.
        facts: what else belongs into the result.
        given: options that only quality has a use for, as the user gave them.
    """

    checkpoints: tuple[Path, ...]
    data: DataOptions
    output: Path | None
    search: "Search"
    batch_sizes: tuple[int, ...]
    engine: str
    device: str
    threads: int | None
    repeat: int
    significance: "SignificanceTest"
    quality: QualitySettings
    force: bool
    names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    given: Sequence[str] = ()

    @property
    def outputs(self) -> ReportFiles | None:
        """The files that are written."""
        if self.output is None:
            return None
        named = self.output.suffix == ".json"
        return ReportFiles.beside(self.output if named else self.output.with_name(f"{self.output.name}.json"))

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [*self.checkpoints, *self.data.texts]

    def settings(self, batch_size: int) -> "EngineSettings":
        """What an engine must know."""
        return models.engine_settings(self.search, batch_size, self.device, self.threads)


def bench(run: BenchRun, progress: "Progress") -> BenchFile:
    """Measure all models, and write the files that were asked for.

    Raises:
        NmtpruneError: bad options, checkpoints or data; an engine that cannot run a model.
    """
    started = time.monotonic()
    if str(run.output) == "-":
        raise UsageError("-o -: table and picture go beside the result: name a file (--format json prints it too)")
    for path in run.outputs or ():
        files.check_output(path, force=run.force, inputs=run.inputs)
    opened = models.open_contenders(run.checkpoints, run.data)
    if run.names:
        opened = [replace(own, name=name) for own, name in zip(opened, run.names, strict=True)]
    corpus = opened[0].corpus
    models.check_batches(corpus, run.batch_sizes, run.engine, run.search)
    metric = _metric(run, corpus)
    if metric is not None:
        corpus = with_remarks(corpus, run.quality, tests=False)
    for note in corpus.notes:
        progress.note(f"{corpus.name}: {note}")
    with termination_as_interrupt():
        timings, translated = _timed(run, opened, metric, progress)
        progress.begin("single sentences", 1)
        latencies = models.latencies(opened, run.engine, run.settings(1))
        progress.advance("latency")
    quality = None if metric is None else _quality(run, corpus, metric, translated)
    found = bench_file(run, opened, timings, latencies, quality)
    if run.outputs is not None:
        made = provenance.collect(
            seed=run.significance.seed,
            inputs=[path for path in run.inputs if path != STDIN],
            data=dict(corpus.inputs),
            seconds=round(time.monotonic() - started, 3),
            device=str(choose_device(run.device)),
        )
        report = Report(
            json=found.model_copy(update={"provenance": made}).to_json(),
            tsv=tsv(COLUMNS, rows(found)),
            png=plots.speeds_png(bars(found)),
        )
        report.write(run.outputs, force=run.force, inputs=run.inputs)
    return found


def _metric(run: BenchRun, corpus: "Corpus") -> "TextMetric | None":
    """BLEU where there are references.

    Raises:
        UsageError: there are none, but options of it.
    """
    if corpus.references is not None:
        return text_metric(corpus, run.quality)
    faults = [f"{name} goes with references (--reference FILE)" for name in run.given]
    if faults:
        raise UsageError.of_faults("bench", faults)
    return None


def _timed(
    run: BenchRun, opened: "Sequence[Contender]", metric: "TextMetric | None", progress: "Progress"
) -> "tuple[list[list[Timing]], list[list[list[Hypothesis]]]]":
    """By model its timings at every batch size, and its translations with the first of them."""

    def look(found: "list[list[Hypothesis]]") -> None:
        first = opened[0]
        for remark in check_translations(
            first.corpus, metric, models.best(found), run.search, run.quality, f"the baseline {first.name}"
        ):
            progress.note(remark)

    # Made-up models translate to the length that is asked for, which says nothing.
    checks = [None if run.names else look, *[None] * (len(run.batch_sizes) - 1)]
    by_size = [
        models.timings(opened, run.engine, run.settings(size), run.repeat, progress, first)
        for size, first in zip(run.batch_sizes, checks, strict=True)
    ]
    timings = [[found[0][number] for found in by_size] for number in range(len(opened))]
    return timings, by_size[0][1]


def _quality(
    run: BenchRun, corpus: "Corpus", metric: "TextMetric", translated: "list[list[list[Hypothesis]]]"
) -> "tuple[list[Scored], list[Difference | None]]":
    """BLEU of every model and its difference from the first; none on so few sentences that it means nothing."""
    scored = [metric.scored(corpus.texts(models.best(found))) for found in translated]
    if not carries_tests(len(corpus), run.quality):
        return scored, [None] * len(scored)
    return scored, [None, *run.significance.compare(scored[0], scored[1:])]


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
