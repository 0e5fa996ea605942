"""torch loads fairseq's own checkpoints again, and nmtprune's own loading is not affected."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fairseq.logging.meters import AverageMeter
from omegaconf import DictConfig, OmegaConf

import nmtprune.fairseq_plugin  # noqa: F401  # declares the classes
from nmtprune.formats.fairseq.checkpoint import FairseqCheckpoint
from tests.support import fairseq_files
from tests.support.fairseq_files import Files


def round_trip(value: Any, path: Path) -> Any:
    torch.save(value, path)
    return torch.load(path)


def test_what_fairseq_checkpoints_hold_loads(tmp_path: Path) -> None:
    meter = AverageMeter(round=2)
    meter.update(np.float64(1.5))
    cfg = OmegaConf.create({"model": {"layers": [1, 2], "name": "x", "drop": 0.5, "on": True, "none": None}})
    state = {"args": Namespace(a=1), "cfg": cfg, "meter": meter, "array": np.arange(3), "scalar": np.int64(7)}
    found = round_trip(state, tmp_path / "x.pt")
    assert found["args"] == state["args"]
    assert isinstance(found["cfg"], DictConfig)
    assert found["cfg"] == cfg
    assert found["meter"].avg == 1.5
    assert np.array_equal(found["array"], state["array"])
    assert found["scalar"] == 7


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "int64", "uint8", "bool"])
def test_numpy_scalars_of_every_type_load(tmp_path: Path, dtype: str) -> None:
    found = round_trip(np.dtype(dtype).type(1), tmp_path / "x.pt")
    assert found.dtype == dtype


def test_names_of_old_versions_load(tmp_path: Path) -> None:
    torch.save(
        {"scalar": np.float64(2.5), "meter": AverageMeter()}, tmp_path / "x.pt", _use_new_zipfile_serialization=False
    )
    data = (tmp_path / "x.pt").read_bytes()
    old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray").replace(
        b"fairseq.logging.meters", b"fairseq.meters"
    )
    assert old != data
    (tmp_path / "old.pt").write_bytes(old)
    found = torch.load(tmp_path / "old.pt")
    assert found["scalar"] == 2.5
    assert isinstance(found["meter"], AverageMeter)


class Payload:
    def __reduce__(self) -> Any:
        return print, ("run",)


@pytest.mark.parametrize("value", [Payload(), np.array([None, {}], dtype=object), Path("x")])
def test_anything_else_is_still_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(Exception, match="Weights only load failed"):
        round_trip({"value": value}, tmp_path / "x.pt")


def test_both_ways_of_loading_live_in_one_process(files: Files, tmp_path: Path) -> None:
    """nmtprune's own loading makes stand-ins whatever is declared safe, and leaves what was declared as it was."""
    path = fairseq_files.store_as(files.full, tmp_path / "cfg.pt", cfg="omegaconf")
    for _ in range(2):
        assert not isinstance(FairseqCheckpoint.load(path).state["cfg"], DictConfig)
        assert isinstance(torch.load(path)["cfg"], DictConfig)
