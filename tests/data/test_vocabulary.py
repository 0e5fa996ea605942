from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtprune.data.vocabulary import FairseqVocabulary, check_size
from nmtprune.errors import DataError

WORDS = ("the", "▁a", "b@@", "ä", "madeupword0000", "two words", "<extra>")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dictionary") / "dict.en.txt"
    file.write_text("".join(f"{word} {count}\n" for count, word in enumerate(WORDS)), encoding="utf-8")
    return file


def _fairseq(path: Path):  # type: ignore[no-untyped-def]
    from fairseq.data import Dictionary

    return Dictionary.load(str(path))


def _assert_same(path: Path) -> FairseqVocabulary:
    ours, theirs = FairseqVocabulary.read(path), _fairseq(path)
    assert list(ours.symbols) == theirs.symbols
    assert dict(ours.index) == theirs.indices
    assert (ours.bos, ours.pad, ours.eos, ours.unk) == (theirs.bos(), theirs.pad(), theirs.eos(), theirs.unk())
    assert len(ours) == len(theirs)
    return ours


def test_special_symbols_come_first(path: Path) -> None:
    vocabulary = _assert_same(path)
    assert vocabulary.symbols[:5] == ("<s>", "<pad>", "</s>", "<unk>", "the")
    assert len(vocabulary) == 4 + len(WORDS)


def test_overwrite_flag(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_text("a 5\n<unk> 0 #fairseq:overwrite\na 3 #fairseq:overwrite\n</s> 0 #fairseq:overwrite\nb 1\n")
    vocabulary = _assert_same(path)
    assert vocabulary.encode("a b c").tolist() == _fairseq(path).encode_line("a b c", add_if_not_exist=False).tolist()


def test_line_ends_marks_and_padding(tmp_path: Path) -> None:
    path = tmp_path / "dict.txt"
    path.write_bytes(b"a 5\r\nmadeupword0000 0\r\nmadeupword0001 0")
    _assert_same(path)
    path.write_bytes(b"\xef\xbb\xbfa 5\nb 3\n")
    assert FairseqVocabulary.read(path).symbols[4:] == ("a", "b")


def test_fairseq_saves_what_is_read_back(tmp_path: Path) -> None:
    from fairseq.data import Dictionary

    theirs = Dictionary()
    for word in ("x", "y", "y", "▁z"):
        theirs.add_symbol(word)
    theirs.finalize(padding_factor=8)
    theirs.save(str(tmp_path / "dict.en.txt"))
    assert len(_assert_same(tmp_path / "dict.en.txt")) == 8


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*"ab ä▁@\t\u00a0\u2028\u3000\x85\x1c", "the", "b@@", "<unk>", "</s>"]), max_size=12))
def test_encode_equals_fairseq(path: Path, pieces: list[str]) -> None:
    line = "".join(pieces)
    ours, theirs = FairseqVocabulary.read(path), _fairseq(path)
    for eos in (True, False):
        expected = theirs.encode_line(line, add_if_not_exist=False, append_eos=eos)
        assert ours.encode(line, append_eos=eos).tolist() == expected.tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(WORDS) + 8), max_size=12), st.booleans())
def test_string_equals_fairseq(path: Path, ids: list[int], escape: bool) -> None:
    import torch

    theirs = _fairseq(path).string(torch.tensor(ids, dtype=torch.int64), escape_unk=escape)
    assert FairseqVocabulary.read(path).string(ids, escape_unk=escape) == theirs


def test_references_escape_unknown_words(path: Path) -> None:
    vocabulary = FairseqVocabulary.read(path)
    assert vocabulary.string([0, 4, 3, 2, 1]) == "the <unk> <pad>"
    assert vocabulary.string([4, 3, 2], escape_unk=True) == "the <<unk>>"


def test_fingerprint_is_of_the_symbols(tmp_path: Path, path: Path) -> None:
    other = tmp_path / "dict.de.txt"
    other.write_text("".join(f"{word} 7\n" for word in WORDS), encoding="utf-8")
    assert FairseqVocabulary.read(other).fingerprint == FairseqVocabulary.read(path).fingerprint
    other.write_text("".join(f"{word} 7\n" for word in WORDS[::-1]), encoding="utf-8")
    assert FairseqVocabulary.read(other).fingerprint != FairseqVocabulary.read(path).fingerprint


def _error(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        FairseqVocabulary.read(path)
    return str(caught.value)


def test_all_faults_of_a_dictionary_are_named(tmp_path: Path) -> None:
    path = tmp_path / "dict.en.txt"
    path.write_text("a 1\nb\n\na 2\n<pad> 1\nc many\n")
    assert _error(path) == (
        f"{path}: no dictionary of fairseq: line 2: 'b' is not 'SYMBOL COUNT'; line 3: '' is not 'SYMBOL COUNT'; "
        "line 4: 'a' is a duplicate (not flagged #fairseq:overwrite); "
        "line 5: '<pad>' is a duplicate (not flagged #fairseq:overwrite); line 6: 'c many' is not 'SYMBOL COUNT'"
    )
    path.write_text("this is text\n" * 100)
    assert _error(path).endswith("; line 5: 'this is text' is not 'SYMBOL COUNT'; and 95 more")
    path.write_bytes(b"a 1\n\xe4 2\n")
    assert _error(path) == f"{path}: line 2 is not UTF-8 (byte 0xe4): convert the file to UTF-8"


@pytest.mark.parametrize("content", ["a 1\nb\n", "a 1\na 2\n", "a 1\n\nb 2\n", "a x\n", "a #fairseq:overwrite\n"])
def test_refuses_what_fairseq_refuses(tmp_path: Path, content: str) -> None:
    path = tmp_path / "dict.en.txt"
    path.write_text(content)
    with pytest.raises((RuntimeError, ValueError)):
        _fairseq(path)
    _error(path)


def test_dictionary_of_another_model(path: Path) -> None:
    vocabulary = FairseqVocabulary.read(path)
    check_size(vocabulary, len(vocabulary), "source")
    check_size(vocabulary, None, "source")
    with pytest.raises(DataError) as caught:
        check_size(vocabulary, 6000, "target")
    assert str(caught.value) == (
        f"{path}: the dictionary of another model: 11 symbols (special ones included), "
        "but the model's target embeddings have 6000"
    )
