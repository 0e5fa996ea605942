"""`score` and `check` on RoBERTa checkpoints of fairseq, against fairseq's own task, and models without such a head."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune.architecture import UnitId
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.slim import apply
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_encoders import POSITIONS, BuildEncoder, stock_model
from tests.support.labelled import prediction_task

UNITS = ("encoder.0.1", "encoder.1.3", "encoder.2.0")


def _theirs(path: Path, data: Path, subset: str) -> tuple[float, float]:
    """Accuracy in percent, and loss in nats per text, of stock fairseq on a subset."""
    task = prediction_task(data, max_positions=POSITIONS)
    found = task.load_dataset(subset)
    batch = found.collater([found[place] for place in range(len(found))])
    model: Any = stock_model(path, data=str(data))
    (name,) = model.classification_heads
    with torch.inference_mode():
        logits, _ = model(**batch["net_input"], features_only=True, classification_head_name=name)
        target = batch["target"].view(-1)
        right = (logits.argmax(1) == target).float().mean()
        return float(100 * right), float(torch.nn.functional.cross_entropy(logits, target))


def test_scores_are_those_of_stock_fairseq(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path = build_encoder(updates=30)
    data = path.parent / "data-bin"
    options = ("--data-bin", data, "--subset", "train", "--correction", "none", "--resamples", 1000, "--force")
    base, masked = load(path), tmp_path / "masked.pt"
    for place, metric in enumerate(("accuracy", "loss")):
        result = nmtprune("score", path, *options, "--metric", metric, "-o", tmp_path / "scores.json")
        assert result.code == 0, result.stderr
        scores = json.loads((tmp_path / "scores.json").read_text())
        full = _theirs(path, data, "train")[place]
        assert scores["baseline"]["value"] == pytest.approx(full, abs=1e-4)
        deltas = {entry["head"]: entry["delta"] for entry in scores["heads"]}
        assert len(deltas) == 12
        for unit in UNITS:
            plan = Plan.removing(base.base, [UnitId.parse(unit)])
            apply(plan, base, "masked").save(masked, force=True)
            assert deltas[unit] == pytest.approx(_theirs(masked, data, "train")[place] - full, abs=1e-4)


def test_accuracy_is_the_metric_of_such_data_and_check_compares_it(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    path, slim = build_encoder(updates=30), tmp_path / "slim.pt"
    data = path.parent / "data-bin"
    apply(Plan.removing(load(path).base, [UnitId.parse(unit) for unit in UNITS]), load(path)).save(slim)
    result = nmtprune("check", slim, "--baseline", path, "--data-bin", data, "--subset", "train", "--max-drop", 100,
                      "--format", "json")  # fmt: skip
    assert result.code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["signature"] == "unit:percent|labels:3"
    assert f"accuracy {_theirs(path, data, 'train')[0]:.2f} -> " in found["conditions"][0]["says"]
    assert np.isfinite(found["conditions"][0]["value"])


def test_an_encoder_without_a_head_says_which_task_it_needs(build_encoder: BuildEncoder, tmp_path: Path) -> None:
    masked_words, labelled = build_encoder(task="masked_lm"), build_encoder(updates=30)
    options = ("--data-bin", labelled.parent / "data-bin", "-o", tmp_path / "scores.json")
    code, line = refused("score", masked_words, *options, "--metric", "accuracy")
    assert (code, "fine-tune it first, with fairseq-train and its task sentence_prediction" in line) == (3, True)


def test_metrics_of_labels_are_refused_for_a_model_that_translates(tiny: Path, tmp_path: Path) -> None:
    options = ("--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "scores.json")
    code, line = refused("score", tiny, *options, "--metric", "matthews")
    assert (code, line) == (
        2,
        f"--metric matthews: {tiny} translates: choose bleu, chrf, loss, importance, fisher, reconstruction, variance, "
        "activation or confidence",
    )
    code, line = refused("check", tiny, "--baseline", tiny, *options[:2], "--metric", "f1", "--max-drop", 1)
    assert (code, line) == (2, f"--metric f1 is of labels, and {tiny} translates: choose bleu or chrf")
