"""`greedy`, `refit` and `bench` on classifiers: their figures are those of stock transformers, and what they refuse."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtprune import formats
from nmtprune.data.labelled import load_examples
from nmtprune.engines import native
from nmtprune.evaluate.cost import Lengths, by_part
from nmtprune.formats.base import Checkpoint
from nmtprune.formats.huggingface.safetensors_file import read_safetensors
from nmtprune.plan import Plan
from nmtprune.slim import apply
from nmtprune.summary import parameter_count
from tests.support.classified import Classified, classified
from tests.support.cli import documented, nmtprune, refused
from tests.support.greedy import files_of
from tests.support.thinned import thinned

TEXTS = 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classified(tmp_path_factory.mktemp("classified"), count=TEXTS)


def accuracy(made: Classified, folder: Path) -> float:
    """Of the model in a folder, by stock transformers."""
    return 100 * float(np.mean(made.logits(folder).argmax(1).numpy() == made.labels))


def slimmed(made: Classified, plan: Path, output: Path) -> Path:
    """The folder that `slim` writes."""
    found = nmtprune("slim", made.folder, "--plan", plan, "-o", output)
    assert found.code == 0, found.stderr
    return output


@pytest.fixture(scope="module")
def swept(made: Classified, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Any, ...]]:
    """A run of several orders, and its command."""
    folder = tmp_path_factory.mktemp("swept")
    orders = ("importance", "fisher", "variance", "random")
    command = ("greedy", made.folder, *made.options, *(word for order in orders for word in ("--order", order)),
               "--samples", 1, "--step", "50%", "--until", "50%", "-o", folder)  # fmt: skip
    found = nmtprune(*command)
    assert found.code == 0, found.stderr
    assert f"{TEXTS} texts, 12 heads" in found.stdout and "accuracy" in found.stdout and "BLEU" not in found.stdout
    return folder, command


def test_a_curve_has_the_accuracy_of_transformers(
    made: Classified, swept: tuple[Path, tuple[Any, ...]], tmp_path: Path
) -> None:
    found = documented((swept[0] / "curve.json").read_text())
    assert (found["metric"], found["labels"], found["signature"]) == ("accuracy", "no,yes", "unit:percent|labels:2")
    assert found["significance"]["method"] == "mcnemar-exact" and "search" not in found
    for number, curve in enumerate(found["curves"]):
        first, last = curve["steps"]
        assert first["accuracy"] == pytest.approx(accuracy(made, made.folder))
        output = slimmed(made, swept[0] / last["plan"], tmp_path / f"slim{number}")
        assert last["accuracy"] == pytest.approx(accuracy(made, output)) and last["removed"] == 6
    rows = [*csv.DictReader((swept[0] / "curve.tsv").open(), delimiter="\t")]
    assert [float(row["accuracy"]) for row in rows] == [
        step["accuracy"] for own in found["curves"] for step in own["steps"]
    ]
    chosen = Plan.read(swept[0] / "plan.json")
    assert chosen.keep == Plan.read(swept[0] / found["curves"][0]["steps"][-1]["plan"]).keep


def test_the_page_of_a_run_names_the_metric(
    made: Classified, swept: tuple[Path, tuple[Any, ...]], tmp_path: Path
) -> None:
    found = nmtprune("report", swept[0] / "curve.json", "-o", tmp_path / "page.html")
    assert found.code == 0, found.stderr
    page = (tmp_path / "page.html").read_text()
    assert "accuracy" in page and "BLEU" not in page


def test_a_run_that_is_resumed_gives_the_same_files(
    made: Classified, swept: tuple[Path, tuple[Any, ...]], tmp_path: Path
) -> None:
    *command, _ = swept[1]
    state = json.loads((swept[0] / "state.json").read_text())
    units = [*state["units"].items()]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "state.json").write_text(json.dumps(state | {"units": dict(units[: len(units) // 2])}))
    resumed = nmtprune(*command, folder, "--resume")
    assert resumed.code == 0, resumed.stderr
    assert files_of(folder) == files_of(swept[0])


REFITTED = (
    ("macs=60%", "--order auto --rounds 2 --group heads,neurons,layers"),
    ("params=90%", "--order reconstruction --rounds 2 --metric f1"),
    ("macs=70%", "--group layers --calibration-examples T"),
)
"""Budgets, and further options of a run."""


@pytest.mark.parametrize(("budget", "options"), thinned(REFITTED))
def test_refitted_sweeps_within_budgets(made: Classified, tmp_path: Path, budget: str, options: str) -> None:
    """The slim model of a run gives the quality of its curve, and costs what its budget allows."""
    words = [made.table if word == "T" else word for word in options.split()]
    folder = tmp_path / "run"
    ran = nmtprune("greedy", made.folder, *made.options, "--refit", "--budget", budget, *words, "-o", folder)
    assert ran.code == 0, ran.stderr
    found = documented((folder / "curve.json").read_text())
    step, metric = found["curves"][0]["steps"][-1], found["metric"]
    if metric == "accuracy":
        assert step["accuracy"] == pytest.approx(accuracy(made, folder / "slim"))
    else:
        assert 0 <= step["f1"] <= 100 and "accuracy" not in step
    kind, _, share = budget.removesuffix("%").partition("=")
    left = step["macs" if kind == "macs" else "parameters"]
    assert left <= int(share) / 100
    assert found["refit"]["on"] == "text" and found["refit"]["sentences"] == TEXTS
    base, slim = formats.load(made.folder), formats.load(folder / "slim")
    lengths = Lengths.of_texts(load_examples(made.data, base.classifier_profile()).tokens.sizes.tolist())

    def cost(checkpoint: Checkpoint) -> float:
        if kind == "params":
            return parameter_count(checkpoint)
        return sum(by_part(native.load_classifier(checkpoint), lengths).values())

    assert left == pytest.approx(cost(slim) / cost(base), rel=1e-9)


def test_refit_needs_no_labels_and_lowers_the_loss(made: Classified, tmp_path: Path) -> None:
    base = formats.load(made.folder)
    plan = Plan.of(base.base, {id: own[::2] for id, own in base.base.units.items() if id.sort == "heads"})
    apply(plan, base).save(tmp_path / "slim")
    labels = made.options[-3:-1]
    assert labels == ("--label-column", "label")
    texts = [word for word in made.options if word not in labels]
    reports = []
    for name, options in (("labelled", made.options), ("unlabelled", texts)):
        found = nmtprune("refit", made.folder, tmp_path / "slim", *options, "-o", tmp_path / name, "--force-worse",
                         "--format", "json")  # fmt: skip
        assert found.code == 0, found.stderr
        reports.append(json.loads(found.stdout))
        assert reports[-1]["verification"]["ok"] and reports[-1]["holdout"] == {"sentences": TEXTS // 4}
    one, other = (
        read_safetensors(tmp_path / name / "model.safetensors").tensors for name in ("labelled", "unlabelled")
    )
    assert all(bool((one[name] == other[name]).all()) for name in one)
    assert "no labels: losses are those of the labels that" in found.stderr
    loss = reports[1]["loss"]
    assert loss["refitted"] < loss["slim"]
    lineage = formats.load(tmp_path / "unlabelled").lineage
    assert lineage is not None and lineage.refit is not None and lineage.refit["sentences"] == TEXTS * 3 // 4


def test_bench_compares_classifiers(made: Classified, swept: tuple[Path, tuple[Any, ...]], tmp_path: Path) -> None:
    slim = tmp_path / "slim"
    plan = tmp_path / "plan.json"
    assert (
        nmtprune("plan", made.folder, "--keep-neurons", "encoder=8", "--keep-layers", "encoder=2", "-o", plan).code == 0
    )
    slimmed(made, plan, slim)
    ran = nmtprune("bench", made.folder, slim, *made.options, "--batch-size", "16,32", "--repeat", 1,
                   "-o", tmp_path / "bench.json")  # fmt: skip
    assert ran.code == 0, ran.stderr
    assert f"{TEXTS} texts, engine native" in ran.stdout and "words/s" not in ran.stdout
    found = documented((tmp_path / "bench.json").read_text())
    first, second = found["models"]
    for model, folder in ((first, made.folder), (second, slim)):
        assert model["accuracy"] == pytest.approx(accuracy(made, folder)) and model["bleu"] is None
        assert [timing["batch_size"] for timing in model["timings"]] == [16, 32]
        assert all(timing["words_per_second"] is None for timing in model["timings"])
    assert second["timings"][0]["predicted"] > 1.5 and second["parameters"] < first["parameters"]
    rows = [*csv.DictReader((tmp_path / "bench.tsv").open(), delimiter="\t")]
    assert len(rows) == 4 and float(rows[0]["accuracy"]) == first["accuracy"] and rows[0]["words_per_second"] == ""
    page = nmtprune("report", tmp_path / "bench.json", swept[0] / "curve.json", "-o", tmp_path / "page.html")
    assert page.code == 0, page.stderr


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("greedy M D --metric bleu", 2, "--metric bleu is of translations"),
        ("greedy M D --beam 3", 2, "--beam: "),
        ("greedy M D --engine ctranslate2", 6, "a classifier runs on --engine native, not on ctranslate2"),
        ("greedy M D --order gates", 2, "--order gates: M is a classifier"),
        ("greedy M D --lowercase", 2, "--lowercase goes with --metric bleu or chrf"),
        ("greedy M D --order confidence --confidence-on translations", 2, "a classifier translates nothing"),
        ("greedy M --source T --sentencepiece T --data-bin T", 2, "this model is a classifier"),
        ("greedy M --examples T --text-column first,second --truncate", 2, "labels are needed"),
        ("refit M M D --calibration-on references", 2, "is a classifier: it is fitted on text"),
        ("refit M M D --beam 3", 2, "--beam"),
        ("bench M D --bleu-tokenize 13a", 2, "--bleu-tokenize: of translations, and M is a classifier"),
        ("bench M D --batch-size 61", 2, "dev.tsv has only 32 texts"),
        ("bench M --examples T --text-column first,second --truncate --batch-size 4 --alpha 0.1", 2,
         "--alpha goes with labels"),
    ],
)  # fmt: skip
def test_what_means_nothing_for_a_classifier_is_refused(
    made: Classified, tmp_path: Path, command: str, code: int, message: str
) -> None:
    words: list[object] = []
    for word in command.split():
        words += made.options if word == "D" else [{"M": made.folder, "T": made.table}.get(word, word)]
    if words[0] != "bench":
        words += ["-o", tmp_path / "new"]
    assert not (tmp_path / "new").exists()
    found = refused(*words)
    assert message.replace("M is", f"{made.folder} is") in found[1] and found[0] == code
