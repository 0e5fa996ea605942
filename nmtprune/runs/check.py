"""`check`: the verdict on a slim model, for pipelines: quality, speed and size against a baseline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.data.directions import Directions, in_direction
from nmtprune.data.mixture import Mixture
from nmtprune.errors import UsageError
from nmtprune.runs.baseline import check_translations, with_remarks
from nmtprune.runs.bench import contenders as models
from nmtprune.runs.check_conditions import quality_condition, speed_condition
from nmtprune.runs.device import choose_device
from nmtprune.runs.quality import check_metric, text_metric
from nmtprune.runs.report import CheckAnswer, Condition
from nmtprune.runs.run import LABELS, Computing, QualitySettings, Run, Session, Testing, started

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.evaluate.metrics import TextMetric
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.search.options import Hypothesis
    from nmtprune.progress import Progress
    from nmtprune.runs.bench.contenders import Contender


@dataclass(frozen=True, kw_only=True)
class CheckRun(Run, Computing, QualitySettings, Testing):
    """What `check` is given: sentences, with references if there is a condition of quality.

    Attributes:
        checkpoint: the model in question.
        baseline: what it is compared with.
        max_drop: points of the metric that it may be worse; None: no such condition.
        significant: the drop must be smaller with confidence, not only on these sentences.
        min_speedup: how many times as fast it must be at least; None: no such condition.
        max_size: percent of the baseline's bytes that its tensors may have at most; None: no such condition.
        batch_size: sentences per batch.
        repeat: rounds of timing that are counted.
        compute_type: precision of CTranslate2.
        needs_drop: options that mean nothing without `max_drop`, as the user gave them.
        needs_speedup: options that mean nothing without `min_speedup`, likewise.
    """

    checkpoint: Path
    baseline: Path
    max_drop: float | None = None
    significant: bool = False
    min_speedup: float | None = None
    max_size: float | None = None
    batch_size: int
    repeat: int
    compute_type: str = "float32"
    needs_drop: tuple[str, ...] = ()
    needs_speedup: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse to run without a condition, conditions that mean nothing, and options that no condition needs."""
        faults = []
        if self.max_drop is None and self.significant:
            faults.append("--significant goes with --max-drop X: without a margin any damage passes on few sentences")
        elif self.max_drop is None and self.min_speedup is None and self.max_size is None:
            faults.append("name at least one condition: --max-drop, --min-speedup or --max-size")
        for option, value in (("--max-drop", self.max_drop), ("--min-speedup", self.min_speedup)):
            if value is not None and not 0 <= value < float("inf"):
                faults.append(f"{option} {value:g} is not a number from 0 on")
        if self.max_size is not None and not 0 < self.max_size < float("inf"):
            faults.append(f"--max-size {self.max_size:g} is not a positive number of percent")
        for option, value, names in (
            ("--max-drop", self.max_drop, self.needs_drop),
            ("--min-speedup", self.min_speedup, self.needs_speedup),
        ):
            faults += [f"{name} goes with {option}" for name in names if value is None]
        faults += self.faults()
        if faults:
            raise UsageError.of_faults("check", faults)
        models.check_compute_type(self.engine, self.compute_type)
        _ = choose_device(self.device), self.significance

    def in_its_batches(self) -> "EngineSettings":
        """What an engine must know."""
        return replace(self.in_batches(models.batches_of(self.batch_size)), compute_type=self.compute_type)


@dataclass(frozen=True)
class _Part:
    """The models on one set of sentences.

    Attributes:
        direction: its name; empty for the only one.
        opened: baseline and checkpoint.
        corpus: the sentences.
        metric: of the condition of quality; None without one.
    """

    direction: str
    opened: "Sequence[Contender]"
    corpus: "Corpus"
    metric: "TextMetric | None"


def check(run: CheckRun, progress: "Progress") -> CheckAnswer:
    """Evaluate every condition, in every direction: each of them must hold.

    Raises:
        UsageError: no condition, or conditions that mean nothing.
        NmtpruneError: bad checkpoints or data; an engine that cannot run a model.
    """
    with started(run, progress) as session:
        loaded = models.load_all([run.baseline, run.checkpoint])
        if any(checkpoint.classifies for checkpoint in loaded.values()):
            from nmtprune.runs.label_check import label_conditions

            conditions, examples, measured = label_conditions(run, loaded, session)
            read = dict(examples.inputs)
        else:
            conditions, measured, read = _translation_conditions(run, loaded, session)
        if run.max_size is not None:
            conditions.append(_size(run.max_size, [loaded[path] for path in (run.baseline, run.checkpoint)]))
        made = session.provenance(seed=run.seed, inputs=[run.baseline, run.checkpoint], data=read)
    return CheckAnswer(
        format="nmtprune-check",
        version=1,
        passed=all(condition.passed for condition in conditions),
        conditions=tuple(conditions),
        checkpoint=str(run.checkpoint),
        baseline=str(run.baseline),
        **measured,
        engine=run.engine,
        provenance=made,
    )


