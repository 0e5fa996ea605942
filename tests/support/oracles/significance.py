"""Significance the slow and obvious way: resample after resample, every possible resample, textbook rules."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[Any]], float]


def bootstrap_deltas(
    score: Score, baseline: NDArray[Any], system: NDArray[Any], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Differences [resamples]: sentences drawn with replacement, statistics [sentences, stats] summed, scored."""
    generator = np.random.default_rng(seed)
    deltas = []
    for drawn in generator.choice(len(baseline), size=(resamples, len(baseline)), replace=True):
        deltas.append(score(system[drawn].sum(axis=0)) - score(baseline[drawn].sum(axis=0)))
    return np.array(deltas)


def all_bootstrap_deltas(score: Score, baseline: NDArray[Any], system: NDArray[Any]) -> NDArray[np.float64]:
    """Differences of all sentences^sentences equally likely resamples."""
    sentences = range(len(baseline))
    return np.array(
        [
            score(system[list(drawn)].sum(axis=0)) - score(baseline[list(drawn)].sum(axis=0))
            for drawn in itertools.product(sentences, repeat=len(baseline))
        ]
    )


def p_two_sided(deltas: NDArray[np.float64], observed: float, centre: float, tie: float = 1e-9) -> tuple[float, float]:
    """Smallest and largest share of deltas at least |observed| from the centre, over what rounding may decide."""
    distances = np.abs(deltas - centre)
    return float(np.mean(distances >= abs(observed) + tie)), float(np.mean(distances >= abs(observed) - tie))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: the smallest of m p-values is multiplied by m, the next by m - 1 ...; never below a smaller one."""
    corrected = [math.nan] * len(p_values)
    running = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        running = max(running, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = running
    return corrected


def smallest_resamples(alpha: str, tests: int) -> Iterator[int]:
    """Numbers of resamples n, upwards, whose smallest p-value 1 / (n + 1) is below alpha / tests."""
    return (n for n in itertools.count(1) if Fraction(1, n + 1) < Fraction(alpha) / tests)
