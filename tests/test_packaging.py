"""The wheel and the source distribution: what is in them, and that the wheel works without extras."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from tests.support.fairseq_files import fairseq_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from a copy of what is under version control."""
    folder = tmp_path_factory.mktemp("dist")
    copy = folder / "copy"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(copy)], check=True)
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, copy], check=True, capture_output=True)
    return folder


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("nmtprune")
    assert len(citation["references"]) == 5


@pytest.mark.slow
def test_the_wheel_has_the_package_and_its_mark_of_types(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"nmtprune/py.typed", "nmtprune/cli/main.py", "nmtprune/user_dir/nmtprune_fairseq/__init__.py"} <= set(names)
    assert not [name for name in names if name.split("/")[0] in ("tests", "recipes", "docs", "benchmarks")]


@pytest.mark.slow
def test_the_source_distribution_has_what_a_packager_needs(dist: Path) -> None:
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as files:
        names = {name.partition("/")[2] for name in files.getnames()}
    assert {"setup.cfg", "pyproject.toml", "LICENSE", "README.md", "CITATION.cff", "CHANGELOG.md"} <= names


@pytest.mark.slow
def test_the_wheel_installs_without_extras_and_inspects(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    pins = ["--constraint", ROOT / "constraints.txt"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *pins, wheel], check=True, capture_output=True)
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"^(fairseq|pymarian|ctranslate2)", listed, re.MULTILINE)
    program = tmp_path / "venv/bin/nmtprune"
    checkpoint = fairseq_checkpoint(tmp_path / "model")
    commands = [
        ["--help"],
        ["--version"],
        ["inspect", checkpoint],
        ["plan", checkpoint, "--random", "50%", "-o", "plan.json"],
    ]
    commands += [["slim", checkpoint, "--plan", "plan.json", "-o", "slim.pt"], ["inspect", "slim.pt"]]
    for command in commands:
        result = subprocess.run([program, *command], capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, f"{command}: {result.stderr}"
    refused = subprocess.run(
        [program, "l0", checkpoint, "--data-bin", checkpoint.parent / "data-bin", "--l0-weight", "1", "-o", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert refused.returncode == 6
    assert "pip install 'nmtprune[fairseq]'" in refused.stderr
