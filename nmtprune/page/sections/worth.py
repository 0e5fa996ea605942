"""What units are worth: a map of heads, and a table of them that sorts."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median

from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, UnitId
from nmtprune.page import numbers, svg
from nmtprune.page.blocks import Block, Picture, Row, Section, Table, TableCell
from nmtprune.page.claims import PrunedModel
from nmtprune.page.inputs import Source
from nmtprune.page.sections.cut import NAMES
from nmtprune.plan import Plan
from nmtprune.scores import HeadScore, Scores

_ABOUT_P = "corrected for their number"


def what_units_are_worth(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Section:
    """Every score file; heads that the first pruned model of the same base lost are crossed out."""
    plans = [(model.name, model.plan) for model in models if model.plan is not None]
    return Section.of("What heads, neurons and layers are worth", (
        block
        for source in sources
        if isinstance(source.content, Scores)
        for block in _blocks(source, source.content, _of_same_base(source.content, plans))
    ))  # fmt: skip


def _of_same_base(scores: Scores, plans: Sequence[tuple[str, Plan]]) -> tuple[str, Plan] | None:
    own = None if scores.base is None else scores.base.sha256
    return next(((name, plan) for name, plan in plans if plan.base.sha256 == own), None)


def _blocks(source: Source, scores: Scores, pruned: tuple[str, Plan] | None) -> Iterator[Block]:
    name, plan = pruned or ("", None)
    entries = [(entry.id, entry) for entry in scores.entries]
    gone = set() if plan is None else set(plan.removed((*KINDS, *LAYER_KINDS)))
    heads = [(unit, entry) for unit, entry in entries if unit.group.kind in KINDS]
    if heads:
        yield _map(source, scores, heads, gone, name)
    single = [(unit, entry) for unit, entry in entries if unit.group.kind not in NEURON_KINDS]
    if single:
        yield _table(source, scores, single, gone if plan is not None else None)
    neurons: dict[str, list[float]] = {}
    for unit, entry in entries:
        if unit.group.kind in NEURON_KINDS:
            neurons.setdefault(str(unit.group), []).append(entry.score)
    if neurons:
        yield _neurons(source, scores, neurons)


def _map(
    source: Source, scores: Scores, heads: Sequence[tuple[UnitId, HeadScore]], gone: set[UnitId], pruned: str
) -> Picture:
    largest = max((abs(entry.score) for _, entry in heads), default=0.0) or 1.0
    drawings = []
    for kind in KINDS:
        rows: dict[int, list[svg.Square]] = {}
        for unit, entry in heads:
            if unit.group.kind == kind:
                mark = ("less" if entry.score < 0 else "more") + (" gone" if unit in gone else "")
                title = f"{unit}: {entry.score:.4g}" + (", removed" if unit in gone else "")
                rows.setdefault(unit.group.layer, []).append(svg.Square(mark, title, abs(entry.score) / largest))
        if rows:
            lines = [(str(layer), squares) for layer, squares in sorted(rows.items())]
            drawings.append(svg.grid(NAMES[kind], lines, f"{scores.metric} of the heads of {NAMES[kind]}"))
    legend = [("more", "higher: keep"), ("less", "below 0")] + ([("cross", f"removed in {pruned}")] if gone else [])
    return Picture(f"{source.path}: {scores.metric} of heads; the darker, the farther from 0", drawings, legend)


def _table(
    source: Source, scores: Scores, entries: Sequence[tuple[UnitId, HeadScore]], gone: set[UnitId] | None
) -> Table:
    tested = any(entry.delta is not None for _, entry in entries)
    measured = ("change without it", "95 % interval", "p", f"p {_ABOUT_P}") if tested else ()
    left = () if gone is None else ("in the pruned model",)
    columns = ("unit", "part", "layer", "number", "score", *measured, *left)
    rows: list[Row] = []
    for unit, entry in entries:
        row: list[TableCell | str] = [
            TableCell(str(unit), mark="code"), NAMES[unit.group.kind], numbers.cell(unit.group.layer),
            numbers.cell(unit.number), numbers.cell(entry.score, "{:.4g}".format),
        ]  # fmt: skip
        if tested:
            row += [
                numbers.cell(entry.delta, numbers.signed),
                "" if entry.ci is None else numbers.interval(*entry.ci),
                *(numbers.cell(p, numbers.p_value) for p in (entry.p, entry.p_corrected)),
            ]
        row += [] if gone is None else [TableCell("removed", mark="bad") if unit in gone else "kept"]
        rows.append(row)
    mode = ", each unit masked alone" if scores.mode == "ablate" else ", all other heads of its module masked"
    return Table(f"{source.path}: {scores.metric}{mode if tested else ''}", columns, rows, fold=len(rows) > 16)


def _neurons(source: Source, scores: Scores, neurons: Mapping[str, Sequence[float]]) -> Table:
    rows: list[Row] = [
        [
            TableCell(group, mark="code"), numbers.cell(len(own)),
            *(numbers.cell(value, "{:.4g}".format) for value in (min(own), median(own), max(own))),
        ]
        for group, own in neurons.items()
    ]  # fmt: skip
    return Table(
        f"{source.path}: {scores.metric} of neurons", ("layer", "neurons", "lowest", "median", "highest"), rows
    )
