"""Commands on RoBERTa checkpoints of fairseq: those that take every encoder, and the line of those that translate."""

import json
from pathlib import Path

import pytest

from nmtprune.plan import Plan
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_encoders import BuildEncoder


@pytest.mark.parametrize("task", ["sentence_prediction", "masked_lm"])
def test_inspect_plan_slim_and_drift_take_an_encoder(build_encoder: BuildEncoder, tmp_path: Path, task: str) -> None:
    path, plan, cut = build_encoder(task=task, updates=2), tmp_path / "plan.json", tmp_path / "cut.pt"
    shown = json.loads(nmtprune("inspect", path, "--format", "json").stdout)
    assert (shown["architecture"], shown["heads"], shown["notes"]) == ("roberta", 12, [])
    assert {entry["module"]: entry["parameters_per_head"] for entry in shown["modules"]} == {
        f"encoder.{layer}": 4 * 4 * 16 + 3 * 4 for layer in range(3)
    }
    made = nmtprune("plan", path, "--empty-layers", "middle:1", "--remove-layers", "encoder=top:1", "--keep-neurons",
                    "encoder=8", "-o", plan)  # fmt: skip
    assert (made.code, made.stderr) == (0, f"wrote {plan}\n")
    assert Plan.read(plan).heads_by_kind()["encoder"] == (0, 4, 0)
    done = nmtprune("slim", path, "--plan", plan, "-o", cut, "--format", "json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["verification"]["ok"] is True
    assert done.stderr == f"{cut} runs in nmtprune, and in stock fairseq with --user-dir $(nmtprune user-dir)\n"
    after = json.loads(nmtprune("inspect", cut, "--format", "json").stdout)
    assert (after["architecture"], after["heads"], after["root_heads"]) == ("roberta", 4, 12)
    assert [entry["root_layer_ids"] for entry in after["stacks"]] == [[0, 1]]
    drift = json.loads(nmtprune("drift", path, cut, "--format", "json").stdout)
    assert [head["mean"] for head in drift["heads"]] == [0.0] * 4
    assert [len(layer["neurons"]) for layer in drift["neurons"]] == [8, 8]


@pytest.mark.parametrize("patterns", ["top:1", "bottom:1", "middle:1", "even", "odd", "random:2"])
def test_layers_go_by_every_pattern(build_encoder: BuildEncoder, tmp_path: Path, patterns: str) -> None:
    made = nmtprune("plan", build_encoder(), "--remove-layers", f"encoder={patterns}", "-o", tmp_path / "plan.json")
    assert made.code == 0, made.stderr
    layers = {"top:1": (0, 1), "bottom:1": (1, 2), "middle:1": (0, 2), "even": (1,), "odd": (0, 2)}
    kept = Plan.read(tmp_path / "plan.json").kept_layers()["encoder"]
    assert kept == layers.get(patterns, kept) and len(kept) in (1, 2)


def test_what_runs_a_cut_of_neurons_and_layers(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path, plan, cut = build_encoder(), tmp_path / "plan.json", tmp_path / "cut.pt"
    assert nmtprune("plan", path, "--keep-neurons", "encoder=8", "--keep-layers", "encoder=2", "-o", plan).code == 0
    done = nmtprune("slim", path, "--plan", plan, "-o", cut)
    assert (done.code, done.stderr) == (
        0, f"wrote {cut}\n{cut} runs in nmtprune, and in stock fairseq without --user-dir\n",
    )  # fmt: skip


def test_drift_from_the_pretrained_model_to_one_with_a_head(build_encoder: BuildEncoder) -> None:
    before, after = build_encoder(task="masked_lm", updates=2), build_encoder(updates=2)
    found = nmtprune("drift", before, after, "--format", "json")
    assert found.code == 0 and len(json.loads(found.stdout)["heads"]) == 12


@pytest.mark.parametrize(
    "command",
    ["score M --data-bin D -o NEW", "greedy M --data-bin D -o NEW", "refit M M --data-bin D -o NEW",
     "check M --baseline M --max-drop 1 --data-bin D",
     "lottery --late-reset M --prune-updates 1 --until 50% --data-bin D -o NEW",
     "l0 M --l0-weight 0.1 --data-bin D -o NEW", "bench M --data-bin D",
     "convert M NEW --to huggingface --data-bin D", "export M --to ctranslate2 --data-bin D -o NEW"],
)  # fmt: skip
def test_commands_that_need_words_or_labels_refuse_a_model_of_masked_words(
    build_encoder: BuildEncoder, tmp_path: Path, command: str
) -> None:
    path = build_encoder(task="masked_lm", updates=2)
    given = {"M": path, "D": path.parent / "data-bin", "NEW": tmp_path / "new"}
    code, line = refused(*(given.get(word, word) for word in command.split()))
    assert (code, line) == (
        3,
        f"{path}: an encoder without a classification head, which neither translates nor gives labels: nmtprune "
        "inspect, plan, slim and drift take it; fine-tune it first, with fairseq-train and its task "
        "sentence_prediction",
    )
    assert not (tmp_path / "new").exists()
