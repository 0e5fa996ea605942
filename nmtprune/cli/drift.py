"""`nmtprune drift`: how far the weights of each head and neuron moved between two checkpoints."""

from dataclasses import asdict
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import click

from nmtprune.architecture import KINDS
from nmtprune.cli.options import format_option, say, verbosity_options
from nmtprune.cli.panels import PanelCommand
from nmtprune.cli.render import Cell, emit_json, emit_table, emit_tsv

if TYPE_CHECKING:
    from nmtprune.methods.drift import Drift


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune drift slim.pt finetuned/checkpoint_last.pt --format tsv",
    short_help="Show the weight change of each head and neuron between two checkpoints.",
)
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@format_option
@verbosity_options
def drift(before: Path, after: Path, output_format: str) -> None:
    """Show the mean absolute change of the query, key and value weights of each head from BEFORE to AFTER.

    Both are checkpoints of the same shape, or slim ones cut from such a checkpoint. Heads are matched and named by
    their ids in the root checkpoint; a head that is missing in one of the two is left out. The table shows the mean
    over the three matrices; json and tsv list each matrix. A last table shows, for each feed-forward layer, how far the
    weights of its neurons moved; json lists each neuron.
    """
    from nmtprune.formats import load
    from nmtprune.methods.drift import drift as compare

    found = compare(load(before), load(after))
    if not found.related:
        say("the two checkpoints do not descend from the same weights: only their shapes agree")
    rows = [{**asdict(entry), "head": str(entry.head)} for entry in found.heads]
    if output_format == "json":
        neurons = [{**asdict(layer), "group": str(layer.group)} for layer in found.neurons]
        emit_json({"before": str(before), "after": str(after), "heads": rows, "neurons": neurons})
    elif output_format == "tsv":
        columns = ("head", "query", "key", "value", "mean")
        emit_tsv(columns, ([row[column] for column in columns] for row in rows))
    else:
        _emit_tables(found)
        _emit_neurons(found)


def _emit_tables(found: "Drift") -> None:
    """One table per kind: a row per layer, a column per head of the root; empty cells where a head is gone."""
    means = {entry.head: entry.mean for entry in found.heads}
    for kind in KINDS:
        modules = {module: heads for module, heads in found.modules.items() if module.kind == kind}
        if not modules:
            continue
        width = max(modules.values())
        rows: list[list[Cell]] = []
        for module, heads in modules.items():
            cells = {head.number: mean for head, mean in means.items() if head.group == module}
            own = [cells[head] for head in range(heads) if head in cells]
            mean = sum(own) / len(own) if own else None
            rows.append([str(module), *(cells.get(head) for head in range(width)), mean])
        emit_table(["layer", *map(str, range(width)), "mean"], rows, title=f"{kind}: mean |change| per head")


def _emit_neurons(found: "Drift") -> None:
    """A row per feed-forward layer that both checkpoints have; empty cells where no neuron is left in common."""
    rows: list[list[Cell]] = []
    for layer in found.neurons:
        own = layer.changes
        figures: list[Cell] = [min(own), median(own), max(own), mean(own)] if own else [None] * 4
        rows.append([str(layer.group), len(own), *figures])
    if rows:
        emit_table(
            ["layer", "neurons", "min", "median", "max", "mean"], rows, title="neurons: mean |change| per neuron"
        )
