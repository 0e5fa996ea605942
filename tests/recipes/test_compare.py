"""The table of measured against expected numbers."""

from pathlib import Path
from subprocess import CompletedProcess

from tests.support.recipes import run_python

EXPECTED = "row\tcolumn\texpected\ttolerance\tsource\tnote\n"


def compare(folder: Path, expected: str, measured: str, *options: str) -> CompletedProcess[str]:
    (folder / "expected.tsv").write_text(EXPECTED + expected)
    (folder / "measured").mkdir()
    (folder / "measured/step.tsv").write_text(measured)
    return run_python("compare.py", folder / "expected.tsv", folder / "measured", "-o", folder / "table.tsv", *options)


def rows(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "table.tsv").read_text().splitlines()]


def test_changes_are_from_the_base_and_samples_are_averaged(tmp_path: Path) -> None:
    measured = "base\tnews\t20\t19\t21\t1\nhalf\tnews\t19\t\t\t1\nhalf\tnews\t20\t\t\t2\n"
    result = compare(tmp_path, "half\tnews.change\t-0.2\t0.4\ttable 1\tmean of two\n", measured)
    assert result.returncode == 0, result.stderr
    assert rows(tmp_path)[1] == [
        "half",
        "news.change",
        "-0.20",
        "-0.50",
        "0.71",
        "-0.30",
        "0.4",
        "within",
        "table 1",
        "mean of two",
    ]
    assert "within" in result.stdout and result.stdout.splitlines()[2].split() == ["base", "news", "20.00"]


def test_a_number_outside_its_tolerance_says_so(tmp_path: Path) -> None:
    result = compare(tmp_path, "base\tnews\t20\t0.5\ttable 1\t\n", "base\tnews\t18\t\t\t1\n")
    assert result.returncode == 0
    assert rows(tmp_path)[1][3:8] == ["18.00", "", "-2.00", "0.5", "outside"]


def test_an_expected_number_that_was_not_measured_is_a_failure(tmp_path: Path) -> None:
    expected = "base\tnews\t20\t0.5\ttable 1\t\nhalf\tnews\t20\t0.5\ttable 1\t\n"
    result = compare(tmp_path, expected, "base\tnews\t18\t\t\t1\n")
    assert result.returncode == 1
    assert result.stderr.endswith("nothing was measured for half news\n")


def test_a_smoke_needs_a_number_of_every_table(tmp_path: Path) -> None:
    expected = "base\tnews\t20\t0.5\ttable 1\t\nhalf\tnews\t20\t0.5\ttable 1\t\n"
    assert compare(tmp_path, expected, "base\tnews\t1\t\t\t1\n", "--smoke").returncode == 0
    other = tmp_path / "other"
    other.mkdir()
    result = compare(other, expected + "x\tnews\t1\t1\ttable 2\t\n", "base\tnews\t1\t\t\t1\n", "--smoke")
    assert result.returncode == 1
    assert result.stderr.endswith("nothing was measured for table 2\n")
