"""`nmtprune l0`: gates learn which heads and neurons can go, the slim model is cut, and both are measured."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.options import (
    checkpoint_argument,
    force_option,
    format_option,
    output_option,
    refuse,
    resume_option,
    say,
    seed_option,
    significance_options,
    spelled,
    typed,
    verbosity_options,
)
from nmtprune.cli.panels import Panel, PanelCommand, panel_option
from nmtprune.cli.progress_bar import duration, progress
from nmtprune.cli.quality_options import ALLOWING, bleu_options, quality_option
from nmtprune.cli.render import Cell, emit_json, emit_table, emit_tsv
from nmtprune.cli.search_options import SEARCH_NAMES, engine_options, search_options

if TYPE_CHECKING:
    from nmtprune.runs.l0.l0_results import L0Result
    from nmtprune.runs.l0.l0_setup import L0Run

F = TypeVar("F", bound=Callable[..., Any])

_GATES: dict[str, tuple[Any, str]] = {
    "l0_warmup_updates": (click.IntRange(min=0), "Raise lambda linearly from 0 over N updates."),
    "gate": (click.Choice(["hardconcrete", "binconcrete"]), "Distribution of the gates."),
    "gate_init": (float, "Initial log alpha; with 2.0, a hardconcrete gate is open with probability 94 %."),
    "gate_temperature": (float, "Temperature (beta) of the concrete distribution."),
    "gate_step": (
        float,
        "Log alpha that a gate moves per update, whatever the learning rate of the weights. Default: 0.15.",
    ),
    "gate_lr_scale": (
        float,
        "Instead of --gate-step: learning rate of the gates, as a multiple of that of the weights. Gates then learn "
        "with the weights to the end unless --gate-freeze-updates or --gate-only-updates is given.",
    ),
    "gate_freeze_updates": (
        click.IntRange(min=0),
        "Freeze the gates after N updates; the weights continue to train. Default: 20 % of the updates.",
    ),
    "gate_only_updates": (
        click.IntRange(min=0),
        "Train only the gates before update N. Default: half of --gate-freeze-updates.",
    ),
    "min_heads_per_module": (
        click.IntRange(min=0),
        "Never close the gates of N heads in each attention module: those that are open most.",
    ),
    "test_gate": (
        click.Choice(["hard", "soft"]),
        "Gates at test time: fully open or closed (hard), or with their values (soft).",
    ),
    "freeze": (
        click.Choice(["encoder", "decoder", "encoder,decoder"]),
        "Freeze the weights of this part; its gates still learn.",
    ),
    "target_heads": (
        click.IntRange(min=0),
        "Keep exactly N heads of those with gates; lambda adapts until that number is expected open.",
    ),
}
"""Options that fairseq-train's plug-in has too, with its defaults: type and help."""


_OF_TRAINING = {
    *("l0_warmup_updates", "gate_step", "gate_lr_scale", "gate_freeze_updates", "gate_only_updates", "freeze")
}
"""Those of them that say when and how gates learn."""


_MEASURING = (
    *("subset", "metric", "bleu_tokenize", "lowercase", "resamples", "alpha", "engine", "max_tokens", "batch_size"),
    *("resume", *ALLOWING, *SEARCH_NAMES),
)
"""Parameters that say how models are measured, and that only their measurements can go on."""


def _gate_options(command: F) -> F:
    stretch = panel_option(
        Panel.GATES,
        "--gate-stretch",
        nargs=2,
        type=float,
        metavar="GAMMA ZETA",
        help="Interval to which hardconcrete gates are stretched before they are clipped to 0 and 1.",
    )
    scaling = panel_option(
        Panel.GATES,
        "--output-scaling",
        is_flag=True,
        help="Scale the outputs of open heads to make up for closed ones (Shim et al. 2021).",
    )
    decorated: Any = scaling(stretch(command))
    for name, (kind, help_text) in reversed(_GATES.items()):
        metavar = None if isinstance(kind, click.Choice) else "X" if kind is float else "N"
        panel = Panel.GATE_TRAINING if name in _OF_TRAINING else Panel.GATES
        decorated = panel_option(panel, spelled(name), type=kind, metavar=metavar, help=help_text)(decorated)
    found: F = decorated
    return found


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune l0 checkpoint_best.pt --data-bin data-bin --l0-weight 0.02 --l0-weight 0.05 -o run "
    "-- --max-epoch 5",
    short_help="Train gates that close heads or neurons, and cut these out.",
)
@checkpoint_argument
@click.argument("given", nargs=-1, type=click.UNPROCESSED, metavar="[-- FAIRSEQ-TRAIN OPTIONS]")
@data_options
@output_option(
    "Run folder: gets plan.json, slim.pt and checkpoints (in one folder per lambda), l0.json, .tsv and .png."
)
@panel_option(
    Panel.GATES,
    "--l0-weight",
    "weights",
    type=float,
    multiple=True,
    required=True,
    metavar="LAMBDA",
    help="Weight of the expected number of open heads, added to the mean loss per token. Repeat the option for one "
    "training per lambda.",
)
@panel_option(
    Panel.GATES,
    "--l0-groups",
    "groups",
    default="heads",
    show_default=True,
    metavar="GROUPS",
    help="Put gates on heads, neurons (one gate per block of 16), or both, separated by commas. With neurons, each "
    "gate weighs its multiply-accumulates in the penalty; the average head weighs 1.",
)
@panel_option(
    Panel.GATES,
    "--kinds",
    metavar="KINDS",
    help="Put gates on units of these kinds only: encoder, decoder, cross, separated by commas; encoder and decoder "
    "also mean the neurons of these stacks. Default: all.",
)
@_gate_options
@panel_option(
    Panel.GATE_TRAINING,
    "--best",
    is_flag=True,
    help="Use the checkpoint with the lowest validation loss among those with the same open gates as the last one.",
)
@panel_option(
    Panel.GATE_TRAINING,
    "--refit",
    is_flag=True,
    help="Refit the slim model to CHECKPOINT before it is measured and written (see nmtprune refit), on 1000 sentences "
    "of the training set.",
)
@panel_option(
    Panel.GATE_TRAINING,
    "--search-only",
    is_flag=True,
    help="Train nothing but gates, for --search-updates updates, and write a plan of CHECKPOINT. Learns from the "
    "training set of --data-bin, or from the sentences of raw text, without fairseq-train; also for Marian and Hugging "
    "Face models.",
)
@panel_option(
    Panel.GATE_TRAINING,
    "--search-updates",
    type=click.IntRange(min=1),
    default=60,
    show_default=True,
    metavar="N",
    help="Updates of the gates with --search-only.",
)
@quality_option
@significance_options
@search_options
@bleu_options
@engine_options
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def l0(output_format: str, **flags: Any) -> None:
    """Train gates on the heads of a converged CHECKPOINT, cut heads whose gates close, and measure the smaller model.

    --l0-groups heads,neurons also puts gates on the neurons of feed-forward layers.

    fairseq-train trains on --data-bin with the options after --. Without them, training continues for 10 epochs with
    the checkpoint's settings and its last learning rate (Voita et al. 2019, section 6; --gate binconcrete: Shim et al.
    2021). First only gates learn, then gates and weights, and after --gate-freeze-updates only weights.
    """
    from nmtprune.runs.l0.each_lambda import l0 as run_l0
    from nmtprune.runs.l0.l0_setup import L0Run

    _check_search(flags["search_only"])
    run = L0Run(gates=tuple(_gates(flags)), **flags)
    if run.search_only:
        _search(run, output_format)
        return
    with progress() as watcher:
        result = run_l0(run, watcher)
    _report(result, run.metric, output_format)
    folders = ", ".join(str(run.folder(weight) / "slim.pt") for weight in run.weights)
    say(f"wrote {run.output}: {folders}")


