"""`score --metric fisher`, and `greedy --refit`, `--rounds` and `--order auto` as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.scores import Scores
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)


@pytest.mark.parametrize("metric", ["fisher", "reconstruction"])
def test_the_score_of_a_joint_order_is_a_place(tiny: Path, tmp_path: Path, metric: str) -> None:
    output, data = tmp_path / "scores.json", ("--data-bin", tiny.parent / "data-bin")
    result = nmtprune("score", tiny, *data, "--metric", metric, "-o", output, "--device", "cpu")
    assert result.code == 0, result.stderr
    found = Scores.read(output)
    assert sorted(head.score for head in found.heads) == [float(place) for place in range(24)]
    details = [head.details for head in found.heads]
    if metric == "fisher":
        assert all(each is not None and set(each) == {"diagonal"} and each["diagonal"] >= 0 for each in details)
        alone = {head.id: each["diagonal"] for head, each in zip(found.heads, details, strict=True) if each}
        first = min(found.heads, key=lambda head: head.score)
        assert alone[first.id] == min(alone.values())
    else:
        assert details == [None] * 24
    # The file orders heads as the order itself does, measured on the same sentences.
    sweep = [*data, *FAST, "--allow-bad-baseline", "--step", "25%", "--until", "75%"]
    sweep += ["--rounds", 1] if metric == "reconstruction" else []
    orders = ("--order", metric, "--order", output, "--importance-subset", "valid")
    result = nmtprune("greedy", tiny, *sweep, *orders, "-o", tmp_path / "run")
    assert result.code == 0, result.stderr
    for removed in ("006", "012", "018"):
        plans = [Plan.read(tmp_path / "run" / "plans" / name / f"{removed}.json") for name in (metric, "scores")]
        assert plans[0].keep == plans[1].keep and len(plans[0].removed()) == int(removed)


def test_the_best_order_with_refitted_models(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--order", "auto", "--auto-orders", "importance", "--auto-orders", "fisher", "--refit", "--step", "50%")
    more = ("--until", "50%", "--calibration-sentences", 12, "--allow-bad-baseline")
    result = nmtprune("greedy", tiny, "--data-bin", tiny.parent / "data-bin", *options, *more, *FAST, "-o", folder)
    assert result.code == 0, result.stderr
    content = documented((folder / "curve.json").read_text())
    decision = content["curves"][0]["steps"][1]["decision"]
    assert [each["order"] for each in decision["contenders"]] == ["importance", "fisher"]
    assert f"{folder / 'slim.pt'} is the refitted model of plan.json" in result.stderr
    assert content["refit"]["ridge"] == 0.01
    assert content["refit"]["sentences"] == 12 and "fisher" in content and "reconstruction" not in content
    assert f"{decision['order']} (+{decision['lead']:.2f})" in result.stdout
    assert json.loads((folder / "plan.json").read_text())["provenance"]["chosen"] == decision["order"]
    assert load(folder / "slim.pt").architecture.count() == 12
    again = ("--order", "random", "--samples", 1, "--step", "50%", "--until", "50%", "--allow-bad-baseline", "--force")
    result = nmtprune("greedy", tiny, "--data-bin", tiny.parent / "data-bin", *again, *FAST, "-o", folder)
    assert result.code == 0, result.stderr
    assert f"{folder / 'slim.pt'} was there before: it is not the model of plan.json" in result.stderr
    assert nmtprune("inspect", folder / "slim.pt").code == 0


def test_usage(tiny: Path, tmp_path: Path) -> None:
    base: tuple[Any, ...] = ("greedy", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run")
    assert refused(*base, "--rounds", 2, "--auto-orders", "fisher", "--calibration-sentences", 9) == (
        2,
        "--auto-orders goes with --order auto; --rounds goes with --order reconstruction; --calibration-sentences goes "
        "with --refit or --order reconstruction",
    )
    assert refused(*base, "--order", "auto", "--auto-orders", "fisher") == (
        2,
        "--auto-orders: one order has nothing to compete with: give at least two of the other orders",
    )
    assert refused(*base, "--refit", "--engine", "fairseq") == (
        6,
        "--refit measures models that are cut, which the engine fairseq does not run: take --engine native or "
        "ctranslate2",
    )
    assert refused(*base, "--order", "fisher", "--importance-unit", "token") == (
        2,
        "--importance-unit goes with --order importance",
    )
    assert refused(*base, "--order", "fisher", "--label-smoothing", 2)[0] == 2
    assert refused(*base, "--order", "reconstruction", "--rounds", 1, "--calibration-sentences", 9) == (
        2,
        "--calibration-sentences goes with --refit or several --rounds",
    )
    text = ("--calibration-source", tmp_path / "text", "--post-process", "none")
    code, line = refused(*base, "--order", "random", "--refit", *text, "--importance-subset", "train")
    assert (code, line.partition(", ")[0]) == (2, "--importance-subset goes with --order importance")
    assert not (tmp_path / "run").exists()


def test_losses_that_cannot_be_had_are_refused_before_anything_is_translated(tiny: Path, tmp_path: Path) -> None:
    folder, text = tiny.parent / "data-bin", tiny.parent / "data-bin" / "valid.xx"
    raw = ("--data-bin", folder, "-s", "xx", "-t", "yy", "--post-process", "none", "--source", text)
    both = ("--reference", folder / "valid.yy") * 2
    code, line = refused("greedy", tiny, *raw, *both, "--order", "auto", *FAST, "-o", tmp_path / "run")
    assert code == 2 and "2 files of references" in line
    assert not (tmp_path / "run").exists()
