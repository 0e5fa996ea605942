"""Commands on classifiers of transformers: those that take them, and the line in which all others refuse them."""

import json
from pathlib import Path

import pytest

from nmtprune.plan import Plan
from tests.support.classifier_folders import classifier_folder
from tests.support.cli import nmtprune, refused

TRANSLATE = (
    "translate M --source T",
    "functions M --source T -o NEW",
    "attention M x -o NEW",
    "bench M --cost-table -o NEW",
    "export M --to ctranslate2 -o NEW",
    "convert M NEW --to fairseq --source T",
    "lottery --late-reset M --prune-updates 1 --until 50% --data-bin T -o NEW",
    "l0 M --l0-weight 0.1 --source T --reference T -o NEW",
)
"""Commands that need a translation, its loss, or its search, with options that they would take."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier_folder(tmp_path_factory.mktemp("classifier") / "model", "roberta")


def test_inspect_plan_slim_and_drift_take_a_classifier(folder: Path, tmp_path: Path) -> None:
    plan, slim = tmp_path / "plan.json", tmp_path / "slim"
    made = nmtprune("plan", folder, "--empty-layers", "middle:1", "--remove-layers", "encoder=top:1",
                    "--keep-neurons", "encoder=8", "-o", plan)  # fmt: skip
    assert (made.code, made.stderr) == (0, f"wrote {plan}\n")
    assert Plan.read(plan).heads_by_kind()["encoder"] == (0, 4, 0)
    cut = nmtprune("slim", folder, "--plan", plan, "-o", slim, "--format", "json")
    assert cut.code == 0, cut.stderr
    assert json.loads(cut.stdout)["verification"]["ok"] is True
    assert cut.stderr == (
        f"{slim} loads in transformers (from_pretrained), without code of its own; the 4 heads that are gone are "
        "stored and computed as zeros there, since transformers has no other number of heads: only fewer neurons "
        "and layers make this model smaller and faster\n"
    )
    shown = json.loads(nmtprune("inspect", slim, "--format", "json").stdout)
    assert (shown["architecture"], shown["heads"], shown["root_heads"]) == ("RobertaForSequenceClassification", 4, 12)
    assert [entry["root_layer_ids"] for entry in shown["stacks"]] == [[0, 1]]
    assert shown["notes"] == [] and shown["parameters"]["output"] == 16 * 17 + 3 * 17
    drift = json.loads(nmtprune("drift", folder, slim, "--format", "json").stdout)
    assert [head["mean"] for head in drift["heads"]] == [0.0] * 4
    assert [len(layer["neurons"]) for layer in drift["neurons"]] == [8, 8]


@pytest.mark.parametrize("command", TRANSLATE)
def test_commands_that_translate_refuse_a_classifier(folder: Path, tmp_path: Path, command: str) -> None:
    text, new = tmp_path / "text", tmp_path / "new"
    text.write_text("a b\nc d\n")
    given = [{"M": folder, "T": text, "NEW": new}.get(word, word) for word in command.split()]
    code, line = refused(*given)
    assert (code, line) == (
        3,
        f"{folder}: an encoder with a classification head, which translates nothing: nmtprune inspect, plan, slim, "
        "drift, score, greedy, refit, check and bench take it",
    )
    assert not new.exists()
