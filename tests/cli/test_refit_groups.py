"""`nmtprune refit` of files without neurons and layers, and on a calibration text other than DATA."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import LAYER_KINDS, GroupId
from nmtprune.formats import load
from nmtprune.formats.base import Checkpoint
from nmtprune.plan import Plan
from tests.support import fairseq_commands, fairseq_files
from tests.support.cli import nmtprune, refused
from tests.support.fairseq_files import Build
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import marian_scores, random_texts, vocabulary_file
from tests.support.networks import NORMFORMER, PRE_NORM, SHARED, as_normformer, randomized
from tests.support.thinned import thinned

ANYWAY = ("--force-worse", "--threads", 1)
DEEP = {"layers": 4}


def data(path: Path) -> tuple[object, ...]:
    return "--data-bin", path.parent / "data-bin", "--post-process", "none"


def drawn_plan(checkpoint: Checkpoint, seed: int, *, uniform: bool = False) -> Plan:
    """A plan that removes about a third of all units, layers included."""
    chance = random.Random(seed)
    keep: dict[GroupId, list[int]] = {}
    for id, numbers in checkpoint.base.units.items():
        keep[id] = [number for number in numbers if chance.random() > 0.35]
        if id.kind in LAYER_KINDS and not keep[id]:
            keep[id] = [chance.choice(numbers)]
        if uniform and id.sort != "layers":
            keep[id] = list(numbers[: 2 if id.sort == "heads" else 10])
    return Plan.of(checkpoint.base, keep)


def cut(path: Path, output: Path, plan: Plan, mode: str = "cut") -> Path:
    slim.apply(plan, load(path).without_optimizer(), mode).save(output, provenance={"plan": plan.as_json()})
    return output


def keeping(checkpoint: Checkpoint, **layers: tuple[int, ...]) -> Plan:
    keep = {GroupId.layers_of(stack): numbers for stack, numbers in layers.items()}
    return Plan.of(checkpoint.base, {**checkpoint.base.units, **keep})


def check_result(pruned: Path, output: Path, report: dict[str, Any]) -> None:
    """The shape is that of the slim file, the proof is against the base, and only what a refit changes is changed."""
    before, after = load(pruned), load(output)
    assert report["verification"]["against"] == "base" and report["verification"]["ok"]
    assert after.architecture == before.architecture
    old, new = before.native_tensors(), after.native_tensors()
    assert list(old) == list(new)
    changed = {name.rpartition(".")[0] for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    projections = {name for name in changed if name.endswith(".output")}
    norms = changed - projections
    assert len(norms) == len(report["norms_taken"]) and all(name.endswith("feed_forward_post_norm") for name in norms)
    assert projections or not report["projections"]
    for name in (name for name in new if name.endswith(".output.weight")):
        assert not new[name][:, (old[name] == 0).all(0)].any()
    if before.lineage is not None:
        assert after.lineage is not None and after.lineage.keep == before.lineage.keep
        assert after.lineage.refit is not None


@pytest.mark.parametrize(("norm", "mode"), thinned(itertools.product([PRE_NORM, {}], slim.MODES), 2))
def test_fairseq_models_without_heads_neurons_and_layers(
    build: Build, tmp_path: Path, norm: dict[str, Any], mode: str
) -> None:
    base = randomized(build(updates=2, dropout=0.0, **norm, **SHARED, **DEEP))
    plan = drawn_plan(load(base), 1 if norm else 2)
    pruned, output = cut(base, tmp_path / "slim.pt", plan, mode), tmp_path / "refitted.pt"
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    check_result(pruned, output, json.loads(found.stdout))
    if mode != "cut":
        return
    assert json.loads(fairseq_files.load(output)["nmtprune"])["plan"] == json.loads(json.dumps(plan.as_json()))
    twice = nmtprune("refit", base, output, *data(base), *ANYWAY, "-o", tmp_path / "twice.pt", "--format", "json")
    assert twice.code == 0, twice.stderr
    assert json.loads(twice.stdout)["verification"]["against"] == "base"


@pytest.mark.parametrize(("mode", "variant"), thinned(itertools.product(["masked", "uniform"], VARIANTS), 3))
def test_marian_models_without_heads_neurons_and_layers(tmp_path: Path, variant: str, mode: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = marian_model(folder / "model.npz", **VARIANTS[variant])
    vocabulary, (source, target) = vocabulary_file(folder), random_texts(folder)
    raw = ("--source", source, "--reference", target, "--vocabs", vocabulary, vocabulary, "--post-process", "none")
    plan = drawn_plan(load(path), 1 if mode == "masked" else 4)
    pruned, output = cut(path, tmp_path / "slim.npz", plan, mode), tmp_path / "refitted.npz"
    found = nmtprune("refit", path, pruned, *raw, *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    check_result(pruned, output, json.loads(found.stdout))


@pytest.mark.parametrize("kind", ["plain", "NormFormer"])
def test_language_models_without_layers(build: Build, tmp_path: Path, kind: str) -> None:
    path = build(arch="transformer_lm", **DEEP) if kind == "plain" else as_normformer(build(**NORMFORMER, **DEEP))
    base = randomized(path)
    plan = keeping(load(base), decoder=(0, 3))
    pruned, output = cut(base, tmp_path / "slim.pt", plan), tmp_path / "refitted.pt"
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    check_result(pruned, output, json.loads(found.stdout))


@pytest.mark.parametrize("only", ["heads", "ffn"])
def test_parts_of_a_model_without_layers(build: Build, tmp_path: Path, only: str) -> None:
    base = randomized(build(**SHARED, **DEEP))
    plan = drawn_plan(load(base), 3)
    pruned, output = cut(base, tmp_path / "slim.pt", plan), tmp_path / "refitted.pt"
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, "--only", only, "-o", output, "--format", "json")
    assert found.code == 0, found.stderr
    report = json.loads(found.stdout)
    check_result(pruned, output, report)
    assert bool(report["norms_taken"]) == (only == "ffn")


def test_stock_fairseq_without_plug_in_translates_a_uniform_result_as_nmtprune_does(
    build: Build, tmp_path: Path
) -> None:
    base = build(updates=2, dropout=0.0, **PRE_NORM, **SHARED, **DEEP)
    checkpoint = load(base)
    keep = {
        id: numbers[:10] if id.sort == "neurons" else (0, 2) if str(id) == "decoder-layers" else numbers
        for id, numbers in checkpoint.base.units.items()
    }
    pruned, output = cut(base, tmp_path / "slim.pt", Plan.of(checkpoint.base, keep)), tmp_path / "refitted.pt"
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, "-o", output)
    assert found.code == 0, found.stderr
    theirs = fairseq_commands.generate(output, base.parent / "data-bin", "--beam", 3)
    ours = nmtprune("translate", output, *data(base), "--subset", "test", "--beam", 3, "--max-len-b", 20)
    assert ours.code == 0 and sorted(fairseq_commands.hypotheses(theirs)) == sorted(ours.stdout.splitlines())


def test_marian_itself_scores_a_uniform_result_as_nmtprune_does(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = marian_model(folder / "model.npz", enc_depth=3, dec_depth=3)
    vocabulary, (source, target) = vocabulary_file(folder), random_texts(folder)
    raw = ("--source", source, "--reference", target, "--vocabs", vocabulary, vocabulary, "--post-process", "none")
    base = load(path)
    keep = {
        id: numbers[:16] if id.sort == "neurons" else (0, 2) if id.sort == "layers" else numbers
        for id, numbers in base.base.units.items()
    }
    pruned, output = cut(path, tmp_path / "slim.npz", Plan.of(base.base, keep)), tmp_path / "refitted.npz"
    found = nmtprune("refit", path, pruned, *raw, *ANYWAY, "-o", output)
    assert found.code == 0, found.stderr
    theirs = marian_scores(output, vocabulary, source, target)
    options = ("--metric", "loss", "-o", tmp_path / "scores.json", "--kinds", "cross", "--allow-few-sentences")
    assert nmtprune("score", output, *raw, *options).code == 0
    tokens = sum(len(line.split()) + 1 for line in target.read_text().splitlines())
    value = json.loads((tmp_path / "scores.json").read_text())["baseline"]["value"]
    assert value == pytest.approx(-sum(theirs) / tokens, rel=1e-4)


@pytest.mark.parametrize(
    ("norm", "kept"),
    thinned(
        [
            ({}, {"encoder": (0, 2)}),
            ({}, {"decoder": (0, 1)}),
            ({}, {"decoder": (1, 2)}),
            (PRE_NORM, {"decoder": (0, 2)}),
            (PRE_NORM, {}),
        ],
        2,
    ),
    ids=["inside", "end", "front", "pre-norm inside", "pre-norm neurons"],
)
def test_a_model_that_has_learned_something_recovers(
    build: Build, tmp_path: Path, norm: dict[str, Any], kept: dict[str, tuple[int, ...]]
) -> None:
    """The loss of held-out sentences, with the base's own translations as targets, falls."""
    base = build(updates=60, dropout=0.0, layers=3, **norm, **SHARED)
    checkpoint = load(base)
    plan = keeping(checkpoint, **kept)
    if not kept:
        units = checkpoint.base.units
        plan = Plan.of(checkpoint.base, {id: own[::2] if id.sort == "neurons" else own for id, own in units.items()})
    pruned, chance, words = cut(base, tmp_path / "slim.pt", plan), random.Random(1), dictionary(base)
    text = tmp_path / "text.xx"
    text.write_text("".join(" ".join(chance.choices(words, k=chance.randint(3, 9))) + "\n" for _ in range(300)))
    short = ("--max-len-a", 0, "--max-len-b", 9, "--beam", 1, "--holdout-sentences", 100)
    options = (*data(base), "-s", "xx", "-t", "yy", "--source", text, *short, "--format", "json", "--threads", 1)
    found = nmtprune("refit", base, pruned, *options, "-o", tmp_path / "refitted.pt")
    assert found.code == 0, found.stderr
    loss = json.loads(found.stdout)["loss"]
    assert loss["refitted"] < loss["slim"]


