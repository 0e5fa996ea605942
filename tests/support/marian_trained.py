"""Tiny models that Marian itself made, one for every value of an option, and what Marian says of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nmtprune.formats.marian import archive
from nmtprune.formats.marian.options import ENTRY
from nmtprune.model.search import MarianSearchOptions
from tests.support.marian_files import Arrays, write
from tests.support.marian_program import Best, marian, random_texts, vocabulary_file

SSRU = {"transformer-decoder-autoreg": "rnn", "dec-cell": "ssru"}
PRE_NORM = {"transformer-preprocess": "n", "transformer-postprocess": "da"}

MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "right-left": {"right-left": True},
    "right-left, SSRU": {"right-left": True, **SSRU},
    "right-left, typed inputs": {"right-left": True, "input-types": ["sequence", "sequence"]},
    "tied-embeddings": {"tied-embeddings": True},
    "tied-embeddings-src": {"tied-embeddings-src": True},
    "tied-embeddings-src and tied-embeddings": {"tied-embeddings-src": True, "tied-embeddings": True},
    "tied-embeddings-all": {"tied-embeddings-all": True},
    "output-omit-bias": {"output-omit-bias": True, "tied-embeddings-all": True},
    "depths": {"enc-depth": 1, "dec-depth": 3},
    "width": {"dim-emb": 24, "transformer-heads": 3},
    "one head": {"transformer-heads": 1},
    "transformer-no-projection": {"transformer-no-projection": True},
    "transformer-dim-ffn": {"transformer-dim-ffn": 40},
    "transformer-decoder-dim-ffn": {"transformer-decoder-dim-ffn": 20},
    "transformer-decoder-ffn-depth": {"transformer-ffn-depth": 2, "transformer-decoder-ffn-depth": 2},
    "relu": {"transformer-ffn-activation": "relu"},
    "gelu": {"transformer-ffn-activation": "gelu"},
    "sigmoid": {"transformer-ffn-activation": "sigmoid"},
    "no activation": {"transformer-ffn-activation": ""},
    "pre-norm": PRE_NORM,
    "pre-norm with norms at both ends": {
        **PRE_NORM, "transformer-postprocess-emb": "nd", "transformer-postprocess-top": "n",
    },
    "dropout before": {"transformer-preprocess": "d", "transformer-postprocess-top": "d"},
    "nothing after": {
        "transformer-preprocess": "n", "transformer-postprocess": "", "transformer-postprocess-emb": "",
    },
    "postprocess n": {"transformer-postprocess": "n"},
    "postprocess and": {"transformer-postprocess": "and"},
    "postprocess na": {"transformer-postprocess": "na"},
    "postprocess nan": {"transformer-postprocess": "nan"},
    "postprocess aan": {"transformer-postprocess": "aan", "transformer-postprocess-emb": "n"},
    "SSRU": SSRU,
    "SSRU with layer-normalization": {**SSRU, "layer-normalization": True},
    "SSRU with transformer-rnn-projection": {**SSRU, "transformer-rnn-projection": True},
    "pre-norm SSRU with both, tied": {
        **SSRU, **PRE_NORM, "layer-normalization": True, "transformer-rnn-projection": True,
        "transformer-tied-layers": [1, 1],
    },
    "layer-normalization without SSRU": {"layer-normalization": True, "transformer-rnn-projection": True},
    "tied layers 1 1": {"transformer-tied-layers": [1, 1]},
    "tied layers 2 1": {"transformer-tied-layers": [2, 1]},
    "tied layers 2 2": {"transformer-tied-layers": [2, 2]},
    "tied layers 3 1 3": {"dec-depth": 3, "transformer-tied-layers": [3, 1, 3]},
    "no positions": {"transformer-disable-position-embeddings": True},
    "no positions, SSRU": {**SSRU, "transformer-disable-position-embeddings": True},
}  # fmt: skip
"""Options of the training that differ from BASE, by the name of the model."""

QUICK = (
    "plain", "right-left", "right-left, SSRU", "tied-embeddings-src", "output-omit-bias", "transformer-no-projection",
    "sigmoid", "no activation", "pre-norm with norms at both ends", "postprocess nan", "SSRU",
    "pre-norm SSRU with both, tied", "tied layers 2 1", "no positions",
)  # fmt: skip
"""Models of the quick tests."""

BASE: dict[str, Any] = {
    "type": "transformer", "dim-emb": 16, "transformer-heads": 4, "transformer-dim-ffn": 24, "enc-depth": 2,
    "dec-depth": 2,
}  # fmt: skip
SEARCH = MarianSearchOptions(beam=3, normalize=0.6, max_length_factor=1.5)


@dataclass(frozen=True)
class Texts:
    """Sentences and the vocabulary of both sides."""

    vocabulary: Path
    source: Path
    target: Path

    @classmethod
    def write(cls, folder: Path) -> "Texts":
        """Make them up."""
        return cls(vocabulary_file(folder), *random_texts(folder, lines=8))


@dataclass(frozen=True)
class Verdict:
    """What Marian says of a model: log-probabilities of the references, and n-best lists."""

    scores: list[float]
    translations: list[list[Best]]


def train(folder: Path, texts: Texts, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Path]:
    """Models as Marian trains them in one update; noise on every parameter makes each of them matter."""
    paths = {name: folder / f"{number}.npz" for number, name in enumerate(models)}
    for name, own in models.items():
        _succeed("train", *_training(paths[name], texts, {**BASE, **own}))
    for number, path in enumerate(paths.values()):
        rng, arrays = np.random.default_rng(number), dict(archive.read_archive(path))
        for name in [name for name in arrays if not name.startswith("special:")]:
            arrays[name] = (arrays[name] + rng.normal(0, 0.3, arrays[name].shape)).astype(np.float32)
        write(path, arrays)
    return paths


def judge(models: Mapping[str, Path], texts: Texts) -> dict[str, Verdict]:
    """What Marian says of models."""
    for path in models.values():
        for command in judging(path, texts):
            _succeed(*command)
    return {name: verdict(path) for name, path in models.items()}


def judging(path: Path, texts: Texts) -> list[tuple[Any, ...]]:
    """Commands that score and translate."""
    common = ("--vocabs", texts.vocabulary, texts.vocabulary, "--mini-batch", 1, "--maxi-batch", 1)
    score = ("--model", path, "--train-sets", texts.source, texts.target, "--output", f"{path}.scores", *common)
    search = ("--beam-size", SEARCH.beam, "--normalize", SEARCH.normalize)
    search = (*search, "--max-length-factor", SEARCH.max_length_factor, "--n-best", "--quiet-translation")
    decode = ("--models", path, "--input", texts.source, "--output", f"{path}.translations", *common, *search)
    return [("score", *score), ("decode", *decode)]


def verdict(path: Path) -> Verdict:
    """What the commands of `judging` wrote."""
    scores = [float(line) for line in Path(f"{path}.scores").read_text().splitlines()]
    found: list[list[Best]] = [[] for _ in scores]
    for line in Path(f"{path}.translations").read_text().splitlines():
        number, text, _, score = line.split(" ||| ")
        found[int(number)].append(Best(text, float(score)))
    return Verdict(scores, found)


def with_options(arrays: Arrays, changes: Mapping[str, Any]) -> Arrays:
    """Entries of a model with other options."""
    return with_text(arrays, yaml.safe_dump({**options_of(arrays), **changes}))


def with_text(arrays: Arrays, text: str) -> Arrays:
    """Entries of a model with that text as options."""
    return {**arrays, ENTRY: np.frombuffer(text.encode() + b"\0", dtype=np.int8)}


def options_of(arrays: Arrays) -> dict[str, Any]:
    """Options of a model."""
    found: dict[str, Any] = yaml.safe_load(arrays[ENTRY].tobytes().rstrip(b"\0"))
    return found


def _succeed(command: str, *options: object) -> None:
    done = marian(command, *options)
    assert not done.returncode, (command, options, done.stderr)


def _training(path: Path, texts: Texts, options: Mapping[str, Any]) -> list[object]:
    given: list[object] = ["--model", path, "--train-sets", texts.source, texts.target, "--seed", 1]
    given += ["--vocabs", texts.vocabulary, texts.vocabulary, "--after-batches", 1, "--mini-batch", 8]
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        given += [f"--{name}", *values]
    return given
