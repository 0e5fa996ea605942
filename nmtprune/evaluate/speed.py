"""Decoding speed of several models on the same sentences, measured in turns: what slows one down slows all down."""

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nmtprune.data.corpus import Corpus
    from nmtprune.engines.base import Engine


def words_per_second(engines: "Sequence[Engine]", corpus: "Corpus", rounds: int) -> list[float]:
    """Words of translations per second, the median over rounds; each round has every engine once, after a warm-up.

    Words are those of the detokenized text.

    Args:
        engines: the models, ready to run.
        corpus: what they translate.
        rounds: how often; at least once.
    """
    found: list[list[float]] = [[] for _ in engines]
    for number in range(rounds + 1):
        for engine, rates in zip(engines, found, strict=True):
            started = time.perf_counter()
            translations = engine.translate(corpus, {})
            seconds = time.perf_counter() - started
            if number:
                words = sum(len(corpus.decode(best[0].tokens).split()) for best in translations if best)
                rates.append(words / seconds)
    return [statistics.median(rates) for rates in found]
