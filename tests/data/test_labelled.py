import gzip
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nmtprune.data.corpus import load_corpus
from nmtprune.data.labelled import load_examples
from nmtprune.data.options import DataOptions
from nmtprune.data.vocabulary import FairseqVocabulary
from nmtprune.errors import DataError, UsageError
from nmtprune.profile import ClassifierProfile, ModelProfile, PairFrame
from tests.support.data import write_dataset, write_dictionary
from tests.support.labelled import (
    LABELS,
    gpt2_files,
    prediction_bin,
    prediction_task,
    real_texts,
    wordpiece_folder,
    write_table,
)
from tests.support.subwords import pieces, sentencepiece_model

TEXTS = real_texts(80)
WORDS = 30
FRAME = PairFrame(init=0, separator=2)
PROFILE = ClassifierProfile(labels=3, symbols=WORDS + 5, max_positions=40, padding=1, frame=FRAME)
COLUMNS: dict[str, Any] = {"text_column": "premise,hypothesis", "label_column": "gold"}


def _rows(count: int = 12) -> list[tuple[str, str, str]]:
    return [(TEXTS[row], TEXTS[-row], LABELS[row % 3]) for row in range(1, count + 1)]


def _bert(folder: Path, **settings: Any) -> ClassifierProfile:
    wordpiece_folder(folder, TEXTS)
    symbols = len((folder / "vocab.txt").read_text().splitlines())
    values: dict[str, Any] = {
        "labels": 3,
        "symbols": symbols,
        "max_positions": 200,
        "padding": 0,
        "label_names": LABELS,
        "segments": 2,
    }
    return ClassifierProfile(**(values | settings), tokenizer=folder)


@pytest.mark.parametrize(
    ("pairs", "settings", "frame"),
    [
        (True, {}, FRAME),
        (False, {}, FRAME),
        (True, {"init_token": None, "separator_token": 3}, PairFrame(separator=3)),
        (True, {"shorten_method": "truncate", "max_positions": 11}, replace(FRAME, shorten="truncate")),
    ],
)
def test_binarized_texts_are_those_of_fairseqs_task(
    pairs: bool, settings: dict[str, Any], frame: PairFrame, tmp_path: Path
) -> None:
    folder = prediction_bin(tmp_path / "bin", pairs=pairs)
    task = prediction_task(folder, **settings)
    theirs = task.load_dataset("valid")
    model = replace(PROFILE, frame=frame, max_positions=settings.get("max_positions", 40))
    ours = load_examples(DataOptions(data_bin=folder), model)
    assert len(task.source_dictionary) == model.symbols
    assert len(ours) == len(theirs)
    batch = theirs.collater([theirs[place] for place in range(len(theirs))])
    own = ours.batch(np.arange(len(ours)))
    assert torch.equal(own.tokens, batch["net_input"]["src_tokens"])
    assert own.labels is not None
    assert torch.equal(own.labels, batch["target"].view(-1))
    assert own.segments is None
    assert ours.label_names == LABELS
    assert any("cut to the model's 11 positions" in note for note in ours.notes) == ("max_positions" in settings)
    assert set(ours.inputs) >= {str(folder / "label" / "valid.bin"), str(folder / "input0" / "dict.txt")}


def test_several_subsets_are_joined(tmp_path: Path) -> None:
    folder = prediction_bin(tmp_path / "bin", subsets="valid,test")
    whole = load_examples(DataOptions(data_bin=folder, subset="valid,test"), PROFILE)
    parts = [load_examples(DataOptions(data_bin=folder, subset=name), PROFILE) for name in ("valid", "test")]
    assert whole.targets.tolist() == [label for part in parts for label in part.targets.tolist()]
    assert [ids.tolist() for ids in whole.tokens] == [ids.tolist() for part in parts for ids in part.tokens]


