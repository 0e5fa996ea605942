"""Which functions of heads survive (Voita et al. 2019, figure 8): the plans of every run against a `functions` file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nmtprune.architecture import KINDS, UnitId
from nmtprune.page import numbers, svg
from nmtprune.page.blocks import Block, Picture, Row, Section, Table, TableCell, Text
from nmtprune.page.claims import cut_by
from nmtprune.page.inputs import CheckpointFile, Source, plans_of_run
from nmtprune.page.sections.cut import NAMES, that_fit
from nmtprune.plan import Plan
from nmtprune.runs.functions_file import FUNCTIONS_OF_KIND, FunctionsFile
from nmtprune.runs.report import CurveFile, L0File, LotteryFile

_MOST_COLUMNS, _MOST_ROWS, _MOST_RUNS = 16, 16, 8
_NONE, _FULL = "none found", "full model"
_LONGEST = 44
_ORDER = ("positional", "syntactic", "alignment", "rare")
"""From the bottom of a column to its top, as in the paper."""


@dataclass(frozen=True)
class _PlansOfRun:
    """Plans of one order, of a run without orders, or of files that were named one by one.

    Attributes:
        name: of the order or the run.
        plans: names and plans, those that keep most heads first.
        missing: plans that the run made and that cannot be read.
    """

    name: str
    plans: Sequence[tuple[str, Plan]]
    missing: int = 0


def functions_that_stay(sources: Sequence[Source]) -> Section:
    """For every `functions` file a picture and a table for each kind of attention."""
    return Section.of("Functions of the heads that stay", (
        block
        for source in sources
        if isinstance(source.content, FunctionsFile)
        for block in _blocks(source, source.content, sources)
    ))  # fmt: skip


def _blocks(source: Source, found: FunctionsFile, sources: Sequence[Source]) -> Iterator[Block]:
    runs = list(_runs(found, sources))
    functions = {head.id: head.functions for head in found.heads}
    yield from map(Text, _about(source, found, runs, sources))
    for kind in KINDS:
        own = {head: names for head, names in functions.items() if head.group.kind == kind}
        if own:
            if runs:
                yield _picture(found, kind, own, runs[:_MOST_RUNS])
            yield _table(source, found, kind, own, runs)


def _about(
    source: Source, found: FunctionsFile, runs: Sequence[_PlansOfRun], sources: Sequence[Source]
) -> Iterator[str]:
    """What was measured, and what the columns are."""
    yield (
        f"{source.path} says what each head does in {_model(found, sources)}, on {found.data.get('data', 'its data')}, "
        f"{found.data.get('sentences', 'unknown')} sentences; {', '.join(found.measured)} were looked for. A head with "
        f"several functions has a stripe of each and counts for each of them; '{_NONE}' are heads with none of these."
    )
    if not runs:
        yield "No plan among these files is for this model: name a run of greedy, l0 or lottery, or plans."
        return
    text = (
        "A column is a plan, and the number below it counts the heads that are left in the whole model. The functions "
        "are those that the heads have before pruning. Voita et al. 2019 (figure 8) look at the heads of every pruned "
        "model anew, since functions may move to other heads while a model is trained with fewer of them; nmtprune "
        "functions on a pruned model shows that."
    )
    missing = [f"{run.missing} plans of {run.name}" for run in runs if run.missing]
    text += f" Not there any more: {', '.join(missing)}." if missing else ""
    more = len(runs) - _MOST_RUNS
    yield text + (f" {more} more series of plans are in the tables alone." if more > 0 else "")


def _model(found: FunctionsFile, sources: Sequence[Source]) -> str:
    for source in sources:
        if isinstance(source.content, CheckpointFile) and source.content.summary.sha256 == found.base.sha256:
            return source.path
    path = found.provenance.get("checkpoint")
    return path if isinstance(path, str) else f"model {found.base.sha256[:16]}"


def _runs(found: FunctionsFile, sources: Sequence[Source]) -> Iterator[_PlansOfRun]:
    """The plans for this model: run by run, then those of single files."""
    shown: set[str] = set()
    folders = set()
    files = [source for source in sources if isinstance(source.content, CurveFile | L0File | LotteryFile)]
    for source in files:
        folder = str(Path(source.path).parent)
        for curve, plans in plans_of_run(source).items():
            there = [(file, plan) for file, plan in plans.items() if plan and plan.base.sha256 == found.base.sha256]
            if there:
                folders.add(source.run)
                shown.update(cut_by(plan) for _, plan in there)
                name = f"{folder}, {curve}" if len(files) > 1 and curve else curve or folder
                yield _PlansOfRun(name, _ordered(there), sum(plan is None for plan in plans.values()))
    single: dict[str, Plan] = {}
    for source in sources:
        plan = source.content.plan if isinstance(source.content, CheckpointFile) else source.content
        in_run = source.run is not None and source.run in folders
        if in_run or not isinstance(plan, Plan) or plan.base.sha256 != found.base.sha256 or not plan.removed():
            continue
        if cut_by(plan) not in shown:
            single[source.path] = plan
            shown.add(cut_by(plan))
    if single:
        yield _PlansOfRun("single plans and checkpoints", _ordered(list(single.items())))


def _ordered(plans: Sequence[tuple[str, Plan]]) -> list[tuple[str, Plan]]:
    """The full model, then the plans by the heads that they keep."""
    base = plans[0][1].base
    pruned = sorted((each for each in plans if each[1].removed()), key=lambda each: -each[1].count_kept())
    return [(_FULL, Plan.keep_all(base)), *pruned]


def _picture(found: FunctionsFile, kind: str, functions: Mapping[UnitId, Sequence[str]],
             runs: Sequence[_PlansOfRun]) -> Picture:  # fmt: skip
    shown = {name for names in functions.values() for name in names}
    legend = [(name, name) for name in _ORDER if name in shown] + [("nofunction", _NONE)]
    drawings = []
    for run in runs:
        places = that_fit(range(len(run.plans)), len(run.plans) - 1, _MOST_COLUMNS)
        columns = [_column(run.plans[place][1], functions) for place in places]
        title = svg.shortened(run.name, _LONGEST)
        drawings.append(svg.stacked_columns(title, columns, len(functions), _in_words(kind, run, columns)))
    fewer = any(len(run.plans) > _MOST_COLUMNS for run in runs)
    caption = f"{NAMES[kind].capitalize()}: heads that are left, by their functions" + (
        f" ({_MOST_COLUMNS} plans of each series, evenly spaced; the table has all of them)" if fewer else ""
    )
    return Picture(caption, drawings, legend)


def _column(plan: Plan, functions: Mapping[UnitId, Sequence[str]]) -> svg.Column:
    kept = plan.kept_ids()
    counts = Counter(tuple(sorted(functions[head], key=_ORDER.index)) for head in kept if head in functions)
    parts = [
        svg.Part(names or ("nofunction",), counts[names], f"{' and '.join(names) or _NONE}: {counts[names]}")
        for names in sorted(counts, key=lambda names: [*map(_ORDER.index, names), len(_ORDER)])
    ]
    return svg.Column(numbers.count(len(kept)), parts)


def _in_words(kind: str, run: _PlansOfRun, columns: Sequence[svg.Column]) -> str:
    said = "; ".join(
        f"{column.name} heads left: {', '.join(part.title for part in column.parts) or 'none of this kind'}"
        for column in (columns[0], columns[-1])
    )
    return f"{NAMES[kind]}, {run.name}: heads by function. {said}"


def _table(source: Source, found: FunctionsFile, kind: str, functions: Mapping[UnitId, Sequence[str]],
           runs: Sequence[_PlansOfRun]) -> Table:  # fmt: skip
    names = [name for name in _ORDER if name in found.measured and name in FUNCTIONS_OF_KIND[kind]]
    rows = [_row(run.name, file, plan, functions, names) for run in runs for file, plan in run.plans]
    if not runs:
        rows = [_row(source.path, _FULL, Plan.keep_all(found.base), functions, names)]
    columns = ("series", "heads left", "of this kind", *names, "several", _NONE, "plan")
    caption = f"{NAMES[kind].capitalize()}: heads that are left, by their functions in {source.path}"
    return Table(caption, columns, rows, fold=len(rows) > _MOST_ROWS)


def _row(run: str, file: str, plan: Plan, functions: Mapping[UnitId, Sequence[str]], names: Sequence[str]) -> Row:
    left = [functions[head] for head in plan.kept_ids() if head in functions]
    cells: list[TableCell | str] = [run, numbers.cell(plan.count_kept()), numbers.cell(len(left))]
    cells += [numbers.cell(sum(name in own for own in left)) for name in names]
    cells += [numbers.cell(sum(len(own) > 1 for own in left)), numbers.cell(sum(not own for own in left)), file]
    return cells
