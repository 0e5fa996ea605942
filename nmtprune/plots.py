"""Pictures: a heat map of scores per kind with the histogram of deltas, two score files, curves of pruning."""

import io
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, STACKS, GroupId, UnitId
from nmtprune.scores import HeadScore, Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABELS = {"encoder": "encoder self-attention", "decoder": "decoder self-attention", "cross": "cross-attention"}
_COLORS = {"encoder": "#1f77b4", "decoder": "#2ca02c", "cross": "#d62728"}
_LABELS |= {"encoder-ffn": "encoder neurons", "decoder-ffn": "decoder neurons"}
_LABELS |= {"encoder-layers": "encoder layers", "decoder-layers": "decoder layers"}
_COLORS |= {
    "encoder-ffn": "#17becf",
    "decoder-ffn": "#bcbd22",
    "encoder-layers": "#9467bd",
    "decoder-layers": "#ff7f0e",
}
_FUNCTIONS = {"positional": "#8e5fb5", "syntactic": "#3f9b4f", "rare": "#e08a28", "alignment": "#2b7bba"}
_NO_FUNCTION = "#d9d9d9"
_CELL_INCHES = 0.36
_LEAST_INCHES = 3.0
_HISTOGRAM_INCHES = 3.8
_DPI = 150
_BINS = 30


def scores_png(scores: Scores, *, alpha: float, removed: Collection[UnitId] = ()) -> bytes:
    """A heat map panel per kind and the histogram of deltas by kind (Michel et al. 2019, figure 1), as a PNG file.

    Scores of neurons and layers have other panels: boxes of the neurons of each layer, bars of layers.

    Args:
        scores: with deltas, or plain scores such as importance.
        alpha: heads whose corrected p-value is below it are marked and counted.
        removed: heads that are crossed out.
    """
    if scores.units is not None:
        return _units_png(scores, alpha, removed)
    kinds = [kind for kind in KINDS if _of_kind(scores, kind)]
    has_deltas = all(entry.delta is not None for entry in scores.heads)
    largest = max(1e-12, *(abs(_shown_value(entry)) for entry in scores.heads))
    columns = max(entry.id.number for entry in scores.heads) + 1
    rows = max(len({entry.id.group.layer for entry in _of_kind(scores, kind)}) for kind in kinds)
    panel, height = (max(_LEAST_INCHES, cells * _CELL_INCHES) for cells in (columns, rows))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, len(kinds) + 1, width_ratios=[panel] * len(kinds) + [_HISTOGRAM_INCHES])
        for axis, kind in zip(axes, kinds, strict=False):
            _heat_map(axis, _of_kind(scores, kind), largest if has_deltas else None, alpha)
            _cross_out(axis, _of_kind(scores, kind), removed)
            axis.set_title(_LABELS[kind])
        _histogram(axes[-1], scores, kinds, alpha)

    return _png(draw, ((panel + 1.0) * len(kinds) + _HISTOGRAM_INCHES + 0.6, height + 1.0))


def functions_png(functions: Mapping[UnitId, Sequence[str]]) -> bytes:
    """The functions of heads, layers by heads, a panel per kind and a colour per function, as a PNG file.

    Args:
        functions: of every head; a head with several has a stripe of each (Voita et al. 2019, figure 8).
    """
    kinds = [kind for kind in KINDS if any(head.group.kind == kind for head in functions)]
    columns = max(head.number for head in functions) + 1
    rows = max(head.group.layer for head in functions) + 1
    panel, height = (max(_LEAST_INCHES, cells * _CELL_INCHES) for cells in (columns, rows))

    def draw(figure: "Figure") -> None:
        from matplotlib.patches import Patch

        for axis, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
            _function_cells(axis, {head: own for head, own in functions.items() if head.group.kind == kind})
            axis.set_title(_LABELS[kind])
        shown = {name for own in functions.values() for name in own}
        colors = {name: color for name, color in _FUNCTIONS.items() if name in shown} | {"none found": _NO_FUNCTION}
        handles = [Patch(color=color, label=name) for name, color in colors.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)

    return _png(draw, ((panel + 0.6) * len(kinds), height + 1.4))


