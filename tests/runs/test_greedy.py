"""Greedy runs: every point is that of a search from scratch, interrupted runs end with the same files, rules hold."""

import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nmtprune import slim
from nmtprune.architecture import UnitId
from nmtprune.budget import Limits, lowest
from nmtprune.engines import native
from nmtprune.errors import BudgetError, DataError, OutputError, UsageError
from nmtprune.evaluate.significance import Difference
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.methods.chance import random_scores
from nmtprune.methods.importance import (
    Importance,
    ImportanceOptions,
    ImportanceSettings,
    importance,
    module_norms,
    normalized,
)
from nmtprune.methods.measuring import batches
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.greedy.loop import GreedyResult, greedy
from nmtprune.runs.greedy.setup import GreedyRun
from nmtprune.runs.quality import DropRule
from nmtprune.runs.score import score
from nmtprune.runs.scorers import orders
from nmtprune.runs.state import Interrupted, State
from tests.support.examples import corpus
from tests.support.fairseq_files import Build
from tests.support.marian_files import marian_model
from tests.support.reads import counted_reads
from tests.support.runs import Oracle, greedy_run, score_run

ON_TEN = ImportanceOptions(importance_sentences=10)


def _run(checkpoint: Path, output: Path, **changes: Any) -> GreedyRun:
    return greedy_run(checkpoint, output, **({"samples": 2, "until": "75%"} | changes))


def _swept(run: GreedyRun) -> GreedyResult:
    result = greedy(run, Silent())
    assert result is not None
    return result


ALL = ("importance", "importance-reestimated", "ablation", "confidence", "random")


@pytest.fixture(scope="module")
def swept(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GreedyResult]:
    """A run with every order."""
    folder = tmp_path_factory.mktemp("greedy") / "run"
    return folder, _swept(_run(tiny, folder, orders=ALL))


def test_every_point_is_a_search_of_its_own(tiny: Path, swept: tuple[Path, GreedyResult]) -> None:
    folder, result = swept
    oracle = Oracle(tiny)
    names = ["importance", "importance-reestimated", "ablation", "confidence", "random-1", "random-2"]
    content = json.loads((folder / "curve.json").read_text())
    assert [curve["name"] for curve in content["curves"]] == names
    full = oracle.bleu({})
    values = set()
    for curve in content["curves"]:
        assert [step["removed"] for step in curve["steps"]] == [0, 6, 12, 18]
        for step in curve["steps"]:
            plan = Plan.read(folder / step["plan"])
            assert len(plan.removed()) == step["removed"] and plan.count_kept() == step["kept"]
            kept = {module: plan.kept(module) for module in plan.base.modules}
            assert step["bleu"] == pytest.approx(oracle.bleu(native.masks_of(oracle.model, kept)), abs=1e-9)
            assert step["relative"] == pytest.approx(step["bleu"] / full)
            assert step["ci"][0] <= step["ci"][1] and 0 < step["p"] <= 1
            values.add(step["bleu"])
        assert curve["steps"][0]["p"] == 1 and curve["steps"][0]["ci"] == [curve["steps"][0]["bleu"]] * 2
    assert len(values) > 6
    assert (folder / "curve.json").read_text() == result.report.json
    assert (folder / "curve.tsv").read_text() == result.report.tsv


