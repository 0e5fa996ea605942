"""`nmtprune inspect`: heads, neurons, layers, lineage and parameters of a checkpoint."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nmtprune.cli.options import checkpoint_argument, force_option, format_option, say, verbosity_options
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.render import Cell, emit_json, emit_table, emit_tsv

if TYPE_CHECKING:
    from nmtprune.summary import GroupSummary, StackSummary, Summary


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune inspect checkpoint_best.pt --format json",
    short_help="Show the heads, neurons, layers, lineage and parameters of a checkpoint.",
)
@checkpoint_argument
@panel_option(
    Panel.OUTPUT,
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Draw the heads and neurons of every layer, and the layers that are gone (PNG).",
)
@force_option
@format_option
@verbosity_options
def inspect(checkpoint: Path, plot: Path | None, force: bool, output_format: str) -> None:
    """Show the heads, neurons and layers of CHECKPOINT, and the number of parameters by part.

    Every attention module, feed-forward layer and stack is listed with what one head, neuron or layer costs and with
    the numbers of its heads, neurons or layers in the root checkpoint (the one that a slim checkpoint was cut from).
    JSON has all numbers, TSV the attention modules. A model whose weights contain NaN or infinity is shown with a
    remark; every other command refuses it.
    """
    from nmtprune.files import atomic_output, check_output
    from nmtprune.formats import load
    from nmtprune.summary import summarize

    if plot is not None:
        check_output(plot, force=force, inputs=[checkpoint])
    summary = summarize(load(checkpoint, finite=False))
    if plot is not None:
        from nmtprune.plots import shape_png

        with atomic_output(plot, force=force, inputs=[checkpoint]) as file:
            file.write(shape_png(summary.computing, {id: len(numbers) for id, numbers in summary.root.items()}))
    if output_format == "json":
        emit_json(summary.as_json())
    elif output_format == "tsv":
        emit_tsv(MODULE_COLUMNS, (_module_row(entry) for entry in summary.modules))
    else:
        _emit_text(summary)
    if plot is not None:
        say(f"wrote {plot}")


MODULE_COLUMNS = ("module", "heads", "of", "head_dim", "parameters_per_head", "root_heads", "notes")
FEED_FORWARD_COLUMNS = (
    "feed-forward",
    "neurons",
    "of",
    "parameters_per_neuron",
    "bytes_per_neuron",
    "root_neurons",
    "notes",
)
STACK_COLUMNS = ("stack", "layers", "of", "parameters_per_layer", "bytes_per_layer", "root_layers")

_WIDEST_NUMBERS = 40
"""Columns for numbers in the root checkpoint, of which a feed-forward layer has thousands."""


def _module_row(entry: "GroupSummary") -> tuple[Cell, ...]:
    module = entry.group
    roots = ",".join(map(str, entry.root_units)) or "-"
    notes = _notes(entry, lambda units: ",".join(map(str, units)))
    return str(module.id), module.units, entry.root_count, module.width, entry.parameters, roots, notes


def _feed_forward_row(entry: "GroupSummary") -> tuple[Cell, ...]:
    group, roots = entry.group, _numbers(entry.root_units) or "-"
    notes = _notes(entry, _numbers)
    return str(group.id), group.units, entry.root_count, entry.parameters, entry.bytes, roots, notes


def _stack_row(entry: "StackSummary") -> tuple[Cell, ...]:
    costs = [_span(found) for found in (entry.parameters, entry.bytes)]
    return entry.stack, len(entry.layers), entry.root_count, *costs, _numbers(entry.root_layers)


def _notes(entry: "GroupSummary", shown: Callable[[Sequence[int]], str]) -> str:
    """Padding, gates and masks of a group."""
    notes = [f"+{entry.group.padding} padding"] if entry.group.padding else []
    if entry.opened is not None:
        notes.append("open " + (shown(entry.opened) or "-"))
    elif entry.masked:
        notes.append("masked " + shown(entry.masked))
    return " ".join(notes)


def _numbers(numbers: Sequence[int]) -> str:
    """Numbers as ranges, cut off where they would fill the line; JSON has all."""
    from nmtprune.plan import ranges

    text = ranges.as_ranges(numbers)
    return text if len(text) <= _WIDEST_NUMBERS else text[: text.rindex(",", 0, _WIDEST_NUMBERS - 3) + 1] + "..."


def _span(costs: Sequence[int] | None) -> str:
    """What layers cost: one figure where all cost the same."""
    return "-" if costs is None else " to ".join(f"{cost:,}" for cost in sorted({min(costs), max(costs)}))


def _emit_text(summary: "Summary") -> None:
    click.echo(f"{summary.format} {summary.architecture}: {_units_line(summary)}")
    click.echo(f"tensors sha256 {summary.sha256}")
    if summary.root_sha256:
        click.echo(f"cut from        {summary.root_sha256}")
    emit_table(MODULE_COLUMNS, [_module_row(entry) for entry in summary.modules])
    if summary.feed_forwards:
        emit_table(FEED_FORWARD_COLUMNS, [_feed_forward_row(entry) for entry in summary.feed_forwards])
    emit_table(STACK_COLUMNS, [_stack_row(entry) for entry in summary.stacks])
    emit_table(("part", "parameters", "share"), _parameter_rows(summary))
    click.echo(f"model {_megabytes(summary.model_bytes)}, file {_megabytes(summary.file_bytes)}", nl=False)
    click.echo(f", optimizer state and averages {_megabytes(summary.other_bytes)}")
    for note in summary.notes:
        click.echo(f"note: {note}")


def _units_line(summary: "Summary") -> str:
    """Heads, and neurons and layers where some are gone."""
    line = _counted(summary, "heads") + _gated_or_masked(summary, "heads")
    for sort in ("neurons", "layers"):
        remark = _gated_or_masked(summary, sort) if sort == "neurons" else ""
        if summary.count(sort) != summary.root_count(sort) or remark:
            line += f"; {_counted(summary, sort)}{remark}"
    if summary.not_finite:
        line += f"; not finite: {summary.not_finite}: every other command refuses this model"
    return line


def _gated_or_masked(summary: "Summary", sort: str) -> str:
    """A remark on gates, or on masked units; empty where there are none."""
    closed = summary.closed(sort)
    if closed is None:
        return _masked(summary, sort)
    return f", with gates: {summary.count(sort) - closed} open, {closed} closed"


def _counted(summary: "Summary", sort: str) -> str:
    count, total = summary.count(sort), summary.root_count(sort)
    return f"{count} {sort}" + (f" of {total} ({1 - count / total:.1%} removed)" if total != count else "")


def _masked(summary: "Summary", sort: str) -> str:
    masked = summary.masked(sort)
    remark = f", {masked} of them masked: do not train this file further, these {sort} would grow back"
    return remark if masked else ""


def _parameter_rows(summary: "Summary") -> Iterator[tuple[Cell, ...]]:
    total = summary.total_parameters
    for part, count in summary.parameters.items():
        yield part, count, f"{count / total:.1%}"
    yield "total", total, ""


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
