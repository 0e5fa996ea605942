"""`bench`: speed, size and quality of several models, in turns on the same sentences; its table and its picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import plots
from nmtprune.data.options import DataOptions
from nmtprune.data.text import STDIN
from nmtprune.errors import UsageError
from nmtprune.evaluate.cost import Spread
from nmtprune.evaluate.label_metrics import Accuracy
from nmtprune.plots import SpeedBar
from nmtprune.runs.baseline import carries_tests, check_labels, check_translations, with_remarks
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.bench import label_contenders as label_models
from nmtprune.runs.bench.contenders import CTRANSLATE2
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import text_metric
from nmtprune.runs.report import BenchedModel, BenchFile, Report, ReportFiles, Timing
from nmtprune.runs.run import Computing, QualitySettings, Run, Session, Testing, check_report, started
from nmtprune.runs.state import NO_SETTING
from nmtprune.runs.tsv import Cell, tsv
from nmtprune.summary import model_bytes, parameter_count

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.corpus import Corpus
    from nmtprune.data.examples import Examples
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metrics import Scored, TextMetric
    from nmtprune.evaluate.significance import Difference
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.search.options import Hypothesis
    from nmtprune.progress import Progress
    from nmtprune.runs.bench.contenders import Contender


@dataclass(frozen=True, kw_only=True)
class BenchRun(Run, Computing, QualitySettings, Testing):
    """What `bench` is given: sentences, on which quality is compared if they have references.

    Attributes:
        checkpoints: the models; others are compared with the first.
        output: the JSON file, next to which table and picture go; None writes nothing.
        batch_sizes: sentences per batch.
        repeat: rounds that are counted.
        names: of the models, where their files say nothing.
        facts: what else belongs into the result.
        needs_references: options that mean nothing without references, as the user gave them.
        compute_type: precision of CTranslate2.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    metric: str = "bleu"
    checkpoints: tuple[Path, ...]
    output: Path | None = None
    batch_sizes: tuple[int, ...]
    repeat: int
    names: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    needs_references: tuple[str, ...] = ()
    compute_type: str = "float32"

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
        return [*self.checkpoints, *super().inputs]

    def check(self) -> None:
        """Refuse a device that is not there, values that no test can have, and a precision of no engine."""
        models.check_compute_type(self.engine, self.compute_type)
        _ = choose_device(self.device), self.significance

    def check_output(self) -> None:
        """Check the files, if any are written."""
        if self.output is not None and self.outputs is not None:
            check_report(self.output, self.outputs, self)

    def batches_of(self, sentences: int) -> "EngineSettings":
        """What an engine must know."""
        return replace(self.in_batches(models.batches_of(sentences)), compute_type=self.compute_type)


def bench(run: BenchRun, progress: "Progress") -> BenchFile:
    """Measure all models, and write the files that the user named.

    Raises:
        NmtpruneError: bad options, checkpoints or data; an engine that cannot run a model.
    """
    with started(run, progress) as session:
        loaded = models.load_all(run.checkpoints)
        if any(checkpoint.classifies for checkpoint in loaded.values()):
            return bench_labels(run, loaded, session)
        opened = models.open_contenders(run.checkpoints, run.data, session.corpora, loaded)
        if run.names:
            opened = [replace(own, name=name) for own, name in zip(opened, run.names, strict=True)]
        corpus = opened[0].corpus
        models.check_batches(corpus, run.batch_sizes, run.engine, run.search)
        metric = _metric(run, corpus)
        if metric is not None:
            corpus = with_remarks(corpus, run, tests=False)
        session.note(corpus)
        timings, translated = _timed(run, opened, metric, session)
        progress.begin("single sentences", 1)
        latencies = models.latencies(opened, run.engine, run.batches_of(1), session)
        progress.advance("latency")
        quality = None if metric is None else _quality(run, corpus, metric, translated)
        facts = {**opened[0].corpus.describe(), "engine": run.engine, "search": asdict(run.search)}
        measured = _Measured(timings, latencies, quality)
        found = _bench_file(run, [(own.name, own.checkpoint) for own in opened], facts, "bleu", measured)
        _write(run, found, corpus.inputs, session)
        return found


