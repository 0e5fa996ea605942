import gzip
import hashlib
import io
import os
from pathlib import Path

import pytest

from nmtprune.data.text import STDIN, read_text, stream_lines
from nmtprune.errors import DataError


def _lines(tmp_path: Path, content: bytes) -> tuple[str, ...]:
    path = tmp_path / "text"
    path.write_bytes(content)
    lines = read_text(path).lines
    assert tuple(stream_lines(path)) == lines
    assert tuple(stream_lines(STDIN, io.BytesIO(content))) == lines
    path.write_bytes(gzip.compress(content))
    assert tuple(stream_lines(path)) == lines
    return lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", ()),
        (b"a", ("a",)),
        (b"a\n", ("a",)),
        (b"a\n\n", ("a", "")),
        (b"\n", ("",)),
        (b"a\r\nb\r\n", ("a", "b")),
        (b"\xef\xbb\xbfa\nb", ("a", "b")),
        (b"\xef\xbb\xbf", ()),
        (b"\xef\xbb\xbf\n", ("",)),
        (b"a\rb\n", ("a\rb",)),
        (b" a \t\n", (" a \t",)),
    ],
)
def test_lines(tmp_path: Path, content: bytes, lines: tuple[str, ...]) -> None:
    assert _lines(tmp_path, content) == lines


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_unicode_separators_do_not_end_a_line(tmp_path: Path, separator: str) -> None:
    assert _lines(tmp_path, f"a{separator}b\nc\n".encode()) == (f"a{separator}b", "c")


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(gzip.compress("ä\nb\n".encode()))
    text = read_text(path)
    assert text.lines == ("ä", "b")
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_standard_input() -> None:
    text = read_text(STDIN, io.BytesIO(b"a\nb"))
    assert (text.name, text.lines) == ("standard input", ("a", "b"))


def _error(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_text(path)
    with pytest.raises(DataError) as streamed:
        list(stream_lines(path))
    assert str(streamed.value).split(" check failed")[0] == str(caught.value).split(" check failed")[0]
    return str(caught.value)


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text"
    assert _error(path, b"a\nb\xff\nc\n") == f"{path}: line 2 is not UTF-8 (byte 0xff): convert the file to UTF-8"
    assert _error(path, "a".encode("utf-16")) == (
        f"{path}: line 1 is not UTF-8 (byte 0xff) (the file starts like UTF-16): convert the file to UTF-8"
    )
    compressed = gzip.compress(b"a\n" * 1000)
    assert _error(path, compressed[:-9]) == (
        f"{path}: damaged gzip file: Compressed file ended before the end-of-stream marker was reached"
    )
    assert _error(path, compressed[:12] + b"\0\0\0\0" + compressed[16:]).startswith(f"{path}: damaged gzip file: ")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_text(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'}: cannot be read: No such file or directory"
    with pytest.raises(DataError, match="cannot be read: No such file or directory$"):
        list(stream_lines(tmp_path / "none"))
    with pytest.raises(DataError) as caught:
        read_text(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder: name the file in it"


def test_lines_are_read_when_they_are_asked_for() -> None:
    read, write = os.pipe()
    with open(read, "rb") as stdin, open(write, "wb", buffering=0) as producer:
        producer.write(b"first\nsecond\n")
        lines = stream_lines(STDIN, stdin)
        assert [next(lines), next(lines)] == ["first", "second"]
        producer.write(b"third\n")
        assert next(lines) == "third"


def test_standard_input_is_read_once_for_all_who_ask() -> None:
    stream = io.BytesIO(b"a\nb\n")
    assert read_text(STDIN, stream) == read_text(STDIN, stream)
    assert read_text(STDIN, io.BytesIO(b"c\n")).lines == ("c",)
