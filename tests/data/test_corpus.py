import gzip
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus, stream_corpus
from nmtprune.data.options import DataOptions
from nmtprune.errors import DataError, UsageError
from nmtprune.profile import ModelProfile
from tests.support.data import (
    SOURCE_WORDS,
    TARGET_WORDS,
    fairseq_task,
    random_sentences,
    write_data_bin,
    write_dataset,
    write_dictionary,
)

PROFILE = ModelProfile(len(SOURCE_WORDS) + 4, len(TARGET_WORDS) + 4, "en", "de", 1024, 1024)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data_bin(tmp_path_factory.mktemp("data") / "bin", {"valid": 83, "test": 50})


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.en"
    path.write_text("s1 s2 s3\ns4\n\ns1 what s2\n", encoding="utf-8")
    return path


def _fairseq_batches(folder: Path, subset: str, **limits: Any) -> list[dict[str, Any]]:
    task = fairseq_task(folder)
    task.load_dataset(subset)
    # fairseq-generate's call; a required multiple of 1 beside its own 8 keeps the ragged last batch.
    iterator = task.get_batch_iterator(task.dataset(subset), max_positions=(1024, 1024), **limits)
    return list(iterator.next_epoch_itr(shuffle=False))


def _assert_same_batches(corpus: Corpus, limits: BatchLimits, theirs: list[dict[str, Any]], seed: int = 1) -> None:
    import torch

    batches = corpus.batches(limits, seed)
    assert len(batches) == len(theirs)
    for positions, sample in zip(batches, theirs, strict=True):
        batch = corpus.batch(positions)
        assert batch.target is not None
        assert batch.previous is not None
        assert batch.positions.tolist() == sample["id"].tolist()
        assert torch.equal(batch.source, sample["net_input"]["src_tokens"])
        assert torch.equal(batch.source_lengths, sample["net_input"]["src_lengths"])
        assert torch.equal(batch.target, sample["target"])
        assert torch.equal(batch.previous, sample["net_input"]["prev_output_tokens"])


@pytest.mark.parametrize("subset", ["valid", "test"])
@pytest.mark.parametrize(
    ("max_tokens", "batch_size", "seed"), [(60, None, 1), (None, 7, 1), (60, 5, 3), (2000, None, 1)]
)
def test_batches_are_those_of_fairseq_generate(
    folder: Path, subset: str, max_tokens: int | None, batch_size: int | None, seed: int
) -> None:
    corpus = load_corpus(DataOptions(data_bin=folder, subset=subset), PROFILE)
    limits = {"max_tokens": max_tokens, "max_sentences": batch_size, "seed": seed}
    whole = _fairseq_batches(folder, subset, **limits, required_batch_size_multiple=1)
    _assert_same_batches(corpus, BatchLimits(max_tokens, batch_size, 1), whole, seed)


@pytest.mark.parametrize("subset", ["valid", "test"])
def test_with_the_default_multiple_only_the_dropped_batch_differs(folder: Path, subset: str) -> None:
    corpus = load_corpus(DataOptions(data_bin=folder, subset=subset), PROFILE)
    theirs = _fairseq_batches(folder, subset, max_tokens=120, required_batch_size_multiple=8)
    ours = [corpus.batch(positions).positions.tolist() for positions in corpus.batches(BatchLimits.of(120))]
    assert sum(map(len, ours)) == len(corpus)
    assert ours[:-1] == [sample["id"].tolist() for sample in theirs]
    assert len(ours[-1]) % 8 != 0


def test_sentences_and_references_equal_fairseq(folder: Path) -> None:
    corpus = load_corpus(DataOptions(data_bin=folder), PROFILE)
    task = fairseq_task(folder)
    task.load_dataset("valid")
    assert corpus.target is not None
    for number, sample in enumerate(task.dataset("valid")):
        assert corpus.source[number].tolist() == sample["source"].tolist()
        assert corpus.target[number].tolist() == sample["target"].tolist()
    decoded = tuple(task.tgt_dict.string(sample["target"], None, escape_unk=True) for sample in task.dataset("valid"))
    assert corpus.references == (decoded,)
    assert (len(corpus), corpus.total, corpus.name, corpus.notes) == (83, 83, "valid.en-de", ())
    assert corpus.numbers.tolist() == list(range(83))


