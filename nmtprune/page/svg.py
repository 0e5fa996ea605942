"""Small drawings as SVG: colours come from the style sheet, so that they follow light, dark and print."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

CELL, GAP = 20, 3
WIDTH, HEIGHT = 520, 320
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46
_TICKS = 5
_LARGEST = 1e300
"""Numbers beyond it have no differences."""

Value = str | int | float | None


def tag(name: str, content: Iterable[Markup] | str = "", **attributes: Value) -> Markup:
    """An element; attributes that are None are left out, an underscore stands for a hyphen."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    inner = escape(content) if isinstance(content, str) else Markup("").join(content)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), written, inner)


def drawing(width: float, height: float, parts: Iterable[Markup], label: str) -> Markup:
    """A whole drawing with what it shows in words."""
    kind = "drawing wide" if width >= WIDTH else "drawing"
    box, size = f"0 0 {_number(width)} {_number(height)}", f"width:{_number(width)}px"
    return tag("svg", parts, viewBox=box, role="img", aria_label=label, style=size, class_=kind)


def shortened(words: str, most: int) -> str:
    """The end of words that are too long for their place: of paths the end says most."""
    return words if len(words) <= most else f"…{words[len(words) - most + 1 :]}"


def text(x: float, y: float, words: str, anchor: str = "start", class_: str | None = None) -> Markup:
    """Words at a place."""
    return tag("text", words, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=class_)


@dataclass(frozen=True)
class Square:
    """A square of a grid.

    Attributes:
        mark: class in the style sheet.
        title: shown where the pointer rests.
        shade: 0 to 1: how strong its colour is; None for the full one.
    """

    mark: str
    title: str
    shade: float | None = None


def grid(title: str, rows: Sequence[tuple[str, Sequence[Square]]], label: str) -> Markup:
    """Rows of squares under their numbers, each row with its name."""
    step = CELL + GAP
    most = max((len(squares) for _, squares in rows), default=0)
    left, top = 30, 44
    parts = [text(0, 14, title, class_="heading")]
    parts += [text(left + (number + 0.5) * step, 36, str(number), "middle", "tick") for number in range(most)]
    for place, (name, squares) in enumerate(rows):
        y = top + place * step
        parts.append(text(left - 8, y + 15, name, "end", "tick"))
        for number, square in enumerate(squares):
            parts.extend(_square(left + number * step, y, square))
    width = max(left + most * step, 9 * len(title))
    return drawing(width, top + len(rows) * step, parts, label)


def _square(x: float, y: float, square: Square) -> Iterator[Markup]:
    hover = tag("title", square.title)
    opacity = None if square.shade is None else round(0.12 + 0.88 * square.shade, 3)
    yield tag("rect", [hover], x=x, y=y, width=CELL, height=CELL, rx=3, class_=square.mark, fill_opacity=opacity)
    if "gone" in square.mark:
        yield tag("path", d=f"M{_number(x + 6)} {_number(y + 6)}l8 8m0 -8l-8 8", class_="cross")


def widths(title: str, rows: Sequence[tuple[str, int, int]], label: str) -> Markup:
    """A bar per row: how many of how many are left."""
    step, left, width, top = 26, 30, 190, 30
    parts = [text(0, 14, title, class_="heading")]
    for place, (name, kept, total) in enumerate(rows):
        y = top + place * step
        share = kept / total if total else 0.0
        hover = tag("title", f"{title} {name}: {kept} of {total}")
        parts.append(text(left - 8, y + 15, name, "end", "tick"))
        parts.append(tag("rect", [hover], x=left, y=y, width=width, height=CELL, rx=3, class_="gone"))
        if kept:
            parts.append(tag("rect", [hover], x=left, y=y, width=width * share, height=CELL, rx=3, class_="kept"))
        parts.append(text(left + width + 8, y + 15, f"{kept:,}", class_="tick"))
    return drawing(left + width + 60, top + len(rows) * step, parts, label)


