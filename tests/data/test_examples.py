import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.data.batching import BatchLimits
from nmtprune.data.examples import Examples
from nmtprune.data.ragged import Sentences
from nmtprune.errors import DataError, UsageError
from nmtprune.methods.measuring import batches
from nmtprune.profile import ClassifierProfile

PAD = 1
PROFILE = ClassifierProfile(labels=3, symbols=50, max_positions=30, padding=PAD, segments=2)


def examples(sizes: list[int], *, labels: bool = True, segments: bool = True) -> Examples:
    rng = np.random.default_rng(len(sizes))
    tokens = [rng.integers(2, 50, size) for size in sizes]
    return Examples(
        name="valid",
        tokens=Sentences.of(tokens),
        segments=Sentences.of(np.arange(size) * 2 // size for size in sizes) if segments else None,
        labels=rng.integers(0, 3, len(sizes)) if labels else None,
        label_names=("no", "yes", "maybe"),
        numbers=np.arange(len(sizes)),
        total=len(sizes),
        model=PROFILE,
        inputs={},
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 200), st.integers(1, 20))
def test_every_text_is_in_one_batch_with_its_segments_and_label(sizes: list[int], tokens: int, most: int) -> None:
    whole = examples(sizes)
    seen = []
    for batch in batches(whole, BatchLimits(tokens, most, multiple=1)):
        assert batch.tokens.numel() <= tokens
        assert len(batch.positions) <= most
        assert batch.segments is not None
        assert batch.labels is not None
        for place, row, parts, label in zip(
            batch.positions.tolist(), batch.tokens, batch.segments, batch.labels.tolist(), strict=True
        ):
            size = sizes[place]
            np.testing.assert_array_equal(row[:size], whole.tokens[place])
            assert (row[size:] == PAD).all()
            assert whole.segments is not None
            np.testing.assert_array_equal(parts[:size], whole.segments[place])
            assert not parts[size:].any()
            assert label == whole.targets[place]
        seen += batch.positions.tolist()
    assert sorted(seen) == list(range(len(sizes)))
    assert [sizes[place] for place in seen] == sorted(sizes)


def test_some_of_the_texts_keep_what_belongs_to_them() -> None:
    whole = examples([3, 7, 5])
    some = whole.select(np.array([2, 0]))
    assert (len(some), some.total, some.left_out, some.numbers.tolist()) == (2, 3, 1, [2, 0])
    np.testing.assert_array_equal(some.tokens[0], whole.tokens[2])
    assert some.targets.tolist() == whole.targets[[2, 0]].tolist()
    assert some.segments is not None
    assert some.segments.sizes.tolist() == [5, 3]


def test_texts_without_labels_and_segments() -> None:
    bare = examples([3, 4], labels=False, segments=False)
    (batch,) = batches(bare, BatchLimits(100))
    assert (batch.segments, batch.labels) == (None, None)
    assert batch.to("cpu").tokens.shape == (2, 4)
    with pytest.raises(DataError, match="valid: has no labels"):
        _ = bare.targets


def test_a_text_that_no_batch_holds() -> None:
    with pytest.raises(UsageError, match="the longest sentence has 9 tokens"):
        list(batches(examples([3, 9]), BatchLimits(8)))
