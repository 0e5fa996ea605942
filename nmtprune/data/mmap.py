"""fairseq's binarized datasets, mapped into memory and read, and written, without fairseq.

A dataset is two files: PREFIX.bin holds the token ids of all sentences one after the other, PREFIX.idx says how many
each sentence has. There are two formats of the index: MMIDIDX (``--dataset-impl mmap``, the default) and TNTIDX
(``lazy`` and ``cached``), in which every id is stored plus one. Layouts: fairseq 0.12, ``data/indexed_dataset.py``.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nmtprune.data.ragged import Ids, Sentences
from nmtprune.errors import DataError
from nmtprune.files import atomic_output
from nmtprune.files.kinds import HEAD, text_of_another_kind

_MMAP_MAGIC = b"MMIDIDX\0\0"
_LEGACY_MAGIC = b"TNTIDX\0\0"
_HUFFMAN_MAGIC = b"HUFFIDX\0\0"
_MMAPHEADER = struct.Struct("<9sQBQ")
_LEGACYHEADER = struct.Struct("<8sQQQQQ")
_INTEGERS = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2", 9: "<u4", 10: "<u8"}
_FLOATS = (6, 7)
_CHUNK_TOKENS = 1 << 24
_INT32 = 4


@dataclass(frozen=True, eq=False)
class _Index:
    """What an .idx file says: the type of a token, tokens per sentence, and what is added to every id."""

    dtype: np.dtype[Any]
    sizes: Ids
    shift: int


def index_path(prefix: Path) -> Path:
    """The .idx file of a dataset; the prefix may hold dots."""
    return prefix.with_name(prefix.name + ".idx")


def data_path(prefix: Path) -> Path:
    """The .bin file of a dataset."""
    return prefix.with_name(prefix.name + ".bin")


def read_sentences(prefix: Path, symbols: int | None = None) -> Sentences:
    """Map the dataset PREFIX.idx, PREFIX.bin.

    Args:
        prefix: path without its suffix, for example ``data-bin/valid.en-de.en``.
        symbols: size of the dictionary; every token id must be below it.

    Raises:
        DataError: a file is missing or damaged, is of another format, or holds ids that the dictionary does not have.
    """
    index = _read_index(index_path(prefix))
    data = _map(data_path(prefix))
    needed = int(index.sizes.sum()) * index.dtype.itemsize
    if len(data) != needed:
        instead = text_of_another_kind(data[:HEAD].tobytes())
        if instead:
            raise DataError(f"{data_path(prefix)}: {instead}")
        state = "truncated" if len(data) < needed else "not the one of this index"
        described = f"{len(data)} bytes, but {index_path(prefix).name} describes {needed}"
        raise DataError(f"{data_path(prefix)}: {state}: {described}; binarize the data again")
    tokens = data.view(index.dtype)
    sentences = Sentences(tokens, np.cumsum(index.sizes) - index.sizes, index.sizes, index.shift)
    if symbols is not None:
        _check_ids(sentences, symbols, data_path(prefix))
    return sentences


def _map(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file as a read-only map."""
    try:
        if path.stat().st_size == 0:
            path.read_bytes()
            return np.empty(0, dtype=np.uint8)
        return np.memmap(path, mode="r", dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_index(path: Path) -> _Index:
    content = _map(path)
    head = content[: len(_MMAP_MAGIC)].tobytes()
    if head == _MMAP_MAGIC:
        return _read_mmap_index(path, content)
    if head.startswith(_LEGACY_MAGIC):
        return _read_legacy_index(path, content)
    if head == _HUFFMAN_MAGIC:
        raise DataError(f"{path}: Huffman-coded data is not supported: binarize with fairseq's --dataset-impl mmap")
    if _MMAP_MAGIC.startswith(head) or _LEGACY_MAGIC.startswith(head):
        raise DataError(f"{path}: truncated: {len(content)} bytes do not hold a header; binarize the data again")
    instead = text_of_another_kind(content[:HEAD].tobytes())
    if instead:
        raise DataError(f"{path}: {instead}")
    raise DataError(f"{path}: not an index of fairseq's binarized data (it starts with {head!r})")


def _read_mmap_index(path: Path, content: NDArray[np.uint8]) -> _Index:
    """MMIDIDX, version 1: int32 sizes, then int64 positions in bytes."""
    _, version, code, count = _unpack(_MMAPHEADER, path, content)
    dtype = _token_type(path, version, code)
    _check_length(path, content, _MMAPHEADER.size + count * 12)
    sizes = _numbers(content, _MMAPHEADER.size, count, "<i4")
    positions = _numbers(content, _MMAPHEADER.size + 4 * count, count, "<i8")
    _check_layout(path, sizes, positions, dtype.itemsize)
    return _Index(dtype, sizes, 0)


def _read_legacy_index(path: Path, content: NDArray[np.uint8]) -> _Index:
    """TNTIDX, version 1: int64 first dimension of each item, position of each item in elements, and dimensions."""
    _, version, code, width, count, dimensions = _unpack(_LEGACYHEADER, path, content)
    dtype = _token_type(path, version, code)
    if width != dtype.itemsize:
        raise DataError(f"{path}: damaged: tokens of {width} bytes, but of a type that has {dtype.itemsize}")
    _check_length(path, content, _LEGACYHEADER.size + 8 * (2 * (count + 1) + dimensions))
    first = _numbers(content, _LEGACYHEADER.size, count + 1, "<i8")
    positions = _numbers(content, _LEGACYHEADER.size + 8 * (count + 1), count + 1, "<i8")
    sizes = _numbers(content, _LEGACYHEADER.size + 16 * (count + 1), dimensions, "<i8")
    if dimensions != count or not np.array_equal(first, np.arange(count + 1)):
        raise DataError(f"{path}: not sentences: its items do not have one dimension each")
    _check_layout(path, sizes, positions[:-1], 1)
    return _Index(dtype, sizes, 1)


def _unpack(header: struct.Struct, path: Path, content: NDArray[np.uint8]) -> tuple[Any, ...]:
    if len(content) < header.size:
        raise DataError(f"{path}: truncated: {len(content)} bytes do not hold a header; binarize the data again")
    return header.unpack(content[: header.size].tobytes())


def _token_type(path: Path, version: int, code: int) -> np.dtype[Any]:
    if version != 1:
        raise DataError(f"{path}: version {version} of the index is not supported (1 is)")
    if code in _FLOATS:
        raise DataError(f"{path}: holds floating-point numbers, not token ids")
    if code not in _INTEGERS:
        raise DataError(f"{path}: damaged: unknown type code {code}")
    return np.dtype(_INTEGERS[code])


def _check_length(path: Path, content: NDArray[np.uint8], needed: int) -> None:
    # Before any array is made: a damaged count must not ask for more memory than the file has bytes.
    if len(content) != needed:
        state = "truncated" if len(content) < needed else "damaged"
        described = f"{len(content)} bytes, but its header describes {needed}"
        raise DataError(f"{path}: {state}: {described}; binarize the data again")


def _numbers(content: NDArray[np.uint8], offset: int, count: int, dtype: str) -> Ids:
    return np.frombuffer(content, dtype=dtype, count=count, offset=offset).astype(np.int64)


def _check_layout(path: Path, sizes: Ids, positions: Ids, unit: int) -> None:
    """Every writer lays sentences end to end; anything else is damage."""
    expected = (np.cumsum(sizes) - sizes) * unit
    wrong = np.flatnonzero((sizes < 0) | (positions != expected))
    if len(wrong):
        raise DataError(f"{path}: damaged: size or position of sentence {wrong[0]} (counted from 0) is wrong")


def _check_ids(sentences: Sentences, symbols: int, path: Path) -> None:
    low, high = sentences.shift, symbols + sentences.shift
    for begin in range(0, len(sentences.tokens), _CHUNK_TOKENS):
        chunk = sentences.tokens[begin : begin + _CHUNK_TOKENS]
        if chunk.min() >= low and chunk.max() < high:
            continue
        place = begin + int(np.flatnonzero((chunk < low) | (chunk >= high))[0])
        sentence = int(np.searchsorted(sentences.starts, place, side="right")) - 1
        found = int(sentences.tokens[place]) - sentences.shift
        raise DataError(
            f"{path}: token id {found} in sentence {sentence} (counted from 0), but the dictionary has {symbols} "
            "symbols: the data was binarized with another dictionary, or is damaged"
        )


def write_sentences(prefix: Path, sentences: Sentences) -> None:
    """Write PREFIX.idx and PREFIX.bin as ``fairseq-preprocess --dataset-impl mmap`` does, ids as 32-bit integers.

    Raises:
        OutputError: a file exists or cannot be written.
    """
    with atomic_output(data_path(prefix)) as file:
        for sentence in sentences:
            file.write(sentence.astype("<i4").tobytes())
    with atomic_output(index_path(prefix)) as file:
        _write_index(file, sentences.sizes)


def _write_index(file: BinaryIO, sizes: Ids) -> None:
    """MMIDIDX, version 1: int32 sizes, then int64 positions in bytes."""
    file.write(struct.pack("<9sQBQ", b"MMIDIDX\0\0", 1, _INT32, len(sizes)))
    file.write(sizes.astype("<i4").tobytes())
    file.write(((np.cumsum(sizes) - sizes) * 4).astype("<i8").tobytes())
