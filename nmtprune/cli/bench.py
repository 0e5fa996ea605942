"""`nmtprune bench`: how fast models are, side by side."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from nmtprune.architecture import SORTS
from nmtprune.cli.data_options import data_options
from nmtprune.cli.example_options import example_options
from nmtprune.cli.options import (
    force_option,
    format_option,
    given,
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
from nmtprune.cli.progress_bar import progress
from nmtprune.cli.quality_options import ALLOWING, bleu_options, repeat_option
from nmtprune.cli.render import emit_json, emit_table, emit_tsv
from nmtprune.cli.search_options import SEARCH_NAMES, beam_options, compute_type_option, engine_options
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.runs.bench.synthetic import Synthetic
    from nmtprune.runs.cost_table import CostTable
    from nmtprune.runs.report import BenchFile

F = TypeVar("F", bound=Callable[..., Any])


_OF_QUALITY = ("bleu_tokenize", "lowercase", "resamples", "alpha", "seed")
_CUT = ("keep", "random", "keep_neurons", "remove_neurons", "keep_layers")
_SYNTHETIC = (*_CUT, "source_length", "target_length", "sentences")
_OF_COST_TABLE = (
    "output", "engine", "device", "threads", "search", "compute_type", "repeat", "seed", "force", "resume",
)  # fmt: skip
_LENGTHS = ("source_length", "target_length", "sentences")


def synthetic_options(command: F) -> F:
    """Generated models and sentences, instead of checkpoints and data."""
    options = [
        panel_option(
            Panel.SYNTHETIC,
            "--synthetic",
            metavar="SHAPE",
            help="Compare a full and a cut model with random weights, instead of checkpoints: transformer_base, "
            "transformer_big or student, with changes such as 'transformer_big heads=8 head_dim=64' (d, ffn, heads, "
            "head_dim, encoder_layers, decoder_layers, vocab).",
        ),
        panel_option(
            Panel.SYNTHETIC,
            "--keep",
            metavar="PATTERN",
            help="Heads that the cut model keeps, as in `nmtprune plan --keep`.",
        ),
        panel_option(
            Panel.SYNTHETIC,
            "--random",
            metavar="AMOUNT",
            help="Number or share of random heads that the cut model loses, as in `nmtprune plan --random`.",
        ),
        panel_option(
            Panel.SYNTHETIC,
            "--keep-neurons",
            metavar="PATTERN",
            help="Neurons that each feed-forward layer of the cut model keeps, as in `nmtprune plan --keep-neurons`.",
        ),
        panel_option(
            Panel.SYNTHETIC,
            "--remove-neurons",
            metavar="AMOUNT",
            help="Number or share of random neurons that the cut model loses, as in `nmtprune plan --remove-neurons`.",
        ),
        panel_option(
            Panel.SYNTHETIC,
            "--keep-layers",
            metavar="PATTERN",
            help="Number of layers that the stacks of the cut model keep, as in `nmtprune plan --keep-layers`.",
        ),
        _count("--source-length", 20, "Words in each source sentence."),
        _count("--target-length", 20, "Words in each translation; the length is forced."),
        _count("--sentences", 64, "Number of random sentences."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _count(name: str, default: int, what: str) -> Callable[[F], F]:
    help_text = f"With --synthetic or --cost-table: {what[0].lower()}{what[1:]}"
    return panel_option(
        Panel.SYNTHETIC,
        name,
        type=click.IntRange(min=1),
        default=default,
        show_default=True,
        metavar="N",
        help=help_text,
    )


def batch_sizes_value(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers above 0, separated by commas, each once."""
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise click.BadParameter(f"'{value}' is not a list of whole numbers above 0, separated by commas")
    return tuple(dict.fromkeys(sizes))


