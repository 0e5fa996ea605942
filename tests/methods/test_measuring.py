"""Sentences that are drawn are those of the corpus, whatever the seed."""

from dataclasses import replace

import pytest

from nmtprune.data.batching import BatchLimits
from nmtprune.errors import UsageError
from nmtprune.methods.measuring import batches, drawn
from tests.support.examples import Example
from tests.support.fairseq_files import Build


@pytest.fixture(scope="module")
def plain(build: Build) -> Example:
    return Example.of(build, "pre-norm, shared tables")


def test_sentences_are_drawn_by_the_seed(plain: Example) -> None:
    corpus = replace(plain.corpus, references=(tuple(map(str, range(len(plain.corpus)))),))
    draws = {seed: drawn(corpus, 6, seed) for seed in (0, 1, 2)}
    chosen = {seed: draw.numbers.tolist() for seed, draw in draws.items()}
    assert chosen[0] == drawn(corpus, 6, 0).numbers.tolist()
    assert len({tuple(numbers) for numbers in chosen.values()}) == 3
    for seed, draw in draws.items():
        assert len(draw) == len(set(chosen[seed])) == 6 and chosen[seed] == sorted(chosen[seed])
        assert draw.references == (tuple(map(str, chosen[seed])),)
        assert draw.target is not None and corpus.target is not None
        for place, number in enumerate(chosen[seed]):
            assert draw.source[place].tolist() == corpus.source[number].tolist()
            assert draw.target[place].tolist() == corpus.target[number].tolist()
    assert sum(len(batch.positions) for batch in batches(draws[0], BatchLimits(max_tokens=40))) == 6
    assert drawn(corpus, len(corpus), 0) is drawn(corpus, 10**6, 1) is corpus
    with pytest.raises(UsageError, match="0 sentences cannot be drawn"):
        drawn(corpus, 0, 0)