def test_several_references(folder: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for name, path in (("a", first), ("b", second)):
        path.write_text("".join(f"{name} {number}\n" for number in range(83)))
    corpus = load_corpus(DataOptions(data_bin=folder, reference=(first, second)))
    assert corpus.references == tuple(tuple(f"{name} {number}" for number in range(83)) for name in "ab")
    assert {str(first), str(second)} < set(corpus.inputs)
    assert corpus.notes == ()
    for path in (first, second):
        path.write_text("one line\n")
    source = tmp_path / "source"
    source.write_text("s1 s2\ns3\n")
    raw = DataOptions(data_bin=folder, source=source, reference=(first, second), post_process="none")
    faults = "; ".join(f"{path}: 1 lines, but {source} has 2 sentences" for path in (first, second))
    assert _error(raw) == f"{faults}: the reference must have one line per sentence"
    code = "data: 2 files of references: losses, importance and confidence are measured on one reference per sentence"
    assert _error(raw, references=False, targets=True) == f"{code}: give one `reference` FILE"


def test_real_data_equals_fairseq(test_models: Path) -> None:
    folder = test_models / "m30k-ende" / "data-bin"
    for subset in ("valid", "test", "test1"):
        corpus = load_corpus(DataOptions(data_bin=folder, subset=subset), ModelProfile(6000, 6000, "en", "de"))
        task = fairseq_task(folder)
        task.load_dataset(subset)
        samples = task.dataset(subset)
        decoded = (task.tgt_dict.string(sample["target"], "sentencepiece", escape_unk=True) for sample in samples)
        assert corpus.references == (tuple(decoded),)
        whole = _fairseq_batches(folder, subset, max_tokens=4000, required_batch_size_multiple=1)
        _assert_same_batches(corpus, BatchLimits(4000, None, 1), whole)


def test_inputs_are_fingerprinted(folder: Path) -> None:
    corpus = load_corpus(DataOptions(data_bin=folder))
    names = ("dict.en.txt", "dict.de.txt", *(f"valid.en-de.{end}" for end in ("en.idx", "en.bin", "de.idx", "de.bin")))
    expected = {str(folder / name): hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    assert corpus.inputs == expected
    assert corpus.describe() == {
        "data": "valid.en-de", "languages": "en-de", "sentences": 83, "left_out": 0, "post_process": "none",
        "tokenizer": "none",
    }  # fmt: skip


def test_raw_references_beside_binarized_data(folder: Path, tmp_path: Path) -> None:
    reference = tmp_path / "ref.de.gz"
    reference.write_bytes(gzip.compress("".join(f"Zeile\u2028 {n}\r\n" for n in range(83)).encode()))
    corpus = load_corpus(DataOptions(data_bin=folder, reference=(reference,)))
    assert corpus.references == (tuple(f"Zeile\u2028 {n}" for n in range(83)),)
    assert corpus.inputs[str(reference)] == hashlib.sha256(reference.read_bytes()).hexdigest()
    reference.write_bytes(b"a\n" * 82)
    assert _error(DataOptions(data_bin=folder, reference=(reference,))) == (
        f"{reference}: 82 lines, but valid.en-de has 83 sentences: the reference must have one line per sentence"
    )


def test_joined_subsets(folder: Path) -> None:
    corpus = load_corpus(DataOptions(data_bin=folder, subset="test,valid"))
    parts = [load_corpus(DataOptions(data_bin=folder, subset=name)) for name in ("test", "valid")]
    assert corpus.name == "test.en-de+valid.en-de"
    assert [ids.tolist() for ids in corpus.source] == [ids.tolist() for part in parts for ids in part.source]


def test_raw_text(folder: Path, text: Path, tmp_path: Path) -> None:
    reference = tmp_path / "text.de"
    reference.write_text("T1 t2.\n\nt3 t3 t3\nt4 t4\n", encoding="utf-8")
    options = DataOptions(data_bin=folder, source=text, reference=(reference,), post_process="none")
    corpus = load_corpus(options, PROFILE, targets=True)
    assert [ids.tolist() for ids in corpus.source] == [[5, 6, 7, 2], [8, 2], [2], [5, 3, 6, 2]]
    assert corpus.references == (("T1 t2.", "", "t3 t3 t3", "t4 t4"),)
    assert corpus.target is not None
    assert [ids.tolist() for ids in corpus.target] == [[3, 3, 2], [2], [7, 7, 7, 2], [8, 8, 2]]
    assert corpus.notes == (
        f"1 of 7 source tokens (14%) are not in {folder}/dict.en.txt: are subword model, tokenization, casing and "
        "language those of the model's source side?",
        f"2 of 7 reference tokens (29%) are not in {folder}/dict.de.txt: are subword model, tokenization, casing and "
        "language those of the model's target side?",
        "empty source sentences: 1 of 4",
        "empty references: 1 of 4",
    )
    assert load_corpus(options, PROFILE).target is None
    read = (folder / "dict.en.txt", folder / "dict.de.txt", text, reference)
    assert corpus.inputs.keys() == {str(path) for path in read}


def test_raw_text_batches_are_those_of_fairseq_interactive(folder: Path, tmp_path: Path) -> None:
    import torch

    sentences = random_sentences(60, len(SOURCE_WORDS), seed=5)
    source = tmp_path / "text.en"
    source.write_text("".join(" ".join(SOURCE_WORDS[token - 4] for token in ids[:-1]) + "\n" for ids in sentences))
    corpus = load_corpus(DataOptions(data_bin=folder, source=source, post_process="none"), references=False)
    task = fairseq_task(folder)
    tokens, lengths = task.get_interactive_tokens_and_lengths(source.read_text().splitlines(), lambda line: line)
    dataset = task.build_dataset_for_inference(tokens, lengths)
    theirs = list(task.get_batch_iterator(dataset, max_tokens=70).next_epoch_itr(shuffle=False))
    batches = [corpus.batch(positions) for positions in corpus.batches(BatchLimits(70, None, 1))]
    for batch, sample in zip(batches, theirs, strict=True):
        assert batch.positions.tolist() == sample["id"].tolist()
        assert torch.equal(batch.source, sample["net_input"]["src_tokens"])
        assert (batch.target, batch.previous) == (None, None)


def test_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"s1\ns2 s3")))
    corpus = load_corpus(DataOptions(data_bin=folder, source=Path("-"), post_process="none"), references=False)
    assert (corpus.name, len(corpus)) == ("standard input", 2)
    assert corpus.inputs["standard input"] == hashlib.sha256(b"s1\ns2 s3").hexdigest()


