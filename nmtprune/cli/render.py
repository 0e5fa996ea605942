"""Results on stdout: tables for people, JSON and TSV in full precision for programs."""

import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

Cell = str | int | float | None

_MOST_DIFFERENCES = 5


def emit_json(value: Any) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def emit_tsv(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Print tab-separated values as files of results have them."""
    from nmtprune.runs.tsv import tsv

    click.echo(tsv(columns, rows), nl=False)


def emit_comparison(output_format: str, figures: Iterable[Sequence[Cell]], differences: Sequence[str]) -> None:
    """Print figures by name; as a table (not ``tsv``) also the first sentences that came out otherwise."""
    if output_format == "tsv":
        emit_tsv(("figure", "value"), figures)
        return
    emit_table(("", "value"), figures)
    for difference in differences[:_MOST_DIFFERENCES]:
        click.echo(difference)
    more = len(differences) - _MOST_DIFFERENCES
    if more > 0:
        click.echo(f"and {more} more (see all with --format json)")


def emit_table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str | None = None) -> None:
    """Print an aligned table: the first column to the left, numbers to the right, never wrapped or shortened."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [["" if cell is None else _shown(cell) for cell in row] for row in rows]
    numeric = [all(_is_number(row[column]) for row in cells) for column in range(len(columns))]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if numeric[position] else "left", no_wrap=True, overflow="ignore")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    buffer = io.StringIO()
    Console(file=buffer, width=10_000, color_system=None, highlight=False).print(table)
    for line in buffer.getvalue().splitlines():
        click.echo(line.rstrip())


def _shown(cell: Cell) -> str:
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("%", "").replace("-", "").isdigit() or cell == ""
