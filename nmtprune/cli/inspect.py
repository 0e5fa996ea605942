"""`nmtprune inspect`: heads, lineage and parameters of a checkpoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmtprune.cli.options import checkpoint_argument, format_option, verbosity_options
from nmtprune.cli.panels import PanelCommand
from nmtprune.cli.render import Cell, emit_json, emit_table, emit_tsv

if TYPE_CHECKING:
    from nmtprune.summary import ModuleSummary, Summary


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune inspect checkpoint_best.pt --format json",
    short_help="Show the heads, lineage and parameters of a checkpoint.",
)
@checkpoint_argument
@format_option
@verbosity_options
def inspect(checkpoint: Path, output_format: str) -> None:
    """Show the attention modules of CHECKPOINT, the heads of each module, and the number of parameters by part.

    Heads are listed with their ids in the root checkpoint (the one that a slim checkpoint was cut from) and with the
    parameters per head. A model whose weights contain NaN or infinity is shown with a remark; every other command
    refuses it.
    """
    from nmtprune.formats import load
    from nmtprune.summary import summarize

    summary = summarize(load(checkpoint, finite=False))
    if output_format == "json":
        emit_json(summary.as_json())
    elif output_format == "tsv":
        emit_tsv(MODULE_COLUMNS, (_module_row(entry) for entry in summary.modules))
    else:
        _emit_text(summary)


MODULE_COLUMNS = ("module", "heads", "of", "head_dim", "parameters_per_head", "root_heads", "notes")


def _module_row(entry: "ModuleSummary") -> tuple[Cell, ...]:
    module = entry.module
    notes = []
    if module.padding_heads:
        notes.append(f"+{module.padding_heads} padding")
    if entry.open_heads is not None:
        notes.append("open " + (",".join(map(str, entry.open_heads)) or "-"))
    elif entry.masked_heads:
        notes.append("masked " + ",".join(map(str, entry.masked_heads)))
    roots = ",".join(map(str, entry.root_heads)) or "-"
    return (
        str(module.id), module.heads, entry.root_count, module.head_dim, entry.head_parameters, roots, " ".join(notes)
    )  # fmt: skip


def _emit_text(summary: "Summary") -> None:
    click.echo(f"{summary.format} {summary.architecture}: {_heads_line(summary)}")
    click.echo(f"tensors sha256 {summary.sha256}")
    if summary.root_sha256:
        click.echo(f"cut from        {summary.root_sha256}")
    emit_table(MODULE_COLUMNS, [_module_row(entry) for entry in summary.modules])
    emit_table(("part", "parameters", "share"), _parameter_rows(summary))
    click.echo(f"model {_megabytes(summary.model_bytes)}, file {_megabytes(summary.file_bytes)}", nl=False)
    click.echo(f", optimizer state and averages {_megabytes(summary.other_bytes)}")
    for note in summary.notes:
        click.echo(f"note: {note}")


def _heads_line(summary: "Summary") -> str:
    line = f"{summary.heads} heads"
    if summary.root_heads != summary.heads:
        removed = 1 - summary.heads / summary.root_heads
        line += f" of {summary.root_heads} ({removed:.1%} removed)"
    if summary.closed_heads is not None:
        line += f", with gates: {summary.heads - summary.closed_heads} open, {summary.closed_heads} closed"
    elif summary.masked_heads:
        line += f", {summary.masked_heads} of them masked: do not train this file further, these heads would grow back"
    if summary.not_finite:
        line += f"; not finite: {summary.not_finite}: every other command refuses this model"
    return line


def _parameter_rows(summary: "Summary") -> Iterator[tuple[Cell, ...]]:
    total = summary.total_parameters
    for part, count in summary.parameters.items():
        yield part, count, f"{count / total:.1%}"
    yield "total", total, ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
