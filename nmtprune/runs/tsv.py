"""Tables of results as tab-separated values."""

import csv
import io
from collections.abc import Iterable, Sequence

Cell = str | int | float | None


def tsv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Tab-separated values under a header line, in full precision; an empty field for None.

    A field that holds a tab, a line break or a quotation mark is quoted as in CSV.
    """
    text = io.StringIO()
    plain, quoted = (
        csv.writer(text, dialect="excel-tab", lineterminator="\n", quoting=quoting)
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)
    )
    for row in (columns, *rows):
        # csv itself quotes a carriage return only where lines end in one.
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)
    return text.getvalue()
