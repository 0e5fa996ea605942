"""`greedy` with refitted models, in rounds, and with the best of several orders."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.budget import Limits
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.errors import EngineError, UsageError
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.importance import GradientOptions, Importance, ImportanceOptions
from nmtprune.methods.joint_order import removal_order
from nmtprune.methods.measuring import batches, drawn
from nmtprune.methods.reconstruction import reconstruction
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.greedy.loop import GreedyResult, greedy
from nmtprune.runs.greedy.orders import curves, parse_orders
from nmtprune.runs.greedy.setup import GreedyRun
from nmtprune.runs.refit import refitted
from nmtprune.runs.refit_sentences import calibration_texts, with_translations
from nmtprune.runs.scorers import SCORERS
from nmtprune.scores import HeadScore, Scores
from tests.support import runs
from tests.support.examples import corpus
from tests.support.greedy import check_interruptions, swept
from tests.support.notes import Notes
from tests.support.runs import Oracle

ORDERS = ("importance", "fisher", "reconstruction")


def greedy_run(checkpoint: Path, output: Path, **changes: Any) -> GreedyRun:
    options = GradientOptions(importance_sentences=8)
    joint = (SCORERS[name](options) for name in ("fisher", "reconstruction"))
    values: dict[str, Any] = {
        "scorers": (Importance(ImportanceOptions(importance_sentences=8)), *joint),
        "orders": ("reconstruction",),
        "calibration_sentences": 12,
        "rounds": 2,
        "refit": True,
    }
    return runs.greedy_run(checkpoint, output, **(values | changes))


@cache
def refit(path: Path, plan: Plan) -> Checkpoint:
    """The refitted model of a plan, without `greedy`."""
    checkpoint = load(path)
    base, cut = native.load(checkpoint), slim.apply(plan, checkpoint.without_optimizer())
    text = drawn(corpus(path.parent / "data-bin", checkpoint, "train"), 12, 1)
    return refitted(base, cut, calibration_texts(text, base)).checkpoint


@pytest.fixture(scope="module")
def every(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GreedyResult]:
    folder = tmp_path_factory.mktemp("refit") / "run"
    return folder, swept(greedy_run(tiny, folder, orders=("auto", *ORDERS, "random")))


def test_every_point_is_that_of_a_refitted_model(tiny: Path, tmp_path: Path, every: tuple[Path, GreedyResult]) -> None:
    folder, _ = every
    content = json.loads((folder / "curve.json").read_text())
    assert [curve["name"] for curve in content["curves"]] == ["auto", *ORDERS, "random-1"]
    assert content["refit"]["sentences"] == 12
    (tmp_path / "data-bin").symlink_to(tiny.parent / "data-bin")
    masked = Oracle(tiny)
    differs = False
    for curve in content["curves"][1:]:
        for step in curve["steps"][1:]:
            plan = Plan.read(folder / step["plan"])
            refit(tiny, plan).save(tmp_path / "slim.pt", force=True)
            assert step["bleu"] == pytest.approx(Oracle(tmp_path / "slim.pt").bleu({}), abs=1e-9)
            kept = {module: plan.kept(module) for module in plan.base.modules}
            differs |= abs(step["bleu"] - masked.bleu(native.masks_of(masked.model, kept))) > 1e-3
    assert differs


def test_the_slim_file_is_the_refitted_model_of_the_plan(tiny: Path, every: tuple[Path, GreedyResult]) -> None:
    folder, _ = every
    plan, found = Plan.read(folder / "plan.json"), load(folder / "slim.pt")
    assert found.sha256 == refit(tiny, plan).sha256
    assert {module.id: module.heads for module in found.architecture} == {
        id: len(plan.kept(id)) for id in plan.base.modules
    }
    assert found.lineage is not None and found.lineage.refit is not None


def test_auto_takes_the_best_plan_at_every_step(every: tuple[Path, GreedyResult]) -> None:
    folder, result = every
    auto, *others = json.loads((folder / "curve.json").read_text())["curves"]
    assert [step["removed"] for step in auto["steps"]] == [0, 6, 12]
    assert "decision" not in auto["steps"][0] and all("decision" not in step for own in others for step in own["steps"])
    for place, step in enumerate(auto["steps"][1:], 1):
        decision, by_name = step["decision"], {own["name"]: own["steps"][place] for own in others}
        there = {each["order"]: each["bleu"] for each in decision["contenders"] if "bleu" in each}
        assert [each["order"] for each in decision["contenders"]] == [*ORDERS] and len(there) >= 2
        assert there == {name: by_name[name]["bleu"] for name in there}
        assert step["bleu"] == max(there.values()) == there[decision["order"]]
        first, second, *_ = sorted(there.values(), reverse=True)
        assert decision["lead"] == pytest.approx(first - second)
        plans = [Plan.read(folder / own["plan"]).keep for own in (step, by_name[decision["order"]])]
        assert plans[0] == plans[1]
    rows = [line.split("\t")[1] for line in (result.report.tsv or "").splitlines()[1:4]]
    assert rows == ["auto", *(f"auto:{step['decision']['order']}" for step in auto["steps"][1:])]


def test_rounds_go_on_from_the_refitted_model(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(tiny, tmp_path / "run", refit=False, step="4", until="16", min_heads_per_module=1)
    plans = {step.removed: step.plan for step in swept(run).swept[0].steps}
    checkpoint, limits = load(tiny), Limits(("encoder", "decoder", "cross"), 1)
    text = drawn(corpus(tiny.parent / "data-bin", checkpoint, "train"), 8, 1)

    def order(model: Checkpoint) -> list[UnitId]:
        costs = reconstruction(native.load(model), batches(text))
        return [*removal_order(costs, model.base.modules, limits)]

    first = order(checkpoint)
    assert set(plans[8].removed()) == {*first[:8]}
    second = [
        UnitId(head.group, plans[8].kept(head.group)[head.number]) for head in order(refit(tiny, plans[8]))
    ]  # fmt: skip
    assert set(plans[16].removed()) == {*first[:8], *second[:8]}
    assert set(plans[12].removed()) == {*first[:8], *second[:4]}
    once = swept(
        greedy_run(tiny, tmp_path / "once", refit=False, rounds=1, min_heads_per_module=1, until="16", step="8")
    )
    assert set(once.swept[0].steps[-1].plan.removed()) == {*first[:16]} and second != first[8:]
    assert not (tmp_path / "once" / "slim.pt").exists()


@pytest.mark.slow
def test_interrupted_after_every_piece_of_work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = greedy_run(tiny, tmp_path / "whole", orders=("auto", "importance-reestimated"), until="8", step="8")
    check_interruptions(run, tmp_path, 10, monkeypatch)


def test_sentences_that_are_refitted_on_and_measured_on_are_said(tiny: Path, tmp_path: Path) -> None:
    valid = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    for data, said in ((valid, True), (replace(valid, subset="train"), False)):
        notes, what = Notes(), "sentences are in the text that models are refitted on"
        run = greedy_run(tiny, tmp_path / str(said), orders=("random",), importance_data=data, until="1", step="1")
        greedy(run, notes)
        assert any(what in line for line in notes.lines) is said


@pytest.mark.parametrize("on", ["references", "translations"])
def test_models_are_refitted_on_a_text_of_its_own(tiny: Path, tmp_path: Path, on: str) -> None:
    folder = tiny.parent / "data-bin"
    texts = [next(folder.glob(f"test.{side}")) for side in ("xx", "yy")]
    data = DataOptions(
        data_bin=folder, source=texts[0], reference=(texts[1],) if on == "references" else (), post_process="none",
        source_lang="xx", target_lang="yy",
    )  # fmt: skip
    run = greedy_run(tiny, tmp_path / "run", orders=("random",), samples=1, until="4", step="4", calibration_data=data)
    result = swept(run)
    checkpoint, plan = load(tiny), result.swept[0].steps[-1].plan
    text = drawn(load_corpus(data, checkpoint.profile(), references=False, targets=on == "references"), 12, 1)
    if on == "translations":
        text = with_translations(text, checkpoint, run, run.limits)
    base = native.load(checkpoint)
    expected = refitted(base, slim.apply(plan, checkpoint.without_optimizer()), calibration_texts(text, base))
    found = load(run.slim)
    assert found.sha256 == expected.checkpoint.sha256
    assert found.lineage is not None and found.lineage.refit is not None and found.lineage.refit["on"] == on
    curve = json.loads((run.output / "curve.json").read_text())
    assert curve["refit"]["sha256"] == found.lineage.refit["sha256"] and str(texts[0]) in json.dumps(curve)


def test_a_score_file_with_the_name_of_an_order_does_not_stand_for_it(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(tiny, tmp_path / "alone", orders=("auto",), auto_orders=("importance", "fisher"), refit=False)
    alone = swept(run).swept[0]
    base = load(tiny).base
    heads = tuple(
        HeadScore(head=str(UnitId(module, head)), score=float(-head)) for module, own in base.modules.items()
        for head in range(own)
    )  # fmt: skip
    file = tmp_path / "importance.json"
    file.write_text(Scores(metric="loss", mode="ablate", baseline={"data": "x"}, heads=heads, base=base).to_json())
    both = swept(replace(run, output=tmp_path / "both", orders=(str(file), "auto"))).swept
    assert [each.curve.name for each in both] == ["importance-2", "auto"]
    assert both[0].steps[1].plan.keep != alone.steps[1].plan.keep
    for step, expected in zip(both[1].steps, alone.steps, strict=True):
        assert step.plan.keep == expected.plan.keep and step.value == expected.value
        if step.decision is not None and expected.decision is not None:
            scores = [[own.scored and own.scored.score for own in each.decision.contenders]
                      for each in (step, expected) if each.decision is not None]  # fmt: skip
            assert scores[0] == scores[1]
    assert [step.decision is None for step in both[1].steps] == [True, False, False]


def test_what_cannot_be(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(
        EngineError, match="--refit measures models that are cut, which the engine fairseq does not run"
    ):
        greedy(greedy_run(tiny, tmp_path / "run", engine="fairseq"), Silent())
    for auto, message in (
        (("importance",), "one order has nothing to compete with"),
        (("importance", "random"), "random cannot compete"),
        (("importance", "auto"), "auto cannot compete"),
        (("importance", "importance"), "--auto-orders importance: given twice"),
        (("importance", "nonsense"), "--order 'nonsense': choose"),
    ):
        with pytest.raises(UsageError, match=message):
            parse_orders(["auto"], auto=auto)
    assert not (tmp_path / "run").exists()
    assert parse_orders(["fisher"], auto=("nonsense",))[0].contenders == ()


def test_kinds_and_uniform_plans(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(
        tiny,
        tmp_path / "run",
        orders=("auto",),
        uniform=True,
        kinds=("decoder,cross",),
        until="8",
        step="4",
        refit=False,
    )
    (curve,) = swept(run).swept
    assert [step.removed for step in curve.steps] == [0, 4, 8]
    for step in curve.steps:
        counts = {len(step.plan.kept(GroupId(kind, layer))) for kind in ("decoder", "cross") for layer in range(2)}
        assert len(counts) == 1 and not step.plan.removed(("encoder",))


def test_files_do_not_share_the_name_of_another_order(tmp_path: Path) -> None:
    # Keys of the state begin with these names.
    entry = HeadScore(head="encoder.0.0", score=1.0)
    first, second = (tmp_path / folder / "importance.json" for folder in ("a", "b"))
    for path in (first, second):
        path.parent.mkdir()
        Scores(metric="importance", mode="ablate", baseline={}, heads=(entry,)).write(path)
    own, auto = parse_orders([str(first), "auto"], auto=("importance", str(second)))
    shorts = [order.short for order in (own, auto, *auto.contenders)]
    assert shorts == ["importance-2", "auto", "importance", "importance-3"]
    own, auto = parse_orders([str(first), "auto"], auto=(str(first), "fisher"))
    assert own.short == auto.contenders[0].short == "importance"


def test_curves_that_compete_share_no_name_with_others(tmp_path: Path) -> None:
    entry = HeadScore(head="encoder.0.0", score=1.0)
    file = tmp_path / "random-1.json"
    Scores(metric="importance", mode="ablate", baseline={}, heads=(entry,)).write(file)
    chosen = parse_orders(["random", "fisher", "auto"], auto=("fisher", str(file)))
    found = curves([tmp_path / "a.pt", tmp_path / "b.pt"], chosen, [("encoder",), ("cross",)], samples=2)
    parts = ("random-1", "random-2", "fisher", "auto")
    assert [curve.name for curve in found[:4]] == [f"a-encoder-{part}" for part in parts]
    for place in range(0, 16, 4):
        *listed, fisher, auto = found[place : place + 4]
        assert len(listed) == 2 and auto.entrants[0] == fisher and fisher.entrants == ()
        assert auto.entrants[1].order.name == str(file)
        assert (auto.entrants[1].checkpoint, auto.entrants[1].kinds) == (auto.checkpoint, auto.kinds)
    names = [curve.name for curve in found] + [curve.entrants[1].name for curve in found if curve.entrants]
    assert len(names) == 20 == len(set(names))
