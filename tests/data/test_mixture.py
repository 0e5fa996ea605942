"""Sentences of several directions in one corpus: what its batches hold, and how equal parts are drawn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.mixture import Mixture, shares
from nmtprune.data.options import DataOptions
from nmtprune.errors import UsageError
from nmtprune.methods.measuring import drawn
from nmtprune.runs.quality import contents


@pytest.fixture
def parts(tiny: Path) -> dict[str, Corpus]:
    """Two directions, of which one begins its translations with a given word."""
    folder = tiny.parent / "data-bin"
    word = load_corpus(DataOptions(data_bin=folder)).target_vocabulary.symbols[9]
    sets = {
        "plain": DataOptions(data_bin=folder, subset="valid"),
        "given": DataOptions(data_bin=folder, subset="test", target_prefix=word, source_prefix=word),
    }
    return {name: load_corpus(own, references=False, targets=True) for name, own in sets.items()}


def rows(corpus: Corpus) -> dict[int, tuple[list[int], ...]]:
    """Source, target and decoder input of every sentence without padding, by its position."""
    found = {}
    for positions in corpus.batches(BatchLimits.of(60)):
        batch = corpus.batch(positions)
        assert batch.target is not None and batch.previous is not None
        for place, position in enumerate(batch.positions.tolist()):
            sides = (batch.source[place], batch.target[place], batch.previous[place])
            found[position] = tuple([token for token in side.tolist() if token != 1] for side in sides)
    return found


def test_every_sentence_keeps_the_tokens_of_its_direction(parts: dict[str, Corpus]) -> None:
    mixture, first = Mixture.of(parts), len(parts["plain"])
    plain, given, mixed = (rows(corpus) for corpus in (*parts.values(), mixture))
    assert mixed == plain | {first + position: row for position, row in given.items()}
    assert all(len(target) == len(previous) - 1 for _, target, previous in given.values())
    expected = np.concatenate([own.counted for own in parts.values()])
    assert mixture.counted.tolist() == expected.tolist()


def test_equal_parts_are_drawn_as_from_each_alone(parts: dict[str, Corpus]) -> None:
    found = drawn(Mixture.of(parts), 9, seed=3)
    assert isinstance(found, Mixture)
    split = found.split()
    for (name, own), count in zip(parts.items(), (5, 4), strict=True):
        alone = drawn(own, count, seed=3)
        assert split[name].numbers.tolist() == alone.numbers.tolist()
        assert [ids.tolist() for ids in split[name].source] == [ids.tolist() for ids in alone.source]


def test_the_smallest_direction_limits_all() -> None:
    assert shares(10, {"a": 100, "b": 3, "c": 7}) == {"a": 3, "b": 3, "c": 3}
    assert shares(8, {"a": 100, "b": 30, "c": 70}) == {"a": 3, "b": 3, "c": 2}
    with pytest.raises(UsageError, match="2 sentences cannot be drawn from 3 directions"):
        shares(2, {"a": 1, "b": 1, "c": 1})


def test_another_file_of_a_direction_is_other_contents(parts: dict[str, Corpus]) -> None:
    plain, given = parts.values()
    (source, target), (another, _) = list(plain.inputs.items())[:2], list(given.inputs.items())[:2]
    first = replace(plain, inputs=dict([source, target]))
    second, third = (replace(given, inputs=dict([own, another])) for own in (source, target))
    mixtures = [Mixture.of({"a": first, "b": own}) for own in (second, third)]
    assert mixtures[0].inputs == mixtures[1].inputs
    assert contents(mixtures[0]) != contents(mixtures[1])
    assert contents(mixtures[0]) == contents(Mixture.of({"a": first, "b": replace(second, name="again")}))
