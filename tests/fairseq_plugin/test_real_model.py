"""A trained model of real size, where NMTPRUNE_TEST_MODELS names a folder that holds one."""

import os
import random
from pathlib import Path

import pytest

from nmtprune import slim
from nmtprune.architecture import NEURON_KINDS, GroupId
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support.fairseq_commands import hypotheses, run, run_stock, scores

MODELS = Path(os.environ.get("NMTPRUNE_TEST_MODELS", ""))
FOLDER = MODELS / "m30k-ende"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("NMTPRUNE_TEST_MODELS"), reason="NMTPRUNE_TEST_MODELS names no folder"),
]


@pytest.mark.parametrize("beam", [1, 5])
def test_cut_and_masked_translate_alike(tmp_path: Path, beam: int) -> None:
    """A quarter of the heads is gone; lines differ only where two hypotheses are tied, at most 0.5 % of them."""
    checkpoint = FairseqCheckpoint.load(FOLDER / "checkpoint.pt").without_optimizer()
    heads = checkpoint.architecture.head_ids()
    plan = Plan.removing(checkpoint.base, random.Random(1).sample(heads, len(heads) // 4))
    outputs = {}
    for mode in ("cut", "masked"):
        path = tmp_path / f"{mode}.pt"
        slim.apply(plan, checkpoint, mode).save(path)
        options = ("--beam", beam, "--max-tokens", 4000, "--cpu", "--num-workers", 0)
        outputs[mode] = run("generate", FOLDER / "data-bin", "--path", path, *options)
    assert_alike(outputs["cut"], outputs["masked"])


def test_stock_fairseq_translates_with_half_of_the_neurons_and_fewer_layers(tmp_path: Path) -> None:
    """Commands of stock fairseq, without --user-dir, in processes without the plug-in."""
    checkpoint = FairseqCheckpoint.load(FOLDER / "checkpoint.pt").without_optimizer()
    units = dict(checkpoint.base.units)
    for id, numbers in units.items():
        if id.kind in NEURON_KINDS:
            units[id] = tuple(random.Random(id.layer).sample(numbers, len(numbers) // 2))
    units[GroupId.layers_of("decoder")] = (0, 1, 3, 5)
    outputs = []
    for mode in ("cut", "masked"):
        path = tmp_path / f"{mode}.pt"
        slim.apply(Plan.of(checkpoint.base, units), checkpoint, mode).save(path)
        options = ("--beam", 1, "--max-tokens", 4000, "--cpu", "--num-workers", 0)
        outputs.append(run_stock("generate", FOLDER / "data-bin", "--path", path, *options))
    assert_alike(*outputs)


def assert_alike(cut_output: str, masked_output: str) -> None:
    """Lines differ only where two hypotheses are tied, at most 0.5 % of them."""
    pairs = list(zip(hypotheses(cut_output), hypotheses(masked_output), strict=True))
    gaps = [abs(a - b) for a, b in zip(scores(cut_output), scores(masked_output), strict=True)]
    different = [number for number, (cut, masked) in enumerate(pairs) if cut != masked]
    assert len(pairs) == 1000
    assert len(different) <= 5
    assert max((gaps[number] for number in different), default=0.0) <= 1e-4
