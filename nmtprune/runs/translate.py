"""`translate`: sentences in, translations out, piece by piece, without any of the units on the fly."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.plan import Plan
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.run import Computing, Run, started
from nmtprune.runs.state import NO_SETTING

if TYPE_CHECKING:
    from nmtprune.architecture import Kept
    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Engine
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress


@dataclass(frozen=True, kw_only=True)
class TranslateRun(Run, Computing):
    """What `translate` is given: the sentences, and a model for them.

    Attributes:
        checkpoint: the model, full or slim.
        plan: heads and neurons that are not in this plan are masked, layers skipped.
        other_weights: the plan may be made for other weights of the same shape.
        limits: size of batches.
        buffer_size: sentences that are read, sorted by length and translated together.
        n_best: translations per sentence.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path
    plan: Path | None = None
    other_weights: bool = False
    limits: "BatchLimits"
    buffer_size: int
    n_best: int

    def check(self) -> None:
        """Refuse more translations per sentence than the search keeps."""
        if self.n_best > self.search.beam:
            raise UsageError(f"--n-best {self.n_best} is more than the --beam of {self.search.beam} hypotheses")


@dataclass(frozen=True)
class Translation:
    """A translation and its score: log-probability (natural logarithm), divided by length ** lenpen."""

    text: str
    score: float


def translate(run: TranslateRun, progress: "Progress") -> Iterator[tuple[Translation, ...]]:
    """The best translations of each sentence in the order of the input; none for a sentence that was left out.

    What can be wrong with options, checkpoint and plan is found before the first sentence is read. Remarks on the data
    and the number of sentences left out are noted.

    Raises:
        NmtpruneError: bad options, checkpoint, plan or data.
    """
    from nmtprune.data.corpus import stream_corpus

    # An engine may have temporary files and a process of its own, which must end with this one.
    with started(run, progress):
        checkpoint, engine, kept = _prepare(run)
        left_out = total = 0
        said: set[str] = set()
        for corpus in stream_corpus(run.data, checkpoint.profile(), run.buffer_size):
            for note in engine.remarks(corpus):
                if note not in said:
                    progress.note(f"{checkpoint.path}: {note}")
                said.add(note)
            for note in (*corpus.notes, *(() if total else check_direction(corpus))):
                progress.note(f"{corpus.name}: {note}")
            total, left_out = total + corpus.total, left_out + corpus.total - len(corpus)
            yield from _piece(run, engine, corpus, kept)
        if left_out:
            progress.note(f"{left_out} of {total} sentences were left out: an empty line stands for each")


def _prepare(run: TranslateRun) -> "tuple[Checkpoint, Engine, Kept]":
    """Checkpoint, engine and the units that the plan keeps."""
    from nmtprune.engines import open_engine
    from nmtprune.formats import load

    settings = run.in_batches(run.limits)
    checkpoint = load(run.checkpoint)
    kept: Kept = {}
    if run.plan is not None:
        plan = Plan.read(run.plan)
        plan.check(checkpoint.base, other_weights=run.other_weights, where=str(run.plan))
        kept = plan.kept_units
    return checkpoint, open_engine(run.engine, checkpoint, settings), kept


def _piece(run: TranslateRun, engine: "Engine", corpus: "Corpus", kept: "Kept") -> Iterator[tuple[Translation, ...]]:
    """Translations of consecutive sentences, nothing where one was left out."""
    found: list[tuple[Translation, ...]] = [()] * corpus.total
    translations = engine.translate(corpus, kept)
    for place, hypotheses in zip(corpus.numbers.tolist(), translations, strict=True):
        best = hypotheses[: run.n_best]
        found[place] = tuple(Translation(corpus.decode(each.tokens), each.score) for each in best)
    yield from found
