"""A text in lanes of segments: which tokens stand where, and what is refused."""

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary

from nmtprune.errors import DataError, UsageError
from nmtprune.fairseq_plugin.segment_data import InOrder, Segment, SegmentDataset, text_of


class Sentences(list[torch.Tensor]):
    """A data set of fairseq's, as far as it is read."""

    @property
    def sizes(self) -> Any:
        return np.array([len(each) for each in self])


def dictionary(words: int = 20) -> Dictionary:
    found = Dictionary()
    for word in range(words):
        found.add_symbol(f"w{word}")
    return found


def sentences_of(*lengths: int) -> tuple[Sentences, list[int]]:
    """Sentences of lengths, in which every token is another one as long as there are words; and all tokens."""
    tokens = [4 + number % 20 for number in range(sum(lengths))]
    parts = iter(tokens)
    return Sentences(torch.tensor(list(itertools.islice(parts, length))) for length in lengths), tokens


def in_lanes(sentences: Sentences, length: int, lanes: int) -> SegmentDataset:
    return SegmentDataset(text_of(sentences, dictionary(), "text"), dictionary(), length, lanes, "text")


def test_a_text_is_the_tokens_of_all_sentences() -> None:
    sentences, tokens = sentences_of(3, 1, 7, 2)
    assert text_of(sentences, dictionary(), "text").tolist() == tokens


@pytest.mark.parametrize("lanes", [1, 2, 3, 5])
@pytest.mark.parametrize("length", [1, 3, 4, 6])
def test_every_token_is_a_target_once_and_follows_the_one_before_it(lanes: int, length: int) -> None:
    """Lanes have 31 / lanes tokens, some of them one more; padding fills up what is missing."""
    sentences, tokens = sentences_of(3, 9, 7, 11, 1)
    data = in_lanes(sentences, length, lanes)
    targets: list[list[int]] = [[] for _ in range(lanes)]
    sources: list[list[int]] = [[] for _ in range(lanes)]
    counted = 0
    for number in range(len(data)):
        batch = data.collater([data[number]])
        assert batch["net_input"]["segment"] == Segment(number, len(data), length)
        assert batch["target"].shape == (lanes, data.size(number)) == batch["net_input"]["src_tokens"].shape
        assert batch["ntokens"] == int((batch["target"] != 1).sum()) == int(batch["net_input"]["src_lengths"].sum())
        counted += batch["ntokens"]
        for lane in range(lanes):
            targets[lane] += [token for token in batch["target"][lane].tolist() if token != 1]
            sources[lane] += [token for token in batch["net_input"]["src_tokens"][lane].tolist() if token != 1]
    assert counted == len(tokens) == 31
    assert list(itertools.chain(*targets)) == tokens
    assert list(itertools.chain(*sources)) == [2, *tokens[:-1]]
    assert max(map(len, targets)) - min(map(len, targets)) <= 1


def test_segments_come_in_their_order_from_any_place_on() -> None:
    sentences, _ = sentences_of(40)
    data = in_lanes(sentences, 4, 2)
    iterator = InOrder(data)
    numbers = [batch["net_input"]["segment"].number for batch in iterator.next_epoch_itr(shuffle=True)]
    assert numbers == [0, 1, 2, 3, 4]
    iterator = InOrder(data)
    iterator.load_state_dict({"version": 2, "epoch": 3, "iterations_in_epoch": 2, "shuffle": True})
    assert [batch["net_input"]["segment"].number for batch in iterator.next_epoch_itr()] == [2, 3, 4]
    assert pickle.loads(pickle.dumps(data))[1]["ntokens"] == data[1]["ntokens"]  # noqa: S301  # for data workers


@pytest.mark.parametrize(
    ("lanes", "length", "message"),
    [
        (4, 9, "text has 31 tokens, too few for 4 lanes of a segment of 9: choose fewer lanes"),
        (0, 9, "text: --batch-size 0: give at least 1"),
        (1, 0, "text: --tokens-per-sample 0: give at least 1"),
    ],
)
def test_lanes_that_cannot_be_filled_are_refused(lanes: int, length: int, message: str) -> None:
    sentences, _ = sentences_of(31)
    with pytest.raises(UsageError, match=message):
        in_lanes(sentences, length, lanes)


def test_one_lane_may_be_shorter_than_a_segment_and_no_text_may_be_empty() -> None:
    sentences, tokens = sentences_of(5)
    data = in_lanes(sentences, 9, 1)
    assert data[0]["target"].tolist() == [tokens] and len(data) == 1
    with pytest.raises(DataError, match="text has no tokens"):
        text_of(Sentences(), dictionary(), "text")


@pytest.mark.parametrize("wrong", [24, 1])
def test_ids_of_another_dictionary_are_refused(wrong: int) -> None:
    sentences = Sentences([torch.tensor([4, 6]), torch.tensor([4, wrong, 5])])
    with pytest.raises(DataError, match=f"text has the id {wrong}, and dict.txt has 24 words with 1 as padding"):
        text_of(sentences, dictionary(), "text")