@click.command(
    cls=PanelCommand,
    epilog="Example: nmtprune bench checkpoint_best.pt slim.pt --data-bin data-bin --subset test --batch-size 1,32",
    short_help="Compare speed, size and quality of several models on the same sentences.",
)
@click.argument("checkpoints", nargs=-1, type=click.Path(path_type=Path), metavar="[CHECKPOINT...]")
@data_options
@example_options
@synthetic_options
@panel_option(
    Panel.MODEL,
    "--cost-table",
    is_flag=True,
    help="Instead of comparing models, time CHECKPOINT with fewer heads, neurons, layers and words. The table, written "
    "to -o FILE.json, is what `nmtprune greedy --budget speed=1.5x --cost-table FILE.json` chooses by.",
)
@panel_option(
    Panel.OUTPUT,
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write the result to FILE.json, and a table (.tsv) and a picture (.png) next to it.",
)
@beam_options
@panel_option(
    Panel.ENGINE,
    "--batch-size",
    "batch_sizes",
    default="32",
    show_default=True,
    callback=batch_sizes_value,
    metavar="N[,N...]",
    help="Sentences per batch; several sizes are measured one by one.",
)
@repeat_option
@engine_options
@compute_type_option
@bleu_options
@significance_options
@seed_option
@resume_option
@force_option
@format_option
@verbosity_options
def bench(output_format: str, **flags: Any) -> None:
    """Translate the same sentences with each CHECKPOINT in turn, and compare speed, size and quality with the first.

    The ratio compares times round by round; it is above 1 if a model is faster than the first. Next to it is the
    speed-up predicted from multiply-accumulates, computed from the real widths, depths and lengths. Quality is
    compared if there are references. Classifiers give labels to the texts of --examples instead, and are compared by
    accuracy if there are labels.

    With --cost-table the parts of one model are timed, with random sentences: each stack's heads, neurons and layers,
    and the vocabulary, in turns with the whole model, for the engine, precision, threads, batch size and beam that are
    given.
    """
    if flags.pop("cost_table"):
        _cost_table(flags, output_format)
        return
    if flags["resume"]:
        raise UsageError("--resume goes with --cost-table")
    from nmtprune.runs.bench.comparison import BenchRun, columns, rows
    from nmtprune.runs.bench.comparison import bench as run_bench

    only = [spelled(name) for name in given(_OF_QUALITY) if name != "seed" or flags["synthetic"] is None]
    made = _synthetic(flags, flags["seed"])
    with contextlib.ExitStack() as stack:
        if made is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nmtprune-")))
            flags |= _made_up(made, folder, flags)
        run = BenchRun(needs_references=(*only, *typed(ALLOWING)), **flags)
        found = run_bench(run, stack.enter_context(progress()))
    if output_format == "json":
        emit_json(found.as_json())
    elif output_format == "tsv":
        emit_tsv(columns(found), rows(found))
    else:
        emit_text(found)
    if run.outputs is not None:
        say("wrote " + ", ".join(map(str, run.outputs)))


def _synthetic(flags: dict[str, Any], seed: int) -> "Synthetic | None":
    """The models and sentences to generate; takes their options out of the command's.

    Raises:
        UsageError: options that do not go together.
    """
    shape = flags.pop("synthetic")
    options = {name: flags.pop(name) for name in _SYNTHETIC}
    if shape is None:
        faults = [f"{spelled(name)} goes with --synthetic" for name in given(_SYNTHETIC)]
        if not flags["checkpoints"]:
            faults.append("name at least one CHECKPOINT, or give --synthetic SHAPE")
        refuse(faults)
        return None
    if flags["checkpoints"] or flags["data"] is not None:
        raise UsageError("--synthetic generates models and sentences: leave out CHECKPOINT and the data options")
    from nmtprune.runs.bench.synthetic import Shape, Synthetic

    return Synthetic(Shape.parse(shape), **options, seed=seed)


