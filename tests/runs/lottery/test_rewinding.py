"""Runs of `lottery` with real fairseq-train: what they leave, and that a killed one goes on as if it had not been."""

import json
import math
import os
import re
import shlex
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.corpus import load_corpus
from nmtprune.errors import OutputError, TrainingError
from nmtprune.formats import load
from nmtprune.formats.fairseq import FairseqCheckpoint
from nmtprune.methods.confidence import Confidence
from nmtprune.plan import Plan
from nmtprune.progress import Silent
from nmtprune.runs.corpora import Corpora
from nmtprune.runs.lottery.rewinding import LotteryResult, lottery
from nmtprune.runs.state import State
from nmtprune.runs.subject import NativeModel, open_subject
from nmtprune.scores import Scores
from nmtprune.training.bar import TrainingBar
from tests.support import warm
from tests.support.forked import ended, fork
from tests.support.reads import Reads, counted_reads
from tests.support.runs import FAST, content, killed_lottery, lottery_run

CONVERGES = {"converge": True, "converge_updates": 9, "controls": ("random", "reinit")}


@pytest.fixture(scope="module")
def recorded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LotteryResult, Reads]:
    """Two iterations, and the last with both controls beside the unpruned model, trained on; and what the run read."""
    folder = tmp_path_factory.mktemp("lottery") / "run"
    run = lottery_run(tiny, folder, **CONVERGES)
    with counted_reads() as reads:
        return folder, lottery(run, Silent()), reads


@pytest.fixture(scope="module")
def whole(recorded: tuple[Path, LotteryResult, Reads]) -> tuple[Path, LotteryResult]:
    """The run folder and the result."""
    return recorded[:2]


def test_every_file_is_read_once(tiny: Path, recorded: tuple[Path, LotteryResult, Reads]) -> None:
    """Confidence of both iterations on DATA, quality and speed of four models on TEST DATA."""
    folder, _, reads = recorded
    own, run = tiny.parent / "data-bin", lottery_run(tiny, folder)
    alone = Counter[str]()
    for data, asked in ((run.data, {"references": False, "targets": True}), (run.evaluated, {})):
        with counted_reads() as of_set:
            load_corpus(data, load(tiny).profile(), **asked)
        alone.update(of_set.below(own))
    found = {name: times for name, times in reads.below(own).items() if not name.startswith("train.")}
    assert len(alone) == 10 and found == alone
    names = Counter(path.name for path, _ in reads.checkpoints)
    assert set(reads.checkpoints.values()) == {1} and names[tiny.name] == 1 and names["model.pt"] == 4
    assert names["checkpoint_last.pt"] >= 2 + 4 and names["checkpoint_best.pt"] >= 4


