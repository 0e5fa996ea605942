"""The generated parallel corpus of `make demo`, of tests and of smokes: the same bytes for the same seed anywhere."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import click

from nmtprune.demo.console import run_as_program
from nmtprune.demo.grammar import Grammar
from nmtprune.demo.languages import SourceLanguage, TargetLanguage
from nmtprune.demo.lexicon import Lexicon
from nmtprune.errors import OutputError, UsageError
from nmtprune.files import check_output, write_text

LANGUAGES = ("src", "tgt")

WORDS = (4, 25)
"""Least and most words of a sentence, in either language, punctuation included."""


def generate(seed: int, sentences: int) -> tuple[list[str], list[str]]:
    """Draw a parallel corpus: source lines and their translations, no source line twice.

    A longer corpus of the same seed begins with the shorter one.

    Raises:
        UsageError: fewer than one sentence is asked for.
    """
    if sentences < 1:
        raise UsageError(f"a corpus of {sentences} sentences: ask for at least 1")
    sources: list[str] = []
    targets: list[str] = []
    for source, target in _pairs(seed):
        sources.append(source)
        targets.append(target)
        if len(sources) == sentences:
            break
    return sources, targets


def write_corpus(folder: Path, seed: int, *, train: int, val: int, test: int) -> tuple[Path, ...]:
    """Write disjoint ``train|val|test.{src,tgt}``, UTF-8, one sentence a line, and return the paths.

    Held-out sentences are drawn first: they stay the same when the training set grows.

    Raises:
        UsageError: a set of fewer than one sentence is asked for.
        OutputError: one of the files exists, or the folder cannot be written; no file is written then.
    """
    sizes = {"val": val, "test": test, "train": train}
    too_small = [f"{name} has {size} sentences" for name, size in sizes.items() if size < 1]
    if too_small:
        raise UsageError.of_faults("every set needs at least 1 sentence", too_small)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be made: {error.strerror}") from None
    paths = {(name, language): folder / f"{name}.{language}" for name in sizes for language in LANGUAGES}
    for path in paths.values():
        check_output(path)
    corpus = generate(seed, sum(sizes.values()))
    start = 0
    for name, size in sizes.items():
        for language, lines in zip(LANGUAGES, corpus, strict=True):
            write_text(paths[name, language], "".join(f"{line}\n" for line in lines[start : start + size]))
        start += size
    return tuple(paths.values())


def _pairs(seed: int) -> Iterator[tuple[str, str]]:
    """Endless different sentence pairs of a seed, of permitted length."""
    lexicon = Lexicon.draw(seed)
    grammar, source, target = Grammar(lexicon), SourceLanguage(lexicon), TargetLanguage(lexicon)
    random = Random(f"nmtprune sentences {seed}")
    seen: set[str] = set()
    while True:
        sentence = grammar.draw(random)
        words = source.words(sentence), target.words(sentence)
        line = " ".join(words[0])
        if line not in seen and all(WORDS[0] <= len(side) <= WORDS[1] for side in words):
            seen.add(line)
            yield line, " ".join(words[1])


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Of lexicon and sentences.")
@click.option("--train", type=click.IntRange(min=1), default=30_000, show_default=True, help="Training sentences.")
@click.option("--val", type=click.IntRange(min=1), default=500, show_default=True, help="Validation sentences.")
@click.option("--test", type=click.IntRange(min=1), default=600, show_default=True, help="Test sentences.")
def main(folder: Path, seed: int, train: int, val: int, test: int) -> None:
    """Write a generated parallel corpus, train|val|test.{src,tgt}, into FOLDER."""
    for path in write_corpus(folder, seed, train=train, val=val, test=test):
        click.echo(path)


if __name__ == "__main__":
    run_as_program(main)
