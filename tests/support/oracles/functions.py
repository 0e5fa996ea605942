"""Functions of heads with plain loops: one sentence, one query after the other, over weights [T][S] of one head."""

from collections import Counter
from collections.abc import Mapping, Sequence

Weights = Sequence[Sequence[float]]
Right = Mapping[int, frozenset[int]]


def largest(weights: Weights, query: int, keys: Sequence[int]) -> int:
    """The key of the largest weight, the first of equals."""
    return max(keys, key=lambda key: weights[query][key])


def positional(sentences: Sequence[tuple[Weights, list[int], list[int], bool]], offset: int) -> tuple[int, int, float]:
    """Queries whose largest weight lies `offset` words away, queries where a word is there, and hits by chance.

    Sentences are weights, columns of the words that send queries and of those that are seen, and whether the later ones
    of these are hidden.
    """
    hits, cases, chance = 0, 0, 0.0
    for weights, queries, keys, causal in sentences:
        for place, query in enumerate(queries):
            seen = keys[: place + 1] if causal else keys
            if 0 <= place + offset < len(seen):
                hits += largest(weights, query, seen) == keys[place + offset]
                cases += 1
                chance += 1 / len(seen)
    return hits, cases, chance


def rare(
    sentences: Sequence[tuple[Weights, list[int], list[int], bool]], counts: Sequence[list[int]]
) -> tuple[int, int, float]:
    """Queries whose largest weight lies on a least frequent word, queries where some are rarer, and hits by chance."""
    hits, cases, chance = 0, 0, 0.0
    for (weights, queries, keys, causal), own in zip(sentences, counts, strict=True):
        for place, query in enumerate(queries):
            seen = keys[: place + 1] if causal else keys
            lowest = min(own[: len(seen)])
            rarest = [key for key, count in zip(seen, own, strict=False) if count == lowest]
            if len(rarest) < len(seen):
                hits += largest(weights, query, seen) in rarest
                cases += 1
                chance += len(rarest) / len(seen)
    return hits, cases, chance


def links(
    sentences: Sequence[tuple[Weights, list[list[int]], list[list[int]], Right]],
) -> tuple[int, int, float, int, int]:
    """Words whose largest weight lies on a right word, words that have one, hits by chance, best distance, its hits.

    Sentences are weights, the columns of each word that sends queries and of each that is seen, and the right words.
    """
    distances = Counter(key - word for *_, right in sentences for word, own in right.items() for key in own)
    best = min(distances, key=lambda each: (-distances[each], abs(each), each))
    hits, cases, chance, baseline = 0, 0, 0.0, 0
    for weights, queries, keys, right in sentences:
        seen = [number for number, columns in enumerate(keys) if columns]
        for word, own in right.items():
            between = {
                key: sum(weights[q][k] for q in queries[word] for k in keys[key]) / len(queries[word]) for key in seen
            }
            hits += max(seen, key=between.__getitem__) in own
            cases += 1
            chance += len(own) / len(seen)
            baseline += word + best in own
    return hits, cases, chance, best, baseline
