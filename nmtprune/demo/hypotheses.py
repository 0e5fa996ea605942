"""Take the translations out of what fairseq-generate prints, in the order of the sentences; runnable as a command."""

import re
from pathlib import Path

import click

from nmtprune.demo.console import run_as_program
from nmtprune.errors import DataError
from nmtprune.files import write_text

_DETOKENIZED = re.compile(r"D-(\d+)\t[^\t]*\t(.*)")


def read_hypotheses(path: Path, sentences: int | None = None) -> list[str]:
    """The best translation of every sentence (the first ``D-`` line of each).

    Args:
        path: standard output of fairseq-generate.
        sentences: how many there must be; None where that is not known.

    Raises:
        DataError: the file cannot be read, or translations are missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    found: dict[int, str] = {}
    for line in text.split("\n"):
        match = _DETOKENIZED.fullmatch(line)
        if match:
            found.setdefault(int(match[1]), match[2])
    expected = max(found, default=-1) + 1 if sentences is None else sentences
    if not expected:
        raise DataError(f"{path}: no translations (lines D-NUMBER) in it")
    missing = [number for number in range(expected) if number not in found]
    if missing or len(found) != expected:
        raise DataError(
            f"{path}: {len(found):,} translations for {expected:,} sentences (first missing: {missing[:1] or 'none'}); "
            "fairseq-generate leaves out the last batch unless it is told --required-batch-size-multiple 1"
        )
    return [found[number] for number in range(expected)]


@click.command()
@click.argument("generated", type=click.Path(path_type=Path))
@click.option("--sentences", type=click.IntRange(min=1), help="How many there must be.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="One translation a line.")
def main(generated: Path, sentences: int | None, output: Path) -> None:
    """Write the translations in GENERATED, the standard output of fairseq-generate, in the order of the sentences."""
    lines = read_hypotheses(generated, sentences)
    write_text(output, "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    run_as_program(main)