def _check_search(search_only: bool) -> None:
    """Refuse what a search of gates, which measures no translations, has no use for, and what only a search has."""
    if search_only:
        refuse([f"{name} does not go with --search-only, which measures nothing" for name in typed(_MEASURING)])
    else:
        refuse([f"{name} goes with --search-only" for name in typed(("search_updates",))])


def _search(run: "L0Run", output_format: str) -> None:
    from nmtprune.runs.l0.search_only import search_plans

    with progress() as watcher:
        found = search_plans(run, watcher)
    kinds = [kind for kind, counts in found[0].plan.base.heads.items() if counts]
    gated = found[0].expected is not None
    columns = ("l0_weight", "kept", *kinds, "neurons", *(("expected_heads",) if gated else ()))
    rows = [
        (each.weight, each.plan.count_kept(), *(each.plan.count_kept((kind,)) for kind in kinds), each.neurons,
         *((each.expected,) if gated else ()))
        for each in found
    ]  # fmt: skip
    if output_format == "json":
        emit_json([dict(zip(columns, row, strict=True)) for row in rows])
    elif output_format == "tsv":
        emit_tsv(columns, rows)
    else:
        emit_table(columns, [(f"{row[0]:g}", *row[1:-1], f"{row[-1]:.1f}" if gated else row[-1]) for row in rows])
    say(f"wrote {', '.join(str(each.path) for each in found)}")


def _gates(flags: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The gate options that were given, as fairseq-train takes them."""
    for name in _GATES:
        value = flags.pop(name)
        if value is not None:
            yield spelled(name), str(value)
    stretch = flags.pop("gate_stretch")
    if stretch:
        yield "--gate-stretch", *map(repr, stretch)
    if flags.pop("output_scaling"):
        yield ("--output-scaling",)


def _report(result: "L0Result", metric: str, output_format: str) -> None:
    if output_format == "json":
        click.echo(result.report.json, nl=False)
    elif output_format == "tsv":
        click.echo(result.report.tsv or "", nl=False)
    else:
        _emit_text(result, metric)


def _emit_text(result: "L0Result", metric: str) -> None:
    from nmtprune.runs.l0.l0_results import neuron_columns

    base, facts = result.base, result.facts
    counts = f"{base.architecture.count()} heads"
    if not base.heads_alone:
        counts += f", {sum(group.units for group in base.architecture.feed_forwards)} neurons"
    click.echo(f"{facts['data']}: {facts['sentences']} sentences, {counts}, unpruned {metric} {base.value:.2f}")
    click.echo(facts["signature"])
    units = ("lambda", "kept", *base.architecture.kinds, *neuron_columns(base))
    columns = (*units, f"{metric} gated", f"{metric} slim")
    emit_table((*columns, "change", "95% interval", "p", "parameters"), _rows(result))
    click.echo(f"time {duration(result.seconds)}")


def _rows(result: "L0Result") -> Iterator[tuple[Cell, ...]]:
    from nmtprune.runs.l0.l0_results import neuron_cells

    for each in result.outcomes:
        low, high = each.difference.ci
        *counts, macs = neuron_cells(result.base, each) or (None,)
        neurons = () if result.base.heads_alone else (*counts, f"{macs:.1%}")
        yield (
            f"{each.weight:g}", each.plan.count_kept(), *each.kept(result.base.architecture).values(), *neurons,
            f"{each.gated:.2f}", f"{each.slim:.2f}", f"{each.difference.delta:+.2f}", f"{low:+.2f} to {high:+.2f}",
            f"{each.difference.p:.4f}", each.parameters,
        )  # fmt: skip
