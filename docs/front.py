"""Draw the picture of the manual's front page: what greedy removed from a real model, and what that changed.

    python docs/front.py

The plan, with the command that chose it, is ``docs/images/front-plan.json``; ``docs/images/front.json`` has what was
measured of the model that this command wrote.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from nmtprune.architecture import Kept
from nmtprune.plan import Plan

IMAGES = Path(__file__).parent / "images"
PICTURE = IMAGES / "front.svg"

_CELL, _STEP, _ROW, _BAR, _GAP = 11, 13, 19, 56, 14
_TOP, _LINE, _MARGIN, _ARROW = 76, 27, 20, 200
_COLUMNS = {
    "encoder": ("encoder", "#3b6fb5"),
    "encoder-ffn": ("neurons", "#3b6fb5"),
    "decoder": ("decoder", "#b5563b"),
    "cross": ("cross", "#4c8a50"),
    "decoder-ffn": ("neurons", "#b5563b"),
}
"""Kinds of groups from left to right, with their headings and colours."""


def svg(plan: Plan, facts: Mapping[str, Any]) -> str:
    """The picture of a plan of heads and neurons, with what was measured before and after it."""
    units = plan.base.units
    layers = 1 + max(group.layer for group in units)
    wide, bottom = _width(units), _TOP + layers * _ROW
    right = _MARGIN + wide + _ARROW
    width, height = right + wide + _MARGIN, bottom + _LINE * len(facts["figures"]) + 18
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13" fill="#223">',
        f"<title>{escape(facts['title'])}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
        *_model(_MARGIN, "unpruned", units, units),
        *_arrow(_MARGIN + wide, _TOP + layers * _ROW / 2, facts["steps"]),
        *_model(right, "pruned", units, plan.kept_units),
        *_figures(bottom + 8, right, right + wide, facts["figures"]),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _widths(units: Kept) -> dict[str, int]:
    """Width of the column of every kind that the model has."""
    most = {kind: max((len(own) for group, own in units.items() if group.kind == kind), default=0) for kind in _COLUMNS}
    return {kind: _BAR if kind.endswith("ffn") else most[kind] * _STEP for kind in _COLUMNS if most[kind]}


def _width(units: Kept) -> int:
    widths = _widths(units)
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _model(left: float, name: str, units: Kept, kept: Kept) -> Iterator[str]:
    """The units of a model, a row per layer: heads as squares, neurons as bars; what is removed is empty."""
    yield f'<text x="{left}" y="28" font-size="15" font-weight="bold">{name}: {_counts(kept)}</text>'
    for kind, width in _widths(units).items():
        heading, colour = _COLUMNS[kind]
        yield f'<text x="{left}" y="{_TOP - 10}" fill="{colour}">{heading}</text>'
        for group, own in units.items():
            if group.kind != kind:
                continue
            y = _TOP + group.layer * _ROW
            if kind.endswith("ffn"):
                yield _box(left, y, width, "#fff", colour)
                yield _box(left, y, width * len(kept[group]) / len(own), colour, "none")
            else:
                for number in own:
                    fill = colour if number in kept[group] else "#fff"
                    yield _box(left + number * _STEP, y, _CELL, fill, colour)
        left += width + _GAP


def _counts(kept: Kept) -> str:
    """``72 heads, 1536 neurons``."""
    heads = sum(len(own) for group, own in kept.items() if group.sort == "heads")
    neurons = sum(len(own) for group, own in kept.items() if group.sort == "neurons")
    return f"{heads} heads, {neurons} neurons"


def _box(x: float, y: float, width: float, fill: str, stroke: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{_CELL}" rx="2" fill="{fill}" stroke="{stroke}" '
        'stroke-opacity="0.5"/>'
    )


def _arrow(left: float, middle: float, steps: list[str]) -> Iterator[str]:
    """An arrow with what happens on the way above it."""
    begin, end = left + 16, left + _ARROW - 16
    yield (
        f'<path d="M{begin} {middle} H{end} m-8 -6 l8 6 l-8 6" fill="none" stroke="#567" stroke-width="2.5" '
        'stroke-linecap="round"/>'
    )
    for number, step in enumerate(reversed(steps)):
        x, y = (begin + end) / 2, middle - 14 - 19 * number
        yield f'<text x="{x}" y="{y}" text-anchor="middle">{escape(step)}</text>'


def _figures(top: float, right: float, end: float, figures: list[list[str]]) -> Iterator[str]:
    """A row per figure: what it is, before, after."""
    for number, (name, before, after) in enumerate(figures):
        y = top + _LINE * (number + 1) - 8
        yield f'<path d="M{_MARGIN} {y - 18} H{end}" stroke="#dde"/>'
        yield f'<text x="{_MARGIN}" y="{y}">{escape(before)}</text>'
        yield f'<text x="{right - _ARROW / 2}" y="{y}" text-anchor="middle" fill="#456">{escape(name)}</text>'
        yield f'<text x="{right}" y="{y}" font-weight="bold">{escape(after)}</text>'


def draw() -> str:
    """The picture of the files."""
    facts = json.loads((IMAGES / "front.json").read_text(encoding="utf-8"))
    return svg(Plan.read(IMAGES / "front-plan.json"), facts)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