def test_a_table_for_fairseq_is_split_and_framed_as_roberta_does(tmp_path: Path) -> None:
    """RoBERTa's encode of fairseq: <s> a </s> </s> b </s>, pieces by fairseq's own GPT2BPE."""
    from fairseq.data.encoders.gpt2_bpe import GPT2BPE

    encoder, merges = gpt2_files(tmp_path, TEXTS)
    folder = prediction_bin(tmp_path / "bin")
    (folder / "input0" / "dict.txt").write_text((tmp_path / "dict.txt").read_text())
    vocabulary = FairseqVocabulary.read(tmp_path / "dict.txt")
    rows = _rows(40)
    table = write_table(tmp_path / "dev.tsv", rows, ("premise", "hypothesis", "gold"))
    options = DataOptions(
        data_bin=folder, examples=table, gpt2_encoder_json=encoder, gpt2_vocab_bpe=merges, truncate=True, **COLUMNS
    )
    ours = load_examples(options, replace(PROFILE, symbols=len(vocabulary) + 1, max_positions=400))
    bpe = GPT2BPE(Namespace(gpt2_encoder_json=str(encoder), gpt2_vocab_bpe=str(merges)))
    for row, (first, second, label) in enumerate(rows):
        own = [vocabulary.encode(bpe.encode(text)).tolist() for text in (first, second)]
        assert ours.tokens[row].tolist() == [0, *own[0], 2, *own[1]][:400]
        assert ours.label_names[ours.targets[row]] == label


def test_a_table_for_fairseq_is_split_by_sentencepiece_too(tmp_path: Path) -> None:
    """The tokens are those of pieces as spm_encode writes them, in the dictionary of the data."""
    rows = _rows(40)
    sides = [[row[side] for row in rows] for side in (0, 1)]
    model = sentencepiece_model(tmp_path / "spm.model", [*sides[0], *sides[1]])
    split = [pieces(model, side) for side in sides]
    folder = prediction_bin(tmp_path / "bin")
    write_dictionary(
        tmp_path / "dict.txt", sorted({piece for side in split for line in side for piece in line.split()})
    )
    (folder / "input0" / "dict.txt").write_text((tmp_path / "dict.txt").read_text())
    vocabulary = FairseqVocabulary.read(tmp_path / "dict.txt")
    table = write_table(tmp_path / "dev.tsv", rows, ("premise", "hypothesis", "gold"))
    options = DataOptions(data_bin=folder, examples=table, sentencepiece=model, truncate=True, **COLUMNS)
    ours = load_examples(options, replace(PROFILE, symbols=len(vocabulary) + 1, max_positions=400))
    for row, (first, second) in enumerate(zip(*split, strict=True)):
        own = [vocabulary.encode(line).tolist() for line in (first, second)]
        assert ours.tokens[row].tolist() == [0, *own[0], 2, *own[1]][:400]