def _cost_table(flags: dict[str, Any], output_format: str) -> None:
    """Time the parts of a model, and show the table."""
    from nmtprune.runs.bench.parts_in_turns import CostTableRun
    from nmtprune.runs.bench.parts_in_turns import cost_table as run_cost_table

    _refuse_what_is_compared(flags)
    lengths = {name: flags[name] for name in _LENGTHS}
    common = {name: flags[name] for name in _OF_COST_TABLE}
    with contextlib.ExitStack() as stack:
        checkpoint = flags["checkpoints"][0] if flags["checkpoints"] else None
        if checkpoint is None:
            from nmtprune.runs.bench.synthetic import Shape, write_checkpoint

            checkpoint = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nmtprune-"))) / "full.pt"
            write_checkpoint(Shape.parse(flags["synthetic"]), checkpoint, flags["seed"])
        (batch_size,) = flags["batch_sizes"]
        run = CostTableRun(checkpoint=checkpoint, batch_size=batch_size, **lengths, **common)
        found = run_cost_table(run, stack.enter_context(progress()))
    if output_format == "json":
        emit_json(found.as_json())
    elif output_format == "tsv":
        emit_tsv(_CostRow._fields, _cost_rows(found))
    else:
        _emit_cost_table(found)
    say(f"wrote {run.output}")


def _refuse_what_is_compared(flags: Mapping[str, Any]) -> None:
    """Refuse options that mean nothing for a cost table, and what it lacks.

    Raises:
        UsageError: naming all of them.
    """
    several = "names one CHECKPOINT, or --synthetic SHAPE"
    faults = [] if len(flags["checkpoints"]) + (flags["synthetic"] is not None) == 1 else [f"--cost-table {several}"]
    if flags["output"] is None:
        faults.append("--cost-table goes with -o FILE.json")
    if flags["data"] is not None:
        faults.append("--cost-table makes sentences up: leave out the data options (--source-length N, ...)")
    if len(flags["batch_sizes"]) > 1:
        faults.append("--cost-table goes with one --batch-size")
    of_others = (*_OF_QUALITY, *_CUT, *SEARCH_NAMES)
    others = [name for name in given(of_others) if name not in ("seed", "beam")]
    faults += [f"{spelled(name)} does not go with --cost-table" for name in others]
    faults += [f"{name} does not go with --cost-table" for name in typed(ALLOWING)]
    refuse(faults)


