"""Models that are compared: opened, checked to do the same work, and measured in turns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nmtprune.data.options import DataOptions
from nmtprune.errors import DataError, UsageError
from nmtprune.evaluate.cost import Spread, in_turns, multiply_accumulates, peak_memory, ratio
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.report import Timing
from nmtprune.runs.run import Session

if TYPE_CHECKING:
    import torch

    from nmtprune.data.batching import BatchLimits
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.engines.base import Engine
    from nmtprune.formats.base import Checkpoint
    from nmtprune.model.search.options import Hypothesis, Search

T = TypeVar("T")

CTRANSLATE2 = "ctranslate2"
"""The engine that computes in several precisions."""

IN_PROCESS = ("native", CTRANSLATE2)
"""Engines whose time for one sentence is that of the model: the others start a process each time."""

LATENCY_SENTENCES = 16
"""Sentences, or texts, that are timed alone."""


@dataclass(frozen=True)
class Contender:
    """A model.

    Attributes:
        name: for people.
        path: its file, as the user named it.
        checkpoint: what is in it.
        corpus: the sentences, the same for all.
    """

    name: str
    path: Path
    checkpoint: "Checkpoint"
    corpus: "Corpus"


def batches_of(sentences: int) -> "BatchLimits":
    """Batches of exactly that many sentences: fairseq would round larger ones."""
    from nmtprune.data.batching import BatchLimits

    return replace(BatchLimits.of(None, sentences), multiple=1)


def load_all(paths: Sequence[Path]) -> "dict[Path, Checkpoint]":
    """Load models, each file once."""
    from nmtprune.formats import load

    return {path: load(path) for path in dict.fromkeys(paths)}


def open_contenders(
    paths: Sequence[Path], data: DataOptions, corpora: Corpora, loaded: "Mapping[Path, Checkpoint] | None" = None
) -> list[Contender]:
    """Load models and the sentences, each file once; models that are `loaded` are not read again.

    Raises:
        DataError: models of other formats, vocabularies or languages than the first, or bad data.
        CheckpointError: a bad checkpoint.
    """
    loaded = load_all(paths) if loaded is None else loaded
    profiles = [loaded[path].profile() for path in paths]
    first, faults = profiles[0], []
    for path, own in zip(paths[1:], profiles[1:], strict=True):
        for what, mine, firsts in (
            ("toolkit", own.vocabulary_files, first.vocabulary_files),
            ("direction of reading (right-left)", own.right_to_left, first.right_to_left),
            ("source vocabulary", own.source_symbols, first.source_symbols),
            ("target vocabulary", own.target_symbols, first.target_symbols),
            ("source language", own.source_lang, first.source_lang),
            ("target language", own.target_lang, first.target_lang),
            ("set of language tokens", own.language_tokens, first.language_tokens),
            *([] if data.target_lang else [("forced_bos_token_id", own.first_word, first.first_word)]),
        ):
            if mine != firsts:
                faults.append(f"{path} has another {what} than {paths[0]}")
    if faults:
        raise DataError.of_faults("models that do not do the same work", faults)
    corpus = corpora.read(data, first, references=bool(data.reference))
    if corpus.references is None and corpus.target is not None:
        corpus = corpora.read(data, first)  # binarized references, which not every subset has
    return [Contender(str(path), path, loaded[path], corpus) for path in paths]


def open_engines(
    contenders: Sequence[Contender], engine: str, settings: "EngineSettings", session: Session
) -> "list[Engine]":
    """An engine for every model, with its remarks for the user.

    Raises:
        EngineError: the engine cannot run a model.
    """
    from nmtprune.engines import open_engine

    found = [open_engine(engine, own.checkpoint, settings) for own in contenders]
    for own, opened in zip(contenders, found, strict=True):
        for note in opened.remarks(own.corpus):
            session.remark(f"{own.name}: {note}")
    return found


def check_batches(corpus: "Corpus", batch_sizes: Sequence[int], engine: str, search: "Search") -> None:
    """Refuse batches that the sentences do not fill, and those that an engine would not make.

    Raises:
        UsageError: there are fewer sentences than that, or the engine would take them one by one.
    """
    from nmtprune.engines.base import LIMITED_BY_BATCH

    large = [size for size in batch_sizes if size > len(corpus)]
    if large:
        sizes = ", ".join(map(str, large))
        raise UsageError(f"--batch-size {sizes}: {corpus.name} has only {len(corpus)} sentences")
    several = [size for size in batch_sizes if size > 1]
    if several and engine in LIMITED_BY_BATCH and search.varies and not search.by_batch:
        sizes = ", ".join(map(str, several))
        raise UsageError(
            f"--batch-size {sizes}: --engine {engine} translates sentences one by one, since it limits the length of "
            f"translations by the longest source of a batch: give --{engine}-batch-length-limit, or --batch-size 1"
        )


def check_compute_type(engine: str, compute_type: str) -> None:
    """Refuse a precision that goes with another engine.

    Raises:
        UsageError: it does.
    """
    if engine != CTRANSLATE2 and compute_type != "float32":
        raise UsageError(f"--compute-type {compute_type} goes with --engine {CTRANSLATE2}")


def timings(
    contenders: Sequence[Contender],
    engine: str,
    settings: "EngineSettings",
    rounds: int,
    session: Session,
    first: "Callable[[list[list[Hypothesis]]], None] | None" = None,
) -> "tuple[list[Timing], list[list[list[Hypothesis]]]]":
    """Speed of every model at one batch size, measured in turns; and what they translate.

    Args:
        contenders: the models.
        engine: what runs them.
        settings: with a batch size as their limit.
        rounds: how often, after a warm-up.
        session: is told of every run.
        first: is given what the first model translates, as soon as it is there.

    Raises:
        EngineError: an engine cannot run a model.
    """
    batch_size = settings.limits.max_sentences or 0
    corpus = contenders[0].corpus
    engines, progress = open_engines(contenders, engine, settings, session), session.progress
    progress.begin(f"batches of {batch_size}", (rounds + 1) * len(engines))
    peaks: list[int | None] = []
    jobs = [watched(_translating(own, corpus), len(engines), peaks, settings.device, first) for own in engines]

    def after(job: int, seconds: float) -> None:
        progress.advance(f"{contenders[job].name} {seconds:.2f} s")

    seconds, translated = in_turns(jobs, rounds, after)
    if engine not in IN_PROCESS:
        peaks = [None] * len(peaks)
    words = [sum(len(corpus.decode(best[0].tokens).split()) for best in found if best) for found in translated]
    work = [_work(own, found, settings) for own, found in zip(contenders, translated, strict=True)]
    found = [
        Timing(
            batch_size=batch_size,
            seconds=tuple(own),
            sentences_per_second=Spread.of([len(corpus) / took for took in own]),
            words_per_second=Spread.of([count / took for took in own]),
            ratio=ratio(seconds[0], own),
            predicted=work[0] / macs,
            peak_bytes=peak,
        )
        for own, count, macs, peak in zip(seconds, words, work, peaks, strict=True)
    ]
    return found, translated


def watched(
    job: Callable[[], T],
    jobs: int,
    peaks: list[int | None],
    device: "torch.device",
    first: Callable[[T], None] | None = None,
) -> Callable[[], T]:
    """A job that adds its peak of memory in its first run, the warm-up; the first of all shows what it gives.

    Args:
        job: translates, or gives labels.
        jobs: how many there are.
        peaks: what they add to, in bytes.
        device: where they compute.
        first: is given what the first job gives, as soon as it is there.
    """

    def run() -> T:
        if len(peaks) == jobs:
            return job()
        with peak_memory(device) as peak:
            found = job()
        if first is not None and not peaks:
            first(found)
        peaks.append(peak.bytes)
        return found

    return run


def best(translated: "list[list[Hypothesis]]") -> list[tuple[int, ...]]:
    """Token ids of the best translation of each sentence; none where there is none."""
    return [found[0].tokens if found else () for found in translated]


def latencies(
    contenders: Sequence[Contender], engine: str, settings: "EngineSettings", session: Session
) -> list[Spread | None]:
    """Milliseconds for a sentence alone, the median over some of them, each with one model after the other."""
    from nmtprune.methods.measuring import drawn

    if engine not in IN_PROCESS:
        return [None] * len(contenders)
    corpus = drawn(contenders[0].corpus, LATENCY_SENTENCES, 1)
    engines = open_engines(contenders, engine, settings, session)
    found: list[list[float]] = [[] for _ in engines]
    for place in range(len(corpus)):
        alone = _one(corpus, place)
        seconds, _ = in_turns([_translating(own, alone) for own in engines], 1)
        for own, took in zip(found, seconds, strict=True):
            own.append(1000 * took[0])
    return [Spread.of(own) for own in found]


def _translating(engine: "Engine", corpus: "Corpus") -> "Callable[[], list[list[Hypothesis]]]":
    return lambda: engine.translate(corpus, {})


def _one(corpus: "Corpus", place: int) -> "Corpus":
    import numpy as np

    only = np.array([place])
    target = None if corpus.target is None else corpus.target.select(only)
    return replace(
        corpus, source=corpus.source.select(only), target=target, references=None, numbers=np.array([0]), total=1
    )


def _work(contender: Contender, translated: "list[list[Hypothesis]]", settings: "EngineSettings") -> float:
    """Multiply-accumulates of the translations that a model made."""
    from nmtprune.engines import native

    targets = [len(found[0].tokens) if found else 1 for found in translated]
    model = native.load(contender.checkpoint)
    parts = multiply_accumulates(model, contender.corpus.source.sizes.tolist(), targets, settings.search.beam)
    return sum(parts.values())
