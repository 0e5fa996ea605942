"""`nmtprune refit` as a user meets it: what it writes in every format and mode, what runs it, and what it refuses."""

import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import parse_heads
from nmtprune.engines import native
from nmtprune.evaluate.verify import verify
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.fairseq import FairseqCheckpoint, containers
from nmtprune.formats.fairseq.slim_settings import slim_fields
from nmtprune.gates import PARAMETER, SETTING, GateSettings
from nmtprune.plan import Lineage, Plan
from tests.support import fairseq_commands, fairseq_files
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_model, random_plan
from tests.support.marian_program import marian_scores, random_texts, vocabulary_file
from tests.support.networks import ADAPTIVE_LM, PRE_NORM, SHARED, randomized
from tests.support.thinned import thinned

REMOVED = "encoder.0 encoder.1.2 decoder.0.0,3 cross.0.1-3 cross.1.0,2"
ANYWAY = ("--force-worse", "--threads", 1)
"""Untrained models say what they say: whether the loss rises is a test of its own."""


@pytest.fixture(scope="module")
def full(build: Build) -> Path:
    """A checkpoint with optimizer state whose biases and norms are not what they begin as."""
    return randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED))


def cut(path: Path, output: Path, mode: str = "cut", removed: str = REMOVED) -> Path:
    checkpoint = load(path)
    plan = Plan.removing(checkpoint.base, parse_heads(removed, checkpoint.architecture))
    slim.apply(plan, checkpoint, mode).save(output, provenance={"plan": plan.as_json()})
    return output


def data(path: Path) -> tuple[object, ...]:
    return "--data-bin", path.parent / "data-bin", "--post-process", "none"


@pytest.fixture
def pruned(full: Path, tmp_path: Path) -> Path:
    return cut(full, tmp_path / "slim.pt")


def projections(checkpoint: Checkpoint) -> set[str]:
    names = [name for name in checkpoint.native_tensors() if ".layers." in name]
    return {name for name in names if name.rpartition(".")[0].endswith("output")}


def test_the_result_differs_from_the_slim_model_in_its_output_projections_alone(
    full: Path, pruned: Path, tmp_path: Path
) -> None:
    output = tmp_path / "refitted.pt"
    found = nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    before, after = load(pruned), load(output)
    assert after.architecture == before.architecture
    old, new = before.native_tensors(), after.native_tensors()
    changed = {name for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    fitted = projections(before)
    assert changed <= fitted and {name for name in fitted if name.endswith(".weight") and old[name].numel()} <= changed
    state = fairseq_files.load(output)
    assert "last_optimizer_state" not in state and "best" not in state["extra_state"]
    report = json.loads(found.stdout)
    assert report["verification"]["against"] == "base" and report["verification"]["ok"]
    assert report["holdout"]["sentences"] == 4 and report["calibration"]["sentences"] == 12
    assert [each["name"] for each in report["projections"]][:3] == ["encoder.0", "encoder-ffn.0", "encoder.1"]
    assert set(report["loss"]) == {"base", "slim", "refitted"}
    assert "16 sentences: 12 to fit on, 4 held out" in found.stderr


def test_lineage_and_provenance_tell_of_the_calibration(full: Path, pruned: Path, tmp_path: Path) -> None:
    output = tmp_path / "refitted.pt"
    options = ("--calibration-sentences", 9, "--seed", 3, "--ridge", 0.05, "--only", "heads")
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, *options, "-o", output, "-q").code == 0
    lineage = load(output).lineage
    assert lineage is not None and lineage.refit is not None and lineage.keep == load(pruned).lineage.keep  # type: ignore[union-attr]
    chosen = {"sentences": 9, "on": "references", "seed": 3, "ridge": 0.05, "only": "heads", "base": load(full).sha256}
    assert {name: value for name, value in lineage.refit.items() if name != "sha256"} == chosen
    note = json.loads(fairseq_files.load(output)["nmtprune"])
    assert note["refit"] == dict(lineage.refit) and note["seed"] == 3
    assert note["before"]["plan"] == note["plan"] and note["plan"]["keep"]["encoder.0"] == []
    assert any(path.endswith("train.xx-yy.xx.bin") for path in note["data"])
    again = tmp_path / "again.pt"
    other = (*options[:2], "--seed", 4, *options[4:])
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, *other, "-o", again, "-q").code == 0
    drawn = load(again).lineage
    assert drawn is not None and drawn.refit is not None and drawn.refit["sha256"] != lineage.refit["sha256"]
    cut_again = slim.apply(Plan.keep_all(load(output).base), load(output))
    assert cut_again.lineage == lineage


