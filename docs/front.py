"""Draw the picture of the manual's front page: what greedy removed from a real model, and what it cost.

    python docs/front.py

The plan and the figures stand in ``docs/images/front.json``.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

IMAGES = Path(__file__).parent / "images"
FACTS = IMAGES / "front.json"
PICTURE = IMAGES / "front.svg"

_CELL, _GAP, _BLOCK, _TOP = 15, 3, 34, 74
_MODEL, _ARROW, _MARGIN = 268, 206, 18
_COLOURS = {"encoder": "#3b6fb5", "decoder": "#b5563b", "cross": "#4c8a50"}
_NAMES = {"encoder": "encoder", "decoder": "decoder", "cross": "cross"}


def svg(facts: Mapping[str, Any]) -> str:
    """The picture of a plan, with what was measured before and after it."""
    plan = facts["plan"]
    layers = max(len(counts) for counts in plan["base"]["heads"].values())
    bottom = _TOP + layers * (_CELL + _GAP) + 26
    width, height = 2 * _MODEL + _ARROW + 2 * _MARGIN, bottom + 26 * (1 + len(facts["figures"]))
    right = _MARGIN + _MODEL + _ARROW
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        'font-family="DejaVu Sans, Helvetica, Arial, sans-serif" font-size="13" fill="#223">',
        f"<title>{escape(facts['title'])}</title>",
        f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>',
        *_model(_MARGIN, "unpruned", plan, {}),
        *_arrow(_MARGIN + _MODEL, _TOP + layers * (_CELL + _GAP) / 2, facts["steps"]),
        *_model(right, "pruned", plan, plan["keep"]),
        *_figures(bottom, right, facts["figures"]),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _model(left: float, name: str, plan: Mapping[str, Any], keep: Mapping[str, list[int]]) -> Iterator[str]:
    """The heads of a model, a row per layer; those that are not in `keep` are empty."""
    counts = plan["base"]["heads"]
    every = sum(map(sum, counts.values()))
    left_over = sum(len(keep.get(f"{kind}.{layer}", range(heads)))
                    for kind, own in counts.items() for layer, heads in enumerate(own))  # fmt: skip
    yield f'<text x="{left}" y="28" font-size="15" font-weight="bold">{name}: {left_over} of {every} heads</text>'
    widest = max(max(own) for own in counts.values())
    cell = min(_CELL + _GAP, (_MODEL - 2 * _BLOCK / 2) / (3 * widest))
    for place, (kind, own) in enumerate(counts.items()):
        at = left + place * (widest * cell + _BLOCK / 2)
        yield f'<text x="{at:.1f}" y="{_TOP - 12}" fill="{_COLOURS[kind]}">{_NAMES[kind]}</text>'
        for layer, heads in enumerate(own):
            kept = keep.get(f"{kind}.{layer}", range(heads))
            for head in range(heads):
                fill = _COLOURS[kind] if head in kept else "#fff"
                yield (
                    f'<rect x="{at + head * cell:.1f}" y="{_TOP + layer * (_CELL + _GAP)}" width="{cell - 2:.1f}" '
                    f'height="{_CELL}" rx="2" fill="{fill}" stroke="{_COLOURS[kind]}" stroke-opacity="0.45"/>'
                )


def _arrow(left: float, middle: float, steps: list[str]) -> Iterator[str]:
    """An arrow with what happens on the way above it."""
    begin, end = left + 12, left + _ARROW - 14
    yield (
        f'<path d="M{begin} {middle} H{end} m-8 -6 l8 6 l-8 6" fill="none" stroke="#567" stroke-width="2.5" '
        'stroke-linecap="round"/>'
    )
    for number, step in enumerate(reversed(steps)):
        y = middle - 14 - 19 * number
        yield f'<text x="{(begin + end) / 2}" y="{y}" text-anchor="middle">{escape(step)}</text>'


def _figures(top: float, right: float, figures: list[list[str]]) -> Iterator[str]:
    """A row per figure: what it is, before, after."""
    for number, (name, before, after) in enumerate(figures):
        y = top + 26 * (number + 1)
        yield f'<path d="M{_MARGIN} {y - 18} H{right + _MODEL}" stroke="#dde"/>'
        yield f'<text x="{_MARGIN}" y="{y}">{escape(before)}</text>'
        yield f'<text x="{right - _ARROW / 2}" y="{y}" text-anchor="middle" fill="#567">{escape(name)}</text>'
        yield f'<text x="{right}" y="{y}" font-weight="bold">{escape(after)}</text>'


if __name__ == "__main__":
    PICTURE.write_text(svg(json.loads(FACTS.read_text(encoding="utf-8"))), encoding="utf-8")
