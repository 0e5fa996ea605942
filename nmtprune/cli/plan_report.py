"""What `nmtprune plan` prints of a plan: heads, neurons and layers that stay."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import KINDS, LAYER_KINDS, NEURON_KINDS, SORTS
from nmtprune.cli.options import say
from nmtprune.cli.render import Cell, emit_json, emit_tsv

if TYPE_CHECKING:
    from nmtprune.budget import Limits
    from nmtprune.plan import Plan


def report_plan(plan: "Plan", limits: "Limits", sorts: Collection[str], output: Path, output_format: str) -> None:
    """Print which units the plan keeps, on stdout, or on stderr if the plan itself is on stdout.

    Args:
        plan: just made.
        limits: which heads could go.
        sorts: what was decided on, of SORTS. A plan of heads alone is reported without neurons and layers.
        output: where the plan was written, ``-`` for stdout.
        output_format: ``text``, ``json`` or ``tsv``.
    """
    heads_alone = plan.version == 1 and not {"neurons", "layers"} & set(sorts)
    if output_format == "json":
        figures = _head_figures(plan, limits)
        emit_json({"output": str(output), **figures, **({} if heads_alone else _other_figures(plan))})
    elif output_format == "tsv":
        emit_tsv(*(_head_table(plan) if heads_alone else _unit_table(plan)))
    else:
        lines = _head_lines(plan, limits) if heads_alone else _unit_lines(plan, limits, sorts)
        if str(output) == "-":
            for line in lines:
                say(line)
            return
        for line in lines:
            click.echo(line)
    say(f"wrote {output}")


def _counts(plan: "Plan", sort: str, kinds: Iterable[str]) -> dict[str, float]:
    units, kept = plan.count_base(kinds), plan.count_kept(kinds)
    percent = 100 * (units - kept) / units if units else 0.0
    return {sort: units, "kept": kept, "removed": units - kept, "removed_percent": percent}


def _head_figures(plan: "Plan", limits: "Limits") -> dict[str, Any]:
    selected = {"kinds": list(limits.kinds), **_counts(plan, "heads", limits.kinds)}
    return {
        "all": _counts(plan, "heads", KINDS),
        "selected": selected,
        "kept_per_layer": dict(plan.heads_by_kind()),
    }


def _other_figures(plan: "Plan") -> dict[str, Any]:
    by_kind = {kind: [len(plan.kept(id)) for id in plan.base.units if id.kind == kind] for kind in NEURON_KINDS}
    layers = {id.stack: list(plan.kept(id)) for id in plan.base.units if id.kind in LAYER_KINDS}
    return {
        "neurons": {
            **_counts(plan, "neurons", NEURON_KINDS),
            "kept_per_layer": {kind: counts for kind, counts in by_kind.items() if counts},
        },
        "layers": {**_counts(plan, "layers", LAYER_KINDS), "kept_layers": layers},
    }


_Table = tuple[Sequence[str], Iterable[Sequence[Cell]]]


def _head_table(plan: "Plan") -> _Table:
    modules = plan.base.modules.items()
    rows = ((str(id), heads, len(plan.kept(id)), ",".join(map(str, plan.kept(id)))) for id, heads in modules)
    return ("module", "heads", "kept", "kept_heads"), rows


def _unit_table(plan: "Plan") -> _Table:
    from nmtprune.plan import ranges

    groups = plan.base.units.items()
    rows = ((str(id), len(all), len(plan.kept(id)), ranges.as_ranges(plan.kept(id))) for id, all in groups)
    return ("group", "units", "kept", "kept_units"), rows


def _head_lines(plan: "Plan", limits: "Limits") -> Iterator[str]:
    yield from _lines_by_layer(plan, "heads")
    yield from _lines_of_removed_heads(plan, limits)


def _unit_lines(plan: "Plan", limits: "Limits", sorts: Collection[str]) -> Iterator[str]:
    concerned = [sort for sort in SORTS if sort in sorts or plan.removed(SORTS[sort])]
    for sort in concerned:
        yield from _layer_lines(plan) if sort == "layers" else _lines_by_layer(plan, sort)
    for sort in concerned:
        if sort == "heads":
            yield from _lines_of_removed_heads(plan, limits)
        else:
            yield _removed(_counts(plan, sort, SORTS[sort]), sort, "")


def _lines_by_layer(plan: "Plan", sort: str) -> Iterator[str]:
    """A line per kind, with what each layer keeps, ``-`` for layers that go."""
    units = plan.base.units
    gone = {(id.stack, n) for id, all in units.items() if id.kind in LAYER_KINDS for n in all if n not in plan.kept(id)}
    width = max((len(id.kind) for id in units if id.kind in SORTS[sort]), default=0) if sort != "heads" else 8
    digits = 4 if sort == "heads" else len(str(plan.count_base(SORTS[sort])))
    for kind in SORTS[sort]:
        groups = [id for id in units if id.kind == kind]
        if groups:
            shown = ["-" if (id.stack, id.layer) in gone else str(len(plan.kept(id))) for id in groups]
            kept, there = plan.count_kept([kind]), plan.count_base([kind])
            yield f"{kind:{width}} {kept:>{digits}} of {there:>{digits}} {sort} kept, by layer: {' '.join(shown)}"


def _layer_lines(plan: "Plan") -> Iterator[str]:
    for id, all in plan.base.units.items():
        if id.kind in LAYER_KINDS:
            kept = plan.kept(id)
            yield f"{id.stack:8} {len(kept):>4} of {len(all):>4} layers kept: {' '.join(map(str, kept))}"


def _lines_of_removed_heads(plan: "Plan", limits: "Limits") -> Iterator[str]:
    figures = _head_figures(plan, limits)
    yield _removed(figures["all"], "heads", "")
    if figures["selected"]["heads"] != figures["all"]["heads"]:
        yield _removed(figures["selected"], "heads", f" of {', '.join(limits.kinds)}")


def _removed(counts: Mapping[str, float], sort: str, of: str) -> str:
    return f"{counts['removed']} of {counts[sort]} {sort}{of} removed ({counts['removed_percent']:.1f}%)"
