"""The frame of recipes: options, checks before the first step, steps that run once and go on after a stop."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.recipes import LIB, environment

RUN = """#!/usr/bin/env bash
# A recipe for tests.
. "{lib}/recipe.sh"
main() {{
    step first write first
    step second write second
    step third fragile
    step fourth write fourth
}}
write() {{
    echo "$1" >>"$WORK/order"
    [ ! -e "$WORK/sleep-in-$1" ] || {{ echo sleeping; sleep 60; }}
    record "$1" news 1
}}
fragile() {{
    echo third >>"$WORK/order"
    record half-done news 7
    [ ! -e "$WORK/break" ] || nmtprune plan nowhere.pt --random 50% -o plan.json
    false | true
    record third news 2
}}
run_recipe "$@"
"""
SETTINGS = "SETS='train=file:///nowhere.{lang} news=sacrebleu:wmt14'\nSOURCE_LANG=en TARGET_LANG=de DISK_GB=0\n"
EXPECTED = "row\tcolumn\texpected\ttolerance\tsource\tnote\nfirst\tnews\t1\t1\ttable 1\t\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "settings.sh").write_text(SETTINGS)
    (folder / "expected.tsv").write_text(EXPECTED)
    script = folder / "run.sh"
    # `false | true` fails only with pipefail, which the frame sets; it is taken back for the step that shall pass.
    script.write_text(RUN.format(lib=LIB).replace("    false | true\n", ""))
    script.chmod(0o755)
    return folder


def run(recipe: Path, *options: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [str(recipe / "run.sh"), "--work", str(recipe / "work"), "--gpus", "0", *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**changes), cwd=recipe)


def order(recipe: Path) -> list[str]:
    return (recipe / "work/order").read_text().split()


def test_steps_run_once_and_end_with_the_table(recipe: Path) -> None:
    result = run(recipe)
    assert result.returncode == 0, result.stderr
    assert order(recipe) == ["first", "second", "third", "fourth"]
    assert "within" in result.stdout
    again = run(recipe)
    assert again.returncode == 0
    assert order(recipe) == ["first", "second", "third", "fourth"]
    assert [line for line in again.stderr.splitlines() if line.startswith("run ")] == []


def test_a_failing_step_gives_its_reason_and_code_and_nothing_half_measured(recipe: Path) -> None:
    (recipe / "work").mkdir()
    assert run(recipe, "--only", "first").returncode == 0
    (recipe / "work/break").touch()
    result = run(recipe)
    assert result.returncode == 3
    error = result.stderr.splitlines()[-1]
    assert error.startswith("Error: step third ended with 3: ") and "nowhere.pt" in error and "logs/third.log" in error
    assert not (recipe / "work/measured/third.tsv").exists()
    (recipe / "work/break").unlink()
    assert run(recipe).returncode == 0
    assert order(recipe) == ["first", "second", "third", "third", "fourth"]
    assert "half-done\tnews\t7" in (recipe / "work/measured/third.tsv").read_text()


@pytest.mark.parametrize("stopped", ["first", "second", "fourth"])
def test_a_killed_recipe_goes_on_where_it_was(recipe: Path, stopped: str) -> None:
    assert run(recipe, "--only", "none").returncode == 0
    (recipe / f"work/sleep-in-{stopped}").touch()
    command = [str(recipe / "run.sh"), "--work", str(recipe / "work"), "--gpus", "0"]
    process = subprocess.Popen(
        command, env=environment(), cwd=recipe, stderr=subprocess.DEVNULL, start_new_session=True
    )
    log = recipe / f"work/logs/{stopped}.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "sleeping" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (recipe / f"work/sleep-in-{stopped}").unlink()
    before = order(recipe)
    result = run(recipe)
    assert result.returncode == 0, result.stderr
    assert order(recipe) == before + ["first", "second", "third", "fourth"][len(before) - 1 :]


def test_errors_inside_of_functions_end_a_step(recipe: Path) -> None:
    script = recipe / "run.sh"
    script.write_text(
        script.read_text().replace("    record third news 2\n", "    false | true\n    record third news 2\n")
    )
    result = run(recipe)
    assert result.returncode == 1
    assert "step third ended with 1" in result.stderr


def test_other_settings_in_the_same_folder_are_refused(recipe: Path) -> None:
    assert run(recipe).returncode == 0
    (recipe / "settings.sh").write_text(SETTINGS + "SEED=2\n")
    result = run(recipe)
    assert result.returncode == 8
    assert "holds a run of other settings or data: --work names another folder" in result.stderr


def test_a_folder_with_other_files_is_refused(recipe: Path) -> None:
    (recipe / "work").mkdir()
    (recipe / "work/thesis.tex").touch()
    assert run(recipe).returncode == 8


def test_a_small_disk_is_refused_with_the_estimate(recipe: Path) -> None:
    (recipe / "settings.sh").write_text(SETTINGS + "DISK_GB=900000 DISK_WHY='ten models'\n")
    result = run(recipe)
    assert result.returncode == 8
    assert "GB free, about 900000 GB needed (ten models): --work names a folder on a larger disk" in result.stderr
    assert not (recipe / "work/order").exists()


def test_missing_programs_are_named_with_their_packages(recipe: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "sed", "dirname", "basename", "cat", "tr", "env"):
        (programs / name).symlink_to(shutil.which(name) or name)
    copy = tmp_path / "elsewhere"
    shutil.copytree(LIB, copy / "recipes/lib")
    script = recipe / "run.sh"
    script.write_text(script.read_text().replace(str(LIB), str(copy / "recipes/lib")))
    result = run(recipe, PATH=str(programs))
    assert result.returncode == 6
    assert "nmtprune (pip install 'nmtprune'); fairseq-train (pip install 'nmtprune[fairseq]')" in result.stderr
    assert "flock (package util-linux)" in result.stderr


def test_data_that_is_not_whole_is_named_before_anything_runs(recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.en.gz").touch()
    result = run(recipe, "--data", str(data))
    assert result.returncode == 5
    assert "not there: train.de, news.en, news.de (plain or .gz)" in result.stderr
    assert not (recipe / "work").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--speed"], "--speed: there is no such option"),
        (["--data"], "--data: a value is missing"),
        (["--gpus", "two"], "--gpus 'two': write a number"),
        (["--work", "a b"], "a b: a path with blanks will not do"),
        (["--smoke", "--data", "."], "--smoke has a corpus of its own"),
    ],
)
def test_usage_errors(recipe: Path, options: list[str], reason: str) -> None:
    result = run(recipe, *options)
    assert result.returncode == 2
    assert reason in result.stderr


def test_help_says_what_data_must_hold(recipe: Path) -> None:
    result = run(recipe, "--help")
    assert result.returncode == 0
    assert "A recipe for tests." in result.stdout and "train.en train.de news.en news.de" in result.stdout
