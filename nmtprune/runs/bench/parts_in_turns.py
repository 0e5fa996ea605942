"""`bench --cost-table`: models with fewer heads, neurons, layers or words, each against the whole model in turns."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nmtprune import files, slim
from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, UNIFORM, Architecture, GroupId, Kept
from nmtprune.budget import listed
from nmtprune.errors import EngineError, UsageError
from nmtprune.evaluate.cost import CLOCKS, Spread, in_turns, ratio
from nmtprune.evaluate.milliseconds import Milliseconds, ModelSize, TimeAxis, TimePoint
from nmtprune.plan import Plan
from nmtprune.runs.bench.contenders import CTRANSLATE2, batches_of, check_compute_type
from nmtprune.runs.bench.random_sentences import fitting_profile, write_fitting
from nmtprune.runs.bench.synthetic import Shape, write_checkpoint
from nmtprune.runs.cost_table import CombinedPoint, CostTable, VocabularyPoint
from nmtprune.runs.run import BareRun, Computing, Session, started
from nmtprune.runs.state import NO_SETTING, check_state, pack, state_path

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines import EngineSettings
    from nmtprune.formats.base import Checkpoint
    from nmtprune.profile import ModelProfile
    from nmtprune.progress import Progress

_ENGINES = ("native", CTRANSLATE2)
_PADS_HEADS = (CTRANSLATE2,)
"""Engines that store all modules of a stack with as many heads as the largest of them has."""

_SHARES = (0.75, 0.5, 0.25)
_WIDE = 64
"""Neurons from which on widths are rounded to multiples of 8, which kernels like."""

_COMBINED = (
    (*KINDS, *NEURON_KINDS),
    (*KINDS, *NEURON_KINDS, "decoder-layers"),
    (*KINDS, *NEURON_KINDS, *LAYER_KINDS),
)
"""Kinds that lose half of their units together, by which the sum of the parts is checked."""

_FEWEST_WORDS = 8

Seconds = list[list[float]]
"""By model and round; the whole model comes first."""


@dataclass(frozen=True, kw_only=True)
class CostTableRun(BareRun, Computing):
    """What `bench --cost-table` is given.

    Attributes:
        checkpoint: the whole model; its weights do not matter.
        output: the JSON file.
        compute_type: precision of CTranslate2.
        batch_size: sentences per batch.
        sentences: random ones.
        source_length: their tokens.
        target_length: tokens of their translations, which are made to have them.
        repeat: rounds that are counted.
        seed: of the sentences.
        clock: one of `evaluate.cost.CLOCKS`; ``cpu`` for one thread on a busy machine.
    """

    checkpoint: Path = field(metadata=NO_SETTING)
    output: Path = field(metadata=NO_SETTING)
    compute_type: str = "float32"
    batch_size: int
    sentences: int
    source_length: int
    target_length: int
    repeat: int
    seed: int = 1
    clock: str = "wall"

    @property
    def inputs(self) -> list[Path]:
        """The checkpoint."""
        return [self.checkpoint]

    @property
    def state_path(self) -> Path:
        """Beside the output."""
        return state_path(self.output)

    def check(self) -> None:
        """Refuse engines that take no cut models in this process, and batches that are not filled."""
        faults = []
        if self.engine not in _ENGINES:
            faults.append(f"--cost-table times --engine {' or '.join(_ENGINES)}")
        if self.batch_size > self.sentences:
            faults.append(f"--batch-size {self.batch_size} is more than --sentences {self.sentences}")
        if faults:
            raise UsageError.of_faults("bench", faults)
        check_compute_type(self.engine, self.compute_type)
        _ = self.for_engine()

    def check_output(self) -> None:
        """Check the file, and that no interrupted run is forgotten."""
        if str(self.output) == "-":
            raise UsageError("-o -: a cost table takes minutes and is written to a file (--format json prints it too)")
        files.check_output(self.output, force=self.force, inputs=self.inputs)
        check_state(self.output, resume=self.resume, force=self.force)

    def for_engine(self) -> "EngineSettings":
        """What the engine must know: every translation has the length that is asked for."""
        from nmtprune.model.search.options import SearchOptions

        length = self.target_length
        search = SearchOptions(beam=self.search.beam, min_len=length, max_len_a=0.0, max_len_b=length)
        settings = self.in_batches(batches_of(self.batch_size))
        return replace(settings, search=search, compute_type=self.compute_type)


def cost_table(run: CostTableRun, progress: "Progress") -> CostTable:
    """Time all parts, and write the table.

    Raises:
        NmtpruneError: bad options or a bad checkpoint; an engine that cannot run the model.
        Interrupted: with `resume` the same command goes on.
    """
    from nmtprune.formats import load

    with started(run, progress) as session, tempfile.TemporaryDirectory(prefix="nmtprune-") as folder:
        checkpoint = load(run.checkpoint).without_optimizer()
        _check_lengths(run, checkpoint.profile())
        session.open_state({"CHECKPOINT": checkpoint.sha256, "--threads": run.threads})
        timer = _Timer(run, session, Path(folder))
        axes = _axes(checkpoint.architecture, padded=run.engine in _PADS_HEADS)
        mixed = _combinations(checkpoint.architecture)
        session.progress.begin_all("cost table", len(axes) + 2)
        parts = {name: timer.seconds(name, _cuts(checkpoint, axis.kept)) for name, axis in axes.items()}
        words = _vocabularies(checkpoint)
        vocabulary = timer.seconds("vocabulary", _small_models(checkpoint, words, Path(folder)))
        combined = timer.seconds("several kinds at once", _cuts(checkpoint, mixed))
        whole = Spread.of([1000 * took / run.sentences for own in (*parts.values(), combined) for took in own[0]])
        measured = tuple(axis.measured(parts[name]) for name, axis in axes.items())
        prices = Milliseconds(whole.median, measured, checkpoint.architecture)
        found = CostTable(
            format="nmtprune-cost-table",
            version=1,
            engine=run.engine,
            compute_type=run.compute_type if run.engine == CTRANSLATE2 else None,
            device=run.for_engine().device.type,
            threads=run.threads,
            batch_size=run.batch_size,
            beam=run.search.beam,
            sentences=run.sentences,
            source_length=run.source_length,
            target_length=run.target_length,
            repeat=run.repeat,
            clock=run.clock,
            model=ModelSize.of(checkpoint),
            milliseconds=whole,
            axes=measured,
            vocabulary=tuple(_vocabulary_points(words, vocabulary, run.sentences)),
            combined=tuple(_combined_points(mixed, combined, checkpoint.architecture, prices)),
            provenance=session.provenance(seed=run.seed, inputs=[run.checkpoint]),
        )
        files.write_text(run.output, found.to_json(), force=run.force, inputs=run.inputs)
        if session.state is not None:
            session.state.remove()
        return found


def _check_lengths(run: CostTableRun, profile: "ModelProfile") -> None:
    """Check that sentences and translations fit the model's positions, the symbols that end them included.

    Raises:
        UsageError: naming both lengths that do not.
    """
    tokens = profile.language_tokens
    added = 1 if tokens is not None and tokens.source and tokens.place != "ends" else 0
    faults = [
        f"{option} {length}: the model takes at most {most - 1} words"
        for option, length, most in (
            ("--source-length", run.source_length, _less(profile.max_source_positions, added)),
            ("--target-length", run.target_length, profile.max_target_positions),
        )
        if most is not None and length >= most
    ]
    if faults:
        raise UsageError.of_faults(str(run.checkpoint), faults)


def _less(positions: int | None, added: int) -> int | None:
    return None if positions is None else positions - added


@dataclass(frozen=True)
class _Axis:
    """Kinds of which fewer and fewer units are left.

    Attributes:
        kinds: of groups.
        padded: as `TimeAxis.padded`.
        lefts: shares of the units that are left.
        kept: what stays of the groups, for each share.
    """

    kinds: tuple[str, ...]
    padded: bool
    lefts: tuple[float, ...]
    kept: tuple[Kept, ...]

    def measured(self, seconds: Seconds) -> TimeAxis:
        """The points, from the seconds of the whole model and of these."""
        points = [TimePoint(left, ratio(own, seconds[0])) for left, own in zip(self.lefts, seconds[1:], strict=True)]
        return TimeAxis(self.kinds, self.padded, tuple(sorted(points, key=lambda point: point.left)))


class _Timer:
    """Times models in turns, and keeps what was timed."""

    def __init__(self, run: CostTableRun, session: Session, folder: Path) -> None:
        self._run, self._session, self._folder = run, session, folder
        self._settings = run.for_engine()
        self._corpora: dict[ModelProfile, Corpus] = {}

    def seconds(self, name: str, models: "Callable[[], list[Checkpoint]]") -> Seconds:
        """Seconds of every model in every round, from the state if they are there."""
        state, progress = self._session.state, self._session.progress
        if state is None:
            raise ValueError("a run without a state")
        if name not in state:
            state.add(name, pack({"seconds": np.array(self._timed(name, models()))}))
        progress.advance_all(1)
        return [own.tolist() for own in state[name]["seconds"]]

    def _timed(self, name: str, models: "Sequence[Checkpoint]") -> Seconds:
        from nmtprune.engines import open_engine

        rounds, progress = self._run.repeat, self._session.progress
        progress.begin(name, (rounds + 1) * len(models))
        jobs = []
        for checkpoint in models:
            engine, corpus = open_engine(self._run.engine, checkpoint, self._settings), self._corpus(checkpoint)
            jobs.append(lambda engine=engine, corpus=corpus: engine.translate(corpus, {}))
        clock = CLOCKS[self._run.clock]
        seconds, translated = in_turns(jobs, rounds, lambda _job, took: progress.advance(f"{name} {took:.2f} s"), clock)
        lengths = {len(found[0].tokens) if found else 0 for own in translated for found in own}
        if lengths != {self._run.target_length + 1}:
            raise EngineError(
                f"{self._run.checkpoint}: translations do not have the {self._run.target_length} tokens that they are "
                f"made to have (with the end of sentence they have {listed(sorted(lengths))}): their times cannot be "
                "compared"
            )
        return seconds

    def _corpus(self, checkpoint: "Checkpoint") -> "Corpus":
        """Sentences for a model; the same ones for models that ask for the same."""
        run, profile = self._run, fitting_profile(checkpoint.profile())
        if profile not in self._corpora:
            folder = self._folder / f"sentences-{len(self._corpora)}"
            data = write_fitting(folder, profile, run.sentences, run.source_length, run.seed)
            self._corpora[profile] = self._session.corpora.read(data, profile, references=False)
        return self._corpora[profile]


def _axes(architecture: Architecture, *, padded: bool) -> dict[str, _Axis]:
    """What is varied, by its name."""
    there = {id.kind for id, numbers in architecture.units.items() if numbers}
    stacks = [tuple(kind for kind in kinds if kind in there) for kinds in UNIFORM if kinds[0] in KINDS]
    heads = stacks if padded else [(kind,) for kind in KINDS if kind in there]
    found = {}
    for kinds in (*heads, *((kind,) for kind in (*NEURON_KINDS, *LAYER_KINDS) if kind in there)):
        axis = _axis(architecture, kinds, padded=padded and kinds in heads) if kinds else None
        if axis is not None:
            found[", ".join(kinds)] = axis
    return found


def _axis(architecture: Architecture, kinds: tuple[str, ...], *, padded: bool) -> _Axis | None:
    """Fewer and fewer units of some kinds; None where none can go."""
    units = {id: numbers for id, numbers in architecture.units.items() if id.kind in kinds}
    lowest = 0.0 if kinds[0] in KINDS else 1 / 8
    found: dict[float, Kept] = {}
    for share in (*_SHARES, lowest):
        kept = {id: _first(id, numbers, share, at_least_one=padded) for id, numbers in units.items()}
        left = sum(map(len, kept.values())) / sum(map(len, units.values()))
        if left < 1:
            found[left] = kept
    return _Axis(kinds, padded, tuple(found), tuple(found.values())) if found else None


def _first(id: GroupId, numbers: Sequence[int], share: float, *, at_least_one: bool) -> tuple[int, ...]:
    """The first units of a group, a share of them."""
    count = round(len(numbers) * share)
    if id.kind in NEURON_KINDS and len(numbers) >= _WIDE:
        count = round(len(numbers) * share / 8) * 8
    return tuple(numbers[: max(count, int(at_least_one or id.kind not in KINDS))])


def _combinations(architecture: Architecture) -> list[Kept]:
    """Models that lose units of several kinds."""
    found: list[Kept] = []
    for kinds in _COMBINED:
        units = {id: numbers for id, numbers in architecture.units.items() if id.kind in kinds and len(numbers) > 1}
        kept: Kept = {id: _first(id, numbers, 0.5, at_least_one=True) for id, numbers in units.items()}
        if kept and kept not in found:
            found.append(kept)
    return found


def _cuts(checkpoint: "Checkpoint", several: Sequence[Kept]) -> "Callable[[], list[Checkpoint]]":
    """The whole model, and those that are left of it."""

    def models() -> "list[Checkpoint]":
        plans = (Plan.of(checkpoint.base, checkpoint.architecture.full(kept)) for kept in several)
        return [checkpoint, *(slim.apply(plan, checkpoint) for plan in plans)]

    return models


def _vocabularies(checkpoint: "Checkpoint") -> list[int]:
    """Sizes of the target vocabulary, that of the model first."""
    words = checkpoint.profile().target_symbols or 0
    return [words, *(size for size in (words // 2, words // 4) if size >= _FEWEST_WORDS)]


def _small_models(
    checkpoint: "Checkpoint", vocabularies: Sequence[int], folder: Path
) -> "Callable[[], list[Checkpoint]]":
    """Models of the same width that are an output layer and hardly more."""
    from nmtprune.engines import native
    from nmtprune.formats import load

    def models() -> "list[Checkpoint]":
        width = native.load(checkpoint).decoder.output_width
        found = []
        for words in vocabularies:
            shape = Shape(width, ffn=8, heads=1, head_dim=8, encoder_layers=1, decoder_layers=1, vocab=words)
            path = folder / f"words-{words}.pt"
            write_checkpoint(shape, path, seed=1)
            found.append(load(path))
        return found

    return models


def _vocabulary_points(words: Sequence[int], seconds: Seconds, sentences: int) -> Iterator[VocabularyPoint]:
    for size, own in zip(words[1:], seconds[1:], strict=True):
        saved = [1000 * (before - after) / sentences for before, after in zip(seconds[0], own, strict=True)]
        yield VocabularyPoint(words=size, saved_ms=Spread.of(saved))


def _combined_points(
    mixed: Sequence[Kept], seconds: Seconds, architecture: Architecture, prices: Milliseconds
) -> Iterator[CombinedPoint]:
    for kept, own in zip(mixed, seconds[1:], strict=True):
        left: dict[str, list[tuple[int, int]]] = {}
        for id, units in kept.items():
            left.setdefault(id.kind, []).append((len(units), len(architecture.units[id])))
        shares = {kind: sum(own for own, _ in counts) / sum(all for _, all in counts) for kind, counts in left.items()}
        predicted = prices.total(kept) / prices.total({})
        yield CombinedPoint(left=shares, time=ratio(own, seconds[0]), predicted=predicted)
