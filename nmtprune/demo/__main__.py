"""`python -m nmtprune.demo`: the main job from a corpus to a smaller model, as ordinary commands."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from nmtprune.demo.commands import HELD_OUT, TESTED, DemoSettings, generated_corpus
from nmtprune.demo.console import INTERRUPTED, fail, run_as_program
from nmtprune.demo.datasets import find_corpus, parse_languages, read_pairs
from nmtprune.demo.display import ConsoleDisplay
from nmtprune.demo.pipeline import LOGS, fresh_folder, run_all, table_rows
from nmtprune.demo.recipe import GENERATED, REAL, Recipe
from nmtprune.errors import UsageError
from nmtprune.process import CommandFailed, shown

SENTENCES = 30_000


@click.command(context_settings={"max_content_width": 120})
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A real corpus, train|val|test*.{SOURCE,TARGET}[.gz], in place of the generated one.",
)
@click.option("--languages", metavar="SOURCE-TARGET", help="Suffixes of its files.  [default: those that are there]")
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="New or empty folder for everything that is written.  [default: demo-run/1, demo-run/2, ...]",
)
@click.option(
    "--remove", default="50%", show_default=True, metavar="AMOUNT", help="Heads to remove: a share or a number."
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of corpus, training and calibration."
)
@click.option(
    "--sentences", type=click.IntRange(min=1), help=f"Training sentences to generate.  [default: {SENTENCES:,}]"
)
@click.option(
    "--vocabulary",
    type=click.IntRange(min=10),
    help="SentencePiece pieces at most.  [default: 1,400; 4,000 for a real corpus]",
)
@click.option(
    "--updates", type=click.IntRange(min=2), help="Training updates.  [default: 1,000 for the generated corpus]"
)
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Training epochs.  [default: 15 for a real corpus, half an hour for 29,000 captions]",
)
@click.option("--fine-tune-updates", type=click.IntRange(min=2), help="[default: 250 for the generated corpus]")
@click.option("--fine-tune-epochs", type=click.IntRange(min=1), help="[default: 2 for a real corpus]")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="End training after so many minutes, training and fine-tuning together after a quarter more.  "
    "[default: no limit]",
)
@click.option("--beam", type=click.IntRange(min=1), default=5, show_default=True, help="Beam of fairseq-generate.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="CPU threads of training and translation.",
)
def main(data: Path | None, languages: str | None, run_folder: Path | None, threads: int, **options: Any) -> None:
    """Train a small translation model, remove half of its attention heads, refit and fine-tune it, and compare.

    Every step is an ordinary command, shown before it runs. Progress goes to stderr, the tables at the end to stdout,
    and everything else into the run folder: logs/, results.json, the checkpoints and the plan.

    Exit codes: 0 done, 2 usage, 3 checkpoint, 4 plan, 5 data, 6 fairseq cannot translate or is not installed,
    8 output, 9 training, 130 interrupted.
    """
    settings = _settings(data, languages, run_folder, options)
    # Matrices are small: threads that spin while they wait lose tenfold as soon as anything else runs.
    environment = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONUTF8": "1"}
    display = ConsoleDisplay()
    _announce(settings, display, environment)
    try:
        figures = run_all(settings, display, environment)
    except CommandFailed as failed:
        display.halt()
        fail(f"{failed.reason} (full log: {shown(failed.log)})", failed.reason.exit_code)
    except KeyboardInterrupt:
        display.halt()
        fail(f"interrupted; the logs of what ran are in {shown(settings.folder / LOGS)}", INTERRUPTED)
    display.say("")
    _print_table(*table_rows(figures))
    click.echo("\n" + settings.table("bench").read_text(encoding="utf-8").rstrip())
    display.say("")
    display.say(
        f"BLEU: sacrebleu on plain text. sentences/s: fairseq-generate's own, beam {settings.beam}, {threads} CPU "
        "thread(s), start-up not counted; one run each, so small differences mean nothing, and a model that has lost "
        "heads without fine-tuning may write longer sentences. file MB: with optimizer state. Everything is in "
        f"{shown(settings.folder)}: the figures in results.json, the output in logs/. The other tables: nmtprune's own "
        "engine, in turns. What each head is worth, and the quality at each step of the removal: scores.txt, "
        "greedy.txt, scores.png and greedy/curve.png.",
        "dim",
    )


def _settings(
    data: Path | None, languages: str | None, run_folder: Path | None, options: dict[str, Any]
) -> DemoSettings:
    """Check the options and the corpus, then make the run folder."""
    if data is None and languages is not None:
        raise UsageError("--languages goes with --data: the generated corpus is src-tgt")
    if data is not None and options["sentences"] is not None:
        raise UsageError("--sentences is for the generated corpus: --data has its own")
    recipe = _recipe(GENERATED if data is None else REAL, options)
    _check_amount(options["remove"], recipe)
    corpus = find_corpus(data, parse_languages(languages) if languages else None) if data is not None else None
    for parallel in corpus.sets if corpus else ():
        read_pairs(parallel)
    folder = fresh_folder(run_folder)
    return DemoSettings(
        folder=folder,
        corpus=corpus or generated_corpus(folder),
        sentences=(options["sentences"] or SENTENCES) if corpus is None else None,
        recipe=recipe,
        remove=options["remove"],
        seed=options["seed"],
        beam=options["beam"],
        max_minutes=options["max_minutes"],
    )


def _check_amount(amount: str, recipe: Recipe) -> None:
    """Refuse before training what `nmtprune greedy` would refuse after it."""
    match = re.fullmatch(r"(\d+|\d+\.\d+%|\d+%)", amount)
    if match is None:
        raise UsageError(f"--remove '{amount}': write a share such as 50% or a number of heads such as 18")
    most = 100.0 if amount.endswith("%") else recipe.total_heads
    if float(amount.removesuffix("%")) > most:
        raise UsageError(f"--remove {amount}: the model has {recipe.total_heads} heads")


def _recipe(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """The recipe with what was asked for; epochs and updates may both be given, then the first reached ends it."""
    if options["vocabulary"] is not None:
        recipe = replace(recipe, vocabulary=options["vocabulary"])
    for prefix in ("", "fine_tune_"):
        updates, epochs = options[f"{prefix}updates"], options[f"{prefix}epochs"]
        if updates is not None or epochs is not None:
            recipe = replace(recipe, **{f"{prefix}updates": updates, f"{prefix}epochs": epochs})
    return recipe


def _announce(settings: DemoSettings, display: ConsoleDisplay, environment: dict[str, str]) -> None:
    corpus = settings.corpus
    if settings.sentences is not None:
        text = f"a generated corpus of {settings.sentences:,} + {HELD_OUT:,} + {TESTED:,} sentences"
    else:
        text = f"{corpus.languages[0]} to {corpus.languages[1]}, {len(corpus.tests)} test set(s)"
        text += f" in {shown(corpus.train.source.parent)} (--languages turns it around)"
    display.say(f"{text}; everything goes into {shown(settings.folder)}")
    display.say("The commands below can be copied after", "dim")
    display.say("export " + " ".join(f"{name}={value}" for name, value in environment.items()), "cyan")


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    """The table on stdout, never cut or wrapped."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    buffer = io.StringIO()
    Console(file=buffer, width=10_000, color_system=None, highlight=False).print(table)
    click.echo("\n".join(line.rstrip() for line in buffer.getvalue().strip("\n").splitlines()))


if __name__ == "__main__":
    run_as_program(main)
