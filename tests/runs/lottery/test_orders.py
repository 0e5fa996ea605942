"""Tickets by other orders than confidence, and tickets that are refitted before they are trained."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.engines import native
from nmtprune.errors import DataError, OutputError, UsageError
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.methods.importance import GradientOptions, ImportanceOptions
from nmtprune.methods.measuring import drawn
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.ancestry import is_refitted
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.lottery.job import prepare
from nmtprune.runs.lottery.rewinding import LotteryResult, lottery
from nmtprune.runs.refit import refitted
from nmtprune.runs.refit_sentences import calibration_texts
from nmtprune.runs.run import started
from nmtprune.scores import Scores
from tests.support.runs import FAST, content, killed_lottery, lottery_run

REFITTED: dict[str, Any] = {
    "order": "reconstruction",
    "scoring": GradientOptions(importance_sentences=10),
    "min_heads_per_module": 1,
    "heads_per_iteration": 15,
    "until": "15",
    "refit": True,
    "calibration_sentences": 12,
}
"""All in one iteration."""
TWICE = REFITTED | {
    "heads_per_iteration": 9,
    "converge_iterations": (2,),
    "converge_updates": 5,
    "controls": ("random", "reinit"),
}


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LotteryResult]:
    """15 of 24 heads by reconstruction, and a refitted ticket."""
    folder = tmp_path_factory.mktemp("lottery") / "run"
    return folder, lottery(lottery_run(tiny, folder, **REFITTED), Silent())


def _check_iteration(before: Plan, own: Path, removed: int) -> Plan:
    """Check that the lowest heads of a joint order went; the plan that is left."""
    assert not list(own.glob("confidence.*"))
    scores, plan = Scores.read(own / "reconstruction.json"), Plan.read(own / "plan.json")
    ranks = scores.scores_by_head()
    assert scores.metric == "reconstruction" and scores.baseline["data"] == "train.xx-yy"
    assert sorted(ranks.values()) == list(range(len(ranks))) and set(ranks) == set(before.kept_ids())
    assert set(plan.removed()) - set(before.removed()) == set(sorted(ranks, key=ranks.__getitem__)[:removed])
    return plan


def test_the_lowest_heads_go_and_every_module_keeps_one(tiny: Path, whole: tuple[Path, LotteryResult]) -> None:
    """Heads that are protected follow all others, or the lowest would not be those that go."""
    folder, result = whole
    plan = _check_iteration(Plan.keep_all(FairseqCheckpoint.load(tiny).base), folder / "iterations/iteration-01", 15)
    assert plan.kept_ids() == result.plan.kept_ids() and plan.count_kept() == 9
    assert min(len(plan.kept(module)) for module in plan.base.modules) == 1


def test_a_ticket_is_fitted_and_keeps_the_moments(tiny: Path, whole: tuple[Path, LotteryResult]) -> None:
    """The weights are those of `refit` on the same sentences, everything else is that of the plain ticket."""
    folder, _ = whole
    base, ticket = FairseqCheckpoint.load(tiny), FairseqCheckpoint.load(folder / "ticket.pt")
    cut = slim.apply(Plan.read(folder / "plan.json"), base)
    model, run = native.load(base), lottery_run(tiny, folder, **REFITTED)
    corpus = drawn(Corpora().read(run.importance_data, base.profile(), references=False, targets=True), 12, run.seed)
    expected = refitted(model, cut.without_optimizer(), calibration_texts(corpus, model)).checkpoint
    assert ticket.sha256 == expected.sha256 != cut.sha256
    changed = {
        name for name, tensor in ticket.native_tensors().items() if not torch.equal(tensor, cut.native_tensors()[name])
    }
    assert changed and all(map(is_refitted, changed))
    moments = ticket.optimizer.tensors
    assert len(moments) == 2 * len(ticket.parameters) and ticket.progress.updates == base.progress.updates == 2
    assert all(torch.equal(tensor, cut.tensors[name]) for name, tensor in moments.items())
    assert ticket.lineage and ticket.lineage.refit and ticket.lineage.refit["sentences"] == 12


def test_what_is_not_as_in_the_paper_is_recorded(whole: tuple[Path, LotteryResult]) -> None:
    folder, _ = whole
    found = json.loads((folder / "lottery.json").read_text())
    assert found["order"] == "reconstruction" and found["refit"]["on"] == "references"
    assert (found["refit"]["data"], found["refit"]["sentences"]) == ("train.xx-yy", 12)
    assert set(found["times"]["iteration-01"]) == {"training", "start_up", "reconstruction", "other"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_with_refitted_tickets_and_resumed(tiny: Path, tmp_path: Path) -> None:
    """Two iterations, the second one on a cut model, and both controls: fresh weights have nothing to follow."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    lottery(lottery_run(tiny, whole, **TWICE), Silent())
    plan = Plan.keep_all(FairseqCheckpoint.load(tiny).base)
    for number, removed in ((1, 9), (2, 6)):
        plan = _check_iteration(plan, whole / f"iterations/iteration-{number:02}", removed)
    lineages = {
        name: FairseqCheckpoint.load(whole / f"converged/iteration-{name}/model.pt").lineage
        for name in ("00", "02", "02-random", "02-reinit")
    }
    fitted = {name for name, lineage in lineages.items() if lineage is not None and lineage.refit is not None}
    assert fitted == {"02", "02-random"} and lineages["00"] is None
    log = (whole / "iterations/iteration-02/train.log").read_text()
    assert re.search(r"Loaded checkpoint \S+start.pt \(epoch \d+ @ 2 updates\)", log)

    for watched, text in (("iterations/iteration-02", "num_updates=3"), ("converged/iteration-02", "num_updates=4")):
        killed_lottery(tiny, folder, TWICE, folder / watched / "train.log", text)
    lottery(lottery_run(tiny, folder, resume=True, **TWICE), Silent())
    assert content(folder) == content(whole)
    other = {**TWICE, "order": "fisher", "calibration_sentences": 11}
    with pytest.raises(OutputError) as raised:
        lottery(lottery_run(tiny, folder, resume=True, **other), Silent())
    assert '--order was "reconstruction", is "fisher"; --calibration-sentences was 12, is 11' in str(raised.value)


