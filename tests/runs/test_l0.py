"""Runs of `l0` with real fairseq-train: what they leave, that what is evaluated is what is cut, resuming, refusals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from nmtprune.architecture import NEURON_KINDS
from nmtprune.data.corpus import load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.errors import CheckpointError, OutputError, TrainingError, UsageError
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.process import Command, CommandFailed
from nmtprune.progress import Silent
from nmtprune.runs.l0.each_lambda import l0
from nmtprune.runs.l0.gated_checkpoints import chosen_checkpoint, load_gated
from nmtprune.runs.l0.l0_results import L0Result
from nmtprune.runs.l0.l0_setup import L0Run
from nmtprune.runs.state import Interrupted, State
from nmtprune.training import fairseq_train
from tests.support.cli import nmtprune
from tests.support.notes import Notes
from tests.support.reads import Reads, counted_reads
from tests.support.runs import ON_CPU

FAST = ("--max-update", "6", "--lr", "0.03", "--warmup-updates", "0", "--log-interval", "1", "--num-workers", "0")


WITH_WEIGHTS = ("--gate-lr-scale", "10")
"""Gates that learn as fast as in a longer training, and with the weights."""


def l0_run(checkpoint: Path, output: Path, **changes: Any) -> L0Run:
    values: dict[str, Any] = {
        "data": DataOptions(data_bin=checkpoint.parent / "data-bin", subset="valid"),
        "weights": (0.5,),
        "gates": (("--gate-init", "0.5"), WITH_WEIGHTS),
        "kinds": None,
        "best": False,
        "given": FAST,
        **ON_CPU,
        "resamples": 500,
        "resume": False,
        "force": False,
    }
    return L0Run(checkpoint=checkpoint, output=output, **(values | changes))


@pytest.fixture(scope="module")
def recorded(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, L0Result, Reads]:
    """Two lambdas, of which one closes heads; and what the run read."""
    folder = tmp_path_factory.mktemp("l0") / "run"
    gates = (("--target-heads", "10"), ("--test-gate", "soft"), ("--output-scaling",), WITH_WEIGHTS)
    run = l0_run(tiny, folder, weights=(0.5, 1e-5), kinds="encoder,cross", gates=gates)
    with counted_reads() as reads:
        return folder, l0(run, Silent()), reads


@pytest.fixture(scope="module")
def several(recorded: tuple[Path, L0Result, Reads]) -> tuple[Path, L0Result]:
    """The run folder and the result."""
    return recorded[:2]


def test_every_file_is_read_once(tiny: Path, recorded: tuple[Path, L0Result, Reads]) -> None:
    folder, _, reads = recorded
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    with counted_reads() as alone:
        load_corpus(data, load(tiny).profile())
    there = alone.below(tiny.parent / "data-bin")
    assert len(there) == 6 and reads.below(tiny.parent / "data-bin") == there
    names = [path.name for path, _ in reads.checkpoints]
    assert sorted(names) == sorted(["checkpoint_last.pt", "checkpoint_last.pt", tiny.name])
    assert set(reads.checkpoints.values()) == {1}


def test_what_is_evaluated_is_what_is_cut(tiny: Path, several: tuple[Path, L0Result]) -> None:
    folder, result = several
    content = json.loads((folder / "l0.json").read_text())
    assert [run["l0_weight"] for run in content["runs"]] == [0.5, 1e-5]
    for run, outcome in zip(content["runs"], result.outcomes, strict=True):
        own = folder / f"l0-weight-{run['l0_weight']:g}"
        assert run["folder"] == str(own) and run["gated"]["bleu"] == run["slim"]["bleu"] == outcome.slim
        assert run["kept"] == 18 and run["kept_per_kind"]["decoder"] == 8  # 10 of the 16 with gates
        assert run["delta"] == pytest.approx(run["slim"]["bleu"] - content["unpruned"]["bleu"])
        slim, plan = load(own / "slim.pt"), Plan.read(own / "plan.json")
        assert slim.architecture.count() == plan.count_kept() == 18
        assert run["slim"]["parameters"] == sum(tensor.numel() for tensor in slim.parameters.values())
        plan.check(load(own / "checkpoints" / "checkpoint_last.pt").base)
    assert (folder / "l0.json").read_text() == result.report.json
    header, *rows = [line.split("\t") for line in (folder / "l0.tsv").read_text().splitlines()]
    assert header[:5] == ["l0_weight", "kept", "encoder", "decoder", "cross"] and len(rows) == 2
    assert (folder / "l0.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    names = {"l0.json", "l0.tsv", "l0.png", "state.json", "l0-weight-0.5", "l0-weight-1e-05"}
    assert {path.name for path in folder.iterdir()} == names


def test_slim_by_hand_writes_the_same_tensors(several: tuple[Path, L0Result], tmp_path: Path) -> None:
    own = several[0] / "l0-weight-0.5"
    by_hand = tmp_path / "slim.pt"
    gated = own / "checkpoints" / "checkpoint_last.pt"
    result = nmtprune("slim", gated, "--plan", own / "plan.json", "-o", by_hand)
    assert result.code == 0, result.stderr
    first, second = load(by_hand), load(own / "slim.pt")
    assert first.sha256 == second.sha256
    assert first.lineage == second.lineage


def _content(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "l0.json").read_text())
    for run in content["runs"]:
        del run["folder"], run["checkpoint"]
    del content["provenance"]
    return {"json": content, "slim": load(folder / "slim.pt").sha256, "plan": Plan.read(folder / "plan.json").keep}


@pytest.mark.slow
def test_gates_have_a_schedule_of_their_own(tiny: Path, tmp_path: Path) -> None:
    """Defaults by the number of updates, and remarks on gates that could not travel or decide."""
    gates = (("--gate-step", "1"), ("--target-heads", "11"), ("--min-heads-per-module", "1"))
    progress = Notes()
    run = l0_run(
        tiny, tmp_path / "run", gates=gates, refit=True, given=(*FAST[2:], "--max-update", "15"), weights=(0.001,)
    )
    result = l0(run, progress)
    settings = load(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").gates.settings
    assert (settings.step, settings.freeze_updates, settings.only_updates, settings.min_heads) == (1.0, 3, 1, 1)
    plan = Plan.read(tmp_path / "run" / "plan.json")
    assert plan.count_kept() == 11
    assert all(len(plan.kept(module)) for module in plan.base.modules)
    (outcome,) = result.outcomes
    assert outcome.expected is not None and outcome.expected > 12
    assert any(
        line.startswith("gates move by 1 per update and are constants from update 3 of 15") for line in progress.lines
    )
    assert any(line.startswith("l0-weight-0.001: 11 heads were to be open, ") for line in progress.lines)
    slim, gated = load(tmp_path / "run" / "slim.pt"), load(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt")
    assert slim.lineage.refit is not None and slim.lineage.refit["base"] == load(tiny).sha256
    name = "decoder.layers.1.fc2.weight"
    assert not torch.equal(slim.model_tensors[name], gated.model_tensors[name])
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("l0_lambda=") == 3 and "None" not in log.partition("begin training epoch 1")[2]
    assert [at.update for at in outcome.trace] == [1, 2, 3]
    assert all(f"l0_lambda={at.weight:g}," in log and f"expected_heads={at.expected:g}," in log for at in outcome.trace)
    (run_of,) = json.loads(result.report.json)["runs"]
    assert [each["update"] for each in run_of["lambda_trace"]] == [1, 2, 3]
    *_, cell = (result.report.tsv or "").splitlines()[1].split("\t")
    assert [each.split(":")[0] for each in cell.split()] == ["1", "2", "3"]


@pytest.mark.slow
def test_neurons_are_cut_with_heads(tiny: Path, tmp_path: Path) -> None:
    """A plan of version 2, figures of neurons, and costs of real lengths, which a resumed run repeats."""
    gates = (("--gate-init", "0.05"), ("--gate-lr-scale", "1"), ("--target-heads", "12"))
    run = l0_run(tiny, tmp_path / "run", groups="heads,neurons", kinds="encoder,cross", gates=gates)
    result = l0(run, Silent())
    (outcome,) = result.outcomes
    (found,) = json.loads((tmp_path / "run" / "l0.json").read_text())["runs"]
    plan, slim = Plan.read(tmp_path / "run" / "plan.json"), load(tmp_path / "run" / "slim.pt")
    assert found["gated"]["bleu"] == found["slim"]["bleu"] == outcome.slim
    assert found["kept"] == 20
    assert found["kept_neurons"] == sum(group.units for group in slim.architecture.feed_forwards) < 96
    assert found["kept_neurons_per_kind"]["decoder-ffn"] == 48  # no gates there
    assert plan.count_kept(NEURON_KINDS) == found["kept_neurons"] and 0 < found["macs"] < 1
    header, row = [line.split("\t") for line in (tmp_path / "run" / "l0.tsv").read_text().splitlines()]
    cells = dict(zip(header, row, strict=True))
    assert cells["neurons"] == str(found["kept_neurons"]) and cells["macs"] == str(found["macs"])
    gated = load(tmp_path / "run" / "checkpoints" / "checkpoint_last.pt").gates
    costs = gated.settings.costs
    assert 4 * (costs["encoder"] + costs["cross"]) == pytest.approx(8)  # the average head weighs 1
    assert costs["encoder-ffn"] < costs["encoder"] / 4  # of 4 times D K weights, and attention scores
    again = l0(replace(run, resume=True), Silent())
    assert again.outcomes == result.outcomes


def test_interrupted_after_every_stage(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = l0_run(tiny, tmp_path / "whole")
    l0(run, Silent())
    add, times = State.add, 0

    def add_and_end(state: State, unit: str, packed: bytes) -> None:
        add(state, unit, packed)
        raise KeyboardInterrupt

    monkeypatch.setattr(State, "add", add_and_end)
    interrupted = replace(run, output=tmp_path / "pieces", resume=True)
    for _ in range(9):
        try:
            l0(interrupted, Silent())
            break
        except Interrupted as error:
            times += 1
            assert str(error) == (
                f"interrupted: finished work is kept in {interrupted.output}; run the same command with --resume to "
                "continue"
            )
    assert times == 4
    assert _content(tmp_path / "pieces") == _content(tmp_path / "whole")
    monkeypatch.undo()
    with pytest.raises(OutputError, match="holds a run already: --resume continues it, --force starts over"):
        l0(run, Silent())
    with pytest.raises(OutputError, match="of a run with other settings"):
        l0(replace(run, resume=True, weights=(0.4,)), Silent())
    l0(replace(run, force=True), Silent())  # does not go on from the checkpoints that are there
    assert _content(tmp_path / "whole") == _content(tmp_path / "pieces")
    assert [path.name for path in (tmp_path / "whole").glob("*.log")] == ["train.log"]


@pytest.mark.slow
def test_the_best_has_the_gates_of_the_last(tiny: Path, tmp_path: Path) -> None:
    run = l0_run(
        tiny, tmp_path / "run", best=True, given=(*FAST[2:], "--max-epoch", "4"), gates=(("--gate-lr-scale", "0.01"),)
    )
    l0(run, Silent())
    folder = tmp_path / "run" / "checkpoints"
    losses = {}
    for path in folder.glob("checkpoint*.pt"):
        checkpoint, plan = load_gated(path)
        if plan.keep == load_gated(folder / "checkpoint_last.pt")[1].keep:
            losses[path] = float(checkpoint.state["extra_state"]["val_loss"])
    assert len(losses) > 4
    chosen = chosen_checkpoint(folder / "checkpoint_last.pt", best=True)[0].path
    assert losses[chosen] == min(losses.values())
    assert json.loads((tmp_path / "run" / "l0.json").read_text())["runs"][0]["checkpoint"] == str(chosen)


def test_training_that_fails(tiny: Path, tmp_path: Path) -> None:
    run = l0_run(tiny, tmp_path / "run", given=("--no-such-option",))
    with pytest.raises(TrainingError) as raised:
        l0(run, Silent())
    log = tmp_path / "run" / "train.log"
    assert str(raised.value).startswith("l0-weight-0.5 failed (exit status 2): fairseq-train: error: unrecognized")
    assert str(raised.value).endswith(f"; what was trained is kept, all that fairseq-train said is in {log}")
    assert "--no-such-option" in log.read_text()


def test_checkpoints_without_gates(tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=f"^{tiny}: there are no gates in it$"):
        load_gated(tiny)


def test_what_cannot_be(tiny: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, **changes: Any) -> None:
        with pytest.raises(kind) as raised:
            l0(l0_run(tiny, tmp_path / "run", **changes), Silent())
        assert str(raised.value) == message
        assert not (tmp_path / "run").exists()

    refused(UsageError, "--l0-weight -1: give a number from 0 on", weights=(-1.0, 2.0))
    refused(UsageError, "--l0-weight nan: give a number from 0 on", weights=(float("nan"),))
    refused(UsageError, "--l0-weight 1, 1: the same weight twice", weights=(1.0, 1.0))
    refused(
        UsageError,
        "options of fairseq-train: --arch: set by the command itself; --gate-init: set by the command itself",
        given=("--arch", "x", "--gate-init", "1"),
    )
    refused(UsageError, "--l0-groups 'layers' (choose among heads, neurons): unknown group 'layers'", groups="layers")
    absent = "--l0-groups neurons: the model has no neurons of kind cross"
    refused(UsageError, absent, groups="neurons", kinds="cross")
    many = (("--target-heads", "25"), WITH_WEIGHTS)
    refused(UsageError, "gates: --target-heads 25: 24 heads have gates", gates=many)
    neurons = (("--min-heads-per-module", "1"), WITH_WEIGHTS)
    reason = "gates: --min-heads-per-module 1: no head has a gate"
    refused(UsageError, reason, groups="neurons", gates=neurons)
    refused(UsageError, "kinds 'middle' (choose among encoder, decoder, cross): unknown kind 'middle'", kinds="middle")


def test_weights_of_the_slim_model_are_the_trained_ones(several: tuple[Path, L0Result]) -> None:
    own = several[0] / "l0-weight-0.5"
    gated, slim = load(own / "checkpoints" / "checkpoint_last.pt"), load(own / "slim.pt")
    name = "encoder.layers.0.fc1.weight"
    assert torch.equal(gated.model_tensors[name], slim.model_tensors[name])


def test_threads_are_those_of_fairseq_train(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}

    def started(command: Command, log: Path, _watched: object, environment: Mapping[str, str]) -> NoReturn:
        seen.update(environment)
        raise CommandFailed(TrainingError("seen enough"), command, log)

    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setattr(fairseq_train, "run_command", started)
    run = l0_run(tiny, tmp_path / "run")
    with pytest.raises(TrainingError, match="seen enough"):
        l0(replace(run, threads=2), Silent())
    assert seen["OMP_NUM_THREADS"] == "2"


def test_the_text_to_learn_from_is_that_of_the_training(tiny: Path, tmp_path: Path) -> None:
    """The subset that fairseq-train trains on with its shards; raw text only for a search, where the user names it."""
    run = l0_run(tiny, tmp_path / "run")
    assert (run.training_text.subset, run.training_text.join_shards, run.training_text.skip_invalid) == (
        "train", True, True,
    )  # fmt: skip
    run = replace(run, given=(*FAST, "--train-subset", "mine"))
    assert (run.training_text.subset, run.training_text.join_shards) == ("mine", True)
    raw = DataOptions(data_bin=run.data.data_bin, source=tmp_path / "text", post_process="none")
    assert replace(run, data=raw).training_text.subset == "mine"
    assert replace(run, data=raw, search_only=True).training_text.source == tmp_path / "text"
