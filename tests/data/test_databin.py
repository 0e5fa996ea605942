from pathlib import Path

import pytest

from nmtprune.data.databin import DataBin, Languages, joined
from nmtprune.errors import DataError
from tests.support.data import SOURCE_WORDS, TARGET_WORDS, random_sentences, write_data_bin, write_dataset

NONE = (None, None)
EN_DE = Languages("en", "de")
SYMBOLS = (len(SOURCE_WORDS) + 4, len(TARGET_WORDS) + 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_bin(tmp_path_factory.mktemp("data") / "bin", {"valid": 7, "test": 4, "train": 5, "train1": 3})


def test_subsets(folder: Path) -> None:
    assert DataBin(folder).subsets() == {name: {EN_DE} for name in ("valid", "test", "train", "train1")}


@pytest.mark.parametrize(
    ("names", "subsets"),
    [
        (["wmt19.test.en-de.en.idx"], {"wmt19.test": {EN_DE}}),
        (["valid.en-de.de.idx", "valid.en-fr.en.idx"], {"valid": {EN_DE, Languages("en", "fr")}}),
        (["valid.en-zh-Hans.zh-Hans.idx"], {"valid": {Languages("en", "zh-Hans")}}),
        (["valid.zh-Hans-en.zh-Hans.idx"], {"valid": {Languages("zh-Hans", "en")}}),
        (["train.idx", "dict.en.txt", "train.align.en-de.idx", "valid.en-de.en.bin", ".idx", "x.y.idx"], {}),
    ],
)
def test_names_of_files(tmp_path: Path, names: list[str], subsets: dict[str, set[Languages]]) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert DataBin(tmp_path).subsets() == subsets


def test_languages(folder: Path, tmp_path: Path) -> None:
    data = DataBin(folder)
    assert data.choose_languages(("valid",), NONE, NONE) == EN_DE
    assert data.choose_languages(("valid", "test"), NONE, ("en", "de")) == EN_DE
    # A model of the other direction reads the same files the other way round.
    assert data.choose_languages(("valid",), NONE, ("de", "en")) == EN_DE.reversed
    assert data.choose_languages(("valid",), (None, "en"), NONE) == EN_DE.reversed
    assert data.choose_languages(("valid",), ("en", None), ("de", "en")) == EN_DE
    # A checkpoint that was trained under other names does not stand in the way of the only pair that is there.
    assert data.choose_languages(("valid",), NONE, ("eng", "deu")) == EN_DE
    assert data.choose_languages(("valid",), ("xx", "yy"), NONE) == Languages("xx", "yy")
    for name in ("dict.src.txt", "dict.tgt.txt"):
        (tmp_path / name).touch()
    assert DataBin(tmp_path).choose_languages((), NONE, ("src", "tgt")) == Languages("src", "tgt")


def _error(data: DataBin, *arguments: object) -> str:
    with pytest.raises(DataError) as caught:
        data.choose_languages(*arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_what_is_missing_is_named_with_what_is_there(folder: Path, tmp_path: Path) -> None:
    assert _error(DataBin(folder), ("dev", "valid", "x"), NONE, NONE) == (
        f"{folder}: no subset 'dev', 'x'; there are test, train, train1, valid"
    )
    assert _error(DataBin(tmp_path), ("valid",), NONE, NONE) == (
        f"{tmp_path}: no subset 'valid'; there is none in {tmp_path}: run fairseq-preprocess"
    )
    assert _error(DataBin(tmp_path / "none"), ("valid",), NONE, NONE) == (
        f"{tmp_path / 'none'}: no readable data folder: No such file or directory"
    )
    with pytest.raises(DataError) as caught:
        DataBin(folder).dictionary("fr")
    assert str(caught.value) == f"{folder}/dict.fr.txt: no such dictionary; there are dict.de.txt, dict.en.txt"


def test_unclear_languages(tmp_path: Path) -> None:
    for name in ("valid.en-de.en.idx", "valid.en-fr.en.idx"):
        (tmp_path / name).touch()
    assert _error(DataBin(tmp_path), ("valid",), NONE, NONE) == (
        f"{tmp_path}: unclear languages: it holds en-de, en-fr; give `source_lang` and `target_lang`"
    )
    assert DataBin(tmp_path).choose_languages(("valid",), NONE, ("en", "fr")) == Languages("en", "fr")
    assert DataBin(tmp_path).choose_languages(("valid",), (None, "fr"), NONE) == Languages("en", "fr")
    (tmp_path / "empty").mkdir()
    assert _error(DataBin(tmp_path / "empty"), (), NONE, NONE) == (
        f"{tmp_path}/empty: unclear languages: no file name tells them; give `source_lang` and `target_lang`"
    )


def test_reads_both_directions_and_shards(folder: Path) -> None:
    data = DataBin(folder)
    bitext = data.read("valid", EN_DE, SYMBOLS)
    assert (len(bitext.source), len(bitext.target or ())) == (7, 7)
    ends = ("en.idx", "en.bin", "de.idx", "de.bin")
    assert [path.name for path in bitext.files] == [f"valid.en-de.{end}" for end in ends]
    back = data.read("valid", EN_DE.reversed, SYMBOLS[::-1])
    assert back.target is not None
    assert [ids.tolist() for ids in back.target] == [ids.tolist() for ids in bitext.source]
    assert len(data.read("train", EN_DE, SYMBOLS).source) == 5
    shards = data.read("train", EN_DE, SYMBOLS, join_shards=True)
    assert (len(shards.source), shards.name) == (8, "train.en-de+train1.en-de")
    assert shards.source[5].tolist() == data.read("train1", EN_DE, SYMBOLS).source[0].tolist()


def _read_error(folder: Path, subset: str = "valid", languages: Languages = EN_DE) -> str:
    with pytest.raises(DataError) as caught:
        DataBin(folder).read(subset, languages, SYMBOLS)
    return str(caught.value)


def test_sides_that_do_not_fit(tmp_path: Path) -> None:
    folder = write_data_bin(tmp_path / "bin", {"valid": 7, "test": 4})
    write_dataset(folder / "valid.en-de.de", random_sentences(6, 10))
    assert _read_error(folder) == (
        f"{folder}/valid.en-de.en: 7 sentences, but valid.en-de.de has 6: the two sides are not of one corpus"
    )
    (folder / "valid.en-de.de.idx").unlink()
    assert _read_error(folder) == f"{folder}/valid.en-de.de.idx: cannot be read: No such file or directory"
    (folder / "valid.en-de.de.bin").unlink()
    without = DataBin(folder).read("valid", EN_DE, SYMBOLS)
    assert without.target is None
    assert _read_error(folder, languages=Languages("en", "fr")) == (
        f"{folder}: subset 'valid' is not binarized for en-fr (it is for en-de)"
    )
    with pytest.raises(DataError) as caught:
        joined([without, DataBin(folder).read("test", EN_DE, SYMBOLS)])
    assert str(caught.value) == "valid.en-de: no target side, but other parts of the data have one"
    write_dataset(folder / "test.en-de.en", [[4, 2], [], [5, 2], [2]])
    assert _read_error(folder, "test") == (
        f"{folder}/test.en-de.en: sentence 1 (counted from 0) has no tokens, not even the end symbol"
    )
