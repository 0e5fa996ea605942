"""Marian itself, through the commands of pymarian: the other side of equalities."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

WORDS = 40

_PROGRAM = Path(sys.executable).parent / "pymarian"
_ALONE = ("--cpu-threads", "1", "-w", "500", "--quiet")


class Best(NamedTuple):
    """A line of an n-best list."""

    text: str
    score: float


def vocabulary_file(folder: Path, words: int = WORDS) -> Path:
    """A vocabulary of ``</s>``, ``<unk>``, ``w2``, ``w3``, ..."""
    folder.mkdir(exist_ok=True)
    path = folder / "vocab.yml"
    names = ["</s>", "<unk>", *(f"w{number}" for number in range(2, words))]
    path.write_text("".join(f'"{name}": {number}\n' for number, name in enumerate(names)))
    return path


def random_texts(folder: Path, seed: int = 3, lines: int = 12) -> tuple[Path, Path]:
    """A source and a target file of random words."""
    rng = np.random.default_rng(seed)
    paths = folder / "source", folder / "target"
    for path in paths:
        sentences = (" ".join(f"w{word}" for word in rng.integers(2, WORDS, rng.integers(2, 9))) for _ in range(lines))
        path.write_text("".join(f"{sentence}\n" for sentence in sentences))
    return paths


def marian_scores(model: Path, vocabulary: Path, source: Path, target: Path) -> list[float]:
    """Log-probabilities of sentences."""
    files = ("-m", model, "-v", vocabulary, vocabulary, "-t", source, target)
    return [float(line) for line in _run("score", *files, "--mini-batch", "8").splitlines()]


def marian_translations(model: Path, vocabulary: Path, source: Path, *options: object) -> list[list[Best]]:
    """N-best lists, sentence by sentence, so that the source of each says where Marian cuts its translations off."""
    batches = ("--mini-batch", 1, "--maxi-batch", 1)
    files = ("-m", model, "-v", vocabulary, vocabulary, "-i", source, "--n-best", "--quiet-translation")
    found: list[list[Best]] = [[] for _ in source.read_text().splitlines()]
    for line in _run("decode", *files, *batches, *options).splitlines():
        number, text, _, score = line.split(" ||| ")
        found[int(number)].append(Best(text, float(score)))
    return found


def _run(command: str, *options: object) -> str:
    given = list(map(str, (_PROGRAM, command, *options, *_ALONE)))
    return subprocess.run(given, check=True, capture_output=True, text=True).stdout
