"""The folder of a greedy run: its state, curves, plans, and the plan that is ready for `slim`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nmtprune import files
from nmtprune.runs.greedy.curve import Swept
from nmtprune.runs.report import Report, ReportFiles

PLAN = "plan.json"
CURVE_JSON = "curve.json"
PLANS = "plans"
FILES = (PLAN, CURVE_JSON, "curve.tsv", "curve.png")
"""What a run writes beside its plans."""


def write(
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
    provenance = {**facts, **_facts(swept[0]), "plan": f"{PLANS}/{swept[0].curve.name}/{chosen.file}"}
    chosen.plan.with_provenance(provenance).write(folder / PLAN, force=True, inputs=inputs)
    report.write(ReportFiles.beside(folder / CURVE_JSON), force=True, inputs=inputs)


def _plans(folder: Path, each: Swept, facts: Mapping[str, Any]) -> Iterable[tuple[Path, str]]:
    for step in each.steps:
        plan = step.plan.with_provenance({**facts, **_facts(each)})
        yield folder / PLANS / each.curve.name / step.file, plan.to_json()


def _facts(each: Swept) -> dict[str, Any]:
    """What a plan of a curve comes from."""
    curve = each.curve
    sample = {} if curve.sample is None else {"sample": curve.sample}
    return {"checkpoint": each.checkpoint, "order": curve.order.name, **sample, "kinds": list(curve.kinds)}
