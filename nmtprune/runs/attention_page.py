"""A page of attention maps: one HTML file without scripts and without anything from elsewhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = tuple[Sequence[str], Sequence[str]]
"""Of the rows of a map, which send queries, and of its columns, which are attended to."""

_CELL = 14
"""Pixels from one cell to the next; the style has the size of cells."""

_LETTER = 7.2
"""Pixels of a letter of a label."""

_LONGEST = 16
"""Letters of a label; longer ones are cut, and whole in the text of the cell."""

_LEAST = 0.02
"""Weights below are not drawn."""

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --ground: #ffffff; --soft: #57606a; --line: #d0d7de;
  --cell: #0b5cad; --field: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --ground: #0d1117; --soft: #9aa5b1; --line: #3d444d;
  --cell: #6cb6ff; --field: #161b22; } }
body { margin: 0 auto; max-width: 110rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--text);
  background: var(--ground); overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
dt { color: var(--soft); } dd { margin: 0 0 .5rem; }
a { color: var(--cell); }
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.pair { grid-template-columns: repeat(auto-fill, minmax(min(100%, 38rem), 1fr)); }
.head { border: 1px solid var(--line); border-radius: 6px; padding: .75rem; break-inside: avoid; }
.head h3 { margin: 0 0 .5rem; font-size: 1rem; }
.maps { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; flex: 1 1 16rem; min-width: 0; } figcaption { color: var(--soft); font-size: .875rem; }
svg { max-width: 100%; height: auto; } svg text { fill: var(--text); font: 12px ui-monospace, monospace; }
.field { fill: var(--field); } .cells rect { fill: var(--cell); width: 13px; height: 13px; }
.gone { color: var(--soft); }
"""


@dataclass(frozen=True, eq=False)
class HeadMaps:
    """A head on one sentence.

    Attributes:
        head: its name.
        labels: tokens of rows and columns.
        full: its weights [T, S] in the full model.
        pruned: in the pruned model; None where the head is not there.
    """

    head: str
    labels: Labels
    full: Floats
    pruned: Floats | None


@dataclass(frozen=True, eq=False)
class SentenceMaps:
    """A sentence.

    Attributes:
        source: its text.
        translation: of the full model, the input of the decoder in all maps.
        pruned_translation: of the pruned model; None where there is no plan.
        heads: in order.
    """

    source: str
    translation: str
    pruned_translation: str | None
    heads: Sequence[HeadMaps]


def page(sentences: Sequence[SentenceMaps], facts: Mapping[str, str]) -> str:
    """The page.

    Args:
        sentences: at least one.
        facts: what to say of the page, by name; plain text, as all text here.
    """
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in facts.items())
    links = "".join(f'<li><a href="#s{n}">{escape(own.source)}</a></li>\n' for n, own in enumerate(sentences, 1))
    sections = "".join(_section(number, own) for number, own in enumerate(sentences, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Attention of heads</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>Attention of heads</h1>\n<dl>\n{said}</dl>\n"
        "<p>A row sends the query, a column is attended to: the darker a cell (in dark mode the lighter), the larger "
        "its weight. Rows of decoder self-attention are the words that are read, those of cross-attention the words "
        f"that are predicted. Weights below {_LEAST} are not drawn.</p>\n"
        f"<nav><ol>\n{links}</ol></nav>\n{sections}</main>\n</body>\n</html>\n"
    )


def _section(number: int, sentence: SentenceMaps) -> str:
    texts = {"translation": sentence.translation}
    has_plan = sentence.pruned_translation is not None
    if sentence.pruned_translation is not None:
        texts = {"translation, full model": sentence.translation, "pruned model": sentence.pruned_translation}
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>\n" for name, text in texts.items())
    note = "<p>Maps of both models have the full model's translation as decoder input.</p>\n" if has_plan else ""
    heads = "".join(_head(own, with_plan=has_plan) for own in sentence.heads)
    kind = "heads pair" if has_plan else "heads"
    return (
        f'<section id="s{number}">\n<h2>{escape(sentence.source)}</h2>\n<dl>\n{said}</dl>\n{note}'
        f'<div class="{kind}">\n{heads}</div>\n</section>\n'
    )


def _head(own: HeadMaps, *, with_plan: bool) -> str:
    figures = [_figure("full" if with_plan else "", own.head, own.full, own.labels)]
    if own.pruned is not None:
        figures.append(_figure("pruned", own.head, own.pruned, own.labels))
    elif with_plan:
        figures.append('<figure class="gone"><figcaption>pruned</figcaption>removed by the plan</figure>\n')
    return f'<div class="head">\n<h3>{escape(own.head)}</h3>\n<div class="maps">\n{"".join(figures)}</div>\n</div>\n'


def _figure(caption: str, head: str, weights: Floats, labels: Labels) -> str:
    shown = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{shown}{_map(f'{caption} attention of {head}'.strip(), weights, labels)}</figure>\n"


def _map(title: str, weights: Floats, labels: Labels) -> str:
    """A map as SVG: a text for each row and column, a rectangle for each cell."""
    rows, columns = ([_short(label) for label in own] for own in labels)
    left, top = (max(map(len, own), default=1) * _LETTER + 6 for own in (rows, columns))
    width, height = len(columns) * _CELL, len(rows) * _CELL
    texts = [
        f'<text x="{left - 4:.0f}" y="{top + (place + 0.78) * _CELL:.0f}" text-anchor="end">{escape(label)}</text>'
        for place, label in enumerate(rows)
    ]
    for place, label in enumerate(columns):
        at = f"{left + (place + 0.78) * _CELL:.0f} {top - 4:.0f}"
        texts.append(f'<text transform="translate({at}) rotate(-90)">{escape(label)}</text>')
    return (
        f'<svg role="img" aria-label="{escape(title)}" width="{left + width:.0f}" height="{top + height:.0f}" '
        f'viewBox="0 0 {left + width:.0f} {top + height:.0f}">'
        f'<rect class="field" x="{left:.0f}" y="{top:.0f}" width="{width}" height="{height}"/>'
        f'<g class="cells" transform="translate({left:.0f} {top:.0f})">{"".join(_cells(weights, labels))}</g>'
        f"{''.join(texts)}</svg>"
    )


def _cells(weights: Floats, labels: Labels) -> Iterator[str]:
    places: Iterable[list[int]] = np.argwhere(weights >= _LEAST).tolist()
    for row, column in places:
        weight = float(weights[row, column])
        said = escape(f"{labels[0][row]} → {labels[1][column]}: {weight:.2f}")
        yield (f'<rect x="{column * _CELL}" y="{row * _CELL}" fill-opacity="{weight:.2f}"><title>{said}</title></rect>')


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…"