def test_a_table_is_read_plain_and_gzipped_with_labels_as_names_or_numbers(tmp_path: Path) -> None:
    model = _bert(tmp_path / "bert")
    names = ("premise", "id", "hypothesis", "gold")
    rows = [(first, str(row), second, label) for row, (first, second, label) in enumerate(_rows())]
    plain = write_table(tmp_path / "dev.tsv", rows, names)
    packed = tmp_path / "dev.tsv.gz"
    packed.write_bytes(gzip.compress(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n")))
    numbers = [(*row[:3], str(LABELS.index(row[3]))) for row in rows]
    third = write_table(tmp_path / "numbers.tsv", numbers, names)
    first, *others = (
        load_examples(DataOptions(examples=path, truncate=True, **COLUMNS), model) for path in (plain, packed, third)
    )
    assert [LABELS[label] for label in first.targets] == [row[3] for row in rows]
    assert first.segments is not None
    for other in others:
        assert other.targets.tolist() == first.targets.tolist()
        assert [ids.tolist() for ids in other.tokens] == [ids.tolist() for ids in first.tokens]
    assert first.describe()["columns"] == "premise,hypothesis,gold"
    assert first.describe()["texts"] == "pairs"


def test_a_name_that_is_a_number_is_the_name(tmp_path: Path) -> None:
    """Labels 1 to 3 of a task are not the numbers 0 to 2 of the model."""
    model = _bert(tmp_path / "bert", label_names=("1", "2", "3"))
    table = write_table(tmp_path / "dev.tsv", [("a b", str(1 + row % 3)) for row in range(6)], ("text", "label"))
    options = DataOptions(examples=table, text_column="text", label_column="label")
    assert load_examples(options, model).targets.tolist() == [0, 1, 2, 0, 1, 2]
    table.write_text(table.read_text() + "c\t0\n")
    with pytest.raises(DataError, match=r"labels that the model does not have \(1, 2, 3\): line 8: '0'"):
        load_examples(options, model)


def test_long_texts_are_refused_left_out_or_cut(tmp_path: Path) -> None:
    model = _bert(tmp_path / "bert", max_positions=16)
    table = write_table(tmp_path / "dev.tsv", [("a b", "no"), ("word " * 30, "yes"), ("c", "no")], ("text", "gold"))
    options = DataOptions(examples=table, text_column="text", label_column="gold")
    with pytest.raises(DataError) as raised:
        load_examples(options, model)
    assert "1 of 3 texts are longer than the model's 16 positions, first line 3 with" in str(raised.value)
    left = load_examples(replace(options, skip_invalid=True), model)
    assert (left.numbers.tolist(), left.left_out, left.targets.tolist()) == ([0, 2], 1, [0, 0])
    cut = load_examples(replace(options, truncate=True), model)
    assert (cut.tokens.sizes[1], cut.left_out, cut.describe()["cut_to"]) == (16, 0, 16)
    assert any("cut to the model's 16 positions: 1 of 3 texts" in note for note in cut.notes)


@pytest.mark.parametrize(("pairs", "said"), [(True, ["single", "pairs of"]), (False, []), (None, [])])
def test_single_texts_for_a_model_of_pairs_are_noted(pairs: bool | None, said: list[str], tmp_path: Path) -> None:
    table = write_table(tmp_path / "dev.tsv", [("a b", "no"), ("c", "yes")], ("text", "gold"))
    options = DataOptions(examples=table, text_column="text", label_column="gold")
    found = load_examples(options, _bert(tmp_path / "bert", pairs=pairs))
    assert [note.split(": ")[1] for note in found.notes] == (
        [f"{said[0]} texts, but the model says that it was trained on {said[1]} texts"] if said else []
    )


def test_one_label_is_noted(tmp_path: Path) -> None:
    model = _bert(tmp_path / "bert")
    table = write_table(tmp_path / "dev.tsv", [("a b", "no"), ("c", "no")], ("text", "gold"))
    found = load_examples(DataOptions(examples=table, text_column="text", label_column="gold"), model)
    assert any("all 2 texts have the label no" in note for note in found.notes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty: a table begins with the names"),
        ("premise\thypothesis\tgold\n", "empty: it has names of columns and no rows"),
        ("premise\tgold\na\tno\n", "columns: 'hypothesis' is missing (the first line names 'premise', 'gold')"),
        ("premise\tother\na\tno\n", "columns: 'hypothesis' is missing; 'gold' is missing (the first line names"),
        ("premise\tpremise\thypothesis\tgold\na\tb\tc\tno\n", "columns: 'premise' is there twice"),
        ("premise\thypothesis\tgold\na\tb\tno\na\tno\n\na\tb\tc\tno\n", "rows that do not have the 3 columns: line 3 "
         "has 2 fields; line 4 has 1 fields; line 5 has 4 fields"),
        ("premise\thypothesis\tgold\na\tb\tno\na\tb\tYES\na\tb\t\n", "labels that the model does not have (no, yes, "
         "maybe): line 3: 'YES'; line 4: ''"),
    ],
)  # fmt: skip
def test_tables_with_faults(content: str, message: str, tmp_path: Path) -> None:
    table = tmp_path / "dev.tsv"
    table.write_text(content)
    with pytest.raises(DataError) as raised:
        load_examples(DataOptions(examples=table, **COLUMNS), _bert(tmp_path / "bert"))
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("more labels", "label/dict.txt: has 3 labels, but the model has 4: of another task"),
        ("fewer labels", "labels that the model does not have (no, yes; texts are counted from 0): text "),
        ("dictionary", "input0/dict.txt: the dictionary of another model: 35 symbols (special ones included), but"),
        ("subset", "no subset 'test'; there are valid"),
        ("no labels", "label/valid: no labels: binarize them"),
        ("regression", "label/valid.label: numbers for regression"),
        ("counts", "label/valid: 2 labels, but"),
        ("two labels", "text 1 has 2 labels"),
        ("folder", "has no input0/dict.txt: name the folder of a task sentence_prediction"),
        ("separator", "pairs of texts, but the model was trained without a separator"),
    ],
)
def test_binarized_data_with_faults(fault: str, message: str, tmp_path: Path) -> None:
    folder = prediction_bin(tmp_path / "bin")
    _break(folder, fault)
    names = {"folder": folder / "label"}
    model = replace(PROFILE, **_MODELS.get(fault, {}))
    with pytest.raises(DataError) as raised:
        load_examples(DataOptions(data_bin=names.get(fault, folder), subset=_SUBSETS.get(fault)), model)
    assert message in str(raised.value)


