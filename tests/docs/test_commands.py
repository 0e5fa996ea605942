"""The commands of README, the manual and the recipes' READMEs run as they stand, document by document."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.classified import classified
from tests.support.recipes import environment

ROOT = Path(__file__).parents[2]
REASONS = ("GPU", "network", "more than ten minutes", "run by continuous integration itself")
"""Why a block may stand without being run here."""

SELF_CONTAINED = ("docs/tutorials/fairseq.md", "docs/tutorials/language_models.md", "docs/tutorials/marian.md")
"""Documents that begin in an empty folder."""

WITH_A_MODEL = (
    "docs/quickstart.md",
    "docs/debugging.md",
    "docs/tutorials/ci.md",
    "docs/tutorials/gates.md",
    "docs/tutorials/refit.md",
    "README.md",
)
"""Documents that begin with checkpoint_best.pt, data-bin, spm.model, text.en and text.de of a reader."""

WITH_A_CLASSIFIER = ("docs/classifiers.md",)
"""Documents that begin with the folder of a classifier and two tables."""

IN_A_CLONE = tuple(
    sorted(str(path.relative_to(ROOT)) for path in [ROOT / "CONTRIBUTING.md", *ROOT.glob("recipes/**/README.md")])
)
"""Documents whose commands are those of recipes and of continuous integration, which runs them itself."""

_BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?^```sh\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: str) -> list[tuple[str, str | None]]:
    """Shell blocks of a document, each with the reason why it is not run."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return [(match["code"], match["reason"]) for match in _BLOCK.finditer(text)]


def run_all(document: str, folder: Path) -> None:
    ran = 0
    for code, reason in blocks(document):
        if reason is None:
            result = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", code],
                cwd=folder,
                env=environment(OMP_NUM_THREADS="1"),
                capture_output=True,
                text=True,
            )
            assert result.returncode == 0, f"{document}:\n{code}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
            ran += 1
    assert ran


@pytest.fixture(scope="session")
def readers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has: a model that has learned a little, its data, a text."""
    folder = tmp_path_factory.mktemp("reader")
    code = next(code for code, _ in blocks("docs/tutorials/fairseq.md"))
    # Small sets are enough to run on.
    code = code.replace("--val 200 --test 200", "--val 60 --test 60")
    subprocess.run(
        ["bash", "-euc", code], cwd=folder, env=environment(OMP_NUM_THREADS="1"), check=True, capture_output=True
    )
    (folder / "trained/checkpoint_best.pt").rename(folder / "checkpoint_best.pt")
    shutil.copyfile(folder / "corpus/test.src", folder / "text.en")
    shutil.copyfile(folder / "corpus/test.tgt", folder / "text.de")
    for name in ("trained", "corpus", "pieces"):
        shutil.rmtree(folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("document", SELF_CONTAINED)
def test_a_tutorial_runs_in_an_empty_folder(document: str, tmp_path: Path) -> None:
    run_all(document, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_A_MODEL)
def test_a_document_runs_with_a_readers_model(document: str, readers_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(readers_folder, tmp_path / "reader")
    run_all(document, tmp_path / "reader")


@pytest.mark.slow
@pytest.mark.parametrize("document", WITH_A_CLASSIFIER)
def test_a_document_runs_with_a_readers_classifier(document: str, tmp_path: Path) -> None:
    made = classified(tmp_path, columns=("sentence1", "sentence2", "label"))
    shutil.copyfile(made.table, tmp_path / "test.tsv")
    run_all(document, tmp_path)


@pytest.mark.parametrize("document", [*SELF_CONTAINED, *WITH_A_MODEL, *WITH_A_CLASSIFIER, *IN_A_CLONE])
def test_what_is_not_run_has_a_reason_that_counts(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    assert text.count("```sh") == len(blocks(document))
    for _, reason in blocks(document):
        assert reason is None or reason in REASONS


def test_programs_that_readmes_call_are_there() -> None:
    text = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in IN_A_CLONE)
    programs = {*re.findall(r"(?<![\w/])recipes/[\w/.-]+\.sh", text)}
    assert len(programs) > 5 and {path for path in programs if not os.access(ROOT / path, os.X_OK)} == set()
    targets = {*re.findall(r"(?:^\s+|`)make ([\w-]+)", text, re.MULTILINE)}
    makefile = (ROOT / "Makefile").read_text()
    assert {"install", "test"} <= targets and {target for target in targets if f"\n{target}:" not in makefile} == set()


@pytest.mark.parametrize("document", [*SELF_CONTAINED, *WITH_A_MODEL, *WITH_A_CLASSIFIER])
def test_every_document_that_is_run_has_commands(document: str) -> None:
    assert blocks(document), f"{document}: no commands"


@pytest.mark.slow
def test_the_manual_builds_without_a_warning(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("_build"))
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    subprocess.run([sys.executable, tmp_path / "docs/generate.py"], check=True)
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        tmp_path / "docs",
        tmp_path / "html",
    ]
    result = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert result.returncode == 0, result.stderr[-4000:]
    pages = {path.relative_to(tmp_path / "html").as_posix() for path in (tmp_path / "html").rglob("*.html")}
    assert {"index.html", "commands/lottery.html", "recipes/multi30k.html", "schemas/index.html"} <= pages
    assert "--heads-per-iteration" in (tmp_path / "html/commands/lottery.html").read_text()
