"""Several directions in score, greedy, check and refit: each as in a run of its own, their mean, and the worst."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from nmtprune.architecture import parse_heads
from nmtprune.formats import load
from nmtprune.plan import Plan
from nmtprune.runs.state import State
from nmtprune.scores import HeadScore, Scores
from nmtprune.slim import apply
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu")
SUBSETS = {"dev": "valid", "apart": "test"}


def listed(folder: Path, **subsets: str) -> tuple[object, ...]:
    """The option for directions that are subsets of one folder."""
    path = folder / "directions.yaml"
    path.write_text("".join(f"- {{name: {name}, subset: {subset}}}\n" for name, subset in subsets.items()))
    return "--directions", path


def ran(*arguments: Any) -> str:
    result = nmtprune(*arguments)
    assert result.code == 0, result.stderr
    return result.stdout


def score(model: Path, output: Path, *options: object) -> Scores:
    ran("score", model, "--data-bin", model.parent / "data-bin", "-o", output, "--device", "cpu", *options)
    documented(output.read_text())
    return Scores.read(output)


def figures(entries: tuple[HeadScore, ...]) -> list[tuple[object, ...]]:
    """What is said of every unit, without the correction, which is that of all directions."""
    return [(entry.head, entry.score, entry.delta, entry.ci, entry.p) for entry in entries]


@pytest.mark.parametrize("across", ["mean", "worst"])
def test_scores_by_masking(tiny: Path, tmp_path: Path, across: str) -> None:
    how = ("--metric", "loss", "--kinds", "cross", "--resamples", 4000, "--threads", 1)
    found = score(tiny, tmp_path / "all.json", *how, *listed(tmp_path, **SUBSETS), "--across", across)
    alone = {name: score(tiny, tmp_path / f"{name}.json", *how, "--subset", own) for name, own in SUBSETS.items()}
    parts = found.by_direction()
    assert [*parts] == [*SUBSETS] and found.baseline["across"] == across
    for name, own in parts.items():
        assert figures(own.heads) == figures(alone[name].heads)
        assert own.baseline["value"] == alone[name].baseline["value"]
    for entry, *each in zip(found.heads, *(own.heads for own in parts.values()), strict=True):
        deltas = [own.delta or 0.0 for own in each]
        if across == "mean":
            assert entry.delta == pytest.approx(math.fsum(deltas) / 2, abs=1e-12)
        else:  # of a loss the highest
            assert (entry.delta, entry.p, entry.ci) in [(own.delta, own.p, own.ci) for own in each]
            assert entry.delta == max(deltas)
    every = sorted(entry.p or 0.0 for own in parts.values() for entry in own.heads)
    smallest = min((entry for own in parts.values() for entry in own.heads), key=lambda entry: entry.p or 0.0)
    assert smallest.p_corrected == pytest.approx(min(1.0, every[0] * len(every)))


@pytest.mark.parametrize("across", ["mean", "worst"])
def test_resamples_are_those_of_the_tests(tiny: Path, tmp_path: Path, across: str) -> None:
    how = ("--metric", "loss", "--kinds", "cross", "--threads", 1, "--across", across)
    found = score(tiny, tmp_path / "all.json", *how, *listed(tmp_path, **SUBSETS))
    parts = (found, *found.by_direction().values())
    taken, of_each, _ = (own.baseline["significance"]["resamples"] for own in parts)
    tests = len(found.heads)
    assert of_each == 1000 * 2 * tests and taken == (of_each if across == "worst" else 1000 * tests)
    reached = [(entry.p or 0.0) * (taken + 1) for entry in found.heads]  # p is a number of resamples + 1 by n + 1
    assert reached == pytest.approx([round(number) for number in reached], abs=1e-6)


def test_twice_the_same_data_is_one_direction(tiny: Path, tmp_path: Path) -> None:
    how = ("--metric", "bleu", "--kinds", "cross", "--allow-few-sentences", *FAST[:-2])
    alone = score(tiny, tmp_path / "one.json", *how, "--subset", "valid")
    found = score(tiny, tmp_path / "two.json", *how, *listed(tmp_path, a="valid", b="valid"))
    for one, two in zip(alone.heads, found.heads, strict=True):
        assert one.model_copy(update={"p_sacrebleu": None}) == two
    assert found.baseline["value"] == alone.baseline["value"]


def test_scores_in_one_pass(tiny: Path, tmp_path: Path) -> None:
    how = ("--metric", "importance", "--group", "heads,neurons")
    alone = {name: score(tiny, tmp_path / f"{name}.json", *how, "--subset", own) for name, own in SUBSETS.items()}
    for across, figure in (("mean", lambda own: math.fsum(own) / 2), ("worst", max)):
        output = tmp_path / f"{across}.json"
        found = score(tiny, output, *how, *listed(tmp_path, **SUBSETS), "--across", across)
        parts = found.by_direction()
        assert {name: own.entries for name, own in parts.items()} == {name: own.entries for name, own in alone.items()}
        pairs = zip(*(own.entries for own in alone.values()), strict=True)
        expected = [figure([one.score, two.score]) for one, two in pairs]
        assert [entry.score for entry in found.entries] == expected
    rows = output.with_suffix(".tsv").read_text().splitlines()
    assert len(rows) == 1 + 3 * len(found.entries) and [row.split("\t")[0] for row in rows[-1:]] == ["apart"]


def test_joint_scores_are_of_all_directions(tiny: Path, tmp_path: Path) -> None:
    same = listed(tmp_path, a="valid", b="valid")
    alone = score(tiny, tmp_path / "one.json", "--metric", "fisher", "--subset", "valid")
    found = score(tiny, tmp_path / "two.json", "--metric", "fisher", *same)
    assert [entry.score for entry in found.heads] == [entry.score for entry in alone.heads]
    assert found.by_direction()["a"].heads == alone.heads
    code, said = refused(
        "score", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "x", "--metric", "fisher", *same,
        "--across", "worst",
    )  # fmt: skip
    assert code == 2 and said.startswith("--across worst: fisher measures all directions together")


def sweep(model: Path, output: Path, *options: object) -> Any:
    data = ("--data-bin", model.parent / "data-bin", "--kinds", "cross", "--step", "25%", "--until", "75%")
    ran("greedy", model, *data, "-o", output, *FAST, "--resamples", 500, *options)
    return documented((output / "curve.json").read_text())


def steps(curve: Any) -> list[Any]:
    found: list[Any] = curve["curves"][0]["steps"]
    return found


def test_a_sweep_of_twice_the_same_data_is_one_sweep(tiny: Path, tmp_path: Path) -> None:
    alone = sweep(tiny, tmp_path / "one", "--order", "importance", "--subset", "valid")
    found = sweep(tiny, tmp_path / "two", "--order", "importance", *listed(tmp_path, a="valid", b="valid"))
    own = ("bleu", "ci", "p", "relative", "removed", "within_max_drop")
    assert [[step[key] for key in own] for step in steps(found)] == [
        [step[key] for key in own] for step in steps(alone)
    ]
    plans = [json.loads((tmp_path / name / "plan.json").read_text())["keep"] for name in ("one", "two")]
    assert plans[0] == plans[1]


def test_a_sweep_has_a_table_for_each_direction(tiny: Path, tmp_path: Path) -> None:
    score(tiny, tmp_path / "order.json", "--metric", "confidence", "--subset", "valid")
    order = ("--order", tmp_path / "order.json")
    found = sweep(tiny, tmp_path / "all", *order, *listed(tmp_path, **SUBSETS), "--across", "worst")
    alone = {name: sweep(tiny, tmp_path / name, *order, "--subset", own) for name, own in SUBSETS.items()}
    first = steps(found)[0]
    for number, step in enumerate(steps(found)):
        each = step["directions"]
        for name, own in each.items():
            expected = steps(alone[name])[number]
            assert [own[key] for key in ("bleu", "ci", "p")] == [expected[key] for key in ("bleu", "ci", "p")]
        changes = {name: own["change"] for name, own in each.items()}
        assert step["worst"]["change"] == min(changes.values()) == changes[step["worst"]["direction"]]
        assert step["mean"] == pytest.approx(math.fsum(own["bleu"] for own in each.values()) / 2)
        assert step["bleu"] == pytest.approx(first["mean"] + min(changes.values()))
    header, *rows = (tmp_path / "all" / "curve.tsv").read_text().splitlines()
    assert header.endswith("apart_p") and len(rows) == len(steps(found))


def test_a_drop_in_one_direction_ends_a_sweep(tiny: Path, tmp_path: Path) -> None:
    order = ("--order", "random", "--samples", 1, *listed(tmp_path, **SUBSETS))
    free = steps(sweep(tiny, tmp_path / "free", *order))
    lowest = min(step["worst"]["change"] for step in free)
    assert (
        lowest
        < 0
        < max(own["change"] - step["worst"]["change"] for step in free for own in step["directions"].values())
    )
    found = steps(sweep(tiny, tmp_path / "held", *order, "--max-drop", -lowest / 2))
    broken = [step["worst"]["change"] < lowest / 2 for step in free]
    assert [step["within_max_drop"] for step in found] == [*[True] * broken.index(True), False]


def test_a_sweep_goes_on_where_it_ended(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("--order", "ablation", "--refit", "--calibration-sentences", 12, *listed(tmp_path, **SUBSETS))
    whole = sweep(tiny, tmp_path / "whole", *order)
    pieces = tmp_path / "pieces"
    command = ("greedy", tiny, "--data-bin", tiny.parent / "data-bin", "--kinds", "cross", "--step", "25%")
    how = ("--until", "75%", "-o", pieces, *FAST, "--resamples", 500, *order)
    add, left = State.add, [3]

    def add_and_end(state: State, unit: str, packed: bytes) -> None:
        add(state, unit, packed)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "add", add_and_end)
    assert nmtprune(*command, *how).code == 130
    code, said = refused(*command, *how, "--across", "worst", "--resume")
    assert code == 8 and 'data across was "mean", is "worst"' in said
    assert nmtprune(*command, *how, "--resume").code == 0
    found = documented((pieces / "curve.json").read_text())
    assert found["curves"] == whole["curves"]
    assert whole["refit"]["sentences"] == 12 and whole["refit"]["directions"] == [*SUBSETS]


def test_text_that_nothing_reads_is_refused(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- {name: a, subset: valid, calibration-source: text.xx}\n")
    data = ("--data-bin", tiny.parent / "data-bin", "--directions", path, "--post-process", "none")
    how = ("-o", tmp_path / "run", "--order", "random", "--refit", "--importance-subset", "valid")
    code, said = refused("greedy", tiny, *data, *how)
    assert code == 2 and said.startswith("--importance-subset goes with --order "), said


@pytest.fixture
def pruned(tiny: Path, tmp_path: Path) -> Path:
    checkpoint = load(tiny)
    plan = Plan.removing(checkpoint.base, parse_heads("cross.0.0-2 cross.1.1", checkpoint.architecture))
    apply(plan, checkpoint, "cut").save(tmp_path / "slim.pt", provenance={"plan": plan.as_json()})
    return tmp_path / "slim.pt"


def test_check_fails_with_any_direction(tiny: Path, pruned: Path, tmp_path: Path) -> None:
    common = ("check", pruned, "--baseline", tiny, "--data-bin", tiny.parent / "data-bin", *FAST, "--resamples", 500)
    how = (*common, "--format", "json")
    alone = {}
    for name, subset in SUBSETS.items():
        alone[name] = json.loads(nmtprune(*how, "--subset", subset, "--max-drop", 90).stdout)["conditions"][0]
    drops = sorted(-own["value"] for own in alone.values())
    assert drops[0] < drops[1]
    limit = max(0.0, (drops[0] + drops[1]) / 2)
    result = nmtprune(*how, *listed(tmp_path, **SUBSETS), "--max-drop", limit, "--max-size", 100)
    answer = documented(result.stdout)
    *quality, size = answer["conditions"]
    assert [own["direction"] for own in quality] == [*SUBSETS] and "direction" not in size
    assert {own["direction"]: own["value"] for own in quality} == {name: own["value"] for name, own in alone.items()}
    failed = [own["direction"] for own in quality if not own["passed"]]
    assert len(failed) == 1 and not answer["passed"] and size["passed"] and result.code == 7
    assert result.stderr.splitlines()[-1] == f"Error: {pruned}: not met: --max-drop ({failed[0]})"
    assert nmtprune(*how, *listed(tmp_path, **SUBSETS), "--max-drop", drops[1] + 0.01).code == 0
    (tmp_path / "check.json").write_text(result.stdout)
    ran("report", tmp_path / "check.json", "-o", tmp_path / "page.html")
    words = " ".join(re.sub(r"<[^>]+>", " ", (tmp_path / "page.html").read_text()).split())
    assert f"Quality failed {failed[0]}: bleu" in words


def test_refit_fits_on_all_directions(tiny: Path, pruned: Path, tmp_path: Path) -> None:
    def fitted(output: Path, *options: object) -> Any:
        common = ("refit", tiny, pruned, "--data-bin", tiny.parent / "data-bin", "-o", output, "--threads", 1)
        return json.loads(ran(*common, "--force-worse", "--format", "json", "--device", "cpu", *options))

    alone = fitted(tmp_path / "one.pt", "--subset", "train", "--holdout-sentences", 4, "--calibration-sentences", 10)
    same = listed(tmp_path, a="train", b="train")
    found = fitted(tmp_path / "two.pt", *same, "--holdout-sentences", 8, "--calibration-sentences", 20)
    assert found["calibration"]["sentences"] == 20 and found["holdout"]["sentences"] == 8
    for loss in (found["loss"], *found["directions"].values()):
        assert loss == pytest.approx(alone["loss"], abs=1e-5)
    assert load(tmp_path / "two.pt").lineage.refit["directions"] == ("a", "b")  # type: ignore[union-attr, index]


def test_sentences_that_do_not_divide_are_not_missed(tiny: Path, pruned: Path, tmp_path: Path) -> None:
    common = ("refit", tiny, pruned, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "out.pt", "--threads", 1)
    how = ("--force-worse", "--device", "cpu", *listed(tmp_path, a="train", b="train"))
    result = nmtprune(*common, *how, "--holdout-sentences", 5, "--calibration-sentences", 9)
    assert result.code == 0 and "held out" not in result.stderr.replace("held-out", "")
    result = nmtprune(*common, *how, "--force", "--holdout-sentences", 5, "--calibration-sentences", 9999)
    assert result.code == 0 and "held out" in result.stderr


FAULTS = {
    "- a\n- b\n- a\n": (5, "direction a is listed 2 times"),
    "- {name: 'a b'}\n": (5, "the name 'a b' is not made of letters, digits"),
    "- worst\n": (5, "neither mean nor worst"),
    "- {name: a, subsets: valid}\n": (5, "direction a: unknown subsets (known: name, data-bin, subset, "),
    "- {name: a, name: b}\n": (5, "given twice: name"),
    "- {subset: valid}\n": (5, "direction 1 has no name"),
    "- {name: a, subset: [x, y]}\n": (5, "direction a: subset is no text"),
    "- {name: a, vocabs: [x]}\n": (5, "vocabs names two files"),
    "- {name: a, source: '-'}\n": (5, "source cannot be standard input"),
    "[]\n": (5, "no list of directions"),
    "directions: [a\n": (5, "cannot be read as YAML"),
    "- {name: a, subset: valid}\n- {name: b, subset: nothing}\n": (5, "direction b: "),
    "- a\n- {name: c, source: missing.txt, reference: also.txt}\n": (2, "direction c: data: "),
    "- {name: a, subset: valid, importance-subset: gone}\n": (5, "direction a: "),
    "- {name: a, subset: valid, calibration-source: c.txt}\n": (2, "direction a: data: --source needs"),
    "- {name: a, subset: valid, calibration-reference: c.txt}\n": (2, "direction a: calibration: "),
}


@pytest.mark.parametrize(("text", "expected"), FAULTS.items(), ids=range(len(FAULTS)))
def test_a_bad_file_is_refused(tiny: Path, tmp_path: Path, text: str, expected: tuple[int, str]) -> None:
    path = tmp_path / "list.yaml"
    path.write_text(text)
    data = ("--data-bin", tiny.parent / "data-bin", "--directions", path)
    code, said = refused("greedy", tiny, *data, "-o", tmp_path / "run", "--order", "importance", "--device", "cpu")
    assert code == expected[0] and expected[1] in said, said
    assert not (tmp_path / "run").exists()


def test_a_missing_text_is_named_with_its_direction(tiny: Path, tmp_path: Path) -> None:
    for name, language in (("here.txt", "xx"), ("there.txt", "yy")):
        words = (tiny.parent / "data-bin" / f"dict.{language}.txt").read_text().split()[:4:2]
        (tmp_path / name).write_text(f"{' '.join(words)}\n" * 12)
    path = tmp_path / "list.yaml"
    entry = "- {name: %s, source: here.txt, reference: %s}\n"
    path.write_text(entry % ("a", "there.txt") + entry % ("b", "there.txt") + entry % ("c", "gone.txt"))
    base = ("score", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "x.json", "--post-process", "none")
    code, said = refused(*base, "--directions", path, "--device", "cpu")
    assert code == 5 and said.startswith(f"direction c: {tmp_path / 'gone.txt'}: ")
    path.write_text(entry % ("a", "there.txt") + "- {name: b, source: here.txt}\n")
    code, said = refused(*base, "--directions", path, "--device", "cpu")
    assert code == 2 and said.startswith("direction b: ") and "--reference" in said


def test_the_command_line_and_the_file_do_not_say_the_same(tiny: Path, tmp_path: Path) -> None:
    base = ("score", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "x.json")
    directions = listed(tmp_path, **SUBSETS)
    where = f"{directions[1]}: say it in one of the two places"
    assert refused(*base, *directions, "--subset", "valid") == (
        2,
        f"{where}: --subset is on the command line, and direction dev names it; --subset is on the command line, and "
        "direction apart names it",
    )
    assert refused(*base, "--across", "worst") == (2, "--across goes with --directions")
    code, said = refused(*base, *directions, "--all-but-one", "--test-subset", "test")
    assert code == 2 and said == "test data goes with one set of sentences, not with --directions"
    code, said = refused(*base, "--directions", tmp_path / "none.yaml")
    assert code == 5 and said.startswith(f"{tmp_path / 'none.yaml'}: cannot be read as YAML: No such file")
