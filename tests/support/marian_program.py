"""Marian itself, through the commands of pymarian: scores, translations, and how it reads and writes vocabularies."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.support import warm
from tests.support.marian_files import marian_arrays, write

WORDS = 40

_PROGRAM = Path(sys.executable).parent / "pymarian"
_ALONE = ("--cpu-threads", "1", "-w", "100", "--quiet")
_BEST = re.compile(rb"^(\d+) \|\|\| (.*?) \|\|\| F0= \S+ \|\|\| (\S+)$", re.MULTILINE | re.DOTALL)


class MarianRefusal(Exception):
    """Marian gave up."""


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


def marian(command: str, *options: object) -> "subprocess.CompletedProcess[bytes]":
    """Run ``train``, ``score`` or ``decode`` of pymarian with one thread."""
    return warm.run(_PROGRAM, command, *options, *_ALONE)


def marian_scores(model: Path, vocabulary: Path, source: Path, target: Path) -> list[float]:
    """Log-probabilities of sentences."""
    files = ("-m", model, "-v", vocabulary, vocabulary, "-t", source, target)
    return [float(line) for line in _run("score", *files, "--mini-batch", "8").decode().splitlines()]


def marian_translations(model: Path, vocabulary: Path, source: Path, *options: object) -> list[list[Best]]:
    """N-best lists, sentence by sentence, so that the source of each says where Marian cuts its translations off."""
    batches = ("--mini-batch", 1, "--maxi-batch", 1)
    files = ("-m", model, "-v", vocabulary, vocabulary, "-i", source, "--n-best", "--quiet-translation")
    found: list[list[Best]] = [[] for _ in source.read_text().splitlines()]
    for line in _run("decode", *files, *batches, *options).decode().splitlines():
        number, text, _, score = line.split(" ||| ")
        found[int(number)].append(Best(text, float(score)))
    return found


def marian_ids(vocabulary: Path, lines: Sequence[str], rows: int) -> list[list[int]]:
    """Ids that Marian reads in lines, the end-of-sentence symbol included, with a model of so many rows.

    Raises:
        MarianRefusal: it does not take the vocabulary.
    """
    folder = vocabulary.parent
    source, target = folder / "marian.source", folder / "marian.target"
    source.write_text("a\n" * len(lines))
    target.write_bytes(b"".join(f"{line}\n".encode() for line in lines))
    model, known = _model(folder, rows, np.arange(rows) * (8 / rows))
    files = ("-m", model, "-v", vocabulary, vocabulary, "-t", source, target)
    found = _run("score", *files, "--word-scores", "--mini-batch", 1, "--maxi-batch", 1).decode()
    scores = [line.split("WordScores=")[1].split() for line in found.splitlines()]
    return [[int(np.argmin(np.abs(known - float(score)))) for score in own] for own in scores]


def marian_names(vocabulary: Path, rows: int) -> dict[int, str]:
    """What Marian writes for each id as the only word of a translation; bytes that are no UTF-8 as U+FFFD.

    Raises:
        MarianRefusal: it does not take the vocabulary, or has no symbol for an id.
    """
    source = vocabulary.parent / "marian.source"
    source.write_text("a\n")
    model, known = _model(vocabulary.parent, rows, np.arange(rows) * (8 / rows))
    files = ("-m", model, "-v", vocabulary, vocabulary, "-i", source, "--n-best", "-b", rows)
    found = _run("decode", *files, "--max-length-factor", 0.01, "--allow-unk", "--allow-special")
    names = {int(np.argmin(np.abs(known - float(score)))): text for _, text, score in _BEST.findall(found)}
    return {id: text.decode("utf-8", "replace") for id, text in sorted(names.items())}


def marian_texts(vocabulary: Path, pieces: Sequence[Sequence[str]], rows: int, eos: int) -> list[str]:
    """Texts that Marian makes of pieces of a SentencePiece vocabulary, which it is forced to choose."""
    lines = vocabulary.parent / "marian.forced"
    lines.write_bytes(b"".join(b"a\t" + " ".join(own).encode() + b"\n" for own in pieces))
    model, _ = _model(vocabulary.parent, rows, np.where(np.arange(rows) == eos, 20.0, 0.0))
    forced = ("--force-decode", "--tsv", "--tsv-fields", 2, "--no-spm-encode", "--allow-unk", "--allow-special")
    files = ("-m", model, "-v", vocabulary, vocabulary, "-i", lines, "--n-best", "-b", 1, "--max-length-factor", 200)
    return [text.decode() for _, text, _ in _BEST.findall(_run("decode", *files, *forced))]


def _model(folder: Path, rows: int, biases: NDArray[np.float64]) -> tuple[Path, NDArray[np.float64]]:
    """A model that always has the same log-probabilities."""
    sizes = {"dim_emb": 4, "transformer_heads": 1, "enc_depth": 1, "dec_depth": 1, "transformer_dim_ffn": 4}
    arrays = marian_arrays(words=rows, **sizes)
    for name, array in arrays.items():
        if name != "special:model.yml":
            array[:] = 0
    arrays["decoder_ff_logit_out_b"][0] = biases
    return write(folder / "marian.npz", arrays), biases - np.log(np.exp(biases).sum())


def _run(command: str, *options: object) -> bytes:
    done = marian(command, *options)
    if done.returncode:
        raise MarianRefusal(done.stderr.decode("utf-8", "replace"))
    return done.stdout
