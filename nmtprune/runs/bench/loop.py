"""`bench`: speed, size and quality of several models, in turns on the same sentences."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, plots, provenance
from nmtprune.data.options import DataOptions
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.bench import results
from nmtprune.runs.collect import termination_as_interrupt
from nmtprune.runs.device import choose_device
from nmtprune.runs.report import BenchFile, Report, ReportFiles, tsv

if TYPE_CHECKING:
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metric import Scored
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
        bleu_tokenize: sacrebleu's tokenizer.
        lowercase: ignore case.
        force: replace outputs.
        names: of the models, where their files say nothing.
        facts: what else belongs into the result.
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
    bleu_tokenize: str
    lowercase: bool
    force: bool
    names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> ReportFiles | None:
        """The files that are written."""
        return None if self.output is None else ReportFiles.beside(self.output.with_suffix(".json"))

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [*self.checkpoints, *(path for path in (self.data.source, self.data.reference) if path)]

    def settings(self, batch_size: int) -> "EngineSettings":
        """What an engine must know."""
        return models.engine_settings(self.search, batch_size, self.device, self.threads)


def bench(run: BenchRun, progress: "Progress") -> BenchFile:
    """Measure all models, and write the files that were asked for.

    Raises:
        NmtpruneError: bad options, checkpoints or data; an engine that cannot run a model.
    """
    started = time.monotonic()
    for path in run.outputs or ():
        files.check_output(path, force=run.force, inputs=run.inputs)
    opened = models.open_contenders(run.checkpoints, run.data)
    if run.names:
        opened = [replace(own, name=name) for own, name in zip(opened, run.names, strict=True)]
    models.check_batches(opened[0].corpus, run.batch_sizes)
    for note in opened[0].corpus.notes:
        progress.note(f"{opened[0].corpus.name}: {note}")
    with termination_as_interrupt():
        timings, translated = _timed(run, opened, progress)
        progress.begin("single sentences", 1)
        latencies = models.latencies(opened, run.engine, run.settings(1))
        progress.advance("latency")
    quality = _quality(run, opened, translated)
    found = results.bench_file(run, opened, timings, latencies, quality)
    if run.outputs is not None:
        made = provenance.collect(
            seed=run.significance.seed,
            inputs=run.inputs,
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


def _timed(
    run: BenchRun, opened: "Sequence[Contender]", progress: "Progress"
) -> "tuple[list[list[models.Timing]], list[list[list[Hypothesis]]]]":
    """By model its timings at every batch size, and its translations with the first of them."""
    by_size = [models.timings(opened, run.engine, run.settings(size), run.repeat, progress) for size in run.batch_sizes]
    timings = [[found[0][number] for found in by_size] for number in range(len(opened))]
    return timings, by_size[0][1]


def _quality(
    run: BenchRun, opened: "Sequence[Contender]", translated: "list[list[list[Hypothesis]]]"
) -> "tuple[list[Scored], list[Difference | None]] | None":
    """BLEU of every model and its difference from the first; None without references."""
    corpus = opened[0].corpus
    if corpus.references is None:
        return None
    from nmtprune.evaluate.quality import Bleu

    metric = Bleu([corpus.references], tokenize=run.bleu_tokenize, lowercase=run.lowercase)
    texts = [[corpus.decode(best[0].tokens) if best else "" for best in found] for found in translated]
    scored = [metric.scored(own) for own in texts]
    return scored, [None, *run.significance.compare(scored[0], scored[1:])]
