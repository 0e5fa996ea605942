"""Text files, one sentence per line: UTF-8, plain or gzip, with either line ending."""

import gzip
import hashlib
import io
import sys
import weakref
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from nmtprune.errors import DataError
from nmtprune.files.kinds import HEAD, describe, text_of_another_kind
from nmtprune.files.places import parts

STDIN = Path("-")
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_FAULTS_SHOWN = 5


@dataclass(frozen=True)
class TextFile:
    """The lines of a text file.

    Attributes:
        name: the path as it was given, or ``standard input``.
        lines: without line endings.
        sha256: of the bytes as stored (compressed, where the file is).
    """

    name: str
    lines: tuple[str, ...]
    sha256: str


def read_text(path: Path, stdin: BinaryIO | None = None) -> TextFile:
    r"""Read a file, or standard input where the path is ``-``.

    Only ``\n`` and ``\r\n`` end a line: characters such as U+2028 or U+0085, which str.splitlines takes for line ends
    too, occur inside sentences of crawled text and would shift every later line against the reference. A byte order
    mark is dropped.

    Raises:
        DataError: the file cannot be read, is damaged gzip, or is not UTF-8; the line is named.
    """
    name = _name(path)
    try:
        stored = _standard_input(stdin or sys.stdin.buffer) if path == STDIN else path.read_bytes()
    except OSError as error:
        raise DataError(f"{name}: {_unreadable(path, error)}") from error
    _check_kind(path, stored)
    content = _decompressed(name, stored).removeprefix(_UTF8_MARK)
    lines = _decoded(name, content, path).split("\n")
    if not lines[-1]:
        lines.pop()
    return TextFile(name, tuple(line.removesuffix("\r") for line in lines), hashlib.sha256(stored).hexdigest())


_READ: "weakref.WeakKeyDictionary[BinaryIO, bytes]" = weakref.WeakKeyDictionary()
"""What standard input held: a run that reads DATA again finds it empty."""


def _standard_input(stdin: BinaryIO) -> bytes:
    if stdin not in _READ:
        _READ[stdin] = stdin.read()
    return _READ[stdin]


def stream_lines(path: Path, stdin: BinaryIO | None = None) -> Iterator[str]:
    """The same lines as `read_text` gives, each read when it is asked for.

    Raises:
        DataError: as for `read_text`, when the damaged place is reached.
    """
    name = _name(path)
    try:
        with _opened(path, stdin) as stored:
            _check_kind(path, stored.peek(HEAD)[:HEAD] if path != STDIN else b"")
            lines = gzip.GzipFile(fileobj=stored) if stored.peek(2).startswith(_GZIP_MAGIC) else stored
            for number, line in enumerate(lines, 1):
                content = line.removeprefix(_UTF8_MARK) if number == 1 else line
                if not content:
                    continue
                yield _decoded(name, content, path, number).removesuffix("\n").removesuffix("\r")
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name}: damaged gzip file: {error}") from error
    except OSError as error:
        raise DataError(f"{name}: {_unreadable(path, error)}") from error


def first_of(faults: list[str]) -> list[str]:
    """The first faults of a file and how many more there are: a file of another kind has one in every line."""
    more = len(faults) - _FAULTS_SHOWN
    return faults[:_FAULTS_SHOWN] + [f"and {more} more"] if more > 0 else faults


def _decompressed(name: str, stored: bytes) -> bytes:
    # By content, not by name: standard input has no name, and valid UTF-8 never starts with these two bytes.
    if not stored.startswith(_GZIP_MAGIC):
        return stored
    try:
        return gzip.decompress(stored)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name}: damaged gzip file: {error}") from error


def _name(path: Path) -> str:
    return "standard input" if path == STDIN else str(path)


@contextmanager
def _opened(path: Path, stdin: BinaryIO | None) -> Iterator[io.BufferedReader]:
    if path != STDIN:
        with open(path, "rb") as file:
            yield file
        return
    stream = stdin or sys.stdin.buffer
    yield cast(io.BufferedReader, stream) if hasattr(stream, "peek") else io.BufferedReader(cast(io.RawIOBase, stream))


def _unreadable(path: Path, error: OSError) -> str:
    several = parts(path)
    if several:
        return f"{' and '.join(several)} are several files: name one"
    return "is a folder: name the file in it" if path.is_dir() else f"cannot be read: {error.strerror or error}"


def _check_kind(path: Path, stored: bytes) -> None:
    """Refuse a file that only stands in place of a text; whatever comes by standard input is text."""
    instead = None if path == STDIN else text_of_another_kind(stored[:HEAD])
    if instead:
        raise DataError(f"{path}: {instead}")


def _decoded(name: str, content: bytes, path: Path, first: int = 1) -> str:
    """Text of lines from number `first` on."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        instead = None if path == STDIN else describe(path)
        if instead:
            raise DataError(f"{name}: {instead}") from error
        line = content.count(b"\n", 0, error.start) + first
        hint = " (the file starts like UTF-16)" if content.startswith(_UTF16_MARKS) else ""
        found = f"byte 0x{content[error.start]:02x}"
        raise DataError(f"{name}: line {line} is not UTF-8 ({found}){hint}: convert the file to UTF-8") from error
