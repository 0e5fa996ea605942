"""What was cut: every head, the widths of feed-forward layers, and layers that are gone."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, GroupId
from nmtprune.page import numbers, svg
from nmtprune.page.blocks import Block, Choice, Picture, Section, Table, Text
from nmtprune.page.claims import PrunedModel, chosen_step, plan_beside, score_under
from nmtprune.page.inputs import Source, plans_of_run
from nmtprune.page.lead import metric_name
from nmtprune.plan import Plan
from nmtprune.runs.report import CurveFile, CurveOf

NAMES = {
    "encoder": "encoder self-attention",
    "decoder": "decoder self-attention",
    "cross": "cross-attention",
    "encoder-ffn": "encoder neurons",
    "decoder-ffn": "decoder neurons",
    "encoder-layers": "encoder layers",
    "decoder-layers": "decoder layers",
}
LEGEND = (("kept", "kept"), ("gone", "removed"))
_MOST_PLANS, _MOST_STEPS = 6, 12


def what_was_cut(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Section:
    """A picture of every pruned model, the steps of a curve behind the one that was chosen."""
    return Section.of("What was cut", _blocks(sources, models))


def _blocks(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Iterator[Block]:
    planned = [(model.name, model.plan) for model in models if model.plan is not None]
    by_step = {
        source.path: {path: plan for own in plans_of_run(source).values() for path, plan in own.items() if plan}
        for source in sources
        if isinstance(source.content, CurveFile)
    }
    for number, (name, plan) in enumerate(planned[:_MOST_PLANS]):
        picture = picture_of(plan, f"{name}: {_in_words(plan)}")
        steps = _steps(plan, sources, by_step)
        yield steps or picture
        yield _table(plan, name, fold=number > 0)
    if len(planned) > _MOST_PLANS:
        yield Text(f"{len(planned) - _MOST_PLANS} more pruned models are not drawn: the table above has them.")
    if not planned and any(model.removed for model in models):
        yield Text("The files count the units that are gone and do not name them: add a plan or the pruned checkpoint.")


def picture_of(plan: Plan, caption: str) -> Picture:
    """Squares for heads by kind, bars for the widths of feed-forward layers, squares for layers."""
    return Picture(caption, tuple(_drawings(plan)), LEGEND)


def _drawings(plan: Plan) -> Iterator[Markup]:
    units = plan.base.units
    for kind in KINDS:
        groups = [group for group in units if group.kind == kind]
        if groups:
            rows = [(str(group.layer), _squares(plan, group)) for group in groups]
            yield svg.grid(NAMES[kind], rows, f"{NAMES[kind]}: {_left(plan, kind)}")
    for kind in NEURON_KINDS:
        groups = [group for group in units if group.kind == kind]
        if groups and plan.removed([kind]):
            lines = [(str(group.layer), len(plan.kept(group)), len(units[group])) for group in groups]
            yield svg.widths(NAMES[kind], lines, f"{NAMES[kind]}: {_left(plan, kind)}")
    for kind in LAYER_KINDS:
        group = GroupId(kind)
        if group in units and plan.removed([kind]):
            yield svg.grid(NAMES[kind], [("", _squares(plan, group))], f"{NAMES[kind]}: {_left(plan, kind)}")


def _squares(plan: Plan, group: GroupId) -> list[svg.Square]:
    kept = set(plan.kept(group))
    return [
        svg.Square("kept" if number in kept else "gone", f"{group}.{number}: {'kept' if number in kept else 'removed'}")
        for number in plan.base.units[group]
    ]


def _left(plan: Plan, kind: str) -> str:
    return f"{numbers.count(plan.count_kept([kind]))} of {numbers.count(plan.count_base([kind]))} left"


def _in_words(plan: Plan) -> str:
    gone = [(len(plan.removed([kind])), NAMES[kind], kind) for kind in EVERY_KIND]
    listed = ", ".join(
        f"{numbers.count(number)} {name}{' heads' if kind in KINDS else ''}" for number, name, kind in gone if number
    )
    return f"without {listed}" if listed else "nothing is removed"


def _table(plan: Plan, name: str, *, fold: bool) -> Table:
    rows = []
    for kind in EVERY_KIND:
        total, kept = plan.count_base([kind]), plan.count_kept([kind])
        if total and (kind in KINDS or kept < total):
            layers = [f"{len(plan.kept(group))}" for group in plan.base.units if group.kind == kind]
            share = 1 - kept / total
            rows.append((
                NAMES[kind], numbers.cell(total), numbers.cell(kept), numbers.cell(total - kept),
                numbers.cell(share, numbers.percent), " ".join(layers),
            ))  # fmt: skip
    columns = ("part", "before", "left", "removed", "share removed", "left in each layer")
    return Table(f"What is left of each part: {name}", columns, rows, fold=fold)


def _steps(plan: Plan, sources: Sequence[Source], by_step: dict[str, dict[str, Plan]]) -> Choice | None:
    """The steps of the curve that a plan belongs to, one picture each."""
    for source in sources:
        plans = by_step.get(source.path, {})
        own, _ = plan_beside(source, sources)
        if own is None or own != plan and own.keep != plan.keep or not plans:
            continue
        curves: CurveFile = source.content
        chosen = chosen_step(curves, own)
        curve = next(each for each in curves.curves if chosen in each.steps)
        return _choice(curves, curve, curve.steps.index(chosen), plans)
    return None


def _choice(curves: CurveFile, curve: CurveOf, chosen: int, plans: dict[str, Plan]) -> Choice | None:
    there = [number for number, step in enumerate(curve.steps) if step.plan in plans]
    shown = that_fit(there, chosen, _MOST_STEPS)
    if chosen not in shown:
        return None
    options = []
    for number in shown:
        step = curve.steps[number]
        value = f"{metric_name(curves.metric)} {score_under(step, curves.metric):.2f}"
        name = f"{numbers.count(step.removed)} removed, {value}" + (" (chosen)" if number == chosen else "")
        plan = plans[step.plan]
        options.append((name, picture_of(plan, f"{step.plan}: {_in_words(plan)}")))
    return Choice(f"Steps of the curve {curve.name}", options, shown.index(chosen))


def that_fit(there: Sequence[int], chosen: int, most: int) -> list[int]:
    """Evenly spaced steps, the first, the last and the chosen one among them, no more than a page can hold."""
    if len(there) <= most:
        return list(there)
    last = len(there) - 1
    places = {round(number * last / (most - 1)) for number in range(most)}
    return sorted({there[place] for place in places} | ({chosen} & {*there}))