def _translation_conditions(
    run: CheckRun, loaded: "Mapping[Path, Checkpoint]", session: Session
) -> tuple[list[Condition], dict[str, Any], dict[str, str]]:
    """What came of each condition but size, in every direction; how was measured, and what was read."""
    if run.metric in LABELS and run.max_drop is not None:
        check_metric(loaded[run.baseline], run.metric)
    parts = _parts(run, loaded, session)
    for line in dict.fromkeys(part.metric.signature for part in parts if part.metric is not None):
        session.progress.note(line)
    for part in parts:
        session.note(part.corpus)
    conditions = [condition for part in parts for condition in _conditions(run, part, session)]
    read = {path: sha for part in parts for path, sha in part.corpus.inputs.items()}
    return conditions, {**_facts(parts), "search": asdict(run.search)}, read


def _parts(run: CheckRun, loaded: "Mapping[Path, Checkpoint]", session: Session) -> list[_Part]:
    """The models on every set of sentences; everything that is wrong with one shows before anything is computed."""
    paths = [run.baseline, run.checkpoint]
    if not isinstance(run.data, Directions):
        return [_part(run, "", models.open_contenders(paths, run.data, session.corpora, loaded))]
    found = []
    for name, data in run.data.sets.items():
        with in_direction(name):
            found.append(_part(run, name, models.open_contenders(paths, data, session.corpora, loaded)))
    return found


def _part(run: CheckRun, direction: str, opened: "Sequence[Contender]") -> _Part:
    corpus, metric = opened[0].corpus, None
    if run.max_drop is not None:
        if corpus.references is None:
            raise UsageError("--max-drop needs references: name --reference FILE")
        metric = text_metric(corpus, run)
        corpus = with_remarks(corpus, run, tests=run.significant)
    if run.min_speedup is not None:
        models.check_batches(corpus, [run.batch_size], run.engine, run.search)
    return _Part(direction, opened, corpus, metric)


def _facts(parts: Sequence[_Part]) -> dict[str, Any]:
    """On what and how was measured."""
    each: dict[str, dict[str, Any]] = {part.direction: {**part.corpus.describe()} for part in parts}
    for part in parts:
        each[part.direction] |= {} if part.metric is None else {"signature": part.metric.signature}
    if len(parts) == 1 and not parts[0].direction:
        return each[""]
    return {**Mixture.of({part.direction: part.corpus for part in parts}).describe(), "directions": each}


def _conditions(run: CheckRun, part: _Part, session: Session) -> list[Condition]:
    """What came of each condition but size, quality first; models are timed before, and their translations used."""
    opened, corpus, metric = part.opened, part.corpus, part.metric
    found: list[Condition] = []
    translated: list[list[list[Hypothesis]]] = []
    check_first = _baseline_check(run, corpus, metric, session)
    if run.min_speedup is not None:
        settings = run.in_its_batches()
        timings, translated = models.timings(opened, run.engine, settings, run.repeat, session, check_first)
        found.append(speed_condition(run, run.min_speedup, timings[1]))
    if metric is not None and run.max_drop is not None:
        translated = translated or _translated(run, opened, session, check_first)
        found.insert(0, _quality(run, run.max_drop, corpus, metric, translated))
    if not part.direction:
        return found
    where = part.direction
    return [each.model_copy(update={"direction": where, "says": f"{where}: {each.says}"}) for each in found]


def _baseline_check(
    run: CheckRun, corpus: "Corpus", metric: "TextMetric | None", session: Session
) -> "Callable[[list[list[Hypothesis]]], None]":
    """What looks at the baseline's translations before anything else is done."""

    def look(found: "list[list[Hypothesis]]") -> None:
        for remark in check_translations(
            corpus, metric, models.best(found), run.search, run, f"the baseline {run.baseline}"
        ):
            session.remark(remark)

    return look


def _translated(
    run: CheckRun,
    opened: "Sequence[Contender]",
    session: Session,
    first: "Callable[[list[list[Hypothesis]]], None]",
) -> "list[list[list[Hypothesis]]]":
    engines = models.open_engines(opened, run.engine, run.in_its_batches(), session)
    session.progress.begin("translate", len(opened))
    found = []
    for own, engine in zip(opened, engines, strict=True):
        found.append(engine.translate(own.corpus, {}))
        if len(found) == 1:
            first(found[0])
        session.progress.advance(own.name)
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
    return quality_condition(run, limit, scored)


def _size(limit: float, checkpoints: "Sequence[Checkpoint]") -> Condition:
    """Tensors of the model on both sides: to drop the optimizer gains nothing."""
    from nmtprune.summary import model_bytes

    before, after = map(model_bytes, checkpoints)
    share = 100 * after / before
    says = f"{after:,} of {before:,} bytes of tensors, {share:.1f} %; may be {limit:g} %"
    return Condition(option="--max-size", limit=limit, value=share, interval=None, passed=share <= limit, says=says)