def _function_cells(axis: "Axes", functions: Mapping[UnitId, Sequence[str]]) -> None:
    layers = sorted({head.group.layer for head in functions})
    heads = max(head.number for head in functions) + 1
    for head, own in functions.items():
        colors = [_FUNCTIONS[name] for name in own] or [_NO_FUNCTION]
        width = 0.9 / len(colors)
        for place, color in enumerate(colors):
            left = head.number - 0.45 + place * width
            axis.bar(left, 0.9, width, layers.index(head.group.layer) - 0.45, align="edge", color=color)
    axis.set_xlim(-0.6, heads - 0.4)
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.set_xticks(range(heads))
    axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axis.set_xlabel("head")
    axis.set_ylabel("layer")


def comparison_png(first: Scores, second: Scores, *, names: tuple[str, str]) -> bytes:
    """The scores of the same units in two files against each other (Michel et al. 2019, figure 2), as a PNG file."""
    horizontal, vertical = first.scores_by_unit(), second.scores_by_unit()

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        for kind in EVERY_KIND:
            units = [unit for unit in horizontal if unit.group.kind == kind]
            if units:
                x, y = [horizontal[unit] for unit in units], [vertical[unit] for unit in units]
                size = 4 if kind in NEURON_KINDS else 22
                axis.scatter(x, y, s=size, alpha=0.75, color=_COLORS[kind], label=_LABELS[kind])
        axis.set_xlabel(f"{first.metric} score, {names[0]}")
        axis.set_ylabel(f"{second.metric} score, {names[1]}")
        axis.grid(alpha=0.3)
        axis.legend()

    return _png(draw, (5.6, 5.2))


@dataclass(frozen=True)
class Line:
    """A curve of a picture.

    Attributes:
        label: for the legend.
        removed: units removed at each point.
        values: the metric there.
        low: lower end of the band around the line.
        high: upper end.
        dashed: a baseline.
        macs: share of the unpruned model's multiply-accumulates at each point; None where it is not counted.
    """

    label: str
    removed: Sequence[int]
    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False
    macs: Sequence[float] | None = None


def curves_png(
    lines: Sequence[Line], *, metric: str, total: int, what: str | None = "heads", from_zero: bool = True
) -> bytes:
    """A metric against units removed, one line with its band per curve (Michel et al. 2019, figure 3), as a PNG file.

    Where multiply-accumulates are known, a panel shows the metric against them.

    Args:
        lines: the curves.
        metric: its name.
        total: units of the model: the axis above shows percentages of them.
        what: the units; None where they are of several sorts, which no axis can count together.
        from_zero: the axis of the metric begins at 0, else near the lowest value.
    """
    counted = all(line.macs is not None for line in lines)
    panels = (what is not None) + counted

    def draw(figure: "Figure") -> None:
        axes = iter(figure.subplots(1, panels, squeeze=False)[0])
        if what is not None:
            axis = next(axes)
            _draw_lines(axis, lines, [line.removed for line in lines], metric, from_zero)
            axis.set_xlabel(f"{what} removed")
            share = 100 / total
            functions = (lambda x: np.multiply(x, share), lambda x: np.divide(x, share))
            axis.secondary_xaxis("top", functions=functions).set_xlabel(f"% of the model's {total} {what}")
        if counted:
            axis = next(axes)
            _draw_lines(axis, lines, [[100 * share for share in line.macs or ()] for line in lines], metric, from_zero)
            axis.set_xlabel("% of the unpruned model's multiply-accumulates")
            axis.invert_xaxis()

    return _png(draw, (7.2 * panels, 5.0))


def _draw_lines(
    axis: "Axes", lines: Sequence[Line], places: Sequence[Sequence[float]], metric: str, from_zero: bool
) -> None:
    """Every line with its band, at places of its own."""
    for line, across in zip(lines, places, strict=True):
        (drawn,) = axis.plot(
            across, line.values, marker="o", markersize=3.5, linestyle="--" if line.dashed else "-", label=line.label
        )
        axis.fill_between(across, line.low, line.high, color=drawn.get_color(), alpha=0.15, linewidth=0)
    axis.set_ylabel("BLEU" if metric == "bleu" else metric)
    if from_zero:
        axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


@dataclass(frozen=True)
class Pruned:
    """A pruned model of a picture.

    Attributes:
        label: names it, its lambda for example.
        kept: heads by kind.
        value: the metric.
        interval: around the value.
        neurons: kept, by kind; none where only heads were pruned.
        macs: multiply-accumulates as a share of the unpruned model's; None where they were not counted.
    """

    label: str
    kept: Mapping[str, int]
    value: float
    interval: tuple[float, float]
    neurons: Mapping[str, int] = field(default_factory=dict)
    macs: float | None = None


