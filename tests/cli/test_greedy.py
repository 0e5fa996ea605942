"""`nmtprune greedy` as a user meets it: what it prints, and one line for everything that is wrong."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nmtprune.plan import Plan
from tests.support.cli import documented, nmtprune, refused

FAST = ("--beam", 1, "--max-len-b", 6, "--threads", 1, "--device", "cpu", "--resamples", 500)


@pytest.fixture(scope="module")
def swept(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("greedy") / "run"
    data = ("--data-bin", tiny.parent / "data-bin", "--kinds", "cross", "--step", "50%", "--until", "100%")
    orders = ("--order", "random", "--samples", 2, "--order", "confidence")
    result = nmtprune("greedy", tiny, *data, "-o", folder, *FAST, *orders)
    assert result.code == 0, result.stderr
    return folder, result.stdout, result.stderr


def test_tables(tiny: Path, swept: tuple[Path, str, str]) -> None:
    folder, stdout, _ = swept
    content = documented((folder / "curve.json").read_text())
    lines = [line.strip() for line in stdout.splitlines()]
    assert lines[:2] == ["valid.xx-yy: 16 sentences, 24 heads", content["signature"]]
    for curve in content["curves"]:
        place = lines.index(f"{tiny}: {curve['name']}")
        assert " ".join(lines[place + 2].split()) == "removed of kinds of all bleu 95% interval p relative"
        for step, row in zip(curve["steps"], lines[place + 4 : place + 7], strict=True):
            removed = step["removed"]
            assert row.split()[:4] == [
                str(removed), f"{removed / 8:.1%}", f"{removed / 24:.1%}", f"{step['bleu']:.2f}",
            ]  # fmt: skip
    place = lines.index(f"{tiny}: random, cross, mean and standard deviation of 2 curves")
    for step, row in zip(content["means"][0]["steps"], lines[place + 4 : place + 7], strict=True):
        assert row.split() == [str(step["removed"]), f"{step['bleu']:.2f}", f"{step['sd']:.2f}"]
    last = content["curves"][0]["steps"][-1]
    assert lines[-2].startswith(f"plan.json: 8 heads removed, 33.3% of all, bleu {last['bleu']:.2f} (")
    assert re.fullmatch(r"time \d+ s", lines[-1])


def test_progress(swept: tuple[Path, str, str]) -> None:
    folder, _, stderr = swept
    assert re.search(
        r"^steps: random-2, 4 heads removed, bleu \d+\.\d\d, done, 5 of 9, \d+ s, \d+ s left$", stderr, re.M
    )
    plan = folder / "plan.json"
    assert stderr.endswith(f"wrote {folder}; nmtprune slim CHECKPOINT --plan {plan} applies its plan\n")


def test_the_plan_slims(tiny: Path, tmp_path: Path, swept: tuple[Path, str, str]) -> None:
    result = nmtprune("slim", tiny, "--plan", swept[0] / "plan.json", "-o", tmp_path / "slim.pt")
    assert result.code == 0, result.stderr


@pytest.mark.parametrize("form", ["json", "tsv"])
def test_other_formats_are_the_files(tiny: Path, tmp_path: Path, form: str) -> None:
    folder = tmp_path / "run"
    data = ("--data-bin", tiny.parent / "data-bin", "--order", "random", "--samples", 1, "--until", 3)
    result = nmtprune("greedy", tiny, *data, "-o", folder, *FAST, "--format", form, "-q", "--metric", "chrf")
    assert (result.code, result.stderr) == (0, "")
    assert result.stdout == (folder / f"curve.{form}").read_text()
    if form == "tsv":
        assert result.stdout.splitlines()[0].split("\t")[6] == "chrf"


def test_ctrl_c_keeps_the_state(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ["--data-bin", tiny.parent / "data-bin", "-o", folder, "--order", "random", "--step", 1, *FAST]
    options.append("--allow-bad-baseline")
    command = [sys.executable, "-m", "nmtprune.cli.main", "greedy", str(tiny), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (folder / "state.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stdout == ""
    state = folder / "state.json"
    message = f"interrupted: finished work is kept in {folder}; run the same command with --resume to continue"
    assert stderr.splitlines()[-1] == f"Error: {message}"
    assert list(folder.iterdir()) == [state]


@pytest.fixture
def base(tiny: Path, tmp_path: Path) -> tuple[Any, ...]:
    return ("greedy", tiny, "--data-bin", tiny.parent / "data-bin", "-o", tmp_path / "run", "--device", "cpu")


def test_usage(base: tuple[Any, ...], tmp_path: Path) -> None:
    assert refused(*base, "--order", "random", "--importance-unit", "token", "--exclude-eos") == (
        2,
        "--importance-unit goes with --order importance; --exclude-eos goes with --order confidence",
    )
    assert refused(*base, "--samples", 5, "--importance-subset", "valid") == (2, "--samples goes with --order random")
    assert refused(*base, "--step", "x") == (
        2,
        "'x' is no amount of heads: write a percentage such as 30% or a count such as 43",
    )
    assert refused(*base, "--max-drop", "some") == (
        2,
        "--max-drop 'some': give a number of points from 0 on, or significant",
    )
    assert refused(*base, "--resamples", 50) == (
        2,
        "--resamples 50 is too few: the smallest p-value of n resamples is 1/(n+1), and 1 test at alpha 0.01 with "
        "correction none cannot find anything below n = 100; give --resamples 100 or more, or auto",
    )
    assert refused(*base[:4], "-o", "-") == (
        2,
        "-o -: a run writes many files: name a folder (--format json prints the curves too)",
    )
    assert refused(*base, "--kinds", "middle") == (
        2,
        "kinds 'middle' (choose among encoder, decoder, cross): unknown kind 'middle'",
    )
    assert refused(*base, "--min-heads-per-module", 2)[0] == 4
    assert list(tmp_path.iterdir()) == []


def test_exit_codes(base: tuple[Any, ...], tiny: Path, tiny_lm: Path, tmp_path: Path) -> None:
    assert refused(*base, "--until", 25) == (
        4,
        "25 heads cannot be removed: 0 to 24 of the 24 heads (encoder, decoder, cross) can",
    )
    assert refused(*base, "--step", 0) == (4, "steps of 0 remove nothing: give a percentage or a number above 0")
    missing = tmp_path / "none.pt"
    assert refused("greedy", missing, *base[2:]) == (3, f"{missing}: there is no such file")
    assert refused("greedy", tiny_lm, *base[2:]) == (
        3,
        f"{tiny_lm}: a language model: it has no source sentence to translate",
    )
    folder = tiny.parent / "data-bin"
    assert refused(*base, "--importance-subset", "train2") == (
        5,
        f"{folder}: no subset 'train2'; there are test, train, valid",
    )
    scores = tmp_path / "scores.json"
    scores.write_text("{")
    code, line = refused(*base, "--order", scores)
    assert code == 5 and line.startswith(f"{scores}: ")
    scores.unlink()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("")
    assert refused(*base) == (8, f"{tmp_path / 'run'}: is not empty (--force writes into it)")


def test_help() -> None:
    result = nmtprune("greedy", "--help")
    assert result.code == 0
    assert result.stdout.startswith("Usage: nmtprune greedy [OPTIONS] CHECKPOINT...")
    for option in ("--order", "--step", "--until", "--max-drop", "--reestimate", "--importance-subset", "--resume"):
        assert option in result.stdout


def test_importance_on_raw_text(tiny: Path, tmp_path: Path) -> None:
    """The training set's own text orders the heads as its binarized form does."""
    folder = tiny.parent / "data-bin"
    common = ("--data-bin", folder, *FAST, "--post-process", "none", "--until", "50%")
    texts = ("--importance-source", folder / "train.xx", "--importance-reference", folder / "train.yy")
    for name, options in (("text", texts), ("subset", ())):
        result = nmtprune("greedy", tiny, *common, "-o", tmp_path / name, *options)
        assert result.code == 0, result.stderr
    first, second = (json.loads((tmp_path / name / "curve.json").read_text()) for name in ("text", "subset"))
    assert first["curves"] == second["curves"]
    assert (first["importance"]["data"], second["importance"]["data"]) == (str(folder / "train.xx"), "train.xx-yy")
    plan = tmp_path / "text" / "plans" / "importance" / "012.json"
    assert json.loads(plan.read_text())["keep"] == json.loads((tmp_path / "subset" / "plan.json").read_text())["keep"]


