"""Classifiers that are compared: opened, checked to do the same work, and measured in turns on the same texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmtprune.data.directions import Sets
from nmtprune.errors import DataError, UsageError
from nmtprune.evaluate.cost import Lengths, Spread, by_part, in_turns, ratio
from nmtprune.runs.bench.contenders import LATENCY_SENTENCES, batches_of, watched
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.report import Timing
from nmtprune.runs.run import Session

if TYPE_CHECKING:
    from torch import Tensor

    from nmtprune.data.examples import Examples
    from nmtprune.engines import EngineSettings
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model import Classifier


@dataclass(frozen=True)
class LabelContender:
    """A classifier.

    Attributes:
        name: for people.
        checkpoint: what is in its file.
        examples: the texts as it reads them, the same for all.
    """

    name: str
    checkpoint: "Checkpoint"
    examples: "Examples"


def open_label_contenders(
    paths: Sequence[Path], data: Sets, corpora: Corpora, loaded: "Mapping[Path, Checkpoint]"
) -> list[LabelContender]:
    """The texts as every model reads them.

    Raises:
        DataError: models that translate, or of other labels or tokens than the first; bad data.
    """
    others = [str(path) for path in paths if not loaded[path].classifies]
    if others:
        raise DataError(f"models that do not do the same work: {', '.join(others)}: no classifier, but others are")
    found = [
        LabelContender(str(path), loaded[path], corpora.labelled(data, loaded[path].classifier_profile(), labels=False))
        for path in paths
    ]
    first = found[0].examples
    faults = []
    for own in found[1:]:
        if own.examples.label_names != first.label_names:
            faults.append(f"{own.name} has other labels than {found[0].name}")
        elif not _same_tokens(own.examples, first):
            faults.append(f"{own.name} splits the texts into other tokens than {found[0].name}")
    if faults:
        raise DataError.of_faults("models that do not do the same work", faults)
    return found


def _same_tokens(one: "Examples", other: "Examples") -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one.tokens, other.tokens))


def check_label_batches(examples: "Examples", batch_sizes: Sequence[int]) -> None:
    """Refuse batches that the texts do not fill.

    Raises:
        UsageError: there are fewer texts than that.
    """
    large = ", ".join(str(size) for size in batch_sizes if size > len(examples))
    if large:
        raise UsageError(f"--batch-size {large}: {examples.name} has only {len(examples)} texts")


def label_timings(
    contenders: Sequence[LabelContender],
    models: "Sequence[Classifier]",
    settings: "EngineSettings",
    rounds: int,
    session: Session,
) -> "tuple[list[Timing], list[Tensor]]":
    """Speed of every model at one batch size, measured in turns; and the logits [N, C] that it gives.

    Args:
        contenders: the models.
        models: their native models.
        settings: with a batch size as their limit.
        rounds: how often, after a warm-up.
        session: is told of every run.
    """
    size, texts, progress = settings.limits.max_sentences or 0, len(contenders[0].examples), session.progress
    progress.begin(f"batches of {size}", (rounds + 1) * len(contenders))
    peaks: list[int | None] = []

    each = [labelling(model, own.examples, size) for own, model in zip(contenders, models, strict=True)]
    jobs = [watched(job, len(each), peaks, settings.device) for job in each]

    def after(job: int, seconds: float) -> None:
        progress.advance(f"{contenders[job].name} {seconds:.2f} s")

    seconds, logits = in_turns(jobs, rounds, after)
    lengths = Lengths.of_texts(contenders[0].examples.tokens.sizes.tolist())
    work = [sum(by_part(model, lengths).values()) for model in models]
    found = [
        Timing(
            batch_size=size,
            seconds=tuple(own),
            sentences_per_second=Spread.of([texts / took for took in own]),
            words_per_second=None,
            ratio=ratio(seconds[0], own),
            predicted=work[0] / macs,
            peak_bytes=peak,
        )
        for own, macs, peak in zip(seconds, work, peaks, strict=True)
    ]
    return found, logits


def label_latencies(contenders: Sequence[LabelContender], models: "Sequence[Classifier]") -> list[Spread]:
    """Milliseconds for a text alone, the median over some of them, each with one model after the other."""
    from nmtprune.methods.measuring import drawn

    examples = drawn(contenders[0].examples, LATENCY_SENTENCES, 1)
    found: list[list[float]] = [[] for _ in models]
    for place in range(len(examples)):
        alone = examples.select(np.array([place]))
        seconds, _ = in_turns([labelling(model, alone, 1) for model in models], 1)
        for own, took in zip(found, seconds, strict=True):
            own.append(1000 * took[0])
    return [Spread.of(own) for own in found]


def labelling(model: "Classifier", examples: "Examples", size: int) -> "Callable[[], Tensor]":
    """Gives logits [N, C] to texts in batches of a size, in the order of the texts."""
    from nmtprune.engines.native_labels import LabelAblation

    ablation = LabelAblation(model, examples, batches_of(size))
    return lambda: ablation.logits([{}])[0]