def test_what_a_file_without_layers_was_not_cut_from_is_refused(build: Build, tmp_path: Path) -> None:
    base = randomized(build(updates=0, **PRE_NORM, **SHARED, **DEEP))
    checkpoint = load(base)
    first = cut(base, tmp_path / "first.pt", keeping(checkpoint, decoder=(0, 1, 3)))
    second = cut(first, tmp_path / "second.pt", keeping(load(first), decoder=(0, 2)))
    output = ("-o", tmp_path / "x.pt")
    for full in (base, first):
        found = nmtprune(
            "refit", full, second, *data(base), *ANYWAY, "-o", tmp_path / f"{full.stem}-fit.pt", "--format", "json"
        )
        assert found.code == 0, found.stderr
        assert json.loads(found.stdout)["verification"]["against"] == "base"
    code, line = refused("refit", second, first, *data(base), *output)
    assert code == 4 and "of a layer that is not in the base" in line
    code, line = refused("refit", first, base, *data(base), *output)
    assert code == 4 and "was not cut from" in line
    units = checkpoint.base.units
    narrow = Plan.of(checkpoint.base, {id: own[:9] if id.sort == "neurons" else own for id, own in units.items()})
    other = Plan.of(checkpoint.base, {id: own[3:] if id.sort == "neurons" else own for id, own in units.items()})
    left, right = cut(base, tmp_path / "l.pt", narrow), cut(base, tmp_path / "r.pt", other)
    code, line = refused("refit", left, right, *data(base), *output)
    assert code == 4 and "it has neurons 9-" in line and "of encoder-ffn.0, which are not in the base" in line
    assert not (tmp_path / "x.pt").exists()


