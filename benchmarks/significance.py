"""Time of the paired bootstrap for many systems, beside sacrebleu's paired bootstrap on the same systems.

    python benchmarks/significance.py [--systems 144] [--segments 3000] [--resamples 20000] [--threads 2]

Systems are made like masked models: each changes a share of the baseline's sentences by a word or two. sacrebleu's time
for the whole task is that of two short runs, per system and resample (the slope, start-up left out), multiplied. The
statistics of the hypotheses are not counted on either side.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from nmtprune.evaluate.metrics import Bleu, Chrf, Scored
from nmtprune.evaluate.significance import SignificanceTest


def main() -> None:
    """Print one line for each measurement."""
    options = _options()
    references, outputs = _corpus(options)
    metric = {"bleu": Bleu, "chrf": Chrf}[options.metric]([references])
    scored, wall, cpu = _timed(lambda: [metric.scored(lines) for lines in outputs])
    print(
        f"{options.systems} systems, {options.segments} segments, {options.changed:.0%} of the sentences changed, "
        f"{options.metric}, {options.threads} threads ({os.cpu_count()} processors)"
    )
    print(f"statistics of all hypotheses: {wall:.2f} s wall, {cpu:.2f} s processor")
    default = SignificanceTest().resamples_for(options.systems)
    for resamples in dict.fromkeys([options.resamples, default]):
        ours = _ours(scored, resamples, options)
        if resamples == options.resamples and options.sacrebleu_systems:
            _sacrebleu(references, outputs, ours, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=int, default=144)
    parser.add_argument("--segments", type=int, default=3000)
    parser.add_argument("--resamples", type=int, default=20_000)
    parser.add_argument("--changed", type=float, default=0.15, help="share of the sentences that a system changes")
    parser.add_argument("--words", type=int, default=20, help="mean words of a sentence")
    parser.add_argument("--metric", choices=("bleu", "chrf"), default="bleu")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sacrebleu-systems", type=int, default=2, help="systems of the short runs; 0 leaves them out")
    return parser.parse_args()


def _corpus(options: argparse.Namespace) -> tuple[list[str], list[list[str]]]:
    """References, and the outputs of the baseline and of every system."""
    generator = np.random.default_rng(0)
    vocabulary = np.array([f"w{number}" for number in range(5000)])
    weights = 1 / np.arange(1, len(vocabulary) + 1)

    def altered(sentence: list[str], share: float) -> list[str]:
        drawn = generator.choice(vocabulary, size=len(sentence), p=weights / weights.sum())
        return [str(new) if generator.random() < share else old for new, old in zip(drawn, sentence, strict=True)]

    lengths = np.maximum(generator.poisson(options.words, options.segments), 1)
    words = [list(generator.choice(vocabulary, size=length, p=weights / weights.sum())) for length in lengths]
    baseline = [altered(sentence, 0.35) for sentence in words]
    outputs = [baseline]
    for _ in range(options.systems):
        changed = generator.random(options.segments) < options.changed
        outputs.append([altered(each, 0.1) if new else each for each, new in zip(baseline, changed, strict=True)])
    return [" ".join(sentence) for sentence in words], [[" ".join(each) for each in output] for output in outputs]


def _timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def _ours(scored: list[Scored], resamples: int, options: argparse.Namespace) -> NDArray[np.float64]:
    test = SignificanceTest(resamples=resamples, correction="none", threads=options.threads)
    results, wall, cpu = _timed(lambda: test.compare(scored[0], scored[1:]))
    significant = sum(result.p < 0.01 for result in results)
    print(f"nmtprune, {resamples} resamples: {wall:.2f} s wall, {cpu:.2f} s processor; {significant} systems p < 0.01")
    return np.array([wall, cpu])


def _sacrebleu(
    references: list[str], outputs: list[list[str]], ours: NDArray[np.float64], options: argparse.Namespace
) -> None:
    """The slope over resamples of sacrebleu's time; its task also scores the baseline anew for every system."""
    systems = [(str(number), output) for number, output in enumerate(outputs[: 1 + options.sacrebleu_systems])]
    short, long = 250, 1000
    seconds = []
    for resamples in (short, long):
        metric = {"bleu": BLEU, "chrf": CHRF}[options.metric](references=[references])
        test = PairedTest(systems, {options.metric: metric}, references=None, test_type="bs", n_samples=resamples)
        seconds.append(np.array(_timed(test)[1:]))
    each = (seconds[1] - seconds[0]) / (long - short) / options.sacrebleu_systems
    wall, cpu = each * options.resamples * options.systems
    print(
        f"sacrebleu --paired-bs, {options.resamples} resamples, one process: {wall:.0f} s wall, {cpu:.0f} s processor "
        f"({each[1] * 1e6:.0f} us per system and resample; {len(systems) - 1} systems, {short} and {long} resamples)"
    )
    print(f"ratio: {wall / ours[0]:.0f} x wall, {cpu / ours[1]:.0f} x processor")


if __name__ == "__main__":
    sys.exit(main())