def test_files(swept: tuple[Path, GreedyResult]) -> None:
    folder, _ = swept
    expected = {"state.json", "curve.json", "curve.tsv", "curve.png", "plan.json", "plans"}
    assert {path.name for path in folder.iterdir()} == expected
    content = json.loads((folder / "curve.json").read_text())
    header, *rows = [line.split("\t") for line in (folder / "curve.tsv").read_text().splitlines()]
    assert header == [
        "checkpoint", "order", "sample", "kinds", "removed", "kept", "bleu", "ci_low", "ci_high", "p", "relative",
    ]  # fmt: skip
    steps = [(curve, step) for curve in content["curves"] for step in curve["steps"]]
    assert len(rows) == len(steps) == 24
    for row, (curve, step) in zip(rows, steps, strict=True):
        assert row[1:6] == [
            curve["order"], str(curve["sample"] or ""), "encoder,decoder,cross", str(step["removed"]),
            str(step["kept"]),
        ]  # fmt: skip
        assert [float(cell) for cell in row[6:]] == [step["bleu"], *step["ci"], step["p"], step["relative"]]
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert json.loads((folder / "state.json").read_text())["format"] == "nmtprune-state"
    last = Plan.read(folder / "plans" / "importance" / "018.json")
    assert Plan.read(folder / "plan.json").keep == last.keep


def test_random_samples_and_their_mean(tiny: Path, swept: tuple[Path, GreedyResult]) -> None:
    folder, _ = swept
    content = json.loads((folder / "curve.json").read_text())
    samples = [curve for curve in content["curves"] if curve["order"] == "random"]
    base = load(tiny).base
    for curve in samples:
        scores = random_scores(base.modules, curve["sample"])
        for step in curve["steps"]:
            assert Plan.read(folder / step["plan"]).removed() == lowest(scores, step["removed"], base.modules, Limits())
    (mean,) = content["means"]
    assert mean["samples"] == 2
    for place, step in enumerate(mean["steps"]):
        values = [curve["steps"][place]["bleu"] for curve in samples]
        assert step["bleu"] == pytest.approx(sum(values) / 2)
        assert step["sd"] == pytest.approx(statistics.stdev(values))


def _pass(checkpoint: Path, plan: Plan) -> dict[UnitId, float]:
    """Importance on the training set of the model that a plan leaves."""
    loaded = load(checkpoint)
    model = native.load(loaded)
    masks = native.masks_of(model, {module: plan.kept(module) for module in plan.base.modules})
    sentences = batches(corpus(checkpoint.parent / "data-bin", loaded, "train"))
    return importance(model, sentences, ImportanceSettings(), masks)


def test_importance_is_measured_again_by_the_norms_of_the_first_pass(tiny: Path, tmp_path: Path) -> None:
    scorers = (Importance(ImportanceOptions(importance_normalize="layer")),)
    run = _run(tiny, tmp_path / "run", reestimate=True, scorers=scorers, step="4", until="20")
    steps = _swept(run).swept[0].steps
    base = load(tiny).base
    first = _pass(tiny, Plan.keep_all(base))
    by_own_norms = False
    for before, after in zip(steps, steps[1:], strict=False):
        found = _pass(tiny, before.plan)
        scores = normalized(found, module_norms(first))
        worst = sorted(before.plan.kept_ids(), key=lambda head: (scores[head], head))[:4]
        assert set(after.plan.removed()) - set(before.plan.removed()) == set(worst)
        own = normalized(found)
        by_own_norms |= set(worst) != set(sorted(before.plan.kept_ids(), key=lambda head: (own[head], head))[:4])
    assert by_own_norms


