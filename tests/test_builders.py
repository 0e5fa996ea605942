"""The tiny checkpoints that the other tests rest on."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import fairseq_files
from tests.support.fairseq_files import Build


def test_equal_options_give_equal_checkpoints(build: Build, tiny: Path, tmp_path: Path) -> None:
    state = fairseq_files.load(tiny)
    again = fairseq_files.load(fairseq_files.fairseq_checkpoint(tmp_path, updates=2, encoder_normalize_before=True,
        decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0))  # fmt: skip
    assert list(state) == list(again)
    assert list(state["model"]) == list(again["model"])
    assert all(torch.equal(tensor, again["model"][name]) for name, tensor in state["model"].items())
    assert state["optimizer_history"][-1]["num_updates"] == 2


@pytest.mark.parametrize(
    ("kind", "types"),
    [("dict", (dict, dict)), ("namespace", (Namespace, Namespace)), ("omegaconf", None), ("args", (type(None), None))],
)
def test_cfg_is_stored_as_asked(build: Build, kind: str, types: Any) -> None:
    state = fairseq_files.load(build(stored={"cfg": kind}))
    if kind == "args":
        assert state["cfg"] is None
        assert state["args"].encoder_attention_heads == 4
    elif kind == "omegaconf":
        assert type(state["cfg"]).__name__ == "DictConfig"
    else:
        model = state["cfg"]["model"] if kind == "dict" else state["cfg"].model
        assert (type(state["cfg"]), type(model)) == types
