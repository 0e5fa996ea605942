from pathlib import Path

import numpy as np
import pytest

from nmtprune.data.databin import DataBin, Languages, NumberedData, read_numbers
from nmtprune.data.mmap import write_sentences
from nmtprune.data.ragged import Sentences
from nmtprune.errors import OutputError
from tests.support.data import random_sentences

PAIR = Languages("source", "target")


def _sentences(listed: list[list[int]]) -> Sentences:
    return Sentences.of(np.array(sentence, dtype=np.int64) for sentence in listed)


def _lists(sentences: Sentences | None) -> list[list[int]]:
    return [sentence.tolist() for sentence in sentences or ()]


def test_both_readers_read_what_was_written(tmp_path: Path) -> None:
    from fairseq.data import Dictionary
    from fairseq.data.data_utils import load_indexed_dataset

    source, target = random_sentences(9, 20), [[1, 3, 0, 2], *random_sentences(8, 30, seed=2)]
    NumberedData(tmp_path, PAIR, (24, 34)).write("test", _sentences(source), _sentences(target))
    bitext = DataBin(tmp_path).read("test", PAIR, (24, 34))
    assert _lists(bitext.source) == source and _lists(bitext.target) == target
    for language, listed, words in (("source", source, 24), ("target", target, 34)):
        dictionary = Dictionary.load(str(tmp_path / f"dict.{language}.txt"))
        assert len(dictionary) == words
        theirs = load_indexed_dataset(str(tmp_path / f"test.source-target.{language}"), dictionary)
        assert [theirs[place].tolist() for place in range(len(theirs))] == listed
        for place, sentence in enumerate(listed):
            # fairseq prints no <s>.
            assert list(read_numbers(dictionary.string(theirs[place]))) == [word for word in sentence[:-1] if word]


def test_a_source_side_alone(tmp_path: Path) -> None:
    NumberedData(tmp_path, PAIR, (24, 34)).write("test", _sentences([[4, 2]]), None)
    assert DataBin(tmp_path).read("test", PAIR, (24, 34)).target is None
    assert len(DataBin(tmp_path).dictionary("target")) == 34


def test_parts_of_sentences_are_written_as_they_are(tmp_path: Path) -> None:
    whole = _sentences([[4, 5, 2], [6, 2], [7, 8, 9, 2]])
    write_sentences(tmp_path / "x.y", whole.select(np.array([2, 0])))
    assert (tmp_path / "x.y.bin").read_bytes() == np.array([7, 8, 9, 2, 4, 5, 2], dtype="<i4").tobytes()
    with pytest.raises(OutputError, match="exists"):
        write_sentences(tmp_path / "x.y", whole)


def test_other_text_is_no_number() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        read_numbers("4 word")
