"""Quality against what was removed: the curves of `greedy`, the lambdas of `l0`, the tickets of `lottery`."""

from collections.abc import Iterator, Sequence

from nmtprune.architecture import KINDS
from nmtprune.page import numbers, svg
from nmtprune.page.blocks import Block, Picture, Row, Section, Table
from nmtprune.page.claims import measured_on, score_under
from nmtprune.page.inputs import Source
from nmtprune.page.lead import metric_name
from nmtprune.runs.report import CurveFile, CurveStep, L0File, LotteryFile

_MOST_ROWS = 16
"""Longer tables are shown when they are opened."""


def curves_of_runs(sources: Sequence[Source]) -> Section:
    """A chart and a table for every run."""
    return Section.of("Quality against what was removed", (block for source in sources for block in _blocks(source)))


def _blocks(source: Source) -> Iterator[Block]:
    match source.content:
        case CurveFile() if source.content.curves:
            yield from _of_greedy(source, source.content)
        case L0File() if source.content.runs:
            yield from _of_l0(source, source.content)
        case LotteryFile():
            yield from _of_lottery(source, source.content)


def _of_greedy(source: Source, found: CurveFile) -> Iterator[Block]:
    kinds = {kind for curve in found.curves for kind in curve.kinds}
    costly = not kinds <= {*KINDS} and all(step.macs is not None for curve in found.curves for step in curve.steps)
    # One line stands for all random orders of some kinds.
    means = [mean for mean in found.means if mean.samples > 1 and mean.steps] if not costly else []
    drawn_as_mean = {(mean.checkpoint, *mean.kinds) for mean in means}
    lines = []
    for curve in found.curves:
        if curve.sample is not None and (curve.checkpoint, *curve.kinds) in drawn_as_mean:
            continue
        points = [(_place(step, costly), score_under(step, found.metric), *step.ci) for step in curve.steps]
        lines.append(svg.ChartLine(curve.name, points, curve.sample is not None))
    for mean in means:
        points = [
            (float(step.removed), score_under(step, found.metric), score_under(step, found.metric) - step.sd,
             score_under(step, found.metric) + step.sd)
            for step in mean.steps
        ]  # fmt: skip
        of = [mean.checkpoint] * (len({each.checkpoint for each in means}) > 1)
        of += [", ".join(mean.kinds)] * (len({tuple(each.kinds) for each in means}) > 1)
        label = f"random{' of ' * bool(of)}{', '.join(of)}, mean of {mean.samples} with standard deviation"
        lines.append(svg.ChartLine(label, points, True))
    unpruned = score_under(found.curves[0].steps[0], found.metric)
    across = "% of the unpruned model's multiply-accumulates" if costly else f"{_what(found)} removed"
    yield _chart(source, found.metric, lines, svg.Axes(across, metric_name(found.metric), costly, unpruned, "unpruned"))
    yield _steps(source, found)


def _what(found: CurveFile) -> str:
    return " and ".join(found.groups or ["heads"])


def _place(step: CurveStep, costly: bool) -> float:
    return 100 * (step.macs or 0.0) if costly else float(step.removed)


def _chart(source: Source, metric: str, lines: Sequence[svg.ChartLine], axes: svg.Axes) -> Picture:
    words = "; ".join(
        f"{line.label}: {line.points[0][1]:.2f} at {line.points[0][0]:g} to {line.points[-1][1]:.2f} at "
        f"{line.points[-1][0]:g}"
        for line in lines
    )
    drawing = svg.chart(lines, axes, f"{metric_name(metric)} against {axes.x}. {words}")
    legend = [*svg.legend_of(lines), ("level", "full model")]
    return Picture(f"{source.path}: {metric_name(metric)} with 95 % intervals of the change", (drawing,), legend)


def _steps(source: Source, found: CurveFile) -> Table:
    costs = any(step.macs is not None for curve in found.curves for step in curve.steps)
    extra = ("multiply-accumulates", "parameters") if costs else ()
    name = metric_name(found.metric)
    columns = (
        "curve",
        "removed",
        "left",
        *extra,
        name,
        *(found.directions or ()),
        "95 % interval",
        "p",
        "of the full model",
        "plan",
    )
    rows = [
        _step(curve.name, step, found.metric, costs)
        for curve in found.curves
        for step in curve.steps
    ]  # fmt: skip
    caption = f"{source.path}: {measured_on(found)}, {found.sentences} sentences"
    return Table(caption, columns, rows, fold=len(rows) > _MOST_ROWS)