def dictionary(base: Path) -> list[str]:
    return [line.split()[0] for line in (base.parent / "data-bin" / "dict.xx.txt").read_text().splitlines()]


def lines_of(base: Path, subset: str, side: str) -> list[str]:
    return (base.parent / "data-bin" / f"{subset}.{side}").read_text().splitlines()


def test_a_calibration_text_of_its_own(build: Build, tmp_path: Path) -> None:
    """With references it is fitted on as it is; alone, with the base's translations; DATA is held out."""
    base = randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED))
    checkpoint = load(base)
    units = checkpoint.base.units
    plan = Plan.of(checkpoint.base, {id: own[::2] if id.sort == "neurons" else own for id, own in units.items()})
    pruned = cut(base, tmp_path / "slim.pt", plan)
    source, target = (base.parent / "data-bin" / f"train.{side}" for side in ("xx", "yy"))
    text = ("--calibration-source", source, "--calibration-reference", target)
    common = (*data(base), *ANYWAY, "--format", "json", "-s", "xx", "-t", "yy")
    own = nmtprune("refit", base, pruned, *common, "--subset", "valid", *text, "-o", tmp_path / "a.pt")
    assert own.code == 0, own.stderr
    report = json.loads(own.stdout)
    count = len(lines_of(base, "train", "xx"))
    assert report["calibration"] | {"sha256": ""} == {
        "sha256": "", "sentences": count, "on": "references", "seed": 1, "ridge": 0.01, "only": "all",
        "base": checkpoint.sha256,
    }  # fmt: skip
    assert report["holdout"]["sentences"] == len(lines_of(base, "valid", "xx"))
    note = json.loads(fairseq_files.load(tmp_path / "a.pt")["nmtprune"])
    assert str(source) in note["data"] and str(target) in note["data"] and note["refit"] == report["calibration"]
    lineage = load(tmp_path / "a.pt").lineage
    assert lineage is not None and dict(lineage.refit or {}) == report["calibration"]

    short = ("--max-len-b", 20, "--beam", 1)
    alone = nmtprune("refit", base, pruned, *common, "--subset", "valid", *text[:2], *short, "-o", tmp_path / "b.pt")
    assert alone.code == 0, alone.stderr
    report = json.loads(alone.stdout)
    assert report["calibration"]["on"] == "translations"
    assert report["holdout"] == json.loads(own.stdout)["holdout"]
    assert report["loss"]["base"] == json.loads(own.stdout)["loss"]["base"]
    assert load(tmp_path / "a.pt").sha256 != load(tmp_path / "b.pt").sha256