@dataclass(frozen=True)
class ChartLine:
    """A line of a chart with its band.

    Attributes:
        label: for the legend and where the pointer rests.
        points: x, y and the ends of the band.
        dashed: a baseline.
    """

    label: str
    points: Sequence[tuple[float, float, float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Axes:
    """What the axes of a chart are.

    Attributes:
        x: name of the axis.
        y: likewise.
        falling: the horizontal axis goes from high to low.
        line: a value of the vertical axis that is drawn across.
        line_name: what it is.
    """

    x: str
    y: str
    falling: bool = False
    line: float | None = None
    line_name: str = ""


def chart(curves: Sequence[ChartLine], axes: Axes, label: str) -> Markup:
    """Lines with bands over two axes with round numbers."""
    points = [point for curve in curves for point in curve.points]
    lows, highs = [min(point[1:]) for point in points], [max(point[1:]) for point in points]
    extra = [] if axes.line is None else [axes.line]
    x_ticks = ticks(min(point[0] for point in points), max(point[0] for point in points))
    y_ticks = ticks(min(lows + extra), max(highs + extra))
    frame = _Frame((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]), axes.falling)
    parts = list(_axes(frame, x_ticks, y_ticks, axes))
    if axes.line is not None:
        y = frame.y(axes.line)
        hover = [tag("title", f"{axes.line_name}: {axes.line:.4g}")]
        parts.append(tag("line", hover, x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="level"))
    for number, curve in enumerate(curves):
        parts.extend(_curve(frame, curve, f"line{number % 8}"))
    return drawing(WIDTH, HEIGHT, parts, label)


@dataclass(frozen=True)
class Bar:
    """A measured ratio beside the predicted one.

    Attributes:
        label: of what.
        value: measured.
        low: lower end of its interval.
        high: upper end.
        predicted: None where it is not known.
    """

    label: str
    value: float
    low: float
    high: float
    predicted: float | None


def bars(rows: Sequence[Bar], axis: str, line: float, label: str) -> Markup:
    """Horizontal bars with intervals, and a diamond at what was predicted."""
    values = [value for row in rows for value in (row.low, row.high, row.predicted or row.value, line)]
    x_ticks = ticks(min(0.0, *values), max(values))
    step, left, top = 46, 14, 8
    width, height = WIDTH - left - RIGHT, step * len(rows)
    low, high = x_ticks[0], x_ticks[-1]

    def across(value: float) -> float:
        return left + width * (value - low) / (high - low)

    parts = []
    for tick in x_ticks:
        parts.append(tag("line", x1=across(tick), x2=across(tick), y1=top, y2=top + height, class_="rule"))
        parts.append(text(across(tick), top + height + 18, f"{tick:g}", "middle", "tick"))
    parts.append(tag("line", x1=across(line), x2=across(line), y1=top, y2=top + height, class_="level"))
    parts.append(text(left + width / 2, top + height + 38, axis, "middle"))
    for place, row in enumerate(rows):
        y = top + place * step + 30
        hover = [tag("title", f"{row.label}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})")]
        parts.append(text(across(low) + 4, y - 14, shortened(row.label, 58), class_="tick"))
        parts.append(tag("rect", hover, x=across(low), y=y - 8, width=across(row.value) - across(low), height=14, rx=2,
                         class_="kept"))  # fmt: skip
        parts.append(tag("path", d=_whisker(across(row.low), across(row.high), y - 1), class_="whisker"))
        if row.predicted is not None:
            hover = [tag("title", f"{row.label}: {row.predicted:.3f} predicted")]
            x = across(row.predicted)
            parts.append(tag("path", hover, d=f"M{_number(x)} {_number(y - 8)}l7 7l-7 7l-7 -7z", class_="predicted"))
    return drawing(WIDTH, top + height + 48, parts, label)


@dataclass(frozen=True)
class Part:
    """A part of a column.

    Attributes:
        marks: classes in the style sheet; several are stripes side by side.
        size: in the unit of the axis.
        title: shown where the pointer rests.
    """

    marks: Sequence[str]
    size: float
    title: str


@dataclass(frozen=True)
class Column:
    """A column of parts, the first at the bottom, and what stands below it."""

    name: str
    parts: Sequence[Part]


def stacked_columns(title: str, columns: Sequence[Column], most: float, label: str) -> Markup:
    """Columns of equal width over one axis.

    Args:
        title: above the columns.
        columns: from left to right.
        most: the height of the axis, in the unit of the sizes.
        label: what is shown, in words.
    """
    step, left, top, height = 30, 34, 30, 180
    y_ticks = [tick for tick in ticks(0, most) if float(tick).is_integer()]
    unit = height / y_ticks[-1]
    width = left + step * len(columns) + RIGHT
    parts = [text(0, 14, title, class_="heading")]
    for tick in y_ticks:
        y = top + height - unit * tick
        parts.append(tag("line", x1=left, x2=width - RIGHT, y1=y, y2=y, class_="rule"))
        parts.append(text(left - 8, y + 4, f"{tick:g}", "end", "tick"))
    for place, column in enumerate(columns):
        x, y = left + step * place + 4, float(top + height)
        for part in column.parts:
            y -= unit * part.size
            stripe = (step - 8) / len(part.marks)
            for number, mark in enumerate(part.marks):
                hover = [tag("title", f"{column.name} heads left, {part.title}")]
                parts.append(tag("rect", hover, x=x + stripe * number, y=y, width=stripe, height=unit * part.size,
                                 class_=f"part {mark}"))  # fmt: skip
        parts.append(text(x + (step - 8) / 2, top + height + 18, column.name, "middle", "tick"))
    parts.append(text(left, top + height + 38, "heads left in the model", class_="tick"))
    return drawing(max(width, 9 * len(title), 200), top + height + 46, parts, label)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from one at or below the lowest value to one at or above the highest."""
    low, high = max(low, -_LARGEST), min(high, _LARGEST)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


@dataclass(frozen=True)
class _Frame:
    """Where values lie in a chart."""

    across: tuple[float, float]
    up: tuple[float, float]
    falling: bool

    def x(self, value: float) -> float:
        share = (value - self.across[0]) / (self.across[1] - self.across[0])
        return LEFT + (WIDTH - LEFT - RIGHT) * (1 - share if self.falling else share)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.up[0]) / (self.up[1] - self.up[0])


def _axes(frame: _Frame, x_ticks: Sequence[float], y_ticks: Sequence[float], axes: Axes) -> Iterator[Markup]:
    bottom = HEIGHT - BOTTOM
    for tick in y_ticks:
        yield tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=frame.y(tick), y2=frame.y(tick), class_="rule")
        yield text(LEFT - 8, frame.y(tick) + 4, f"{tick:g}", "end", "tick")
    for tick in x_ticks:
        yield text(frame.x(tick), bottom + 18, f"{tick:g}", "middle", "tick")
    yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, axes.x, "middle")
    middle = _number((TOP + bottom) / 2)
    yield tag("text", axes.y, x=0, y=0, text_anchor="middle", transform=f"translate(14 {middle}) rotate(-90)")


def _curve(frame: _Frame, curve: ChartLine, colour: str) -> Iterator[Markup]:
    points = sorted(curve.points)
    upper = [(frame.x(x), frame.y(high)) for x, _, _, high in points]
    lower = [(frame.x(x), frame.y(low)) for x, _, low, _ in reversed(points)]
    if len(points) > 1:
        yield tag("polygon", points=_places([*upper, *lower]), class_=f"band {colour}")
        line = [(frame.x(x), frame.y(y)) for x, y, _, _ in points]
        yield tag("polyline", points=_places(line), class_=f"line {colour}{' dashed' if curve.dashed else ''}")
    for x, y, low, high in points:
        band = f" ({low:.2f} to {high:.2f})" if low < high else ""
        hover = tag("title", f"{curve.label}, {x:.4g}: {y:.2f}{band}")
        yield tag("circle", [hover], cx=frame.x(x), cy=frame.y(y), r=4, class_=f"dot {colour}")


def _whisker(low: float, high: float, y: float) -> str:
    return f"M{_number(low)} {_number(y - 5)}v10m0 -5H{_number(high)}m0 -5v10"


def _places(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _number(value: Value) -> str:
    """Two decimals are enough for a screen."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def legend_of(curves: Sequence[ChartLine]) -> list[tuple[str, str]]:
    """Class and label of each line."""
    return [(f"line{number % 8}{' dashed' if curve.dashed else ''}", curve.label)
            for number, curve in enumerate(curves)]  # fmt: skip