def test_norms_of_importance_are_those_of_the_first_iteration(tiny: Path, tmp_path: Path) -> None:
    """By its own norm the last head of a module would always score 1, and never be removed."""
    scoring = ImportanceOptions(importance_sentences=10, importance_normalize="layer")
    lottery(lottery_run(tiny, tmp_path / "run", order="importance", scoring=scoring, kinds="encoder,cross"), Silent())
    norms = []
    for number in (1, 2):
        scores = Scores.read(tmp_path / f"run/iterations/iteration-{number:02}/importance.json").scores_by_head()
        modules = {head.group for head in scores}
        norms.append([math.hypot(*(value for head, value in scores.items() if head.group == id)) for id in modules])
    assert norms[0] == pytest.approx([1.0] * len(norms[0])) and norms[1] != pytest.approx(
        [1.0] * len(norms[1]), abs=0.01
    )


def _facts(checkpoint: Path, folder: Path, **changes: Any) -> Any:
    with started(lottery_run(checkpoint, folder, **changes), Silent()) as session:
        return prepare(session.run, session.corpora).facts  # type: ignore[arg-type]


def test_settings_of_runs_by_confidence_are_as_they_were(tiny: Path, tmp_path: Path) -> None:
    """Interrupted runs of before can be resumed."""
    assert set(_facts(tiny, tmp_path / "run")) == {
        "late-resetting checkpoint", "updates", "heads removed", "--threads", "data", "test data", "training data",
        "fairseq-train",
    }  # fmt: skip


def test_bad_input_is_refused_before_anything_is_trained(tiny: Path, tmp_path: Path, build: Any) -> None:
    importance: dict[str, Any] = {"order": "importance", "scoring": ImportanceOptions()}
    nothing = lottery_run(tiny, tmp_path / "run").importance_data
    absent = {"importance_data": type(nothing)(data_bin=nothing.data_bin, subset="dev")}
    prefix = (*FAST, "--criterion", "label_smoothed_cross_entropy", "--ignore-prefix-size", "1")
    hint = "--importance-subset and --importance-source name other sentences"
    for changes, kind, message in (
        ({**importance, **absent}, DataError, f"sentences to score heads on: .*no subset 'dev'.*: {hint}"),
        ({"refit": True, **absent}, DataError, f"calibration text: .*no subset 'dev'.*: {hint}"),
        ({**importance, "scoring": ImportanceOptions(label_smoothing=1.5)}, UsageError, "label smoothing 1.5 is not"),
        ({**importance, "given": prefix}, UsageError, "--ignore-prefix-size 1 leaves out .* take --order confidence"),
    ):  # fmt: skip
        with pytest.raises(kind, match=message):
            _facts(tiny, tmp_path / "run", **changes)
    _facts(tiny, tmp_path / "run", given=prefix)
    assert not (tmp_path / "run").exists()
