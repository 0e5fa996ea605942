"""The state file: what it keeps, what it refuses."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from nmtprune.errors import OutputError
from nmtprune.runs.state import NO_SETTING, State, check_state, pack, settings_of, state_path, unpack

SETTINGS = {"--beam": 5, "--metric": "bleu", "--kinds": ["encoder"], "model": "abc"}
ARRAYS = {"dev": np.arange(12).reshape(3, 4), "losses": np.array([0.1, 0.2])}


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = state_path(tmp_path / "scores.json")
    assert path.name == "scores.json.state"
    state = State.open(path, SETTINGS, resume=False)
    assert not path.exists()
    state.add("encoder.0", pack(ARRAYS))
    state.add("cross.1", pack({"dev": np.ones(2)}))
    again = State.open(path, SETTINGS, resume=True)
    assert again.units == ("encoder.0", "cross.1")
    assert "encoder.0" in again and "encoder.1" not in again
    found = again["encoder.0"]
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        name: (array.dtype, array.tolist()) for name, array in ARRAYS.items()
    }
    again.remove()
    assert list(tmp_path.iterdir()) == []
    assert State.open(path, SETTINGS, resume=True).units == ()


def test_other_settings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "scores.json.state"
    State.open(path, SETTINGS, resume=False).add("encoder.0", pack(ARRAYS))
    other = {"--beam": 1, "--metric": "bleu", "--kinds": ["encoder"], "--seed": 0}
    with pytest.raises(OutputError) as raised:
        State.open(path, other, resume=True)
    assert str(raised.value) == (
        f"{path}: of a run with other settings (repeat them, or start over with --force and without --resume): "
        '--beam was 5, is 1; --seed was not given, is 0; model was "abc", is not given'
    )
    assert raised.value.exit_code == 8
    assert State.open(path, other, resume=False).units == ()


def test_states_of_other_versions_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    State.open(path, SETTINGS, resume=False).add("encoder.0", pack(ARRAYS))
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(OutputError) as raised:
        State.open(path, SETTINGS, resume=True)
    assert str(raised.value) == (
        f"{path}: written by another version of nmtprune, which cannot be resumed; start over with --force and "
        "without --resume"
    )
    assert raised.value.exit_code == 8


@dataclass(frozen=True)
class _Inner:
    min_len: int = 1
    sentences: int = field(default=8, metadata={"option": "--batch-size"})


@dataclass(frozen=True)
class _Outer:
    inner: _Inner = _Inner()
    hidden: _Inner = field(default=_Inner(5), metadata=NO_SETTING)
    output: Path = field(default=Path("x"), metadata=NO_SETTING)
    files: tuple[Path, ...] = (Path("a"), Path("b"))
    uniform: bool = False


def test_settings_are_the_fields_by_their_options() -> None:
    assert settings_of(_Outer(uniform=True)) == {
        "--min-len": 1, "--batch-size": 8, "--files": ["a", "b"], "--uniform": True,
    }  # fmt: skip


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_damaged_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.json.state"
    path.write_bytes(content)
    with pytest.raises(OutputError) as raised:
        State.open(path, SETTINGS, resume=True)
    assert str(raised.value) == (
        f"{path}: cannot be read: damaged, or no state file; start over with --force and without --resume"
    )


def test_state_truncated_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.json.state"
    State.open(path, SETTINGS, resume=False).add("encoder.0", pack(ARRAYS))
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(OutputError, match="damaged, or no state file"):
            State.open(path, SETTINGS, resume=True)


def test_a_forgotten_state_is_named(tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    check_state(output, resume=False, force=False)
    state_path(output).write_bytes(b"")
    with pytest.raises(OutputError) as raised:
        check_state(output, resume=False, force=False)
    assert str(raised.value) == (
        f"{output}.state: an interrupted run left its state: --resume continues it, --force starts over"
    )
    check_state(output, resume=True, force=False)
    check_state(output, resume=False, force=True)


def test_pack_round_trip() -> None:
    assert {name: array.tolist() for name, array in unpack(pack(ARRAYS)).items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }
