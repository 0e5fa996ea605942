"""Comparisons with a baseline that means nothing, in the wrong direction, or on too few sentences, by every command."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support.cli import JUDGED, documented, nmtprune, refused
from tests.support.fairseq_files import Build

MACHINE = ("--device", "cpu", "--threads", 1)
FAST = (*MACHINE, "--beam", 1)
CALLS = ("check", "score", "greedy", "l0", "bench", "lottery")


@dataclass(frozen=True)
class Learned:
    """A model that has learned its training set by heart, one of its heads gone, all gone, and that set as Chinese."""

    model: Path
    almost: Path
    none: Path
    data: Path

    @property
    def chinese(self) -> tuple[Any, ...]:
        options = ("--data-bin", self.data, "--subset", "train", "-s", "xx", "-t", "zh")
        return (*options, "--post-process", "sentencepiece")

    @property
    def plain(self) -> tuple[Any, ...]:
        return ("--data-bin", self.data, "--subset", "train", "-s", "xx", "-t", "yy")

    def call(self, command: str, output: Path, data: Sequence[Any]) -> tuple[Any, ...]:
        """A command that compares, with its data."""
        own: dict[str, tuple[Any, ...]] = {
            "check": (self.none, "--baseline", self.model, "--max-drop", 0.5, "--significant"),
            "score": (self.model, "--kinds", "cross", "-o", output),
            "greedy": (self.model, "--order", "random", "--samples", 1, "--step", "50%", "--max-drop", "significant",
                       "-o", output),
            "l0": (self.model, "--l0-weight", 0.1, "--gate-lr-scale", 10, "-o", output),
            "bench": (self.model, self.none, "--batch-size", 4, "--repeat", 1, "-o", output),
            "lottery": ("--late-reset", self.model, "--prune-updates", 1, "--until", "50%", "--converge",
                        "--converge-updates", 200, "-o", output),
        }  # fmt: skip
        return (command, *own[command], *data, *FAST)


@pytest.fixture(scope="session")
def learned(build: Build, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("learned")
    model = build(updates=120, dropout=0.0, share_all_embeddings=True, width=32, ffn=48)
    data = folder / "data-bin"
    shutil.copytree(model.parent / "data-bin", data)
    for path in (model.parent / "data-bin").glob("*.xx-yy.*.*"):
        shutil.copyfile(path, data / path.name.replace("yy", "zh"))
    words = (data / "dict.yy.txt").read_text().splitlines()
    signs = [f"{chr(0x4E00 + place)} 1\n" for place, _ in enumerate(words)]
    (data / "dict.zh.txt").write_text("".join(signs), encoding="utf-8")
    (data / "dict.yy.txt").write_text("".join(f"{line}\n" for line in words))
    base = load(model)
    heads = base.architecture.head_ids()
    cut = []
    for name, gone in (("almost", heads[:1]), ("none", heads)):
        Plan.removing(base.base, gone).write(folder / f"{name}.json")
        cut.append(folder / f"{name}.pt")
        result = nmtprune("slim", model, "--plan", folder / f"{name}.json", "--drop-optimizer", "-o", cut[-1])
        assert result.code == 0, result.stderr
    return Learned(model, *cut, data)


def _strictly(*arguments: Any) -> tuple[int, str, str]:
    result = nmtprune(*arguments, env=JUDGED)
    return result.code, result.stdout, result.stderr.splitlines()[-1] if result.stderr else ""


def test_chinese_is_counted_as_sacrebleu_does(learned: Learned, tmp_path: Path) -> None:
    """The gate fails without heads, the sweep stops, and the figures are those of sacrebleu's command line."""
    code, answer, _ = _strictly(*learned.call("check", tmp_path / "x", learned.chinese), "--format", "json")
    found = documented(answer)
    assert code == 7 and "|tok:zh|" in found["signature"] and found["conditions"][0]["value"] < -50
    output = tmp_path / "scores.json"
    code, _, said = _strictly(*learned.call("score", output, learned.chinese))
    assert code == 0, said
    baseline = json.loads(output.read_text())["baseline"]
    source, reference, hypotheses = (tmp_path / name for name in ("in", "ref", "hyp"))
    source.write_text((learned.data / "train.xx").read_text())
    signs = {f"w{place}": chr(0x4E00 + place) for place in range(24)}
    reference.write_text(
        "".join(
            "".join(signs[word] for word in line.split()) + "\n"
            for line in (learned.data / "train.yy").read_text().splitlines()
        ),
        encoding="utf-8",
    )
    text = nmtprune("translate", learned.model, *learned.chinese, *FAST).stdout
    hypotheses.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", reference, "-i", hypotheses, "-b", "-w", "10", "-l", "xx-zh"]
    theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert f"{baseline['value']:.10f}" == theirs and "|tok:zh|" in baseline["signature"]