def _made_up(made: "Synthetic", folder: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Models, sentences and the search that forces the length of translations."""
    full, cut, data = made.write(folder)
    length = made.target_length
    search = replace(flags["search"], min_len=length, max_len_a=0.0, max_len_b=length)
    facts = {"synthetic": asdict(made)}
    return {"checkpoints": (full, cut), "data": data, "search": search, "names": ("full", "cut"), "facts": facts}


class _CostRow(NamedTuple):
    """The time of a model as a share of the whole model's."""

    part: str
    left: float | None
    time: float
    time_low: float
    time_high: float
    predicted: float | None = None


def _cost_rows(found: "CostTable") -> Iterator[_CostRow]:
    """Every model but the whole one."""
    for axis in found.axes:
        for point in reversed(axis.points):
            yield _CostRow(", ".join(axis.kinds), point.left, point.time.median, point.time.low, point.time.high)
    whole = found.milliseconds.median
    for words in found.vocabulary:
        saved = words.saved_ms
        times = (1 - own / whole for own in (saved.median, saved.high, saved.low))
        yield _CostRow(f"{words.words} words", None, *times)
    for mixed in found.combined:
        yield _CostRow(
            _combination(mixed.left), None, mixed.time.median, mixed.time.low, mixed.time.high, mixed.predicted
        )


def _combination(left: Mapping[str, float]) -> str:
    """What is left of several kinds: ``heads 50%, neurons 50%, decoder-layers 50%``."""
    shares = {kind: f"{share:.0%}" for kind, share in left.items()}
    found = []
    for sort, kinds in SORTS.items():
        own = {kind: shares[kind] for kind in kinds if kind in shares}
        all_alike = len(own) > 1 and len(set(own.values())) == 1
        found += [f"{sort} {next(iter(own.values()))}"] if all_alike else [f"{kind} {of}" for kind, of in own.items()]
    return ", ".join(found)


def _emit_cost_table(found: "CostTable") -> None:
    """What each part takes, and how well the sum of the parts says what several of them take together."""
    precision = f" {found.compute_type}" if found.compute_type else ""
    threads = f", {found.threads} threads" if found.threads else ""
    click.echo(
        f"engine {found.engine}{precision} on {found.device}{threads}, batch size {found.batch_size}, beam "
        f"{found.beam}: {found.milliseconds.median:.2f} ms per sentence ({found.milliseconds.low:.2f} to "
        f"{found.milliseconds.high:.2f})"
    )
    emit_table(
        ("part", "left", "time", "interval", "speed-up", "predicted"),
        (
            (
                row.part, "" if row.left is None else f"{row.left:.0%}", f"{row.time:.1%}",
                f"{row.time_low:.1%} to {row.time_high:.1%}", f"{1 / row.time:.3f}" if row.time > 0 else "",
                f"{1 / row.predicted:.3f}" if row.predicted else "",
            )
            for row in _cost_rows(found)
        ),
    )  # fmt: skip
    errors = [mixed.predicted / mixed.time.median - 1 for mixed in found.combined if mixed.time.median > 0]
    if errors:
        worst = max(errors, key=abs)
        click.echo(f"several kinds at once: the sum of the parts is off by {worst:+.1%} of the measured time at worst")
    elif found.combined:
        click.echo("several kinds at once: done too fast to be measured, give more --sentences")


def emit_text(found: "BenchFile") -> None:
    """Two tables, of the models and of their speed, and the ratios that are within the noise."""
    threads = f", {found.threads} threads" if found.threads else ""
    of_texts = found.labels is not None
    sentences = "texts" if of_texts else "sentences"
    click.echo(f"{found.data}: {found.sentences} {sentences}, engine {found.engine}{threads}")
    if found.signature is not None:
        click.echo(found.signature)
    quality = ("accuracy" if of_texts else "BLEU", "change", "95% interval", "p") if found.signature is not None else ()
    emit_table(("model", "heads", "parameters", "tensors MB", "file MB", "latency ms", *quality), _models(found))
    emit_table(
        (
            "model",
            "batch",
            f"{sentences}/s",
            *(() if of_texts else ("words/s",)),
            "ratio",
            "interval",
            "predicted",
            "achieved",
            "peak MB",
        ),
        _speeds(found),
    )
    noisy = [f"{model.name} at {timing.batch_size}" for model in found.models[1:] for timing in model.noisy]
    if noisy:
        click.echo(
            f"difference from 1 is within the noise of {found.repeat} rounds: {', '.join(noisy)} (use a higher "
            f"--repeat)"
        )


def _models(found: "BenchFile") -> Iterator[tuple[str | int | None, ...]]:
    for model in found.models:
        latency = f"{model.latency_ms.median:.1f}" if model.latency_ms else ""
        sizes = f"{model.model_bytes / 1e6:.2f}", f"{model.file_bytes / 1e6:.2f}"
        cells: tuple[str, ...] = ()
        value = getattr(model, found.metric)
        if model.difference is not None:
            low, high = model.difference.ci
            change = f"{model.difference.delta:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{model.difference.p:.4f}"
            cells = (f"{value:.2f}", *change)
        elif value is not None:
            cells = (f"{value:.2f}", "", "", "")
        yield (model.name, model.heads, model.parameters, *sizes, latency, *cells)


def _speeds(found: "BenchFile") -> Iterator[tuple[str | int | None, ...]]:
    for model in found.models:
        for timing in model.timings:
            ratio, gain = timing.ratio, timing.predicted - 1
            achieved = f"{max(0.0, ratio.median - 1) / gain:.0%}" if model is not found.models[0] and gain > 0 else ""
            yield (
                model.name, timing.batch_size, f"{timing.sentences_per_second.median:.1f}",
                *([] if timing.words_per_second is None else [f"{timing.words_per_second.median:.0f}"]),
                f"{ratio.median:.3f}",
                f"{ratio.low:.3f} to {ratio.high:.3f}", f"{timing.predicted:.3f}", achieved,
                "" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e6:.0f}",
            )  # fmt: skip