def bench_labels(run: BenchRun, loaded: "Mapping[Path, Checkpoint]", session: Session) -> BenchFile:
    """The same of classifiers, on texts, with labels or not."""
    from nmtprune.engines.native_labels import open_labels

    _refuse_options_of_translation(run)
    opened = label_models.open_label_contenders(run.checkpoints, run.data, session.corpora, loaded)
    examples = opened[0].examples
    label_models.check_label_batches(examples, run.batch_sizes)
    labelled = examples.labels is not None
    if labelled:
        examples = with_remarks(examples, replace(run, metric=Accuracy.name), tests=False)
    elif run.needs_references:
        faults = [f"{name} goes with labels (--label-column NAME)" for name in run.needs_references]
        raise UsageError.of_faults("bench", faults)
    session.note(examples)
    built = [open_labels(own.checkpoint, run.engine, run.batches_of(1)) for own in opened]
    by_size = [
        label_models.label_timings(opened, built, run.batches_of(size), run.repeat, session) for size in run.batch_sizes
    ]
    timings = [[found[0][number] for found in by_size] for number in range(len(opened))]
    session.progress.begin("single texts", 1)
    latencies = label_models.label_latencies(opened, built)
    session.progress.advance("latency")
    quality = _accuracies(run, opened[0].name, examples, by_size[0][1], session) if labelled else None
    facts = {**examples.describe(), "engine": run.engine}
    measured = _Measured(timings, latencies, quality)
    found = _bench_file(run, [(own.name, own.checkpoint) for own in opened], facts, Accuracy.name, measured)
    _write(run, found, examples.inputs, session)
    return found


def _refuse_options_of_translation(run: BenchRun) -> None:
    """Refuse options that mean nothing for classifiers.

    Raises:
        UsageError: naming all of them.
    """
    named = [name for name in run.needs_references if name in ("--bleu-tokenize", "--lowercase")]
    if named:
        raise UsageError(f"bench: {', '.join(named)}: of translations, and {run.checkpoints[0]} is a classifier")


def _accuracies(
    run: BenchRun, baseline: str, examples: "Examples", logits: "Sequence[Tensor]", session: Session
) -> "_Quality":
    """Accuracy of every model and its difference from the first; none on so few texts that it means nothing."""
    metric = Accuracy(examples.targets, len(examples.label_names))
    scored = [metric.scored(own.argmax(1).numpy()) for own in logits]
    for remark in check_labels(examples, scored[0], replace(run, allow_bad_baseline=True), f"the baseline {baseline}"):
        session.remark(remark)
    if not carries_tests(len(examples), run):
        return scored, [None] * len(scored)
    return scored, [None, *run.significance.compare(scored[0], scored[1:])]


def _write(run: BenchRun, found: BenchFile, data: Mapping[str, str], session: Session) -> None:
    """Write the files that the user named."""
    if run.outputs is None:
        return
    inputs = [path for path in run.inputs if path != STDIN]
    made = session.provenance(seed=run.seed, inputs=inputs, data=dict(data))
    report = Report(
        json=found.model_copy(update={"provenance": made}).to_json(),
        tsv=tsv(columns(found), rows(found)),
        png=plots.speeds_png(_bars(found)),
    )
    report.write(run.outputs, force=run.force, inputs=run.inputs)


def _metric(run: BenchRun, corpus: "Corpus") -> "TextMetric | None":
    """BLEU where there are references.

    Raises:
        UsageError: there are none, but options of it.
    """
    if corpus.references is not None:
        return text_metric(corpus, run)
    faults = [f"{name} goes with references (--reference FILE)" for name in run.needs_references]
    if faults:
        raise UsageError.of_faults("bench", faults)
    return None


def _timed(
    run: BenchRun, opened: "Sequence[Contender]", metric: "TextMetric | None", session: Session
) -> "tuple[list[list[Timing]], list[list[list[Hypothesis]]]]":
    """By model its timings at every batch size, and its translations with the first of them."""

    def look(found: "list[list[Hypothesis]]") -> None:
        first = opened[0]
        for remark in check_translations(
            first.corpus, metric, models.best(found), run.search, run, f"the baseline {first.name}"
        ):
            session.remark(remark)

    # Made-up models translate to the length that is asked for, which says nothing.
    checks = [None if run.names else look, *[None] * (len(run.batch_sizes) - 1)]
    by_size = [
        models.timings(opened, run.engine, run.batches_of(size), run.repeat, session, first)
        for size, first in zip(run.batch_sizes, checks, strict=True)
    ]
    timings = [[found[0][number] for found in by_size] for number in range(len(opened))]
    return timings, by_size[0][1]


