"""Conversions as a user runs them, and the models and texts that they begin with."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from nmtprune.engines import native
from nmtprune.formats.base import Checkpoint
from tests.support import marian_files
from tests.support.cli import nmtprune
from tests.support.subwords import ENGLISH, GERMAN, sentencepiece_model

WORDS = 90
"""Symbols of Marian's vocabulary."""


def converted(source: Path, folder: Path, to: str, *options: object) -> dict[str, Any]:
    """Convert, and what the command says: every sentence equal."""
    found = nmtprune("convert", source, folder, "--to", to, *options, "--threads", 1, "--format", "json")
    assert found.code == 0, found.stderr
    said: dict[str, Any] = json.loads(found.stdout)
    assert said["differences"] == [] and said["split_otherwise"] == 0 and said["compared"] > 5
    return said


def marian_with_pieces(folder: Path, **options: Any) -> Path:
    """A model of Marian's whose vocabulary is a SentencePiece model, with the settings of its decoder."""
    special = {"bos_id": -1, "eos_id": 0, "unk_id": 1}
    spm = sentencepiece_model(folder / "vocab.spm", [*ENGLISH, *GERMAN], WORDS, model_type="unigram", **special)
    path = marian_files.marian_model(folder / "model.npz", words=WORDS, **options)
    settings = {"relative-paths": True, "vocabs": [spm.name] * 2, "beam-size": 3, "normalize": 0.7}
    (folder / "model.npz.decoder.yml").write_text(yaml.safe_dump(settings))
    return path


def text_of(folder: Path) -> Path:
    """English lines."""
    path = folder / "english"
    path.write_text("\n".join(ENGLISH) + "\n")
    return path


def of_fairseq(path: Path, pieces: Path) -> tuple[object, ...]:
    """Options of the text of a fairseq model."""
    return "--data-bin", path.parent / "data-bin", "--sentencepiece", pieces


def drawn(words: int, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random source and target tokens, whose first one is the start of a sentence."""
    generator = torch.Generator().manual_seed(3)
    source, previous = (torch.randint(4, words, (3, length), generator=generator) for length in (7, 5))
    previous[:, 0] = start
    return source, previous


def scores(checkpoint: Checkpoint, words: int, start: int) -> torch.Tensor:
    """Teacher-forced scores of these tokens."""
    with torch.no_grad():
        found: torch.Tensor = native.load(checkpoint, dtype=torch.float32)(*drawn(words, start))
    return found
