"""Downloads: local addresses arrive, what cannot be had is named with what --data would need."""

import gzip
from pathlib import Path

from tests.support.recipes import run_python


def test_addresses_are_downloaded_for_both_languages(tmp_path: Path) -> None:
    for language in ("en", "de"):
        (tmp_path / f"text.{language}.gz").write_bytes(gzip.compress(language.encode()))
    (tmp_path / "raw").mkdir()
    origin = f"file://{tmp_path}/text.{{lang}}.gz"
    result = run_python("fetch.py", tmp_path / "raw", "--languages", "en-de", f"news.2014={origin}")
    assert result.returncode == 0, result.stderr
    assert gzip.decompress((tmp_path / "raw/news.2014.de.gz").read_bytes()) == b"de"
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == ["news.2014.de.gz", "news.2014.en.gz"]


def test_without_a_network_the_line_says_what_data_needs(tmp_path: Path) -> None:
    sets = ["train=https://nmtprune.invalid/{lang}.gz", "news=sacrebleu:wmt14/full"]
    result = run_python("fetch.py", tmp_path, "--languages", "en-de", *sets)
    assert result.returncode == 5
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: step corpus cannot get train (https://nmtprune.invalid/{lang}.gz): ")
    assert line.endswith("--data DIR takes files that are there: train.en, train.de, news.en, news.de")
    assert not list(tmp_path.iterdir())


def test_an_unknown_set_of_sacrebleu_is_named(tmp_path: Path) -> None:
    result = run_python("fetch.py", tmp_path, "--languages", "en-de", "news=sacrebleu:wmt1914")
    assert result.returncode == 5
    assert "cannot get news (sacrebleu:wmt1914): sacrebleu: " in result.stderr
