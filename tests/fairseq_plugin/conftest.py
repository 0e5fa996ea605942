"""Tiny trained checkpoints and slim files of them, made once for all tests of the plug-in."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files

REMOVED = "encoder.0.1 encoder.1 decoder.0.0-2 cross.1 cross.0.0"
SIZES = {
    "encoder_layers": 2, "decoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "max_source_positions": 40, "max_target_positions": 40,
}  # fmt: skip
"""What a user must repeat to train the stock model; --arch nmtprune finds it in the checkpoint."""


@dataclasses.dataclass(frozen=True)
class Files:
    """A checkpoint, its data, and what a plan makes of it in every mode."""

    data: Path
    full: Path
    cut: Path
    masked: Path
    uniform: Path


def make_files(folder: Path, removed: str = REMOVED, **options: Any) -> Files:
    """Train a model for a few updates and slim it."""
    full = fairseq_files.fairseq_checkpoint(folder, updates=3, **options)
    checkpoint = FairseqCheckpoint.load(full)
    plan = Plan.removing(checkpoint.base, parse_heads(removed, checkpoint.architecture))
    paths = {mode: folder / f"{mode}.pt" for mode in slim.MODES}
    for mode, path in paths.items():
        slim.apply(plan, checkpoint, mode).save(path, provenance={"command": "slim"})
    return Files(folder / "data-bin", full, **paths)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("translation"), dropout=0.2)


@pytest.fixture(scope="session")
def lm_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    removed = "decoder.0.1-3 decoder.1"
    return make_files(
        tmp_path_factory.mktemp("lm"), removed, arch="transformer_lm_gpt", share_decoder_input_output_embed=True
    )