def test_files_say_what_the_run_found(tiny: Path, whole: tuple[Path, LotteryResult]) -> None:
    folder, result = whole
    found = json.loads((folder / "lottery.json").read_text())
    assert (found["format"], found["version"], found["metric"], found["heads"]) == ("nmtprune-lottery", 1, "bleu", 24)
    assert (folder / "lottery.json").read_text() == result.report.json
    assert (folder / "lottery.tsv").read_text() == result.report.tsv == result.table
    assert [(each["trained_heads"], each["removed"]) for each in found["iterations"]] == [(24, 3), (21, 6)]
    names = ["iteration-00", "iteration-02", "iteration-02-random", "iteration-02-reinit"]
    assert [each["model"] for each in found["converged"]] == [f"converged/{name}/model.pt" for name in names]
    lottery_ticket = Plan.read(folder / "plan.json")
    for each, name in zip(found["converged"], names, strict=True):
        own = folder / "converged" / name
        model, plan = FairseqCheckpoint.load(own / "model.pt"), Plan.read(own / "plan.json")
        assert each["kept_per_layer"] == {
            kind: [module.heads for module in model.architecture.of_kind(kind)]
            for kind in ("encoder", "decoder", "cross")
        }
        assert each["removed"] == 24 - model.architecture.count() == len(plan.removed())
        assert each["parameters"] == sum(tensor.numel() for tensor in model.parameters.values())
        assert found["file_bytes"][name] == (own / "model.pt").stat().st_size and not model.has_optimizer
        assert each["updates"] == model.progress.updates <= each["last_update"] == 9
        assert each["validation"] == model.progress.validation
        if name != "iteration-00":
            assert each["kept_per_layer"] == found["converged"][1]["kept_per_layer"]
            assert each["delta"] == pytest.approx(each["bleu"] - found["converged"][0]["bleu"])
    assert Plan.read(folder / "converged/iteration-02-reinit/plan.json").keep == lottery_ticket.keep
    assert Plan.read(folder / "converged/iteration-02-random/plan.json").keep != lottery_ticket.keep
    rows = [line.split("\t") for line in result.table.splitlines()]
    assert rows[0][:3] == ["model", "iteration", "variant"] and [row[0] for row in rows[1:]] == names
    assert set(found["words_per_second"]) == set(names) and all(
        value > 0 for value in found["words_per_second"].values()
    )
    assert (folder / "lottery.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_disk_keeps_no_moments_of_old_trainings(whole: tuple[Path, LotteryResult]) -> None:
    folder, _ = whole
    models = {f"converged/iteration-{name}/model.pt" for name in ("00", "02", "02-random", "02-reinit")}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.pt")} == {*models, "ticket.pt"}
    assert not list(folder.rglob("checkpoints"))


def test_the_least_confident_heads_go(tiny: Path, whole: tuple[Path, LotteryResult]) -> None:
    folder, _ = whole
    gone: set[UnitId] = set()
    for number in (1, 2):
        own = folder / "iterations" / f"iteration-{number:02}"
        scores, plan = Scores.read(own / "confidence.json").scores_by_head(), Plan.read(own / "plan.json")
        assert set(scores) == set(FairseqCheckpoint.load(tiny).architecture.head_ids()) - gone
        lowest = sorted(scores, key=lambda head: (scores[head], head))[:3]
        gone |= set(lowest)
        assert set(plan.removed()) == gone
        header, *rows = [line.split("\t") for line in (own / "confidence.tsv").read_text().splitlines()]
        assert header == ["head", "kind", "layer", "index", "confidence", "removed"]
        assert [row[0] for row in rows if row[-1] == "1"] == [row[0] for row in rows[:3]] == list(map(str, lowest))
        assert (own / "confidence.png").read_bytes().startswith(b"\x89PNG")
    assert Plan.read(folder / "plan.json").keep == plan.keep


def test_the_ticket_is_the_late_resetting_checkpoint_cut_by_the_plan(
    tiny: Path, whole: tuple[Path, LotteryResult]
) -> None:
    folder, _ = whole
    base, ticket = FairseqCheckpoint.load(tiny), FairseqCheckpoint.load(folder / "ticket.pt")
    cut = slim.apply(Plan.read(folder / "plan.json"), base)
    assert set(ticket.tensors) == set(cut.tensors) and len(ticket.optimizer.tensors) == 2 * len(ticket.parameters)
    assert all(torch.equal(ticket.tensors[name], tensor) for name, tensor in cut.tensors.items())
    assert ticket.progress.updates == base.progress.updates == 2
    # Rows of W_q by hand, in weights and both moments.
    id = next(module for module in base.base.modules if len(Plan.read(folder / "plan.json").kept(module)) in (1, 2, 3))
    name = {"encoder": "encoder.layers.{}.self_attn", "decoder": "decoder.layers.{}.self_attn"}.get(
        id.kind, "decoder.layers.{}.encoder_attn"
    )
    rows = torch.tensor([4 * head + row for head in Plan.read(folder / "plan.json").kept(id) for row in range(4)])
    for prefix in ("", "optimizer/exp_avg/", "optimizer/exp_avg_sq/"):
        key = f"{prefix}{name.format(id.layer)}.q_proj.weight"
        assert torch.equal(ticket.tensors[key], base.tensors[key][rows])


def test_iterations_go_on_at_the_update_of_late_resetting(whole: tuple[Path, LotteryResult]) -> None:
    folder, _ = whole
    orders = set()
    for number in (1, 2):
        log = (folder / "iterations" / f"iteration-{number:02}" / "train.log").read_text()
        assert re.search(r"Loaded checkpoint \S+start.pt \(epoch \d+ @ 2 updates\)", log)
        rates = [float(rate) for rate in re.findall(r"num_updates=\d+, lr=([\d.e-]+)", log)]
        # The schedule of `tiny`: inverse square root, 4 updates of warm-up to 0.01.
        expected = [0.01 * 3 / 4, 0.01, 0.01 * math.sqrt(4 / 5)]
        assert rates == pytest.approx(expected, rel=1e-3)
        orders.add(re.search(r"--seed (\d+)", log)[1])  # type: ignore[index]
    assert len(orders) == 2


def _command(log: str) -> list[str]:
    """What a log says was called."""
    return shlex.split(re.split(r"\n(?! )", log, maxsplit=1)[0].removeprefix("$ ").replace("\\\n", ""))


def test_confidence_is_that_of_the_trained_slim_model(tiny: Path, tmp_path: Path) -> None:
    """The run's own figures, against a training by hand with the same call of fairseq-train."""
    run = lottery_run(tiny, tmp_path / "run", until="3")
    lottery(run, Silent())
    log = (tmp_path / "run/iterations/iteration-01/train.log").read_text()
    command = _command(log)
    place = command.index("--restore-file")
    command[place + 1], command[command.index("--save-dir") + 1] = str(tiny), str(tmp_path / "by-hand")
    assert warm.run(*command).returncode == 0
    trained = FairseqCheckpoint.load(tmp_path / "by-hand" / "checkpoint_last.pt")
    scorer = Confidence(run.scoring)
    found = scorer.scores(open_subject(scorer, NativeModel(trained, run), run.data, run.seed, Corpora()))
    scores = Scores.read(tmp_path / "run/iterations/iteration-01/confidence.json").scores_by_head()
    assert scores == found


@pytest.mark.slow
def test_killed_in_a_training_and_resumed(tiny: Path, whole: tuple[Path, LotteryResult], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    second = folder / "iterations" / "iteration-02" / "train.log"
    killed_lottery(tiny, folder, CONVERGES, second, "num_updates=4")
    assert not (folder / "lottery.json").exists()
    lottery(lottery_run(tiny, folder, resume=True, **CONVERGES), Silent())
    assert content(folder) == content(whole[0])
    with pytest.raises(OutputError, match="holds a run already: --resume continues it, --force starts over"):
        lottery(lottery_run(tiny, folder, **CONVERGES), Silent())
    with pytest.raises(OutputError) as raised:
        lottery(lottery_run(tiny, folder, resume=True, prune_updates=4, patience=3, **CONVERGES), Silent())
    assert str(raised.value).endswith("--prune-updates was 3, is 4; --patience was 2, is 3")


@pytest.mark.slow
def test_patience_ends_where_that_of_fairseq_does(tiny: Path, tmp_path: Path) -> None:
    run = lottery_run(tiny, tmp_path / "run", until="3", converge_iterations=(0,))
    lottery(run, Silent())
    own = tmp_path / "run" / "converged" / "iteration-00"
    log = (own / "train.log").read_text()
    command = _command(log)
    end = command.index("--max-epoch")
    command[end : end + 2] = ["--patience", "2", "--max-epoch", "60"]
    command[command.index("--restore-file") + 1] = str(tiny)
    command[command.index("--save-dir") + 1] = str(tmp_path / "fairseq")
    assert warm.run(*command).returncode == 0
    theirs = FairseqCheckpoint.load(tmp_path / "fairseq" / "checkpoint_best.pt")
    last = FairseqCheckpoint.load(tmp_path / "fairseq" / "checkpoint_last.pt").progress
    assert 3 < last.epochs < 60
    assert FairseqCheckpoint.load(own / "model.pt").sha256 == theirs.sha256
    (found,) = json.loads((tmp_path / "run" / "lottery.json").read_text())["converged"]
    assert (found["updates"], found["last_update"]) == (theirs.progress.updates, last.updates)


def test_validations_between_updates(tiny: Path, tmp_path: Path) -> None:
    given = (*FAST, "--validate-interval-updates", "2")
    run = lottery_run(tiny, tmp_path / "run", until="3", converge_iterations=(0,), converge_updates=7, given=given)
    lottery(run, Silent())
    logs = "".join(path.read_text() for path in sorted((tmp_path / "run/converged/iteration-00").glob("*.log")))
    assert [int(number) for number in re.findall(r"valid \|.*num_updates (\d+)", logs)] == [4, 6, 7]
    (found,) = json.loads((tmp_path / "run" / "lottery.json").read_text())["converged"]
    assert found["last_update"] == 7 and found["updates"] in (4, 6, 7)


def test_moments_can_begin_anew(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lottery(lottery_run(tiny, folder, until="3", reset_optimizer=True), Silent())
    ticket = FairseqCheckpoint.load(folder / "ticket.pt")
    assert ticket.has_optimizer and not ticket.optimizer.tensors and ticket.progress.updates == 2
    log = (folder / "iterations/iteration-01/train.log").read_text()
    assert (
        re.search(r"Loaded checkpoint \S+start.pt \(epoch \d+ @ 2 updates\)", log) and "num_updates=5, lr=0.0089" in log
    )


def test_the_loop_ends_before_the_drop(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = lottery_run(tiny, folder, until="12", max_drop="0", heads_per_iteration=6, metric="chrf")
    result = lottery(run, Silent())
    values = [each.value for each in result.iterations]
    broken = [value is not None and value < values[0] for value in values]  # type: ignore[operator]
    assert [each.broken for each in result.iterations] == broken
    assert broken.index(True) == len(broken) - 1 if True in broken else len(values) == 3
    accepted = len(values) - 2 if True in broken else 2
    assert len(result.plan.removed()) == 6 * accepted
    assert Plan.read(folder / "plan.json").kept_ids() == result.plan.kept_ids()


def test_training_that_diverges(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError) as raised:
        lottery(lottery_run(tiny, folder, given=(*FAST, "--lr", "1e30")), Silent())
    message = str(raised.value)
    assert message.startswith("iteration-01 failed (exit status 1): FloatingPointError: gradients are Nan/Inf, at ")
    assert ": training diverged: start over with a lower --lr or --clip-norm; what was trained is kept" in message
    assert message.endswith(f"all that fairseq-train said is in {folder / 'iterations/iteration-01/train.log'}")
    assert (folder / "state.json").exists() and (folder / "iterations/iteration-01/start.pt").exists()


def _die_at(owner: type, name: str, after: bool) -> None:
    """This process gets SIGKILL when the method is called, or has been called."""
    own = getattr(owner, name)

    def wrapped(*arguments: Any) -> None:
        if after:
            own(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, wrapped)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_everywhere(tiny: Path, tmp_path: Path) -> None:
    """SIGKILL in every training, and before and after whatever is kept."""
    arguments = {
        "late_reset": None,
        "pretrain_updates": 4,
        "until": "6",
        "max_drop": "100",
        "converge": True,
        "converge_updates": 12,
        "controls": ("reinit",),
        "given": (
            *FAST, "--arch", "transformer", "--encoder-layers", "1", "--decoder-layers", "2", "--optimizer", "adam",
            "--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "16", "--encoder-attention-heads", "4",
            "--decoder-ffn-embed-dim", "16", "--decoder-attention-heads", "4", "--share-all-embeddings",
            "--lr", "0.01", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "4", "--clip-norm", "1",
        ),
    }  # fmt: skip
    lottery(lottery_run(tiny, tmp_path / "whole", **arguments), Silent())
    folder, kills, done = tmp_path / "pieces", 0, False
    while not done:
        for at in ("training", "after", "before", "after"):
            owner, name = (TrainingBar, "update") if at == "training" else (State, "add")

            def killed(owner: type = owner, name: str = name, after: bool = at == "after") -> None:
                _die_at(owner, name, after)
                lottery(lottery_run(tiny, folder, resume=True, **arguments), Silent())

            status = ended(fork(killed))
            assert status in (0, -signal.SIGKILL)
            kills, done = kills + (status != 0), status == 0
            if done:
                break
    assert kills > 20
    assert content(folder) == content(tmp_path / "whole")


def test_numbers_of_heads_of_random_controls(whole: tuple[Path, LotteryResult]) -> None:
    folder, _ = whole
    ticket, drawn = (
        Plan.read(folder / "converged" / name / "plan.json") for name in ("iteration-02", "iteration-02-random")
    )
    counts = [np.array([len(plan.kept(module)) for module in plan.base.modules]) for plan in (ticket, drawn)]
    assert (counts[0] == counts[1]).all() and GroupId("encoder", 0) in drawn.base.modules