def test_usage_of_importance_data(base: tuple[Any, ...], tiny: Path) -> None:
    text = tiny.parent / "data-bin" / "train.xx"
    assert refused(*base, "--importance-source", text) == (
        2,
        "importance: --importance-source FILE and --importance-reference FILE go together",
    )
    both = ("--importance-source", text, "--importance-reference", text, "--importance-subset", "train")
    assert refused(*base, *both) == (
        2,
        "importance: give --importance-subset or --importance-source, not both",
    )
    assert refused(*base, "--order", "random", "--importance-source", text, "--importance-reference", text)[0] == 2


def test_uniform_steps(tiny: Path, tmp_path: Path) -> None:
    """Every plan keeps one number of heads per stack, so that an export pads nothing."""
    data = ("--data-bin", tiny.parent / "data-bin", "--beam", 1, "--max-len-b", 8, "--device", "cpu", "--threads", 1)
    options = ("--order", "random", "--samples", 2, "--uniform", "--step", "25%", "--until", "75%", "--resamples", 200)
    result = nmtprune("greedy", tiny, *data, *options, "-o", tmp_path / "run", "--format", "json")
    assert result.code == 0, result.stderr
    plans = list((tmp_path / "run" / "plans").rglob("*.json"))
    assert len(plans) >= 6
    for path in plans:
        plan = Plan.read(path)
        for kinds in (("encoder",), ("decoder", "cross")):
            assert len({len(plan.kept(module)) for module in plan.base.modules if module.kind in kinds}) == 1
    (mean,) = documented(result.stdout)["means"]
    assert [step["removed"] for step in mean["steps"]][0] == 0
