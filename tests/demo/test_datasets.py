"""Which files make a parallel corpus, and what is said of files that do not."""

import gzip
from pathlib import Path

import pytest

from nmtprune.demo.datasets import ParallelSet, find_corpus, parse_languages, read_pairs
from nmtprune.errors import DataError, UsageError


def _write(folder: Path, *names: str, text: str = "a b\nc\n") -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def _complete(folder: Path, *languages: str) -> Path:
    return _write(folder, *(f"{name}.{language}" for name in ("train", "val", "test") for language in languages))


def test_two_languages_are_detected_and_other_files_do_not_matter(tmp_path: Path) -> None:
    _complete(tmp_path, "en", "de")
    _write(tmp_path, "README.md", "train", "trainer.en", "valid.fr", "notes.test.en", ".train.en")
    corpus = find_corpus(tmp_path)
    assert corpus.languages == ("de", "en")
    assert corpus.train == ParallelSet("train", tmp_path / "train.de", tmp_path / "train.en")
    assert [parallel.name for parallel in corpus.sets] == ["train", "val", "test"]


def test_languages_turn_it_around(tmp_path: Path) -> None:
    corpus = find_corpus(_complete(tmp_path, "en", "de"), ("en", "de"))
    assert corpus.languages == ("en", "de")
    assert corpus.train.source == tmp_path / "train.en"


def test_src_and_tgt_are_a_direction(tmp_path: Path) -> None:
    assert find_corpus(_complete(tmp_path, "src", "tgt")).languages == ("src", "tgt")


def test_every_test_set_is_found_plain_or_compressed(tmp_path: Path) -> None:
    _write(tmp_path, "train.en.gz", "train.de", "val.en", "val.de.gz")
    _write(tmp_path, "test_2017_flickr.en.gz", "test_2017_flickr.de.gz", "test_2016_flickr.en", "test_2016_flickr.de")
    corpus = find_corpus(tmp_path, ("en", "de"))
    assert [test.name for test in corpus.tests] == ["test_2016_flickr", "test_2017_flickr"]
    assert corpus.tests[1].source == tmp_path / "test_2017_flickr.en.gz"
    assert read_pairs(corpus.train)[0].lines == ("a b", "c")


def test_three_languages_need_a_choice(tmp_path: Path) -> None:
    _complete(tmp_path, "en", "de", "fr")
    with pytest.raises(UsageError) as caught:
        find_corpus(tmp_path)
    assert str(caught.value) == (f"{tmp_path}: training files in de, en, fr: say which two, --languages en-de")
    assert find_corpus(tmp_path, ("en", "fr")).languages == ("en", "fr")


def test_missing_and_doubled_files_are_named_all_at_once(tmp_path: Path) -> None:
    _write(tmp_path, "train.en", "train.de", "train.de.gz", "val.en", "test1.de")
    with pytest.raises(DataError) as caught:
        find_corpus(tmp_path, ("en", "de"))
    assert str(caught.value) == (
        f"{tmp_path}: no parallel corpus train|val|test*.{{en,de}}[.gz]: train.de and train.de.gz are both there: keep "
        "one of them; val.de is missing; test1.en is missing"
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [((), "no training files"), (("train.en", "val.de"), "only train.en")],
)
def test_no_corpus(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    _write(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        find_corpus(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no parallel corpus train|val|test*.{{src,tgt}}[.gz]: {said}"


def test_no_test_set(tmp_path: Path) -> None:
    _write(tmp_path, "train.en", "train.de", "val.en", "val.de")
    with pytest.raises(DataError, match=r"test\.de is missing; test\.en is missing"):
        find_corpus(tmp_path)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: cannot be read as a folder: No such file or directory"):
        find_corpus(tmp_path / "nowhere")


def test_sides_of_different_length_are_refused(tmp_path: Path) -> None:
    _write(tmp_path, "val.en", text="a\n" * 1200)
    _write(tmp_path, "val.de", text="a\n" * 1199)
    with pytest.raises(DataError) as caught:
        read_pairs(ParallelSet("val", tmp_path / "val.en", tmp_path / "val.de"))
    assert str(caught.value) == (
        f"{tmp_path}/val.en has 1,200 lines, {tmp_path}/val.de has 1,199: line by line they must translate each other"
    )


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_empty_files_are_refused(tmp_path: Path, text: str) -> None:
    _write(tmp_path, "val.en", "val.de", text=text)
    with pytest.raises(DataError, match=r"val\.en and .*val\.de: no sentences in it"):
        read_pairs(ParallelSet("val", tmp_path / "val.en", tmp_path / "val.de"))


@pytest.mark.parametrize("text", ["en", "en-", "-de", "en-de-fr", "en-en", ""])
def test_languages_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match="write SOURCE-TARGET as the files are named, for example en-de"):
        parse_languages(text)


def test_languages_that_can() -> None:
    assert parse_languages("en-pt_BR") == ("en", "pt_BR")