def _content(folder: Path) -> dict[str, Any]:
    """Every file of a run but its state, without provenance."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json" and path.name != "state.json":
            found[name] = json.loads(path.read_text())
            del found[name]["provenance"]
        elif path.is_file() and path.name != "state.json":
            found[name] = path.read_bytes()
    return found


def test_interrupted_after_every_piece_of_work(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = ("importance-reestimated", "ablation", "random")
    run = _run(tiny, tmp_path / "whole", orders=orders, kinds=("encoder,cross",), until="50%", samples=1)
    _swept(run)
    interrupted = replace(run, output=tmp_path / "pieces", resume=True)
    add, times = State.add, 0

    def add_and_end(state: State, unit: str, packed: bytes) -> None:
        add(state, unit, packed)
        raise KeyboardInterrupt

    monkeypatch.setattr(State, "add", add_and_end)
    where = tmp_path / "pieces" / "state.json"
    for _ in range(40):
        try:
            result = greedy(interrupted, Silent())
            break
        except Interrupted as error:
            times += 1
            expected = (
                f"interrupted: finished work is kept in {where.parent}; run the same command with --resume to continue"
            )
            assert (str(error), error.exit_code) == (expected, 130)
            assert [path.name for path in where.parent.iterdir()] == ["state.json"]
    assert result is not None
    units = json.loads(where.read_text())["units"]
    assert times == len(units) == len(json.loads((tmp_path / "whole" / "state.json").read_text())["units"]) >= 13
    assert _content(tmp_path / "pieces") == _content(tmp_path / "whole")


def test_a_finished_run_resumes_to_the_same_files(tiny: Path, tmp_path: Path) -> None:
    run = _run(tiny, tmp_path / "run")
    _swept(run)
    before = _content(run.output)
    (run.output / "curve.tsv").unlink()
    _swept(replace(run, resume=True))
    assert _content(run.output) == before


def test_runs_of_other_settings_are_refused(tiny: Path, tmp_path: Path) -> None:
    run = _run(tiny, tmp_path / "run", until="25%")
    _swept(run)
    other = replace(run, resume=True, step="5", orders=("random",), kinds=("cross",))
    with pytest.raises(OutputError) as raised:
        greedy(other, Silent())
    message, _, last = str(raised.value).rpartition("; ")
    assert re.fullmatch(r'sentences for importance was "[0-9a-f]+\.\.\., is not given', last)
    assert message == (
        f"{run.output / 'state.json'}: of a run with other settings (repeat them, or start over with --force and "
        'without --resume): --order was ["importance"], is ["random"]; --kinds was [["encoder", "decoder", "cross"]], '
        'is [["cross"]]; --step was "25%", is "5"; --importance-sentences was 10, is not given; '
        '--importance-unit was "sentence", is not given; --importance-normalize was "none", is not given'
    )
    with pytest.raises(
        OutputError, match=f"^{run.output}: holds a run already: --resume continues it, --force starts over$"
    ):
        greedy(run, Silent())
    _swept(replace(run, force=True, orders=("random",)))
    assert sorted(path.name for path in run.output.glob("plans/*/*")) == [
        "000.json",
        "000.json",
        "006.json",
        "006.json",
    ]


def test_a_damaged_state(tiny: Path, tmp_path: Path) -> None:
    run = _run(tiny, tmp_path / "run", orders=("random",), samples=1, until="25%")
    _swept(run)
    state = run.output / "state.json"
    whole = json.loads(state.read_text())
    for damaged in ("{", "[]", json.dumps({**whole, "units": {"checkpoint 1/unpruned": "AAAA"}})):
        state.write_text(damaged)
        with pytest.raises(OutputError) as raised:
            greedy(replace(run, resume=True), Silent())
        advice = "start over with --force and without --resume"
        assert str(raised.value) == f"{state}: cannot be read: damaged, or no state file; {advice}"


def test_folders(tiny: Path, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").write_text("")
    file.write_text("")
    for output, message in (
        (full, f"{full}: is not empty (--force writes into it)"),
        (file, f"{file}: is a file, not a run folder"),
        (tmp_path / "none" / "run", f"{tmp_path / 'none' / 'run'}: {tmp_path / 'none'} does not exist"),
    ):
        with pytest.raises(OutputError) as raised:
            greedy(_run(tiny, output), Silent())
        assert str(raised.value) == message
    (full / "plan.json").symlink_to(tiny)
    with pytest.raises(OutputError, match="is the input file"):
        greedy(_run(tiny, full, force=True), Silent())
    assert sorted(path.name for path in full.iterdir()) == ["mine", "plan.json"]


def test_max_drop_ends_a_curve(tiny: Path, tmp_path: Path, swept: tuple[Path, GreedyResult]) -> None:
    values = [step.value for step in _curve(swept[1], "random-1")]
    drops = [values[0] - value for value in values]
    worst = max(drops)
    assert worst > 0
    run = _run(tiny, tmp_path / "run", orders=("random",), samples=1, max_drop=repr(worst - 1e-9))
    steps = _swept(run).swept[0].steps
    place = drops.index(worst)
    assert [step.broken for step in steps] == [False] * place + [True]
    assert Plan.read(run.output / "plan.json").removed() == steps[place - 1].plan.removed()
    allowed = _swept(replace(run, output=tmp_path / "all", max_drop=repr(worst + 1e-9))).swept[0]
    assert len(allowed.steps) == len(values) and allowed.chosen == allowed.steps[-1]


def _curve(result: GreedyResult, name: str) -> tuple[Any, ...]:
    return next(each.steps for each in result.swept if each.curve.name == name)


def test_significant_drops_end_a_curve(tiny: Path, tmp_path: Path, swept: tuple[Path, GreedyResult]) -> None:
    every = _curve(swept[1], "random-1")
    broken = [step.difference.p < 0.6 and step.difference.delta < 0 for step in every]
    assert any(broken)
    run = _run(tiny, tmp_path / "run", orders=("random",), samples=1, max_drop="significant", alpha=0.6)
    steps = _swept(run).swept[0].steps
    assert [step.broken for step in steps] == broken[: broken.index(True) + 1]


@pytest.mark.parametrize(
    ("text", "delta", "significant", "broken"),
    [
        ("0.5", -0.5, True, False),
        ("0.5", -0.51, False, True),
        ("0", 0.0, False, False),
        ("0", -0.01, False, True),
        ("significant", -0.01, True, True),
        ("significant", 0.01, True, False),
        ("significant", -9.0, False, False),
    ],
)
def test_drop_rules(text: str, delta: float, significant: bool, broken: bool) -> None:
    difference = Difference(delta, (delta, delta), 0.5, 0.5, None, significant, 0.5, 0.5)
    assert DropRule.parse(text).broken_by(difference) == broken


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "much"])
def test_no_drop_rule(text: str) -> None:
    with pytest.raises(UsageError, match=f"--max-drop '{text}': give a number of points from 0 on, or significant"):
        DropRule.parse(text)


def test_the_plan_is_ready_for_slim(tiny: Path, swept: tuple[Path, GreedyResult]) -> None:
    checkpoint, plan = load(tiny), Plan.read(swept[0] / "plan.json")
    plan.check(checkpoint.base)
    cut = slim.apply(plan, checkpoint)
    assert cut.architecture.count() == 6
    assert verify(checkpoint, cut, plan).ok
    assert plan.provenance["order"] == "importance" and plan.provenance["plan"] == "plans/importance/018.json"


def test_ablation_is_what_score_gives(tiny: Path, tmp_path: Path, swept: tuple[Path, GreedyResult]) -> None:
    file = tmp_path / "scores.json"
    scores = score(score_run(tiny, file), Silent())
    assert scores is not None
    result = _swept(_run(tiny, tmp_path / "run", orders=(str(file),)))
    assert [step.plan for step in result.swept[0].steps] == [step.plan for step in _curve(swept[1], "ablation")]
    expected = lowest(scores.scores_by_head(), 18, load(tiny).base.modules, Limits())
    assert Plan.read(tmp_path / "run" / "plans" / "scores" / "018.json").removed() == expected


def test_kinds_have_curves_of_their_own(tiny: Path, tmp_path: Path) -> None:
    kinds = ("cross", "encoder,decoder")
    run = _run(tiny, tmp_path / "run", orders=("random",), samples=1, kinds=kinds, min_heads_per_module=1, step="3")
    result = _swept(run)
    assert [each.curve.name for each in result.swept] == ["cross-random-1", "encoder+decoder-random-1"]
    assert [[step.removed for step in each.steps] for each in result.swept] == [[0, 3, 6], [0, 3, 6, 9, 12]]
    assert [[step.kept for step in each.steps] for each in result.swept] == [[8, 5, 2], [16, 13, 10, 7, 4]]
    for each in result.swept:
        for step in each.steps:
            assert all(step.plan.kept(module) for module in step.plan.base.modules)
            assert {head.group.kind for head in step.plan.removed()} <= set(each.curve.kinds)


def test_several_checkpoints(tiny: Path, build: Build, tmp_path: Path) -> None:
    later = build(
        updates=4, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0
    )
    run = _run(tiny, tmp_path / "run", checkpoints=(tiny, later), orders=("confidence",), until="50%")
    result = _swept(run)
    assert [each.curve.name for each in result.swept] == ["checkpoint-confidence", "checkpoint-2-confidence"]
    assert [each.checkpoint for each in result.swept] == [str(tiny), str(later)]
    alone = _swept(_run(later, tmp_path / "alone", orders=("confidence",), until="50%", data=run.data)).swept[0]
    assert [step.plan for step in result.swept[1].steps] == [step.plan for step in alone.steps]
    assert [step.value for step in result.swept[1].steps] == [step.value for step in alone.steps]
    relative = [step.relative for step in alone.steps]
    assert relative[0] == 1 and all(
        math.isclose(r or 0, s.value / alone.steps[0].value) for r, s in zip(relative, alone.steps, strict=True)
    )
    Plan.read(run.output / "plan.json").check(load(tiny).base)


def test_checkpoints_and_sentences_are_read_once(
    tiny: Path, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = build(
        updates=4, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True, dropout=0.0
    )
    orders = ("confidence", "importance", "ablation")
    run = _run(tiny, tmp_path / "run", checkpoints=(tiny, later), orders=orders, kinds=("cross",), until="25%")
    with counted_reads() as reads:
        _swept(run)
    assert sorted(path for path, _ in reads.checkpoints.elements()) == sorted([tiny.resolve(), later.resolve()])
    assert sorted(reads.subsets) == ["train", "valid"]


def test_what_cannot_be(tiny: Path, build: Build, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(kind) as raised:
            greedy(_run(tiny, tmp_path / "run", **changes), Silent())
        assert str(raised.value) == message
        assert not (tmp_path / "run").exists()

    refused(UsageError, "--reestimate goes with --order importance", reestimate=True, orders=("random",))
    refused(UsageError, "--order random: given twice", orders=("random", "random"))
    refused(
        UsageError,
        f"--order 'chance': choose {', '.join(orders())} or a score file",
        orders=("chance",),
    )
    missing = tmp_path / "none.json"
    refused(DataError, f"{missing}: cannot be read: No such file or directory", orders=(str(missing),))
    refused(UsageError, f"the same checkpoint twice: {tiny}, {tiny}", checkpoints=(tiny, tiny))
    refused(UsageError, "--kinds cross, cross: the same kinds twice", kinds=("cross", "cross"))
    wider = build(heads=(2, 4))
    refused(
        UsageError,
        f"checkpoints of one training run have the same heads as {tiny}: {wider}: encoder heads 2, 2, not 4, 4",
        checkpoints=(tiny, wider),
    )
    early, late = (
        marian_model(tmp_path / f"{name}.npz", dec_depth=3, transformer_tied_layers=tied)
        for name, tied in (("early", [1, 1, 3]), ("late", [1, 2, 2]))
    )
    refused(
        UsageError,
        f"checkpoints of one training run have the same heads as {early}: {late}: decoder layers are tied in another "
        f"way; {late}: cross layers are tied in another way",
        checkpoints=(early, late),
    )
    refused(
        BudgetError,
        "22 heads cannot be removed: 0 to 18 of the 24 heads (encoder, decoder, cross) can, since every module keeps "
        "at least 1",
        until="90%",
        min_heads_per_module=1,
    )
