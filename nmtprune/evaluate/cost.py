"""What a translation costs: seconds, peak memory, and multiply-accumulates from head counts and lengths.

Models are timed in turns, so that what slows one down slows all down.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    import torch

    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Engine
    from nmtprune.model import Transformer
    from nmtprune.model.layers import DecoderLayer, EncoderLayer

T = TypeVar("T")

_COVERAGE = 0.95
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

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
    jobs: Sequence[Callable[[], T]], rounds: int, after: Callable[[int, float], None] = lambda _job, _seconds: None
) -> tuple[list[list[float]], list[T]]:
    """Seconds of every job in every round, each round one job after the other, and what each gave in the warm-up.

    Args:
        jobs: what is timed.
        rounds: how often, after one round that is not counted.
        after: is told of every run that ended, warm-up included: which job, and its seconds.
    """
    seconds: list[list[float]] = [[] for _ in jobs]
    results: list[T] = []
    for number in range(rounds + 1):
        for job, run in enumerate(jobs):
            started = time.perf_counter()
            result = run()
            took = time.perf_counter() - started
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
    try:
        _RESET.write_text("5")  # the peak is now what is taken now
        start = _status("VmRSS")
    except (OSError, StopIteration):
        yield found
        return
    yield found
    found.bytes = max(0, _status("VmHWM") - start)


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) << 10


def multiply_accumulates(
    model: "Transformer", sources: Sequence[int], targets: Sequence[int], beam: int
) -> dict[str, float]:
    """Multiply-accumulates by part of the model: projections, attention, feed-forward and output layer.

    Every sentence counts with its own lengths, without padding; every step of its translation has `beam` hypotheses.

    Args:
        model: with an encoder.
        sources: S of each sentence, the end-of-sentence symbol included.
        targets: T of each translation, likewise.
        beam: hypotheses per sentence.
    """
    found = dict.fromkeys(PARTS, 0.0)
    source, target = float(sum(sources)), float(sum(targets))
    square = float(sum(length * length for length in sources))
    so_far = sum(length * (length + 1) / 2 for length in targets)
    crossed = float(sum(a * b for a, b in zip(sources, targets, strict=True)))
    if model.encoder is not None:
        width = model.encoder.embedding.width
        for layer in cast("Iterable[EncoderLayer]", model.encoder.layers):
            inner = layer.self_attention.inner
            found["encoder attention"] += 4 * width * inner * source + 2 * inner * square
            found["feed-forward"] += 2 * layer.feed_forward.input_weight.numel() * source
    for decoder_layer in cast("Iterable[DecoderLayer]", model.decoder.layers):
        _add_decoder_layer(found, decoder_layer, (source, beam * target, beam * so_far, beam * crossed))
    found["output"] += float(sum(weight.numel() for weight in model.output.parameters() if weight.dim() == 2)) * (
        beam * target
    )
    return found


def _add_decoder_layer(
    found: dict[str, float], layer: "DecoderLayer", lengths: tuple[float, float, float, float]
) -> None:
    """Add a layer's: `lengths` are source tokens, steps, words seen by steps, source tokens seen by steps."""
    from nmtprune.model.layers import RecurrentDecoderLayer

    source, steps, so_far, crossed = lengths
    if isinstance(layer, RecurrentDecoderLayer):
        matrices = 2 + (layer.recurrence.output_weight is not None)
        found["recurrence"] += matrices * layer.recurrence.weight.numel() * steps
    else:
        attention = layer.self_attention
        weights = attention.input_weight.numel() + attention.output_weight.numel()
        found["decoder attention"] += weights * steps + 2 * attention.inner * so_far
    cross = layer.cross_attention
    if cross is not None:
        per_step = cross.query_weight.numel() + cross.output_weight.numel()
        found["cross attention"] += cross.source_weight.numel() * source + per_step * steps + 2 * cross.inner * crossed
    found["feed-forward"] += 2 * layer.feed_forward.input_weight.numel() * steps
