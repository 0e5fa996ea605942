"""How often files are read: text and numbers by `open`, checkpoints by the classes of their formats."""

import builtins
import contextlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from nmtprune import formats
from nmtprune.data.databin import DataBin


@dataclass
class Reads:
    """What was read.

    Attributes:
        files: how often each file was opened for reading.
        checkpoints: how often each state of each checkpoint was loaded: a training writes over its files.
        subsets: the binarized subsets, as often as each was read.
    """

    files: Counter[Path] = field(default_factory=Counter)
    checkpoints: Counter[tuple[Path, int]] = field(default_factory=Counter)
    subsets: list[str] = field(default_factory=list)

    def below(self, folder: Path) -> dict[str, int]:
        """The files of a folder by name."""
        return {path.name: times for path, times in self.files.items() if path.parent == folder.resolve()}


@contextlib.contextmanager
def counted_reads() -> Iterator[Reads]:
    """Count what the block reads in this process."""
    found, opened, read = Reads(), builtins.open, DataBin.read

    def open_(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and not set(mode) & set("wax+"):
            found.files[Path(os.fspath(file)).resolve()] += 1
        return opened(file, mode, *rest, **options)

    def read_(self: DataBin, subset: str, *rest: Any, **options: Any) -> Any:
        found.subsets.append(subset)
        return read(self, subset, *rest, **options)

    def loading(own: type) -> Callable[[Path], Any]:
        load = own.load  # type: ignore[attr-defined]

        def counted(path: Path) -> Any:
            found.checkpoints[Path(path).resolve(), os.stat(path).st_mtime_ns] += 1
            return load(path)

        return counted

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(builtins, "open", open_))
        stack.enter_context(mock.patch.object(io, "open", open_))
        stack.enter_context(mock.patch.object(DataBin, "read", read_))
        for own in formats.classes():
            stack.enter_context(mock.patch.object(own, "load", loading(own)))
        yield found
