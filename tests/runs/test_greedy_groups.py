"""`greedy` over heads, neurons and layers: every point is that of the cut model, budgets are met, runs resume."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import EVERY_KIND, KINDS, LAYER_KINDS, NEURON_KINDS, SORTS, UnitId
from nmtprune.budget import Limits
from nmtprune.data.options import DataOptions
from nmtprune.engines import native
from nmtprune.errors import BudgetError, DataError, OutputError, UsageError
from nmtprune.evaluate.cost import Lengths, Spread, multiply_accumulates
from nmtprune.evaluate.milliseconds import ModelSize, TimeAxis, TimePoint
from nmtprune.evaluate.prices import MultiplyAccumulates, Parameters
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.methods.chance import random_scores
from nmtprune.methods.importance import (
    GradientOptions,
    Importance,
    ImportanceOptions,
    ImportanceSettings,
    importance,
)
from nmtprune.methods.measuring import batches, drawn
from nmtprune.methods.priced import choose
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.greedy.loop import GreedyResult, greedy
from nmtprune.runs.greedy.setup import GreedyRun
from nmtprune.runs.refit import refitted
from nmtprune.runs.refit_sentences import calibration_texts
from nmtprune.runs.report import FILES
from nmtprune.runs.scorers import SCORERS
from nmtprune.scores import HeadScore, Scores
from tests.support import runs
from tests.support.examples import corpus
from tests.support.fairseq_files import Build
from tests.support.greedy import check_interruptions, swept
from tests.support.notes import Notes
from tests.support.runs import SEARCH, Oracle

WITHIN = (*KINDS, *NEURON_KINDS)
ORDERS = ("importance", "fisher", "reconstruction", "variance", "activation")


def greedy_run(checkpoint: Path, output: Path, **changes: Any) -> GreedyRun:
    options = GradientOptions(importance_sentences=8)
    values: dict[str, Any] = {
        "scorers": (
            Importance(ImportanceOptions(importance_sentences=8)),
            *(SCORERS[name](options) for name in ("fisher", "reconstruction")),
        ),
        "group": "heads,neurons",
        "calibration_sentences": 12,
        "rounds": 2,
    }
    return runs.greedy_run(checkpoint, output, **(values | changes))


def cut(path: Path, plan: Plan) -> Checkpoint:
    """The cut model of a plan, without `greedy`."""
    return slim.apply(plan, load(path).without_optimizer())


@cache
def refit(path: Path, plan: Plan) -> Checkpoint:
    """The refitted model of a plan, without `greedy`."""
    base = native.load(load(path))
    text = drawn(corpus(path.parent / "data-bin", load(path), "train"), 12, 1)
    return refitted(base, cut(path, plan), calibration_texts(text, base), layers=plan.kept_layers()).checkpoint


def macs(checkpoint: Checkpoint, lengths: tuple[list[int], list[int]]) -> float:
    return sum(multiply_accumulates(native.load(checkpoint), *lengths, SEARCH.beam).values())


def lengths_of(path: Path) -> tuple[list[int], list[int]]:
    """Tokens of every source sentence and of its translation by a search of its own."""
    oracle = Oracle(path)
    return oracle.corpus.source.sizes.tolist(), [len(tokens) for tokens in oracle.translations()]


@pytest.fixture(scope="module")
def every(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GreedyResult]:
    folder = tmp_path_factory.mktemp("groups") / "run"
    return folder, swept(greedy_run(tiny, folder, orders=(*ORDERS, "random"), samples=2))


def test_every_point_is_that_of_the_cut_model(tiny: Path, tmp_path: Path, every: tuple[Path, GreedyResult]) -> None:
    folder, _ = every
    content = json.loads((folder / "curve.json").read_text())
    FILES["curve"].model_validate(content)
    assert content["version"] == 2 and content["groups"] == ["heads", "neurons"]
    (tmp_path / "data-bin").symlink_to(tiny.parent / "data-bin")
    base, lengths = load(tiny), lengths_of(tiny)
    full = macs(base, lengths)
    assert content["costs"]["macs"] == pytest.approx(full)
    parameters = sum(tensor.numel() for tensor in base.parameters.values())
    assert content["costs"]["params"] == parameters
    assert content["units"] == {sort: base_count(base, sort) for sort in SORTS}
    for curve in content["curves"]:
        assert [step["macs"] for step in curve["steps"]][0] == 1
        for step in curve["steps"][1:]:
            plan = Plan.read(folder / step["plan"])
            model = cut(tiny, plan)
            model.save(tmp_path / "slim.pt", force=True)
            assert step["bleu"] == pytest.approx(Oracle(tmp_path / "slim.pt").bleu({}), abs=1e-9)
            assert step["macs"] == pytest.approx(macs(model, lengths) / full)
            assert step["parameters"] * parameters == pytest.approx(
                sum(tensor.numel() for tensor in model.parameters.values())
            )
            assert step["units"] == {sort: len(plan.removed(SORTS[sort])) for sort in SORTS}
            assert step["removed"] == len(plan.removed(WITHIN)) and step["kept"] == plan.count_kept(WITHIN)


def base_count(checkpoint: Checkpoint, sort: str) -> int:
    return sum(len(numbers) for id, numbers in checkpoint.base.units.items() if id.kind in SORTS[sort])


def test_steps_are_shares_of_what_all_units_cost(tiny: Path, every: tuple[Path, GreedyResult]) -> None:
    _, result = every
    base = load(tiny)
    prices = MultiplyAccumulates.of(base, Lengths.of(*lengths_of(tiny), SEARCH.beam))
    full, least = prices.total({}), prices.total(dict.fromkeys((group.id for group in base.architecture.groups), ()))
    largest = max(prices.units.values())
    for each in result.swept:
        assert [step.name for step in each.steps] == ["000", "025", "050"]
        for before, step in zip(each.steps, each.steps[1:], strict=False):
            goal = full - (full - least) * int(step.name) / 100
            assert goal - largest < prices.total(step.plan.kept_units) <= goal
            assert set(before.plan.removed(WITHIN)) < set(step.plan.removed(WITHIN))
    rows = [line.split("\t") for line in (result.report.tsv or "").splitlines()]
    columns = "checkpoint order sample kinds removed kept heads neurons layers macs parameters speed bleu"
    assert rows[0][:13] == columns.split() and len(rows) == 1 + 3 * 7
    (mean,) = json.loads(result.report.json)["means"]
    samples = zip(*(each.steps for each in result.swept[-2:]), strict=True)
    assert [step["macs"] for step in mean["steps"]] == pytest.approx(
        [sum(step.cost.macs for step in steps if step.cost is not None) / 2 for steps in samples]
    )


def test_a_budget_gives_one_plan(tiny: Path, tmp_path: Path) -> None:
    base = load(tiny)
    run = greedy_run(tiny, tmp_path / "run", group=None, orders=("variance",), budgets=("params=80%",), refit=True)
    (curve,) = swept(run).swept
    assert [step.name for step in curve.steps] == ["000", "params-80"]
    plan = Plan.read(tmp_path / "run" / "plan.json")
    prices = Parameters.of(base)
    assert prices.total(plan.kept_units) <= 0.8 * prices.total({})
    one_less = prices.total(plan.kept_units) + min(price for price in prices.units.values() if price)
    assert one_less > 0.8 * prices.total({})
    found = load(tmp_path / "run" / "slim.pt")
    assert found.sha256 == refit(tiny, plan).sha256
    assert found.base.neurons != base.base.neurons and plan.version == 2
    assert curve.steps[1].value == pytest.approx(runs_bleu(found, tiny, tmp_path), abs=1e-9)


def runs_bleu(checkpoint: Checkpoint, tiny: Path, folder: Path) -> float:
    place = folder / "alone"
    place.mkdir()
    (place / "data-bin").symlink_to(tiny.parent / "data-bin")
    checkpoint.save(place / "slim.pt")
    return Oracle(place / "slim.pt").bleu({})


def test_several_budgets_are_a_curve_whose_plans_are_nested(tiny: Path, tmp_path: Path) -> None:
    budgets = ("macs=60%", "macs=90%", "macs=75%")
    run = greedy_run(tiny, tmp_path / "run", group=None, orders=("importance",), budgets=budgets)
    steps = swept(run).swept[0].steps
    assert [step.name for step in steps] == ["000", "macs-90", "macs-75", "macs-60"]
    for budget, before, step in zip((0.9, 0.75, 0.6), steps, steps[1:], strict=False):
        assert step.cost is not None and budget - 0.05 < step.cost.macs <= budget
        assert set(before.plan.removed(WITHIN)) < set(step.plan.removed(WITHIN))
    alone = swept(greedy_run(tiny, tmp_path / "alone", group=None, orders=("importance",), budgets=budgets[2:]))
    assert alone.swept[0].steps[1].plan.keep == steps[2].plan.keep


def test_importance_is_divided_by_what_units_cost(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(tiny, tmp_path / "run", orders=("importance",), budgets=("macs=75%",))
    plan = swept(run).swept[0].steps[1].plan
    base = load(tiny)
    prices = MultiplyAccumulates.of(base, Lengths.of(*lengths_of(tiny), SEARCH.beam))
    text, measured_by = (
        batches(drawn(corpus(tiny.parent / "data-bin", base, "train"), 8, 1)),
        ImportanceSettings(label_smoothing=base.label_smoothing()),
    )
    scores = importance(native.load(base), text, measured_by, sorts=("heads", "neurons"))
    chosen = choose(scores, prices, 0.75 * prices.total({}), base.base.units, Limits(WITHIN))
    assert plan.removed(WITHIN) == chosen
    alike = dict.fromkeys(scores, 1.0)
    assert chosen != choose(alike, prices, 0.75 * prices.total({}), base.base.units, Limits(WITHIN))


@pytest.mark.parametrize("group", ["neurons", "layers"])
def test_one_sort_goes_by_number(tiny: Path, tmp_path: Path, group: str) -> None:
    order = "variance" if group == "neurons" else "random"
    run = greedy_run(tiny, tmp_path / "run", group=group, orders=(order,), step="50%", until=None)
    steps = swept(run).swept[0].steps
    count = base_count(load(tiny), group)
    most = count if group == "neurons" else count - 2
    assert [step.removed for step in steps] == sorted({0, most, min(most, count // 2)})
    assert [step.name for step in steps] == [f"{step.removed:03}" for step in steps]
    for step in steps:
        assert step.cost is not None and {unit.group.kind for unit in step.plan.removed(EVERY_KIND)} <= {
            *SORTS[group], *(WITHIN if group == "layers" else ()),
        }  # fmt: skip


def test_the_layer_without_which_the_loss_is_lowest_goes(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(tiny, tmp_path / "run", group="layers", orders=("loss",), step="1", until="2")
    steps = swept(run).swept[0].steps
    assert [step.removed for step in steps] == [0, 1, 2]
    (tmp_path / "data-bin").symlink_to(tiny.parent / "data-bin")

    def loss(plan: Plan) -> float:
        cut(tiny, plan).save(tmp_path / "slim.pt", force=True)
        return Oracle(tmp_path / "slim.pt").loss({})

    for before, step in zip(steps, steps[1:], strict=False):
        gone = before.plan.removed(LAYER_KINDS)
        left = [unit for unit in before.plan.kept_ids(LAYER_KINDS) if len(before.plan.kept(unit.group)) > 1]
        losses = {unit: loss(Plan.removing(before.plan.base, [*gone, unit])) for unit in left}
        assert set(step.plan.removed(LAYER_KINDS)) - set(gone) == {min(losses, key=lambda unit: losses[unit])}


def test_layers_compete_with_units_at_equal_savings(tiny: Path, tmp_path: Path) -> None:
    run = greedy_run(tiny, tmp_path / "run", group="heads,neurons,layers", orders=("fisher",), step="40%", until="80%")
    result = swept(run)
    steps = result.swept[0].steps
    assert [step.name for step in steps] == ["000", "040", "080"]
    assert steps[-1].of_sort("layers") >= 1 or steps[-1].of_sort("neurons") > 0
    units = json.loads((tmp_path / "run" / "state.json").read_text())["units"]
    assert any(name.endswith(" layers") for name in units)
    for step in steps[1:]:
        assert step.cost is not None
        assert min(len(step.plan.kept(id)) for id in step.plan.base.units if id.kind in LAYER_KINDS) >= 1


def test_uniform_plans_and_multiples(tiny: Path, tmp_path: Path) -> None:
    changes = {"uniform": True, "multiple_of": 4, "orders": ("variance", "random"), "budgets": ("macs=85%", "macs=70%")}
    for each in swept(greedy_run(tiny, tmp_path / "run", **changes)).swept:
        assert [step.name for step in each.steps] == ["000", "macs-85", "macs-70"]
        for step in each.steps:
            for kinds in (("encoder",), ("decoder", "cross"), *((kind,) for kind in NEURON_KINDS)):
                counts = {len(step.plan.kept(id)) for id in step.plan.base.units if id.kind in kinds}
                assert len(counts) == 1 and counts != {0}
                assert kinds[0] not in NEURON_KINDS or counts.pop() % 4 == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"orders": ("auto", "importance-reestimated"), "auto_orders": ("fisher", "variance"),
         "group": "heads,neurons,layers", "step": "40%", "until": "40%"},
        pytest.param({"orders": ("reconstruction",), "budgets": ("macs=80%", "macs=60%"), "multiple_of": 4},
                     marks=pytest.mark.slow),
        {"orders": ("loss",), "group": "layers", "step": "1", "until": "2"},
    ],
    ids=["groups", "budgets", "layers"],
)  # fmt: skip
def test_interrupted_after_every_piece_of_work(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    run = greedy_run(tiny, tmp_path / "whole", refit=True, **changes)
    check_interruptions(run, tmp_path, 5, monkeypatch)


def test_several_checkpoints_have_costs_of_their_own(tiny: Path, build: Build, tmp_path: Path) -> None:
    later = build(
        updates=4, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0
    )
    common = {"orders": ("variance",), "budgets": ("macs=80%",)}
    run = greedy_run(tiny, tmp_path / "run", checkpoints=(tiny, later), **common)
    result = swept(run)
    alone = swept(greedy_run(later, tmp_path / "alone", data=run.data, importance_data=run.importance_data, **common))
    assert [(step.plan.keep, step.value, step.cost) for step in result.swept[1].steps] == [
        (step.plan.keep, step.value, step.cost) for step in alone.swept[0].steps
    ]


def test_what_cannot_be(tiny: Path, build: Build, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(kind, match=message):
            greedy(greedy_run(tiny, tmp_path / "run", **changes), Silent())
        assert not (tmp_path / "run").exists()

    refused(UsageError, "unknown group 'words'", group="words")
    refused(UsageError, "confidence: neurons: ", orders=("confidence",))
    refused(UsageError, "ablation: neurons: ", orders=("ablation",))
    refused(
        UsageError,
        "--order importance: has no scores of layers; layers alone go by --order loss",
        group="layers",
        orders=("importance",),
    )
    refused(UsageError, "--order loss: has no scores of heads and neurons", orders=("loss",))
    refused(UsageError, "--budget speed=1.5x: how fast models are is measured", budgets=("speed=1.5x",))
    refused(UsageError, "--cost-table goes with --budget speed", cost_table=tiny)
    refused(UsageError, "of one kind, not of macs and params", budgets=("macs=50%", "params=50%"))
    refused(UsageError, "--step 5: steps over several groups are percentages", step="5")
    refused(UsageError, "'x' is no amount of neurons", group="neurons", step="x")
    refused(BudgetError, "the smallest possible", orders=("variance",), budgets=("macs=1%",))
    refused(
        BudgetError, "layers cannot be removed: 0 to 2 of the 4 layers", group="layers", orders=("loss",), until="3"
    )
    refused(UsageError, "no neurons of kind cross", group="neurons", kinds=("cross",))
    refused(UsageError, "--multiple-of goes with --group neurons", group="heads", multiple_of=8)
    refused(UsageError, "--min-heads-per-module goes with --group heads", group="neurons", min_heads_per_module=1)
    refused(UsageError, "--uniform goes with", group="layers", orders=("loss",), uniform=True)


def test_data_that_are_read(tiny: Path, tmp_path: Path) -> None:
    """Heads alone under a budget are a curve against costs too, and old readers know it by its version."""
    run = greedy_run(tiny, tmp_path / "run", group="heads", orders=("random",), budgets=("macs=95%",))
    result = swept(run)
    found = json.loads(result.report.json)
    assert found["version"] == 2 and found["budgets"] == ["macs=95%"] and found["groups"] == ["heads"]
    assert not result.swept[0].steps[1].plan.removed(NEURON_KINDS)
    assert run.data == DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    assert all(isinstance(unit, UnitId) for unit in result.swept[0].steps[1].plan.removed())


def cost_table(path: Path, checkpoint: Checkpoint, whole: float = 8.0) -> Path:
    """A table by which the feed-forward layers of the encoder take half of the time, and those of the decoder none."""

    def axis(kinds: tuple[str, ...], share: float) -> TimeAxis:
        points = (TimePoint(left, Spread.of([1 - share * (1 - left)])) for left in (0.0, 0.5))
        return TimeAxis(kinds, padded=False, points=tuple(points))

    axes = (
        *(axis(kinds, 0.1) for kinds in (("encoder",), ("decoder", "cross"))),
        axis(("encoder-ffn",), 0.5), axis(("decoder-ffn",), 0.0), *(axis((kind,), 0.2) for kind in LAYER_KINDS),
    )  # fmt: skip
    table = CostTable(
        format="nmtprune-cost-table", version=1, engine="native", compute_type=None, device="cpu", threads=1,
        clock="wall",
        batch_size=8, beam=5, sentences=64, source_length=20, target_length=20, repeat=5,
        model=ModelSize.of(checkpoint), milliseconds=Spread.of([whole]), axes=axes, vocabulary=(), combined=(),
        provenance={},
    )  # fmt: skip
    path.write_text(table.to_json())
    return path


def test_a_budget_of_speed_goes_by_the_table(tiny: Path, build: Build, tmp_path: Path) -> None:
    table, budget = cost_table(tmp_path / "table.json", load(tiny)), ("speed=1.25x",)
    run = greedy_run(tiny, tmp_path / "run", budgets=budget, cost_table=table, orders=("importance", "fisher"))
    notes = Notes()
    result = swept(run, notes)
    for each in result.swept:
        step = each.steps[1]
        assert step.name == "speed-1.25x" and step.cost is not None and step.cost.speed is not None
        assert 1.25 - 1e-9 <= step.cost.speed < 1.35
        assert not step.plan.removed(("decoder-ffn",)), "what saves no time is not removed"
    content = json.loads(result.report.json)
    FILES["curve"].model_validate(content)
    assert content["costs"]["speed"] == pytest.approx(8.0)
    speeds = [step["speed"] for step in content["curves"][0]["steps"]]
    assert speeds[0] == 1 and 1.25 - 1e-9 <= speeds[1] < 1.35
    assert content["cost_table"]["engine"] == "native" and content["cost_table"]["beam"] == 5
    assert any("; translations are measured with --beam" in line for line in notes.lines)
    other = cost_table(tmp_path / "other.json", load(build(heads=(2, 4))))
    for path, message in ((other, "measured on a model of another size"), (tiny, "not UTF-8 text")):
        with pytest.raises(DataError, match=message):
            greedy(replace(run, output=tmp_path / "none", cost_table=path), Silent())
    cost_table(table, load(tiny), whole=9.0)
    with pytest.raises(OutputError, match="cost table was"):
        greedy(replace(run, resume=True), Silent())
    with pytest.raises(BudgetError, match="the smallest possible"):
        greedy(replace(run, output=tmp_path / "none", budgets=("speed=9x",)), Silent())
    assert not (tmp_path / "none").exists()


def test_ablation_orders_heads_and_layers_together(tiny: Path, tmp_path: Path) -> None:
    """Both are drops in quality, so that no loss is asked for."""
    run = greedy_run(tiny, tmp_path / "run", group="heads,layers", orders=("ablation",), step="50%", until="50%")
    steps = swept(run).swept[0].steps
    units = json.loads((tmp_path / "run" / "state.json").read_text())["units"]
    assert not any(name.endswith(" layers") for name in units)
    assert sum(name.startswith("checkpoint 1/ablation ") and "layers" in name for name in units) == 4
    assert steps[1].cost is not None and steps[1].cost.macs < 1
    assert not steps[1].plan.removed(NEURON_KINDS) or steps[1].of_sort("layers")


@pytest.mark.parametrize("group", ["layers", "heads,neurons,layers"])
def test_score_files_order_what_they_score(tiny: Path, tmp_path: Path, group: str) -> None:
    """A file of random scores gives the plans of scores that were never measured; layers it lacks go by the loss."""
    base = load(tiny).base
    kinds = [kind for sort in group.split(",") for kind in SORTS[sort]]
    scores = random_scores({id: numbers for id, numbers in base.units.items() if id.kind in kinds}, 3)
    entries = [HeadScore(head=str(unit), score=score) for unit, score in scores.items()]
    file = tmp_path / "scores.json"
    Scores.of(entries, metric="loss", mode="ablate", baseline={"data": "x"}, base=base).write(file)
    run = greedy_run(tiny, tmp_path / "run", group=group, orders=(str(file),), budgets=("params=80%",))
    plan = swept(run).swept[0].steps[1].plan
    prices = Parameters.of(load(tiny))
    chosen = choose(scores, prices, 0.8 * prices.total({}), base.units, Limits(tuple(kinds)))
    assert plan.keep == Plan.removing(base, chosen).keep


@pytest.mark.parametrize("sorts", ["heads", "heads,neurons"])
def test_an_order_made_without_prices_is_none_under_a_budget(tiny: Path, tmp_path: Path, sorts: str) -> None:
    """Its scores are places: a neuron would count as much as a head."""
    base = load(tiny).base
    kinds = [kind for sort in sorts.split(",") for kind in SORTS[sort]]
    units = [UnitId(id, number) for id, numbers in base.units.items() if id.kind in kinds for number in numbers]
    entries = [HeadScore(head=str(unit), score=float(place)) for place, unit in enumerate(units)]
    file = tmp_path / "fisher.json"
    Scores.of(entries, metric="fisher", mode="ablate", baseline={"data": "x"}, base=base).write(file)
    run = greedy_run(tiny, tmp_path / "run", group=sorts, orders=(str(file),), budgets=("macs=90%",))
    if sorts == "heads":
        notes = Notes()
        swept(run, notes)
        assert any("an order that knows of no costs; --order fisher goes by them" in line for line in notes.lines)
        return
    with pytest.raises(UsageError, match="heads and neurons count alike, whatever they cost: give --order fisher"):
        greedy(run, Silent())
    assert not (tmp_path / "run").exists()