def _step(curve: str, step: CurveStep, metric: str, costs: bool) -> Row:
    shares = [numbers.cell(share, numbers.percent) for share in (step.macs, step.parameters)] if costs else []
    return [
        curve, numbers.cell(step.removed), numbers.cell(step.kept), *shares,
        numbers.cell(score_under(step, metric), "{:.2f}".format, "" if step.within_max_drop else "bad"),
        *(numbers.cell(score_under(own, metric), "{:.2f}".format, "" if own.within_max_drop else "bad")
          for own in (step.directions or {}).values()),
        f"{step.ci[0]:.2f} to {step.ci[1]:.2f}", numbers.cell(step.p, numbers.p_value),
        numbers.cell(step.relative, numbers.percent), step.plan,
    ]  # fmt: skip


def _of_l0(source: Source, found: L0File) -> Iterator[Block]:
    before = score_under(found.unpruned, found.metric)
    gone = [found.unpruned.heads - run.kept for run in found.runs]
    points = [
        (float(number), score_under(run.slim, found.metric), before + run.ci[0], before + run.ci[1])
        for number, run in zip(gone, found.runs, strict=True)
    ]
    axes = svg.Axes("heads removed", metric_name(found.metric), False, before, "unpruned")
    yield _chart(source, found.metric, [svg.ChartLine("l0", points)], axes)
    kinds = list(found.runs[0].kept_per_kind)
    name = metric_name(found.metric)
    columns = ("lambda", "heads left", *kinds, f"{name} with gates", f"{name} slim", "change", "95 % interval", "p",
               "parameters")  # fmt: skip
    rows: list[Row] = [
        [
            numbers.cell(run.l0_weight, "{:g}".format), numbers.cell(run.kept),
            *(numbers.cell(run.kept_per_kind.get(kind)) for kind in kinds),
            *(numbers.cell(score_under(own, found.metric), "{:.2f}".format) for own in (run.gated, run.slim)),
            numbers.cell(run.delta, numbers.signed), numbers.interval(*run.ci),
            numbers.cell(run.p, numbers.p_value), numbers.cell(run.slim.parameters),
        ]
        for run in found.runs
    ]  # fmt: skip
    yield Table(f"{source.path}: {found.data}, {found.sentences} sentences", columns, rows)


def _of_lottery(source: Source, found: LotteryFile) -> Iterator[Block]:
    first = next((model for model in found.converged if model.iteration == 0), None)
    if first is not None and len(found.converged) > 1:
        before, lines = score_under(first, found.metric), []
        for variant in dict.fromkeys(model.variant for model in found.converged if model.iteration):
            points = [(0.0, before, before, before)]
            for model in found.converged:
                if model.variant == variant and model.iteration:
                    value = score_under(model, found.metric)
                    low, high = (value, value) if model.ci is None else (before + model.ci[0], before + model.ci[1])
                    points.append((float(model.removed), value, low, high))
            lines.append(svg.ChartLine(variant, points, variant != "lottery"))
        axes = svg.Axes("heads removed", metric_name(found.metric), False, before, "unpruned")
        yield _chart(source, found.metric, lines, axes)
    if found.converged:
        yield _converged(source, found)
    rows: list[Row] = [
        [
            numbers.cell(each.iteration), numbers.cell(each.trained_heads),
            numbers.cell(each.validation, "{:.3f}".format), numbers.cell(each.removed), numbers.cell(each.kept),
            "; ".join(f"{kind} {' '.join(map(str, counts))}" for kind, counts in each.kept_per_layer.items()),
        ]
        for each in found.iterations
    ]  # fmt: skip
    columns = ("iteration", "heads trained", "validation", "removed after it", "left", "left in each layer")
    yield Table(f"{source.path}: iterations", columns, rows)


def _converged(source: Source, found: LotteryFile) -> Table:
    name = metric_name(found.metric)
    columns = ("model", "variant", "heads removed", name, "change", "95 % interval", "p", "parameters", "updates")
    rows: list[Row] = [
        [
            model.model, model.variant, numbers.cell(model.removed),
            numbers.cell(score_under(model, found.metric), "{:.2f}".format), numbers.cell(model.delta, numbers.signed),
            "" if model.ci is None else numbers.interval(*model.ci), numbers.cell(model.p, numbers.p_value),
            numbers.cell(model.parameters), numbers.cell(model.updates),
        ]
        for model in found.converged
    ]  # fmt: skip
    return Table(f"{source.path}: models trained to convergence, {found.data}", columns, rows)
