"""`nmtprune plan`: decide which heads of a checkpoint stay, from a pattern, from chance or from scores."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import KINDS
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    given,
    min_heads_option,
    output_option,
    say,
    seed_option,
    uniform_option,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.render import emit_json, emit_tsv
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.budget import Amount, Limits, Modules
    from nmtprune.formats.base import Checkpoint
    from nmtprune.plan import Plan
    from nmtprune.scores import Scores

FORMS = ("keep", "remove", "random", "lowest", "empty_layers")
DRAWN = ("keep", "random")


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a `plan` run; one of FORMS is given, the others are None."""

    keep: str | None
    remove: str | None
    random: str | None
    per: str | None
    scores: Path | None
    lowest: str | None
    empty_layers: str | None
    kinds: str | None
    uniform: bool
    min_heads_per_module: int
    seed: int

    @property
    def form(self) -> str:
        """The one of FORMS that is given."""
        return next(name for name in FORMS if getattr(self, name) is not None)

    def check(self, seed_given: bool) -> None:
        """Raise UsageError for options that do not go together, all of them."""
        chosen = [name for name in FORMS if getattr(self, name) is not None]
        faults = []
        if len(chosen) != 1:
            named = " and ".join(map(_option, chosen)) or "none of them"
            faults.append(f"give exactly one of {', '.join(map(_option, FORMS))}; given: {named}")
        if (self.scores is None) != (self.lowest is None):
            faults.append("--scores and --lowest go together")
        for option, used, forms in (
            ("--per", self.per is not None, ("random", "lowest")),
            ("--kinds", self.kinds is not None, ("random", "lowest", "empty_layers")),
            ("--seed", seed_given, DRAWN),
        ):
            if used and chosen and not set(chosen) & set(forms):
                faults.append(f"{option} goes with {' and '.join(map(_option, forms))}, not with {_option(chosen[0])}")
        if self.uniform and self.per not in (None, "model"):
            faults.append("--uniform divides AMOUNT among the stacks: it goes with --per model only")
        if faults:
            raise UsageError("; ".join(faults), faults)


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune plan checkpoint_best.pt --random 25% -o plan.json",
    short_help="Decide which heads of a checkpoint to keep.",
)
@checkpoint_argument
@panel_option(
    Panel.REMOVAL,
    "--keep",
    metavar="PATTERN",
    help="Number of heads to keep; the heads are chosen at random. Per layer: 'encoder=777322 cross=12,10,8,8,4,4' "
    "(one digit per layer, or numbers with commas; kinds that are not named keep all heads). In total for "
    "encoder/decoder/cross: 14/31/30.",
)
@panel_option(
    Panel.REMOVAL,
    "--remove",
    metavar="HEADS",
    help="Heads to remove by name, counted from 0: 'encoder.0.3 cross.2.0-3,5', or 'encoder.4' for a whole layer. The "
    "notation of Michel et al. counts from 1: 'E:1:3,4 A:6:2 D:1:1' (E encoder, A cross, D decoder).",
)
@panel_option(Panel.REMOVAL, "--random", metavar="AMOUNT", help="Remove randomly chosen heads.")
@panel_option(
    Panel.REMOVAL, "--lowest", metavar="AMOUNT", help="Remove the heads with the lowest scores in the file of --scores."
)
@panel_option(
    Panel.REMOVAL, "--scores", type=click.Path(path_type=Path), metavar="FILE", help="Score file for --lowest."
)
@panel_option(
    Panel.REMOVAL,
    "--empty-layers",
    metavar="LAYERS",
    help="Remove all attention heads of some layers, in every selected kind: top:N (nearest the output), bottom:N, "
    "middle:N, even or odd (layer ids count from 0), or several with commas, such as 'top:1,bottom:1'.",
)
@panel_option(
    Panel.REMOVAL,
    "--per",
    type=click.Choice(["model", "kind", "module"]),
    help="Apply AMOUNT to all selected heads together (model, the default), to each kind, or to each module.",
)
@panel_option(
    Panel.REMOVAL,
    "--kinds",
    metavar="KINDS",
    help="Remove heads of these kinds only: encoder, decoder, cross, separated by commas. Default: all.",
)
@uniform_option
@min_heads_option
@seed_option
@output_option("Plan to write; '-' is stdout.")
@force_option
@format_option
@verbosity_options
def plan(checkpoint: Path, output: Path, force: bool, output_format: str, **flags: Any) -> None:
    """Write a plan that says which heads of CHECKPOINT to keep; `nmtprune slim` applies it.

    Give exactly one of --keep, --remove, --random, --lowest and --empty-layers. AMOUNT is a percentage of the selected
    heads (30%, 12.5%; half a head rounds up) or a number of heads; it is met exactly.
    """
    from nmtprune.files import check_output
    from nmtprune.formats import load

    settings = PlanSettings(**flags)
    settings.check(seed_given=bool(given(["seed"])))
    to_stdout = str(output) == "-"
    if to_stdout and output_format != "text":
        raise UsageError(f"with -o - the plan itself is written to stdout: leave out --format {output_format}")
    inputs = [checkpoint] if settings.scores is None else [checkpoint, settings.scores]
    if not to_stdout:
        check_output(output, force=force, inputs=inputs)
    base = load(checkpoint)
    limits = _limits(base, settings)
    made = _with_provenance(_make(base, settings, limits), checkpoint, settings)
    if to_stdout:
        click.echo(made.to_json(), nl=False)
    else:
        made.write(output, force=force, inputs=inputs)
    _report(made, limits, output, output_format)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limits(checkpoint: "Checkpoint", settings: PlanSettings) -> "Limits":
    from nmtprune.architecture import parse_kinds
    from nmtprune.budget import Limits

    architecture = checkpoint.architecture
    kinds = architecture.kinds if settings.kinds is None else parse_kinds(settings.kinds, architecture)
    return Limits(kinds, settings.min_heads_per_module, settings.uniform)


