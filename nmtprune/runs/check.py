"""`check`: the verdict on a slim model, for pipelines: quality, speed and size against a baseline."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.process import termination_as_interrupt
from nmtprune.runs import quality
from nmtprune.runs.baseline import carries_tests, check_translations, with_remarks
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.report import CheckAnswer, Condition, Timing
from nmtprune.runs.run import QualitySettings

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metrics import TextMetric
    from nmtprune.evaluate.significance import SignificanceTest
    from nmtprune.model.search.options import Hypothesis, Search
    from nmtprune.progress import Progress
    from nmtprune.runs.bench.contenders import Contender


@dataclass(frozen=True)
class CheckRun:
    """What `check` is asked for.

    Attributes:
        checkpoint: the model in question.
        baseline: what it is compared with.
        data: sentences, with references where quality is asked for.
        quality: the metric, and on how weak grounds there is a verdict.
        max_drop: so many points of the metric it may be worse; None: not asked for.
        significant: the drop must be smaller with confidence, not only on these sentences.
        min_speedup: so many times as fast it must be; None: not asked for.
        max_size: so many percent of the baseline's bytes its tensors may have; None: not asked for.
        search: how translations are searched.
        batch_size: sentences per batch.
        engine: what runs the models.
        device: as `--device` names it.
        threads: CPU threads; None leaves the number to the engine.
        repeat: rounds of timing that are counted.
        significance: resamples and seed of the interval.
        given: options that only `max_drop` (first) or `min_speedup` (second) has a use for, as the user gave them.
    """

    checkpoint: Path
    baseline: Path
    data: DataOptions
    quality: QualitySettings
    max_drop: float | None
    significant: bool
    min_speedup: float | None
    max_size: float | None
    search: "Search"
    batch_size: int
    engine: str
    device: str
    threads: int | None
    repeat: int
    significance: "SignificanceTest"
    given: tuple[Sequence[str], Sequence[str]] = ((), ())

    def settings(self) -> "EngineSettings":
        """What an engine must know."""
        return models.engine_settings(self.search, self.batch_size, self.device, self.threads)


def check(run: CheckRun, progress: "Progress") -> CheckAnswer:
    """Evaluate every condition.

    Raises:
        UsageError: no condition, or conditions that mean nothing.
        NmtpruneError: bad checkpoints or data; an engine that cannot run a model.
    """
    _check_options(run)
    opened = models.open_contenders([run.baseline, run.checkpoint], run.data)
    corpus = opened[0].corpus
    metric = None
    if run.max_drop is not None:
        if corpus.references is None:
            raise UsageError("--max-drop needs references: name --reference FILE")
        metric = quality.text_metric(corpus, run.quality)
        corpus = with_remarks(corpus, run.quality, tests=run.significant)
        progress.note(metric.signature)
    if run.min_speedup is not None:
        models.check_batches(corpus, [run.batch_size], run.engine, run.search)
    for note in corpus.notes:
        progress.note(f"{corpus.name}: {note}")
    conditions: list[Condition] = []
    with termination_as_interrupt():
        translated: list[list[list[Hypothesis]]] = []
        check_first = _baseline_check(run, corpus, metric, progress)
        if run.min_speedup is not None:
            timings, translated = models.timings(opened, run.engine, run.settings(), run.repeat, progress, check_first)
            conditions.append(_speed(run, run.min_speedup, timings[1]))
        if metric is not None and run.max_drop is not None:
            translated = translated or _translated(run, opened, progress, check_first)
            conditions.insert(0, _quality(run, run.max_drop, corpus, metric, translated))
    if run.max_size is not None:
        conditions.append(_size(run.max_size, opened))
    facts: dict[str, Any] = {"checkpoint": str(run.checkpoint), "baseline": str(run.baseline), **corpus.describe()}
    facts |= {} if metric is None else {"signature": metric.signature}
    return CheckAnswer(
        format="nmtprune-check",
        version=1,
        passed=all(condition.passed for condition in conditions),
        conditions=tuple(conditions),
        **facts,
        engine=run.engine,
        search=asdict(run.search),
    )


def _check_options(run: CheckRun) -> None:
    faults = []
    if run.max_drop is None and run.significant:
        faults.append("--significant goes with --max-drop X: without a margin any damage passes on few sentences")
    elif run.max_drop is None and run.min_speedup is None and run.max_size is None:
        faults.append("name at least one condition: --max-drop, --min-speedup or --max-size")
    for option, value in (("--max-drop", run.max_drop), ("--min-speedup", run.min_speedup)):
        if value is not None and not 0 <= value < float("inf"):
            faults.append(f"{option} {value:g} is not a number from 0 on")
    if run.max_size is not None and not 0 < run.max_size < float("inf"):
        faults.append(f"--max-size {run.max_size:g} is not a positive number of percent")
    for option, value, names in zip(
        ("--max-drop", "--min-speedup"), (run.max_drop, run.min_speedup), run.given, strict=True
    ):
        faults += [f"{name} goes with {option}" for name in names if value is None]
    faults += run.quality.faults()
    if faults:
        raise UsageError.of_faults("check", faults)


def _baseline_check(
    run: CheckRun, corpus: "Corpus", metric: "TextMetric | None", progress: "Progress"
) -> "Callable[[list[list[Hypothesis]]], None]":
    """What looks at the baseline's translations before anything else is done."""

    def look(found: "list[list[Hypothesis]]") -> None:
        for remark in check_translations(
            corpus, metric, models.best(found), run.search, run.quality, f"the baseline {run.baseline}"
        ):
            progress.note(remark)

    return look


