"""Tiny lottery runs: what they are asked for, and everything that two runs of the same settings must have in common."""

import json
from pathlib import Path
from typing import Any

from nmtprune.data.batching import BatchLimits
from nmtprune.data.options import DataOptions
from nmtprune.evaluate.significance import SignificanceTest
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from nmtprune.runs.lottery.request import LotteryRun
from nmtprune.runs.measure import MeasureSettings
from nmtprune.runs.meters import MeterSettings
from tests.support.runs import SEARCH

FAST = ("--num-workers", "0", "--log-interval", "1", "--max-tokens", "60")


def lottery_run(checkpoint: Path, output: Path, **changes: Any) -> LotteryRun:
    """Two iterations from a checkpoint at update 2, three heads each, and nothing converged."""
    data_bin = checkpoint.parent / "data-bin"
    values: dict[str, Any] = {
        "data": DataOptions(data_bin=data_bin, subset="valid"),
        "test_data": DataOptions(data_bin=data_bin, subset="test"),
        "late_reset": checkpoint,
        "pretrain_updates": None,
        "prune_updates": 3,
        "heads_per_iteration": 3,
        "until": "6",
        "max_drop": None,
        "kinds": None,
        "min_heads_per_module": 0,
        "uniform": False,
        "converge": False,
        "converge_iterations": (),
        "converge_updates": None,
        "patience": 2,
        "reset_optimizer": False,
        "controls": (),
        "meters": MeterSettings(),
        "measure": MeasureSettings(
            metric="bleu",
            engine="native",
            device="cpu",
            threads=1,
            search=SEARCH,
            limits=BatchLimits.of(60),
            allow_bad_baseline=True,
        ),
        "significance": SignificanceTest(resamples=500, threads=1, correction="none"),
        "given": FAST,
        "resume": False,
        "force": False,
    }
    return LotteryRun(output=output, **(values | changes))


def content(folder: Path) -> dict[str, Any]:
    """All that a run leaves, less times and provenance: tensors by their fingerprints, moments too."""
    found: dict[str, Any] = {"json": json.loads((folder / "lottery.json").read_text())}
    for name in ("provenance", "times", "words_per_second", "file_bytes"):
        del found["json"][name]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".pt":
            checkpoint = FairseqCheckpoint.load(path)
            moments = {key: tensor.double().sum().item() for key, tensor in checkpoint.optimizer.tensors.items()}
            found[name] = (checkpoint.sha256, checkpoint.progress, moments)
        elif path.name == "plan.json":
            found[name] = Plan.read(path).keep
        elif path.suffix == ".json" and path.parent != folder:
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}
        elif path.suffix in (".tsv", ".png") and path.name not in ("lottery.tsv",):
            found[name] = path.read_bytes()
    return found
