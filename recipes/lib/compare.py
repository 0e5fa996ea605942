"""The table at the end of a recipe: what was measured beside what the paper reports.

expected.tsv has the columns row, column, expected, tolerance, source and note. A column ``X.change`` is the difference
of the row's X from that of the row ``--base``. Rows that were measured more than once are averaged over their samples.
"""

import argparse
import csv
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

CHANGE = ".change"
HEADER = ("row", "column", "paper", "measured", "sd", "difference", "tolerance", "verdict", "source", "note")


@dataclass(frozen=True)
class Expected:
    """A number of the paper, and how far from it a run may be."""

    row: str
    column: str
    value: float
    tolerance: float
    source: str
    note: str


def main() -> None:
    """Print the table and write it as TSV; exit code 1 where a number of the paper has nothing beside it."""
    options = _options()
    measured = read_measured(options.measured, options.base)
    expected = read_expected(options.expected)
    rows = [_row(each, measured) for each in expected]
    told = {(each.row, each.column) for each in expected}
    other = sorted(key for key in measured if key not in told and not key[1].endswith(CHANGE))
    rows += [[*key, "", *_figures(measured[key]), *[""] * 5] for key in other]
    with options.output.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([HEADER, *rows])
    print(table([list(HEADER), *rows]))
    missing = [f"{row[0]} {row[1]}" for row in rows if not row[3]]
    if options.smoke:
        sources = {each.source for each in expected}
        reached = {row[-2] for row in rows if row[3]}
        print("A smoke: every step has run, the figures mean nothing.")
        missing = sorted(sources - reached)
    if missing:
        sys.exit(f"Error: {options.expected}: nothing was measured for {', '.join(missing)}")


def read_expected(path: Path) -> list[Expected]:
    """The numbers of the paper, in the order of the file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Expected(
                line["row"],
                line["column"],
                float(line["expected"]),
                float(line["tolerance"]),
                line["source"],
                line["note"],
            )
            for line in csv.DictReader(file, delimiter="\t")
        ]


def read_measured(folder: Path, base_row: str) -> dict[tuple[str, str], dict[str, float]]:
    """Figures of all steps: values by sample, by row and column; columns of changes are added."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for path in sorted(folder.glob("*.tsv")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row, column, value, _low, _high, sample = line.split("\t")
            found.setdefault((row, column), {})[sample] = float(value)
    changes = {}
    for (row, column), values in found.items():
        base = found.get((base_row, column))
        if base and row != base_row:
            reference = statistics.fmean(base.values())
            changes[row, column + CHANGE] = {sample: value - reference for sample, value in values.items()}
    return found | changes


def table(rows: list[list[str]]) -> str:
    """Rows as text, columns aligned."""
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _row(expected: Expected, measured: dict[tuple[str, str], dict[str, float]]) -> list[str]:
    values = measured.get((expected.row, expected.column))
    paper, about = _shown(expected.value, expected.column), (expected.source, expected.note)
    if not values:
        return [expected.row, expected.column, paper, *[""] * 3, f"{expected.tolerance:g}", "", *about]
    difference = statistics.fmean(values.values()) - expected.value
    verdict = "within" if abs(difference) <= expected.tolerance else "outside"
    figures = _figures(values)
    return [
        *(expected.row, expected.column, paper, *figures, f"{difference:+.2f}"),
        *(f"{expected.tolerance:g}", verdict, *about),
    ]


def _figures(values: dict[str, float]) -> tuple[str, str]:
    mean = statistics.fmean(values.values())
    return f"{mean:.2f}", f"{statistics.stdev(values.values()):.2f}" if len(values) > 1 else ""


def _shown(value: float, column: str) -> str:
    return f"{value:+.2f}" if column.endswith(CHANGE) else f"{value:.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("expected", type=Path)
    parser.add_argument("measured", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--base", default="base", metavar="ROW", help="what changes are from")
    parser.add_argument("--smoke", action="store_true", help="enough that every source has a number beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
