"""`nmtprune bench`: how fast models are, side by side."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nmtprune.cli.data_options import data_options
from nmtprune.cli.options import (
    force_option,
    format_option,
    given,
    refuse,
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
from nmtprune.cli.search_options import beam_options, engine_options
from nmtprune.errors import UsageError

if TYPE_CHECKING:
    from nmtprune.runs.bench.synthetic import Synthetic
    from nmtprune.runs.report import BenchFile

F = TypeVar("F", bound=Callable[..., Any])


_OF_QUALITY = ("bleu_tokenize", "lowercase", "resamples", "alpha", "seed")
_SYNTHETIC = ("keep", "random", "source_length", "target_length", "sentences")


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
        _count("--source-length", 20, "Words in each source sentence."),
        _count("--target-length", 20, "Words in each translation; the length is forced."),
        _count("--sentences", 64, "Number of random sentences."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _count(name: str, default: int, what: str) -> Callable[[F], F]:
    help_text = f"With --synthetic: {what[0].lower()}{what[1:]}"
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
@synthetic_options
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
@bleu_options
@significance_options
@seed_option
@force_option
@format_option
@verbosity_options
def bench(output_format: str, **flags: Any) -> None:
    """Translate the same sentences with each CHECKPOINT in turn, and compare speed, size and quality with the first.

    The ratio compares times round by round; it is above 1 if a model is faster than the first. Next to it is the
    speed-up predicted from multiply-accumulates, computed from head counts and real lengths. Quality is compared if
    there are references.
    """
    from nmtprune.runs.bench.comparison import COLUMNS, BenchRun, rows
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
        emit_tsv(COLUMNS, rows(found))
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


def _made_up(made: "Synthetic", folder: Path, flags: dict[str, Any]) -> dict[str, Any]:
    """Models, sentences and the search that forces the length of translations."""
    full, cut, data = made.write(folder)
    length = made.target_length
    search = replace(flags["search"], min_len=length, max_len_a=0.0, max_len_b=length)
    facts = {"synthetic": asdict(made)}
    return {"checkpoints": (full, cut), "data": data, "search": search, "names": ("full", "cut"), "facts": facts}


def emit_text(found: "BenchFile") -> None:
    """Two tables, of the models and of their speed, and the ratios that are within the noise."""
    threads = f", {found.threads} threads" if found.threads else ""
    click.echo(f"{found.data}: {found.sentences} sentences, engine {found.engine}{threads}")
    if found.signature is not None:
        click.echo(found.signature)
    quality = ("BLEU", "change", "95% interval", "p") if found.signature is not None else ()
    emit_table(("model", "heads", "parameters", "tensors MB", "file MB", "latency ms", *quality), _models(found))
    emit_table(
        ("model", "batch", "sentences/s", "words/s", "ratio", "interval", "predicted", "achieved", "peak MB"),
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
        if model.difference is not None:
            low, high = model.difference.ci
            change = f"{model.difference.delta:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{model.difference.p:.4f}"
            cells = (f"{model.bleu:.2f}", *change)
        elif model.bleu is not None:
            cells = (f"{model.bleu:.2f}", "", "", "")
        yield (model.name, model.heads, model.parameters, *sizes, latency, *cells)


def _speeds(found: "BenchFile") -> Iterator[tuple[str | int | None, ...]]:
    for model in found.models:
        for timing in model.timings:
            ratio, gain = timing.ratio, timing.predicted - 1
            achieved = f"{max(0.0, ratio.median - 1) / gain:.0%}" if model is not found.models[0] and gain > 0 else ""
            yield (
                model.name, timing.batch_size, f"{timing.sentences_per_second.median:.1f}",
                f"{timing.words_per_second.median:.0f}", f"{ratio.median:.3f}",
                f"{ratio.low:.3f} to {ratio.high:.3f}", f"{timing.predicted:.3f}", achieved,
                "" if timing.peak_bytes is None else f"{timing.peak_bytes / 1e6:.0f}",
            )  # fmt: skip