@pytest.mark.parametrize("command", CALLS)
def test_a_baseline_that_means_nothing_is_refused_by_every_command(
    command: str, learned: Learned, tmp_path: Path
) -> None:
    output = tmp_path / "out.json"
    call = learned.call(command, output, (*learned.chinese, "--bleu-tokenize", "13a"))
    code, stdout, line = _strictly(*call)
    checkpoint = "the late-resetting checkpoint" if command == "lottery" else "the baseline"
    assert (code, stdout) == (5, ""), line
    said = f"{checkpoint} {learned.model} means nothing: bleu 0.00 is below 1: the characters are right"
    assert line.startswith(f"Error: train.xx-zh: {said}")
    assert line.endswith("(--allow-bad-baseline goes on all the same)")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["check", "greedy"])
def test_a_bad_baseline_may_be_asked_for(command: str, learned: Learned, tmp_path: Path) -> None:
    call = learned.call(command, tmp_path / "out.json", (*learned.chinese, "--bleu-tokenize", "13a"))
    result = nmtprune(*call, "--allow-bad-baseline", env=JUDGED)
    assert result.code == 0, result.stderr
    assert f"train.xx-zh: the baseline {learned.model}: bleu 0.00 is below 1" in result.stderr
    assert "train.xx-zh: the references are mostly Chinese" in result.stderr


@pytest.mark.parametrize("command", [each for each in CALLS if each != "lottery"])
def test_the_reverse_of_the_models_direction_is_refused(command: str, learned: Learned, tmp_path: Path) -> None:
    data = ("--data-bin", learned.data, "--subset", "train", "-s", "yy", "-t", "xx")
    code, stdout, line = _strictly(*learned.call(command, tmp_path / "out.json", data))
    said = "the model translates from xx to yy, the data are yy-xx: turn -s and -t round"
    assert (code, stdout) == (5, "")
    assert line == f"Error: train.xx-yy: {said} (--allow-bad-baseline measures all the same)"
    assert list(tmp_path.iterdir()) == []


def test_importance_and_translate_know_the_direction_too(learned: Learned, tmp_path: Path) -> None:
    data = ("--data-bin", learned.data, "--subset", "train", "-s", "yy", "-t", "xx")
    for metric in ("importance", "confidence", "loss"):
        code, _, line = _strictly(
            "score", learned.model, *data, *MACHINE, "--metric", metric, "-o", tmp_path / "s.json"
        )
        assert code == 5 and "the data are yy-xx" in line
    result = nmtprune("translate", learned.model, *data, *FAST)
    assert result.code == 0 and "the data are yy-xx: the wrong direction?" in result.stderr


def test_translations_that_are_cut_off(learned: Learned, tmp_path: Path) -> None:
    code, _, line = _strictly(*learned.call("score", tmp_path / "s.json", (*learned.plain, "--max-len-b", 2)))
    assert code == 5 and "of 16 translations" in line and "end at the limit of length" in line
    result = nmtprune(*learned.call("score", tmp_path / "s.json", learned.plain), env=JUDGED)
    assert result.code == 0 and "end at the limit" not in result.stderr


def test_few_sentences_carry_no_verdict(learned: Learned, tmp_path: Path) -> None:
    source, reference = tmp_path / "in", tmp_path / "ref"
    for path, name in ((source, "train.xx"), (reference, "train.yy")):
        path.write_text("".join(f"{line}\n" for line in (learned.data / name).read_text().splitlines()[:9]))
    raw = ("--data-bin", learned.data, "--source", source, "--reference", reference, "--post-process", "none")
    raw += ("-s", "xx", "-t", "yy")
    output = tmp_path / "out" / "scores.json"
    output.parent.mkdir()
    for command in ("check", "score", "greedy", "l0"):
        code, stdout, line = _strictly(*learned.call(command, output, raw))
        assert (code, stdout) == (5, ""), line
        said = f"Error: {source}: 9 sentences: no difference can be called significant on fewer than 10: take more"
        assert line == f"{said} sentences (--allow-few-sentences tests all the same)"
        assert list(output.parent.iterdir()) == []
    result = nmtprune(*learned.call("score", output, raw), "--allow-few-sentences", env=JUDGED)
    assert result.code == 0, result.stderr
    assert f"{source}: 9 sentences: p-values and intervals from fewer than 100 say little\n" in result.stderr
    assert refused("compare", output, output)[0] == 5
    assert nmtprune("compare", output, output, "--allow-few-sentences").code == 0