def pruned_png(models: Sequence[Pruned], *, metric: str, unpruned: float) -> bytes:
    """Pruned models: a metric against heads kept, and heads kept of each kind (Voita et al. 2019, figures 7 and 9).

    Args:
        models: in any order.
        metric: its name.
        unpruned: its value for the model with all heads.
    """
    counted = all(model.macs is not None for model in models)
    ordered = sorted(models, key=lambda model: (model.macs if counted else None) or sum(model.kept.values()))
    places = [100 * (model.macs or 0.0) if counted else sum(model.kept.values()) for model in ordered]
    across = "% of the unpruned model's multiply-accumulates" if counted else "heads kept"

    def draw(figure: "Figure") -> None:
        quality, *panels = figure.subplots(1, 3 if counted else 2)
        values = [model.value for model in ordered]
        errors = [[model.value - model.interval[0], model.interval[1] - model.value] for model in ordered]
        quality.axhline(unpruned, color="grey", linestyle="--", label="unpruned")
        quality.errorbar(
            places, values, yerr=np.maximum(np.transpose(errors), 0), marker="o", capsize=3, label="pruned"
        )
        for model, place in zip(ordered, places, strict=True):
            quality.annotate(
                model.label, (place, model.value), xytext=(4, 6), textcoords="offset points", fontsize="small"
            )
        quality.margins(x=0.12)
        quality.set_xlabel(across)
        quality.set_ylabel("BLEU" if metric == "bleu" else metric)
        quality.grid(alpha=0.3)
        quality.legend(fontsize="small")
        for panel, sort in zip(panels, ("heads", "neurons"), strict=False):
            units = [model.kept if sort == "heads" else model.neurons for model in ordered]
            for kind in units[0]:
                panel.plot(places, [own[kind] for own in units], marker="o", label=kind)
            panel.set_xlabel(across)
            panel.set_ylabel(f"{sort} kept of the kind")
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
            panel.legend(fontsize="small")

    return _png(draw, (15.0 if counted else 10.0, 4.4))


def shape_png(kept: Mapping[GroupId, int], full: Mapping[GroupId, int]) -> bytes:
    """The shape of a pruned model as a PNG file: bars of heads and of neurons for every layer, by stack.

    Args:
        kept: heads and neurons that are left by group, under the numbers of the unpruned model; groups of layers that
            were removed are not among them, and their layers are hatched.
        full: what the unpruned model has; groups of layers do not matter. It is drawn behind what is left.
    """
    stacks = [stack for stack in STACKS if any(id.stack == stack for id in full)]
    sorts = [sort for sort in ("heads", "neurons") if any(id.sort == sort for id in full)]
    layers = {stack: sorted({id.layer for id in full if id.stack == stack and id.sort in sorts}) for stack in stacks}
    most = max(map(len, layers.values()), default=1)

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(len(sorts), len(stacks), squeeze=False)
        for row, sort in zip(grid, sorts, strict=True):
            highest = max((count for id, count in full.items() if id.sort == sort), default=0)
            for axis, stack in zip(row, stacks, strict=True):
                _shape(axis, [id for id in full if (id.sort, id.stack) == (sort, stack)], kept, full, layers[stack])
                axis.set_ylim(0, 1.08 * max(1, highest))
                axis.set_ylabel(f"{sort} left")
                axis.set_xlabel(f"{stack} layer")

    return _png(draw, (len(stacks) * max(_LEAST_INCHES, 0.55 * most + 1.2), 2.6 * len(sorts) + 0.4))


def _shape(
    axis: "Axes",
    groups: Sequence[GroupId],
    kept: Mapping[GroupId, int],
    full: Mapping[GroupId, int],
    layers: Sequence[int],
) -> None:
    """Bars of one sort of unit for the layers of one stack."""
    kinds = list(dict.fromkeys(id.kind for id in sorted(groups)))
    width = 0.8 / max(1, len(kinds))
    for number, kind in enumerate(kinds):
        own = [id for id in groups if id.kind == kind]
        places = [layers.index(id.layer) + (number - (len(kinds) - 1) / 2) * width for id in own]
        axis.bar(places, [full[id] for id in own], width * 0.9, color="#e4e4e4")
        left = [kept.get(id, 0) for id in own]
        axis.bar(places, left, width * 0.9, color=_COLORS[kind], label=_LABELS[kind])
    gone = {id.layer for id in groups if id not in kept}
    for layer in gone:
        place = layers.index(layer)
        axis.axvspan(place - 0.45, place + 0.45, facecolor="white", edgecolor="#888888", hatch="///", linewidth=0)
    if gone:
        axis.bar(0, 0, facecolor="white", edgecolor="#888888", hatch="///", label="layer removed")
    axis.set_xticks(range(len(layers)), [str(layer) for layer in layers])
    axis.set_xlim(-0.6, len(layers) - 0.4)
    if groups:
        axis.legend(fontsize="x-small", loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=3, frameon=False)


