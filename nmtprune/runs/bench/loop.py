"""`bench`: speed, size and quality of several models, in turns on the same sentences."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, plots, provenance
from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError
from nmtprune.runs.baseline import carries_tests, check_translations, with_remarks
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.bench import results
from nmtprune.runs.collect import termination_as_interrupt
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import QualitySettings, text_metric, texts_of
from nmtprune.runs.report import BenchFile, Report, ReportFiles, tsv

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metrics import Scored, TextMetric
    from nmtprune.evaluate.significance import Difference, SignificanceTest
    from nmtprune.model.search.options import Hypothesis, Search
    from nmtprune.runs.bench.contenders import Contender
    from nmtprune.runs.progress import Progress


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
    found = results.bench_file(run, opened, timings, latencies, quality)
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
            tsv=tsv(results.COLUMNS, results.rows(found)),
            png=plots.speeds_png(results.bars(found)),
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
) -> "tuple[list[list[models.Timing]], list[list[list[Hypothesis]]]]":
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
    scored = [metric.scored(texts_of(corpus, models.best(found))) for found in translated]
    if not carries_tests(len(corpus), run.quality):
        return scored, [None] * len(scored)
    return scored, [None, *run.significance.compare(scored[0], scored[1:])]