def test_no_p_where_it_means_nothing(learned: Learned, tmp_path: Path) -> None:
    source, reference = tmp_path / "in", tmp_path / "ref"
    for path, name in ((source, "train.xx"), (reference, "train.yy")):
        path.write_text("".join(f"{line}\n" for line in (learned.data / name).read_text().splitlines()[:9]))
    raw = ("--data-bin", learned.data, "--source", source, "--reference", reference, "--post-process", "none")
    bench = ("bench", learned.model, learned.almost, *raw, *FAST, "--batch-size", 4, "--repeat", 1, "--format", "json")
    found = documented(nmtprune(*bench, env=JUDGED).stdout)
    assert [model["difference"] for model in found["models"]] == [None, None]
    assert all(model["bleu"] > 1 for model in found["models"])
    asked = documented(nmtprune(*bench, "--allow-few-sentences", env=JUDGED).stdout)
    assert asked["models"][1]["difference"]["p"] > 0
    check = ("check", learned.almost, "--baseline", learned.model, *raw, *FAST, "--max-drop", 100, "--format", "json")
    assert documented(nmtprune(*check, env=JUDGED).stdout)["conditions"][0]["interval"] is None
    asked = documented(nmtprune(*check, "--allow-few-sentences", env=JUDGED).stdout)
    assert asked["conditions"][0]["interval"] is not None


def test_several_references_are_counted_as_sacrebleu_does(learned: Learned, tmp_path: Path) -> None:
    first, second, hypotheses = (tmp_path / name for name in ("first", "second", "hyp"))
    lines = (learned.data / "train.yy").read_text().splitlines()
    first.write_text("".join(f"{' '.join(line.split()[:-1])} w1\n" for line in lines))
    second.write_text("".join(f"w2 {' '.join(line.split()[1:])}\n" for line in lines))
    hypotheses.write_text(nmtprune("translate", learned.model, *learned.plain, *FAST).stdout)
    references = ("--reference", first, "--reference", second)
    for metric in ("bleu", "chrf"):
        command = [sys.executable, "-m", "sacrebleu", first, second, "-i", hypotheses, "-b", "-w", "10", "-m", metric]
        theirs = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        output = tmp_path / f"{metric}.json"
        call = learned.call("score", output, (*learned.plain, *references, "--metric", metric))
        code, _, line = _strictly(*call)
        assert code == 0, line
        baseline = json.loads(output.read_text())["baseline"]
        assert f"{baseline['value']:.10f}" == theirs and baseline["signature"].startswith("nrefs:2|")
        assert {str(first), str(second)} < set(json.loads(output.read_text())["provenance"]["data"])
    result = nmtprune("bench", learned.model, *learned.plain, *references, *FAST, "--batch-size", 4, "--repeat", 1,
                      "--format", "json")  # fmt: skip
    assert documented(result.stdout)["signature"].startswith("nrefs:2|")


def test_what_needs_one_reference_refuses_several(learned: Learned, tmp_path: Path) -> None:
    source, reference = learned.data / "train.xx", learned.data / "train.yy"
    raw = ("--data-bin", learned.data, "--source", source, "--post-process", "none", "-s", "xx", "-t", "yy")
    several = ("--reference", reference, "--reference", reference)
    for metric in ("loss", "importance", "confidence"):
        code, line = refused("score", learned.model, *raw, *several, "--metric", metric, "-o", tmp_path / "s.json")
        assert code == 2 and line.startswith("data: 2 files of references: losses, importance and confidence")
    loss = ("score", learned.model, *learned.plain, "--metric", "loss", "-o", tmp_path / "s.json")
    code, line = refused(*loss, "--reference", reference)
    assert (code, line) == (
        2, "--reference goes with raw text or a search: a loss is that of the binarized target side"
    )  # fmt: skip


def test_options_that_mean_nothing_are_refused(learned: Learned, tmp_path: Path) -> None:
    check = ("check", learned.almost, "--baseline", learned.model, *learned.plain, *FAST)
    code, line = refused(*check, "--max-size", 100, "--lowercase", "--resamples", 200, "--seed", 2, "--repeat", 3)
    faults = [f"{name} goes with --max-drop" for name in ("--lowercase", "--resamples", "--seed")]
    assert (code, line) == (2, f"check: {'; '.join(faults)}; --repeat goes with --min-speedup")
    code, line = refused(*check, "--max-drop", 1, "--metric", "chrf", "--bleu-tokenize", "zh")
    assert (code, line) == (2, "check: --bleu-tokenize goes with --metric bleu")
    assert refused(*check, "--max-drop", 1, "--alpha", 0.05)[0] == 2
    source = ("--data-bin", learned.data, "--source", learned.data / "train.xx", "--post-process", "none")
    code, line = refused("bench", learned.model, *source, *FAST, "--batch-size", 4, "--lowercase", "--alpha", 0.1)
    assert code == 2 and line == (
        "bench: --lowercase goes with references (--reference FILE); --alpha goes with references (--reference FILE)"
    )