def _make(checkpoint: "Checkpoint", settings: PlanSettings, limits: "Limits") -> "Plan":
    """The plan of the given form, without provenance."""
    from nmtprune.methods import plans
    from nmtprune.methods.chance import random_scores

    base, per = checkpoint.base, settings.per or "model"
    if settings.keep is not None:
        return plans.keep_heads(base, settings.keep, settings.seed, limits)
    if settings.remove is not None:
        return plans.remove_heads(base, settings.remove, checkpoint.architecture, limits)
    if settings.empty_layers is not None:
        return plans.empty_layers(base, settings.empty_layers, limits)
    if settings.random is not None:
        scores = random_scores(base.modules, settings.seed)
        return plans.remove_lowest(base, scores, _amount(settings.random, base.modules, limits), limits, per)
    scores = _scores(settings.scores or Path(), checkpoint, limits).scores_by_head()
    return plans.remove_lowest(base, scores, _amount(settings.lowest or "", base.modules, limits), limits, per)


def _amount(text: str, modules: "Modules", limits: "Limits") -> "Amount":
    from nmtprune.budget import Amount, resolve

    amount = Amount.parse(text)
    if limits.uniform and amount.percent:
        exact = float(amount.exact(limits.count(modules)))
        say(f"{amount} is {exact:.5g} heads; the nearest uniform number is {resolve(amount, modules, limits)}")
    return amount


def _scores(path: Path, checkpoint: "Checkpoint", limits: "Limits") -> "Scores":
    from nmtprune.scores import Scores

    scores = Scores.read(path)
    scores.check(checkpoint.architecture, limits.kinds, str(path))
    if scores.base is not None and scores.base.sha256 != checkpoint.sha256:
        say(f"{path}: these are scores of a model with the same shape but other weights")
    return scores


def _with_provenance(plan: "Plan", checkpoint: Path, settings: PlanSettings) -> "Plan":
    from nmtprune.provenance import collect

    chosen = {name: value for name, value in asdict(settings).items() if value is not None and name != "seed"}
    drawn = settings.form in DRAWN
    return plan.with_provenance(
        collect(
            seed=settings.seed if drawn else None,
            inputs=[settings.scores] if settings.scores else [],
            checkpoint=str(checkpoint),
            options=chosen | ({"scores": str(settings.scores)} if settings.scores else {}),
        )
    )


def _report(plan: "Plan", limits: "Limits", output: Path, output_format: str) -> None:
    """Print which heads the plan keeps, on stdout, or on stderr if the plan itself is on stdout."""
    if output_format == "json":
        emit_json({"output": str(output), **_figures(plan, limits)})
    elif output_format == "tsv":
        modules = plan.base.modules.items()
        rows = ((str(id), heads, len(plan.kept(id)), ",".join(map(str, plan.kept(id)))) for id, heads in modules)
        emit_tsv(("module", "heads", "kept", "kept_heads"), rows)
    elif str(output) == "-":
        for line in _lines(plan, limits):
            say(line)
        return
    else:
        for line in _lines(plan, limits):
            click.echo(line)
    say(f"wrote {output}")


def _figures(plan: "Plan", limits: "Limits") -> dict[str, Any]:
    def counts(kinds: Iterable[str]) -> dict[str, float]:
        heads, kept = plan.count_base(kinds), plan.count_kept(kinds)
        percent = 100 * (heads - kept) / heads if heads else 0.0
        return {"heads": heads, "kept": kept, "removed": heads - kept, "removed_percent": percent}

    selected = {"kinds": list(limits.kinds), **counts(limits.kinds)}
    return {"all": counts(KINDS), "selected": selected, "kept_per_layer": dict(plan.heads_by_kind())}


def _lines(plan: "Plan", limits: "Limits") -> Iterator[str]:
    for kind, kept in plan.heads_by_kind().items():
        if kept:
            by_layer = " ".join(map(str, kept))
            yield f"{kind:8} {sum(kept):>4} of {plan.count_base([kind]):>4} heads kept, by layer: {by_layer}"
    figures = _figures(plan, limits)
    yield _removed(figures["all"], "")
    if figures["selected"]["heads"] != figures["all"]["heads"]:
        yield _removed(figures["selected"], f" of {', '.join(limits.kinds)}")


def _removed(counts: Mapping[str, float], of: str) -> str:
    return f"{counts['removed']} of {counts['heads']} heads{of} removed ({counts['removed_percent']:.1f}%)"
