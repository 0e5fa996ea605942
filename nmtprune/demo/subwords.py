"""Split a corpus into SentencePiece pieces: `learn` a vocabulary, `encode` every set; runnable as a command."""

import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click

from nmtprune.data.text import first_of
from nmtprune.demo.console import run_as_program
from nmtprune.demo.datasets import ParallelCorpus, find_corpus, parse_languages, read_pairs
from nmtprune.errors import DataError
from nmtprune.files import atomic_output, check_output, write_text

LONGEST_TRAINING_PIECES = 250
"""Longer training pairs are left out: one of them would fill a batch on a small machine."""

LONGEST_TEST_PIECES = 1_000
"""What a transformer of fairseq's default 1,024 positions can translate, begin and end of sentence counted."""

_MANY_CHARACTERS = 1_000
_TOO_MANY_PIECES = re.compile(r"value <= (\d+)")


@dataclass(frozen=True)
class Encoded:
    """What became of one set.

    Attributes:
        name: of the set.
        pairs: written.
        empty: training pairs left out because a side is empty.
        long: training pairs left out because a side is longer than LONGEST_TRAINING_PIECES.
    """

    name: str
    pairs: int
    empty: int
    long: int


def learn(corpus: ParallelCorpus, output: Path, max_size: int) -> int:
    """Learn one vocabulary for both languages by byte-pair encoding, and return its size.

    Args:
        corpus: whose training set is used.
        output: the model file.
        max_size: pieces at most; a text that offers fewer gives a smaller vocabulary.

    Raises:
        DataError: the text offers no vocabulary, or files as for `read_pairs`.
        OutputError: the output exists or cannot be written.
    """
    check_output(output)
    lines = [line for side in read_pairs(corpus.train) for line in side.lines if line.strip()]
    try:
        model = _trained(lines, max_size)
    except RuntimeError as error:
        limit = _TOO_MANY_PIECES.search(str(error))
        if limit is None:
            raise DataError(f"{corpus.train.source.parent}: no vocabulary of {max_size:,} pieces: {error}") from None
        max_size = int(limit[1])
        model = _trained(lines, max_size)
    with atomic_output(output) as file:
        file.write(model)
    return max_size


def encode(corpus: ParallelCorpus, model: Path, folder: Path) -> list[Encoded]:
    """Write every set as ``SET.LANGUAGE`` of blank-separated pieces into a folder.

    Raises:
        DataError: files as for `read_pairs`, no SentencePiece model, or test sentences that no model can translate.
        OutputError: a file exists or cannot be written.
    """
    from nmtprune.data.subwords import SentencePieceSegmenter

    segmenter = SentencePieceSegmenter(model)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for parallel in corpus.sets:
        pairs = [
            (segmenter.encode(source), segmenter.encode(target))
            for source, target in zip(*(side.lines for side in read_pairs(parallel)), strict=True)
        ]
        if parallel in corpus.tests:
            _check_lengths(parallel.source, [source for source, _ in pairs])
            result = Encoded(parallel.name, len(pairs), 0, 0)
        else:
            filled = [pair for pair in pairs if all(pair)]
            short = [pair for pair in filled if max(side.count(" ") for side in pair) < LONGEST_TRAINING_PIECES]
            result = Encoded(parallel.name, len(short), len(pairs) - len(filled), len(filled) - len(short))
            pairs = short
        if not pairs:
            raise DataError(f"{parallel.source}: no pair of at most {LONGEST_TRAINING_PIECES} pieces a side")
        for language, lines in zip(corpus.languages, zip(*pairs, strict=True), strict=True):
            write_text(folder / f"{parallel.name}.{language}", "".join(f"{line}\n" for line in lines))
        results.append(result)
    return results


def _trained(lines: list[str], size: int) -> bytes:
    """A serialized model; sentencepiece raises RuntimeError where the text does not offer that many pieces."""
    import sentencepiece

    characters = Counter(character for line in lines for character in line)
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=size,
        character_coverage=1.0 if len(characters) < _MANY_CHARACTERS else 0.9995,
        minloglevel=2,
    )
    return buffer.getvalue()


def _check_lengths(path: Path, lines: list[str]) -> None:
    faults = [
        f"line {number} has {line.count(' ') + 1:,}"
        for number, line in enumerate(lines, 1)
        if line.count(" ") >= LONGEST_TEST_PIECES
    ]
    if faults:
        raise DataError.of_faults(f"{path}: pieces of a sentence, {LONGEST_TEST_PIECES:,} at most", first_of(faults))


@click.group()
def main() -> None:
    """SentencePiece pieces of a parallel corpus train|val|test*.{SOURCE,TARGET}[.gz]."""


_folder = click.argument("data", type=click.Path(path_type=Path))
_languages = click.option("--languages", metavar="SOURCE-TARGET", help="Suffixes of the files.  [default: detected]")


@main.command("learn")
@_folder
@_languages
@click.option("--max-size", type=click.IntRange(min=10), required=True, help="Pieces at most.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The model to write.")
def learn_command(data: Path, languages: str | None, max_size: int, output: Path) -> None:
    """Learn one vocabulary for both languages from the training set in DATA."""
    size = learn(_corpus(data, languages), output, max_size)
    click.echo(f"{output}: {size:,} pieces")


@main.command("encode")
@_folder
@_languages
@click.option("--model", type=click.Path(path_type=Path), required=True, help="SentencePiece model.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to write to.")
def encode_command(data: Path, languages: str | None, model: Path, output: Path) -> None:
    """Split every set in DATA; empty and very long training pairs are left out and counted."""
    for result in encode(_corpus(data, languages), model, output):
        left_out = [f"{count:,} {kind}" for kind, count in (("empty", result.empty), ("long", result.long)) if count]
        click.echo(
            f"{result.name}: {result.pairs:,} pairs" + (f", left out {' and '.join(left_out)}" if left_out else "")
        )


def _corpus(data: Path, languages: str | None) -> ParallelCorpus:
    return find_corpus(data, parse_languages(languages) if languages else None)


if __name__ == "__main__":
    run_as_program(main)
