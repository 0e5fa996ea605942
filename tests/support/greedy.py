"""What tests of `greedy` do with its runs: sweep, interrupt after every piece of work, compare all files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.progress import Progress, Silent
from nmtprune.runs.greedy.loop import GreedyResult, greedy
from nmtprune.runs.greedy.setup import GreedyRun
from nmtprune.runs.state import Interrupted, State


def swept(run: GreedyRun, progress: Progress | None = None) -> GreedyResult:
    """The result of a run."""
    result = greedy(run, progress or Silent())
    assert result is not None
    return result


def files_of(folder: Path) -> dict[str, Any]:
    """Every file of a run but its state, without provenance; models by their fingerprints."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json" and path.name != "state.json":
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key != "provenance"}
        elif path.suffix == ".pt":
            found[name] = load(path).sha256
        elif path.is_file() and path.name != "state.json":
            found[name] = path.read_bytes()
    return found


def check_interruptions(run: GreedyRun, folder: Path, fewest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a run that ends after every piece of work leaves the same files as one that is never interrupted.

    Args:
        run: with `refit`, so that a model is written too.
        folder: for the output of both runs.
        fewest: pieces of work that there are at least.
        monkeypatch: of the test.
    """
    whole, pieces = folder / "whole", folder / "pieces"
    swept(replace(run, output=whole))
    add, times, result = State.add, 0, None

    def add_and_end(state: State, unit: str, packed: bytes) -> None:
        add(state, unit, packed)
        raise KeyboardInterrupt

    monkeypatch.setattr(State, "add", add_and_end)
    while result is None and times < 100:
        try:
            result = greedy(replace(run, output=pieces, resume=True), Silent())
        except Interrupted:
            times += 1
    assert times == len(json.loads((whole / "state.json").read_text())["units"]) >= fewest
    assert files_of(pieces) == files_of(whole)
    assert "slim.pt" in files_of(whole)
