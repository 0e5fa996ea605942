"""McNemar's exact test of two systems that are right or wrong about the same texts (McNemar 1947)."""

import numpy as np

from nmtprune.evaluate.metrics import Statistics


def mcnemar(baseline: Statistics, system: Statistics) -> float:
    """Two-sided p-value: of texts about which one system is right and the other wrong, either is as likely as not.

    Args:
        baseline: [N, 2] statistics of `label_metrics.Accuracy`, right or not in the first column.
        system: likewise, of the same texts.

    Returns:
        Twice the probability of the rarer of the two kinds, or of fewer, under a binomial distribution of 1/2; 1 where
        both are right about the same texts.
    """
    first, second = baseline[:, 0] > 0, system[:, 0] > 0
    gained, lost = int(np.count_nonzero(second & ~first)), int(np.count_nonzero(first & ~second))
    return two_sided(min(gained, lost), gained + lost)


def two_sided(fewer: int, total: int) -> float:
    """Twice the probability of at most `fewer` heads in `total` tosses of a coin, and at most 1."""
    ways, found = 1, 0
    for heads in range(fewer + 1):
        found += ways
        ways = ways * (total - heads) // (heads + 1)
    return min(1.0, float(2 * found / 2**total))
