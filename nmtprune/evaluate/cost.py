"""What translations and labels of texts cost: seconds, memory, multiply-accumulates from widths, depths and lengths.

Models are timed in turns, so that what slows one down slows all down.
"""

import ctypes
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from nmtprune.architecture import GroupId, UnitId

if TYPE_CHECKING:
    import torch

    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Engine
    from nmtprune.model import Model
    from nmtprune.model.layers import DecoderLayer, EncoderLayer, Layer

T = TypeVar("T")

_COVERAGE = 0.95
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""What seconds may be of: time that passes, or time of the processor, which other programs hardly change."""

PARTS = ("encoder attention", "decoder attention", "cross attention", "recurrence", "feed-forward", "output")


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and an interval for it.

    The interval has ends that are measurements themselves and covers the true median with 95 %, whatever the
    distribution; of five or fewer measurements it is their range (five: 94 %).
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """From at least one measurement."""
        ordered = sorted(values)
        outside = _outside(len(ordered))
        return cls(statistics.median(ordered), ordered[outside], ordered[-1 - outside])

    @property
    def certain(self) -> bool:
        """For a ratio: whether it is above 1 or below 1, and not just noise."""
        return not self.low <= 1 <= self.high


def _outside(count: int) -> int:
    """How many measurements lie outside the interval on either side."""
    from scipy.stats import binom

    found = 0
    while found + 1 < count - 1 - found and 1 - 2 * binom.cdf(found, count, 0.5) >= _COVERAGE:
        found += 1
    return found


def ratio(first: Sequence[float], other: Sequence[float]) -> Spread:
    """By how much less time the other took, from the seconds of both round by round: above 1 it is faster."""
    return Spread.of([before / after for before, after in zip(first, other, strict=True)])


def in_turns(
    jobs: Sequence[Callable[[], T]],
    rounds: int,
    after: Callable[[int, float], None] = lambda _job, _seconds: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[list[float]], list[T]]:
    """Seconds of every job in every round, each round one job after the other, and what each gave in the warm-up.

    Args:
        jobs: what is timed.
        rounds: how often, after one round that is not counted.
        after: is told of every run that ended, warm-up included: which job, and its seconds.
        clock: gives seconds, one of CLOCKS.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    results: list[T] = []
    for number in range(rounds + 1):
        for job, run in enumerate(jobs):
            started = clock()
            result = run()
            took = clock() - started
            if number:
                seconds[job].append(took)
            else:
                results.append(result)
            after(job, took)
    return seconds, results


def words_per_second(engines: "Sequence[Engine]", corpus: "Corpus", rounds: int) -> list[float]:
    """Words of translations per second, the median over rounds; each round has every engine once, after a warm-up.

    Words are those of the detokenized text.

    Args:
        engines: the models, ready to run.
        corpus: what they translate.
        rounds: how often; at least once.
    """
    jobs = [lambda engine=engine: engine.translate(corpus, {}) for engine in engines]
    seconds, translations = in_turns(jobs, rounds)
    words = [sum(len(corpus.decode(best[0].tokens).split()) for best in found if best) for found in translations]
    return [Spread.of([count / took for took in own]).median for count, own in zip(words, seconds, strict=True)]


@dataclass
class Peak:
    """Bytes above what was taken before; None where the system does not tell, or while it is being measured."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: "torch.device") -> Iterator[Peak]:
    """Measure a block: memory of the GPU, or of the process on a CPU (Linux only)."""
    found = Peak()
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    _give_back()
    try:
        _RESET.write_text("5")  # the peak is now what is taken now
        start = _status("VmRSS")
    except (OSError, StopIteration):
        yield found
        return
    yield found
    found.bytes = max(0, _status("VmHWM") - start)


def _give_back() -> None:
    """Return memory that is free to the system: what the process still holds would not count when it is used again."""
    gc.collect()
    with suppress(AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


@dataclass(frozen=True)
class Lengths:
    """How much of each kind of work translations of given lengths make, summed over sentences, without padding.

    The answer of a classifier is one word long, its label.

    Attributes:
        sources: source tokens.
        source_pairs: pairs of source tokens, which self-attention compares.
        steps: words of all hypotheses.
        target_pairs: a word and one of the words up to it, likewise.
        crossed: a word and a source token.
    """

    sources: float
    source_pairs: float
    steps: float
    target_pairs: float
    crossed: float

    @classmethod
    def of(cls, sources: Sequence[int], targets: Sequence[int], beam: int = 1) -> "Lengths":
        """Of sentences with S tokens each and their translations of T tokens, all with the end-of-sentence symbol.

        Args:
            sources: S of each sentence; zeros for a language model.
            targets: T of each translation.
            beam: hypotheses per sentence, in every step of its translation.
        """
        return cls(
            sources=float(sum(sources)),
            source_pairs=float(sum(length * length for length in sources)),
            steps=float(beam * sum(targets)),
            target_pairs=beam * sum(length * (length + 1) / 2 for length in targets),
            crossed=float(beam * sum(a * b for a, b in zip(sources, targets, strict=True))),
        )

    @classmethod
    def of_texts(cls, sizes: Sequence[int]) -> "Lengths":
        """Of texts of a classifier with S tokens each."""
        return cls.of(sizes, [1] * len(sizes))

    @classmethod
    def together(cls, parts: "Sequence[Lengths]") -> "Lengths":
        """Of several sets of sentences."""
        return cls(*(math.fsum(own) for own in zip(*map(astuple, parts), strict=True)))


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one sublayer, or of what is no part of a layer.

    Attributes:
        part: one of PARTS.
        each: of one unit.
        units: how many the model computes, padding included; 1 for what has none.
        group: what the units belong to; None for what has none.
        layer: that the work goes with; None for what stays in any case.
    """

    part: str
    each: float
    units: int = 1
    group: GroupId | None = None
    layer: UnitId | None = None


