"""`nmtprune plan`: decide which heads, neurons and layers stay, from patterns, from chance or from scores."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nmtprune.architecture import NEURON_KINDS, UnitId, parse_heads
from nmtprune.cli import protection
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    given,
    min_heads_option,
    multiple_of_option,
    output_option,
    protect_option,
    refuse,
    say,
    seed_option,
    uniform_option,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.plan_report import report_plan
from nmtprune.errors import BudgetError, NmtpruneError, UsageError

if TYPE_CHECKING:
    from nmtprune.budget import Amount, Limits, Units
    from nmtprune.formats.base import Checkpoint
    from nmtprune.plan import Base, Plan
    from nmtprune.runs.functions_file import Protection

Errors = list[NmtpruneError]
ScoresBySort = Mapping[str, Mapping[UnitId, float]]

FORMS = ("keep", "remove", "random", "lowest", "empty_layers")
DRAWN = ("keep", "random")
OF_NEURONS = ("remove_neurons", "keep_neurons")
OF_LAYERS = ("remove_layers", "keep_layers")
SCORED = ("lowest", *OF_NEURONS, "keep_layers")


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a `plan` run.

    One of FORMS is given, the others are None; where options of neurons or layers are given, none of FORMS need be.
    """

    keep: str | None
    remove: str | None
    random: str | None
    per: str | None
    scores: tuple[Path, ...]
    lowest: str | None
    empty_layers: str | None
    remove_neurons: str | None
    keep_neurons: str | None
    remove_layers: str | None
    keep_layers: str | None
    multiple_of: int
    kinds: str | None
    uniform: bool
    min_heads_per_module: int
    protect: str | None
    seed: int

    def given(self, names: Sequence[str]) -> list[str]:
        """Those of the settings that are given."""
        return [name for name in names if getattr(self, name) is not None]

    @property
    def protection(self) -> "Protection | None":
        """The file of --protect, and the functions; UsageError where it names none."""
        from nmtprune.runs.functions_file import Protection

        return None if self.protect is None else Protection.parse(self.protect)

    @property
    def inputs(self) -> list[Path]:
        """Files that the plan is made from, besides the checkpoint."""
        return [*self.scores, *([self.protection.path] if self.protection else [])]

    @property
    def sorts(self) -> tuple[str, ...]:
        """What is decided on: heads, neurons, layers."""
        options = {"heads": FORMS, "neurons": OF_NEURONS, "layers": OF_LAYERS}
        return tuple(sort for sort, names in options.items() if self.given(names))

    @property
    def drawn(self) -> bool:
        """Whether the seed decides what goes."""
        return bool(self.given(DRAWN) or (self.given(OF_NEURONS) and not self.scores) or self.draws_layers)

    @property
    def draws_layers(self) -> bool:
        """Whether a pattern selects random layers."""
        from nmtprune.methods import layer_patterns

        return any(map(layer_patterns.draws, (self.empty_layers, self.remove_layers)))

    def check(self, seed_given: bool) -> None:
        """Raise UsageError for options that do not go together, all of them."""
        chosen, neurons, layers = map(self.given, (FORMS, OF_NEURONS, OF_LAYERS))
        every = [*chosen, *neurons, *layers]
        faults = []
        if len(chosen) > 1 or not every:
            named = " and ".join(map(_option, chosen)) or "none of them"
            faults.append(f"give exactly one of {', '.join(map(_option, FORMS))}; given: {named}")
        if len(neurons) > 1:
            faults.append(f"give one of {' and '.join(map(_option, OF_NEURONS))}, not both")
        if (self.lowest is not None and not self.scores) or (self.scores and not self.given(SCORED)):
            faults.append("--scores and --lowest go together")
        for option, used, forms in (
            ("--per", self.per is not None, ("random", "lowest", "remove_neurons")),
            ("--kinds", self.kinds is not None, ("random", "lowest", "empty_layers")),
            ("--seed", seed_given and not self.draws_layers, DRAWN if self.scores else (*DRAWN, *OF_NEURONS)),
            ("--multiple-of", self.multiple_of > 1, OF_NEURONS),
            ("--uniform", self.uniform, (*FORMS, *OF_NEURONS)),
            ("--min-heads-per-module", self.min_heads_per_module > 0, FORMS),
            ("--protect", self.protect is not None, (*FORMS, *OF_LAYERS)),
        ):
            if used and every and not set(every) & set(forms):
                heads = [name for name in forms if name in FORMS] if len(every) == len(chosen) else []
                named = " and ".join(map(_option, heads or forms))
                faults.append(f"{option} goes with {named}, not with {_option(every[0])}")
        if self.uniform and self.per not in (None, "model"):
            faults.append("--uniform divides AMOUNT among the stacks: it goes with --per model only")
        refuse(faults)


