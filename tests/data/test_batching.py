import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.data.batching import (
    MAX_TOKENS,
    BatchLimits,
    batch_by_size,
    collate,
    order_by_length,
    shift_right,
    shuffled,
)
from nmtprune.errors import UsageError

SIZES = st.lists(st.integers(1, 40), max_size=120)


@settings(max_examples=500, deadline=None)
@given(
    SIZES,
    st.one_of(st.none(), st.integers(40, 400)),
    st.one_of(st.none(), st.integers(1, 50)),
    st.sampled_from([1, 2, 3, 8, 16]),
    st.booleans(),
)
def test_batches_equal_fairseq(
    sizes: list[int], max_tokens: int | None, max_sentences: int | None, multiple: int, ascending: bool
) -> None:
    from fairseq.data.data_utils_fast import batch_by_size_vec

    lengths = np.array(sorted(sizes) if ascending else sizes, dtype=np.int64)
    order = np.arange(len(lengths))[::-1].copy() if not ascending else np.arange(len(lengths))
    theirs = batch_by_size_vec(order, lengths[order], max_tokens or -1, max_sentences or -1, multiple)
    ours = batch_by_size(order, lengths, BatchLimits(max_tokens, max_sentences, multiple))
    assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


def test_fairseq_drops_a_ragged_last_batch_and_nmtprune_does_not() -> None:
    from fairseq.data.data_utils import batch_by_size as theirs

    order, sizes = np.arange(20), np.full(20, 5)
    dropped = theirs(order, None, sizes, max_tokens=40, required_batch_size_multiple=8)
    batches = batch_by_size(order, sizes, BatchLimits(40))
    assert [batch.tolist() for batch in batches[:2]] == [batch.tolist() for batch in dropped]
    assert batches[2].tolist() == [16, 17, 18, 19]


def test_limits_of_fairseq_generate() -> None:
    assert BatchLimits.of() == BatchLimits(MAX_TOKENS, None, 8)
    assert BatchLimits.of(max_sentences=3) == BatchLimits(None, 3, 8)
    assert BatchLimits.of(max_tokens=100) == BatchLimits(100, None, 8)


def test_a_sentence_beyond_max_tokens() -> None:
    with pytest.raises(UsageError) as caught:
        batch_by_size(np.arange(3), np.array([3, 9, 4]), BatchLimits(8))
    assert str(caught.value) == "`max_tokens` 8 is too small: the longest sentence has 9 tokens"
    without_it = batch_by_size(np.array([0, 2]), np.array([3, 9, 4]), BatchLimits(8))
    assert [batch.tolist() for batch in without_it] == [[0, 2]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=60), st.booleans(), st.booleans())
def test_order_equals_fairseq(sizes: list[tuple[int, int]], shuffle: bool, with_target: bool) -> None:
    from fairseq.data import Dictionary, LanguagePairDataset
    from fairseq.data.data_utils import numpy_seed

    source, target = (np.array(side, dtype=np.int64) for side in zip(*sizes, strict=True))
    dictionary = Dictionary()
    target_side = {"tgt": target, "tgt_sizes": target, "tgt_dict": dictionary} if with_target else {}
    dataset = LanguagePairDataset(source, source, dictionary, shuffle=shuffle, **target_side)
    with numpy_seed(1 + 1):
        theirs = dataset.ordered_indices()
    order = shuffled(len(source)) if shuffle else np.arange(len(source))
    assert order_by_length(order, source, target if with_target else None).tolist() == theirs.tolist()


@pytest.mark.parametrize("left_pad", [True, False])
def test_padding_equals_fairseq(left_pad: bool) -> None:
    import torch
    from fairseq.data.data_utils import collate_tokens

    sentences = [np.array(sentence, dtype=np.int64) for sentence in ([4, 5, 6, 2], [2], [7, 2])]
    values = [torch.from_numpy(sentence) for sentence in sentences]
    ours = collate(sentences, 1, left_pad=left_pad)
    assert ours.dtype == torch.int64
    assert torch.equal(ours, collate_tokens(values, 1, 2, left_pad))
    previous = collate(shift_right(sentences, 2), 1, left_pad=left_pad)
    assert torch.equal(previous, collate_tokens(values, 1, 2, left_pad, move_eos_to_beginning=True))
