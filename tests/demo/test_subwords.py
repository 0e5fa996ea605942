"""Learning a vocabulary and splitting a corpus; translations back from fairseq-generate's output."""

import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from nmtprune.demo.corpus import write_corpus
from nmtprune.demo.datasets import ParallelCorpus, find_corpus
from nmtprune.demo.hypotheses import read_hypotheses
from nmtprune.demo.subwords import LONGEST_TRAINING_PIECES, encode, learn
from nmtprune.errors import DataError, OutputError


@pytest.fixture
def corpus(tmp_path: Path) -> ParallelCorpus:
    write_corpus(tmp_path / "corpus", 1, train=400, val=20, test=30)
    return find_corpus(tmp_path / "corpus")


def test_pieces_are_the_corpus_again(corpus: ParallelCorpus, tmp_path: Path) -> None:
    assert learn(corpus, tmp_path / "spm.model", 300) == 300
    results = encode(corpus, tmp_path / "spm.model", tmp_path / "pieces")
    assert [(result.name, result.pairs) for result in results] == [("train", 400), ("val", 20), ("test", 30)]
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    for parallel in corpus.sets:
        for language, path in zip(corpus.languages, (parallel.source, parallel.target), strict=True):
            pieces = (tmp_path / "pieces" / f"{parallel.name}.{language}").read_text(encoding="utf-8").splitlines()
            assert [processor.decode(line.split(" ")) for line in pieces] == path.read_text("utf-8").splitlines()


def test_learning_is_repeatable(corpus: ParallelCorpus, tmp_path: Path) -> None:
    for name in ("a.model", "b.model"):
        learn(corpus, tmp_path / name, 300)
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()


def test_a_small_text_gives_a_smaller_vocabulary(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 1, train=5, val=1, test=1)
    size = learn(find_corpus(tmp_path / "corpus"), tmp_path / "spm.model", 5_000)
    assert 50 < size < 1_000
    assert sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model")).get_piece_size() == size


def test_a_vocabulary_smaller_than_the_alphabet_is_refused(corpus: ParallelCorpus, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no vocabulary of 10 pieces: .*[Vv]ocabulary size is smaller"):
        learn(corpus, tmp_path / "spm.model", 10)
    assert not (tmp_path / "spm.model").exists()


def test_the_model_is_not_overwritten(corpus: ParallelCorpus, tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        learn(corpus, tmp_path / "spm.model", 300)


def test_empty_and_long_training_pairs_are_left_out_and_counted_but_no_test_line(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    long = "w " * (LONGEST_TRAINING_PIECES + 1)
    texts = {
        "train.en": f"a b\n\nc\n{long}\n", "train.de": "x y\nz\n \nw\n",
        "val.en": "a\n", "val.de": "x\n", "test.en": f"a\n\n{long}\n", "test.de": "x\ny\nz\n"
    }  # fmt: skip
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text)
    corpus = find_corpus(folder, ("en", "de"))
    learn(corpus, tmp_path / "spm.model", 100)
    results = {result.name: result for result in encode(corpus, tmp_path / "spm.model", tmp_path / "pieces")}
    assert (results["train"].pairs, results["train"].empty, results["train"].long) == (1, 2, 1)
    assert (results["test"].pairs, results["test"].empty, results["test"].long) == (3, 0, 0)


def test_a_test_sentence_that_no_model_can_take_is_named(corpus: ParallelCorpus, tmp_path: Path) -> None:
    learn(corpus, tmp_path / "spm.model", 300)
    lines = corpus.tests[0].source.read_text(encoding="utf-8").splitlines()
    lines[6] = " ".join(["?"] * 1_001)
    corpus.tests[0].source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        encode(corpus, tmp_path / "spm.model", tmp_path / "pieces")
    assert str(caught.value) == (f"{corpus.tests[0].source}: pieces of a sentence, 1,000 at most: line 7 has 1,001")


def test_as_commands(corpus: ParallelCorpus, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nmtprune.demo.subwords"]
    data, model = str(corpus.train.source.parent), str(tmp_path / "spm.model")
    learned = subprocess.run(
        [*command, "learn", data, "--max-size", "300", "-o", model], capture_output=True, text=True, check=True
    )
    assert learned.stdout == f"{model}: 300 pieces\n"
    encoded = subprocess.run(
        [*command, "encode", data, "--model", model, "-o", str(tmp_path / "pieces")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert encoded.stdout == "train: 400 pairs\nval: 20 pairs\ntest: 30 pairs\n"
    failed = subprocess.run(
        [*command, "encode", data, "--model", f"{data}/train.src", "-o", str(tmp_path / "other")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert failed.returncode == 5
    assert failed.stderr.startswith(f"Error: {data}/train.src: no SentencePiece model")
    assert failed.stderr.count("\n") == 1


GENERATED = "S-2\tx\nT-2\ty\nH-2\t-0.1\t▁two\nD-2\t-0.1\ttwo\tand a tab\nP-2\t-0.1\nD-0\t-1.5\tzero\nD-1\t-1.5\t\n"


def test_hypotheses_come_in_the_order_of_the_sentences(tmp_path: Path) -> None:
    (tmp_path / "generate").write_text(GENERATED + "D-1\t-2.0\tsecond best\nGenerate test with beam=1: BLEU = 1\n")
    assert read_hypotheses(tmp_path / "generate") == ["zero", "", "two\tand a tab"]
    assert read_hypotheses(tmp_path / "generate", 3) == ["zero", "", "two\tand a tab"]


@pytest.mark.parametrize(
    ("text", "sentences", "count"), [(GENERATED, 4, 3), (GENERATED.replace("D-1", "d-1"), None, 2)]
)
def test_missing_translations_are_refused(tmp_path: Path, text: str, sentences: int | None, count: int) -> None:
    (tmp_path / "generate").write_text(text)
    with pytest.raises(DataError, match=f"generate: {count} translations for {sentences or 3} sentences"):
        read_hypotheses(tmp_path / "generate", sentences)


def test_no_translations(tmp_path: Path) -> None:
    (tmp_path / "generate").write_text("nothing\n")
    with pytest.raises(DataError, match="no translations"):
        read_hypotheses(tmp_path / "generate")
    with pytest.raises(DataError, match="cannot be read"):
        read_hypotheses(tmp_path / "nowhere")