@dataclass(frozen=True)
class SpeedBar:
    """A bar of a picture: how much faster a model is than the first at a batch size.

    Attributes:
        label: the model.
        batch_size: sentences per batch.
        ratio: median, low and high.
        predicted: what multiply-accumulates say.
    """

    label: str
    batch_size: int
    ratio: tuple[float, float, float]
    predicted: float


def speeds_png(bars: Sequence[SpeedBar]) -> bytes:
    """Measured speed-ups with their intervals beside what arithmetic predicts, as a PNG file."""

    def draw(figure: "Figure") -> None:
        axis = figure.subplots()
        labels = list(dict.fromkeys(bar.label for bar in bars))
        sizes = list(dict.fromkeys(bar.batch_size for bar in bars))
        width = 0.8 / len(labels)
        for number, label in enumerate(labels):
            own = [bar for bar in bars if bar.label == label]
            places = [sizes.index(bar.batch_size) + (number - (len(labels) - 1) / 2) * width for bar in own]
            middle = np.array([bar.ratio[0] for bar in own])
            errors = [middle - [bar.ratio[1] for bar in own], [bar.ratio[2] for bar in own] - middle]
            axis.bar(places, middle, width * 0.9, yerr=errors, capsize=3, label=label)
            axis.scatter(places, [bar.predicted for bar in own], marker="D", color="black", zorder=3, s=20)
        axis.scatter([], [], marker="D", color="black", s=20, label="predicted from multiply-accumulates")
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axis.set_xlabel("sentences per batch")
        axis.set_ylabel("times as fast as the first model")
        axis.legend(fontsize="small")

    return _png(draw, (7.2, 4.5))


def _units_png(scores: Scores, alpha: float, removed: Collection[UnitId]) -> bytes:
    """A panel per kind: heads as a heat map, neurons as boxes, layers as bars."""
    kinds = [kind for kind in EVERY_KIND if _of_kind(scores, kind)]
    has_deltas = all(entry.delta is not None for entry in scores.entries)
    heads = [abs(_shown_value(entry)) for entry in scores.entries if entry.id.group.kind in KINDS]
    largest = max(heads, default=0.0) or 1e-12

    def draw(figure: "Figure") -> None:
        axes = figure.subplots(1, len(kinds), squeeze=False)[0]
        for axis, kind in zip(axes, kinds, strict=True):
            entries = _of_kind(scores, kind)
            axis.set_title(_LABELS[kind])
            if kind in LAYER_KINDS:
                _bars(axis, entries, f"delta {scores.metric} without the layer", alpha, _COLORS[kind])
            elif kind in NEURON_KINDS:
                _boxes(axis, scores, kind)
            else:
                _heat_map(axis, entries, largest if has_deltas else None, alpha)
                _cross_out(axis, entries, removed)

    return _png(draw, ((_LEAST_INCHES + 1.2) * len(kinds), _LEAST_INCHES + 1.0))


def _bars(axis: "Axes", entries: Sequence[HeadScore], label: str, alpha: float, color: str) -> None:
    """A bar per layer with its confidence interval, and a star where it is significant."""
    numbers = [str(entry.id.number) for entry in entries]
    axis.bar(numbers, [_shown_value(entry) for entry in entries], color=color)
    for number, entry in zip(numbers, entries, strict=True):
        if entry.ci is not None:
            axis.vlines(number, *entry.ci, color="black", linewidth=0.8)
        if entry.p_corrected is not None and entry.p_corrected < alpha:
            axis.plot(number, _shown_value(entry), marker="*", color="black", markersize=7)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel("layer")
    axis.set_ylabel(label)


