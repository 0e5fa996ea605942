"""Downloads: local addresses arrive, what cannot be had is named with what --data would need."""

import gzip
import hashlib
import subprocess
from pathlib import Path

from tests.support.recipes import LIB, run_python


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


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = f'. "{LIB}/data.sh"; run() {{ "$@"; }}; STEP=corpus DATA={folder}; {command}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=folder)


def test_a_file_is_downloaded_with_its_checksum_or_named_with_what_data_needs(tmp_path: Path) -> None:
    (tmp_path / "MNLI.zip").write_bytes(b"tables")
    (tmp_path / "raw").mkdir()
    result = in_shell(f"download file://{tmp_path}/MNLI.zip raw 'MNLI.zip vocab.bpe'", tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "raw/MNLI.zip").read_bytes() == b"tables"
    assert result.stdout.startswith(hashlib.sha256(b"tables").hexdigest())
    missing = in_shell(f"download file://{tmp_path}/vocab.bpe raw 'MNLI.zip vocab.bpe'", tmp_path)
    assert missing.returncode == 5
    assert missing.stdout.endswith(
        "vocab.bpe; without a network, --data DIR takes files that are there: MNLI.zip, vocab.bpe\n"
    )


def test_files_of_data_are_taken_plain_or_unpacked(tmp_path: Path) -> None:
    (tmp_path / "vocab.bpe").write_bytes(b"merges")
    (tmp_path / "encoder.json.gz").write_bytes(gzip.compress(b"numbers"))
    (tmp_path / "raw").mkdir()
    assert in_shell("take vocab.bpe raw; take encoder.json raw", tmp_path).returncode == 0
    assert [(tmp_path / f"raw/{name}").read_bytes() for name in ("vocab.bpe", "encoder.json")] == [
        b"merges",
        b"numbers",
    ]
