"""`greedy`: remove heads, neurons and layers step by step in several orders, and see what is left of the quality.

Michel et al. 2019, sections 4 to 6; Budhraja et al. 2020. The state is written after every step of every curve.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmtprune import files, plots
from nmtprune.architecture import SORTS
from nmtprune.data.directions import Directions
from nmtprune.plan import Base
from nmtprune.runs.greedy import curve
from nmtprune.runs.greedy.costs import Costs, costs_of, keep_lengths, known_lengths
from nmtprune.runs.greedy.curve import Swept
from nmtprune.runs.greedy.setup import CURVE_JSON, PLAN, PLANS, GreedyRun, Job, check_greedy
from nmtprune.runs.greedy.sweeper import Sweeper, SweepSettings, checkpoint_name, unpruned_key
from nmtprune.runs.refit import fit_notes
from nmtprune.runs.report import Report, ReportFiles
from nmtprune.runs.run import Session, started
from nmtprune.runs.state import State
from nmtprune.runs.tsv import tsv

if TYPE_CHECKING:
    from nmtprune.progress import Progress


@dataclass(frozen=True)
class GreedyResult:
    """What a run found.

    Attributes:
        swept: the curves.
        base: what the first checkpoint has; the others have as many units.
        report: ``curve.json``, its table and its picture.
        facts: on what and how quality was measured.
        seconds: how long it took.
        sorts: of what costs are shown, of `architecture.SORTS`; none where steps are numbers of heads.
        timed: speeds are shown too.
    """

    swept: tuple[Swept, ...]
    base: Base
    report: Report
    facts: Mapping[str, Any]
    seconds: float
    sorts: tuple[str, ...] = ()
    timed: bool = False

    @property
    def units(self) -> dict[str, int]:
        """Units that the model has of the sorts that are shown."""
        return {sort: base_count(self.base, sort) for sort in self.sorts}


def greedy(run: GreedyRun, progress: "Progress") -> GreedyResult | None:
    """Sweep every curve and write the run folder; None in processes that do not lead, which have nothing to do.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoints or data, before any long work.
        Interrupted: Ctrl-C or SIGTERM; the state is kept.
    """
    with started(run, progress, shared=True) as session:
        if not session.leads:
            return None
        job = check_greedy(run, session)
        state = session.open_state(job.settings)
        costs = _check_baselines(job, state, progress)
        files.make_folder(run.output)
        swept = _sweep(job, costs, state, progress)
        return _finish(job, swept, costs, session)


def _check_baselines(job: Job, state: State, progress: "Progress") -> dict[int, Costs]:
    """Translate with every full model before anything is pruned or written: what means nothing shows at once.

    Returns:
        What plans of each checkpoint cost; nothing where steps are numbers of heads.

    Raises:
        DataError: nothing can be compared with one of them.
        BudgetError: a step that no plan can reach.
    """
    costs = {}
    # Last of all the first one, which then is open when the sweep begins.
    for number, path in reversed([*enumerate(job.run.checkpoints)]):
        if unpruned_key(checkpoint_name(number)) not in state:
            for remark in job.subjects.open(number).quality.check_baseline(f"the baseline {path}"):
                progress.note(remark)
        if job.run.costed:
            costs[number] = _costs(job, number, state)
    return costs


def _costs(job: Job, number: int, state: State) -> Costs:
    """What plans of a checkpoint cost."""
    opened = job.subjects.open(number)
    lengths = known_lengths(state, checkpoint_name(number), opened.quality)
    found = costs_of(opened.checkpoint, opened.native.model, lengths, job.times.get(number))
    for removal in job.removals.values():
        if removal.cost is not None:
            removal.check_reach(job.bases[number], found.prices[removal.cost])
    return found


def _sweep(job: Job, costs: Mapping[int, Costs], state: State, progress: "Progress") -> tuple[Swept, ...]:
    progress.begin("steps", sum(job.removals[each.kinds].steps for each in job.curves))
    found: list[Swept] = []
    sweepers: dict[int, Sweeper] = {}
    for each in job.curves:
        if each.checkpoint not in sweepers:
            sweepers = {each.checkpoint: _sweeper(job, each.checkpoint, costs, state, progress)}
        steps = sweepers[each.checkpoint].steps(each, job.removals[each.kinds], job.run.significance, job.run.rule)
        found.append(Swept(each, str(job.run.checkpoints[each.checkpoint]), steps))
    return tuple(found)


def _sweeper(job: Job, number: int, costs: Mapping[int, Costs], state: State, progress: "Progress") -> Sweeper:
    run, opened, name = job.run, job.subjects.open(number), checkpoint_name(number)
    if number in costs:
        keep_lengths(state, name, costs[number].lengths)
    kinds = tuple(kind for sort in run.sorts for kind in SORTS[sort])
    return Sweeper(name, opened, state, progress, SweepSettings(kinds, run.rounds, run.refit, costs.get(number)))


def _finish(job: Job, swept: tuple[Swept, ...], costs: Mapping[int, Costs], session: Session) -> GreedyResult:
    """Write the files."""
    run, base = job.run, job.bases[0]
    made = session.provenance(
        seed=run.seed,
        checkpoints=[
            {"path": str(path), "sha256": base.sha256} for path, base in zip(run.checkpoints, job.bases, strict=True)
        ],
        data=dict(job.inputs),
    )
    metric, heads = run.metric, sum(base.modules.values())
    facts = {"heads": heads, **_cost_facts(run, base, costs), **job.facts}
    # Several sorts have no common number of units to draw a curve against.
    what, total = (run.sorts[0], base_count(base, run.sorts[0])) if len(run.sorts) == 1 else (None, 0)
    directions = run.data.names if isinstance(run.data, Directions) else ()

    def picture(curves: Sequence[Swept]) -> bytes:
        return plots.curves_png(curve.lines(curves), metric=metric, total=total, what=what)

    png = picture(swept)
    if directions:
        each = {name: picture(curve.of_direction(swept, name)) for name in directions}
        png = plots.stacked_png({f"{run.across} of {job.facts['data']}": png, **each})
    report = Report(
        json=curve.curve_file(metric, swept, facts, made).to_json(),
        tsv=tsv(curve.curve_columns(metric, costs=run.costed, directions=directions), curve.curve_rows(swept)),
        png=png,
    )
    of_plans = {name: value for name, value in made.items() if name not in ("checkpoints", "data")}
    if run.refit:
        _write_slim(job, swept[0], of_plans, session.progress)
    elif run.slim.exists():
        session.progress.note(f"{run.slim} was there before: it is not the model of {PLAN}")
    _write(run.output, swept, report, of_plans, run.inputs)
    sorts, timed = run.sorts if run.costed else (), run.cost_table is not None
    return GreedyResult(swept, base, report, job.facts, made["seconds"], sorts, timed)


def _cost_facts(run: GreedyRun, base: Base, costs: Mapping[int, Costs]) -> dict[str, Any]:
    """What a file of version 2 says besides; nothing in version 1."""
    if not run.costed:
        return {}
    found = {"groups": list(run.sorts), "units": {sort: base_count(base, sort) for sort in SORTS}}
    found |= {"costs": costs[0].totals()}
    return found | ({"budgets": [str(budget) for budget in run.allowed]} if run.budgets else {})


def base_count(base: Base, sort: str) -> int:
    """Units of one of SORTS that a model has."""
    return sum(len(numbers) for id, numbers in base.units.items() if id.kind in SORTS[sort])


def _write_slim(job: Job, first: Swept, facts: Mapping[str, Any], progress: "Progress") -> None:
    """Write the refitted model of the plan that goes to ``plan.json``."""
    refitted, plan = job.subjects.open(first.curve.checkpoint).refitted, first.chosen.plan
    if refitted is None:
        raise ValueError("this run was not prepared to refit")
    made = {**facts, "base": first.checkpoint, "refit": dict(refitted.record), "plan": plan.as_json()}
    found = refitted.of(plan)
    for note in fit_notes(found.fit):
        progress.note(f"{job.run.slim}: {note}")
    found.checkpoint.save(job.run.slim, force=True, provenance=made)


def _write(
    folder: Path,
    swept: Sequence[Swept],
    report: Report,
    facts: Mapping[str, Any],
    inputs: Sequence[Path],
) -> None:
    """Write the plans and curves of a finished run; plans of a run before it in the same folder go.

    Args:
        folder: of the run.
        swept: its curves.
        report: curve, table and picture.
        facts: provenance of plans.
        inputs: files that must not be overwritten.

    Raises:
        OutputError: a file cannot be written.
    """
    kept = {path: plan for each in swept for path, plan in _plans(folder, each, facts)}
    for path, text in kept.items():
        files.make_folder(folder / PLANS)
        files.make_folder(path.parent)
        files.write_text(path, text, force=True, inputs=inputs)
    for path in folder.glob(f"{PLANS}/*/[0-9]*.json"):
        if path not in kept:
            path.unlink()
    chosen = swept[0].chosen
    how = {} if chosen.decision is None else {"chosen": chosen.decision.chosen.order}
    provenance = {**facts, **_facts(swept[0]), **how, "plan": f"{PLANS}/{swept[0].curve.name}/{chosen.file}"}
    chosen.plan.with_provenance(provenance).write(folder / PLAN, force=True, inputs=inputs)
    report.write(ReportFiles.beside(folder / CURVE_JSON), force=True, inputs=inputs)


def _plans(folder: Path, each: Swept, facts: Mapping[str, Any]) -> Iterable[tuple[Path, str]]:
    for step in each.steps:
        chosen = {} if step.decision is None else {"chosen": step.decision.chosen.order}
        plan = step.plan.with_provenance({**facts, **_facts(each), **chosen})
        yield folder / PLANS / each.curve.name / step.file, plan.to_json()


def _facts(each: Swept) -> dict[str, Any]:
    """What a plan of a curve comes from."""
    curve = each.curve
    sample = {} if curve.sample is None else {"sample": curve.sample}
    return {"checkpoint": each.checkpoint, "order": curve.order.name, **sample, "kinds": list(curve.kinds)}