def test_the_same_sentences_from_a_text_or_a_subset_give_the_same_fit(build: Build, tmp_path: Path) -> None:
    base = randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED))
    checkpoint = load(base)
    pruned = cut(base, tmp_path / "slim.pt", drawn_plan(checkpoint, 1))
    source, target = (base.parent / "data-bin" / f"train.{side}" for side in ("xx", "yy"))
    whole = ("--calibration-source", source, "--calibration-reference", target, "--calibration-sentences", 5)
    for name, extra in (("a.pt", ("--subset", "valid", *whole)), ("b.pt", ("--subset", "test", *whole))):
        found = nmtprune(
            "refit", base, pruned, *data(base), *ANYWAY, *extra, "-s", "xx", "-t", "yy", "-o", tmp_path / name
        )
        assert found.code == 0, found.stderr
        assert "5 sentences of" in found.stderr and "held out" in found.stderr
    assert load(tmp_path / "a.pt").sha256 == load(tmp_path / "b.pt").sha256


def test_calibration_texts_that_do_not_work(build: Build, tmp_path: Path) -> None:
    base = randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED))
    pruned = cut(base, tmp_path / "slim.pt", drawn_plan(load(base), 1))
    command = ("refit", base, pruned, *data(base), "-s", "xx", "-t", "yy", "-o", tmp_path / "x.pt")
    folder = base.parent / "data-bin"
    code, line = refused(*command, "--calibration-reference", folder / "train.yy")
    assert (code, line) == (2, "calibration: --calibration-reference needs --calibration-source FILE")
    code, line = refused(*command, "--calibration-source", tmp_path / "none.xx")
    assert code == 5 and "none.xx" in line
    empty = tmp_path / "empty.xx"
    empty.write_text("")
    code, line = refused(*command, "--calibration-source", empty)
    assert code == 5 and "empty.xx" in line
    code, line = refused(*command, "--calibration-source", folder / "train.xx", "--calibration-on", "references")
    assert code == 2 and "--calibration-source needs --calibration-reference FILE" in line
    short = tmp_path / "short.yy"
    short.write_text("\n".join(lines_of(base, "train", "yy")[:-2]) + "\n")
    code, line = refused(*command, "--calibration-source", folder / "train.xx", "--calibration-reference", short)
    assert code == 5 and "short.yy" in line
    code, line = refused(*command, "--beam", 2)
    assert code == 2 and "--beam goes with --calibration-on translations" in line
    code, line = refused(*command, "--source", "-", "--calibration-source", "-")
    assert code == 2 and "only one" in line
    assert not (tmp_path / "x.pt").exists()


