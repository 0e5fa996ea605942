"""`check` on classifiers: the verdict, against transformers, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from nmtprune.architecture import UnitId
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support.classified import Classified, classified
from tests.support.cli import nmtprune, refused


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classified(tmp_path_factory.mktemp("bert"), count=80)


@pytest.fixture(scope="module")
def slim(bert: Classified) -> Path:
    """Without three heads, with the tokenizer beside it."""
    base, place = load(bert.folder), bert.folder.parent / "slim"
    units = ["encoder.0.0", "encoder.0.1", "encoder.2.3"]
    plan = Plan.removing(base.base, [UnitId.parse(unit, ("encoder",)) for unit in units])
    apply(plan, base).save(place)
    return place


def test_the_verdict_is_that_of_transformers_labels(bert: Classified, slim: Path) -> None:
    first, second = (bert.logits(folder).argmax(1).numpy() for folder in (bert.folder, slim))
    right, other = first == bert.labels, second == bert.labels
    drop = float(100 * (right.mean() - other.mean()))
    gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
    arguments = ("check", slim, "--baseline", bert.folder, *bert.options, "--max-size", 100)
    passed = nmtprune(*arguments, "--max-drop", max(0, drop) + 0.1, "--format", "json")
    assert passed.code == 0, passed.stderr
    found = json.loads(passed.stdout)
    condition = found["conditions"][0]
    assert condition["value"] == pytest.approx(-drop)
    p = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
    assert f"accuracy {100 * right.mean():.2f} -> {100 * other.mean():.2f}" in condition["says"]
    assert f"McNemar's p {p:.3g}" in condition["says"]
    assert (found["signature"], found["sentences"], found["texts"]) == ("unit:percent|labels:2", 80, "pairs")
    failed = nmtprune(*arguments, "--max-drop", 0.5, "--significant")
    assert (failed.code, "FAILED --max-drop: accuracy" in failed.stdout) == (7, True)


def test_f1_is_checked_by_the_bootstrap(bert: Classified, slim: Path) -> None:
    said = bert.logits(slim).argmax(1).numpy()
    result = nmtprune("check", slim, "--baseline", bert.folder, *bert.options, "--max-drop", 100, "--metric", "f1",
                      "--significant", "--format", "json")  # fmt: skip
    (condition,) = json.loads(result.stdout)["conditions"]
    assert f"-> {100 * f1_score(bert.labels, said):.2f}, change" in condition["says"]
    assert "McNemar" not in condition["says"]
    low, high = condition["interval"]
    assert (low <= high, condition["value"]) == (True, low)


def test_speed_needs_no_labels(bert: Classified, slim: Path) -> None:
    result = nmtprune("check", slim, "--baseline", bert.folder, "--examples", bert.table, "--text-column",
                      "first,second", "--truncate", "--min-speedup", 0, "--repeat", 1, "--batch-size", 4)  # fmt: skip
    assert (result.code, result.stdout.startswith("passed --min-speedup: ")) == (0, True), result.stderr


def test_models_and_options_that_do_not_fit(bert: Classified, slim: Path, tmp_path: Path) -> None:
    arguments = ("check", slim, "--baseline", bert.folder, *bert.options, "--max-drop", 1)
    code, line = refused(*arguments, "--metric", "bleu")
    assert (code, line) == (
        2,
        f"--metric bleu is of translations, and {bert.folder} is a classifier: choose accuracy, f1 or matthews",
    )
    unlabelled = ("--examples", bert.table, "--text-column", "first,second", "--truncate", "--max-drop", 1)
    code, line = refused("check", slim, "--baseline", bert.folder, *unlabelled)
    assert (code, "--max-drop needs labels: name their column with --label-column NAME" in line) == (2, True)
    other = tmp_path / "other"
    shutil.copytree(slim, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"id2label": {"0": "bad", "1": "good"}}))
    table = tmp_path / "numbers.tsv"
    table.write_text("".join(
        "\t".join((*row[:2], str(label))) + "\n"
        for row, label in zip([["first", "second"], *bert.rows], ["label", *bert.labels], strict=True)
    ))  # fmt: skip
    code, line = refused("check", other, "--baseline", bert.folder, "--examples", table, *bert.options[2:],
                         "--max-drop", 1)  # fmt: skip
    assert (code, f"{other} has other labels than {bert.folder}" in line) == (5, True)
    assert np.all(bert.labels < 2)
