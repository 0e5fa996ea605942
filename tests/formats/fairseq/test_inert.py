"""Values of other packages: kept without importing them, and written back the same."""

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build
from tests.support.fairseq_variants import difference

WITHOUT_PACKAGES = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fairseq", "omegaconf", "hydra"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocker())
from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.formats import load
from nmtprune.plan import Plan

checkpoint = load(sys.argv[1])
plan = Plan.removing(checkpoint.base, parse_heads(sys.argv[3], checkpoint.architecture))
slim.apply(plan, checkpoint).save(sys.argv[2])
"""


@pytest.mark.parametrize(("cfg", "heads"), [("omegaconf", "encoder.0.1"), ("dict", "")])
def test_slimming_needs_neither_fairseq_nor_omegaconf(build: Build, tmp_path: Path, cfg: str, heads: str) -> None:
    path = build(updates=1, stored={"cfg": cfg})
    with_packages, without = tmp_path / "with.pt", tmp_path / "without.pt"
    checkpoint = load(path)
    removed = [UnitId.parse(heads)] if heads else []
    slim.apply(Plan.removing(checkpoint.base, removed), checkpoint).save(with_packages)
    subprocess.run([sys.executable, "-c", WITHOUT_PACKAGES, str(path), str(without), heads], check=True)
    first, second = fairseq_files.load(with_packages), fairseq_files.load(without)
    assert difference(first, second) == ""
    if not heads:
        assert difference(fairseq_files.load(path), second) == ""


def test_omegaconf_reads_what_was_changed_in_it(build: Build, tmp_path: Path) -> None:
    path = build(updates=1, stored={"cfg": "omegaconf"})
    checkpoint = load(path)
    slim.apply(Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")]), checkpoint).save(tmp_path / "cut.pt")
    before, after = fairseq_files.load(path)["cfg"], fairseq_files.load(tmp_path / "cut.pt")["cfg"]
    assert after.model.nmtprune_base_arch == "transformer"
    assert after.model._get_node("nmtprune_heads")._key() == "nmtprune_heads"
    assert after.model._get_node("nmtprune_heads")._get_full_key("") == "model.nmtprune_heads"
    assert after.model.encoder_head_dim == 4
    assert before.model.arch == "transformer"
    after.model.dropout = 0.5
    assert {key for key in after if after[key] != before[key]} == {"model"}


def with_foreign_values(path: Path, target: Path) -> dict[str, Any]:
    from fairseq.logging.meters import AverageMeter, StopwatchMeter, TimeMeter

    state = fairseq_files.load(path)
    average = AverageMeter(round=3)
    average.update(np.float64(1.5), n=2)
    state["extra_state"]["metrics"]["valid"] = [
        (10, "_bleu_counts", "SumMeter", {"sum": np.array([1, 2, 3, 4]), "round": None}),
        (20, "bleu", "AverageMeter", {"val": np.float64(31.5), "sum": np.int64(3)}),
    ]
    state["extra_state"]["train_meters"] = OrderedDict(loss=average, wall=TimeMeter(), train_wall=StopwatchMeter())
    state["task_state"] = {"flags": np.array([True, False]), "names": np.array(["a", "bc"]), "half": np.float16(0.5)}
    torch.save(state, target)
    return state


def test_numpy_values_and_meters_are_kept(tiny: Path, tmp_path: Path) -> None:
    state = with_foreign_values(tiny, tmp_path / "values.pt")
    checkpoint = load(tmp_path / "values.pt")
    assert isinstance(checkpoint, FairseqCheckpoint)
    plan = Plan.removing(checkpoint.base, [UnitId.parse("encoder.0.1")])
    slim.apply(plan, checkpoint).save(tmp_path / "cut.pt")
    after = fairseq_files.load(tmp_path / "cut.pt")
    counts = after["extra_state"]["metrics"]["valid"][0][3]["sum"]
    assert counts.dtype == np.int64
    assert counts.tolist() == [1, 2, 3, 4]
    bleu = after["extra_state"]["metrics"]["valid"][1][3]
    assert (type(bleu["val"]), bleu["val"], type(bleu["sum"])) == (np.float64, 31.5, np.int64)
    assert after["task_state"]["names"].tolist() == ["a", "bc"]
    assert after["task_state"]["flags"].tolist() == [True, False]
    assert after["task_state"]["half"] == state["task_state"]["half"]
    meters, before = after["extra_state"]["train_meters"], state["extra_state"]["train_meters"]
    assert [type(meter) for meter in meters.values()] == [type(meter) for meter in before.values()]
    assert vars(meters["loss"]) == vars(before["loss"])


def test_names_of_other_versions_stay(tiny: Path, tmp_path: Path) -> None:
    with_foreign_values(tiny, tmp_path / "values.pt")
    raw = (tmp_path / "values.pt").read_bytes()
    new, old = b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"
    assert new in raw
    import zipfile

    with zipfile.ZipFile(tmp_path / "values.pt") as source, zipfile.ZipFile(tmp_path / "numpy1.pt", "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry).replace(new, old).replace(
                b"fairseq.logging.meters\n", b"fairseq.meters\n"))  # fmt: skip
    load(tmp_path / "numpy1.pt").save(tmp_path / "again.pt")
    again = (tmp_path / "again.pt").read_bytes()
    assert old in again
    assert new not in again
    assert b"fairseq.meters\n" in again
    assert b"fairseq.logging.meters\n" not in again
