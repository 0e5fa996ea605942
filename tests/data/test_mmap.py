import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.data.mmap import read_sentences
from nmtprune.data.ragged import Sentences
from nmtprune.errors import DataError
from tests.support.data import write_dataset

SENTENCES = [[4, 5, 2], [6, 2], [2], [99, 98, 97, 96, 2]]


def _as_lists(sentences: Sentences) -> list[list[int]]:
    return [sentence.tolist() for sentence in sentences]


@pytest.mark.parametrize("impl", ["mmap", "lazy"])
@pytest.mark.parametrize("vocabulary", [100, 65_499, 65_500, 5_000_000_000])
def test_equals_fairseq_readers(tmp_path: Path, impl: str, vocabulary: int) -> None:
    from fairseq.data.data_utils import load_indexed_dataset

    largest = vocabulary - 1 if impl == "mmap" else min(vocabulary, 2**31 - 1) - 1
    write_dataset(tmp_path / "x.en-de.en", [*SENTENCES, [largest, 2]], impl, vocabulary)
    theirs = load_indexed_dataset(str(tmp_path / "x.en-de.en"), dataset_impl="lazy" if impl == "lazy" else None)
    ours = read_sentences(tmp_path / "x.en-de.en", vocabulary)
    assert _as_lists(ours) == [theirs[index].tolist() for index in range(len(theirs))]
    assert ours.sizes.tolist() == list(theirs.sizes)
    assert isinstance(ours.tokens, np.memmap)
    assert ours[0].dtype == np.int64


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), max_size=6), max_size=8), st.sampled_from(["mmap", "lazy"]))
def test_any_sentences_come_back(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[int]], impl: str
) -> None:
    prefix = tmp_path_factory.mktemp("data") / "x"
    write_dataset(prefix, sentences, impl)
    assert _as_lists(read_sentences(prefix, 100)) == sentences


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64])
def test_every_integer_type(tmp_path: Path, dtype: type[np.integer]) -> None:
    import torch
    from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder

    writer = MMapIndexedDatasetBuilder(f"{tmp_path / 'x'}.bin", dtype=dtype)
    for sentence in SENTENCES:
        writer.add_item(torch.tensor(sentence))
    writer.finalize(f"{tmp_path / 'x'}.idx")
    assert _as_lists(read_sentences(tmp_path / "x", 100)) == SENTENCES


def test_select_and_join(tmp_path: Path) -> None:
    write_dataset(tmp_path / "x", SENTENCES, "lazy")
    write_dataset(tmp_path / "y", SENTENCES[::-1])
    parts = [read_sentences(tmp_path / name) for name in "xy"]
    assert _as_lists(parts[0].select(np.array([3, 0]))) == [SENTENCES[3], SENTENCES[0]]
    assert _as_lists(Sentences.joined(parts)) == SENTENCES + SENTENCES[::-1]
    assert Sentences.joined(parts[:1]) is parts[0]


def _error(prefix: Path, symbols: int | None = 100) -> str:
    with pytest.raises(DataError) as caught:
        read_sentences(prefix, symbols)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_ids_beyond_the_dictionary(tmp_path: Path) -> None:
    for impl in ("mmap", "lazy"):
        write_dataset(tmp_path / "x", SENTENCES, impl)
        assert _error(tmp_path / "x", 97) == (
            f"{tmp_path}/x.bin: token id 99 in sentence 3 (counted from 0), but the dictionary has 97 symbols: "
            "the data was binarized with another dictionary, or is damaged"
        )
    write_dataset(tmp_path / "x", [[2], [-1, 2]], "lazy")
    assert "token id -1 in sentence 1 (counted from 0)" in _error(tmp_path / "x")


@pytest.mark.parametrize("impl", ["mmap", "lazy"])
def test_truncation_anywhere_is_named(tmp_path: Path, impl: str) -> None:
    prefix = tmp_path / "x"
    write_dataset(prefix, SENTENCES, impl)
    for suffix in (".idx", ".bin"):
        path = prefix.with_name("x" + suffix)
        whole = path.read_bytes()
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            assert _error(prefix).startswith(f"{path}: truncated: {length} bytes"), (suffix, length)
        path.write_bytes(whole)
    assert len(read_sentences(prefix)) == 4