def _boxes(axis: "Axes", scores: Scores, kind: str) -> None:
    """A box of the scores of the neurons of each layer; whiskers reach the 5th and 95th of a hundred."""
    groups = {name: own.score for name, own in (scores.units or {}).items() if name.partition(".")[0] == kind}
    labels = [name.partition(".")[2] for name in groups]
    axis.boxplot(list(groups.values()), whis=(5, 95), showfliers=False, medianprops={"color": _COLORS[kind]})
    axis.set_xticks(range(1, len(labels) + 1), labels)
    axis.set_xlabel("layer")
    axis.set_ylabel(f"{scores.metric} score")


def _of_kind(scores: Scores, kind: str) -> list[HeadScore]:
    return [entry for entry in scores.entries if entry.id.group.kind == kind]


def _shown_value(entry: HeadScore) -> float:
    return entry.score if entry.delta is None else entry.delta


def _heat_map(axis: "Axes", entries: Sequence[HeadScore], largest: float | None, alpha: float) -> None:
    """Layers by heads; `largest` sets a scale that is symmetric around 0, None one from the smallest value up."""
    layers = sorted({entry.id.group.layer for entry in entries})
    grid: NDArray[np.float64] = np.full((len(layers), max(entry.id.number for entry in entries) + 1), np.nan)
    for entry in entries:
        row, column = layers.index(entry.id.group.layer), entry.id.number
        grid[row, column] = _shown_value(entry)
        if entry.p_corrected is not None and entry.p_corrected < alpha:
            axis.plot(column, row, marker="*", color="black", markersize=7)
    if largest is None:
        image = axis.imshow(grid, aspect="auto", interpolation="nearest", cmap="viridis")
    else:
        image = axis.imshow(grid, aspect="auto", interpolation="nearest", cmap="RdBu", vmin=-largest, vmax=largest)
    axis.set_xlabel("head")
    axis.set_ylabel("layer")
    axis.set_xticks(range(grid.shape[1]))
    axis.set_yticks(range(len(layers)), [str(layer) for layer in layers])
    axis.figure.colorbar(image, ax=axis, shrink=0.8)


def _cross_out(axis: "Axes", entries: Sequence[HeadScore], removed: Collection[UnitId]) -> None:
    layers = sorted({entry.id.group.layer for entry in entries})
    for entry in entries:
        if entry.id in removed:
            axis.plot(entry.id.number, layers.index(entry.id.group.layer), marker="x", color="red", markersize=7)


def _histogram(axis: "Axes", scores: Scores, kinds: list[str], alpha: float) -> None:
    has_deltas = all(entry.delta is not None for entry in scores.heads)
    values = [[_shown_value(entry) for entry in _of_kind(scores, kind)] for kind in kinds]
    axis.hist(values, bins=_BINS, stacked=True, color=[_COLORS[kind] for kind in kinds], label=kinds)
    axis.set_ylabel("heads")
    axis.set_xlabel(f"delta {scores.metric}" if has_deltas else f"{scores.metric} score")
    if has_deltas:
        axis.axvline(0, color="black", linewidth=0.8)
    tested = [entry.p_corrected for entry in scores.heads if entry.p_corrected is not None]
    if tested:
        axis.set_title(f"{sum(p < alpha for p in tested)} of {len(tested)} heads significant (*)")
    axis.legend()


def stacked_png(pictures: Mapping[str, bytes]) -> bytes:
    """PNG files one below the other, each under its title, as a PNG file."""
    from matplotlib.image import imread

    images = {title: imread(io.BytesIO(png)) for title, png in pictures.items()}
    strip = _DPI // 4
    width, height = max(own.shape[1] for own in images.values()), sum(strip + len(own) for own in images.values())

    def draw(figure: "Figure") -> None:
        figure.set_layout_engine("none")
        bottom = height
        for title, own in images.items():
            bottom -= strip + len(own)
            figure.figimage(own, 0, bottom)
            figure.text(0.01, (bottom + len(own) + strip / 4) / height, title, fontsize=12, fontweight="bold")

    return _png(draw, (width / _DPI, height / _DPI))


def _png(draw: Callable[["Figure"], None], size: tuple[float, float]) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure)
    return _rendered(figure)


def _rendered(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # On a busy machine matplotlib warns that it takes a moment to find the best place.
        warnings.filterwarnings("ignore", "Creating legend with loc", UserWarning)
        figure.savefig(buffer, format="png")
    return buffer.getvalue()
