"""Cleaning: what training loses, what is a fault, that nothing else changes."""

import gzip
from pathlib import Path
from subprocess import CompletedProcess

from tests.support.recipes import run_python


def clean(folder: Path, *sets: str, **options: object) -> CompletedProcess[str]:
    settings = {"max-words": 5, "max-ratio": 2, "limit": 0, "seed": 1} | {
        k.replace("_", "-"): v for k, v in options.items()
    }
    flags = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return run_python("clean.py", folder, folder / "out", "--languages", "en-de", *flags, *sets)


def write(folder: Path, name: str, source: list[str], target: list[str]) -> None:
    for language, lines in (("en", source), ("de", target)):
        (folder / f"{name}.{language}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def test_training_loses_empty_overlong_and_lopsided_pairs(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a b", "", "a b c d e f", "a", "  c d "], ["x y", "x", "x y z", "x y z", "z w"])
    result = clean(tmp_path, "train")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out/train.en").read_text() == "a b\nc d\n"
    assert (tmp_path / "out/train.de").read_text() == "x y\nz w\n"
    assert result.stdout == "train: 2 kept, 1 empty, 1 longer than 5 words, 1 lopsided beyond 2\n"


def test_other_separators_than_line_feeds_end_no_line(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a\u2028b", "c\x0cd"], ["x y", "z w"])
    assert clean(tmp_path, "train").returncode == 0
    assert (tmp_path / "out/train.en").read_text(encoding="utf-8").count("\n") == 2


def test_a_limit_draws_the_same_pairs_again_and_keeps_their_order(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(50)]
    write(tmp_path, "train", words, words)
    (tmp_path / "again").mkdir()
    write(tmp_path / "again", "train", words, words)
    assert clean(tmp_path, "train", limit=20).returncode == 0
    assert clean(tmp_path / "again", "train", limit=20).returncode == 0
    drawn = (tmp_path / "out/train.en").read_text().split()
    assert len(drawn) == 20 and drawn == sorted(drawn, key=words.index) and drawn != words[:20]
    assert (
        drawn
        == (tmp_path / "out/train.de").read_text().split()
        == (tmp_path / "again/out/train.en").read_text().split()
    )


def test_test_sets_are_copied_whole_and_named_so(tmp_path: Path) -> None:
    write(tmp_path, "news", ["a b c d e f g h", "b"], ["x", "y"])
    assert clean(tmp_path, "news").returncode == 0
    assert (tmp_path / "out/test.news.en").read_text() == "a b c d e f g h\nb\n"


def test_a_test_sentence_without_its_reference_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "news", ["a", "b"], ["x", ""])
    result = clean(tmp_path, "news")
    assert result.returncode == 5
    assert result.stderr.endswith("only one side has text in line 2\n")


def test_other_line_counts_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a", "b", "c"], ["x", "y"])
    result = clean(tmp_path, "train")
    assert result.returncode == 5
    assert "train.en" in result.stderr and "train.de: other numbers of lines (3 and 2)" in result.stderr


def test_nothing_left_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "train", ["a b c d e f g"], ["x"])
    result = clean(tmp_path, "train")
    assert result.returncode == 5
    assert "no sentence pair is left of 1: 1 longer than 5 words" in result.stderr


def test_compressed_and_damaged_files(tmp_path: Path) -> None:
    write(tmp_path, "train", [], ["x"])
    (tmp_path / "train.en").unlink()
    packed = gzip.compress(b"a\n")
    (tmp_path / "train.en.gz").write_bytes(packed)
    assert clean(tmp_path, "train").returncode == 0
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    write(damaged, "train", [], ["x"])
    (damaged / "train.en").write_bytes(b"\xff\xfe\n")
    result = clean(damaged, "train")
    assert result.returncode == 5
    assert "cannot be read after line 0" in result.stderr
    missing = tmp_path / "missing"
    missing.mkdir()
    result = clean(missing, "train")
    assert result.returncode == 5
    assert "neither this file nor train.en.gz is there" in result.stderr
