"""Tables of texts and labels: tab-separated, a row of names first, no quoting, as GLUE has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nmtprune.data.text import first_of, read_text
from nmtprune.errors import DataError, UsageError

_FIRST_ROW = 2
"""Number of the line behind the names."""
_PAIR = 2


@dataclass(frozen=True)
class LabelTable:
    """Columns of a table.

    Attributes:
        name: the path as it was given, or ``standard input``.
        texts: by column, one text per row: one column, or two for pairs.
        labels: one per row, as it is written; None where no column of them is named.
        sha256: of the file.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[str, ...] | None
    sha256: str

    def __len__(self) -> int:
        """Number of rows without the names."""
        return len(self.texts[0])

    @staticmethod
    def line(row: int) -> int:
        """Number of the line of a row that is counted from 0."""
        return row + _FIRST_ROW


def read_table(path: Path, text_columns: Sequence[str], label_column: str | None) -> LabelTable:
    """Read columns of a table, plain or gzip; ``-`` is standard input.

    Args:
        path: the file.
        text_columns: names of one or two columns.
        label_column: name of the column of labels; None: none are read.

    Raises:
        DataError: the file cannot be read or is empty, a column is missing, or rows have other numbers of fields than
            the names; all faults.
        UsageError: as for `check_columns`.
    """
    check_columns(text_columns, label_column)
    file = read_text(path)
    if not file.lines:
        raise DataError(f"{file.name}: empty: a table begins with the names of its columns")
    names = file.lines[0].split("\t")
    wanted = [*text_columns, *([] if label_column is None else [label_column])]
    _check_names(file.name, names, wanted)
    rows = [line.split("\t") for line in file.lines[1:]]
    if not rows:
        raise DataError(f"{file.name}: empty: it has names of columns and no rows")
    faults = [
        f"line {number} has {len(row)} fields" for number, row in enumerate(rows, _FIRST_ROW) if len(row) != len(names)
    ]
    if faults:
        raise DataError.of_faults(f"{file.name}: rows that do not have the {len(names)} columns", first_of(faults))
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    texts = tuple(columns[name] for name in text_columns)
    return LabelTable(file.name, texts, None if label_column is None else columns[label_column], file.sha256)


def check_columns(text_columns: Sequence[str], label_column: str | None) -> None:
    """Check names of columns that a user gives.

    Raises:
        UsageError: more than two columns of texts, names that are empty or the same.
    """
    named = [*text_columns, *([] if label_column is None else [label_column])]
    if not 1 <= len(text_columns) <= _PAIR:
        raise UsageError(f"`text_column` names {len(text_columns)} columns: give one, or two for pairs of texts")
    if not all(named) or len(set(named)) < len(named):
        raise UsageError(f"`text_column` and `label_column` name {', '.join(map(repr, named))}: give different columns")


def _check_names(where: str, names: Sequence[str], wanted: Sequence[str]) -> None:
    faults = [f"'{name}' is {'missing' if not names.count(name) else 'there twice'}" for name in wanted
              if names.count(name) != 1]  # fmt: skip
    if faults:
        there = ", ".join(f"'{name[:40]}'" for name in names)
        faults[-1] += f" (the first line names {there})"
        raise DataError.of_faults(f"{where}: columns", faults)
