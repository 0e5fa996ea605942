"""Files that have a table of their own: checkpoints, drift, correlations, cost tables, exports, unfinished runs."""

import json
from collections.abc import Iterator, Sequence
from statistics import mean

from nmtprune.page import numbers
from nmtprune.page.blocks import Block, Listing, Row, Section, Table, TableCell
from nmtprune.page.inputs import CheckpointFile, Source, Unfinished
from nmtprune.page.printed import CompareFile, DriftFile
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.report import ExportNote


def more_about_models(sources: Sequence[Source]) -> Section:
    """The tables of these files."""
    return Section.of("More about these models", _blocks(sources))


def _blocks(sources: Sequence[Source]) -> Iterator[Block]:
    checkpoints = [source for source in sources if isinstance(source.content, CheckpointFile)]
    if checkpoints:
        yield _checkpoints(checkpoints)
    for source in sources:
        match source.content:
            case DriftFile():
                yield _drift(source, source.content)
            case CompareFile():
                yield _compare(source, source.content)
            case CostTable():
                yield _cost_table(source, source.content)
            case ExportNote():
                yield Listing([(f"{source.path}: exported with quantization {source.content.quantization}", "note")])
            case Unfinished():
                yield _unfinished(source, source.content)


def _checkpoints(sources: Sequence[Source]) -> Table:
    rows: list[Row] = []
    for source in sources:
        summary = source.content.summary
        row: list[TableCell | str] = [source.path, f"{summary.format} {summary.architecture}"]
        row += [numbers.cell(summary.count(sort)) for sort in ("heads", "neurons", "layers")]
        row += [numbers.cell(summary.total_parameters)]
        row += [numbers.cell(size, numbers.megabytes) for size in (summary.model_bytes, summary.file_bytes)]
        rows.append([*row, TableCell(summary.sha256[:16], mark="code")])
    columns = ("checkpoint", "architecture", "heads", "neurons", "layers", "parameters", "tensors", "file",
               "SHA-256 of the tensors")  # fmt: skip
    return Table("Checkpoints", columns, rows)


def _drift(source: Source, found: DriftFile) -> Table:
    rows: list[Row] = [
        [TableCell(head.head, mark="code"),
         *(numbers.cell(value, "{:.4g}".format) for value in (head.query, head.key, head.value, head.mean))]
        for head in found.heads
    ]  # fmt: skip
    for layer in found.neurons:
        if layer.changes:
            average = mean(layer.changes)
            rows.append([TableCell(layer.group, mark="code"), "", "", "", numbers.cell(average, "{:.4g}".format)])
    caption = f"{source.path}: mean |change| of weights from {found.before} to {found.after}"
    return Table(caption, ("head or layer", "query", "key", "value", "mean"), rows, fold=len(rows) > 16)


def _compare(source: Source, found: CompareFile) -> Table:
    rows: list[Row] = [
        [
            sort, numbers.cell(own.units),
            numbers.cell(own.pearson, "{:.3f}".format), numbers.cell(own.pearson_p, numbers.p_value),
            numbers.cell(own.spearman, "{:.3f}".format), numbers.cell(own.spearman_p, numbers.p_value),
        ]
        for sort, own in found.groups.items()
    ]  # fmt: skip
    columns = ("what", "units", "Pearson r", "p of r", "Spearman rho", "p of rho")
    return Table(f"{source.path}: do {found.first} and {found.second} agree", columns, rows)


def _cost_table(source: Source, found: CostTable) -> Table:
    rows: list[Row] = [
        [", ".join(axis.kinds), numbers.cell(point.left, numbers.percent),
         numbers.cell(point.time.median, numbers.percent),
         f"{numbers.percent(point.time.low)} to {numbers.percent(point.time.high)}"]
        for axis in found.axes
        for point in reversed(axis.points)
    ]  # fmt: skip
    precision = f" {found.compute_type}" if found.compute_type else ""
    caption = (
        f"{source.path}: time of the model with fewer units; {found.engine}{precision} on {found.device}, batches of "
        f"{found.batch_size}, beam {found.beam}, {found.milliseconds.median:.2f} ms per sentence"
    )
    return Table(caption, ("part", "units left", "time", "interval"), rows, fold=len(rows) > 16)


def _unfinished(source: Source, found: Unfinished) -> Table:
    rows: list[Row] = [[name, TableCell(_shown(value), mark="code")] for name, value in found.settings.items()]
    done = numbers.named([(len(found.units), "measurements")])
    caption = f"{source.path}: a run that is not finished ({done} done); the same command with --resume continues it"
    return Table(caption, ("setting", "value"), rows)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
