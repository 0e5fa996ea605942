"""Generated systems to compare, and sacrebleu's own paired tests of them."""

import random
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from nmtprune.evaluate.metrics import Bleu, Chrf, Scored, TokenLoss

METRICS: dict[str, tuple[Any, Any]] = {"bleu": (Bleu, BLEU), "chrf": (Chrf, CHRF)}


def corpus(sentences: int, systems: int, seed: int, words: int = 12, changed: float = 0.3) -> list[list[str]]:
    """References, outputs of the baseline, of `systems` variants of it, of the baseline again, and empty outputs."""
    generator = random.Random(seed)

    def alter(line: str, share: float) -> str:
        return " ".join(f"w{generator.randint(0, 30)}" if generator.random() < share else w for w in line.split())

    references = [
        " ".join(f"w{min(int(generator.expovariate(0.2)), 30)}" for _ in range(generator.randint(0, words)))
        for _ in range(sentences)
    ]
    baseline = [alter(line, 0.3) for line in references]
    variants = [
        [alter(line, 0.3) if generator.random() < changed else line for line in baseline] for _ in range(systems)
    ]
    return [references, baseline, *variants, list(baseline), [""] * sentences]


def by_sacrebleu(
    monkeypatch: pytest.MonkeyPatch, metric: Any, lines: list[list[str]], n: int, seed: int
) -> tuple[list[float], list[float]]:
    """Scores of all systems and p-values of all but the baseline, by sacrebleu's paired bootstrap."""
    monkeypatch.setenv("SACREBLEU_SEED", str(seed))
    named = [(str(number), output) for number, output in enumerate(lines[1:])]
    _, scores = PairedTest(named, {"it": metric}, [lines[0]], test_type="bs", n_samples=n)()
    results: list[Any] = next(value for key, value in scores.items() if key != "System")
    return [result.score for result in results], [result.p_value for result in results[1:]]


def losses(sentences: int, systems: int, seed: int) -> list[Scored]:
    """A baseline and systems with losses around it, one token to nine for each sentence."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(1, 10, sentences).tolist()
    baseline = generator.gamma(2.0, 1.0, sentences) * tokens
    metric = TokenLoss()
    noise = generator.normal(0, 0.3, (systems, sentences))
    return [metric.scored(each.tolist(), tokens) for each in (baseline, *(baseline + np.abs(noise) * tokens))]


def scored_corpus(name: str, sentences: int, systems: int, seed: int) -> list[Scored]:
    """A baseline and systems under bleu, chrf or loss."""
    if name == "loss":
        return losses(sentences, systems, seed)
    lines = corpus(sentences, systems, seed)
    metric = METRICS[name][0]([lines[0]])
    return [metric.scored(output) for output in lines[1 : 2 + systems]]


def score_one(baseline: Scored) -> Any:
    """Score of one vector of sums under the metric of a system."""
    return lambda sums: float(baseline.metric.scores(sums.astype(np.float64)[:, None])[0])