def _translated(
    run: CheckRun,
    opened: "Sequence[Contender]",
    progress: "Progress",
    first: "Callable[[list[list[Hypothesis]]], None]",
) -> "list[list[list[Hypothesis]]]":
    from nmtprune.engines import open_engine

    progress.begin("translate", len(opened))
    found = []
    for own in opened:
        found.append(open_engine(run.engine, own.checkpoint, run.settings()).translate(own.corpus, {}))
        if len(found) == 1:
            first(found[0])
        progress.advance(str(own.path))
    return found


def _quality(
    run: CheckRun,
    limit: float,
    corpus: "Corpus",
    metric: "TextMetric",
    translated: "list[list[list[Hypothesis]]]",
) -> Condition:
    """Not worse than by the limit; with `significant` a test of non-inferiority."""
    scored = [metric.scored(corpus.texts(models.best(found))) for found in translated]
    (difference,) = run.significance.compare(scored[0], scored[1:])
    low, high = difference.ci
    held = low if run.significant else difference.delta
    passed = held > -limit if run.significant else held >= -limit
    against = f"lower end {low:+.2f} of the 95 % interval" if run.significant else "the change"
    must = f"must be {'above' if run.significant else 'at least'} {-limit:g}"
    values = f"{metric.name} {scored[0].score:.2f} -> {scored[1].score:.2f}, change {difference.delta:+.2f}"
    interval = difference.ci if carries_tests(len(corpus), run.quality) else None
    if interval is not None:
        values = f"{values} ({low:+.2f} to {high:+.2f})"
    says = f"{values}; {against} {must}"
    return Condition(option="--max-drop", limit=limit, value=held, interval=interval, passed=passed, says=says)


def _speed(run: CheckRun, limit: float, timing: "Timing") -> Condition:
    """Surely as fast as asked for: the interval must not reach below the limit."""
    ratio = timing.ratio
    passed = ratio.low >= limit
    says = (
        f"{ratio.median:.3f} times as fast ({ratio.low:.3f} to {ratio.high:.3f} in {run.repeat} rounds, batches of "
        f"{run.batch_size}); must be at least {limit:g}"
    )
    if not passed and ratio.high >= limit:
        says += "; the machine is too noisy to tell (--repeat takes more rounds)"
    return Condition(
        option="--min-speedup",
        limit=limit,
        value=ratio.median,
        interval=(ratio.low, ratio.high),
        passed=passed,
        says=says,
    )


def _size(limit: float, opened: "Sequence[Contender]") -> Condition:
    """Tensors of the model on both sides: to drop the optimizer gains nothing."""
    from nmtprune.summary import model_bytes

    before, after = (model_bytes(own.checkpoint) for own in opened)
    share = 100 * after / before
    says = f"{after:,} of {before:,} bytes of tensors, {share:.1f} %; may be {limit:g} %"
    return Condition(option="--max-size", limit=limit, value=share, interval=None, passed=share <= limit, says=says)
