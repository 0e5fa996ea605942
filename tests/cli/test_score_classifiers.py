"""`score` on classifiers: against transformers with units taken out, and the options that it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from nmtprune.architecture import UnitId
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.scores import Scores
from nmtprune.slim import apply
from tests.support.classified import Classified, classified
from tests.support.cli import JUDGED, nmtprune, refused

METRICS = ("accuracy", "f1", "matthews", "loss")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classified(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classified(tmp_path_factory.mktemp("three"), "roberta", names=("no", "yes", "maybe"), count=40)


def _value(metric: str, labels: Any, logits: torch.Tensor) -> float:
    said = logits.argmax(1).numpy()
    if metric == "accuracy":
        return float(100 * accuracy_score(labels, said))
    if metric == "f1":
        own = {"average": "macro"} if logits.shape[1] > 2 else {"average": "binary"}
        return float(100 * f1_score(labels, said, zero_division=0, **own))
    if metric == "matthews":
        return float(100 * matthews_corrcoef(labels, said))
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(labels)))


def _without(own: Classified, place: Path, units: list[str]) -> torch.Tensor:
    """Logits of transformers for a file without some units."""
    base = load(own.folder)
    plan = Plan.removing(base.base, [UnitId.parse(unit, ("encoder", "encoder-layers")) for unit in units])
    shutil.rmtree(place, ignore_errors=True)
    apply(plan, base, "masked").save(place)
    return own.logits(place)


def _scored(own: Classified, place: Path, *options: object) -> dict[str, Any]:
    result = nmtprune("score", own.folder, *own.options, "-o", place / "scores.json", *options)
    assert result.code == 0, result.stderr
    assert (place / "scores.tsv").exists() and (place / "scores.png").exists()
    found: dict[str, Any] = json.loads((place / "scores.json").read_text())
    return found


@pytest.mark.parametrize(
    ("name", "metric"), [*[("bert", metric) for metric in METRICS], ("three", "f1"), ("three", "matthews")]
)
def test_every_drop_is_that_of_transformers_without_the_unit(
    name: str, metric: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    own: Classified = request.getfixturevalue(name)
    _scored(
        own,
        tmp_path,
        "--metric",
        metric,
        "--group",
        "heads,layers",
        "--resamples",
        2000,
        "--correction",
        "none",
        *(["--allow-bad-baseline"] if metric == "loss" else []),
    )
    found = Scores.read(tmp_path / "scores.json")
    base = _value(metric, own.labels, own.logits())
    assert found.baseline["value"] == pytest.approx(base, abs=1e-4)
    assert found.baseline["data"] == str(own.table)
    units = {entry.head: entry for entry in found.entries}
    assert len(units) == 3 * 4 + 3
    for unit in ("encoder.0.1", "encoder.2.3", "encoder-layers.1"):
        value = _value(metric, own.labels, _without(own, tmp_path / "masked", [unit]))
        assert units[unit].delta == pytest.approx(value - base, abs=1e-4)
    assert found.baseline["significance"]["method"] == ("mcnemar-exact" if metric == "accuracy" else "bootstrap")


def test_accuracy_is_tested_exactly_and_corrected(bert: Classified, tmp_path: Path) -> None:
    found = _scored(bert, tmp_path, "--metric", "accuracy", "--alpha", 0.05)
    right = bert.logits().argmax(1).numpy() == bert.labels
    for entry in found["heads"][:3]:
        other = _without(bert, tmp_path / "masked", [entry["head"]]).argmax(1).numpy() == bert.labels
        gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
        expected = binomtest(gained, gained + lost, 0.5).pvalue if gained + lost else 1.0
        assert entry["p"] == pytest.approx(expected, rel=1e-9)
        assert entry["p"] <= entry["p_corrected"] <= 1
        assert entry["delta"] == pytest.approx(100 * (gained - lost) / len(right))


def test_all_but_one_leaves_a_head_alone_and_tests_the_best(bert: Classified, tmp_path: Path) -> None:
    found = _scored(bert, tmp_path, "--metric", "accuracy", "--all-but-one", "--kinds", "encoder", "--test-examples",
                    bert.table, "--allow-bad-baseline")  # fmt: skip
    others = [f"encoder.1.{head}" for head in (0, 1, 3)]
    value = _value("accuracy", bert.labels, _without(bert, tmp_path / "masked", others))
    base = _value("accuracy", bert.labels, bert.logits())
    (entry,) = (own for own in found["heads"] if own["head"] == "encoder.1.2")
    assert entry["score"] == pytest.approx(value - base, abs=1e-4)
    assert len(found["test"]["heads"]) == 3


def test_an_interrupted_run_goes_on_to_the_same_file(
    bert: Classified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _scored(bert, tmp_path, "--metric", "f1")
    from nmtprune.runs import label_quality

    calls, real = [], label_quality.LabelQuality.systems

    def failing(self: Any, kept: Any) -> Any:
        calls.append(kept)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(self, kept)

    again = tmp_path / "again"
    again.mkdir()
    arguments = ("score", bert.folder, *bert.options, "--metric", "f1", "-o", again / "scores.json")
    with monkeypatch.context() as patched:
        patched.setattr(label_quality.LabelQuality, "systems", failing)
        assert nmtprune(*arguments).code == 130
    assert nmtprune(*arguments, "--resume").code == 0
    found = json.loads((again / "scores.json").read_text())
    assert (found["heads"], found["baseline"]) == (whole["heads"], whole["baseline"])


def test_a_model_no_better_than_the_most_frequent_label_is_refused(bert: Classified, tmp_path: Path) -> None:
    rows = [row.split("\t") for row in bert.table.read_text().splitlines()]
    wrong = tmp_path / "wrong.tsv"
    other = {"no": "yes", "yes": "no", "label": "label"}
    wrong.write_text("".join("\t".join((*row[:2], other[row[2]])) + "\n" for row in rows))
    options = ("--examples", wrong, *bert.options[2:], "-o", tmp_path / "scores.json")
    for metric in METRICS:
        code, line = refused("score", bert.folder, *options, "--metric", metric, env=JUDGED)
        assert (code, f"means nothing: {metric} " in line, "--allow-bad-baseline goes on" in line) == (5, True, True)
    one = tmp_path / "one.tsv"
    one.write_text("".join("\t".join((*row[:2], "label" if row[2] == "label" else "yes")) + "\n" for row in rows))
    code, line = refused("score", bert.folder, "--examples", one, *options[2:], "--metric", "matthews", env=JUDGED)
    assert (
        code,
        line.splitlines()[-1].endswith("so matthews says nothing (--allow-bad-baseline goes on all the same)"),
    ) == (5, True)


def test_metrics_of_the_other_kind_of_model_are_refused(bert: Classified, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "new.json")
    assert refused("score", bert.folder, *bert.options, "--metric", "bleu", *out) == (
        2,
        f"--metric bleu: {bert.folder} is a classifier: choose loss, accuracy, f1, matthews, importance, fisher, "
        "reconstruction, variance, activation or confidence",
    )


def test_options_and_data_that_do_not_fit(bert: Classified, tmp_path: Path) -> None:
    out = ("--metric", "accuracy", "-o", tmp_path / "new.json")
    unlabelled = ("--examples", bert.table, "--text-column", "first,second", "--truncate")
    cases: list[tuple[tuple[object, ...], int, str]] = [
        (unlabelled, 2, "labels are needed: name their column with --label-column NAME"),
        ((*bert.options, "--engine", "fairseq"), 6, "a classifier runs on --engine native, not on fairseq"),
        ((*bert.options, "--beam", 3), 2, "--beam"),
        ((*bert.options, "--lowercase-source"), 2, "--lowercase-source: this model is a classifier"),
        (
            ("--source", bert.table, "--data-bin", tmp_path, "--sentencepiece", bert.table),
            2,
            "this model is a classifier: name a table with --examples",
        ),
        (("--data-bin", tmp_path), 2, "a classifier of transformers reads texts: name a table with --examples FILE"),
        (bert.options[:-1], 5, "texts are longer than the model's 40 positions"),
    ]
    for options, exit_code, said in cases:
        code, line = refused("score", bert.folder, *options, *out)
        assert (code, said in line) == (exit_code, True), line
    few = tmp_path / "few.tsv"
    few.write_text("".join(bert.table.read_text().splitlines(keepends=True)[:6]))
    code, line = refused("score", bert.folder, "--examples", few, *bert.options[2:], *out)
    assert (code, "no difference can be called significant on fewer than 10" in line) == (5, True)


def test_logits_that_are_no_numbers_are_refused(bert: Classified, tmp_path: Path) -> None:
    """Finite weights can overflow, and no label would be the largest."""
    folder = shutil.copytree(bert.folder, tmp_path / "model")
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    weights["classifier.weight"] *= 3e38 / weights["classifier.weight"].abs().max()
    save_file(weights, path)
    code, line = refused("score", folder, *bert.options, "--metric", "accuracy", "-o", tmp_path / "new.json")
    assert (code, "texts are no finite numbers: check the model's weights" in line) == (3, True), line
