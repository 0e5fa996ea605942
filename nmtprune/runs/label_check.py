"""`check` of classifiers: quality and speed on texts with labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune.errors import UsageError
from nmtprune.runs.baseline import check_labels, with_remarks
from nmtprune.runs.bench import label_contenders as models
from nmtprune.runs.check_conditions import quality_condition, speed_condition
from nmtprune.runs.label_quality import label_metric, scored_logits
from nmtprune.runs.quality import check_metric
from nmtprune.runs.report import Condition
from nmtprune.runs.run import Session

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.examples import Examples
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Classifier
    from nmtprune.runs.check import CheckRun


def label_conditions(
    run: "CheckRun", loaded: "Mapping[Path, Checkpoint]", session: Session
) -> tuple[list[Condition], "Examples", dict[str, Any]]:
    """What came of each condition but size, quality first; the texts, and how was measured.

    Raises:
        UsageError: a metric of translations, texts without labels, options that mean nothing for classifiers.
        DataError: models of other tasks or tokens; a baseline that means nothing.
        EngineError: an engine that runs no classifier.
    """
    from nmtprune.engines.native_labels import open_labels

    paths = [run.baseline, run.checkpoint]
    opened = models.open_label_contenders(paths, run.data, session.corpora, loaded)
    examples, facts = _examples(run, opened[0]), dict[str, Any]()
    session.note(examples)
    settings = run.in_its_batches()
    built = [open_labels(own.checkpoint, run.engine, settings) for own in opened]
    found: list[Condition] = []
    logits: list[Tensor] = []
    if run.max_drop is not None:
        logits = _logits(opened, built, run.batch_size, session)
        metric = label_metric(examples, run.metric)
        session.remark(metric.signature)
        facts["signature"] = metric.signature
        found.append(_quality(run, run.max_drop, examples, logits, session))
    if run.min_speedup is not None:
        models.check_label_batches(examples, [run.batch_size])
        timings, _ = models.label_timings(opened, built, settings, run.repeat, session)
        found.append(speed_condition(run, run.min_speedup, timings[1]))
    return found, examples, {**examples.describe(), **facts}


def _examples(run: "CheckRun", baseline: models.LabelContender) -> "Examples":
    """The texts, with labels if a condition needs them, and remarks."""
    examples = baseline.examples
    if run.max_drop is None:
        return examples
    check_metric(baseline.checkpoint, run.metric)
    if examples.labels is None:
        raise UsageError("--max-drop needs labels: name their column with `label_column` NAME")
    return with_remarks(examples, run, tests=run.significant)


def _logits(
    opened: Sequence[models.LabelContender], built: "Sequence[Classifier]", size: int, session: Session
) -> "list[Tensor]":
    """Logits [N, C] of every model."""
    session.progress.begin("labels", len(opened))
    found = []
    for own, model in zip(opened, built, strict=True):
        found.append(models.labelling(model, own.examples, size)())
        session.progress.advance(own.name)
    return found


def _quality(
    run: "CheckRun", limit: float, examples: "Examples", logits: "Sequence[Tensor]", session: Session
) -> Condition:
    """Not worse than by the limit, of a baseline that means something."""
    metric = label_metric(examples, run.metric)
    scored = [scored_logits(metric, own, examples) for own in logits]
    for remark in check_labels(examples, scored[0], run, f"the baseline {run.baseline}"):
        session.remark(remark)
    return quality_condition(run, limit, scored)