def test_subwords_are_joined_and_unknown_words_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for language in ("en", "de"):
        write_dictionary(folder / f"dict.{language}.txt", ["▁der", "▁Hu", "nd", "▁", "."])
    write_dataset(folder / "valid.en-de.en", [[4, 2], [4, 2]])
    write_dataset(folder / "valid.en-de.de", [[4, 5, 6, 8, 2], [7, 3, 4, 2]])
    corpus = load_corpus(DataOptions(data_bin=folder))
    assert corpus.references == (("der Hund.", "<<unk>> der"),)
    assert corpus.notes == (
        "joining subwords as `post_process` sentencepiece, which the symbols of dict.de.txt suggest",
        "references with unknown words: 1 of 2 (`reference` FILE takes the raw text instead)",
    )
    assert corpus.decode([5, 6, 3, 2]) == "Hund<unk>"
    plain = load_corpus(DataOptions(data_bin=folder, post_process="none"))
    assert plain.references == (("▁der ▁Hu nd .", "▁ <<unk>> ▁der"),)


def test_subword_models_decide_how_symbols_are_joined(folder: Path, tmp_path: Path, text: Path) -> None:
    codes = tmp_path / "codes"
    codes.write_text("#version: 0.2\ns 1</w>\ns 2</w>\n")
    corpus = load_corpus(DataOptions(data_bin=folder, source=text, bpe_codes=codes), references=False)
    assert corpus.codec.post_process == "subword_nmt"
    assert corpus.inputs[str(codes)] == hashlib.sha256(codes.read_bytes()).hexdigest()
    assert corpus.source[0].tolist() == [5, 6, 3, 3, 2]
    chosen = DataOptions(data_bin=folder, source=text, bpe_codes=codes, post_process="none", tokenizer="moses")
    assert load_corpus(chosen, references=False).describe()["post_process"] == "none"