def multiply_accumulates(model: "Model", sources: Sequence[int], targets: Sequence[int], beam: int) -> dict[str, float]:
    """Multiply-accumulates by part of the model: projections, attention, feed-forward and output layer.

    Widths and depths are those of the model's tensors: of ragged, padded and masked models what they really compute.
    Every sentence counts with its own lengths, without padding; every step of its translation has `beam` hypotheses.

    Args:
        model: a translation model, a language model or a classifier.
        sources: S of each sentence, the end-of-sentence symbol included; zeros for a language model.
        targets: T of each translation, likewise.
        beam: hypotheses per sentence.
    """
    return by_part(model, Lengths.of(sources, targets, beam))


def by_part(model: "Model", lengths: Lengths) -> dict[str, float]:
    """Multiply-accumulates by part of the model, as `multiply_accumulates`."""
    found = dict.fromkeys(PARTS, 0.0)
    for work in works(model, lengths):
        found[work.part] += work.each * work.units
    return found


def works(model: "Model", lengths: Lengths) -> Iterator[Work]:
    """All that a model computes; what tied layers compute, once for each of their positions."""
    from nmtprune.model import Classifier

    if model.encoder is not None:
        for layer in cast("Iterable[EncoderLayer]", model.encoder.layers):
            yield _self_attention("encoder", layer, lengths.sources, lengths.source_pairs)
            yield _feed_forward("encoder", layer, lengths.sources)
    if isinstance(model, Classifier):
        matrices = model.dense_weight.numel() + model.output_weight.numel()
    else:
        for decoder_layer in cast("Iterable[DecoderLayer]", model.decoder.layers):
            yield from _decoder_layer(decoder_layer, lengths)
        matrices = sum(weight.numel() for weight in model.output.parameters() if weight.dim() == 2)
    yield Work("output", matrices * lengths.steps)


def _decoder_layer(layer: "DecoderLayer", lengths: Lengths) -> Iterator[Work]:
    from nmtprune.model.layers import RecurrentDecoderLayer

    if isinstance(layer, RecurrentDecoderLayer):
        matrices = 2 + (layer.recurrence.output_weight is not None)
        each = matrices * layer.recurrence.weight.numel() * lengths.steps
        yield Work("recurrence", each, layer=_layer("decoder", layer))
    else:
        yield _self_attention("decoder", layer, lengths.steps, lengths.target_pairs, lengths)
    cross = layer.cross_attention
    if cross is not None:
        size, width = cross.head_dim, cross.output_weight.shape[0]
        each = 2 * cross.source_weight.shape[1] * size * lengths.sources + 2 * width * size * lengths.steps
        each += 2 * size * lengths.crossed
        yield Work("cross attention", each, cross.heads, cross.id, _layer("decoder", layer))
    yield _feed_forward("decoder", layer, lengths.steps)


def _self_attention(
    stack: str, layer: "EncoderLayer | DecoderLayer", tokens: float, pairs: float, joint: Lengths | None = None
) -> Work:
    """Self-attention of tokens; of a decoder with joint attention also keys and values of the source, and their use."""
    attention = layer.self_attention
    size, width = attention.head_dim, attention.output_weight.shape[0]
    each = 4 * width * size * tokens + 2 * size * pairs
    if joint is not None and attention.sees_source:
        each += 2 * width * size * joint.sources + 2 * size * joint.crossed
    return Work(f"{stack} attention", each, attention.heads, attention.id, _layer(stack, layer))


def _feed_forward(stack: str, layer: "EncoderLayer | DecoderLayer", tokens: float) -> Work:
    neurons, width = layer.feed_forward.input_weight.shape
    group = GroupId(f"{stack}-ffn", layer.number)
    return Work("feed-forward", 2 * width * tokens, neurons, group, _layer(stack, layer))


def _layer(stack: str, layer: "Layer") -> UnitId:
    return UnitId(GroupId.layers_of(stack), layer.number)
