"""Weights that are NaN or infinite: every command that loads a model names the tensor, and `inspect` shows it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune.errors import CheckpointError, NotFiniteError, TrainingError
from nmtprune.formats import load
from nmtprune.runs.lottery.job import check_can_go_on
from nmtprune.training.fairseq_train import load_trained
from tests.support import fairseq_files
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_arrays, write

NAME = "encoder.layers.0.fc1.weight"
LINE = f"{NAME} holds NaN (1 of 384 numbers)"


def poisoned(path: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    state = fairseq_files.load(path)
    change(state)
    torch.save(state, target)
    return target


def one_nan(state: dict[str, Any]) -> None:
    state["model"][NAME][0, 0] = float("nan")


@pytest.fixture
def nan(tiny: Path, tmp_path: Path) -> Path:
    return poisoned(tiny, tmp_path / "nan.pt", one_nan)


COMMANDS = {
    "plan": ("plan", "NAN", "--random", "50%", "-o", "OUT"),
    "slim": ("slim", "NAN", "--plan", "PLAN", "-o", "OUT"),
    "drift": ("drift", "GOOD", "NAN"),
    "translate": ("translate", "NAN", "--data-bin", "DATA", "--subset", "valid"),
    "score": ("score", "NAN", "--data-bin", "DATA", "-o", "OUT"),
    "score, loss": ("score", "NAN", "--data-bin", "DATA", "--metric", "loss", "-o", "OUT"),
    "score, importance": ("score", "NAN", "--data-bin", "DATA", "--metric", "importance", "-o", "OUT"),
    "greedy": ("greedy", "GOOD", "NAN", "--data-bin", "DATA", "-o", "OUT"),
    "l0": ("l0", "NAN", "--data-bin", "DATA", "--l0-weight", "0.1", "-o", "OUT"),
    "lottery": (
        *("lottery", "--data-bin", "DATA", "--late-reset", "NAN", "--prune-updates", "4", "--until", "50%"),
        *("-o", "OUT"),
    ),
    "bench": ("bench", "GOOD", "NAN", "--data-bin", "DATA"),
    "check": ("check", "NAN", "--baseline", "GOOD", "--data-bin", "DATA", "--max-drop", "1"),
    "check, baseline": ("check", "GOOD", "--baseline", "NAN", "--data-bin", "DATA", "--max-drop", "1"),
    "export": ("export", "NAN", "--data-bin", "DATA", "--to", "ctranslate2", "-o", "OUT"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_names_the_tensor(tiny: Path, nan: Path, tmp_path: Path, name: str) -> None:
    plan, output = tmp_path / "plan.json", tmp_path / "output"
    if "PLAN" in COMMANDS[name]:
        assert nmtprune("plan", tiny, "--random", "50%", "-o", plan).code == 0
    words = {"NAN": nan, "GOOD": tiny, "OUT": output, "PLAN": plan, "DATA": tiny.parent / "data-bin"}
    code, line = refused(*(words.get(word, word) for word in COMMANDS[name]))
    assert (code, line) == (3, f"{nan}: {LINE}: no model can be run or pruned with such weights")
    assert not output.exists()


def test_inspect_shows_it(tiny: Path, nan: Path) -> None:
    result = nmtprune("inspect", nan)
    assert (result.code, result.stderr) == (0, "")
    refusal = "every other command refuses this model"
    assert result.stdout.startswith(f"fairseq transformer: 24 heads; not finite: {LINE}: {refusal}\n")
    assert json.loads(nmtprune("inspect", nan, "--format", "json").stdout)["not_finite"] == LINE
    good = json.loads(nmtprune("inspect", tiny, "--format", "json").stdout)
    assert (good["not_finite"], good["notes"]) == (None, [])


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_of_any_type(tiny: Path, tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    def change(state: dict[str, Any]) -> None:
        for name in (NAME, "decoder.layers.1.fc2.bias", "encoder.layers.1.fc1.bias"):
            state["model"][name] = torch.full(state["model"][name].shape, value, dtype=dtype)

    with pytest.raises(NotFiniteError) as caught:
        load(poisoned(tiny, tmp_path / "x.pt", change))
    held = "NaN" if value != value else "infinity"
    assert f"{NAME} holds {held} (384 of 384 numbers), and so do 2 other tensors" in str(caught.value)


def test_large_numbers_are_numbers(tiny: Path, tmp_path: Path) -> None:
    """Also where their sum is none."""

    def change(state: dict[str, Any]) -> None:
        for tensor in state["model"].values():
            if tensor.numel() > 1:
                tensor.fill_(torch.finfo(tensor.dtype).max)

    assert load(poisoned(tiny, tmp_path / "x.pt", change)).not_finite is None


def test_of_marian(tmp_path: Path) -> None:
    arrays = marian_arrays()
    name = next(name for name in arrays if name.endswith("W1"))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[3] = np.inf
    path = write(tmp_path / "model.npz", arrays)
    code, line = refused("plan", path, "--random", "50%", "-o", tmp_path / "plan.json")
    size = arrays[name].size
    assert code == 3 and line.startswith(f"{path}: {name} holds infinity (1 of {size} numbers): no model can")
    assert f"not finite: {name} holds infinity" in nmtprune("inspect", path).stdout


def test_only_parameters_count(build: Build, tmp_path: Path) -> None:
    """Neither buffers nor layers that the settings leave out compute anything."""
    path = build(layers=3)

    def change(state: dict[str, Any]) -> None:
        state["model"]["encoder.layers.1.fc1.weight"][0, 0] = float("nan")
        state["model"]["encoder.embed_positions._float_tensor"] = torch.tensor([float("-inf")])
        state["cfg"]["model"].encoder_layers_to_keep = "0,2"

    assert load(poisoned(path, tmp_path / "x.pt", change)).not_finite is None


def test_state_that_no_training_can_go_on_with(tiny: Path, tmp_path: Path) -> None:
    """Moments are cut with the weights all the same; what would train on with them refuses."""

    def change(state: dict[str, Any]) -> None:
        state["last_optimizer_state"]["state"][0]["exp_avg"][0] = float("nan")

    path = poisoned(tiny, tmp_path / "x.pt", change)
    checkpoint: Any = load(path)
    assert checkpoint.copies_not_finite is not None and "holds NaN" in checkpoint.copies_not_finite
    note = f"{checkpoint.copies_not_finite}: no training can go on from here"
    assert f"note: {note}" in nmtprune("inspect", path).stdout
    nmtprune("plan", path, "--random", "50%", "-o", tmp_path / "plan.json")
    result = nmtprune("slim", path, "--plan", tmp_path / "plan.json", "-o", tmp_path / "slim.pt")
    assert result.code == 0 and "no training can go on from here" in result.stderr
    with pytest.raises(CheckpointError, match="so its training cannot go on: --reset-optimizer empties"):
        check_can_go_on(checkpoint, reset=False)
    check_can_go_on(checkpoint, reset=True)


def test_a_training_that_diverged(nan: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        load_trained(nan)
    assert str(caught.value).startswith(f"training diverged: {nan}: {LINE}")
    assert str(caught.value).endswith("start over with a lower --lr or --clip-norm")