def test_moses_detokenizes_references(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for language in ("en", "de"):
        write_dictionary(folder / f"dict.{language}.txt", ["Er", "sagt", ":", "&quot;", "gut", "."])
    for language in ("en", "de"):
        write_dataset(folder / f"valid.en-de.{language}", [[4, 5, 6, 7, 8, 9, 7, 2]])
    assert load_corpus(DataOptions(data_bin=folder, tokenizer="moses")).references == (('Er sagt: "gut."',),)


def _error(options: DataOptions, model: ModelProfile | None = None, **needs: bool) -> str:
    with pytest.raises((DataError, UsageError)) as caught:
        load_corpus(options, model, **needs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sentences_over_the_positions_are_refused_or_left_out_as_by_fairseq(folder: Path) -> None:
    from fairseq.data.data_utils import filter_paired_dataset_indices_by_size

    model = ModelProfile(max_source_positions=9, max_target_positions=10)
    options = DataOptions(data_bin=folder)
    whole = load_corpus(options)
    assert whole.target is not None
    kept, ignored = filter_paired_dataset_indices_by_size(
        whole.source.sizes, whole.target.sizes, np.arange(len(whole)), (9, 10)
    )
    first = ignored[0]
    assert _error(options, model) == (
        f"valid.en-de: {len(ignored)} of 83 sentences are longer than the model's positions "
        f"(9 source, 10 target tokens), first sentence {first} (counted from 0) with "
        f"{whole.source.sizes[first]} source and {whole.target.sizes[first]} target tokens: "
        "`skip_invalid` leaves such sentences out"
    )
    corpus = load_corpus(DataOptions(data_bin=folder, skip_invalid=True), model)
    assert corpus.numbers.tolist() == kept.tolist()
    assert corpus.notes == (
        f"left out, longer than the model's positions (9 source, 10 target tokens): {len(ignored)} of 83 sentences",
    )
    assert whole.references is not None
    assert corpus.references == (tuple(whole.references[0][number] for number in kept),)
    assert (corpus.total, corpus.describe()["left_out"]) == (83, len(ignored))
    theirs = fairseq_task(folder)
    theirs.load_dataset("valid")
    samples = theirs.get_batch_iterator(
        theirs.dataset("valid"), max_tokens=60, max_positions=(9, 10), ignore_invalid_inputs=True
    ).next_epoch_itr(shuffle=False)
    batches = [corpus.batch(positions).positions for positions in corpus.batches(BatchLimits(60, None, 1))]
    assert [corpus.numbers[batch].tolist() for batch in batches] == [sample["id"].tolist() for sample in samples]


def test_raw_lines_over_the_positions(folder: Path, text: Path) -> None:
    model = ModelProfile(max_source_positions=3, max_target_positions=1)
    options = DataOptions(data_bin=folder, source=text, post_process="none")
    assert _error(options, model, references=False) == (
        f"{text}: 2 of 4 sentences are longer than the model's positions (3 source, 1 target tokens), first line 1 "
        "with 4 source tokens: `skip_invalid` leaves such sentences out"
    )
    none_left = ModelProfile(max_source_positions=0)
    skipping = DataOptions(data_bin=folder, source=text, post_process="none", skip_invalid=True)
    assert _error(skipping, none_left, references=False).startswith(f"{text}: 4 of 4 sentences are longer than")


def test_dictionary_of_another_model(folder: Path) -> None:
    assert _error(DataOptions(data_bin=folder), ModelProfile(24, 30)) == (
        f"{folder}/dict.de.txt: the dictionary of another model: 34 symbols (special ones included), "
        "but the model's target embeddings have 30"
    )


def test_what_is_needed_and_missing(folder: Path, text: Path, tmp_path: Path) -> None:
    raw = DataOptions(data_bin=folder, source=text, post_process="none")
    assert _error(raw) == "data: `source` needs `reference` FILE here"
    assert len(load_corpus(raw, references=False)) == 4
    one_sided = write_data_bin(tmp_path / "bin", {"valid": 3})
    for suffix in ("idx", "bin"):
        (one_sided / f"valid.en-de.de.{suffix}").unlink()
    assert _error(DataOptions(data_bin=one_sided)) == (
        f"valid.en-de in {one_sided}: no target side: give `reference` FILE"
    )
    assert _error(DataOptions(data_bin=one_sided), references=False, targets=True) == (
        f"valid.en-de in {one_sided}: no target side"
    )
    corpus = load_corpus(DataOptions(data_bin=one_sided), references=False)
    assert (corpus.target, corpus.references) == (None, None)
    reference = tmp_path / "ref"
    reference.write_text("a\nb\nc\n")
    assert load_corpus(DataOptions(data_bin=one_sided, reference=(reference,))).references == (("a", "b", "c"),)


def test_empty_data(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    raw = DataOptions(data_bin=folder, source=empty, reference=(empty,), post_process="none")
    assert _error(raw) == f"{empty}: empty: it holds no sentences"
    nothing = write_data_bin(tmp_path / "bin", {"valid": 0})
    assert _error(DataOptions(data_bin=nothing)) == "valid.en-de: empty: it holds no sentences"


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pieces_of_a_stream_are_the_corpus(folder: Path, text: Path, size: int) -> None:
    for options in (
        DataOptions(data_bin=folder, source=text, post_process="none"),
        DataOptions(data_bin=folder, subset="test"),
    ):
        whole = load_corpus(options, PROFILE, references=False)
        pieces = list(stream_corpus(options, PROFILE, size))
        assert all(piece.total == size for piece in pieces[:-1])
        assert [sentence.tolist() for piece in pieces for sentence in piece.source] == [
            sentence.tolist() for sentence in whole.source
        ]
        assert all(piece.target is None for piece in pieces)


def test_a_stream_leaves_out_or_refuses_long_sentences(folder: Path, text: Path) -> None:
    profile = ModelProfile(len(SOURCE_WORDS) + 4, len(TARGET_WORDS) + 4, "en", "de", 3, 3)
    options = DataOptions(data_bin=folder, source=text, post_process="none", skip_invalid=True)
    assert [piece.numbers.tolist() for piece in stream_corpus(options, profile, 3)] == [[1, 2], []]
    pieces = stream_corpus(DataOptions(data_bin=folder, source=text, post_process="none"), profile, 3)
    with pytest.raises(DataError, match=r"first line 1 with 4 source tokens"):
        next(pieces)
    later = stream_corpus(DataOptions(data_bin=folder, source=text, post_process="none"), profile, 1)
    with pytest.raises(DataError, match=r"first line 1 with 4 source tokens"):
        next(later)
    text.write_text("s4\n\ns1 s1 s1\n", encoding="utf-8")
    later = stream_corpus(DataOptions(data_bin=folder, source=text, post_process="none"), profile, 1)
    assert len(next(later)) == len(next(later)) == 1
    with pytest.raises(DataError, match=r"first line 3 with 4 source tokens"):
        next(later)