_MODELS: dict[str, dict[str, Any]] = {
    "more labels": {"labels": 4},
    "fewer labels": {"labels": 2},
    "dictionary": {"symbols": 80},
    "separator": {"frame": PairFrame(init=0)},
}
_SUBSETS = {"subset": "test"}


def _break(folder: Path, fault: str) -> None:
    label = folder / "label" / "valid"
    if fault in ("no labels", "regression"):
        for path in (folder / "label").glob("valid.*"):
            path.unlink()
    if fault == "regression":
        label.with_suffix(".label").write_text("0.5\n" * 20)
    elif fault == "counts":
        write_dataset(label, [[4, 2], [5, 2]])
    elif fault == "two labels":
        write_dataset(label, [[4, 2], [5, 4, 2], *[[5, 2]] * 18])


def test_options_of_translations_and_of_classifiers_do_not_mix(tmp_path: Path) -> None:
    bert = _bert(tmp_path / "bert")
    table = write_table(tmp_path / "dev.tsv", _rows(2), ("premise", "hypothesis", "gold"))
    with pytest.raises(UsageError, match="`source`, `sentencepiece`: this model is a classifier: name a table"):
        load_examples(DataOptions(data_bin=tmp_path, source=table, sentencepiece=table), bert)
    with pytest.raises(UsageError, match="`data_bin`: a model of transformers splits texts by its own tokenizer"):
        load_examples(DataOptions(data_bin=tmp_path, examples=table, **COLUMNS), bert)
    with pytest.raises(UsageError, match="a classifier of transformers reads texts: name a table with `examples`"):
        load_examples(DataOptions(data_bin=tmp_path), bert)
    with pytest.raises(UsageError, match="needs `gpt2_encoder_json` FILE and `gpt2_vocab_bpe` FILE, or"):
        load_examples(DataOptions(data_bin=tmp_path, examples=table, **COLUMNS), PROFILE)
    with pytest.raises(UsageError, match="`examples` is for classifiers, and this model translates"):
        load_corpus(DataOptions(data_bin=tmp_path, examples=table, **COLUMNS), ModelProfile())
    with pytest.raises(UsageError, match="`examples` needs `text_column` NAME"):
        DataOptions(examples=table)
    with pytest.raises(UsageError, match="`label_column` needs `examples` FILE"):
        DataOptions(data_bin=tmp_path, label_column="gold")


@pytest.mark.parametrize(
    "option",
    [
        {"sentencepiece": Path("m")}, {"target_bpe_codes": Path("c")}, {"target_lang": "de"}, {"tokenizer": "moses"},
        {"post_process": "sentencepiece"}, {"lowercase_source": True}, {"lowercase_target": True}, {"crop_source": 5},
        {"source_prefix": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_what_a_classifier_has_no_use_for_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    (name,) = option
    with pytest.raises(UsageError, match=f"`{name}`: this model is a classifier.*leave these out"):
        load_examples(DataOptions(data_bin=tmp_path, **option), PROFILE)


def test_a_second_text_without_a_table_of_segments(tmp_path: Path) -> None:
    table = write_table(tmp_path / "dev.tsv", _rows(2), ("premise", "hypothesis", "gold"))
    options = DataOptions(examples=table, truncate=True, **COLUMNS)
    with pytest.raises(DataError, match="pairs of texts, but the model has 1 segment"):
        load_examples(options, _bert(tmp_path / "bert", segments=1))
    assert load_examples(options, _bert(tmp_path / "distilbert", segments=0)).segments is None
    with pytest.raises(DataError, match="the tokenizer of another model: a text has the id"):
        load_examples(options, _bert(tmp_path / "other", symbols=20))


def test_the_symbol_of_padding_in_a_text(tmp_path: Path) -> None:
    table = write_table(tmp_path / "dev.tsv", [("a b", "no"), ("a [PAD] b", "yes")], ("text", "gold"))
    options = DataOptions(examples=table, text_column="text", label_column="gold")
    with pytest.raises(DataError, match=r"texts with the symbol of padding: line 3"):
        load_examples(options, _bert(tmp_path / "bert"))