def test_sentences_that_are_held_out_are_not_fitted_on_where_they_stand_again(build: Build, tmp_path: Path) -> None:
    """Every sentence twice: whatever is held out, its double is left out of the fit."""
    base = randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED))
    pruned = cut(base, tmp_path / "slim.pt", drawn_plan(load(base), 1))
    text = {}
    for side in ("xx", "yy"):
        text[side] = tmp_path / f"twice.{side}"
        once = lines_of(base, "train", side)
        text[side].write_text("\n".join([*once, *once]) + "\n")
    distinct = len(set(lines_of(base, "train", "xx")))
    options = ("--source", text["xx"], "--reference", text["yy"], "-s", "xx", "-t", "yy", "--holdout-sentences", 3)
    found = nmtprune("refit", base, pruned, *data(base), *ANYWAY, *options, "-o", tmp_path / "a.pt", "--format", "json")
    assert found.code == 0, found.stderr
    report = json.loads(found.stdout)
    held, fitted = report["holdout"]["sentences"], report["calibration"]["sentences"]
    assert held == 3 and fitted <= 2 * (distinct - 2)
    same = tmp_path / "same.xx", tmp_path / "same.yy"
    for path, side in zip(same, ("xx", "yy"), strict=True):
        path.write_text((lines_of(base, "train", side)[0] + "\n") * 6)
    code, line = refused(
        "refit", base, pruned, *data(base), "--source", same[0], "--reference", same[1], "-s", "xx", "-t", "yy",
        "-o", tmp_path / "b.pt",
    )  # fmt: skip
    assert code == 5 and "every sentence is held out too" in line


def test_layers_of_a_file_that_was_trained_since_are_compared_with_itself(build: Build, tmp_path: Path) -> None:
    base = randomized(build(updates=2, dropout=0.0, **PRE_NORM, **SHARED, **DEEP))
    pruned = cut(base, tmp_path / "slim.pt", keeping(load(base), encoder=(0, 2), decoder=(1, 3)))
    state = fairseq_files.load(pruned)
    state["model"]["decoder.layers.1.fc1.weight"] = state["model"]["decoder.layers.1.fc1.weight"] * 1.5
    torch.save(state, tmp_path / "trained.pt")
    found = nmtprune(
        "refit", base, tmp_path / "trained.pt", *data(base), *ANYWAY, "-o", tmp_path / "a.pt", "--format", "json"
    )
    assert found.code == 0, found.stderr
    assert json.loads(found.stdout)["verification"]["against"] == "slim"