class PlanCommand(PanelCommand):
    """The command, in which ``--keep-neurons encoder=1024 decoder=512`` needs no quotation marks."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, entries of a pattern joined to one value."""
        patterns = {_option(name) for name in ("keep", *OF_NEURONS, *OF_LAYERS)}
        joined: list[str] = []
        for place, argument in enumerate(args):
            entry = re.fullmatch(r"(encoder|decoder|cross)=\S+", argument)
            inside = len(joined) > 1 and joined[-2] in patterns and "=" in joined[-1]
            if entry and inside and "--" not in args[:place]:
                joined[-1] += f" {argument}"
            else:
                joined.append(argument)
        return super().parse_args(ctx, joined)


@click.command(
    cls=PlanCommand,
    epilog="Example: nmtprune plan checkpoint_best.pt --random 25% -o plan.json",
    short_help="Decide which heads, neurons and layers of a checkpoint to keep.",
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
    Panel.REMOVAL,
    "--scores",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Score file for --lowest, --remove-neurons, --keep-neurons and --keep-layers; one file for all, or several "
    "with scores of heads, neurons or layers.",
)
@panel_option(
    Panel.REMOVAL,
    "--empty-layers",
    metavar="LAYERS",
    help="Remove all attention heads of some layers, in every selected kind: top:N (nearest the output), bottom:N, "
    "middle:N, even or odd (layer ids count from 0), random:N, or several with commas, such as 'top:1,bottom:1'.",
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
@panel_option(
    Panel.OTHERS,
    "--remove-neurons",
    metavar="AMOUNT",
    help="Remove neurons of the feed-forward layers, of all of them (50%) or of those of each stack ('encoder=25% "
    "decoder=50%'): those with the lowest scores, or randomly chosen ones without --scores.",
)
@panel_option(
    Panel.OTHERS,
    "--keep-neurons",
    metavar="PATTERN",
    help="Number of neurons that every feed-forward layer of a stack keeps: 'encoder=1024 decoder=512', chosen in the "
    "same way.",
)
@multiple_of_option
@panel_option(
    Panel.OTHERS,
    "--remove-layers",
    metavar="PATTERN",
    help="Layers to remove, counted from 0: 'encoder=4-5 decoder=1,3,5', or by the patterns of --empty-layers: "
    "'encoder=top:2 decoder=random:1'.",
)
@panel_option(
    Panel.OTHERS,
    "--keep-layers",
    metavar="PATTERN",
    help="Number of layers that a stack keeps: 'encoder=6 decoder=3'. Those with the highest scores stay; without "
    "scores of layers evenly spaced ones with the first and the last.",
)
@uniform_option
@min_heads_option
@protect_option
@seed_option
@output_option("Plan to write; '-' is stdout.")
@force_option
@format_option
@verbosity_options
def plan(checkpoint: Path, output: Path, force: bool, output_format: str, **flags: Any) -> None:
    """Write a plan that says which heads, neurons and layers of CHECKPOINT to keep; `nmtprune slim` applies it.

    Give one of --keep, --remove, --random, --lowest and --empty-layers for heads, options for neurons and layers, or
    several of these. AMOUNT is a percentage of the selected heads or neurons (30%, 12.5%; half a head rounds up) or a
    number of them; it is met exactly. Where layers go, heads and neurons are chosen among those of the other layers.
    """
    from nmtprune.files import check_output
    from nmtprune.formats import load

    settings = PlanSettings(**flags)
    settings.check(seed_given=bool(given(["seed"])))
    to_stdout = str(output) == "-"
    if to_stdout and output_format != "text":
        raise UsageError(f"with -o - the plan itself is written to stdout: leave out --format {output_format}")
    inputs = [checkpoint, *settings.inputs]
    if not to_stdout:
        check_output(output, force=force, inputs=inputs)
    base = load(checkpoint)
    limits = _limits(base, settings)
    made = _with_provenance(_make(base, settings, limits), checkpoint, settings)
    if to_stdout:
        click.echo(made.to_json(), nl=False)
    else:
        made.write(output, force=force, inputs=inputs)
    report_plan(made, limits, settings.sorts, output, output_format)
    note = base.ragged_note(made)
    if note:
        say(f"{note}: plan with --uniform, or slim with --mode uniform or masked")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _limits(checkpoint: "Checkpoint", settings: PlanSettings) -> "Limits":
    """Which heads may go."""
    from nmtprune.architecture import parse_kinds
    from nmtprune.budget import Limits

    architecture = checkpoint.architecture
    kinds = architecture.kinds if settings.kinds is None else parse_kinds(settings.kinds, architecture)
    asked = settings.protection
    protected = frozenset[UnitId]() if asked is None else protection.heads(asked, checkpoint.base)
    return Limits(kinds, settings.min_heads_per_module, settings.uniform, protected=protected)


def _make(checkpoint: "Checkpoint", settings: PlanSettings, limits: "Limits") -> "Plan":
    """The plan that is asked for, without provenance; every fault of its heads, neurons and layers at once."""
    from nmtprune.plan import Plan

    scores = _scores(settings, checkpoint, limits)
    layers, errors = _layers(checkpoint.base, settings, scores)
    # What is chosen among the layers that stay is chosen from a model without the others, under the same numbers.
    left = checkpoint.base.with_layers(Plan.removing(checkpoint.base, layers).kept_layers())
    heads: Sequence[UnitId] = ()
    try:
        heads = _heads(left, checkpoint, settings, limits, scores) if settings.given(FORMS) else ()
    except (UsageError, BudgetError) as error:
        errors.append(error)
    neurons, wrong = _neurons(left, settings, scores)
    _raise_all([*errors, *wrong, *protection.errors_of_layers(layers, limits)])
    return Plan.removing(checkpoint.base, [*layers, *heads, *neurons])


def _layers(base: "Base", settings: PlanSettings, scores: ScoresBySort) -> tuple[list[UnitId], Errors]:
    """Layers that go."""
    from nmtprune.methods import layer_choice

    layers, errors = list[UnitId](), Errors()
    if settings.remove_layers is not None:
        layers, wrong = layer_choice.remove_layers(base, settings.remove_layers, settings.seed)
        errors += _named(wrong, "remove_layers")
    if settings.keep_layers is not None:
        others, wrong = layer_choice.keep_layers(base, settings.keep_layers, scores.get("layers"))
        twice = sorted({layer.group.stack for layer in others} & {layer.group.stack for layer in layers})
        errors += _named(wrong, "keep_layers")
        errors += [UsageError(f"--remove-layers and --keep-layers both speak of the {stack}") for stack in twice]
        layers += [layer for layer in others if layer.group.stack not in twice]
    return layers, errors


def _heads(
    base: "Base", checkpoint: "Checkpoint", settings: PlanSettings, limits: "Limits", scores: ScoresBySort
) -> tuple[UnitId, ...]:
    """Heads that go, of the base without the layers that go."""
    from nmtprune.budget import Limits
    from nmtprune.methods import plans
    from nmtprune.methods.chance import random_scores

    per = settings.per or "model"
    if settings.keep is not None:
        made = plans.keep_heads(base, settings.keep, settings.seed, limits)
    elif settings.remove is not None:
        made = plans.remove_heads(base, settings.remove, checkpoint.architecture, limits)
        protection.say_what_stays(parse_heads(settings.remove, checkpoint.architecture), limits)
    elif settings.empty_layers is not None:
        made = plans.empty_layers(base, settings.empty_layers, limits, settings.seed)
        named = plans.empty_layers(base, settings.empty_layers, Limits(limits.kinds), settings.seed)
        protection.say_what_stays(named.removed(), limits)
    elif settings.random is not None:
        drawn = random_scores(base.modules, settings.seed)
        made = plans.remove_lowest(base, drawn, _amount(settings.random, "heads", base.modules, limits), limits, per)
    else:
        amount = _amount(settings.lowest or "", "heads", base.modules, limits)
        made = plans.remove_lowest(base, scores["heads"], amount, limits, per)
    return made.removed()


def _neurons(base: "Base", settings: PlanSettings, scores: ScoresBySort) -> tuple[list[UnitId], Errors]:
    """Neurons that go, of the base without the layers that go."""
    from nmtprune.budget import Limits
    from nmtprune.methods import widths
    from nmtprune.methods.chance import random_scores

    names, units = settings.given(OF_NEURONS), base.feed_forwards
    if not names:
        return [], []
    if not units:
        return [], [UsageError(f"{_option(names[0])}: the model has no feed-forward layers whose neurons can be cut")]
    kinds = tuple(kind for kind in NEURON_KINDS if any(group.kind == kind for group in units))
    limits = Limits(kinds, uniform=settings.uniform, multiple_of=settings.multiple_of)
    own = scores.get("neurons") or random_scores(units, settings.seed)
    if settings.keep_neurons is not None:
        neurons, errors = widths.keep_neurons(units, settings.keep_neurons, own, limits)
    else:
        pattern, per = settings.remove_neurons or "", settings.per or "model"
        neurons, errors = widths.remove_neurons(units, pattern, own, limits, per)
        if not errors and per == "model":
            for kinds, amount in widths.amounts(pattern, limits, []):
                _amount(amount, "neurons", units, replace(limits, kinds=kinds))
    return neurons, _named(errors, names[0])


def _named(errors: Errors, name: str) -> Errors:
    """The same errors; messages begin with the option."""
    return [type(error)(f"{_option(name)}: {error}") for error in errors]


def _raise_all(errors: Errors) -> None:
    """Raise one error for all, of the first class: UsageError, BudgetError."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        faults = [fault for error in errors for fault in error.faults]
        raise min((type(error) for error in errors), key=lambda each: each.exit_code)(
            "; ".join(map(str, errors)), faults
        )


def _amount(text: str, what: str, units: "Units", limits: "Limits") -> "Amount":
    """The amount; says which number it comes to where not every number can be reached."""
    from nmtprune.budget import Amount, in_steps, resolve

    amount = Amount.parse(text, what)
    if amount.percent and in_steps(units, limits):
        exact = float(amount.exact(limits.count(units)))
        kind = "uniform number" if limits.multiple_of == 1 else f"number in multiples of {limits.multiple_of}"
        say(f"{amount} is {exact:.5g} {what}; the nearest {kind} is {resolve(amount, units, limits)}")
    return amount


def _scores(settings: PlanSettings, checkpoint: "Checkpoint", limits: "Limits") -> ScoresBySort:
    """Scores of heads, neurons and layers, as far as the score files have them.

    Raises:
        DataError: files that are damaged, of another model, or without scores that are needed.
        UsageError: two files with scores of the same sort.
    """
    from nmtprune.scores import Scores

    found: dict[str, Mapping[UnitId, float]] = {}
    sources: dict[str, Path] = {}
    faults: list[str] = []
    for path in settings.scores:
        scores = Scores.read(path)
        needs_heads = settings.lowest is not None and ("heads" in scores.sorts or len(settings.scores) == 1)
        scores.check(checkpoint.architecture, limits.kinds if needs_heads else (), str(path))
        if scores.base is not None and scores.base.sha256 != checkpoint.sha256:
            same = scores.base.has_shape_of(checkpoint.base)
            which = "with the same shape but other weights" if same else "of another shape"
            say(f"{path}: these are scores of a model {which}")
        faults += [f"{sources[sort]} and {path} both have scores of {sort}" for sort in scores.sorts if sort in sources]
        for sort in scores.sorts:
            sources[sort] = path
            found[sort] = scores.scores_by_unit()
    for sort, names in (("heads", ["lowest"]), ("neurons", list(OF_NEURONS))):
        if settings.scores and settings.given(names) and sort not in found:
            listed = ", ".join(map(str, settings.scores))
            faults.append(f"{_option(settings.given(names)[0])}: no scores of {sort} in {listed}")
    if settings.keep_layers is not None and settings.scores and "layers" not in found:
        listed = ", ".join(map(str, settings.scores))
        if not found or not settings.given(["lowest", *OF_NEURONS]):
            faults.append(f"--keep-layers: no scores of layers in {listed}")
        else:
            say(f"--keep-layers: no scores of layers in {listed}: they are spread evenly")
    refuse(faults)
    return found


def _with_provenance(plan: "Plan", checkpoint: Path, settings: PlanSettings) -> "Plan":
    from nmtprune.provenance import collect

    chosen = {name: value for name, value in asdict(settings).items() if value is not None and name != "seed"}
    files = [str(path) for path in chosen.pop("scores")]
    if settings.multiple_of == 1:
        del chosen["multiple_of"]
    return plan.with_provenance(
        collect(
            seed=settings.seed if settings.drawn else None,
            inputs=settings.inputs,
            checkpoint=str(checkpoint),
            options=chosen | ({"scores": files[0] if len(files) == 1 else files} if files else {}),
        )
    )