def test_exact_texts_of_damage(tmp_path: Path) -> None:
    prefix, index, data = tmp_path / "x", tmp_path / "x.idx", tmp_path / "x.bin"
    write_dataset(prefix, SENTENCES)
    whole = index.read_bytes()
    index.write_bytes(whole[:-1])
    assert _error(prefix) == (
        f"{index}: truncated: {len(whole) - 1} bytes, but its header describes {len(whole)}; binarize the data again"
    )
    index.write_bytes(whole + b"\0")
    assert _error(prefix) == (
        f"{index}: damaged: {len(whole) + 1} bytes, but its header describes {len(whole)}; binarize the data again"
    )
    index.write_bytes(b"GARBAGE!" + whole)
    assert _error(prefix) == f"{index}: not an index of fairseq's binarized data (it starts with b'GARBAGE!M')"
    index.write_bytes(b"HUFFIDX\0\0" + whole)
    assert _error(prefix) == (
        f"{index}: Huffman-coded data is not supported: binarize with fairseq's --dataset-impl mmap"
    )
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes() + b"\0\0")
    assert _error(prefix) == (
        f"{data}: not the one of this index: 24 bytes, but x.idx describes 22; binarize the data again"
    )
    data.unlink()
    assert _error(prefix) == f"{data}: cannot be read: No such file or directory"


def _edited(content: bytes, offset: int, form: str, value: int) -> bytes:
    field = struct.pack(form, value)
    return content[:offset] + field + content[offset + len(field) :]


def test_damaged_fields_of_the_index(tmp_path: Path) -> None:
    prefix, index = tmp_path / "x", tmp_path / "x.idx"
    write_dataset(prefix, SENTENCES)
    whole = index.read_bytes()
    for offset, form, value, text in [
        (9, "<Q", 2, "version 2 of the index is not supported (1 is)"),
        (17, "<B", 6, "holds floating-point numbers, not token ids"),
        (17, "<B", 77, "damaged: unknown type code 77"),
        (26, "<i", -3, "damaged: size or position of sentence 0 (counted from 0) is wrong"),
        (26 + 16 + 8, "<q", 2, "damaged: size or position of sentence 1 (counted from 0) is wrong"),
    ]:
        index.write_bytes(_edited(whole, offset, form, value))
        assert _error(prefix) == f"{index}: {text}"
    # A count that asks for more memory than there is must be refused before anything is allocated.
    index.write_bytes(_edited(whole, 18, "<Q", 2**60))
    assert _error(prefix).startswith(f"{index}: truncated: ")


def test_damaged_fields_of_a_legacy_index(tmp_path: Path) -> None:
    prefix, index = tmp_path / "x", tmp_path / "x.idx"
    write_dataset(prefix, SENTENCES, "lazy")
    whole = index.read_bytes()
    for offset, value, text in [
        (8, 3, "version 3 of the index is not supported (1 is)"),
        (16, 7, "holds floating-point numbers, not token ids"),
        (24, 8, "damaged: tokens of 8 bytes, but of a type that has 4"),
        (48 + 8, 2, "not sentences: its items do not have one dimension each"),
        (48 + 40 + 8, 1, "damaged: size or position of sentence 1 (counted from 0) is wrong"),
    ]:
        index.write_bytes(_edited(whole, offset, "<Q", value))
        assert _error(prefix) == f"{index}: {text}"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["mmap", "lazy"]),
    st.sampled_from([".idx", ".bin"]),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_damage_is_either_named_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, impl: str, suffix: str, edits: list[tuple[int, int]]
) -> None:
    prefix = tmp_path_factory.mktemp("data") / "x"
    write_dataset(prefix, SENTENCES, impl)
    path = prefix.with_name("x" + suffix)
    content = bytearray(path.read_bytes())
    for place, value in edits:
        content[place % len(content)] = value
    path.write_bytes(content)
    try:
        sentences = read_sentences(prefix, 100)
    except DataError as error:
        assert str(error).startswith(str(prefix))
    else:
        assert all(0 <= token < 100 for sentence in sentences for token in sentence)
