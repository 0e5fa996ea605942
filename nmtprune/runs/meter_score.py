"""`score --metric importance|confidence`: heads scored in one pass over the sentences, without masking any."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune import files, provenance
from nmtprune.architecture import HeadId, parse_kinds
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.process import termination_as_interrupt
from nmtprune.runs import results
from nmtprune.runs.device import choose_device
from nmtprune.runs.meters import IMPORTANCE, Meter, MeterSettings, check_native, confidence_meter, importance_meter
from nmtprune.runs.report import ReportFiles
from nmtprune.runs.run import MeasureSettings
from nmtprune.runs.state import check_state
from nmtprune.runs.workers import processes
from nmtprune.scores import HeadScore, Scores

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress


@dataclass(frozen=True)
class MeterRun:
    """What `score` is asked for, where nothing is masked.

    Attributes:
        checkpoint: the model.
        data: sentences.
        output: the score file; a table and a picture go beside it.
        measure: the metric's name, device, batches, and the search where translations are asked for.
        meters: how importance and confidence are measured.
        kinds: comma-separated; None for all that the model has.
        seed: of the sentences that are drawn.
        force: replace outputs.
    """

    checkpoint: Path
    data: DataOptions
    output: Path
    measure: MeasureSettings
    meters: MeterSettings
    kinds: str | None
    seed: int
    force: bool

    @property
    def outputs(self) -> ReportFiles:
        """The files that are written."""
        return ReportFiles.beside(self.output)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *self.data.texts]


def score(run: MeterRun, progress: "Progress") -> Scores | None:
    """Score every head and write the files; None in processes that do not lead, which have nothing to do.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint or data, before any long work.
    """
    own = processes()
    with own.ending_together(), termination_as_interrupt():
        scores = _score(run, progress) if own.leads else None
        own.finish()
    return scores


def _prepare(run: MeterRun, progress: "Progress") -> tuple[Meter, tuple[HeadId, ...]]:
    """What measures, and the heads to report; everything that can be wrong is found here."""
    from nmtprune.formats import load

    name = run.measure.metric
    run.measure.check_settings()
    check_native(name, run.measure, run.meters)
    if str(run.output) == "-":
        raise UsageError("-o -: a table and a picture go beside the output: name a file (--format json prints it too)")
    for output in run.outputs:
        files.check_output(output, force=run.force, inputs=run.inputs)
    check_state(run.output, resume=False, force=run.force)
    choose_device(run.measure.device)
    checkpoint = load(run.checkpoint)
    architecture = checkpoint.architecture
    kinds = architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)
    if not architecture.head_ids(kinds):
        raise UsageError(f"{run.checkpoint}: there is no head to score ({', '.join(kinds) or 'the model has none'})")
    meter = _meter(run, checkpoint)
    for note in meter.corpus.notes:
        progress.note(f"{meter.corpus.name}: {note}")
    return meter, architecture.head_ids(kinds)


def _score(run: MeterRun, progress: "Progress") -> Scores:
    started = time.monotonic()
    name = run.measure.metric
    meter, heads = _prepare(run, progress)
    progress.begin(name, 1)
    found = meter.normalized(meter.importance()) if name == IMPORTANCE else meter.confidence()
    scores = Scores(
        metric=name,
        mode="ablate",
        baseline=meter.facts(name),
        heads=tuple(HeadScore(head=str(head), score=found[head]) for head in heads),
        base=meter.checkpoint.base,
        provenance=provenance.collect(
            seed=run.seed if name == IMPORTANCE and run.meters.importance_sentences is not None else None,
            checkpoint=str(run.checkpoint),
            data=dict(meter.corpus.inputs),
            seconds=round(time.monotonic() - started, 3),
            device=str(choose_device(run.measure.device)),
        ),
    )
    results.report(scores).write(run.outputs, force=run.force, inputs=run.inputs)
    return scores


def _meter(run: MeterRun, checkpoint: "Checkpoint") -> Meter:
    if run.measure.metric == IMPORTANCE:
        return importance_meter(checkpoint, run.data, run.meters, run.measure, run.seed)
    return confidence_meter(checkpoint, run.data, run.meters, run.measure)
