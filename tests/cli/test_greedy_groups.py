"""`nmtprune greedy --group` and `--budget` as a user meets them."""

import json
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support.cli import documented, nmtprune, refused
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import random_texts, vocabulary_file

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> tuple[Any, ...]:
    return ("greedy", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", *FAST)


def test_tables_of_several_groups(base: tuple[Any, ...], tiny: Path, tmp_path: Path) -> None:
    orders = ("--order", "random", "--samples", 2, "--order", "importance")
    result = nmtprune(*base, "--group", "heads,neurons", *orders, "--step", "40%", "--until", "80%")
    assert result.code == 0, result.stderr
    content = documented((tmp_path / "run" / "curve.json").read_text())
    lines = [line.strip() for line in result.stdout.splitlines()]
    neurons = content["units"]["neurons"]
    assert lines[0] == f"valid.xx-yy: 16 sentences, 24 heads, {neurons} neurons"
    for curve in content["curves"]:
        place = lines.index(f"{tiny}: {curve['name']}")
        assert " ".join(lines[place + 2].split()) == "heads neurons macs params bleu 95% interval p relative"
        for step, row in zip(curve["steps"], lines[place + 4 :], strict=False):
            assert row.split()[:5] == [
                str(step["units"]["heads"]), str(step["units"]["neurons"]), f"{step['macs']:.1%}",
                f"{step['parameters']:.1%}", f"{step['bleu']:.2f}",
            ]  # fmt: skip
    place = next(number for number, line in enumerate(lines) if "mean and standard deviation of 2 curves" in line)
    for step, row in zip(content["means"][0]["steps"], lines[place + 4 :], strict=False):
        assert row.split() == [f"{step['macs']:.1%}", f"{step['bleu']:.2f}", f"{step['sd']:.2f}"]
    last = content["curves"][0]["steps"][-1]
    gone = f"{last['units']['heads']} heads, {last['units']['neurons']} neurons removed"
    left = f"{last['macs']:.1%} of the multiply-accumulates left"
    assert lines[-2].startswith(f"plan.json: {gone}, {left}, bleu {last['bleu']:.2f} (")
    assert sorted(path.name for path in (tmp_path / "run" / "plans" / "importance").iterdir()) == [
        "000.json", "040.json", "080.json",
    ]  # fmt: skip


def test_a_budget_with_refit_gives_a_plan_and_a_model(base: tuple[Any, ...], tiny: Path, tmp_path: Path) -> None:
    options = ("--budget", "macs=80%", "--refit", "--calibration-sentences", 12, "--order", "importance")
    result = nmtprune(*base, *options, "--format", "json")
    assert result.code == 0, result.stderr
    content = documented(result.stdout)
    assert content["budgets"] == ["macs=80%"] and content["groups"] == ["heads", "neurons"]
    plan, step = Plan.read(tmp_path / "run" / "plan.json"), content["curves"][0]["steps"][1]
    assert plan.provenance["plan"] == step["plan"] == "plans/importance/macs-80.json"
    assert 0.75 < step["macs"] <= 0.8 and plan.version == 2
    slim = load(tmp_path / "run" / "slim.pt")
    assert sum(slim.base.feed_forwards.values()) == plan.count_kept(("encoder-ffn", "decoder-ffn"))
    assert nmtprune("slim", tiny, "--plan", tmp_path / "run" / "plan.json", "-o", tmp_path / "cut.pt").code == 0


def test_layers_alone_go_by_the_loss_down_to_one_of_each_stack(base: tuple[Any, ...], tmp_path: Path) -> None:
    result = nmtprune(*base, "--group", "layers", "--step", 1, "--format", "json")
    assert result.code == 0, result.stderr
    (curve,) = documented(result.stdout)["curves"]
    assert (curve["name"], curve["order"]) == ("loss", "loss")
    assert [step["units"]["layers"] for step in curve["steps"]] == [0, 1, 2]
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert {stack: len(layers) for stack, layers in plan["layers"].items()} == {"encoder": 1, "decoder": 1}


def test_usage(base: tuple[Any, ...], tmp_path: Path) -> None:
    assert refused(*base, "--budget", "macs=50%", "--step", "5%") == (2, "--step goes without --budget")
    assert refused(*base, "--budget", "macs") == (
        2,
        "'macs' is no budget: write macs=60%, params=60% or params=1.2M, speed=1.5x",
    )
    assert refused(*base, "--budget", "speed=1.5x") == (
        2,
        "--budget speed=1.5x: how fast models are is measured, not counted: give --cost-table FILE, which nmtprune "
        "bench --cost-table writes",
    )
    assert refused(*base, "--group", "neuron") == (
        2,
        "--group 'neuron' (choose among heads, neurons, layers): unknown group 'neuron'",
    )
    code, line = refused(*base, "--group", "neurons", "--order", "confidence")
    assert code == 2 and line.startswith("confidence: neurons: ")
    assert refused(*base, "--group", "layers", "--order", "importance") == (
        2,
        "--order importance: has no scores of layers; layers alone go by --order loss, random or a score file",
    )
    code, line = refused(*base, "--budget", "macs=1%", "--order", "random")
    assert code == 4 and "the smallest possible is" in line
    assert refused(*base, "--group", "layers", "--until", "4")[0] == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variant", ["post-norm, all tied", "pre-norm with norms at both ends"])
def test_marian_models(tmp_path: Path, variant: str) -> None:
    """Heads, neurons and layers of a Marian model; a module without heads still costs one, which the file has."""
    model = marian_model(tmp_path / "model.npz", **VARIANTS[variant])
    vocabulary = vocabulary_file(tmp_path)
    source, target = random_texts(tmp_path)
    raw = ("--vocabs", vocabulary, vocabulary, "--source", source, "--reference", target, "--post-process", "none")
    fast = ("--beam", 1, "--threads", 1, "--device", "cpu", "--resamples", 200, "--format", "json")
    common = ("greedy", model, *raw, *fast)
    orders = ("--order", "fisher", "--order", "variance")
    result = nmtprune(*common, *orders, "--budget", "params=80%", "--refit", "-o", tmp_path / "run", "-q")
    assert result.code == 0, result.stderr
    for curve in documented(result.stdout)["curves"]:
        path, cut = tmp_path / "run" / curve["steps"][1]["plan"], tmp_path / "cut.npz"
        plan, result = Plan.read(path), nmtprune("slim", model, "--plan", path, "-o", cut, "--force")
        assert result.code == 0, result.stderr
        parameters = [sum(own.numel() for own in load(path).parameters.values()) for path in (model, cut)]
        assert parameters[1] == pytest.approx(curve["steps"][1]["parameters"] * parameters[0])
        assert parameters[1] <= 0.8 * parameters[0] and plan.removed(("encoder-ffn", "decoder-ffn"))
    result = nmtprune(*common, "--group", "layers", "--step", 1, "--until", 1, "-o", tmp_path / "layers", "-q")
    assert result.code == 0, result.stderr
    assert load(tmp_path / "run" / "slim.npz").format == "marian"
    assert refused(*common[:-2], "--group", "neurons", "-o", tmp_path / "none") == (
        2,
        f"{model}: Marian has one width for all feed-forward layers of a stack: give --uniform",
    )
    assert not (tmp_path / "none").exists()
