"""`nmtprune slim`: what it writes and prints, and that nothing is written where something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from nmtprune import files
from nmtprune.architecture import EVERY_KIND, GroupId, UnitId
from nmtprune.cli.main import main
from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support import fairseq_files
from tests.support.fairseq_files import Build


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["slim", *map(str, arguments)])


@pytest.fixture
def plan(tiny: Path, tmp_path: Path) -> Path:
    """Keeps 13 of 24 heads: two modules lose everything, one loses three heads."""
    module = GroupId("cross", 1)
    base = load(tiny)
    emptied = [GroupId("encoder", 0), GroupId("decoder", 1)]
    removed = [head for head in base.architecture.head_ids() if head.group in emptied]
    path = tmp_path / "plan.json"
    Plan.removing(base.base, [*removed, *(UnitId(module, head) for head in (0, 1, 3))]).write(path)
    return path


def test_the_report_counts_what_went(tiny: Path, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "slim.pt"
    result = run(tiny, "--plan", plan, "-o", output, "--format", "json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    of_a_head = 4 * 4 * 16 + 3 * 4
    assert figures["heads"] == {"before": 24, "after": 13}
    assert figures["parameters"]["before"] - figures["parameters"]["after"] == 11 * of_a_head
    assert figures["model_bytes"]["before"] - figures["model_bytes"]["after"] == 4 * 11 * of_a_head
    moments = figures["optimizer_and_average_bytes"]
    assert moments["before"] - moments["after"] == 2 * 4 * 11 * of_a_head
    assert figures["file_bytes"]["after"] == output.stat().st_size
    assert figures["verification"]["ok"]
    assert figures["verification"]["max_delta"] <= figures["verification"]["tolerance"]


def test_the_table_for_people_ends_with_the_verification(tiny: Path, plan: Path, tmp_path: Path) -> None:
    result = run(tiny, "--plan", plan, "-o", tmp_path / "slim.pt")
    assert result.exit_code == 0, result.stderr
    assert ["heads", "24", "13", "-11"] in [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.splitlines()[-1].startswith("verified: max |delta logit| ")
    written = tmp_path / "slim.pt"
    runs = "runs in nmtprune, and in stock fairseq with --user-dir $(nmtprune user-dir)"
    assert result.stderr == f"wrote {written}\n{written} {runs}\n"


def test_a_slim_checkpoint_knows_its_lineage_and_how_it_was_made(tiny: Path, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "slim.pt"
    assert run(tiny, "--plan", plan, "-o", output, "-q").stderr == ""
    slim, base = load(output), load(tiny)
    assert slim.lineage is not None
    assert slim.lineage.root == base.base.without_neurons()
    assert slim.lineage.keep["cross.1"] == (2,)
    assert slim.architecture.heads_by_kind() == {"encoder": [0, 4], "decoder": [4, 0], "cross": [4, 1]}
    note = json.loads(fairseq_files.load(output)["nmtprune"])
    assert note["mode"] == "cut"
    assert note["plan"]["keep"]["cross.1"] == [2]
    assert note["versions"]["torch"] == torch.__version__


def test_masked_keeps_shapes_and_settings(tiny: Path, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "masked.pt"
    assert run(tiny, "--plan", plan, "-o", output, "--mode", "masked").exit_code == 0
    masked, base = fairseq_files.load(output), fairseq_files.load(tiny)
    assert vars(masked["cfg"]["model"]) == vars(base["cfg"]["model"])
    weight = masked["model"]["decoder.layers.1.encoder_attn.out_proj.weight"]
    assert [bool(weight[:, head * 4 : head * 4 + 4].any()) for head in range(4)] == [False, False, True, False]


def test_uniform_pads_each_stack_to_its_largest_module(tiny: Path, plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "uniform.pt"
    assert run(tiny, "--plan", plan, "-o", output, "--mode", "uniform").exit_code == 0
    modules = {str(module.id): (module.heads, module.padding_heads) for module in load(output).architecture}
    assert modules == {
        "encoder.0": (0, 4), "encoder.1": (4, 0), "decoder.0": (4, 0),
        "decoder.1": (0, 4), "cross.0": (4, 0), "cross.1": (1, 3),
    }  # fmt: skip


def test_reinit_draws_the_cut_shape_afresh(tiny: Path, plan: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{name}.pt" for name in ("cut", "seed0", "again", "seed1")]
    for output, options in zip(
        outputs, ([], ["--reinit", "--seed", 0], ["--reinit", "--seed", 0], ["--reinit"]), strict=True
    ):
        assert run(tiny, "--plan", plan, "-o", output, *options).exit_code == 0
    cut, first, again, other = (load(output).model_tensors for output in outputs)
    name = "encoder.layers.1.self_attn.q_proj.weight"
    assert first[name].shape == cut[name].shape
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], cut[name])
    assert not fairseq_files.load(outputs[1]).get("last_optimizer_state")


def test_dropping_the_optimizer_is_reported_apart(tiny: Path, plan: Path, tmp_path: Path) -> None:
    result = run(tiny, "--plan", plan, "-o", tmp_path / "slim.pt", "--drop-optimizer", "--format", "json")
    figures = json.loads(result.stdout)
    assert figures["optimizer_and_average_bytes"]["after"] == 0
    assert figures["model_bytes"]["after"] > 0


def test_an_optimizer_that_cannot_be_cut_names_the_option(build: Build, tmp_path: Path) -> None:
    checkpoint = build(updates=1, optimizer="adafactor", adam_betas=None, lr=None)
    plan, output = tmp_path / "plan.json", tmp_path / "slim.pt"
    Plan.removing(load(checkpoint).base, [UnitId(GroupId("cross", 0), 0)]).write(plan)
    refused = run(checkpoint, "--plan", plan, "-o", output)
    assert refused.exit_code == 3
    assert "--drop-optimizer" in refused.stderr
    assert not output.exists()
    assert run(checkpoint, "--plan", plan, "-o", output, "--drop-optimizer").exit_code == 0


@pytest.mark.parametrize("mode", ["masked", "uniform"])
def test_reinit_goes_with_cut_only(tiny: Path, plan: Path, tmp_path: Path, mode: str) -> None:
    result = run(tiny, "--plan", plan, "-o", tmp_path / "x.pt", "--mode", mode, "--reinit")
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: --reinit gives every head fresh weights: it goes with --mode cut, not {mode}\n",
    )


def test_a_plan_of_another_model_is_refused_by_name(build: Build, plan: Path, tmp_path: Path) -> None:
    result = run(build(heads=2), "--plan", plan, "-o", tmp_path / "x.pt")
    assert result.exit_code == 4
    assert result.stderr.startswith(f"Error: {plan}: made for another model: encoder heads of the model are [2, 2], ")
    assert not (tmp_path / "x.pt").exists()


def test_the_output_is_checked_before_anything_is_read(tiny: Path, tmp_path: Path) -> None:
    output = tmp_path / "there.pt"
    output.write_text("precious")
    result = run(tiny, "--plan", tmp_path / "missing.json", "-o", output)
    assert (result.exit_code, result.stderr) == (8, f"Error: {output}: exists (--force replaces it)\n")
    assert output.read_text() == "precious"


def test_the_input_is_never_overwritten(tiny: Path, plan: Path, tmp_path: Path) -> None:
    before = tiny.read_bytes()
    link = tmp_path / "link.pt"
    link.symlink_to(tiny)
    hard = tmp_path / "hard.pt"
    os.link(tiny, hard)
    for output in (tiny, link, hard):
        result = run(tiny, "--plan", plan, "-o", output, "--force")
        assert result.exit_code == 8
        assert "nothing is changed in place" in result.stderr
    assert tiny.read_bytes() == before


def test_a_full_disk_leaves_the_old_file(tiny: Path, plan: Path, tmp_path: Path) -> None:
    """The file system takes no more than 50 kB for a file, as one that is full half-way."""
    output = tmp_path / "slim.pt"
    output.write_text("old")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "from nmtprune.cli.main import main; main(sys.argv[1:])"
    )
    arguments = ["slim", str(tiny), "--plan", str(plan), "-o", str(output), "--force"]
    result = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (8, "")
    assert result.stderr.startswith(f"Error: {output}: ")
    assert result.stderr.count("\n") == 1
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "slim.pt"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_killed_during_the_write(tiny: Path, plan: Path, tmp_path: Path, number: int, code: int) -> None:
    """The write is held up half-way; then the old file is whole and no partial file has the final name."""
    output, ready = tmp_path / "slim.pt", tmp_path / "ready"
    output.write_text("old")
    program = (
        "import pathlib, sys, time, torch\n"
        "real = torch.save\n"
        "def save(state, file, **options):\n"
        "    real(state, file, **options)\n"
        "    pathlib.Path(sys.argv.pop()).touch()\n"
        "    time.sleep(60)\n"
        "torch.save = save\n"
        "from nmtprune.cli.main import main\n"
        "main(sys.argv[1:-1])\n"
    )
    arguments = ["slim", tiny, "--plan", plan, "-o", output, "--force", ready]
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not ready.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert output.read_text() == "old"
    if number == signal.SIGINT:
        assert errors == "Error: interrupted\n"
    files.write_text(output, "new", force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "ready", "slim.pt"]


# Neurons and layers


def smaller_plan(checkpoint: Path, path: Path, *, ragged: bool) -> Path:
    """Removes the first decoder layer, and neurons: as many from both encoder layers, or from the second only."""
    base = load(checkpoint)
    layers = [GroupId("encoder-ffn", layer) for layer in ((1,) if ragged else (0, 1))]
    neurons = [UnitId(layer, number) for layer in layers for number in (0, 2 + layer.layer, 5)]
    Plan.removing(base.base, [UnitId(GroupId("decoder-layers"), 0), *neurons]).write(path)
    return path


@pytest.mark.parametrize("mode", ["cut", "uniform", "masked"])
@pytest.mark.parametrize("ragged", [True, False])
def test_neurons_and_layers_are_cut_verified_and_reported(tiny: Path, tmp_path: Path, mode: str, ragged: bool) -> None:
    plan, output = smaller_plan(tiny, tmp_path / "plan.json", ragged=ragged), tmp_path / "slim.pt"
    result = run(tiny, "--plan", plan, "-o", output, "--mode", mode, "--format", "json")
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["verification"]["ok"]
    assert (figures["heads"], figures["layers"]) == ({"before": 24, "after": 16}, {"before": 4, "after": 3})
    gone = 0 if mode == "masked" else 3 if ragged else 6
    stored = 0 if mode == "masked" or (ragged and mode == "uniform") else gone
    assert figures["neurons"] == {"before": 96, "after": 72 - gone}
    feed_forward, of_a_neuron = 2 * 16 * 24 + 16 + 24, 2 * 16 + 1
    parts = {name: figures[f"parameters.{name}"] for name in ("feed-forward", "attention.cross", "embeddings")}
    assert {name: part["before"] - part["after"] for name, part in parts.items()} == {
        "feed-forward": feed_forward + stored * of_a_neuron,
        "attention.cross": 4 * (16 * 16 + 16),
        "embeddings": 0,
    }
    whole = [figures[name] for name in figures if name.startswith("parameters.")]
    for when in ("before", "after"):
        assert sum(part[when] for part in whole) == figures["parameters"][when]
    slim = load(output)
    assert slim.architecture.layers("decoder") == (0,)
    assert slim.lineage is not None and slim.lineage.layers("decoder") == (1,)
    needs_plugin = ragged and mode == "cut"
    assert ("--user-dir $(nmtprune user-dir)" in result.stderr) == needs_plugin
    assert ("runs in every stock engine" in result.stderr) != needs_plugin
    assert result.stderr.splitlines()[-1] == f"{output} runs in CTranslate2 after nmtprune export"


def test_a_plan_of_heads_alone_is_reported_as_ever(tiny: Path, plan: Path, tmp_path: Path) -> None:
    figures = json.loads(run(tiny, "--plan", plan, "-o", tmp_path / "slim.pt", "--format", "json").stdout)
    assert list(figures) == [
        "output", "heads", "parameters", "model_bytes", "optimizer_and_average_bytes", "file_bytes", "verification",
    ]  # fmt: skip


def test_cutting_twice_is_cutting_once(tiny: Path, tmp_path: Path) -> None:
    """The composed plan is what the lineage of the second cut says."""
    first = smaller_plan(tiny, tmp_path / "first.json", ragged=True)
    assert run(tiny, "--plan", first, "-o", tmp_path / "once.pt").exit_code == 0
    once = load(tmp_path / "once.pt")
    second = [
        UnitId(GroupId("encoder-layers"), 0),
        UnitId(GroupId("encoder-ffn", 1), 1),
        UnitId(GroupId("cross", 0), 2),
    ]
    Plan.removing(once.base, second).write(tmp_path / "second.json")
    assert run(tmp_path / "once.pt", "--plan", tmp_path / "second.json", "-o", tmp_path / "twice.pt").exit_code == 0
    twice, base = load(tmp_path / "twice.pt"), load(tiny)
    assert twice.lineage is not None
    composed = Plan.of(base.base, {GroupId.parse(name, EVERY_KIND): kept for name, kept in twice.lineage.keep.items()})
    composed.write(tmp_path / "composed.json")
    assert run(tiny, "--plan", tmp_path / "composed.json", "-o", tmp_path / "composed.pt").exit_code == 0
    at_once = load(tmp_path / "composed.pt")
    assert at_once.sha256 == twice.sha256
    assert at_once.lineage == twice.lineage
    assert {str(id): kept for id, kept in composed.kept_units.items() if id.layer and id.stack == "encoder"}[
        "encoder-ffn.1"
    ] == tuple(number for number in range(24) if number not in (0, 2, 3, 5))
