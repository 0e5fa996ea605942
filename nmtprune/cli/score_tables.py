"""Scores on stdout for people: by layer and head (Michel et al. 2019, tables 1, 2 and 5), of neurons by quantiles."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import KINDS, NEURON_KINDS, STACKS

if TYPE_CHECKING:
    from nmtprune.scores import HeadScore, Scores

_SIGN = "*"
_TITLES = {"encoder": "encoder self-attention", "decoder": "decoder self-attention", "cross": "cross-attention"}
_NEURON_TITLES = {"encoder-ffn": "encoder feed-forward neurons", "decoder-ffn": "decoder feed-forward neurons"}
_QUANTILES = {"lowest": 0, "10%": 10, "25%": 25, "median": 50, "75%": 75, "90%": 90, "highest": 100}
_DIGITS = {"bleu": 2, "chrf": 2, "accuracy": 2, "f1": 2, "matthews": 2}
_LOWER_IS_BETTER = ("loss",)


@dataclass(frozen=True)
class Cell:
    """A field of a table, in a colour where there are colours."""

    text: str
    color: str | None = None


def emit_scores(scores: "Scores") -> None:
    """Print what was measured: a table per kind, or the best heads of every module, and how many are significant.

    Neurons are too many for a table: it has their quantiles in each layer. Several directions follow, each with its own
    tables.
    """
    each = scores.by_direction()
    if each:
        click.echo(f"{scores.baseline['across']} over {len(each)} directions:")
    _emit_one(scores)
    for name, own in each.items():
        click.echo(f"\ndirection {name}:")
        _emit_one(own)


def _emit_one(scores: "Scores") -> None:
    if "value" not in scores.baseline:
        _emit_plain(scores)
        return
    _emit_heading(scores.metric, scores.baseline)
    if scores.mode == "ablate":
        if "heads" in scores.sorts:
            click.echo(f"delta {scores.metric} without the head, by layer and head:")
            for kind in KINDS:
                _emit_kind(scores, kind)
        if "layers" in scores.sorts:
            click.echo(f"delta {scores.metric} without the layer:")
            _emit_layers(scores)
    else:
        from nmtprune.runs.score import best_heads

        click.echo(f"best delta {scores.metric} with only one head (its number) left in the module, by layer:")
        _emit_best(scores.metric, scores.baseline, best_heads(scores).values())
    _emit_counts(scores.metric, scores.baseline, scores.entries)
    if scores.test is not None:
        click.echo()
        _emit_heading(scores.metric, scores.test.baseline)
        click.echo(f"delta {scores.metric} on the test data with only that head left in the module, by layer:")
        _emit_best(scores.metric, scores.test.baseline, scores.test.heads)
        _emit_counts(scores.metric, scores.test.baseline, scores.test.heads)


def _emit_plain(scores: "Scores") -> None:
    """Scores that are no change of a metric, and were not tested."""
    baseline = scores.baseline
    left_out = f" ({baseline['left_out']} left out)" if baseline["left_out"] else ""
    click.echo(f"{baseline['data']}: {scores.metric} over {_count(baseline)}{left_out}")
    from nmtprune.runs.report import MEASURED_ON

    own = {name: value for name, value in baseline.items() if name not in MEASURED_ON}
    if own:
        click.echo(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in own.items()))
    if "heads" in scores.sorts:
        click.echo(f"{scores.metric} of the head, by layer and head:")
        for kind in KINDS:
            _emit_kind(scores, kind)
    if "neurons" in scores.sorts:
        click.echo(f"{scores.metric} of the neurons, quantiles by layer:")
        for kind in NEURON_KINDS:
            _emit_neurons(scores, kind)


def _emit_heading(metric: str, baseline: Mapping[str, Any]) -> None:
    left_out = f" ({baseline['left_out']} left out)" if baseline["left_out"] else ""
    value = f"{baseline['value']:.{_digits(metric)}f}"
    click.echo(f"{baseline['data']}: {metric} {value} over {_count(baseline)}{left_out}")
    click.echo(baseline["signature"])


def _count(baseline: Mapping[str, Any]) -> str:
    return f"{baseline['sentences']} {'texts' if 'labels' in baseline else 'sentences'}"


def _emit_kind(scores: "Scores", kind: str) -> None:
    found = [(entry.id, entry) for entry in scores.entries]
    entries = {(id.group.layer, id.number): entry for id, entry in found if id.group.kind == kind}
    if not entries:
        return
    heads = range(max(head for _, head in entries) + 1)
    alpha = scores.baseline.get("significance", {}).get("alpha", 0.0)
    rows = [
        (str(layer), [_cell(scores.metric, entries.get((layer, head)), alpha) for head in heads])
        for layer in sorted({layer for layer, _ in entries})
    ]
    _emit_grid(_TITLES[kind], [str(head) for head in heads], rows)


def _emit_layers(scores: "Scores") -> None:
    """Layers by number, a column per stack."""
    entries = {
        (entry.id.group.stack, entry.id.number): entry for entry in scores.entries if entry.id.group.sort == "layers"
    }
    stacks = [stack for stack in STACKS if any(stack == own for own, _ in entries)]
    alpha = scores.baseline["significance"]["alpha"]
    rows = [
        (str(layer), [_cell(scores.metric, entries.get((stack, layer)), alpha) for stack in stacks])
        for layer in sorted({layer for _, layer in entries})
    ]
    _emit_grid(None, stacks, rows)


def _emit_neurons(scores: "Scores", kind: str) -> None:
    """Quantiles of the scores of the neurons of each layer."""
    import numpy as np

    groups = {name: own.score for name, own in (scores.units or {}).items() if name.partition(".")[0] == kind}
    if not groups:
        return
    rows = [
        (name.partition(".")[2], [Cell(f"{_short(value)} ") for value in np.percentile(own, [*_QUANTILES.values()])])
        for name, own in groups.items()
    ]
    _emit_grid(_NEURON_TITLES[kind], list(_QUANTILES), rows)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _emit_best(metric: str, baseline: Mapping[str, Any], best: Iterable["HeadScore"]) -> None:
    found = {(entry.id.group.layer, entry.id.group.kind): entry for entry in best}
    kinds = [kind for kind in KINDS if any(kind == own for _, own in found)]
    alpha = baseline["significance"]["alpha"]

    def cell(layer: int, kind: str) -> Cell:
        entry = found.get((layer, kind))
        shown = _cell(metric, entry, alpha)
        return shown if entry is None else Cell(f"{shown.text} ({entry.id.number})", shown.color)

    rows = [(str(layer), [cell(layer, kind) for kind in kinds]) for layer in sorted({layer for layer, _ in found})]
    _emit_grid(None, kinds, rows)


def _emit_counts(metric: str, baseline: Mapping[str, Any], heads: Sequence["HeadScore"]) -> None:
    test, total = baseline["significance"], len(heads)
    alone = _by_direction(metric, [entry for entry in heads if _is_below(entry.p, test["alpha"])])
    corrected = _by_direction(metric, [entry for entry in heads if _is_below(entry.p_corrected, test["alpha"])])
    how = "McNemar's exact test" if test.get("method") == "mcnemar-exact" else f"{test['resamples']:,} resamples"
    click.echo(f"significant at p < {test['alpha']:g}, {how}, of {total} tests:")
    marked = f"  (marked {_SIGN})"
    click.echo(f"  without correction  {alone}{marked if test['correction'] == 'none' else ''}")
    if test["correction"] != "none":
        click.echo(f"  with {test['correction']:<14} {corrected}{marked}")


def _by_direction(metric: str, entries: Sequence["HeadScore"]) -> str:
    worse = sum(_is_worse(metric, entry) for entry in entries)
    return f"{len(entries)} ({worse} worse, {len(entries) - worse} better)"


def _is_below(p: float | None, alpha: float) -> bool:
    return p is not None and p < alpha


def _is_worse(metric: str, entry: "HeadScore") -> bool:
    """Whether the metric speaks against the model with heads masked."""
    return ((entry.delta or 0.0) > 0) == (metric in _LOWER_IS_BETTER)


def _digits(metric: str) -> int:
    return _DIGITS.get(metric, 4)


def _cell(metric: str, entry: "HeadScore | None", alpha: float) -> Cell:
    """A delta; significant ones carry a sign, for readers without colour, and the colour of their direction."""
    if entry is None:
        return Cell("")
    if entry.delta is None:
        return Cell(f"{entry.score:.{_digits(metric)}f} ")
    shown = f"{entry.delta:+.{_digits(metric)}f}"
    if not _is_below(entry.p_corrected, alpha):
        return Cell(f"{shown} ")
    return Cell(f"{shown}{_SIGN}", "red" if _is_worse(metric, entry) else "green")


def _emit_grid(title: str | None, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell]]]) -> None:
    if title is not None:
        click.echo(f"\n{title}")
    widths = [
        max(len(column) + 1, *(len(cells[number].text) for _, cells in rows)) for number, column in enumerate(columns)
    ]
    header = " ".join(f"{f'{column} ':>{width}}" for column, width in zip(columns, widths, strict=True))
    click.echo(f"layer {header}".rstrip())
    colored = not os.environ.get("NO_COLOR")
    for name, cells in rows:
        line = f"{name:>5}"
        for cell, width in zip(cells, widths, strict=True):
            text = f"{cell.text:>{width}}"
            line += " " + (click.style(text, fg=cell.color, bold=True) if cell.color and colored else text)
        click.echo(line.rstrip())
