"""`nmtprune slim`: write a checkpoint with fewer heads, neurons and layers."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import STACKS
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    other_weights_option,
    output_option,
    say,
    seed_option,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.render import emit_json, emit_table, emit_tsv
from nmtprune.errors import CheckpointError, EngineError, UsageError

if TYPE_CHECKING:
    from nmtprune.evaluate.verify import Verification
    from nmtprune.formats.base import Checkpoint
    from nmtprune.plan import Plan


@dataclass(frozen=True)
class SlimSettings:
    """Settings of a `slim` run."""

    mode: str
    reinit: bool
    seed: int
    drop_optimizer: bool
    other_weights: bool
    verify: bool


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune slim checkpoint_best.pt --plan plan.json -o slim.pt",
    short_help="Rewrite a checkpoint with only the heads, neurons and layers that a plan keeps.",
)
@checkpoint_argument
@panel_option(Panel.MODEL, "--plan", "plan_path", type=click.Path(path_type=Path), required=True, help="Plan to apply.")
@output_option("Checkpoint to write.")
@panel_option(
    Panel.MODEL,
    "--mode",
    type=click.Choice(["cut", "masked", "uniform"]),
    default="cut",
    show_default=True,
    help="cut: remove rows and columns. masked: same shapes, with the columns of removed heads and neurons in their "
    "output projections set to zero; loads in every stock engine, is no faster, and must not be trained further. "
    "uniform: cut, then fill up with zero heads and neurons to the largest module of the stack. Layers are taken out "
    "in every mode.",
)
@panel_option(
    Panel.MODEL,
    "--reinit",
    is_flag=True,
    help="Fresh random weights in the cut shape, from --seed: a control for training from scratch.",
)
@seed_option
@panel_option(Panel.MODEL, "--drop-optimizer", is_flag=True, help="Leave out the optimizer state.")
@other_weights_option
@panel_option(
    Panel.MODEL,
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare the result with the masked checkpoint.",
)
@force_option
@format_option
@verbosity_options
def slim(checkpoint: Path, plan_path: Path, output: Path, force: bool, output_format: str, **flags: Any) -> None:
    """Write CHECKPOINT to OUTPUT with only the heads, neurons and layers that the plan keeps.

    The result has the same format, tensor names and outputs as CHECKPOINT with the removed heads and neurons masked and
    the removed layers skipped; layers are numbered anew. --verify (on by default) checks this on a padded batch before
    anything is written.
    """
    from nmtprune.formats import class_of, load
    from nmtprune.plan import Plan
    from nmtprune.provenance import collect
    from nmtprune.summary import state_notes

    settings = SlimSettings(**flags)
    if settings.reinit and settings.mode != "cut":
        raise UsageError(f"--reinit gives every head fresh weights: it goes with --mode cut, not {settings.mode}")
    class_of(checkpoint).check_output(output, force=force, inputs=(checkpoint, plan_path))
    base = load(checkpoint)
    plan = Plan.read(plan_path)
    plan.check(base.base, other_weights=settings.other_weights, where=str(plan_path))
    result, verification = _rewrite(base, plan, settings)
    record = collect(seed=settings.seed if settings.reinit else None, inputs=(plan_path,))
    result.save(output, force=force, provenance={**record, "mode": settings.mode, "plan": plan.as_json()})
    _report(_figures(base, result, plan, output, verification), output_format)
    for note in (*(note for note in result.notes if note not in base.notes), *state_notes(result)):
        say(f"{output}: {note}")
    say(f"{output} {result.engines(settings.mode)}")
    if plan.version > 1 and _in_ctranslate2(result):
        say(f"{output} runs in CTranslate2 after nmtprune export")


def _rewrite(base: "Checkpoint", plan: "Plan", settings: SlimSettings) -> tuple["Checkpoint", "Verification | None"]:
    """The slim checkpoint in memory, and how far its logits are from those of the masked one."""
    from nmtprune.slim import apply

    if settings.verify and not settings.reinit:
        _check_verifiable(base)
    source = base.without_optimizer() if settings.drop_optimizer or settings.reinit else base
    result = apply(plan, source, settings.mode, other_weights=settings.other_weights)
    if settings.reinit:
        return result.reinitialized(settings.seed), None
    if not settings.verify:
        return result, None
    from nmtprune.evaluate.verify import verify

    verification = verify(base, result, plan)
    try:
        verification.raise_if_different()
    except CheckpointError as error:
        raise CheckpointError(f"{error}; nothing was written (--no-verify writes the result all the same)") from None
    return result, verification


def _in_ctranslate2(result: "Checkpoint") -> bool:
    """Whether CTranslate2, as far as it is installed, can run the result: it takes feed-forward layers of any width."""
    from nmtprune.ctranslate2_model import check_exportable

    if result.encoder_only:
        return False
    try:
        check_exportable(result)
    except EngineError:
        return False
    return True


def _check_verifiable(base: "Checkpoint") -> None:
    """Raise CheckpointError, before anything is cut, for a model that cannot be run to compare the result with it."""
    try:
        if base.encoder_only:
            base.classifier_network() if base.classifies else base.masked_words_network()
        else:
            base.network()
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{base.path}: ")
        where = f"{base.path}: the result cannot be verified (--no-verify writes it all the same): {reason}"
        raise CheckpointError(where, error.faults) from None


def _figures(
    base: "Checkpoint", result: "Checkpoint", plan: "Plan", output: Path, verification: "Verification | None"
) -> dict[str, Any]:
    """What is printed; of neurons, layers and parts of the model where the plan is not of heads alone."""
    from nmtprune.summary import model_bytes, other_bytes, parameter_count, parameters_by_part

    def both(count: Callable[["Checkpoint"], int]) -> dict[str, int]:
        return {"before": count(base), "after": count(result)}

    others = {
        "neurons": both(lambda checkpoint: sum(group.units for group in checkpoint.architecture.feed_forwards)),
        "layers": both(lambda checkpoint: sum(map(len, map(checkpoint.architecture.layers, STACKS)))),
    }
    before, after = parameters_by_part(base), parameters_by_part(result)
    parts = {f"parameters.{part}": {"before": count, "after": after.get(part, 0)} for part, count in before.items()}
    return {
        "output": str(output),
        "heads": both(lambda checkpoint: checkpoint.architecture.count()),
        **(others if plan.version > 1 else {}),
        "parameters": both(parameter_count),
        **(parts if plan.version > 1 else {}),
        "model_bytes": both(model_bytes),
        "optimizer_and_average_bytes": both(other_bytes),
        "file_bytes": {"before": base.file_bytes, "after": replace(result, path=output).file_bytes},
        "verification": asdict(verification) if verification else None,
    }


def _report(figures: dict[str, Any], output_format: str) -> None:
    counted = [(name, *value.values()) for name, value in figures.items() if name not in ("verification", "output")]
    if output_format == "json":
        emit_json(figures)
        return
    verification = figures["verification"] or {}
    if output_format == "tsv":
        measured = [(name, None, value) for name, value in verification.items()]
        emit_tsv(("figure", "before", "after"), [*counted, *measured])
        return
    rows = [(name.replace("_", " "), before, after, after - before) for name, before, after in counted]
    emit_table(("", "before", "after", "change"), rows)
    if verification:
        click.echo(
            f"verified: max |delta logit| {verification['max_delta']:.3g} against the masked checkpoint, "
            f"bound {verification['tolerance']:.3g}"
        )
    say(f"wrote {figures['output']}")
