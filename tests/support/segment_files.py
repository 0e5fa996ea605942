"""Language models with a memory, trained by fairseq-train in this process: options, losses, checkpoints."""

from pathlib import Path
from typing import Any

from nmtprune.formats.fairseq.segment_settings import ALL_ATTENTION, TASK
from tests.support.fairseq_commands import train

LANES, SEGMENT, MEMORY = 3, 8, 10
SIZES = ("--decoder-embed-dim", 12, "--decoder-layers", 2, "--decoder-attention-heads", 3, "--memory-length", MEMORY)
VECTORS = ("--persistent-vectors", 5)
TEXT = ("--task", TASK, "--tokens-per-sample", SEGMENT, "--batch-size", LANES)


def train_segments(data: Path, save_dir: Path, *options: Any, arch: str = ALL_ATTENTION) -> list[float]:
    """Run fairseq-train on a text in lanes; the sum of the losses of every batch in its order."""
    own = VECTORS if arch == ALL_ATTENTION else ("--decoder-ffn-embed-dim", 5)
    return train(data, save_dir, *TEXT, "--arch", arch, *SIZES, *own, *options)