def test_the_same_command_gives_the_same_model(full: Path, pruned: Path, tmp_path: Path) -> None:
    for name in ("first.pt", "second.pt"):
        assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", tmp_path / name).code == 0
    assert load(tmp_path / "first.pt").sha256 == load(tmp_path / "second.pt").sha256


@pytest.mark.parametrize("mode", ["masked", "uniform"])
def test_zeros_stay_zero_and_the_result_is_that_of_the_cut_model(full: Path, tmp_path: Path, mode: str) -> None:
    results = {}
    for name in ("cut", mode):
        pruned = cut(full, tmp_path / f"{name}.pt", name)
        results[name] = tmp_path / f"refitted-{name}.pt"
        assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", results[name]).code == 0
    checkpoint, before = load(results[mode]), load(tmp_path / f"{mode}.pt")
    for name, tensor in before.native_tensors().items():
        if name in projections(before) and tensor.dim() == 2:
            assert torch.equal(
                checkpoint.native_tensors()[name][:, (tensor == 0).all(0)], tensor[:, (tensor == 0).all(0)]
            )
    plan = Plan.keep_all(load(results["cut"]).base)
    found = verify(load(results["cut"]), checkpoint, plan) if mode == "uniform" else None
    assert found is None or found.max_delta <= 1e-4 * found.max_logit
    again = nmtprune("refit", full, results[mode], *data(full), *ANYWAY, "-o", tmp_path / "twice.pt")
    assert again.code == 0, again.stderr