def _quality(
    run: BenchRun, corpus: "Corpus", metric: "TextMetric", translated: "list[list[list[Hypothesis]]]"
) -> "_Quality":
    """BLEU of every model and its difference from the first; none on so few sentences that it means nothing."""
    scored = [metric.scored(corpus.texts(models.best(found))) for found in translated]
    if not carries_tests(len(corpus), run):
        return scored, [None] * len(scored)
    return scored, [None, *run.significance.compare(scored[0], scored[1:])]


COLUMNS = (
    "model", "batch_size", "sentences_per_second", "sentences_low", "sentences_high", "words_per_second", "ratio",
    "ratio_low", "ratio_high", "predicted", "certain", "peak_bytes", "latency_ms", "heads", "parameters", "model_bytes",
    "file_bytes", "bleu", "delta", "ci_low", "ci_high", "p",
)  # fmt: skip


def columns(found: BenchFile) -> tuple[str, ...]:
    """COLUMNS, of classifiers with accuracy in the place of BLEU."""
    return tuple(found.metric if name == "bleu" else name for name in COLUMNS)


def rows(found: BenchFile) -> Iterator[tuple[Cell, ...]]:
    """A row of `columns` for every model and batch size, in full precision."""
    for model in found.models:
        quality = _quality_cells(model, found.metric)
        latency = model.latency_ms.median if model.latency_ms else None
        for timing in model.timings:
            rate, ratio = timing.sentences_per_second, timing.ratio
            yield (
                model.name, timing.batch_size, rate.median, rate.low, rate.high,
                None if timing.words_per_second is None else timing.words_per_second.median,
                ratio.median, ratio.low, ratio.high, timing.predicted, ratio.certain, timing.peak_bytes, latency,
                model.heads, model.parameters, model.model_bytes, model.file_bytes, *quality,
            )  # fmt: skip


def _bars(found: BenchFile) -> list[SpeedBar]:
    """What the picture shows."""
    return [
        SpeedBar(
            model.name, timing.batch_size, (timing.ratio.median, timing.ratio.low, timing.ratio.high), timing.predicted
        )
        for model in found.models[1:] or found.models
        for timing in model.timings
    ]


_Quality = tuple[list["Scored"], list["Difference | None"]]
"""The metric of every model, and its difference from the first."""


@dataclass(frozen=True)
class _Measured:
    """All that was measured of models.

    Attributes:
        timings: by model and batch size.
        latencies: by model.
        quality: by model; None without references or labels.
    """

    timings: "Sequence[Sequence[Timing]]"
    latencies: Sequence[Spread | None]
    quality: "_Quality | None"


def _bench_file(
    run: BenchRun,
    opened: "Sequence[tuple[str, Checkpoint]]",
    facts: Mapping[str, Any],
    metric: str,
    measured: _Measured,
) -> BenchFile:
    """Put together what was measured of models by their names."""
    nothing: list[None] = [None] * len(opened)
    scored: Sequence[Scored | None] = measured.quality[0] if measured.quality else nothing
    differences: Sequence[Difference | None] = measured.quality[1] if measured.quality else nothing
    models = tuple(
        BenchedModel(
            name=name,
            heads=checkpoint.architecture.count(),
            parameters=parameter_count(checkpoint),
            model_bytes=model_bytes(checkpoint),
            file_bytes=checkpoint.file_bytes,
            timings=tuple(of_model),
            latency_ms=latency,
            difference=difference,
            **{"bleu": None, metric: None if score is None else score.score},
        )
        for (name, checkpoint), of_model, latency, score, difference in zip(
            opened, measured.timings, measured.latencies, scored, differences, strict=True
        )
    )
    facts = {**facts, "threads": run.threads, "repeat": run.repeat, **run.facts}
    facts |= {"compute_type": run.compute_type} if run.engine == CTRANSLATE2 else {}
    if scored[0] is not None:
        facts["signature"] = scored[0].metric.signature
    return BenchFile(format="nmtprune-bench", version=1, **facts, models=models)


def _quality_cells(model: BenchedModel, metric: str) -> tuple[Cell, ...]:
    difference, value = model.difference, getattr(model, metric)
    if difference is None:
        return value, None, None, None, None
    return value, difference.delta, *difference.ci, difference.p
