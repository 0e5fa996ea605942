"""SentencePiece vocabularies of Marian: ids and texts equal to Marian's own, for every kind of model."""

from pathlib import Path

import numpy as np
import pytest

from nmtprune.data.corpus import load_corpus
from nmtprune.data.marian_vocabulary import MarianVocabulary
from nmtprune.data.options import DataOptions
from nmtprune.data.sentencepiece_text import SentencePieceText
from nmtprune.errors import DataError
from nmtprune.profile import ModelProfile
from tests.support.marian_program import marian_ids, marian_texts
from tests.support.subwords import KINDS, TEXT, sentencepiece_vocabulary

LINES = [
    *TEXT, "", " ", "  two  blanks  ", "\tq\t x", "\xa0n\xa0", "x\u2028y\u0085z", "\u65e5\u672c\u8a9e \U0001f600!",
    "</s> <unk> <0x41> \u2581 \u2047", ">>deu<< the <sep>fox", "ﬁne ① ½ ｆｏｘ", "9999 a\x07b", "\ufefffox \u200b",
]  # fmt: skip


def _score(model: SentencePieceText, ids: list[int]) -> float:
    return sum(model.processor.GetScore(id) for id in ids)


def _check(folder: Path, kind: str) -> None:
    path = sentencepiece_vocabulary(folder, **KINDS[kind])
    vocabulary = MarianVocabulary.read(path)
    rows, model = len(vocabulary), vocabulary.sentencepiece
    assert model is not None
    read = [vocabulary.encode(model.encode(line)).tolist() for line in LINES]
    for mine, marians in zip(read, marian_ids(path, LINES, rows), strict=True):
        # Versions of SentencePiece break ties of two segmentations in the last bits of a sum.
        assert mine == marians or _score(model, mine) == pytest.approx(_score(model, marians), abs=1e-5)
    rng = np.random.default_rng(1)
    words = [id for id in range(rows) if id != vocabulary.eos]
    sequences = [rng.choice(words, rng.integers(1, 7)).tolist() for _ in range(60)]
    sequences += [ids[:-1] for ids in read if len(ids) > 1]
    texts = [model.decode(vocabulary.string(ids)) for ids in sequences]
    assert texts == marian_texts(
        path, [[vocabulary.symbols[id] for id in ids] for ids in sequences], rows, vocabulary.eos
    )


def test_byte_pieces_are_read_and_written_as_marian_does(tmp_path: Path) -> None:
    _check(tmp_path, "byte fallback")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(tmp_path: Path, kind: str) -> None:
    _check(tmp_path, kind)


def test_pieces_of_another_side_and_rows_without_pieces(tmp_path: Path) -> None:
    path = sentencepiece_vocabulary(tmp_path, **KINDS["unigram"])
    size = len(MarianVocabulary.read(path))
    with pytest.raises(DataError, match=f"another model: {size} pieces, but the model's target embeddings have 9"):
        MarianVocabulary.read(path, 9, "target")
    padded = MarianVocabulary.read(path, 90)
    assert (len(padded), padded.start, len(set(padded.symbols)), padded.size) == (90, 90, 90, size)
    with pytest.raises(DataError, match=f"the model chose id {size}"):
        padded.string([size])


def test_no_end_of_a_sentence(tmp_path: Path) -> None:
    path = sentencepiece_vocabulary(tmp_path, vocab_size=75, eos_id=-1, unk_id=0)
    with pytest.raises(DataError, match="it has no end-of-sentence symbol"):
        MarianVocabulary.read(path)


def test_a_model_under_another_name(tmp_path: Path) -> None:
    path = sentencepiece_vocabulary(tmp_path, **KINDS["unigram"])
    for name in ("vocab.model", "vocab.yml"):
        other = path.rename(tmp_path / name)
        with pytest.raises(DataError, match=r"it is a SentencePiece model: Marian knows one by its ending, copy it to"):
            MarianVocabulary.read(other)
        path = other


def test_translations_are_joined_by_the_model_of_the_target(tmp_path: Path) -> None:
    """A list of symbols with a SentencePiece model per side: bytes become characters, pieces of the other side join."""
    model = sentencepiece_vocabulary(tmp_path, **KINDS["byte fallback"])
    vocabulary = tmp_path / "vocab.yml"
    vocabulary.write_text(
        '"</s>": 0\n"<unk>": 1\n"▁fox": 2\n"<0xC3>": 3\n"<0xA4>": 4\n"▁nur-Quelle": 5\ns: 6\n">>deu<<": 7\n'
    )
    source = tmp_path / "in"
    source.write_text(">>deu<< fox\n")
    options = DataOptions(
        source=source, vocabs=(vocabulary, vocabulary), source_sentencepiece=model, target_sentencepiece=model
    )
    corpus = load_corpus(options, ModelProfile(8, 8, vocabulary_files=True), references=False)
    assert corpus.source[0].tolist()[0] == 7
    assert corpus.decode([2, 3, 4, 5, 6, 1, 2, 0]) == "foxä nur-Quelles ⁇  fox"


def test_sources_are_joined_by_the_model_of_the_source(tmp_path: Path) -> None:
    """Every side has its own pieces, and models that read from right to left have their words turned round."""
    paths = []
    for side, kind in (("source", "byte fallback"), ("target", "characters")):
        (tmp_path / side).mkdir()
        paths.append(sentencepiece_vocabulary(tmp_path / side, **KINDS[kind]))
    source = tmp_path / "in"
    source.write_text(f"{TEXT[1]}\nw\u4e00!\n")
    options = DataOptions(source=source, vocabs=(paths[0], paths[1]))
    for right_to_left in (False, True):
        profile = ModelProfile(400, 400, vocabulary_files=True, right_to_left=right_to_left)
        corpus = load_corpus(options, profile, references=False)
        assert [corpus.source_text(place) for place in (0, 1)] == [TEXT[1], "w\u4e00!"]