def test_an_unpruned_model_is_as_good_as_before(full: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.pt"
    copy.write_bytes(full.read_bytes())
    output = tmp_path / "refitted.pt"
    found = nmtprune("refit", full, copy, *data(full), "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    old, new = load(full).native_tensors(), load(output).native_tensors()
    for name, tensor in new.items():
        assert float((tensor - old[name]).abs().max()) <= 1e-4 * float(old[name].abs().max()), name


@pytest.mark.parametrize(
    "stored",
    [{"cfg": "args", "packed": True, "without_optimizer": True}, {"dtype": torch.float16}, {"ema": 0.9}],
    ids=["legacy", "half", "averages"],
)
def test_files_of_other_kinds_are_refitted(build: Build, tmp_path: Path, stored: dict[str, Any]) -> None:
    """Packed projections of a legacy file, half precision, and moving averages, which belong to the weights before."""
    base = build(updates=2, dropout=0.0, stored=stored, **PRE_NORM, **SHARED)
    pruned, output = cut(base, tmp_path / "slim.pt"), tmp_path / "refitted.pt"
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["verification"]["against"] == "base"
    before, after = fairseq_files.load(pruned), fairseq_files.load(output)
    assert list(after["model"]) == list(before["model"])
    assert {name: tensor.dtype for name, tensor in after["model"].items()} == {
        name: tensor.dtype for name, tensor in before["model"].items()
    }
    assert "ema" not in after["extra_state"] and ("ema" in before["extra_state"]) == ("ema" in stored)


def test_source_text_alone_is_enough(full: Path, pruned: Path, tmp_path: Path) -> None:
    """The targets are then the base's own translations; with --calibration-on they can be had for binarized data."""
    raw = ("--data-bin", full.parent / "data-bin", "--post-process", "none", "-s", "xx", "-t", "yy")
    text = full.parent / "data-bin" / "train.xx"
    output = tmp_path / "refitted.pt"
    short = ("--max-len-b", 20, "--beam", 1)
    found = nmtprune("refit", full, pruned, *raw, "--source", text, *ANYWAY, *short, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["calibration"]["on"] == "translations"
    other = tmp_path / "other.pt"
    options = ("--calibration-on", "translations", *short, *ANYWAY)
    found = nmtprune("refit", full, pruned, *data(full), *options, "-o", other, "--format", "json")
    assert found.code == 0, found.stderr
    assert load(other).sha256 == load(output).sha256
    code, line = refused(
        "refit", full, pruned, *raw, "--source", text, "--calibration-on", "references", "-o", tmp_path / "x.pt"
    )
    assert code == 2 and "--source needs --reference FILE" in line


def test_options_of_search_and_batches_are_not_ignored(full: Path, pruned: Path, tmp_path: Path) -> None:
    output = ("-o", tmp_path / "x.pt")
    code, line = refused("refit", full, pruned, *data(full), "--beam", 2, *output)
    assert code == 2 and "--beam goes with --calibration-on translations" in line
    code, line = refused("refit", full, pruned, *data(full), "--max-tokens", 3, *output)
    assert code == 2 and "--max-tokens 3 is too small" in line


def other_weights(full: Path, output: Path) -> Path:
    """A model of the same shape with other weights."""
    state = fairseq_files.load(full)
    generator = torch.Generator().manual_seed(5)
    done: dict[int, torch.Tensor] = {}
    for name, tensor in state["model"].items():
        if tensor.numel() and not name.endswith(("version", "_float_tensor")):
            noise = torch.randn(tensor.shape, generator=generator) * 0.3
            state["model"][name] = done.setdefault(tensor.data_ptr(), tensor + noise)
    torch.save(state, output)
    return output


def test_a_base_that_it_was_not_cut_from_is_refused(full: Path, pruned: Path, build: Build, tmp_path: Path) -> None:
    other = other_weights(full, tmp_path / "other.pt")
    code, line = refused("refit", other, pruned, *data(full), "-o", tmp_path / "x.pt")
    assert code == 4 and f"{pruned} was not cut from {other}" in line
    assert load(full).sha256[:12] in line and load(other).sha256[:12] in line and "--other-base" in line
    assert nmtprune("refit", other, pruned, *data(full), *ANYWAY, "--other-base", "-o", tmp_path / "y.pt").code == 0
    smaller = build(updates=0, heads=2, **PRE_NORM, **SHARED)
    code, line = refused("refit", smaller, pruned, *data(full), "--other-base", "-o", tmp_path / "x.pt")
    assert code == 4 and "heads of encoder.0 are 4 wide, 8 in the base" in line
    deeper = build(updates=0, layers=3, **PRE_NORM, **SHARED)
    code, line = refused("refit", deeper, pruned, *data(full), "--other-base", "-o", tmp_path / "x.pt")
    assert code == 4 and "only one of the two has encoder.2" in line
    wider = build(updates=0, ffn=40, **PRE_NORM, **SHARED)
    code, line = refused("refit", wider, pruned, *data(full), "--other-base", "-o", tmp_path / "x.pt")
    assert code == 4 and "feed_forward" in line and "in the base" in line
    assert not (tmp_path / "x.pt").exists()


@pytest.mark.parametrize("mode", ["cut", "uniform"])
def test_a_base_between_root_and_slim_model_is_one_that_it_was_cut_from(full: Path, tmp_path: Path, mode: str) -> None:
    between = cut(full, tmp_path / "between.pt", mode, removed="encoder.0.1 cross.1.0,2")
    pruned = cut(between, tmp_path / "slim.pt", removed="encoder.0.0 decoder.1")
    assert nmtprune("refit", between, pruned, *data(full), *ANYWAY, "-o", tmp_path / "a.pt").code == 0
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", tmp_path / "b.pt").code == 0
    code, line = refused("refit", pruned, between, *data(full), "-o", tmp_path / "c.pt")
    assert code == 4 and "it has heads 0 of encoder.0, which are not in the base" in line


def test_a_slim_model_that_was_trained_since_is_compared_with_itself(full: Path, pruned: Path, tmp_path: Path) -> None:
    trained = other_weights(pruned, tmp_path / "trained.pt")
    found = nmtprune("refit", full, trained, *data(full), *ANYWAY, "-o", tmp_path / "a.pt", "--format", "json")
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["verification"]["against"] == "slim"


def test_other_vocabularies_are_refused(full: Path, pruned: Path, build: Build, tmp_path: Path) -> None:
    other = build(updates=0, joined=False, **PRE_NORM)
    code, line = refused("refit", other, pruned, *data(other), "--other-base", "-o", tmp_path / "x.pt")
    assert code == 5 and "has a target vocabulary of" in line


def test_a_loss_that_rises_writes_nothing(build: Build, tmp_path: Path) -> None:
    """A base of random weights is not worth following for a model that has learned something."""
    learned = build(updates=60, dropout=0.0, **PRE_NORM, **SHARED)
    base, output = other_weights(learned, tmp_path / "random.pt"), tmp_path / "refitted.pt"
    pruned = cut(learned, tmp_path / "slim.pt", removed="encoder.0.1")
    options = (*data(learned), "--other-base", "-o", output)
    code, line = refused("refit", base, pruned, *options)
    assert code == 7 and "4 held-out sentences rises from" in line and "--force-worse" in line
    assert not output.exists()
    found = nmtprune("refit", base, pruned, *options, "--force-worse")
    assert found.code == 0 and "rises from" in found.stderr and output.exists()


def test_a_model_that_has_learned_something_recovers(build: Build, tmp_path: Path) -> None:
    learned = build(updates=60, dropout=0.0, **PRE_NORM, **SHARED)
    pruned = cut(learned, tmp_path / "slim.pt", removed="encoder.0.1 cross.1.0 decoder.1.2-3")
    options = (*data(learned), "--subset", "train,valid,test", "--ridge", 1, "--format", "json")
    found = nmtprune("refit", learned, pruned, *options, "-o", tmp_path / "refitted.pt")
    assert found.code == 0, found.stderr
    loss = json.loads(found.stdout)["loss"]
    assert loss["refitted"] < loss["slim"]


def test_gates_are_folded(build: Build, tmp_path: Path) -> None:
    """What is cut from a gated base and refitted has neither gates nor optimizer state."""
    path = build(updates=2, dropout=0.0, **PRE_NORM, **SHARED)
    full, settings = FairseqCheckpoint.load(path), GateSettings(init=0.3, test_gate="soft", kinds=("encoder",))
    fields = slim_fields(full.architecture_name, full.architecture, Lineage.start(full.base))
    state = containers.with_model_fields(full.state, fields | {SETTING: settings.to_json(), "nmtprune_lineage": None})
    gates = {f"encoder.layers.{layer}.self_attn.{PARAMETER}": torch.tensor([0.1, 3, 0.2, -0.4]) for layer in range(2)}
    base = tmp_path / "gated.pt"
    torch.save({**state, "model": containers.with_entries(state["model"], gates)}, base)
    output = tmp_path / "refitted.pt"
    found = nmtprune("refit", base, cut(base, tmp_path / "slim.pt"), *data(path), *ANYWAY, "-o", output)
    assert found.code == 0, found.stderr
    written = fairseq_files.load(output)
    assert not any("gates" in name for name in written["model"]) and "last_optimizer_state" not in written


def test_inputs_are_never_written_over(full: Path, pruned: Path, tmp_path: Path) -> None:
    for output in (full, pruned):
        before = output.read_bytes()
        code, line = refused("refit", full, pruned, *data(full), "-o", output, "--force")
        assert code == 8 and "input" in line and output.read_bytes() == before
    there = tmp_path / "there.pt"
    there.write_text("there")
    assert refused("refit", full, pruned, *data(full), "-o", there) == (8, f"{there}: exists (--force replaces it)")
    assert refused("refit", full, pruned, *data(full), "-o", "-") == (2, "-o -: a checkpoint is a file: name one")


def test_too_little_text_is_said_with_the_number_of_tokens(full: Path, pruned: Path, tmp_path: Path) -> None:
    options = ("--calibration-sentences", 1, "--holdout-sentences", 1, *ANYWAY)
    found = nmtprune("refit", full, pruned, *data(full), *options, "-o", tmp_path / "a.pt")
    assert found.code == 0 and "too little text: " in found.stderr and " tokens, 24 inputs); the ridge" in found.stderr


def test_activations_that_are_no_numbers_name_the_module(full: Path, tmp_path: Path) -> None:
    state = fairseq_files.load(full)
    state["model"]["decoder.layers.1.fc1.weight"] = torch.full_like(state["model"]["decoder.layers.1.fc1.weight"], 2e38)
    broken = tmp_path / "broken.pt"
    torch.save(state, broken)
    pruned = cut(broken, tmp_path / "slim.pt")
    code, line = refused("refit", broken, pruned, *data(full), *ANYWAY, "-o", tmp_path / "x.pt")
    assert code == 3 and line.startswith("decoder-ffn.1: its states are no finite numbers")


def arguments(full: Path, pruned: Path, output: Path) -> list[str]:
    command = [sys.executable, "-m", "nmtprune.cli.main", "refit", full, pruned, *data(full), *ANYWAY, "-o", output]
    return [str(argument) for argument in command]


@pytest.mark.slow
def test_a_kill_in_any_phase_leaves_the_old_file_or_the_whole_new_one(full: Path, pruned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "refitted.pt"
    output.parent.mkdir()
    for phase in ("losses before done", "loss after done"):
        process = subprocess.Popen(arguments(full, pruned, output), stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        for line in process.stderr:
            if phase in line:
                process.kill()
                break
        process.wait()
        process.stderr.close()
        assert process.returncode == -signal.SIGKILL or phase == "loss after done"
        if output.exists():
            load(output)
            output.unlink()
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", output).code == 0
    assert os.listdir(output.parent) == ["refitted.pt"]


def test_a_full_disk_leaves_nothing(full: Path, pruned: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "refitted.pt"
    output.parent.mkdir()

    def small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = arguments(full, pruned, output)
    found = subprocess.run(command, capture_output=True, text=True, preexec_fn=small, check=False)
    assert found.returncode == 8, found.stderr
    assert str(output) in found.stderr and not os.listdir(output.parent)


@pytest.mark.parametrize("mode", slim.MODES)
def test_stock_fairseq_translates_as_nmtprune_does(full: Path, tmp_path: Path, mode: str) -> None:
    pruned, output = cut(full, tmp_path / "slim.pt", mode), tmp_path / "refitted.pt"
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", output).code == 0
    plug_in = () if mode == "masked" else ("--user-dir", nmtprune("user-dir").stdout.strip())
    theirs = fairseq_commands.generate(output, full.parent / "data-bin", "--beam", 3, *plug_in)
    ours = nmtprune("translate", output, *data(full), "--subset", "test", "--beam", 3, "--max-len-b", 20)
    assert ours.code == 0 and sorted(fairseq_commands.hypotheses(theirs)) == sorted(ours.stdout.splitlines())


def test_ctranslate2_and_bench_take_the_result(full: Path, pruned: Path, tmp_path: Path) -> None:
    output = tmp_path / "refitted.pt"
    assert nmtprune("refit", full, pruned, *data(full), *ANYWAY, "-o", output).code == 0
    folder = ("--data-bin", full.parent / "data-bin", "--post-process", "none", "--threads", 1)
    exported = nmtprune("export", output, "--to", "ctranslate2", *folder, "-o", tmp_path / "served", "--sentences", 5)
    assert exported.code == 0, exported.stderr
    checked = nmtprune(
        "check", output, "--baseline", full, *folder, "--subset", "test", "--max-drop", 100, "--beam", 1,
        "--max-len-b", 20, "--allow-few-sentences",
    )  # fmt: skip
    assert checked.code == 0, checked.stderr


@pytest.mark.parametrize("kind", ["plain", "adaptive"])
def test_language_models_are_refitted_on_text(build: Build, tmp_path: Path, kind: str) -> None:
    """Binarized or raw, the same lines give the same model."""
    base = build(arch="transformer_lm") if kind == "plain" else build(**ADAPTIVE_LM)
    pruned = cut(base, tmp_path / "slim.pt", removed="decoder.0.1-2 decoder.1")
    for name, text in (("a.pt", ()), ("b.pt", ("--source", base.parent / "data-bin" / "train.txt"))):
        found = nmtprune("refit", base, pruned, *data(base), *text, *ANYWAY, "-o", tmp_path / name, "--format", "json")
        assert found.code == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["calibration"]["on"] == "text" and report["verification"]["against"] == "base"
    assert load(tmp_path / "a.pt").sha256 == load(tmp_path / "b.pt").sha256 != load(pruned).sha256
    lineage = load(tmp_path / "a.pt").lineage
    assert lineage is not None and lineage.refit is not None and lineage.refit["sentences"] == 12


def test_language_models_take_text_alone(build: Build, full: Path, tmp_path: Path) -> None:
    base = build(arch="transformer_lm")
    pruned = cut(base, tmp_path / "slim.pt", removed="decoder.0.1")
    command = ("refit", base, pruned, "-o", tmp_path / "x.pt")
    code, line = refused(*command, *data(base), "--calibration-on", "translations")
    assert code == 2 and "is a language model" in line
    assert refused(*command, *data(base), "--subset", "other")[0] == 5
    code, line = refused(*command, *data(full))
    assert code == 5 and "dict.txt: no such dictionary" in line


@pytest.fixture
def marian(tmp_path: Path) -> Callable[..., tuple[Path, tuple[Any, ...]]]:
    """A Marian model and the options that name its text."""

    def make(variant: str) -> tuple[Path, tuple[Any, ...]]:
        folder = tmp_path / "model"
        folder.mkdir()
        path = marian_model(folder / "model.npz", **VARIANTS[variant])
        vocabulary = vocabulary_file(folder)
        source, target = random_texts(folder)
        raw = ("--source", source, "--reference", target, "--vocabs", vocabulary, vocabulary, "--post-process", "none")
        return path, raw

    return make


@pytest.mark.parametrize(("mode", "variant"), thinned(itertools.product(slim.MODES, VARIANTS), 3))
def test_marian_models_are_refitted(
    marian: Callable[..., tuple[Path, tuple[Any, ...]]], tmp_path: Path, variant: str, mode: str
) -> None:
    path, raw = marian(variant)
    base, output = load(path), tmp_path / "refitted.npz"
    plan = random_plan(base, 1, 0.5)  # type: ignore[arg-type]
    slim.apply(plan, base, mode).save(tmp_path / "slim.npz", provenance={"plan": plan.as_json()})
    found = nmtprune("refit", path, tmp_path / "slim.npz", *raw, *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["verification"]["against"] == "base" and len(report["projections"]) + len(
        report["without_projection"]
    )
    before, after = load(tmp_path / "slim.npz"), load(output)
    assert after.architecture == before.architecture
    assert mode == "masked" or (after.lineage is not None and after.lineage.refit is not None)
    assert json.loads(after.provenance or "")["refit"]["seed"] == 1


def test_marian_itself_scores_a_masked_result_as_nmtprune_does(
    marian: Callable[..., tuple[Path, tuple[Any, ...]]], tmp_path: Path
) -> None:
    path, raw = marian("post-norm, all tied")
    base, output = load(path), tmp_path / "refitted.npz"
    slim.apply(random_plan(base, 1, 0.5), base, "masked").save(tmp_path / "slim.npz")  # type: ignore[arg-type]
    assert nmtprune("refit", path, tmp_path / "slim.npz", *raw, *ANYWAY, "-o", output).code == 0
    source, target, vocabulary = raw[1], raw[3], raw[5]
    theirs = marian_scores(output, vocabulary, source, target)
    options = ("--metric", "loss", "-o", tmp_path / "scores.json", "--kinds", "cross", "--allow-few-sentences")
    scored = nmtprune("score", output, *raw, *options)
    assert scored.code == 0, scored.stderr
    baseline = json.loads((tmp_path / "scores.json").read_text())["baseline"]
    model = native.load(load(output))
    assert model.network.padding == -1
    tokens = sum(len(line.split()) + 1 for line in target.read_text().splitlines())
    assert baseline["value"] == pytest.approx(-sum(theirs) / tokens, rel=1e-4)
