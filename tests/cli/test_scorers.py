"""A scorer that this file adds to the table: the commands offer it with its option, as any other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nmtprune.architecture import UnitId
from nmtprune.budget import Limits, lowest
from nmtprune.formats import load
from nmtprune.methods.scorer import Scorer, setting, sorts_of
from nmtprune.plan import Plan
from nmtprune.runs.scorers import SCORERS
from nmtprune.scores import Scores
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    norm_power: float = setting(2.0, "Power of the norm.", metavar="X")


class Norm(Scorer[NormOptions]):
    name = "norm"
    summary = "norm of the head's part of the output projection."
    settings = NormOptions
    sorts = ("heads", "neurons")
    reestimates = True

    def scores(self, subject: Any, kept: Any = None, limits: Any = None, prices: Any = None) -> Mapping[UnitId, float]:
        return norms(subject.checkpoint, self.options.norm_power, kept, sorts_of(limits))

    def facts(self, subject: Any) -> dict[str, Any]:
        return {"power": self.options.norm_power}


def norms(checkpoint: Any, power: float, kept: Any = None, sorts: Sequence[str] = ("heads",)) -> dict[UnitId, float]:
    left, found = checkpoint.architecture.full(kept or {}), {}
    for id, axes in checkpoint.unit_axes.items():
        if id.sort in sorts:
            (axis,) = (axis for axis in axes if axis.output)
            parts = checkpoint.tensors[axis.tensor].movedim(axis.axis, 0).split(axis.width)
            found |= {UnitId(id, unit): float(parts[unit].norm(power)) for unit in left[id]}
    return found


@pytest.fixture(autouse=True)
def norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "norm", Norm)


def test_score_offers_it(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.json"
    data = ("--data-bin", tiny.parent / "data-bin", "-o", output, "--device", "cpu", "--metric")
    result = nmtprune("score", tiny, *data, "norm", "--norm-power", 1, "--kinds", "cross")
    assert result.code == 0, result.stderr
    scores, expected = Scores.read(output), norms(load(tiny), 1)
    assert scores.scores_by_head() == {head: score for head, score in expected.items() if head.group.kind == "cross"}
    assert (scores.metric, scores.baseline["power"], scores.baseline["sentences"]) == ("norm", 1.0, 16)
    assert result.stdout.splitlines()[:3] == [
        "valid.xx-yy: norm over 16 sentences", "power 1.0", "norm of the head, by layer and head:",
    ]  # fmt: skip
    environment = {"NMTPRUNE_SCORE_NORM_POWER": "3"}
    assert nmtprune("score", tiny, *data, "norm", "--force", env=environment).code == 0
    assert Scores.read(output).scores_by_head() == norms(load(tiny), 3)
    assert nmtprune("score", tiny, *data, "norm", "--force", "--group", "neurons,heads").code == 0
    assert Scores.read(output).scores_by_unit() == norms(load(tiny), 2, sorts=("heads", "neurons"))
    assert refused("score", tiny, *data, "norm", "--force", "--group", "layers") == (2, "norm: layers: not scored")


@pytest.mark.parametrize("command", ["score", "greedy"])
def test_help_describes_it(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def text() -> str:
        """The page without white space, which breaks lines behind hyphens too."""
        return "".join(nmtprune(command, "--help").stdout.split())

    with_it = text()
    assert "--norm-powerXPowerofthenorm.[default:2.0]" in with_it
    shown = "norm,norm-reestimated(" if command == "greedy" else f"norm: {Norm.summary}".replace(" ", "")
    assert shown in with_it
    monkeypatch.delitem(SCORERS, "norm")
    assert "norm-power" not in text()


def test_its_option_is_refused_with_other_scorers(tiny: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "out", "--device", "cpu", "--norm-power", 1)
    assert refused("score", tiny, *data, "--metric", "importance") == (2, "--norm-power goes with --metric norm")
    assert refused("greedy", tiny, *data, "--order", "random") == (2, "--norm-power goes with --order norm")
    assert refused("score", tiny, *data[:-2], "--metric", "norm", "--importance-unit", "token") == (
        2,
        "--importance-unit goes with --metric importance",
    )
    assert list(tmp_path.iterdir()) == []


def test_greedy_offers_it(tiny: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--data-bin", tiny.parent / "data-bin", "-o", run, *FAST, "--step", "25%", "--until", "50%")
    orders = ("--order", "norm", "--order", "norm-reestimated", "--norm-power", 1)
    result = nmtprune("greedy", tiny, *options, *orders, "--format", "json")
    assert result.code == 0, result.stderr
    curve = documented(result.stdout)
    assert [each["name"] for each in curve["curves"]] == ["norm", "norm-reestimated"]
    assert (curve["norm"]["power"], curve["norm"]["sentences"]) == (1.0, 16)
    base = load(tiny).base
    expected = lowest(norms(load(tiny), 1), 12, base.modules, Limits())
    for name in ("norm", "norm-reestimated"):
        assert Plan.read(run / "plans" / name / "012.json").removed() == expected
    state = json.loads((run / "state.json").read_text())
    assert state["--norm-power"] == 1.0 and "norm-reestimated/006 norm" in state["units"]
    code, line = refused("greedy", tiny, *options, *orders[:-1], 2, "--resume")
    assert code == 8 and line.endswith("): --norm-power was 1.0, is 2.0")


class Interaction(Scorer[Any]):
    name = "interaction"
    summary = "quality with the head alone in its module."
    of_metric = False
    masks = True

    def scores(self, subject: Any, kept: Any = None, limits: Any = None, prices: Any = None) -> Mapping[UnitId, float]:
        heads = subject.checkpoint.architecture.head_ids()
        assert len(subject.qualities([{}, {heads[0].group: (heads[0].number,)}])) == 2
        return {head: float(place) for place, head in enumerate(heads)}


def test_an_order_of_its_own_may_mask_heads(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORERS, "interaction", Interaction)
    options = ("--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", *FAST, "--step", "6", "--until", "6")
    result = nmtprune("greedy", tiny, *options, "--order", "interaction", "--allow-bad-baseline")
    assert result.code == 0, result.stderr
    removed = Plan.read(tmp_path / "run" / "plans" / "interaction" / "006.json").removed()
    assert removed == load(tiny).architecture.head_ids()[:6]
